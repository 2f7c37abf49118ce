"""In what parts a batch passes through the network, and how it does so in smaller ones when a GPU's memory is full."""

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

from pipeline.config.training import TrainingConfig
from pipeline.work.devices import MemoryFullError, out_of_memory
from pipeline.work.in_flight import InFlight
from training.ranks import world_size

R = TypeVar("R")

SMALLER = "take training.precision bf16, a smaller training.crop or a smaller encoder"


def images_at_once(config: TrainingConfig) -> InFlight:
    """The images that this process passes through the network together, as `training.accumulation` has it."""
    share = config.batch_size // world_size()
    option = (
        "as a larger training.accumulation: every part has its own batch statistics and prototype update, which gives"
        " other weights; log.jsonl says from where on"
    )
    return InFlight("image", math.ceil(share / config.accumulation), option, SMALLER)


def in_parts(step: Callable[[int], R], in_flight: InFlight, changed: Iterable[torch.Tensor]) -> R:
    """`step(size)`, which takes the gradients of a batch from parts of `size` images; done again in parts of half the
    size when the GPU's memory is full. `changed` are the tensors that a step writes to besides the gradients.

    MemoryFullError where one image does not fit, and in any of several processes: the others wait for it inside the
    network, so they can't begin the step anew together.
    """
    tensors = [] if in_flight.most == 1 or world_size() > 1 else list(changed)
    before = [tensor.clone() for tensor in tensors]
    while True:
        size = in_flight.most
        try:
            return step(size)
        except Exception as error:
            full = out_of_memory(error)
            if full is not None and world_size() > 1 and size > 1:
                raise MemoryFullError(
                    f"the GPU of a training process is full with {size} images at once ({full.said}): raise"
                    " training.accumulation or machine.processes; the last checkpoint is kept"
                ) from error
            if not in_flight.halved(error, size):
                raise
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
