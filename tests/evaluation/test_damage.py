"""Evaluations whose files were damaged on the disk (case F07), and names that are no file names (F06)."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from evaluation.counts import read_image_counts
from evaluation.inference import PredictedLabels
from evaluation.parts import ScoredPart, read_part
from evaluation.report import build_report
from evaluation.schema import counts_file, prediction_file, read_evaluation
from evaluation.scoring import Task, load_scorer
from evaluation.summary import ReportContent, TrainedModel
from pipeline.config.evaluation import EvaluationConfig
from pipeline.errors import UserError
from pipeline.store.manifest import file_table
from pipeline.work.units import PARTS, WORK
from tests.scored import read_truth, score, write_scenes
from tests.tracks import interrupted_after

CONFIG = EvaluationConfig(keep_predictions="all")
Damage = Callable[[Path], object]


def same(one: ScoredPart, other: ScoredPart) -> bool:
    columns = zip(one.counts, other.counts, strict=True)
    return one[1:] == other[1:] and all(np.array_equal(first, second) for first, second in columns)


def test_a_part_with_a_flipped_bit_is_whole_or_refused(tmp_path: Path) -> None:
    """Every 61st bit of a part flipped, one at a time: what is read is what was written, or nothing."""
    scenes = write_scenes(tmp_path / "fog", 3)
    scenes[1].label.unlink()
    file, ids = tmp_path / "part", [scene.id for scene in scenes]
    make = load_scorer(lambda device, batch_size: read_truth, CONFIG, 1, "cpu")
    assert len(list(make(Task("fog", scenes, frozenset(ids)), file))) == 3
    whole, content = read_part(file, ids, CONFIG.widths), file.read_bytes()
    assert whole is not None
    refused = 0
    for bit in range(0, 8 * len(content), 61):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        found = read_part(file, ids, CONFIG.widths)
        assert found is None or same(found, whole)
        refused += found is None
    assert refused > 0.6 * len(content) * 8 / 61
    for length in range(0, len(content), 97):
        file.write_bytes(content[:length])
        assert read_part(file, ids, CONFIG.widths) is None
    file.write_bytes(content)
    assert read_part(file, ids[::-1], CONFIG.widths) is None, "another order of scenes"
    assert read_part(file, ids[:2], CONFIG.widths) is None, "other scenes"
    assert read_part(file, ids, [1]) is None, "other widths"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for at in range(len(content) // 4, len(content), 40):  # one bit alone may lie in a date that nobody reads
        content[at] ^= 1
    path.write_bytes(content)


def folder_instead(path: Path) -> None:
    path.unlink()
    (path / "in it").mkdir(parents=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_bytes(b"<html>no part</html>"),
        lambda path: path.write_bytes((path.parent / path.name.replace("00000-of", "00001-of")).read_bytes()),
        flip,
        folder_instead,
    ],
    ids=["empty", "truncated", "a web page", "another part", "flipped", "a folder"],
)
def test_a_damaged_part_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Damage) -> None:
    """Case F07: a truncated part was a traceback at every try, an empty one "Aborted."."""
    monkeypatch.setattr("evaluation.evaluate.UNIT", 2)
    domains = {"fog": write_scenes(tmp_path / "fog", 5)}
    score(read_truth, domains, CONFIG, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        score(read_truth, domains, CONFIG, tmp_path / "out", progress=interrupted_after(4))
    parts = sorted((tmp_path / "out" / WORK / PARTS).iterdir())
    damage(parts[0])
    seen: list[object] = []

    def noted(images: NDArray[np.uint8], size: tuple[int, int]) -> PredictedLabels:
        seen.extend(images[:, -1, -1])
        return read_truth(images, size)

    score(noted, domains, CONFIG, tmp_path / "out")
    for folder in (tmp_path / "out", tmp_path / "whole"):
        shutil.rmtree(folder / WORK)  # as the store does
    assert file_table(tmp_path / "out") == file_table(tmp_path / "whole")
    assert len(parts) == 3 and len(seen) == 2, "whole parts are kept"


def test_a_damaged_result_in_an_unfinished_folder_is_made_again(tmp_path: Path) -> None:
    domains = {"fog": write_scenes(tmp_path / "fog", 2)}
    score(read_truth, domains, CONFIG, tmp_path / "out")
    whole = file_table(tmp_path / "out")
    for content in (b"", b"{}", (tmp_path / "out" / "evaluation.json").read_bytes()[:-9]):
        (tmp_path / "out" / "evaluation.json").write_bytes(content)
        score(read_truth, domains, CONFIG, tmp_path / "out")
        assert file_table(tmp_path / "out") == whole


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"no zip"), flip, folder_instead])
def test_damaged_counts_of_a_finished_evaluation_are_one_line(tmp_path: Path, damage: Damage) -> None:
    score(read_truth, {"fog": write_scenes(tmp_path / "fog", 2)}, CONFIG, tmp_path / "out")
    damage(counts_file(tmp_path / "out", "fog"))
    with pytest.raises(UserError, match="is damaged|not found") as caught:
        read_image_counts(tmp_path / "out", "fog")
    assert "\n" not in str(caught.value) and "evaluate again" in str(caught.value)


def test_an_interrupt_while_a_part_is_read_stays_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case F18: what catches damage must not catch Ctrl-C."""
    (tmp_path / "part").write_bytes(b"")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "load", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_part(tmp_path / "part", [], [5])


NAMES = ("../../ESC", "a/b", "[bold]d[/bold]", "$x_{$", "n" * 300, "%2e%2e", "..", "con\u202etxt", "Überlandstraße 1")


def test_names_become_files_inside_the_folder_only_and_stay_as_they_are_in_words(tmp_path: Path) -> None:
    """Case F06: target and scene names wrote outside the artifact or ended in a traceback after all training."""
    scenes = write_scenes(tmp_path / "scenes", len(NAMES))
    odd = [replace(scene, id=name) for scene, name in zip(scenes, NAMES, strict=True)]
    domains = {name: [scene] for name, scene in zip(NAMES, odd, strict=True)}
    domains["all of them"] = odd
    work = tmp_path / "deep" / "down" / "work"
    methods = ("[/]", "$a$ <b>&")
    models = [TrainedModel(name, 0, work / str(k)) for k, name in enumerate(methods)]
    for model in models:
        score(read_truth, domains, CONFIG, model.evaluation)
    shown = {name: domains[name] for name in (*NAMES[:5], "all of them")}
    build_report(ReportContent("<r> $y$", models, shown, None, {}, {}), work / "report")
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")} == {"scenes", "deep"}
    assert [path.name for path in (tmp_path / "deep").rglob("*")][:2] == ["down", "work"]
    evaluation = read_evaluation(models[0].evaluation)
    assert list(evaluation.domains) == list(domains)
    for name in NAMES:
        assert evaluation.domains[name].predictions == (name,)
        assert read_image_counts(models[0].evaluation, name).ids.tolist() == [name]
        with Image.open(prediction_file(models[0].evaluation, name, name)) as picture:
            assert picture.size == (24, 16)
    page = (work / "report" / "index.html").read_text().split("</style>")[1]
    for name in (*NAMES[:5], *methods):
        assert name in unescape(page)
    assert "<b>&" not in page and "<r>" not in re.sub(r"<!--.*?-->", "", page)
    chart = (work / "report" / "figures" / "miou.svg").read_text()
    assert "<!-- $x_{$ -->" in chart and "<!-- [/] -->" in chart
