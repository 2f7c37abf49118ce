"""Data sets in a run: their content decides over keys, wherever they lie and whatever their dates."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows import data_stages, recipes
from flows.domains import say
from flows.run import Run
from pipeline.config.experiment import load_config
from pipeline.data import fingerprints


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A source in GTA's layout and a target in BDD100K's, of two scenes each."""
    for place, ending in (("gta/images", "png"), ("bdd/images/10k/val", "jpg")):
        for k in range(2):
            write(tmp_path / place / f"{k}.{ending}", np.full((64, 128, 3), 90 + k, np.uint8))
    for place in ("gta/labels", "bdd/labels/sem_seg/masks/val"):
        for k in range(2):
            write(tmp_path / place / f"{k}.png", np.full((64, 128), 7 + k, np.uint8))
    return tmp_path


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def run(write_config: Callable[..., Path], stand_in_weights: Path, root: Path) -> Callable[..., Run]:
    """The miniature on these data sets, below `folder` where they were copied to."""

    def open_run(folder: Path = root, *overrides: str) -> Run:
        source = {"name": "gta", "root": str(folder / "gta"), "layout": "gta"}
        target = {"name": "bdd", "root": str(folder / "bdd"), "layout": "bdd100k"}
        return Run(load_config(write_config(stand_in_weights, data={"source": source, "targets": [target]}), overrides))

    return open_run


def keys(run: Run) -> dict[str, str]:
    return {what: run.key(recipe) for what, recipe in recipes.recipes(run)}


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("bdd/labels/sem_seg/masks/val/1.png", "evaluation"),
        ("bdd/images/10k/val/1.jpg", "evaluation"),
        ("gta/images/1.png", "segmenter evaluation"),  # painting looks at label maps alone
        ("gta/labels/1.png", "generated alignment segmenter evaluation"),
    ],
)
def test_case_09_a_file_that_changed_under_its_old_date(
    run: Callable[..., Run], root: Path, monkeypatch: pytest.MonkeyPatch, file: str, changed: str
) -> None:
    monkeypatch.setattr(fingerprints, "SETTLED_S", 0.0)
    before, status = keys(run()), (root / file).stat()
    content = bytearray((root / file).read_bytes())
    content[-20] ^= 1
    (root / file).write_bytes(content)
    os.utime(root / file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert ((root / file).stat().st_size, (root / file).stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = keys(run())
    assert {what.split()[0].removesuffix(",") for what in before if before[what] != after[what]} == set(changed.split())


def test_label_maps_of_a_target_that_do_not_look_right(
    run: Callable[..., Run], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The target's are all ignored; one of them cannot be read, which is for the evaluation to say."""
    say.cache_clear()
    write(root / "bdd/labels/sem_seg/masks/val/0.png", np.full((64, 128), 255, np.uint8))
    (root / "bdd/labels/sem_seg/masks/val/1.png").write_bytes(b"")
    (target,) = run().targets
    assert len(target.scenes) == 2
    capsys.readouterr()
    data_stages.warn_of_labels(target)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: bdd, 1 of its label maps: 100.0% of all px are ignored")


def test_copies_of_a_data_set_share_artifacts_through_one_remote(
    run: Callable[..., Run], root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root / "gta", root / "copy/gta", copy_function=shutil.copyfile)
    shutil.copytree(root / "bdd", root / "copy/bdd", copy_function=shutil.copyfile)
    for path in (root / "copy").rglob("*.*"):
        os.utime(path, ns=(1, 1))
    remote = f"machine.remote=file://{tmp_path}/remote"
    first = run(root, remote, f"machine.store={tmp_path}/first")
    second = run(root / "copy", remote, f"machine.store={tmp_path}/second")
    assert keys(first) == keys(second)
    made = data_stages.class_statistics(first)
    shutil.rmtree(root / "copy/gta/labels")  # nothing is counted again
    taken = data_stages.class_statistics(second)
    assert taken.key == made.key and [event for event, _ in second.history] == ["cached"]
