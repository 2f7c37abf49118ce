"""Exports: the folders and statistics that DAFormer's and HRDA's code reads, true to the data set."""

import errno
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from generation.export import export
from generation.samples import make_sample, write_shard
from pipeline.data.labels import IGNORE
from pipeline.errors import UserError
from pipeline.files import unfinished_folder
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


def test_an_interrupted_export_continues_and_appears_at_once(tmp_path: Path) -> None:
    """Case F13."""
    write_images(tmp_path / "set")
    export(tmp_path / "set", tmp_path / "whole")
    target = tmp_path / "resumed"
    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "set", target, progress=interrupted_after(2))
    assert not target.exists()
    first = unfinished_folder(target) / "images/night-000000.png"
    made = first.stat().st_mtime_ns
    assert export(tmp_path / "set", target) == 4
    assert (target / "images/night-000000.png").stat().st_mtime_ns == made
    assert files(target) == files(tmp_path / "whole") and not unfinished_folder(target).exists()
    assert export(tmp_path / "set", target) == 4  # it is there already
    assert files(target) == files(tmp_path / "whole")


def test_an_export_that_was_begun_for_other_images_is_begun_anew(tmp_path: Path) -> None:
    write_images(tmp_path / "set")
    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "set", tmp_path / "out", progress=interrupted_after(2))
    assert export(tmp_path / "set", tmp_path / "out", 0.6) == 2
    assert sorted(path.stem for path in (tmp_path / "out/images").iterdir()) == ["night-000002", "night-000003"]


def test_a_full_disk_ends_an_export_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case F13."""
    write_images(tmp_path / "set")

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("generation.export._write_statistics", full)
        with pytest.raises(UserError, match="No space left on device.* run the same command again") as caught:
            export(tmp_path / "set", tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
    assert export(tmp_path / "set", tmp_path / "out") == 4


def picture(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


PIXELS = np.random.default_rng(1).integers(0, 256, (4, 6, 3)).astype(np.uint8)
IDS = np.arange(24, dtype=np.uint8).reshape(4, 6) % 19


def foreign(folder: Path, *rows: tuple[Any, Any, str | None]) -> Path:
    """A data set that somebody else made: (image, label, name of the image) per row."""
    (folder / "data").mkdir(parents=True)
    table = [
        {"image": {"bytes": image, "path": name}, "label": {"bytes": label, "path": name}, "source": "0"}
        for image, label, name in rows
    ]
    cell = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": cell, "label": cell, "source": pa.string()})
    pq.write_table(pa.Table.from_pylist(table, schema=schema), folder / "data/train-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ["same.png"] * 4,
        ["..", ".", "", "/"],
        ["../../x.png", "/x.png", "a/b.png", "a\\b.png"],
        ["\0.png", "n" * 300, None, None],
        ["000001.png", None, "000001.png", "000003"],
        ["[bold].png", "$x$.png", "ä.png", "a\nb.png"],
    ],
)
def test_names_of_others_become_names_in_the_folder(names: list[str | None], tmp_path: Path) -> None:
    """Case F10: repeated names, "..", "" gave "4 images" and fewer files; NUL and 300 characters gave tracebacks."""
    pairs = [(np.roll(PIXELS, k), np.roll(IDS, k)) for k in range(4)]
    rows = [(picture(image), picture(label), name) for (image, label), name in zip(pairs, names, strict=True)]
    (tmp_path / "in").mkdir()
    count = export(foreign(tmp_path / "in/set", *rows), tmp_path / "in/out")
    images, labels = (sorted((tmp_path / "in/out" / name).iterdir()) for name in ("images", "labels"))
    assert count == len(images) == len(labels) == 4
    assert [file.name.removesuffix("_labelTrainIds.png") for file in labels] == [file.stem for file in images]
    written = {file.read_bytes() for file in images}
    assert written == {row[0] for row in rows}
    assert sorted(path.name for path in tmp_path.rglob("*") if path.parent in (tmp_path, tmp_path / "in")) == [
        "in", "out", "set",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("image", "label"),
    [
        (None, picture(IDS)),
        (picture(PIXELS), None),
        (picture(PIXELS), b"junk"),
        (b"junk", picture(IDS)),
        (picture(PIXELS), picture(PIXELS)),
        (picture(PIXELS), picture(IDS.astype(np.uint16) + 300)),
        (picture(PIXELS), picture(IDS + 19)),
        (picture(PIXELS)[:60], picture(IDS)),
        (picture(PIXELS), picture(IDS[:2])),
    ],
)
def test_rows_that_are_none_end_in_one_line(image: bytes | None, label: bytes | None, tmp_path: Path) -> None:
    """Case F10: junk, RGB, 16-bit and out-of-range labels were written out; null bytes gave a traceback."""
    good = (picture(PIXELS), picture(IDS), "good.png")
    folder = foreign(tmp_path / "set", good, (image, label, "bad.png"))
    with pytest.raises(UserError, match="row 1") as caught:
        export(folder, tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_images_of_other_formats_are_written_as_png(kind: str, tmp_path: Path) -> None:
    content = picture(PIXELS, kind)
    assert export(foreign(tmp_path / "set", (content, picture(IDS), "a.jpg")), tmp_path / "out") == 1
    with Image.open(tmp_path / "out/images/a.png") as image, Image.open(io.BytesIO(content)) as original:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), np.asarray(original))


def test_a_png_that_is_to_be_turned_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # orientation: upside down
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format="PNG", exif=exif)
    export(foreign(tmp_path / "set", (buffer.getvalue(), picture(IDS), "a.png")), tmp_path / "out")
    with Image.open(tmp_path / "out/images/a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), PIXELS[::-1, ::-1])
        assert not image.getexif()


@pytest.mark.parametrize("place", ["afile/sub", "afile", "n" * 250])
def test_a_place_that_cannot_be_written_is_said_first(place: str, tmp_path: Path) -> None:
    """Case 20."""
    write_images(tmp_path / "set")
    (tmp_path / "afile").write_text("")
    with pytest.raises(UserError, match="--to ") as caught:
        export(tmp_path / "set", tmp_path / place)
    assert "\n" not in str(caught.value)


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
