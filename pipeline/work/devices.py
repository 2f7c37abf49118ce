"""Which device a stage runs on, and what it means when that device's memory is full."""

import os
from typing import TYPE_CHECKING

from pipeline.config.machine import Machine
from pipeline.config.precision import Precision
from pipeline.errors import TryAgainError, UserError, one_line

if TYPE_CHECKING:  # slow to import
    import torch

MOST_LOADERS = 8
"""Loader processes that `auto` gives a training process at most, as each holds batches in memory (ours)."""


def device_of(machine: Machine) -> "torch.device":
    """The device that `machine.device` asks for; `auto` takes the GPU where there is one."""
    import torch

    available = torch.cuda.is_available()
    if machine.device == "cuda" and not available:
        raise UserError("machine.device is 'cuda', but torch sees no GPU here: set it to 'auto' or 'cpu'")
    return torch.device("cuda" if available and machine.device != "cpu" else "cpu")


def loader_workers(machine: Machine) -> int:
    """Processes that load images for each training process, see `machine.loader_workers`."""
    if machine.loader_workers != "auto":
        return machine.loader_workers
    if device_of(machine).type == "cpu":
        return 0
    # Who started this process with others (torchrun, Ray, we) has told it how many they are on this machine.
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", machine.processes))
    return max(1, min(MOST_LOADERS, len(os.sched_getaffinity(0)) // processes))


def set_up_gpu(device: "torch.device", precision: Precision, *, autotune: bool) -> None:
    """How this process computes on a GPU from here on: whether products of float32 are rounded to TF32, and whether
    cuDNN times its ways to convolve. Nothing changes for other devices."""
    import torch

    if device.type != "cuda":
        return
    # The older names for it: torch.compile fails on the newer ones in several releases (pytorch#166387).
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    torch.backends.cudnn.benchmark = autotune


class MemoryFullError(TryAgainError):
    """The GPU's memory is full. `said`: torch's words on how much was asked for and how much there is."""

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(message)
        self.said = said or message

    def __reduce__(self) -> "tuple[type[MemoryFullError], tuple[str, str]]":
        return type(self), (str(self), self.said)  # it comes from worker processes


def out_of_memory(error: BaseException) -> MemoryFullError | None:
    """What a full GPU means to the user; None if `error` is another one. It may go well later: whatever else uses the
    GPU may have ended by then. Where fewer images at once help, who works on them has tried that before."""
    if isinstance(error, MemoryFullError):
        return error
    names = {(base.__module__.partition(".")[0], base.__name__) for base in type(error).__mro__}
    if ("torch", "OutOfMemoryError") not in names:
        return None
    said = one_line(error, 160)
    return MemoryFullError(
        f"the GPU's memory is full ({said}): end what else uses it, or lower the batch sizes; what was"
        " finished is kept",
        said,
    )
