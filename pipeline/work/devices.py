"""Which device a stage runs on."""

import torch

from pipeline.config.machine import Machine
from pipeline.errors import UserError


def device_of(machine: Machine) -> torch.device:
    """The device that `machine.device` asks for; `auto` takes the GPU where there is one."""
    available = torch.cuda.is_available()
    if machine.device == "cuda" and not available:
        raise UserError("machine.device is 'cuda', but torch sees no GPU here: set it to 'auto' or 'cpu'")
    return torch.device("cuda" if available and machine.device != "cpu" else "cpu")
