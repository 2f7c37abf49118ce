"""Rows of a generated data set, and the parquet files that they are kept in."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, Value, disable_progress_bars

from pipeline.data.alignment_scores import SCORE_COLUMNS
from pipeline.data.pictures import png
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
    }
)
SCORED_FEATURES = Features({**FEATURES, **{name: Value("float32") for name in SCORE_COLUMNS}})
"""What a published data set has: the alignment scores beside each image."""


def make_sample(request: GenerationRequest, image: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    """One row of the data set: image (H, W, 3) and label map (H, W) as PNG bytes, and the request."""
    return {
        "image": {"bytes": png(image), "path": f"{request.id}.png"},
        "label": {"bytes": png(label), "path": f"{request.id}_labelTrainIds.png"},
        "prompt": request.prompt,
        "class_id": request.class_id,
        "condition": request.condition,
        "seed": request.seed,
        "source": request.source,
        "box": asdict(request.box),
    }


def write_shard(samples: Sequence[dict[str, Any]], path: Path) -> None:
    """Write one parquet file, with the alignment scores where the samples have them."""
    disable_progress_bars()  # of the moment that writing takes
    features = SCORED_FEATURES if set(SCORE_COLUMNS) <= samples[0].keys() else FEATURES
    with path.open("wb") as file:  # given a path, datasets reads it as an address: `a::b/c` would be written elsewhere
        Dataset.from_list(list(samples), features=features).to_parquet(file)
