"""Every table holds, under each of its headings, the report's own number (issue 11 §9, issue 16 §9); names are shown as
they are; without a terminal nothing is cut (case 18)."""

import math
from pathlib import Path

import numpy as np
import pytest

from evaluation.bootstrap import Difference, interval
from evaluation.compare import Comparison
from evaluation.counts import read_image_counts
from evaluation.schema import read_evaluation
from flows import tables
from flows.commands.data_check import Finding
from flows.commands.summary import print_evaluation
from flows.commands.tables import (
    CacheRow,
    cache_table,
    data_table,
    plan_table,
    quality_table,
    stages_table,
)
from flows.commands.weights_quality import Quality, Reading
from flows.registered_models import Verdict
from flows.score_tables import classes_table, comparison_table, method_columns, methods_table, scores_table
from flows.tables import Column, named_rows
from pipeline.config.evaluation import EvaluationConfig
from pipeline.data.labels import CLASS_NAMES, NUM_CLASSES
from pipeline.requests import Box, GenerationRequest
from pipeline.store.artifacts import Artifact, Event
from pipeline.store.manifest import Manifest
from tests.artifact_manifests import manifest_of
from tests.made_reports import ODD, made_report
from tests.scored import write_evaluation
from tests.tables import cells, counted, percent, read_back


@pytest.mark.parametrize("domains", [["fog"], ["fog", ODD], ["class", "domain", "average speed", "a" * 80]])
def test_scores_and_classes_stand_under_their_headings(tmp_path: Path, domains: list[str]) -> None:
    """`flexseg evaluate` printed its numbers one column off: the boundary error stood under "pixels right"."""
    counts = {name: counted(k) for k, name in enumerate(domains)}
    write_evaluation(tmp_path, counts, EvaluationConfig(band=5, curve=(2,)))
    evaluation = read_evaluation(tmp_path)
    for row, name in zip(cells(scores_table(evaluation, tmp_path)), domains, strict=True):
        scores = evaluation.domains[name]
        low, high = interval(read_image_counts(tmp_path, name).confusion)
        assert scores.calibration is not None
        assert row == {
            "domain": name,
            "mIoU": percent(scores.miou),
            "95% interval": f"{percent(low)} to {percent(high)}",
            "pixels right": percent(scores.pixel_accuracy),
            "boundary error": percent(scores.boundary_error),
            "interior error": percent(scores.interior_error),
            "calibration error": percent(scores.calibration.ece),
            "images": "6",
            "network input": "1 × 2×2 px",
        }
        assert len({row[heading] for heading in list(row)[1:8]}) == 7, "numbers that differ, or nothing is shown"
    if len({"class", *domains}) <= len(domains):
        return  # read back by name, a domain called "class" would hide the classes
    for train_id, row in enumerate(cells(classes_table(evaluation))):
        expected = {name: percent(evaluation.domains[name].iou[train_id]) for name in domains}
        assert row == {"class": CLASS_NAMES[train_id]} | expected


def test_evaluate_prints_the_numbers_of_its_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole of what `flexseg evaluate` prints, read back from the text."""
    write_evaluation(tmp_path, {"fog": counted(0), ODD: counted(1)}, EvaluationConfig(band=5, curve=(2,)))
    assert print_evaluation(artifact("evaluation", "key", 1, tmp_path))
    printed = capsys.readouterr().out
    start = printed.index("Scores in percent")
    classes, scores = read_back(printed[:start]), read_back(printed[start:])
    for row, (name, domain) in zip(scores, read_evaluation(tmp_path).domains.items(), strict=True):
        assert row["domain"] == name and row["mIoU"] == percent(domain.miou)
        assert row["pixels right"] == percent(domain.pixel_accuracy)
        assert row["boundary error"] == percent(domain.boundary_error)
        assert [line[name] for line in classes] == [percent(value) for value in domain.iou]
    assert f"Predictions and numbers: {tmp_path}" in printed


@pytest.mark.parametrize("score", ["miou", "boundary_error", "interior_error"])
@pytest.mark.parametrize(("domains", "seeds"), [(("fog",), 1), (("fog", "snow"), 3), (("a", ODD, "c" * 99), 2)])
def test_methods_stand_beside_their_own_scores_in_the_terminal_and_in_prefect(
    score: str, domains: tuple[str, ...], seeds: int
) -> None:
    report = made_report(*domains, seeds=seeds)
    expected = []
    for method in report.methods:
        stats = getattr(method, score)
        texts = {
            place: percent(stats[place].mean) + ("" if seeds == 1 else f" ± {percent(stats[place].spread)}")
            for place in report.places
        }
        expected.append({"method": method.name} | texts)
    drawn = methods_table(report, score)
    assert cells(drawn) == expected
    assert named_rows(method_columns(report, score), report.methods) == expected
    title = str(drawn.title)
    assert ("one seed" in title) == (seeds == 1) and {"miou": "mIoU", "boundary_error": "within 2 px"}.get(
        score, "farther than 2 px"
    ) in title


def test_differences_stand_under_their_headings() -> None:
    fog, mean = Difference(0.0123, -0.004, 0.0301, 0.021), Difference(-0.02, -0.031, -0.011, 0.2)
    nothing = Difference(math.nan, math.nan, math.nan, math.nan)
    found = cells(comparison_table(Comparison({ODD: fog, "none": nothing}, mean, {}), "a", "b"))
    assert found == [
        {"domain": ODD, "difference": "+1.23", "95% interval": "-0.40 to +3.01", "p": "0.021", "verdict": "better"},
        {"domain": "none", "difference": "-", "95% interval": "-", "p": "-", "verdict": "not significant"},
        {
            "domain": "mean",
            "difference": "-2.00",
            "95% interval": "-3.10 to -1.10",
            "p": "0.2",
            "verdict": "not significant",
        },
    ]


def request(class_id: int, condition: str) -> GenerationRequest:
    return GenerationRequest("id", "scene", Box(0, 0, 1, 1), class_id, condition, "prompt", 0)


def test_planned_images_stand_under_their_condition() -> None:
    requests = [request(11, "snow")] * 3 + [request(0, "[/]")] * 4 + [request(11, "[/]")]
    assert cells(plan_table(requests)) == [
        {"class": "road", "snow": "0", "[/]": "4", "all": "4", "share": "50.0%"},
        {"class": "person", "snow": "3", "[/]": "1", "all": "4", "share": "50.0%"},
        {"class": "all", "snow": "3", "[/]": "5", "all": "8", "share": "100.0%"},
        {"class": "share", "snow": "37.5%", "[/]": "62.5%", "all": "100.0%", "share": "100.0%"},
    ]


def artifact(kind: str, key: str, seconds: float, folder: Path = Path()) -> Artifact:
    return Artifact(kind, key, folder, Manifest.model_validate(manifest_of({}, seconds=seconds)))


def test_stages_and_the_cache_stand_under_their_headings() -> None:
    one, two, three = artifact("world", "a", 2), artifact("segmenter", "b", 60), artifact("segmenter", "c", 5)
    history: list[tuple[Event, Artifact]] = [("cached", one), ("built", two), ("cached", three), ("cached", two)]
    assert cells(stages_table(history)) == [
        {"stage": "world", "built now": "0", "from the cache": "1", "time to make": "2.0 s"},
        {"stage": "segmenter", "built now": "1", "from the cache": "1", "time to make": "1 min 05 s"},
    ]
    rows = [CacheRow(f"segmenter {ODD}", "0123456789abcdef99", two, ""), CacheRow("images", "k", None, "3 of 9 made")]
    assert cells(cache_table([*rows, CacheRow("none", "k", None, "")])) == [
        {"what": f"segmenter {ODD}", "key": "0123456789abcdef", "state": "made, took 1 min 00 s"},
        {"what": "images", "key": "k", "state": "3 of 9 made"},
        {"what": "none", "key": "k", "state": "to be made"},
    ]


def test_what_was_found_in_data_sets_stands_under_its_headings() -> None:
    pixels = np.arange(NUM_CLASSES)
    whole = Finding(ODD, 7, None, [(64, 128)], {"fog": 3, "[b]": 4}, pixels, [])
    part = Finding("gta", 2, 24966, [(1, 2), (3, 4)], {}, np.zeros(NUM_CLASSES, np.int64), ["a", "b"])
    assert cells(data_table([whole, part])) == [
        {
            "data set": ODD,
            "scenes": "7",
            "px": "128×64",
            "conditions": "[b] 4, fog 3",
            "labeled px": "171",
            "classes that do not occur": "road",
            "problems": "0",
        },
        {
            "data set": "gta",
            "scenes": "2 of 24,966",
            "px": "2×1 to 4×3",
            "conditions": "",
            "labeled px": "0",
            "classes that do not occur": "all",
            "problems": "2",
        },
    ]


def test_a_generators_quality_stands_under_its_headings() -> None:
    def reading(first: float) -> Reading:
        scores = {"fog": first + 0.01, "night": None}
        return Reading(
            miou=first,
            iou={},
            boundary_error=0.5,
            interior_error=0.4,
            miou_by_condition=scores,
            weather_accuracy=first + 0.1,
            weather_accuracy_by_condition={"fog": first + 0.2},
        )

    found = cells(quality_table(Quality(
        images=9, oracle_scenes=1, weather_images=1, generated=reading(0.2), true=reading(0.5), miou_ratio=0.4
    )))  # fmt: skip
    assert [tuple(row.values()) for row in found] == [
        ("oracle's mIoU", "all", "20.0", "50.0"),
        ("oracle's mIoU", "fog", "21.0", "51.0"),
        ("oracle's mIoU", "night", "-", "-"),
        ("weather classifier", "all", "30.0", "60.0"),
        ("weather classifier", "fog", "40.0", "70.0"),
    ]
    assert list(found[0]) == ["read by", "of", "generated", "true"]


def test_verdicts_on_models_stand_under_their_headings() -> None:
    from flows.server.pages import VERDICT_COLUMNS

    verdicts = [Verdict("a", True, [], 0.123, -0.0045, "0123456789abcdefgh"), Verdict(ODD, False, ["no"])]
    assert named_rows(VERDICT_COLUMNS, verdicts) == [
        {
            "model": "a",
            "verdict": "passed",
            "mIoU": "12.3",
            "against baseline": "-0.45",
            "evaluation": "0123456789abcdef",
        },
        {"model": ODD, "verdict": "FAILED", "mIoU": "-", "against baseline": "-", "evaluation": "-"},
    ]


def test_two_columns_of_one_name_are_no_rows() -> None:
    columns = [Column[str]("method", str), Column[str]("method", str.upper)]
    with pytest.raises(ValueError, match="one heading"):
        named_rows(columns, ["a"])
    assert tables.table("", columns, ["a"]).row_count == 1
