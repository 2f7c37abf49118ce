"""One training step's losses: L = L_UBE (or plain cross-entropy) + weight x L_GAP."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import interpolate, normalize

from pipeline.boundaries import boundary_band, boundary_granularity
from pipeline.config.training import GapConfig, Method, TrainingConfig
from pipeline.labels import IGNORE
from training.data import Batch
from training.losses import pixel_cross_entropy, prototype_loss, uncertainty_weights
from training.networks import normalized
from training.photometric import distort
from training.prototypes import PrototypeBank, boundary_groups, even_subset


class LossTerms(NamedTuple):
    """Scalars, and each image's mean segmentation loss (B,), without gradient, for hardness-aware sampling."""

    total: torch.Tensor
    segmentation: torch.Tensor
    gap: torch.Tensor
    per_image: torch.Tensor


def train_step(
    model: nn.Module, batch: Batch, config: TrainingConfig, method: Method, bank: PrototypeBank, random: torch.Generator
) -> LossTerms:
    """Losses of a batch on the model's device. Updates the bank where the method uses it, and nothing else.

    `random` (CPU) chooses the boundary cells of L_GAP.
    """
    labels = batch.label.long()
    logits, features = model(network_input(distort(batch.image.float(), batch.distortion), config.scale))
    log_probabilities = interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False).log_softmax(dim=1)
    loss = pixel_cross_entropy(log_probabilities, labels)
    if method.ube:
        cell_px = labels.shape[1] / features.shape[2]
        band = boundary_band(labels, round(config.gap.sizes[-1] // 2 * cell_px))
        loss = loss * uncertainty_weights(log_probabilities.detach(), labels, band, config.ube.alpha)
    valid = (labels != IGNORE).sum(dim=(1, 2))
    segmentation = loss.sum() / valid.sum().clamp(min=1)
    per_image = loss.detach().sum(dim=(1, 2)) / valid.clamp(min=1)
    gap = _gap(features, labels, config.gap, bank, random) if method.gap else torch.zeros_like(segmentation)
    return LossTerms(segmentation + config.gap.weight * gap, segmentation, gap, per_image)


def network_input(image: torch.Tensor, scale: float) -> torch.Tensor:
    """RGB in 0..255, (B,3,H,W) float, resized by `scale` and normalized."""
    if scale != 1:
        size = [round(side * scale) for side in image.shape[2:]]
        image = interpolate(image, size, mode="bilinear", align_corners=False, antialias=scale < 1)
    return normalized(image)


def _gap(
    features: torch.Tensor, labels: torch.Tensor, config: GapConfig, bank: PrototypeBank, random: torch.Generator
) -> torch.Tensor:
    """Updates the bank with all boundary cells, then takes L_GAP on at most `max_pixels` of them."""
    cells = interpolate(labels[:, None].float(), features.shape[2:], mode="nearest-exact")[:, 0].long()
    groups = boundary_groups(cells, boundary_granularity(cells, config.sizes), len(config.sizes)).flatten()
    boundary = (groups >= 0).nonzero().squeeze(1)
    groups = groups[boundary]
    vectors = normalize(features.permute(0, 2, 3, 1).flatten(0, 2)[boundary], dim=1)
    bank.update(vectors, groups)
    chosen = even_subset(groups, config.max_pixels, random)
    return prototype_loss(vectors[chosen], groups[chosen], bank, config.temperature)
