"""Painting at Stable Diffusion 1.5's shape: the released loop beside ours, and how images depend on the batch."""

import copy
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from benchmarks.generation import Case, make_case, peak, psnr, start_of_peak
from benchmarks.gpu.parts import Bench, seconds_of
from benchmarks.record import NOT_MEASURED, Row
from benchmarks.released import paint_released
from benchmarks.sd15 import matmul_rate, random_sd15
from generation.denoise import control, embedded_conditions
from generation.models import GeneratorNetworks, load_networks
from generation.paint import Painter
from pipeline.config.machine import Machine
from pipeline.toytown import render_source

STEPS, WHOLE = 4, 20
"""Denoising steps at which ways are compared, and those of the presets."""
RELEASED = "as released: fp32, one window at a time"
SCHEDULED = {"kept_noise": "scheduler"}
WAYS: Mapping[str, dict[str, Any]] = {
    "ours, fp32": {},
    "ours, bf16": {"precision": "bf16"},
    "ours, bf16, compiled": {"precision": "bf16", "compiled": True},
    "ours, bf16, twice the stride": {"precision": "bf16", "fusion": {"stride": 16}},
    "ours, bf16, sparse cover": {"precision": "bf16", "fusion": {"cover": "sparse"}},
    "ours, bf16, UniPC, half the steps": {"precision": "bf16", "scheduler": "unipc", "half": True, "fusion": SCHEDULED},
    "ours, bf16, sparse cover, UniPC, half the steps": {
        "precision": "bf16",
        "scheduler": "unipc",
        "half": True,
        "fusion": {**SCHEDULED, "cover": "sparse"},
    },
}
"""What each way changes of the released config. The last bits are those of the card's own float32, without TF32."""


def measure_card(bench: Bench, end: float) -> Iterator[Row]:
    """The card's own rate of matrix products, which all others are held against."""
    if bench.device.type != "cuda":
        yield {"card": "none", "bf16 matrix TFLOP/s": NOT_MEASURED, "memory GB": NOT_MEASURED}
        return
    card = torch.cuda.get_device_properties(bench.device)
    yield {
        "card": card.name,
        "bf16 matrix TFLOP/s": matmul_rate(bench.device) / 1e12,
        "memory GB": card.total_memory / 1e9,
    }


def measure_painting(bench: Bench, end: float) -> Iterator[Row]:
    """One image as the released loop paints it and as ours does, then ours with all steps."""
    networks = make_generator(bench)
    case = make_case(networks, label_folder(bench.work), 1, *((1, 3.0) if bench.toy else (STEPS, 7.5)))
    card = matmul_rate(bench.device) if bench.device.type == "cuda" else None
    flops, released = sample_flops(networks), np.zeros(0)
    for name, changes in {RELEASED: None, **ways(bench.device)}.items():
        row, images = measure_way(case, changes, flops, card)
        released = images if changes is None else released
        yield {"way": name, **row, "PSNR to released, dB": psnr(images, released)}
    if not bench.toy:
        whole = case.config.model_copy(update={"steps": WHOLE})
        row, _ = measure_way(Case(networks, whole, case.requests, case.labels), WAYS["ours, bf16"], flops, card)
        yield {"way": "ours, bf16", **row, "PSNR to released, dB": NOT_MEASURED}


def ways(device: torch.device) -> dict[str, dict[str, Any]]:
    """WAYS; on a CPU without the compiler, and in fp32, since few processors compute bf16."""
    if device.type == "cuda":
        return dict(WAYS)
    slow = {name: changes for name, changes in WAYS.items() if not changes.get("compiled")}
    return {name.replace("bf16", "fp32"): {**changes, "precision": "fp32"} for name, changes in slow.items()}


def measure_way(
    case: Case, changes: Mapping[str, Any] | None, flops: float, card: float | None
) -> tuple[Row, np.ndarray]:
    """A row but for its name, and the images (B,H,W,3) uint8. None for `changes` is the released loop. flops: of U-Net
    and ControlNet together for one sample; card: FLOP/s of its matrix products."""
    networks, config, device = copy.deepcopy(case.networks), case.config, case.networks.device
    machine = Machine()
    paint = partial(_released, networks, case)
    if changes is not None:
        own = dict(changes)
        machine = Machine(compile_generator=own.pop("compiled", False))
        if own.pop("half", False):
            config = config.model_copy(update={"steps": max(1, config.steps // 2)})
        config = Case(networks, config, case.requests, case.labels).changed(own)
        paint = partial(Painter(config, networks, machine).images, case.labels, case.prompts, case.seeds)
    calls, hook = _count_samples(networks)
    if not machine.compile_generator:
        paint()  # warms up, and is counted
        hook.remove()
    else:
        hook.remove()  # or it would be compiled too
        paint()
    before = start_of_peak(device)
    kept: list[np.ndarray] = []
    seconds = seconds_of(lambda: kept.append(paint()), device)
    count, rate = len(case.requests), sum(calls) * flops / seconds
    row: Row = {
        "steps": config.steps,
        "U-Net calls / image": len(calls) / count if calls else NOT_MEASURED,
        "U-Net samples / image": sum(calls) / count if calls else NOT_MEASURED,
        "s / image": seconds / count,
        "peak GB": peak(device, before) * 2**20 / 1e9,
        "TFLOP/s": rate / 1e12 if calls else NOT_MEASURED,
        "share of the card": NOT_MEASURED if card is None or not calls else rate / card,
    }
    return row, kept[0]


def measure_batches(bench: Bench, end: float) -> Iterator[Row]:
    """Whether an image depends on how many are painted beside it, and on how many windows go through at once."""
    networks = make_generator(bench)
    images_in_all, steps, guidance = (2, 1, 3.0) if bench.toy else (8, STEPS, 7.5)
    case = make_case(networks, label_folder(bench.work), images_in_all, steps, guidance)
    cells = networks.trained_cells[0]
    for precision in ("fp32", "bf16") if bench.device.type == "cuda" else ("fp32",):
        config = case.changed({"precision": precision, "fusion": {"stride": cells // 2}})
        alone = np.zeros(0)
        for batch, windows in dict.fromkeys([(1, 16), (2, 16), (images_in_all, 16), (1, 4)]):
            machine = Machine(generation_batch=batch, window_batch=windows)
            painter = Painter(config, copy.deepcopy(networks), machine)
            images = np.concatenate(
                [
                    painter.images(case.labels[k : k + batch], case.prompts[k : k + batch], case.seeds[k : k + batch])
                    for k in range(0, len(case.requests), batch)
                ]
            )
            alone = images if not len(alone) else alone
            yield {
                "precision": precision,
                "images together": batch,
                "windows together": windows,
                "PSNR to one by one, dB": psnr(images, alone),
                "largest difference of 255": int(np.abs(images.astype(int) - alone).max()),
            }


def make_generator(bench: Bench) -> GeneratorNetworks:
    """Toy town's generator, or Stable Diffusion 1.5 with random weights."""
    return load_networks("toy-town", bench.device) if bench.toy else random_sd15(bench.device)


def label_folder(work: Path) -> Path:
    """Label maps of toy town, enlarged to GTA's size, as PNGs of train ids."""
    folder = work / "label maps"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        for k in range(8):
            label = Image.fromarray(render_source(0, k, (96, 192)).label)
            label.resize((1914, 1052), Image.Resampling.NEAREST).save(folder / f"{k}.png", compress_level=1)
    return folder


def sample_flops(networks: GeneratorNetworks) -> float:
    """FLOPs of U-Net and ControlNet together for one sample of the size that they know, matrix products, convolutions
    and attention alone."""
    height, width = networks.trained_cells
    latents = torch.zeros(1, networks.unet.config.in_channels, height, width, device=networks.device)
    text, labels = networks.embed([""]), np.zeros((1, height * networks.cell, width * networks.cell), np.uint8)
    with torch.inference_mode():
        hint = networks.controlnet.controlnet_cond_embedding(networks.condition(labels))
    t = torch.tensor(1, device=networks.device)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), embedded_conditions(networks.controlnet), counter:
        residuals = control(networks, latents, t, text, hint, 1.0)
        networks.unet(latents, t, encoder_hidden_states=text, **residuals)
    return float(counter.get_total_flops())


def _count_samples(networks: GeneratorNetworks) -> tuple[list[int], RemovableHandle]:
    """A list that takes up the batch of every call of the U-Net, and what ends that."""
    calls: list[int] = []
    return calls, networks.unet.conv_in.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))


def _released(networks: GeneratorNetworks, case: Case) -> np.ndarray:
    pairs = zip(case.labels, case.requests, strict=True)
    return np.stack([paint_released(networks, label, request, case.config) for label, request in pairs])
