"""Granular adaptive prototypes: one unit vector per class and boundary granularity (FLEX-Seg, GAP).

A boundary pixel belongs to group class x G + granularity, G = number of granularities.
"""

import torch
from torch import nn
from torch.nn.functional import normalize

from training.ranks import summed


def boundary_groups(labels: torch.Tensor, granularity: torch.Tensor, granularities: int) -> torch.Tensor:
    """Group of each pixel, -1 off the boundary, (B,H,W) int64. labels: (B,H,W) integer; granularity: (B,H,W) int64."""
    return torch.where(granularity >= 0, labels.long() * granularities + granularity, -1)


def even_subset(groups: torch.Tensor, limit: int, torch_rng: torch.Generator) -> torch.Tensor:
    """Positions of at most `limit` of the (N,) groups, as many of each group as evenly as the groups allow (ours).

    Every group gives its pixels in random order, one per round, until the limit is reached.
    """
    if len(groups) <= limit:
        return torch.arange(len(groups), device=groups.device)
    # Pixels in random order within their group, groups one after the other; `rounds` is a pixel's place in its group.
    shuffled = torch.randperm(len(groups), generator=torch_rng).to(groups.device)
    order = shuffled[groups[shuffled].argsort(stable=True)]
    _, lengths = groups[order].unique_consecutive(return_counts=True)
    starts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    rounds = torch.arange(len(order), device=order.device) - starts
    # Round by round until the limit; a shuffle first, so that the last, incomplete round favors no group.
    last_round_is_fair = torch.randperm(len(groups), generator=torch_rng).to(groups.device)
    return order[last_round_is_fair][rounds[last_round_is_fair].argsort(stable=True)[:limit]]


class PrototypeBank(nn.Module):
    """The prototypes (C,G,D), unit vectors, and how many batches updated each, (C,G); both are buffers.

    Every rank of a distributed run holds the same bank: sums and counts are reduced before each update.
    """

    prototypes: torch.Tensor
    counts: torch.Tensor

    def __init__(
        self,
        channels: int,
        *,
        classes: int = 19,
        granularities: int = 3,
        momentum: float = 0.99,
        weight_power: float = 0.5,
        weight_bounds: tuple[float, float] = (0.5, 2.0),
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.weight_power = weight_power
        self.weight_bounds = weight_bounds
        self.register_buffer("prototypes", torch.zeros(classes, granularities, channels))
        self.register_buffer("counts", torch.zeros(classes, granularities, dtype=torch.int64))

    @torch.no_grad()
    def update(self, features: torch.Tensor, groups: torch.Tensor) -> None:
        """p <- m p + (1 - m) mean f, normalized; a prototype's first sighting copies the mean (ours).

        features: (N,D) unit vectors of the batch's boundary pixels; groups: (N,) int64.
        """
        bank, counts = self.prototypes.flatten(0, 1), self.counts.flatten()  # views: written in place below
        # Sums and counts travel in one tensor: one reduction over the ranks.
        totals = bank.new_zeros(len(bank), bank.shape[1] + 1)
        totals[:, :-1].index_add_(0, groups, features.detach().to(bank.dtype))
        totals[:, -1] = torch.bincount(groups, minlength=len(bank))
        totals = summed(totals)
        pixels = totals[:, -1]
        mean = totals[:, :-1] / pixels.clamp(min=1)[:, None]
        moved = torch.where((counts > 0)[:, None], self.momentum * bank + (1 - self.momentum) * mean, mean)
        # Groups that the batch does not show keep their prototype and their count.
        bank.copy_(torch.where((pixels > 0)[:, None], normalize(moved, dim=1), bank))
        counts += pixels > 0

    def weights(self) -> torch.Tensor:
        """(C,G) loss weights, larger for rarely updated prototypes: (mean count / count)^power within bounds, then
        scaled to mean 1 over the seen prototypes (ours); 0 for unseen ones."""
        seen = self.counts > 0
        counts = self.counts.to(self.prototypes.dtype)
        weights = (counts[seen].mean() / counts.clamp(min=1)).pow(self.weight_power).clamp(*self.weight_bounds)
        return torch.where(seen, weights / weights[seen].mean(), 0.0)
