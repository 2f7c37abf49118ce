"""Alignment as a stage of its own: equal to scoring image by image, repaints nothing, and published as columns."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from datasets import load_dataset
from PIL import Image

from generation.alignment import alignment, edge_detector
from generation.generate import generate
from generation.plan import plan
from generation.samples import make_sample, write_shard
from generation.scores import PROVENANCE, publish_scored, score_data_set
from pipeline.config.generation import AlignmentConfig
from pipeline.config.machine import Machine
from pipeline.data.alignment_scores import SCORES, has_scores, read_scores
from pipeline.data.datasets import Scene
from pipeline.errors import UserError
from pipeline.requests import Box, GenerationRequest
from pipeline.work.units import WORK
from tests.tiny import tiny_generation
from tests.tracks import interrupted_after

MACHINE = Machine(device="cpu", workers=1)


def write_data_set(folder: Path) -> Path:
    """Five images of noise in three shards."""
    rng = np.random.default_rng(0)
    (folder / "data").mkdir(parents=True)
    rows = []
    for k in range(5):
        label = np.repeat(np.repeat(rng.integers(0, 19, (4, 8)).astype(np.uint8), 8, 0), 8, 1)
        image = (label[..., None] * 13 + rng.integers(0, 30 * (k + 1), (32, 64, 3))).clip(0, 255).astype(np.uint8)
        request = GenerationRequest(f"night-{k:06d}", "0", Box(0, 0, 32, 64), 0, "night", "night", 0)
        rows.append(make_sample(request, image, label))
    for k in range(3):
        write_shard(rows[2 * k : 2 * k + 2], folder / "data" / f"train-{k:05d}-of-00003.parquet")
    return folder


def truth(data_set: Path, config: AlignmentConfig) -> np.ndarray:
    """Scored image by image, with Pillow's own reading of the parquet files."""
    detect = edge_detector(config)
    scores = []
    for shard in sorted((data_set / "data").glob("*.parquet")):
        for row in pyarrow.parquet.read_table(shard).to_pylist():
            image, label = (np.asarray(Image.open(io.BytesIO(row[name]["bytes"]))) for name in ("image", "label"))
            scores.append(alignment(detect(image), label, config.radius))
    return np.array(scores, np.float32)


@pytest.mark.parametrize("odd", ["a::b", "set [v2]", "** ?", "file:", "100%41"])
def test_shards_are_written_where_the_path_says(tmp_path: Path, odd: str) -> None:
    """Cases 05 and F08, when written: below `a::b` datasets wrote to a file `a` beside the store, and nothing there."""
    folder = write_data_set(tmp_path / odd)
    assert [path.name for path in tmp_path.iterdir()] == [odd]
    assert len(list((folder / "data").iterdir())) == 3


@pytest.mark.parametrize("radius", [0, 1, 4])
def test_scores_are_those_of_each_image(tmp_path: Path, radius: int) -> None:
    data_set, config = write_data_set(tmp_path / "set"), AlignmentConfig(radius=radius)
    score_data_set(config, data_set, tmp_path / "scores", machine=MACHINE)
    found = read_scores(data_set, tmp_path / "scores")
    np.testing.assert_array_equal(
        np.stack([found["alignment"], found["alignment_control"]], 1), truth(data_set, config)
    )
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {SCORES, "alignment.png", WORK}


def test_an_interrupted_scoring_continues_to_the_same_bytes(tmp_path: Path) -> None:
    data_set = write_data_set(tmp_path / "set")
    score_data_set(AlignmentConfig(), data_set, tmp_path / "whole", machine=MACHINE)
    with pytest.raises(KeyboardInterrupt):
        score_data_set(AlignmentConfig(), data_set, tmp_path / "part", machine=MACHINE, progress=interrupted_after(3))
    assert len(list((tmp_path / "part" / WORK / "parts").glob("*.npy"))) == 2
    score_data_set(AlignmentConfig(), data_set, tmp_path / "part", machine=MACHINE)
    assert digests(tmp_path / "part") == digests(tmp_path / "whole")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: [path.unlink() for path in folder.glob("data/*")], "holds no data"),
        (lambda folder: (folder / "data/train-00001-of-00003.parquet").write_bytes(b"<html>"), "cannot be read"),
    ],
)
def test_a_data_set_that_cannot_be_scored_is_one_line(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    data_set = write_data_set(tmp_path / "set")
    spoil(data_set)
    with pytest.raises(UserError, match=message) as caught:
        score_data_set(AlignmentConfig(), data_set, tmp_path / "scores", machine=MACHINE)
    assert "\n" not in str(caught.value)


def test_scores_of_another_data_set_are_refused(tmp_path: Path) -> None:
    data_set = write_data_set(tmp_path / "set")
    score_data_set(AlignmentConfig(), data_set, tmp_path / "scores", machine=MACHINE)
    (data_set / "data/train-00002-of-00003.parquet").unlink()
    with pytest.raises(UserError, match="has scores of 5 images, but .* holds 4"):
        read_scores(data_set, tmp_path / "scores")


def test_a_published_data_set_holds_the_scores(tiny_weights: Path, scenes: list[Scene], tmp_path: Path) -> None:
    settings, config = tiny_generation(tiny_weights), AlignmentConfig()
    generate(settings, plan(settings, scenes), scenes, tmp_path / "set", machine=MACHINE)
    before = digests(tmp_path / "set")
    score_data_set(config, tmp_path / "set", tmp_path / "scores", machine=MACHINE)
    publish_scored(settings, config, tmp_path / "set", tmp_path / "scores", tmp_path / "out")
    assert digests(tmp_path / "set") == before and not has_scores(tmp_path / "set")
    assert has_scores(tmp_path / "out") and not (tmp_path / "out" / PROVENANCE).exists()
    rows = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    plain = load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    expected = truth(tmp_path / "set", config)
    assert rows.column_names == [*plain.column_names, "alignment", "alignment_control"]
    for row, same, (own, control) in zip(rows, plain, expected, strict=True):
        assert (row["alignment"], row["alignment_control"]) == (own, control)
        assert row["image"].tobytes() == same["image"].tobytes() and row["source"] == same["source"]
    card = (tmp_path / "out/README.md").read_text()
    assert "![histogram" in card and "within 1 px" in card
    assert Image.open(tmp_path / "out/alignment.png").format == "PNG"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and WORK not in path.parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
