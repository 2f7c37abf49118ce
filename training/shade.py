"""Style hallucination with style consistency (SHADE, Zhao et al., ECCV 2022).

A style is the mean and the deviation of each channel of the encoder's first stage. A new one is a random mixture of
basis styles; an image is trained on in both, and its two predictions should agree.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pipeline.config.training import ShadeConfig
from pipeline.seeding import random_generator
from training.ranks import gathered, rank, world_size

EPS = 1e-7


def style_of(features: torch.Tensor) -> torch.Tensor:
    """(B,2,C): mean and (unbiased) deviation of each channel of (B,C,h,w), without gradient."""
    features = features.detach().float()
    return torch.stack([features.mean(dim=(2, 3)), features.std(dim=(2, 3))], dim=1)


def restyled(features: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """Features (B,C,h,w) in other styles (B,2,C): normalized by their own, scaled and shifted to the new one."""
    mean, deviation = style_of(features)[..., None, None].unbind(dim=1)
    new_mean, new_deviation = styles[..., None, None].unbind(dim=1)
    return ((features - mean) / (deviation + EPS) * new_deviation + new_mean).to(features.dtype)


def farthest_points(points: torch.Tensor, count: int, start: int) -> torch.Tensor:
    """Indices (count,) of points (N,D), from `start` on each the farthest from those before it."""
    chosen, distances = [start], torch.full((len(points),), torch.inf, device=points.device)
    while len(chosen) < count:
        distances = distances.minimum((points - points[chosen[-1]]).square().sum(dim=1))
        chosen.append(int(distances.argmax()))
    return torch.tensor(chosen, device=points.device)


def style_divergence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Jensen-Shannon divergence of two predictions per pixel, (B,H,W). Both are log probabilities (B,C,H,W)."""
    mixture = torch.logaddexp(first, second) - math.log(2)
    return (first.exp() * (first - mixture) + second.exp() * (second - mixture)).sum(dim=1) / 2


class StyleBank(nn.Module):
    """The last styles seen, (memory,2,C), and the basis styles chosen from them, (K,2,C). Every rank holds the same."""

    memory: torch.Tensor
    basis: torch.Tensor
    seen: torch.Tensor
    steps: torch.Tensor

    def __init__(self, channels: int, config: ShadeConfig) -> None:
        super().__init__()
        size = config.basis or channels
        self.concentration = config.concentration or 1 / size
        self.refresh = config.refresh
        self.register_buffer("memory", torch.zeros(max(config.memory, size), 2, channels))
        self.register_buffer("basis", torch.zeros(size, 2, channels))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.full((), -1, dtype=torch.int64))  # since the basis was chosen; -1: never

    @torch.no_grad()
    def collect(self, styles: torch.Tensor, torch_rng: torch.Generator) -> None:
        """Remembers the batch's styles (B,2,C) and chooses the basis where that is due: as soon as there are enough
        styles (until then none are hallucinated, ours), then every `refresh` steps."""
        styles = gathered(styles)
        places = (self.seen + torch.arange(len(styles), device=styles.device)) % len(self.memory)
        self.memory[places] = styles
        self.seen += len(styles)
        filled = min(int(self.seen), len(self.memory))
        self.steps += self.steps >= 0
        if filled >= len(self.basis) and not 0 <= int(self.steps) < self.refresh:
            start = int(torch.randint(filled, (1,), generator=torch_rng))
            chosen = farthest_points(self.memory[:filled].flatten(1), len(self.basis), start)
            self.basis.copy_(self.memory[chosen])
            self.steps.zero_()

    def mixtures(self, count: int, torch_rng: torch.Generator) -> torch.Tensor:
        """(count,2,C) new styles for this rank's images; drawn for all ranks' images, so that ranks do not matter."""
        seed = int(torch.randint(2**62, (1,), generator=torch_rng))
        concentrations = [self.concentration] * len(self.basis)
        weights = random_generator("style mixtures", seed).dirichlet(concentrations, size=count * world_size())
        mine = torch.tensor(weights[rank() * count : (rank() + 1) * count]).to(self.basis)
        return torch.einsum("bk,ksc->bsc", mine, self.basis)

    @contextmanager
    def hallucinating(self, encoder: nn.Module, torch_rng: torch.Generator) -> Iterator[None]:
        """Within it, the encoder's first stage gives the first half of its batch, then the same in new styles. Every
        call of it (HRDA calls it twice) restyles an image to the same style."""
        new: list[torch.Tensor] = []

        def restyle(_: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            plain = output[: len(output) // 2]
            if not new:
                own = style_of(plain)
                self.collect(own, torch_rng)
                new.append(own if int(self.steps) < 0 else self.mixtures(len(plain), torch_rng))
            return torch.cat([plain, restyled(plain, new[0])])

        # first of all hooks, as transformers records the stages' outputs by hooks of its own
        handle = _first_stage(encoder).register_forward_hook(restyle, prepend=True)
        try:
            yield
        finally:
            handle.remove()


def _first_stage(encoder: nn.Module) -> nn.Module:
    return next(module for name, module in encoder.named_modules() if name.endswith("stages.0"))
