"""A small classifier that reads the weather off an image: it measures how well a generator obeys its prompts."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.seeding import derive_seed, random_generator
from pipeline.work.progress import Track, silent

WIDTHS = (16, 32, 64, 96)
BATCH = 32
LEARNING_RATE = 2e-3

Draw = Callable[[int], tuple[np.ndarray, int]]
"""Gives the k-th training image (H, W, 3) uint8 and its class."""


def weather_network(classes: int) -> nn.Sequential:
    """Four strided convolutions and a mean over the image: (B, 3, H, W) in [-1, 1] to (B, classes) logits."""
    layers: list[nn.Module] = []
    channels = 3
    for width in WIDTHS:
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def train_weather_network(
    draw: Draw, images: int, epochs: int, seed: int, *, progress: Track = silent
) -> nn.Sequential:
    """Train on the first `images` that `draw` gives, with flips, for `epochs`; seeded by `seed` alone."""
    drawn = [draw(k) for k in progress(range(images), total=images, description="Drawing weathers")]
    inputs = to_input(np.stack([image for image, _ in drawn]))
    classes = torch.tensor([c for _, c in drawn])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("weather network", seed))
        network = weather_network(int(classes.max()) + 1)
    steps = epochs * images // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    rng = random_generator("weather batches", seed)
    for _ in progress(range(steps), total=steps, description="Training the weather classifier"):
        rows = torch.from_numpy(rng.integers(0, images, BATCH))
        batch = inputs[rows]
        if rng.random() < 0.5:
            batch = batch.flip(-1)
        loss = nn.functional.cross_entropy(network(batch), classes[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def read_weather(network: nn.Module, images: Sequence[np.ndarray]) -> np.ndarray:
    """Class index (N,) of each image (H, W, 3) uint8."""
    return np.concatenate([network(to_input(image[None])).argmax(1).numpy() for image in images])


def to_input(images: np.ndarray) -> Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float in [-1, 1]."""
    return torch.tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1
