"""DAFormer's context-aware fusion decoder (CVPR 2022, section 3.3) and HRDA's scale attention (ECCV 2022)."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import interpolate


class FusionDecoder(nn.Module):
    """DAFormer's head: every stage embedded to `channels`, upsampled to stride 4, fused by a separable ASPP."""

    def __init__(self, sizes: Sequence[int], channels: int, dilations: Sequence[int] = (1, 6, 12, 18)) -> None:
        super().__init__()
        self.embeddings = _embeddings(sizes, channels)
        stacked = channels * len(sizes)
        self.branches = nn.ModuleList(
            _convolution(stacked, channels, 1) if dilation == 1 else _separable(stacked, channels, dilation)
            for dilation in dilations
        )
        self.bottleneck = _convolution(channels * len(dilations), channels, 3)

    def forward(self, stages: Sequence[torch.Tensor]) -> torch.Tensor:
        """Four stages (B,C_i,H_i,W_i), strides 4 to 32 -> (B,D,H/4,W/4)."""
        stacked = _stacked(self.embeddings, stages)
        return torch.as_tensor(self.bottleneck(torch.cat([branch(stacked) for branch in self.branches], dim=1)))


class ScaleAttention(nn.Module):
    """HRDA's attention: how much to trust the detail over the context, per class and place. A SegFormer head."""

    def __init__(self, sizes: Sequence[int], channels: int, dropout: float, classes: int) -> None:
        super().__init__()
        self.embeddings = _embeddings(sizes, channels)
        self.fusion = _convolution(channels * len(sizes), channels, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, classes, kernel_size=1)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def forward(self, stages: Sequence[torch.Tensor]) -> torch.Tensor:
        """Stages of the context (B,C_i,H_i,W_i) -> weights in [0,1], (B,classes,H/4,W/4) of the context's size."""
        fused = self.fusion(_stacked(self.embeddings, stages))
        return torch.as_tensor(self.classifier(self.dropout(fused)).sigmoid())


def start_by_fan_out(module: nn.Module) -> None:
    """Draws the weights of the module's convolutions with norm and ReLU as mmcv does: Kaiming's normal distribution,
    deviation sqrt(2 / fan-out), where a depthwise convolution's fan-out counts all of its channels."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.bias is None:  # the embeddings, which are linear layers there, have one
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def _embeddings(sizes: Sequence[int], channels: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(size, channels, kernel_size=1) for size in sizes)


def _stacked(embeddings: nn.ModuleList, stages: Sequence[torch.Tensor]) -> torch.Tensor:
    """Every stage embedded and upsampled to the first one's size: (B,sum of D,H/4,W/4)."""
    embedded = [embed(stage) for embed, stage in zip(embeddings, stages, strict=True)]
    size = embedded[0].shape[2:]
    return torch.cat([interpolate(stage, size, mode="bilinear", align_corners=False) for stage in embedded], dim=1)


def _convolution(inputs: int, outputs: int, kernel: int, *, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, groups=groups, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _separable(inputs: int, outputs: int, dilation: int) -> nn.Sequential:
    return nn.Sequential(
        _convolution(inputs, inputs, 3, dilation=dilation, groups=inputs), _convolution(inputs, outputs, 1)
    )
