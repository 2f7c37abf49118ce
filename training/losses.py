"""The losses of FLEX-Seg in the paper's terms: uncertainty boundary emphasis (UBE) and granular adaptive prototypes
(GAP). All functions are pure and work in the dtype they are given."""

import torch

from pipeline.labels import IGNORE
from training.prototypes import PrototypeBank


def pixel_cross_entropy(log_probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(B,H,W) cross-entropy, 0 at ignored pixels. log_probabilities: (B,C,H,W); labels: (B,H,W) int64."""
    return torch.nn.functional.nll_loss(log_probabilities, labels, ignore_index=IGNORE, reduction="none")


@torch.no_grad()
def uncertainty_weights(
    log_probabilities: torch.Tensor, labels: torch.Tensor, band: torch.Tensor, alpha: float = 3.0, eps: float = 1e-6
) -> torch.Tensor:
    """UBE's pixel weights, (B,H,W): 1 + alpha sigmoid((H - mu) / (sigma + eps)) on the band, 1 off it, 0 if ignored.

    H is the pixel's entropy, mu and sigma its mean and deviation over the image's band. log_probabilities: (B,C,H,W);
    labels: (B,H,W) int64; band: (B,H,W) bool. No gradient flows through the weights.
    """
    entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=1)
    pixels = band.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    mean = (entropy * band).sum(dim=(1, 2), keepdim=True) / pixels
    deviation = (((entropy - mean) ** 2 * band).sum(dim=(1, 2), keepdim=True) / pixels).sqrt()
    emphasis = alpha * torch.sigmoid((entropy - mean) / (deviation + eps))
    return torch.where(band, 1 + emphasis, 1.0) * (labels != IGNORE)


def prototype_loss(
    features: torch.Tensor, groups: torch.Tensor, bank: PrototypeBank, temperature: float = 0.07
) -> torch.Tensor:
    """L_GAP, a scalar: weighted cross-entropy of boundary features against all seen prototypes; 0 without pixels.

    features: (N,D) unit vectors; groups: (N,) int64, all of them seen. Gradient flows to the features only.
    """
    if len(groups) == 0:
        return features.sum() * 0  # keeps the graph, so that every rank runs the same backward pass
    unseen = bank.counts.flatten() == 0
    similarity = features @ bank.prototypes.flatten(0, 1).to(features.dtype).T / temperature
    log_probabilities = similarity.masked_fill(unseen, -torch.inf).log_softmax(dim=1)
    weights = bank.weights().flatten().to(features.dtype)[groups]
    return -(weights * log_probabilities.gather(1, groups[:, None]).squeeze(1)).mean()
