"""What FLEX-Seg costs over plain cross-entropy, how fast its bands and weights are, and whether the loader keeps up.

    .venv/bin/python -m benchmarks.training [--quick] [--device cpu|cuda] [--scale demo|mit-b5|hrda]

Writes results/training_step.json, training_bands.json and training_loader.json. Without --scale every scale that the
device is meant for is measured; scales that want a GPU are 'not yet measured' on a CPU.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from accelerate.utils import convert_outputs_to_fp32
from PIL import Image

from benchmarks.bands import measure_bands
from benchmarks.record import NOT_MEASURED, Row, record
from pipeline.config.experiment import load_config
from pipeline.config.training import Method, TrainingConfig
from pipeline.data.datasets import Scene
from pipeline.data.labels import TRAIN_IDS
from pipeline.data.statistics import class_pixels
from pipeline.seeding import random_generator
from pipeline.toytown import render_source
from training.data import Batch, TrainingSet, loader_rate
from training.draws import Drawer, RareClassSampler
from training.networks import Segmenter
from training.optimization import build_optimizer
from training.pools import ScenePool
from training.state import StepState
from training.step import train_step

METHODS = {
    "cross-entropy": Method(),
    "gap": Method(gap=True),
    "ube": Method(ube=True),
    "has": Method(has=True),
    "all": Method(gap=True, ube=True, has=True),
}
ON_GPU = ("mit-b5", "hrda")
FULL_SIZE = (1052, 1914)
"""Height and width of GTA's images."""
FILES, TIMES = 12, 2000
"""Images on disk, and how often each is in the data set: together as many as GTA has, far too many to be cached."""


def scale_config(scale: str) -> TrainingConfig:
    """The training section at a scale: the toy preset's, DAFormer's and HRDA's with MiT-B5 (weights random)."""
    if scale == "demo":
        return load_config("toy").training
    network: dict[str, Any] = {"pretrained": None, "encoder": "mit-b5", "hrda": {} if scale == "hrda" else None}
    side = 1024 if scale == "hrda" else 512
    return TrainingConfig.model_validate({"network": network, "crop": (side, side), "precision": "bf16"})


@dataclass
class Stepper:
    """One method's network in training: draws, steps and learns hardness as the training loop does."""

    config: TrainingConfig
    method: Method
    device: torch.device
    done: int = 0
    milliseconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.network = Segmenter.create(self.config.network, 0).to(self.device).train()
        if self.config.precision == "bf16":  # as Accelerate does it
            half = torch.autocast(self.device.type, torch.bfloat16)(self.network.forward)
            self.network.forward = convert_outputs_to_fp32(half)  # type: ignore[method-assign]  # mypy knows no wrapped forward; Accelerate sets it too
        self.state = StepState.create(self.config, self.method, self.network).to(self.device)
        self.optimizer, _ = build_optimizer(self.network, self.config.optimizer, self.config.iterations)
        self.drawer = Drawer(self.config, self.method, 0, (25_000,), None)

    def run(self, batches: list[Batch]) -> None:
        """Steps through the batches and notes the mean time of a step."""
        _wait(self.device)
        start = time.perf_counter()
        draws = self.drawer.block(self.done, len(batches))
        losses = [self._step(batch) for batch in batches]
        for drawn, loss in zip(draws, torch.stack(losses).tolist(), strict=True):
            self.drawer.learn(drawn, loss)
        _wait(self.device)
        self.milliseconds.append(1000 * (time.perf_counter() - start) / len(batches))

    def _step(self, batch: Batch) -> torch.Tensor:
        batch = Batch(*(tensor.to(self.device) for tensor in batch))
        self.optimizer.zero_grad(set_to_none=True)
        torch_rng = torch.Generator().manual_seed(self.done)
        terms = train_step(self.network, batch, self.config, self.method, self.state, torch_rng)
        terms.total.backward()
        self.optimizer.step()
        self.done += 1
        return terms.per_image


def measure_steps(scale: str, device: torch.device, *, rounds: int, steps: int) -> tuple[list[Row], float]:
    """Rows of the table, and cross-entropy's images per second. Methods take turns in one process; the cost is the
    median over the rounds of a method's time over cross-entropy's in the same round."""
    config = scale_config(scale)
    batches = list(_batches(config, steps))
    steppers = {name: Stepper(config, method, device) for name, method in METHODS.items()}
    for turn in range(rounds + 1):
        for name in np.roll(list(steppers), turn).tolist():
            steppers[name].run(batches)
    plain = steppers["cross-entropy"].milliseconds[1:]  # the first round warms up
    rows: list[Row] = []
    for name, stepper in steppers.items():
        own = stepper.milliseconds[1:]
        cost = median(one / other - 1 for one, other in zip(own, plain, strict=True))
        rows.append({"scale": scale, "method": name, "ms per step": median(own), "cost": f"{100 * cost:+.1f}%"})
    return rows, 1000 * config.batch_size / median(plain)


def measure_loader(rate: float | None, *, workers: tuple[int, ...], batches: int) -> list[Row]:
    """Images per second of the loader at demo scale and for images as large as GTA's, against what training takes."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for what, size, times in (("demo, 96x192 px, in memory", (96, 192), 20), ("GTA's size, PNG", FULL_SIZE, TIMES)):
            config = scale_config("demo" if times == 20 else "mit-b5")
            scenes = list(_scenes(Path(folder), size))
            pixels = np.tile(class_pixels(scenes), (times, 1))
            rare = RareClassSampler(pixels, minimum=config.rare_class_pixels)
            samples = TrainingSet([ScenePool(scenes * times, config.source_size)], config, 0)
            draws = Drawer(config, Method(), 0, (len(scenes) * times,), rare).block(0, batches)
            for count in workers:
                images = loader_rate(samples, draws, count)
                wanted = f"{rate:.0f} (demo)" if times == 20 and rate is not None else NOT_MEASURED
                rows.append({"images": what, "workers": count, "images/s": images, "training takes, images/s": wanted})
    return rows


def _batches(config: TrainingConfig, count: int) -> Iterator[Batch]:
    """Pictures of toy town, each pixel enlarged where the crop is larger than the town."""
    height, width = config.crop
    for index in range(count):
        images, labels = [], []
        for position in range(config.batch_size):
            rendering = render_source(0, config.batch_size * index + position, (96, 192))
            times = max(-(-height // 96), -(-width // 192))
            enlarged = (
                np.kron(p, np.ones((times, times, 1), np.uint8)) for p in (rendering.image, rendering.label[..., None])
            )
            image, label = (pixels[:height, :width].transpose(2, 0, 1) for pixels in enlarged)
            images.append(torch.tensor(image.copy()))
            labels.append(torch.tensor(label[0].copy()))
        yield Batch(torch.stack(images), torch.stack(labels), torch.tensor([[9.0, 1.2, 0.8, 10.0, 1.0]] * len(images)))


def _scenes(folder: Path, size: tuple[int, int]) -> Iterator[Scene]:
    """Toy town enlarged to `size`, with noise, so that the files are as hard to decompress as photographs."""
    for index in range(FILES):
        rendering = render_source(0, index, (96, 192))
        name = f"{size[0]}_{index}"
        noise = random_generator("noise", index).normal(0, 8, (*size, 3))
        image = np.asarray(Image.fromarray(rendering.image).resize(size[::-1], Image.Resampling.BILINEAR))
        Image.fromarray((image + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png", compress_level=1)
        Image.fromarray(rendering.label).resize(size[::-1], Image.Resampling.NEAREST).save(folder / f"{name}_l.png")
        yield Scene(name, folder / f"{name}.png", folder / f"{name}_l.png", TRAIN_IDS)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scale", choices=("demo", *ON_GPU), help="this scale only, on any device")
    options = parser.parse_args()
    device = torch.device(options.device)
    rounds, steps = (3, 4) if options.quick else (9, 10)
    rows: list[Row] = []
    rate = None
    for scale in [options.scale] if options.scale else ["demo", *ON_GPU]:
        if scale in ON_GPU and device.type == "cpu" and options.scale is None:
            empty = {"ms per step": NOT_MEASURED, "cost": NOT_MEASURED}
            rows += [{"scale": scale, "method": name, **empty} for name in METHODS]
        else:
            measured, images = measure_steps(scale, device, rounds=rounds, steps=steps)
            rows += measured
            rate = images if scale == "demo" else rate
    record(
        "training_step", "Time of a training step; cost over cross-entropy (aims: demo on a CPU < 15%, GPU < 5%)", rows
    )
    measure_bands(repetitions=1 if options.quick else 3)
    workers = (0, 2) if options.quick else (0, 1, 2)
    rows = measure_loader(rate, workers=workers, batches=8 if options.quick else 20)
    record("training_loader", "Images that the loader gives, against those that training takes", rows)


if __name__ == "__main__":
    main()
