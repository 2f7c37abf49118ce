"""The few reductions over the ranks of a data-parallel run; in a single process each is the identity."""

import torch
from torch import distributed


def world_size() -> int:
    """How many ranks train together."""
    return distributed.get_world_size() if _several() else 1


def rank() -> int:
    """Which of them this process is."""
    return distributed.get_rank() if _several() else 0


def summed(values: torch.Tensor) -> torch.Tensor:
    """The sum over all ranks, the same on each. Without gradient; `values` may be overwritten."""
    values = values.detach()
    if _several():
        distributed.all_reduce(values)
    return values


def gathered(values: torch.Tensor) -> torch.Tensor:
    """All ranks' values one after the other along the first axis, which must be equally long. Without gradient."""
    values = values.detach().contiguous()
    if not _several():
        return values
    parts = [torch.empty_like(values) for _ in range(world_size())]
    distributed.all_gather(parts, values)
    return torch.cat(parts)


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
