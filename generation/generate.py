"""From a plan to a data set of images: shard by shard, each a parquet file that is either finished or not there."""

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, Image, Value, disable_progress_bars
from PIL import Image as PILImage

from generation.alignment import alignment
from generation.crops import LabelReader, one_hot
from generation.denoise import denoise, starting_noise
from generation.models import Generator, load_generator
from pipeline.config.generation import GenerationConfig
from pipeline.config.machine import Machine
from pipeline.datasets import Scene
from pipeline.devices import device_of
from pipeline.errors import UserError
from pipeline.labels import CLASS_NAMES, NUM_CLASSES
from pipeline.progress import Track, silent
from pipeline.records import GenerationRequest

BOX = {side: Value("int32") for side in ("top", "left", "height", "width")}
FEATURES = Features(
    {
        "image": Image(),
        "label": Image(),
        "prompt": Value("string"),
        "class_id": Value("int32"),
        "condition": Value("string"),
        "seed": Value("int64"),
        "source": Value("string"),
        "box": BOX,
        "alignment": Value("float32"),
    }
)


def generate(
    config: GenerationConfig,
    requests: Sequence[GenerationRequest],
    scenes: Sequence[Scene],
    folder: Path,
    *,
    machine: Machine,
    progress: Track = silent,
) -> None:
    """Write the data set of `requests` into `folder`: `plan.jsonl` first, `data/train-*.parquet`, a dataset card.

    Shards that are already there are kept, so an interrupted call continues where it stopped. The images depend on
    the config and the requests alone, not on what was there before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.jsonl").write_text("".join(json.dumps(asdict(request)) + "\n" for request in requests))
    shards = [requests[start : start + config.shard_size] for start in range(0, len(requests), config.shard_size)]
    paths = [folder / "data" / f"train-{k:05d}-of-{len(shards):05d}.parquet" for k in range(len(shards))]
    todo = [(path, shard) for path, shard in zip(paths, shards, strict=True) if not path.exists()]
    done = len(requests) - sum(len(shard) for _, shard in todo)
    if todo:
        reader = LabelReader(scenes, config.label_height)
        painter = Painter(config, load_generator(config.weights, device_of(machine)))
        samples = (sample for _, shard in todo for sample in painter.paint(shard, reader))
        bar = progress(samples, total=len(requests), description="Generating images", done=done)
        for path, shard in todo:
            write_shard([next(bar) for _ in shard], path)
        for _ in bar:  # lets the bar finish
            pass
    write_card(config, requests, folder)


class Painter:
    """Turns requests into samples with one generator; text embeddings are computed once per prompt."""

    def __init__(self, config: GenerationConfig, generator: Generator) -> None:
        cell = generator.cell * 2 ** (len(generator.unet.config.block_out_channels) - 1)
        if any(side % cell for side in config.size):
            raise UserError(
                f"generation.size is {list(config.size)} px, wanted multiples of {cell} px: round both sides"
            )
        self._config = config
        self._generator = generator
        self._texts: dict[str, torch.Tensor] = {}

    def paint(self, requests: Sequence[GenerationRequest], reader: LabelReader) -> Iterator[dict[str, Any]]:
        """One sample (a row of the data set) per request, in order."""
        for start in range(0, len(requests), self._config.batch_size):
            batch = requests[start : start + self._config.batch_size]
            labels = np.stack([reader.crop(request.source, request.box) for request in batch])
            images = self.images(labels, [r.prompt for r in batch], [r.seed for r in batch])
            for request, image, label in zip(batch, images, labels, strict=True):
                yield make_sample(request, image, label, self._config.alignment_radius)

    def images(self, labels: np.ndarray, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Images (B, H, W, 3) uint8 painted onto label maps (B, H, W)."""
        generator = self._generator
        cells = (labels.shape[1] // generator.cell, labels.shape[2] // generator.cell)
        noise = starting_noise(seeds, (generator.unet.config.in_channels, *cells)).to(generator.device)
        condition = torch.from_numpy(one_hot(labels)).to(generator.device)
        text = torch.stack([self._text([""] * len(prompts)), self._text(prompts)])
        return generator.decode(denoise(generator, noise, condition, text, self._config)).numpy()

    def _text(self, prompts: Sequence[str]) -> torch.Tensor:
        for prompt in prompts:
            if prompt not in self._texts:
                self._texts[prompt] = self._generator.embed([prompt])[0]
        return torch.stack([self._texts[prompt] for prompt in prompts])


def make_sample(request: GenerationRequest, image: np.ndarray, label: np.ndarray, radius: int) -> dict[str, Any]:
    """One row of the data set: image and label as PNG bytes, the request, the alignment score."""
    return {
        "image": {"bytes": png(image), "path": f"{request.id}.png"},
        "label": {"bytes": png(label), "path": f"{request.id}_labelTrainIds.png"},
        "prompt": request.prompt,
        "class_id": request.class_id,
        "condition": request.condition,
        "seed": request.seed,
        "source": request.source,
        "box": asdict(request.box),
        "alignment": alignment(image, label, radius),
    }


def write_shard(samples: Iterable[dict[str, Any]], path: Path) -> None:
    """Write one parquet file; it appears under its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    disable_progress_bars()  # of the moment that writing takes
    Dataset.from_list(list(samples), features=FEATURES).to_parquet(partial)
    partial.rename(path)


def write_card(config: GenerationConfig, requests: Sequence[GenerationRequest], folder: Path) -> None:
    """Write the dataset card (README.md) that Hugging Face `datasets` reads the layout from."""
    conditions = Counter(request.condition for request in requests)
    classes = Counter(CLASS_NAMES[request.class_id] for request in requests if request.class_id < NUM_CLASSES)
    lines = [
        "---",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        "    path: data/train-*.parquet",
        "task_categories:",
        "- image-segmentation",
        "---",
        "# Stylized street scenes",
        "",
        f"{len(requests)} images of {config.size[1]}x{config.size[0]} px that flexseg painted onto label maps",
        "(Cityscapes train ids, 255 = ignore) with a ControlNet generator. They follow their labels only roughly:",
        "`alignment` is the share of a label map's boundary px that have an image edge close by.",
        "",
        f"Sampling: {config.steps} steps, guidance {config.guidance}, control scale {config.control_scale},",
        f"seed {config.seed}.",
        "",
        "| condition | images |",
        "|---|---|",
        *(f"| {condition} | {count} |" for condition, count in conditions.items()),
        "",
        "| class asked for | images |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in classes.most_common()),
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines))


def png(pixels: np.ndarray) -> bytes:
    """PNG file of an (H, W) or (H, W, 3) uint8 array."""
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
