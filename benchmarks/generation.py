"""What painting costs: the released generator's way beside ours, exact and approximate, and beside plain diffusers.

    .venv/bin/python -m benchmarks.generation [--quick] [--device cpu|cuda] [--size tiny|sd15] [--weights FOLDER]
                                              [--labels FOLDER] [--images N] [--lora FILE]

Writes results/generation.json and results/generation_rate.json. `tiny` are the weights of toy town (or `--weights`),
`sd15` is Stable Diffusion 1.5 with a ControlNet, of random weights: alignment means nothing there, speed does. Same
weights, same requests on real GTA label maps, one run. Peak memory is the GPU's, or how much the process grew.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionControlNetPipeline

from benchmarks.record import NOT_MEASURED, Row, record
from benchmarks.released import paint_released
from benchmarks.sd15 import random_sd15, rate_rows
from generation.alignment import alignment, edge_detector
from generation.crops import LabelReader
from generation.models import GeneratorNetworks, load_networks
from generation.paint import Painter
from generation.plan import plan
from generation.schedulers import starting_noise
from pipeline.config.data import Dataset
from pipeline.config.generation import AlignmentConfig, GenerationConfig
from pipeline.config.machine import Machine
from pipeline.data.datasets import find_scenes
from pipeline.requests import GenerationRequest
from pipeline.work.devices import device_of

LABELS = Path(__file__).parents[2] / "shared" / "data" / "gta_labels"
RELEASED, DIFFUSERS = "as released", "plain diffusers, one pass"
EXACT: Mapping[str, dict[str, Any]] = {
    "ours, one pass": {"fusion": None},
    "ours": {},
    "ours, kept noise as the scheduler has it": {"fusion": {"kept_noise": "scheduler"}},
}
HALF: Mapping[str, dict[str, Any]] = {"ours, bf16": {}, "ours, bf16, compiled": {"compile": True}}
SCHEDULED = {"kept_noise": "scheduler"}
APPROXIMATE: Mapping[str, dict[str, Any]] = {
    "twice the stride": {"fusion": {"stride": 16}},
    "sparse cover": {"fusion": {"cover": "sparse"}},
    "UniPC, half the steps": {"scheduler": "unipc", "steps": 10, "fusion": SCHEDULED},
    "DPM-Solver, half the steps": {"scheduler": "dpm-solver", "steps": 10, "fusion": SCHEDULED},
    "sparse cover, UniPC, half the steps": {
        "scheduler": "unipc",
        "steps": 10,
        "fusion": {**SCHEDULED, "cover": "sparse"},
    },
}
ALL = (RELEASED, DIFFUSERS, *EXACT, *HALF, *APPROXIMATE)
FEW_STEPS = "few-step LoRA, 4 steps"
LCM = {"scheduler": "lcm", "steps": 4, "guidance": 1.0, "fusion": SCHEDULED}
COLUMNS = (
    "U-Net calls / image", "U-Net samples / image", "ControlNet samples / image", "images / s", "peak MiB", "PSNR, dB",
    "alignment", "control", "x released",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A generator, the config of the exact way, and what is to be painted."""

    networks: GeneratorNetworks
    config: GenerationConfig
    requests: Sequence[GenerationRequest]
    labels: np.ndarray

    @property
    def prompts(self) -> list[str]:
        return [request.prompt for request in self.requests]

    @property
    def seeds(self) -> list[int]:
        return [request.seed for request in self.requests]

    def changed(self, changes: Mapping[str, Any]) -> GenerationConfig:
        """The config with `changes`, those of `fusion` key by key. Steps shrink in proportion in a quick run."""
        values = self.config.model_dump() | dict(changes)
        if "steps" in changes:
            values["steps"] = max(1, changes["steps"] * self.config.steps // 20)
        if changes.get("fusion") and self.config.fusion is not None:
            values["fusion"] = self.config.fusion.model_dump() | changes["fusion"]
        return GenerationConfig.model_validate(values)


def make_case(networks: GeneratorNetworks, labels: Path, images: int, steps: int, guidance: float) -> Case:
    """Requests on the label maps in a folder, at the size that the generator knows; published px are scaled to it."""
    height, width = (side * networks.cell for side in networks.trained_cells)
    share = height * width / 512**2
    config = GenerationConfig.model_validate(
        {
            "weights": "benchmark",
            "counts": {"sunny": math.ceil(images / 2), "night": images // 2},
            "size": (height, width),
            "label_height": None if height >= 512 else 3 * height // 2,
            "rare_class_pixels": round(3000 * share),
            "steps": steps,
            "guidance": guidance,
            "fusion": {"large_component": round(20000 * share), "kept_noise": "released"},
        }
    )
    scenes = find_scenes(Dataset(name="labels", root=labels, layout="globs", labels="*.png", ids="train"))
    requests, reader = plan(config, scenes), LabelReader(scenes, config.label_height)
    return Case(networks, config, requests, np.stack([reader.crop(r.source, r.box) for r in requests]))


Way = Callable[[Case, GeneratorNetworks], Callable[[], np.ndarray]]
"""Gets everything ready; what it gives paints all images (B, H, W, 3) uint8 of the case."""


def as_released(case: Case, networks: GeneratorNetworks) -> Callable[[], np.ndarray]:
    """The released way: image by image, window by window."""

    def paint() -> np.ndarray:
        pairs = zip(case.labels, case.requests, strict=True)
        return np.stack([paint_released(networks, label, request, case.config) for label, request in pairs])

    return paint


def with_diffusers(case: Case, networks: GeneratorNetworks) -> Callable[[], np.ndarray]:
    """diffusers' own ControlNet pipeline: image by image, one pass."""
    names = ("vae", "text_encoder", "tokenizer", "unet", "controlnet", "scheduler")
    parts = {name: getattr(networks, name) for name in names}
    pipeline = StableDiffusionControlNetPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    shape = (networks.unet.config.in_channels, *networks.trained_cells)

    def one(prompt: str, label: np.ndarray, seed: int) -> np.ndarray:
        image = pipeline(
            prompt,
            image=networks.condition(label[None]),
            latents=starting_noise([seed], shape).to(networks.device),
            num_inference_steps=case.config.steps,
            guidance_scale=case.config.guidance,
            output_type="np",
        ).images[0]
        return (image * 255).round().astype(np.uint8)

    return lambda: np.stack(list(map(one, case.prompts, case.labels, case.seeds)))


def ours(config: GenerationConfig, case: Case, networks: GeneratorNetworks) -> Callable[[], np.ndarray]:
    """Our painter with a config."""
    return partial(Painter(config, networks).images, case.labels, case.prompts, case.seeds)


class Counts:
    """Calls of U-Net and ControlNet, and how many samples went through them, by hooks on their first layers: a
    ControlNet whose output is reused is not called."""

    def __init__(self, networks: GeneratorNetworks) -> None:
        self.unet: list[int] = []
        self.controlnet: list[int] = []
        networks.unet.conv_in.register_forward_pre_hook(lambda _, given: self.unet.append(len(given[0])))
        networks.controlnet.conv_in.register_forward_pre_hook(lambda _, given: self.controlnet.append(len(given[0])))


def measure(case: Case, way: Way, released: np.ndarray | None) -> tuple[Row, np.ndarray]:
    """A row but for its name, and the images. On a GPU a first run warms up, and compiles."""
    device, count = case.networks.device, len(case.requests)
    networks = copy.deepcopy(case.networks)
    counts = Counts(networks)
    paint = way(case, networks)
    if device.type == "cuda":
        paint()
        counts.unet.clear()
        counts.controlnet.clear()
    before = start_of_peak(device)
    start = time.perf_counter()
    images = paint()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    edges, radius = edge_detector(AlignmentConfig()), AlignmentConfig().radius
    scores = np.array(
        [alignment(edges(image), label, radius) for image, label in zip(images, case.labels, strict=True)]
    )
    row: Row = {
        "U-Net calls / image": len(counts.unet) / count,
        "U-Net samples / image": sum(counts.unet) / count,
        "ControlNet samples / image": sum(counts.controlnet) / count,
        "images / s": count / seconds,
        "peak MiB": peak(device, before),
        "PSNR, dB": "itself" if released is None else psnr(images, released),
        "alignment": float(scores[:, 0].mean()),
        "control": float(scores[:, 1].mean()),
    }
    return row, images


def psnr(images: np.ndarray, reference: np.ndarray) -> float | str:
    """Peak signal to noise ratio in dB over all images."""
    error = float(np.square(images.astype(float) - reference).mean())
    return 10 * math.log10(255**2 / error) if error else "equal"


def start_of_peak(device: torch.device) -> int:
    """Forget the peak of memory so far; bytes that the process has now (0 for a GPU, where all counts)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return 0
    Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM starts again at the present size
    return _resident_peak()


def peak(device: torch.device, before: int) -> float:
    """MiB at the peak since `start_of_peak`, above what was there then."""
    now = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident_peak()
    return (now - before) / 2**20


def _resident_peak() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def ways(case: Case, lora: str | None) -> dict[str, Way]:
    """All that is measured, the released way first. On a GPU the approximate ways run in bfloat16."""
    half = {"precision": "bf16"} if case.networks.device.type == "cuda" else {}
    configs = {name: case.changed(changes) for name, changes in EXACT.items()}
    if half:
        configs |= {name: case.changed(half | changes) for name, changes in HALF.items()}
    configs |= {name: case.changed(half | changes) for name, changes in APPROXIMATE.items()}
    if lora is not None:
        configs[FEW_STEPS] = case.changed({**half, **LCM, "lora": lora})
    named: dict[str, Way] = {RELEASED: as_released, DIFFUSERS: with_diffusers}
    return named | {name: partial(ours, config) for name, config in configs.items()}


def measure_size(size: str, case: Case | None, lora: str | None) -> list[Row]:
    """The table's rows for a size; without a case none is measured."""
    named = {} if case is None else ways(case, lora)
    rows: list[Row] = []
    released, rate = None, 0.0
    for name in (
        dict.fromkeys([*named, FEW_STEPS]) if named else [RELEASED, DIFFUSERS, *EXACT, *HALF, *APPROXIMATE, FEW_STEPS]
    ):
        if case is None or name not in named:
            rows.append({"size": size, "way": name} | dict.fromkeys(COLUMNS, NOT_MEASURED))
            continue
        row, images = measure(case, named[name], released)
        if name == RELEASED:
            released, rate = images, float(row["images / s"])
        rows.append({"size": size, "way": name, **row, "x released": float(row["images / s"]) / rate})
    return rows


def make_generator(size: str, weights: str, device: torch.device) -> GeneratorNetworks:
    """The generator of a size."""
    return random_sd15(device) if size == "sd15" else load_networks(weights, device)


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one image, few steps: to see that it runs")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--size", choices=["tiny", "sd15"], help="this one alone")
    parser.add_argument("--weights", default="toy-town", help="of the size tiny")
    parser.add_argument("--labels", type=Path, default=LABELS, help="folder of label maps of train ids")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--lora", help="LoRA that makes 4 steps enough for the weights")
    options = parser.parse_args()
    if not options.labels.is_dir():
        raise SystemExit(f"no label maps in {options.labels}: name a folder of PNG files of train ids with --labels")
    device = device_of(Machine(device=options.device))
    images, steps = (1, 4) if options.quick else (options.images, 20)
    rows: list[Row] = []
    for size in ("tiny", "sd15") if options.size is None else (options.size,):
        case = None
        if size == "tiny" or device.type == "cuda":
            networks = make_generator(size, options.weights, device)
            case = make_case(networks, options.labels, images, steps, guidance=7.5 if size == "sd15" else 3.0)
        rows += measure_size(size, case, options.lora)
    title = f"{images} images of {steps} steps with latent fusion on GTA label maps, {device.type}"
    record("generation", title, rows, packages=("diffusers",))
    record("generation_rate", "Share of the bf16 matrix rate in the denoising loop", rate_rows(device))


if __name__ == "__main__":
    main()
