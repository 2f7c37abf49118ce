"""The segmentation network: a MiT encoder (SegFormer) and DAFormer's context-aware fusion decoder."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn
from torch.nn.functional import interpolate
from transformers import SegformerConfig, SegformerModel

from pipeline.config.training import NetworkConfig
from pipeline.errors import UserError
from pipeline.labels import NUM_CLASSES

STRIDE = 4
"""Image px per feature cell, each side."""
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)
_CARD = """---
{{ card_data }}
---

A street-scene segmenter trained by flexseg, 19 Cityscapes classes: MiT encoder, DAFormer decoder.
Load it with `training.networks.Segmenter.from_pretrained(folder)`.
"""


def normalized(image: torch.Tensor) -> torch.Tensor:
    """Network input from RGB values in 0..255: ImageNet's mean and deviation. (B,3,H,W) float -> (B,3,H,W) float."""
    mean, std = (torch.tensor(values, device=image.device).view(3, 1, 1) for values in (_MEAN, _STD))
    return (image - mean) / std


class Segmenter(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="flexseg",
    pipeline_tag="image-segmentation",
    license="apache-2.0",
    model_card_template=_CARD,
):
    """Encoder, decoder and classifier. `save_pretrained(folder)` writes config.json and model.safetensors,
    `Segmenter.from_pretrained(folder)` reads them.

    encoder: a `SegformerConfig` as a dict; channels: of the decoder and its features.
    """

    def __init__(
        self, encoder: Mapping[str, Any], channels: int = 256, dropout: float = 0.1, classes: int = NUM_CLASSES
    ) -> None:
        super().__init__()
        config = SegformerConfig(**encoder)
        self.encoder = SegformerModel(config)
        self.decoder = FusionDecoder(config.hidden_sizes, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, classes, kernel_size=1)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalized image (B,3,H,W) -> logits (B,19,H/4,W/4) and fused features (B,D,H/4,W/4)."""
        features = self.decoder(self.encoder(image, output_hidden_states=True).hidden_states)
        return self.classifier(self.dropout(features)), features

    @classmethod
    def create(cls, config: NetworkConfig, seed: int) -> Self:
        """A network to be trained. `seed` gives all weights that `config.pretrained` does not."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if config.pretrained is None:
                return cls(_encoder_config(config), config.channels, config.dropout)
            encoder = _pretrained_encoder(config.pretrained, config.drop_path)
            segmenter = cls(encoder.config.to_dict(), config.channels, config.dropout)
            segmenter.encoder = encoder
            return segmenter


class FusionDecoder(nn.Module):
    """DAFormer's head: every stage embedded to `channels`, upsampled to stride 4, fused by a separable ASPP."""

    def __init__(self, sizes: Sequence[int], channels: int, dilations: Sequence[int] = (1, 6, 12, 18)) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Conv2d(size, channels, kernel_size=1) for size in sizes)
        stacked = channels * len(sizes)
        self.branches = nn.ModuleList(
            _convolution(stacked, channels, 1) if dilation == 1 else _separable(stacked, channels, dilation)
            for dilation in dilations
        )
        self.bottleneck = _convolution(channels * len(dilations), channels, 3)

    def forward(self, stages: Sequence[torch.Tensor]) -> torch.Tensor:
        """Four stages (B,C_i,H_i,W_i), strides 4 to 32 -> (B,D,H/4,W/4)."""
        size = stages[0].shape[2:]
        embedded = [embed(stage) for embed, stage in zip(self.embeddings, stages, strict=True)]
        upsampled = [interpolate(stage, size, mode="bilinear", align_corners=False) for stage in embedded]
        stacked = torch.cat(upsampled, dim=1)
        return torch.as_tensor(self.bottleneck(torch.cat([branch(stacked) for branch in self.branches], dim=1)))


def _convolution(inputs: int, outputs: int, kernel: int, *, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, groups=groups, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _separable(inputs: int, outputs: int, dilation: int) -> nn.Sequential:
    return nn.Sequential(
        _convolution(inputs, inputs, 3, dilation=dilation, groups=inputs), _convolution(inputs, outputs, 1)
    )


def _encoder_config(config: NetworkConfig) -> dict[str, Any]:
    return {
        "hidden_sizes": list(config.hidden_sizes),
        "depths": list(config.depths),
        "num_attention_heads": list(config.heads),
        "sr_ratios": list(config.reductions),
        "drop_path_rate": config.drop_path,
    }


def _pretrained_encoder(name: str, drop_path: float) -> SegformerModel:
    try:
        return SegformerModel.from_pretrained(name, drop_path_rate=drop_path)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"training.network.pretrained {name!r} cannot be loaded ({reason}): give a local folder or a Hub name of a"
            " SegFormer encoder, or null for random weights"
        ) from error
