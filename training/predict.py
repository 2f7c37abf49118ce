"""A trained segmenter as a plain function from picture to label map."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from pipeline.errors import UserError
from training.networks import Segmenter
from training.step import network_input


def predictor(folder: Path, scale: float, device: str) -> Callable[[np.ndarray], np.ndarray]:
    """Loads `folder` (of `Segmenter.save_pretrained`) and gives `predict`: (H,W,3) uint8 RGB -> (H,W) uint8 train ids.

    The network sees the image at `scale` times its size; the labels have the image's own size.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no trained segmenter (config.json, model.safetensors): train one first")
    with contextlib.redirect_stdout(None):  # huggingface_hub prints where it loads from
        segmenter = Segmenter.from_pretrained(folder).to(device).eval()
    return lambda image: predict_labels(segmenter, image, scale)


@torch.inference_mode()
def predict_labels(segmenter: Segmenter, image: np.ndarray, scale: float) -> np.ndarray:
    """(H,W,3) uint8 RGB -> (H,W) uint8 train ids. The segmenter must be in eval mode."""
    device = next(segmenter.parameters()).device
    pixels = torch.tensor(image, device=device).movedim(2, 0)[None].float()
    logits, _ = segmenter(network_input(pixels, scale))
    full = interpolate(logits.float(), image.shape[:2], mode="bilinear", align_corners=False)
    return np.asarray(full.argmax(dim=1)[0].to(torch.uint8).cpu())
