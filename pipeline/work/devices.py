"""Which device a stage runs on, and what it means when that device's memory is full."""

from typing import TYPE_CHECKING

from pipeline.config.machine import Machine
from pipeline.errors import TryAgainError, UserError, one_line

if TYPE_CHECKING:  # slow to import
    import torch


def device_of(machine: Machine) -> "torch.device":
    """The device that `machine.device` asks for; `auto` takes the GPU where there is one."""
    import torch

    available = torch.cuda.is_available()
    if machine.device == "cuda" and not available:
        raise UserError("machine.device is 'cuda', but torch sees no GPU here: set it to 'auto' or 'cpu'")
    return torch.device("cuda" if available and machine.device != "cpu" else "cpu")


def out_of_memory(error: BaseException) -> TryAgainError | None:
    """What a full GPU means to the user; None if `error` is another one. It may go well later: whatever else uses the
    GPU may have ended by then. Where fewer images at once help, who works on them has tried that before."""
    names = {(base.__module__.partition(".")[0], base.__name__) for base in type(error).__mro__}
    if ("torch", "OutOfMemoryError") not in names:
        return None
    return TryAgainError(
        f"the GPU's memory is full ({one_line(error, 160)}): end what else uses it, or lower the batch sizes; what was"
        " finished is kept"
    )
