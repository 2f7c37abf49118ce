"""Batch normalization over the batches of all ranks, so that two ranks at batch 1 compute what one does at batch 2.

torch's own `SyncBatchNorm` works on GPUs only; `RankBatchNorm` is the same in plain tensor operations, for the CPU.
"""

import warnings
from typing import Any

import torch
from torch import distributed, nn

from training.ranks import world_size


class RankBatchNorm(nn.BatchNorm2d):
    """Mean and variance of the images of all ranks, which must have equally many. Every rank takes part in backward."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B,C,H,W) -> (B,C,H,W); with running statistics in eval mode."""
        if not self.training:
            return super().forward(features)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        values = features.float()
        mean = _mean_over_ranks(values.mean(dim=(0, 2, 3), keepdim=True))
        centered = values - mean
        variance = _mean_over_ranks(centered.square().mean(dim=(0, 2, 3), keepdim=True))
        with torch.no_grad():
            pixels = values.numel() // values.shape[1] * world_size()
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.flatten(), self.momentum)
            self.running_var.lerp_(variance.flatten() * (pixels / (pixels - 1)), self.momentum)
        scale = self.weight.view(-1, 1, 1) * (variance + self.eps).rsqrt()
        return (centered * scale + self.bias.view(-1, 1, 1)).to(features.dtype)


def synchronize_norms(module: nn.Module, device: torch.device) -> None:
    """Replaces every `BatchNorm2d` inside `module` by one that takes its statistics over all ranks, with the same
    parameters and buffers under the same names. In a single process nothing changes."""
    if world_size() == 1:
        return
    # On CPUs convolutions leave gradients of one input channel in strides that mean the same: nothing is slower.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    for name, child in module.named_children():
        if not isinstance(child, nn.BatchNorm2d):
            synchronize_norms(child, device)
        elif device.type == "cuda":
            setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        else:
            norm = RankBatchNorm(child.num_features, child.eps, child.momentum)
            norm.__dict__.update(child.__dict__)  # its very parameters: an optimizer may hold them already
            setattr(module, name, norm)


class _Sum(torch.autograd.Function):
    """The sum over all ranks; each rank's gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor) -> torch.Tensor:
        return _summed(values)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _summed(gradient)


def _summed(values: torch.Tensor) -> torch.Tensor:
    total = values.contiguous().clone()
    distributed.all_reduce(total)
    return total


def _mean_over_ranks(values: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = _Sum.apply(values)
    return result / world_size()
