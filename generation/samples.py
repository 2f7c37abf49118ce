"""Rows of a generated data set, and the parquet files that they are kept in."""

import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, Value, disable_progress_bars
from PIL import Image as PILImage

from generation.alignment import Alignment
from pipeline.requests import GenerationRequest

FEATURES = Features(
    {
        "image": Image(),
        "label": Image(),
        "prompt": Value("string"),
        "class_id": Value("int32"),
        "condition": Value("string"),
        "seed": Value("int64"),
        "source": Value("string"),
        "box": {side: Value("int32") for side in ("top", "left", "height", "width")},
        "alignment": Value("float32"),
        "alignment_control": Value("float32"),
    }
)


def make_sample(
    request: GenerationRequest, image: np.ndarray, label: np.ndarray, alignment: Alignment
) -> dict[str, Any]:
    """One row of the data set: image (H, W, 3) and label map (H, W) as PNG bytes, the request, how well they agree."""
    return {
        "image": {"bytes": png(image), "path": f"{request.id}.png"},
        "label": {"bytes": png(label), "path": f"{request.id}_labelTrainIds.png"},
        "prompt": request.prompt,
        "class_id": request.class_id,
        "condition": request.condition,
        "seed": request.seed,
        "source": request.source,
        "box": asdict(request.box),
        "alignment": alignment.score,
        "alignment_control": alignment.control,
    }


def write_shard(samples: Sequence[dict[str, Any]], path: Path) -> None:
    """Write one parquet file."""
    disable_progress_bars()  # of the moment that writing takes
    Dataset.from_list(list(samples), features=FEATURES).to_parquet(path)


def png(pixels: np.ndarray) -> bytes:
    """PNG file of an (H, W) or (H, W, 3) uint8 array."""
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
