"""Photometric distortion against Python's colorsys."""

import colorsys

import numpy as np
import pytest
import torch

from pipeline.seeding import random_generator
from training.photometric import Distortion, distort, draw_distortion

PIXELS = np.array(
    [[200, 30, 60], [10, 220, 90], [40, 40, 250], [128, 128, 128], [0, 0, 0], [255, 255, 255], [90, 200, 200]]
)


def _apply(distortion: Distortion) -> np.ndarray:
    image = torch.tensor(PIXELS.T[None, :, None], dtype=torch.float64)
    return distort(image, torch.tensor([distortion], dtype=torch.float64))[0, :, 0].T.numpy()


@pytest.mark.parametrize("hue", [0.0, 36.0, -36.0, 17.0])
@pytest.mark.parametrize("saturation", [1.0, 0.5, 1.5])
def test_saturation_and_hue_act_in_hsv(saturation: float, hue: float) -> None:
    wanted = []
    for red, green, blue in PIXELS / 255:
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        wanted.append(colorsys.hsv_to_rgb((h + hue / 360) % 1, min(1.0, s * saturation), v))
    np.testing.assert_allclose(_apply(Distortion(0, 1, saturation, hue, 1)), np.array(wanted) * 255, atol=1e-6)


@pytest.mark.parametrize("first", [0.0, 1.0])
def test_brightness_then_contrast_within_range(first: float) -> None:
    wanted = ((PIXELS + 20).clip(0, 255) * 1.4).clip(0, 255)
    np.testing.assert_allclose(_apply(Distortion(20, 1.4, 1, 0, first)), wanted, atol=1e-6)


def test_each_image_of_a_batch_has_its_own_distortion() -> None:
    random = random_generator("test")
    rows = torch.tensor([draw_distortion(random) for _ in range(4)])
    images = torch.rand(4, 3, 5, 5) * 255
    alone = torch.cat([distort(images[i : i + 1], rows[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(distort(images, rows), alone)


def test_every_part_acts_on_about_half_of_the_images() -> None:
    random = random_generator("test")
    rows = np.array([draw_distortion(random) for _ in range(2000)])
    np.testing.assert_allclose((rows[:, :4] != [0, 1, 1, 0]).mean(axis=0), 0.5, atol=0.05)
    assert (np.abs(rows - [0, 1, 1, 0, 0]).max(axis=0) <= [32, 0.5, 0.5, 36, 1]).all()
