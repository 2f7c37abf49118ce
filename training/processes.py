"""How many processes train one segmenter, and whether they can share its batches. Imports no torch: a plan asks too."""

import os

from pipeline.config.machine import Machine
from pipeline.config.training import TrainingConfig
from pipeline.errors import UserError
from pipeline.work.devices import device_of


def started_processes() -> int:
    """How many processes torchrun or accelerate launch have started with this one; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_processes(config: TrainingConfig, machine: Machine) -> None:
    """UserError unless the processes that train together are as many as they should be, and can share a batch."""
    started = started_processes()
    if machine.processes > 1 and 1 < started != machine.processes:
        raise UserError(
            f"machine.processes is {machine.processes}, but {started} processes were started: leave it at 1 under"
            " torchrun or accelerate launch"
        )
    processes, possible = max(started, machine.processes), possible_processes(config)
    if processes in possible:
        return
    fewer = f"take {', '.join(map(str, possible))} processes, or " if possible else ""
    raise UserError(
        f"training.batch_size {config.batch_size} does not divide over {processes} processes in training.accumulation"
        f" {config.accumulation} parts: {fewer}make it a multiple of {processes * config.accumulation} (another model)"
    )


def possible_processes(config: TrainingConfig) -> list[int]:
    """How many processes can share the config's batches, ascending: each gets as many images as every other, in parts
    of one size. Empty where not even one process can."""
    images, rest = divmod(config.batch_size, config.accumulation)
    return [] if rest else [count for count in range(1, images + 1) if images % count == 0]


def check_devices(machine: Machine) -> None:
    """UserError if this machine lacks the GPUs that `machine` asks for."""
    import torch  # slow to import

    if device_of(machine).type == "cuda" and machine.processes > (gpus := torch.cuda.device_count()):
        raise UserError(f"machine.processes is {machine.processes}, but torch sees {gpus} GPUs here: lower it")
