"""README's first picture is cut out of other pictures: every cut shows what it should."""

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.first_picture import GAP_PX, ROWS, SAMPLES, samples, sheet
from pipeline.data.labels import CLASSES
from pipeline.data.pictures import side_by_side


def test_a_sheet_comes_apart_into_what_it_was_made_of(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (8, 12, 3)).astype(np.uint8) for _ in range(4)]
    Image.fromarray(side_by_side(pictures, GAP_PX)).save(tmp_path / "sheet.png")
    found = sheet(tmp_path / "sheet.png", 4)
    assert all((a == b).all() for a, b in zip(found, pictures, strict=True))


def test_samples_begin_with_a_label_map() -> None:
    colors = {segmentation_class.color for segmentation_class in CLASSES}
    for column in range(3):
        pictures = samples(SAMPLES, column)
        assert len(pictures) == len(ROWS)
        shown = {tuple(map(int, color)) for color in pictures[0].reshape(-1, 3)}
        assert len(shown & colors) / len(shown) > 0.9
        assert len({tuple(color) for color in pictures[1].reshape(-1, 3).tolist()} & colors) <= 2
