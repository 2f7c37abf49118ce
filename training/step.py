"""One training step's losses: L = L_UBE (or plain cross-entropy) + weight x L_GAP, and the options beside them.

Every mean is over the whole batch of all ranks: a rank returns its own sum times the number of ranks over the count of
all. So the mean of gradients that data parallelism takes is the gradient of one process that has the whole batch.

A batch without a labeled pixel has the loss 0 and no gradient: it moves the weights by what the optimizer does on its
own (momentum, decay), and counts as a loss of 0 for the hardness of its images.
"""

from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import interpolate, normalize

from pipeline.config.training import FeatureDistanceConfig, GapConfig, Method, TrainingConfig
from pipeline.data.boundaries import boundary_band, boundary_granularity
from pipeline.data.labels import IGNORE
from training.data import Batch
from training.feature_distance import Seen, feature_distances, first_call, thing_cells
from training.hrda import CropBox, draw_box
from training.losses import pixel_cross_entropy, prototype_losses, uncertainty_weights
from training.networks import NetworkOutput, network_input
from training.photometric import distort
from training.prototypes import PrototypeBank, boundary_groups, even_subset
from training.ranks import gathered, rank, summed, world_size
from training.shade import style_divergence
from training.state import StepState


class LossTerms(NamedTuple):
    """Scalars, their weights not yet in them except in `total`; and each image's mean segmentation loss (B,), without
    gradient, for hardness-aware sampling. The mean of a scalar over the ranks is that of the whole batch."""

    total: torch.Tensor
    segmentation: torch.Tensor
    gap: torch.Tensor
    consistency: torch.Tensor
    distance: torch.Tensor
    per_image: torch.Tensor


def train_step(
    model: nn.Module, batch: Batch, config: TrainingConfig, method: Method, state: StepState, torch_rng: torch.Generator
) -> LossTerms:
    """Losses of this rank's images, on the model's device. Fills the state's banks where the method uses them.

    `torch_rng` (CPU, the same on every rank) draws what the step is free in. Ranks must hold equally many images.
    """
    # 1. One forward pass, with hooks on the encoder for what looks into it.
    label, picture = batch.label, network_input(distort(batch.image.float(), batch.distortion), config.scale)
    with ExitStack() as hooks:
        seen = hooks.enter_context(first_call(state.encoder)) if method.feature_distance else []
        if state.styles is not None:
            # SHADE: each picture goes through twice, and the second half gets new styles after the first stage.
            hooks.enter_context(state.styles.hallucinating(state.encoder, torch_rng))
            label, picture = label.repeat(2, 1, 1), picture.repeat(2, 1, 1, 1)
        box = _detail_box(config, picture, torch_rng)
        output: NetworkOutput = model(picture) if box is None else model(picture, box)
    # 2. The segmentation loss, of HRDA for the fused prediction and the detail crop.
    log_probabilities = _log_probabilities(output.logits, label)
    segmentation, per_image = _segmentation(log_probabilities, label, config, method, output)
    if box is not None:
        segmentation = _with_detail(segmentation, output, label, config, box)
    # 3. What the method adds; what it does not use stays 0, so that every log has the same columns.
    gap = consistency = distance = torch.zeros_like(segmentation)
    if method.gap:
        plain = output.features[: len(batch.label)]  # without hallucinated styles (ours)
        gap = _gap(plain, batch.label, config.gap, state.bank, torch_rng)
    if method.shade:
        consistency = style_divergence(*log_probabilities.chunk(2)).mean()
    if state.teacher is not None:
        distance = _distance(seen[0], state.teacher, label, config)
    total = segmentation + config.gap.weight * gap
    total = total + config.shade.weight * consistency + config.feature_distance.weight * distance
    return LossTerms(total, segmentation, gap, consistency, distance, per_image[: len(batch.label)])


def _segmentation(
    log_probabilities: torch.Tensor, label: torch.Tensor, config: TrainingConfig, method: Method, output: NetworkOutput
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy, weighted by UBE where the method says so: its mean, and each image's own without gradient."""
    loss = pixel_cross_entropy(log_probabilities, label.long())
    if method.ube:
        # The band is as wide in px as the thickest band of the prototypes is in feature cells.
        cell_px = label.shape[1] / output.features.shape[2]
        band = boundary_band(label, round(config.gap.sizes[-1] // 2 * cell_px))
        loss = loss * uncertainty_weights(log_probabilities.detach(), label, band, config.ube.alpha, config.ube.eps)
    valid = (label != IGNORE).sum(dim=(1, 2))
    per_image = loss.detach().sum(dim=(1, 2)) / valid.clamp(min=1)
    return _mean(loss, valid.sum()), per_image


def _with_detail(
    fused: torch.Tensor, output: NetworkOutput, label: torch.Tensor, config: TrainingConfig, box: CropBox
) -> torch.Tensor:
    """HRDA's loss: (1 - weight) x that of the fused output + weight x plain cross-entropy of the detail crop."""
    assert config.network.hrda is not None and output.detail is not None
    weight, (rows, columns) = config.network.hrda.detail_weight, box.at(1 / config.scale)
    label = label[:, rows, columns]
    loss = pixel_cross_entropy(_log_probabilities(output.detail, label), label.long())
    return (1 - weight) * fused + weight * _mean(loss, (label != IGNORE).sum())


def _gap(
    features: torch.Tensor, label: torch.Tensor, config: GapConfig, bank: PrototypeBank, torch_rng: torch.Generator
) -> torch.Tensor:
    """Updates the bank with all boundary cells, then takes L_GAP on at most `max_pixels` of all ranks' cells."""
    cells = interpolate(label[:, None], features.shape[2:], mode="nearest-exact")[:, 0]
    groups = boundary_groups(cells, boundary_granularity(cells, config.sizes), len(config.sizes)).flatten()
    boundary = (groups >= 0).nonzero().squeeze(1)
    vectors = normalize(features.permute(0, 2, 3, 1).flatten(0, 2)[boundary], dim=1)
    bank.update(vectors, groups[boundary])
    # All ranks draw the same subset of all cells (same generator), and each keeps those that are its own.
    everywhere = gathered(groups)
    candidates = (everywhere >= 0).nonzero().squeeze(1)
    chosen = candidates[even_subset(everywhere[candidates], config.max_pixels, torch_rng)] - rank() * len(groups)
    mine = chosen[(chosen >= 0) & (chosen < len(groups))]
    positions = torch.searchsorted(boundary, mine)
    losses = prototype_losses(vectors[positions], groups[mine], bank, config.temperature)
    return losses.sum() * (world_size() / max(len(chosen), 1))


def _distance(seen: Seen, teacher: nn.Module, label: torch.Tensor, config: TrainingConfig) -> torch.Tensor:
    """DAFormer's feature distance. With hallucinated styles both halves are compared with the plain pictures."""
    half_precision = config.precision == "bf16"
    with torch.no_grad(), torch.autocast(seen.picture.device.type, torch.bfloat16, enabled=half_precision):
        wanted = teacher(seen.picture, output_hidden_states=True).hidden_states[-1]
    settings: FeatureDistanceConfig = config.feature_distance
    cells = thing_cells(label, wanted.shape[2:], settings.classes, settings.share)
    distances = feature_distances(seen.features, wanted, cells)
    return _mean(distances, cells.sum())


def _detail_box(config: TrainingConfig, picture: torch.Tensor, torch_rng: torch.Generator) -> CropBox | None:
    if config.network.hrda is None:
        return None
    return draw_box((picture.shape[2], picture.shape[3]), config.network.hrda.detail_crop, torch_rng)


def _log_probabilities(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """(B,C,h,w) logits -> (B,C,H,W) log probabilities at the label's size."""
    return interpolate(logits, label.shape[1:], mode="bilinear", align_corners=False).log_softmax(dim=1)


def _mean(losses: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """The sum of this rank's losses times the number of ranks over the count of all ranks."""
    return losses.sum() * (world_size() / summed(count).clamp(min=1))
