"""A trained segmenter as a plain function from picture to label map."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate, pad

from training.hrda import GRID
from training.networks import Segmenter, network_input
from training.stored import load_segmenter

LEAST = 32
"""px of the input, each side, below which a MiT's first stage has less than one key and value (HRDA halves them)."""


def predictor(folder: Path, scale: float, device: str) -> Callable[[np.ndarray], np.ndarray]:
    """Loads `folder` (of `Segmenter.save_pretrained`) and gives `predict`: (H,W,3) uint8 RGB -> (H,W) uint8 train ids.

    The network sees the image at `scale` times its size; the labels have the image's own size.
    """
    segmenter = load_segmenter(folder, device)
    return lambda image: predict_labels(segmenter, image, scale)


def load_network(folder: Path, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Loads `folder` and gives the bare network: (B,3,H,W) float RGB in 0..255, any size -> logits (B,19,h,w)."""
    segmenter = load_segmenter(folder, device)
    return lambda image: _logits(segmenter, network_input(image, 1.0))


@torch.inference_mode()
def predict_labels(segmenter: Segmenter, image: np.ndarray, scale: float) -> np.ndarray:
    """(H,W,3) uint8 RGB -> (H,W) uint8 train ids. The segmenter must be in eval mode."""
    device = next(segmenter.parameters()).device
    pixels = torch.tensor(image, device=device).movedim(2, 0)[None].float()
    full = _resized(_logits(segmenter, network_input(pixels, scale)).float(), image.shape[:2])
    return np.asarray(full.argmax(dim=1)[0].to(torch.uint8).cpu())


def _logits(segmenter: Segmenter, image: torch.Tensor) -> torch.Tensor:
    """Network input (B,3,H,W) of any size -> logits (B,19,h,w). Where the network can't take the size, the border is
    repeated up to one that it can, and cut off again."""
    height, width = image.shape[2:]
    least, grid = (LEAST, 1) if segmenter.hrda is None else (2 * LEAST, GRID)
    below, beside = (max(least, side + -side % grid) - side for side in (height, width))
    if below == beside == 0:
        return torch.as_tensor(segmenter(image).logits)
    padded = pad(image, (0, beside, 0, below), mode="replicate")
    return _resized(segmenter(padded).logits, padded.shape[2:])[:, :, :height, :width]


def _resized(logits: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return interpolate(logits, list(size), mode="bilinear", align_corners=False)
