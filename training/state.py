"""What training steps share: the banks that they fill, and the networks that they look into."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from pipeline.config.training import Method, TrainingConfig
from training.networks import Segmenter
from training.prototypes import PrototypeBank
from training.shade import StyleBank


@dataclass(frozen=True)
class StepState:
    """`bank` and `styles` are filled by steps and belong into a checkpoint; `encoder` is the segmenter's own, `teacher`
    the frozen copy that the feature distance is taken from."""

    bank: PrototypeBank
    encoder: nn.Module
    styles: StyleBank | None
    teacher: nn.Module | None

    @classmethod
    def create(cls, config: TrainingConfig, method: Method, segmenter: Segmenter) -> Self:
        """The state before the first step. `segmenter` must still hold the weights that training starts from."""
        bank = PrototypeBank(
            config.network.channels,
            granularities=len(config.gap.sizes),
            momentum=config.gap.momentum,
            weight_power=config.gap.weight_power,
            weight_bounds=config.gap.weight_bounds,
        )
        styles = StyleBank(segmenter.encoder.config.hidden_sizes[0], config.shade) if method.shade else None
        teacher = None
        if method.feature_distance:
            teacher = copy.deepcopy(segmenter.encoder).eval().requires_grad_(False)
        return cls(bank, segmenter.encoder, styles, teacher)

    def to(self, device: torch.device) -> Self:
        """Moves all of it, in place."""
        for module in self._modules() + ([self.teacher] if self.teacher is not None else []):
            module.to(device)
        return self

    def buffers(self) -> list[torch.Tensor]:
        """What steps write to."""
        return [buffer for module in self._modules() for buffer in module.buffers()]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {type(module).__name__: module.state_dict() for module in self._modules()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up a checkpoint's `state_dict()`."""
        for module in self._modules():
            module.load_state_dict(state[type(module).__name__])

    def _modules(self) -> list[nn.Module]:
        return [module for module in (self.bank, self.styles) if module is not None]
