"""Schedulers, and the noise that an image starts from: its own, on any device and in any batch."""

import copy
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, LCMScheduler, UniPCMultistepScheduler
from torch import Tensor

from pipeline.config.generation import GenerationConfig, KeptNoise

SCHEDULERS = {
    "ddim": DDIMScheduler,
    "unipc": UniPCMultistepScheduler,
    "dpm-solver": DPMSolverMultistepScheduler,
    "lcm": LCMScheduler,
}


class Kept(NamedTuple):
    """What a second pass keeps of the first: after every step `cells` (B, 1, h, w) bool are replaced by `latents`
    (B, L, h, w), noised with the next of `noise` (B, L, h, w)."""

    latents: Tensor
    cells: Tensor
    noise: Iterator[Tensor]
    convention: KeptNoise = "scheduler"


def starting_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Unit normal latents (B, *shape), each from a CPU generator of its own: the same in every batch, on any device."""
    return draw(generators(seeds), shape)


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """A CPU generator for each seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw(random: Sequence[torch.Generator], shape: tuple[int, int, int]) -> Tensor:
    """Unit normal latents (B, *shape), the next of each generator."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in random])


def make_scheduler(scheduler: Any, config: GenerationConfig, device: torch.device) -> Any:
    """A fresh scheduler of the kind and with the steps that the config asks for, on the weights' noise schedule."""
    if config.scheduler == "weights":
        fresh = copy.deepcopy(scheduler)
    else:
        fresh = SCHEDULERS[config.scheduler].from_config(scheduler.config)
    fresh.set_timesteps(config.steps, device=device)
    return fresh


def draws_from(scheduler: Any, random: Sequence[torch.Generator] | None) -> dict[str, Any]:
    """`random` as an argument of `scheduler.step`, where it takes one."""
    return {"generator": random} if "generator" in inspect.signature(scheduler.step).parameters else {}


def noised(scheduler: Any, kept: Kept, step: int) -> Tensor:
    """The kept latents (B, L, h, w) as noisy as the other cells are after `step`, so clean after the last one.

    The convention `released` is that of the released code: noised to one training timestep before the step's own,
    much noisier than the cells around them.
    """
    noise = next(kept.noise)
    if kept.convention == "released":
        t = (scheduler.timesteps[step] - 1).clamp(min=0)
    elif step + 1 < len(scheduler.timesteps):
        t = scheduler.timesteps[step + 1]
    else:
        return kept.latents
    return scheduler.add_noise(kept.latents, noise, t.expand(len(noise)))
