"""The losses of FLEX-Seg in the paper's terms: uncertainty boundary emphasis (UBE) and granular adaptive prototypes
(GAP). All functions are pure and work in the dtype they are given."""

import torch

from pipeline.data.labels import IGNORE
from training.prototypes import PrototypeBank


def pixel_cross_entropy(log_probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(B,H,W) cross-entropy, 0 at ignored pixels. log_probabilities: (B,C,H,W); labels: (B,H,W) int64."""
    return torch.nn.functional.nll_loss(log_probabilities, labels, ignore_index=IGNORE, reduction="none")


@torch.no_grad()
def pixel_entropy(log_probabilities: torch.Tensor) -> torch.Tensor:
    """(B,H,W) H = -sum_c p log p. log_probabilities: (B,C,H,W). Class by class: no copy of the whole tensor is made."""
    entropy = torch.zeros_like(log_probabilities[:, 0])
    for log_probability in log_probabilities.unbind(dim=1):
        entropy.addcmul_(log_probability.exp(), log_probability, value=-1)
    return entropy


@torch.no_grad()
def uncertainty_weights(
    log_probabilities: torch.Tensor, labels: torch.Tensor, band: torch.Tensor, alpha: float = 3.0, eps: float = 1e-6
) -> torch.Tensor:
    """UBE's pixel weights, (B,H,W): 1 + alpha sigmoid((H - mu) / (sigma + eps)) on the band, 1 off it, 0 if ignored.

    H is the pixel's entropy, mu and sigma its mean and deviation over the image's band. log_probabilities: (B,C,H,W);
    labels: (B,H,W) integer; band: (B,H,W) bool. No gradient flows through the weights.
    """
    entropy = pixel_entropy(log_probabilities)
    pixels = band.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    centered = entropy.sub_((entropy * band).sum(dim=(1, 2), keepdim=True) / pixels)
    deviation = ((centered * band).square_().sum(dim=(1, 2), keepdim=True) / pixels).sqrt()
    emphasis = centered.div_(deviation + eps).sigmoid_().mul_(alpha)
    return emphasis.mul_(band).add_(1).mul_(labels != IGNORE)


def prototype_losses(
    features: torch.Tensor, groups: torch.Tensor, bank: PrototypeBank, temperature: float = 0.07
) -> torch.Tensor:
    """(N,) weighted cross-entropy of each boundary feature against all seen prototypes; their mean is L_GAP.

    features: (N,D) unit vectors; groups: (N,) int64, all of them seen. Gradient flows to the features only.
    """
    unseen = bank.counts.flatten() == 0
    similarity = features @ bank.prototypes.flatten(0, 1).to(features.dtype).T / temperature
    log_probabilities = similarity.masked_fill(unseen, -torch.inf).log_softmax(dim=1)
    weights = bank.weights().flatten().to(features.dtype)[groups]
    return -weights * log_probabilities.gather(1, groups[:, None]).squeeze(1)
