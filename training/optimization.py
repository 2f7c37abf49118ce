"""AdamW and its learning rate schedule, as DAFormer uses them."""

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from pipeline.config.training import OptimizerConfig
from training.networks import Segmenter


def build_optimizer(
    segmenter: Segmenter, config: OptimizerConfig, iterations: int
) -> tuple[torch.optim.AdamW, LambdaLR]:
    """The head learns `head_factor` times as fast as the encoder; norms are not decayed."""
    norms = {
        parameter
        for module in segmenter.modules()
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d))
        for parameter in module.parameters()
    }
    encoder = set(segmenter.encoder.parameters())
    groups = [
        {
            "params": [p for p in segmenter.parameters() if (p in encoder) == in_encoder and (p in norms) == is_norm],
            "lr": config.learning_rate * (1.0 if in_encoder else config.head_factor),
            "weight_decay": 0.0 if is_norm else config.weight_decay,
        }
        for in_encoder in (True, False)
        for is_norm in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=True)
    return optimizer, LambdaLR(optimizer, lambda iteration: rate_factor(iteration, iterations, config))


def rate_factor(iteration: int, iterations: int, config: OptimizerConfig) -> float:
    """Share of the learning rate at an iteration: polynomial decay times linear warm-up."""
    decay = max(0.0, 1 - iteration / iterations) ** config.power
    if iteration >= config.warmup:
        return decay
    return decay * (1 - (1 - iteration / config.warmup) * (1 - config.warmup_ratio))
