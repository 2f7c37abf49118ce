"""ImageNet feature distance (DAFormer, equations 7 to 9): thing classes should keep the features that ImageNet gave."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d


class Seen(NamedTuple):
    """A picture that an encoder was given, (B,3,H,W), and its deepest features of it, (B,C,h,w)."""

    picture: torch.Tensor
    features: torch.Tensor


@contextmanager
def first_call(encoder: nn.Module) -> Iterator[list[Seen]]:
    """Within it, the list takes up the encoder's first call: that on the whole picture (under HRDA, on its context)."""
    calls: list[Seen] = []

    def remember(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        if not calls:
            calls.append(Seen(inputs[0], output.hidden_states[-1]))

    handle = encoder.register_forward_hook(remember)
    try:
        yield calls
    finally:
        handle.remove()


def thing_cells(labels: torch.Tensor, size: Sequence[int], classes: Sequence[int], share: float) -> torch.Tensor:
    """Cells of a (h,w) = `size` grid that one of the classes fills to at least `share`. labels: (B,H,W) integer train
    ids; ignored pixels count as another class. Returns (B,h,w) bool."""
    cells = torch.zeros(len(labels), *size, dtype=torch.bool, device=labels.device)
    for train_id in classes:
        cells |= adaptive_avg_pool2d((labels == train_id).float(), (size[0], size[1])) >= share
    return cells


def feature_distances(features: torch.Tensor, teacher: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """(N,) Euclidean distances over channels at the N marked cells. features, teacher: (B,C,h,w); cells: (B,h,w)."""
    difference = (features.float() - teacher.detach().float()).movedim(1, -1)
    return difference[cells].norm(dim=1)
