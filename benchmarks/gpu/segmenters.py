"""Training steps, loader, evaluation and resume on the device."""

import json
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.parts import Bench, seconds_of
from benchmarks.record import Row
from benchmarks.training import measure_loader, measure_steps
from evaluation.inference import input_size, make_predict
from pipeline.config.evaluation import EvaluationConfig
from pipeline.config.experiment import load_config
from pipeline.config.machine import Machine
from pipeline.config.toytown import ToyTown
from pipeline.config.training import Method, NetworkConfig
from pipeline.data.datasets import Scene, find_scenes, toytown_datasets
from pipeline.toytown import write_world
from pipeline.work.progress import Track, silent
from training.networks import Segmenter, network_input
from training.train import Job, train, train_rank


def measure_training(bench: Bench, end: float) -> Iterator[Row]:
    """A step of each method, with DAFormer and with HRDA, beside plain cross-entropy."""
    for scale in ("demo",) if bench.toy else ("mit-b5", "hrda"):
        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(bench.device)
        rows, _ = measure_steps(scale, bench.device, rounds=1 if bench.toy else 3, steps=2 if bench.toy else 5)
        yield from rows
        if bench.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(bench.device) / 1e9
            yield {"scale": scale, "method": "all of them in memory", "peak GB": peak}


def measure_reading(bench: Bench, end: float) -> Iterator[Row]:
    """Images per second of the loader, at GTA's size too."""
    yield from measure_loader(None, workers=(0,) if bench.toy else (0, 4, 8), batches=4 if bench.toy else 40)


def measure_evaluation(bench: Bench, end: float) -> Iterator[Row]:
    """Images per second through sliding windows in float32 and in bf16, and how many labels are the same."""
    config = EvaluationConfig(size={"city": (512, 1024)}, window=(512, 512), stride=(256, 256))
    network_config, size, images = NetworkConfig(pretrained=None, encoder="mit-b5"), (1024, 2048), 4
    if bench.toy:
        config = EvaluationConfig(window=(64, 64), stride=(32, 32))
        network_config, size, images = load_config("toy").training.network, (64, 128), 2
    segmenter = Segmenter.create(network_config, 0).to(bench.device).eval()
    pictures = np.random.default_rng(0).integers(0, 256, (images, *size, 3), dtype=np.uint8)
    exact = np.zeros(0)
    for precision in ("fp32", "bf16"):
        half = torch.autocast(bench.device.type, torch.bfloat16, enabled=precision == "bf16")

        def network(image: torch.Tensor, half: torch.autocast = half) -> torch.Tensor:
            with half:
                return torch.as_tensor(segmenter(network_input(image, 1.0)).logits).float()

        predict = make_predict(network, config, bench.device, batch_size=Machine().evaluation_batch)
        seen = input_size(config, "city", size)
        labels = torch.as_tensor(predict(pictures, seen).labels).cpu().numpy()  # warms up
        exact = labels if precision == "fp32" else exact
        seconds = seconds_of(partial(predict, pictures, seen), bench.device)
        yield {
            "precision": precision,
            "images/s": images / seconds,
            "labels as in fp32, %": 100 * float((labels == exact).mean()),
        }


def measure_resume(bench: Bench, end: float) -> Iterator[Row]:
    """A training of toy town that is stopped half way and goes on, against one that is not."""
    scenes = _town(bench.work / "town")
    config = load_config("toy").training.model_copy(
        update={"iterations": 12, "block": 4, "checkpoint_every": 4, "validation_every": 100, "validation_scenes": 2}
    )
    method = Method(gap=True, ube=True, has=True)
    machine = Machine(device="cuda" if bench.device.type == "cuda" else "cpu", tracker=None)
    whole, halves = bench.work / "whole", bench.work / "halves"
    for folder, stop in ((whole, None), (halves, 6), (halves, None)):
        with suppress(KeyboardInterrupt):
            train(config, method, 0, scenes, [], folder, machine=machine, launch=_Stopped(stop))
    losses = [
        [json.loads(line)["loss"] for line in (f / "log.jsonl").read_text().splitlines()] for f in (whole, halves)
    ]
    yield {
        "iterations": config.iterations,
        "stopped at": 6,
        "last loss": losses[0][-1],
        "largest difference of a loss": float(np.abs(np.array(losses[0]) - np.array(losses[1])).max()),
    }


class _Stopped:
    """Trains in this process, and stops as an interrupt would after a number of iterations."""

    def __init__(self, after: int | None) -> None:
        self.left = after

    def __call__(self, job: Job, progress: Track) -> None:
        train_rank(job, progress, self._stop)

    def _stop(self) -> bool:
        if self.left is None:
            return False
        self.left -= 1
        return self.left <= 0


def _town(folder: Path) -> list[Scene]:
    if not folder.is_dir():
        write_world(ToyTown(source_images=12, target_images=1), folder, silent)
    return find_scenes(toytown_datasets(folder)[0])
