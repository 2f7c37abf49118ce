"""Exports: the folders and statistics that DAFormer's and HRDA's code reads, true to the data set."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from generation.export import export
from generation.samples import make_sample, write_shard
from pipeline.data.labels import IGNORE
from pipeline.errors import UserError
from pipeline.requests import Box, GenerationRequest
from pipeline.store.artifacts import ArtifactStore, Stage
from tests.tracks import interrupted_after

SCORES = (0.2, 0.5, 0.9, 0.7)


def write_images(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A data set of four images in two shards; image and label by id."""
    rng = np.random.default_rng(0)
    (folder / "data").mkdir(parents=True)
    pairs, rows = {}, []
    for k, score in enumerate(SCORES):
        image = rng.integers(0, 256, (16, 32, 3)).astype(np.uint8)
        label = rng.choice(np.array([0, 7 + k, IGNORE], np.uint8), (16, 32))
        request = GenerationRequest(f"night-{k:06d}", "0", Box(0, 0, 16, 32), 0, "night", "night", 0)
        pairs[request.id] = (image, label)
        rows.append(make_sample(request, image, label) | {"alignment": score, "alignment_control": 0.1})
    for k in range(2):
        write_shard(rows[2 * k : 2 * k + 2], folder / "data" / f"train-{k:05d}-of-00002.parquet")
    return pairs


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_images_labels_and_statistics(tmp_path: Path) -> None:
    pairs = write_images(tmp_path / "set")
    assert export(tmp_path / "set", tmp_path / "out") == 4
    assert {path.stem for path in (tmp_path / "out/images").iterdir()} == set(pairs)
    listed = json.loads((tmp_path / "out/sample_class_stats.json").read_text())
    by_file = json.loads((tmp_path / "out/sample_class_stats_dict.json").read_text())
    by_class = json.loads((tmp_path / "out/samples_with_class.json").read_text())
    for name, (image, label) in pairs.items():
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"out/images/{name}.png")), image)
        file = f"labels/{name}_labelTrainIds.png"
        with Image.open(tmp_path / "out" / file) as saved:
            assert saved.mode == "L"
            np.testing.assert_array_equal(np.asarray(saved), label)
        counts = {str(c): int(n) for c, n in zip(*np.unique(label[label != IGNORE], return_counts=True), strict=True)}
        assert by_file[file] == counts
        assert {**counts, "file": file} in listed
        assert all([file, n] in by_class[c] for c, n in counts.items())
    assert len(listed) == len(by_file) == 4 and set(by_class) == {"0", "7", "8", "9", "10"}


def test_statistics_are_read_as_rare_class_sampling_of_hrda_reads_them(tmp_path: Path) -> None:
    """The steps of its loader: sum the statistics per class, then find for each class the files with enough of it."""
    pairs = write_images(tmp_path / "set")
    export(tmp_path / "set", tmp_path / "out")
    totals: dict[int, int] = {}
    for sample in json.loads((tmp_path / "out/sample_class_stats.json").read_text()):
        sample.pop("file")
        for train_id, count in sample.items():
            totals[int(train_id)] = totals.get(int(train_id), 0) + count
    for train_id, total in totals.items():
        assert total == sum(int((label == train_id).sum()) for _, label in pairs.values())
    with_class = {int(c): v for c, v in json.loads((tmp_path / "out/samples_with_class.json").read_text()).items()}
    names = {file.split("/")[-1] for file, pixels in with_class[8] if pixels > 3}
    assert names == {"night-000001_labelTrainIds.png"}
    segmentation_maps = {f"{p.stem}_labelTrainIds.png" for p in (tmp_path / "out/images").glob("*.png")}
    assert names <= segmentation_maps


def test_misaligned_images_are_left_out(tmp_path: Path) -> None:
    write_images(tmp_path / "set")
    assert export(tmp_path / "set", tmp_path / "out", 0.5) == 3
    kept = sorted(path.stem for path in (tmp_path / "out/images").iterdir())
    assert kept == ["night-000001", "night-000002", "night-000003"]
    assert len(json.loads((tmp_path / "out/sample_class_stats.json").read_text())) == 3
    with pytest.raises(UserError, match=r"alignment of 0\.95 or more, the best has 0\.900"):
        export(tmp_path / "set", tmp_path / "none", 0.95)
    assert not (tmp_path / "none").exists()


def test_an_interrupted_export_continues(tmp_path: Path) -> None:
    write_images(tmp_path / "set")
    export(tmp_path / "set", tmp_path / "whole")

    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "set", tmp_path / "resumed", progress=interrupted_after(2))
    first = tmp_path / "resumed/images/night-000000.png"
    made = first.stat().st_mtime_ns
    export(tmp_path / "set", tmp_path / "resumed")
    assert first.stat().st_mtime_ns == made and files(tmp_path / "resumed") == files(tmp_path / "whole")


def test_what_an_export_does_not_overwrite(tmp_path: Path) -> None:
    write_images(tmp_path / "set")
    export(tmp_path / "set", tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(UserError, match="holds another export"):
        export(tmp_path / "set", tmp_path / "out", 0.5)
    with pytest.raises(UserError, match="no export of ours"):
        export(tmp_path / "set", tmp_path / "set")
    with pytest.raises(UserError, match="is a file"):
        export(tmp_path / "set", tmp_path / "out/export.json")
    with pytest.raises(UserError, match=r"holds no data/\*\.parquet"):
        export(tmp_path / "out", tmp_path / "again")
    assert files(tmp_path / "out") == before


def test_the_command_takes_a_key_or_a_folder(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")

    def build(folder: Path) -> None:
        write_images(folder)

    artifact = store.get_or_build(Stage("generated", 1), {}, {}, build)
    for name, place in (("by-key", artifact.key[:8]), ("by-folder", str(artifact.folder))):
        arguments = ["export", place, "--to", str(tmp_path / name), "--store", str(tmp_path / "store")]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines()[-1] == f"4 images in {tmp_path / name}"
    assert files(tmp_path / "by-key") == files(tmp_path / "by-folder")
    assert CliRunner().invoke(app, ["export", "nowhere", "--to", str(tmp_path / "x")]).exit_code == 2
