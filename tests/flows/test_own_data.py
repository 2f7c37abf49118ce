"""Data that no adapter was written for: label maps alone, stated by a glob."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app


def test_label_maps_alone_can_be_planned(
    tmp_path: Path, write_config: Callable[..., Path], stand_in_weights: Path
) -> None:
    (tmp_path / "maps").mkdir()
    for k in range(2):
        label = np.full((64, 128), 10, np.uint8)
        label[40:] = 0
        Image.fromarray(label).save(tmp_path / "maps" / f"{k}.png")
    source = {"name": "maps", "root": str(tmp_path / "maps"), "layout": "globs", "labels": "*.png", "ids": "train"}
    config = write_config(stand_in_weights, data={"source": source})
    result = CliRunner().invoke(app, ["plan", str(config)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "4 images of 64x32 px" in result.stdout
    assert "generated images" in result.stdout and "segmenter" not in result.stdout
