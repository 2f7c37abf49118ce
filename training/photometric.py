"""Photometric distortion of a batch, the same in every method's training (mmsegmentation's PhotoMetricDistortion)."""

from typing import NamedTuple

import numpy as np
import torch


class Distortion(NamedTuple):
    """One image's distortion; brightness in gray levels of 255, hue in degrees, the others as factors."""

    brightness: float
    contrast: float
    saturation: float
    hue: float
    contrast_first: float
    """1: contrast before saturation and hue, 0: after."""


def draw_distortion(rng: np.random.Generator) -> Distortion:
    """Each part acts on every second image: brightness +-32, contrast and saturation 0.5 to 1.5, hue +-36 degrees."""
    acts = rng.random(4) < 0.5
    brightness, contrast, saturation, hue = rng.uniform((-32, 0.5, 0.5, -36), (32, 1.5, 1.5, 36))
    return Distortion(
        brightness if acts[0] else 0.0,
        contrast if acts[1] else 1.0,
        saturation if acts[2] else 1.0,
        hue if acts[3] else 0.0,
        float(rng.random() < 0.5),
    )


def distort(image: torch.Tensor, distortions: torch.Tensor) -> torch.Tensor:
    """Applies row i of distortions (B,5), the fields of `Distortion`, to image i of (B,3,H,W) RGB in 0..255."""
    brightness, contrast, saturation, hue, contrast_first = distortions.to(image).T[:, :, None, None, None]
    image = (image + brightness).clamp(0, 255)
    image = torch.where(contrast_first > 0, (image * contrast).clamp(0, 255), image)
    image = _recolor(image, saturation, hue)
    return torch.where(contrast_first > 0, image, (image * contrast).clamp(0, 255))


def _recolor(image: torch.Tensor, saturation: torch.Tensor, hue: torch.Tensor) -> torch.Tensor:
    """Scales saturation and turns hue in HSV space at constant value. saturation, hue: (B,1,1,1)."""
    value, chroma, angle = _value_chroma_hue(image)
    chroma = torch.minimum(chroma * saturation, value)
    sector = torch.tensor((5.0, 3.0, 1.0), device=image.device).view(3, 1, 1)  # HSV to RGB, f(n) for n = 5, 3, 1
    position = (sector + angle + hue / 60) % 6
    return value - chroma * torch.minimum(position, 4 - position).clamp(0, 1)


def _value_chroma_hue(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B,1,H,W) each; hue in sixths of the circle."""
    red, green, blue = image.split(1, dim=1)
    value = image.amax(dim=1, keepdim=True)
    chroma = value - image.amin(dim=1, keepdim=True)
    scale = 1 / chroma.clamp(min=1e-6)
    angle = torch.where(
        value == red,
        (green - blue) * scale,
        torch.where(value == green, (blue - red) * scale + 2, (red - green) * scale + 4),
    )
    return value, chroma, angle % 6
