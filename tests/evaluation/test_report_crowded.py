"""Reports that are hard to draw: many methods, conditions, calibration, files that cannot be read, published names."""

import csv
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation import figures
from evaluation.counts import read_image_counts
from evaluation.published import published_scores
from evaluation.report_schema import read_report
from evaluation.scenes import DomainScene, image_scores, pictured, scene_groups
from evaluation.summary import ReportContent


@pytest.fixture(scope="module")
def numbers(crowded_report: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((crowded_report / "report.json").read_text())
    return content


@pytest.fixture(scope="module")
def page(crowded_report: Path) -> str:
    return (crowded_report / "index.html").read_text().split("</style>")[1]


def test_a_domain_without_images_stays_visible_and_has_no_score(numbers: dict[str, Any], page: str) -> None:
    assert {(row["miou"]["bdd100k"]["mean"], row["gain"]["bdd100k"]["mean"]) for row in numbers["methods"]} == {
        (None, None)
    }
    domain = next(domain for domain in numbers["domains"] if domain["name"] == "bdd100k")
    assert (domain["images"], len(domain["skipped"])) == (0, 2)
    assert "no image could be used" in page
    assert "bdd100k: 2 files could not be used and are in no score." in page
    for entry in domain["skipped"]:
        assert entry["reason"] in unescape(page)
    table = page[page.index('<table class="scores">') : page.index('<tbody class="published">')]
    cells = [re.findall(r'<span class="value">([^<]*)<', row) for row in table.split("</tr>")[1:11]]
    assert {row[2] for row in cells} == {"–"}
    assert all(float(score) > 0 for row in cells for score in (row[0], row[1], row[3]))
    assert "on average over 2 of 3 unseen domains" in numbers["headline"]


def test_published_rows_stand_beside_ours_and_warn_of_other_images(numbers: dict[str, Any], page: str) -> None:
    ours = {row["name"]: row["miou"] for row in numbers["published"]["rows"]}
    expected = {"acdc": 0.4656, "dark_zurich": 0.2951, "bdd100k": 0.5206, "average": (0.4656 + 0.2951) / 2}
    assert ours["DAFormer + FLEX-Seg"] == pytest.approx(expected)
    assert "<td>46.56</td>" in page
    assert re.search(r"do not compare:\s+acdc \(4 images here, 406 there\)", page)


def test_published_scores_match_by_name_and_average_only_like_with_like() -> None:
    assert published_scores({"clear": 40, "fog": 40}) is None
    counts = {"ACDC": 406, "Dark Zurich": 50, "cityscapes": 500, "bdd100k": 1000, "mapillary": 2000}
    published = published_scores(counts)
    assert published is not None
    means = {row.name: round(100 * (row.miou["average"] or 0), 2) for row in published.rows}
    assert means == {
        "DAFormer + DGInStyle": 46.47, "DAFormer + FLEX-Seg": 48.58, "HRDA + DGInStyle": 48.99, "HRDA + FLEX-Seg": 50.07
    }  # fmt: skip
    assert published.other_counts == ()
    mixed = published_scores({"cityscapes": 500, "camvid": 101})
    assert mixed is not None
    assert mixed.rows[0].miou == {"cityscapes": pytest.approx(0.5531), "camvid": None, "average": None}


def test_conditions_are_scored_apart(crowded: ReportContent, numbers: dict[str, Any], crowded_report: Path) -> None:
    images = read_image_counts(crowded.models[1].evaluation, "acdc")
    scores = numbers["methods"][1]["conditions"]["acdc"]
    assert list(scores) == ["fog", "night"]
    for name, each in scores.items():
        confusion = images.where(name).confusion.sum(axis=0)
        assert each["images"] == 2
        assert each["pixel_accuracy"]["mean"] == pytest.approx(np.trace(confusion) / confusion.sum())
    with (crowded_report / "scores.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "GAP" and row["condition"] == "night"]
    assert [(row["domain"], float(row["miou"])) for row in rows] == [("acdc", scores["night"]["miou"]["mean"])]


def test_reliability_pools_all_pixels(crowded: ReportContent, numbers: dict[str, Any]) -> None:
    parts = [read_image_counts(crowded.models[1].evaluation, name) for name in ("acdc", "dark_zurich")]
    pixels, right = (sum(getattr(part, name).sum(axis=0) for part in parts) for name in ("bin_pixels", "bin_right"))
    bins = numbers["methods"][1]["calibration"]
    assert [each["pixels"] for each in bins] == pixels.tolist()
    assert [each["accuracy"] for each in bins if each["pixels"]] == pytest.approx(
        (right[pixels > 0] / pixels[pixels > 0]).tolist()
    )
    assert {each["accuracy"] for each in bins if not each["pixels"]} == {None}


def test_no_missing_number_is_written_as_a_number(crowded_report: Path) -> None:
    for file in ("report.json", "index.html", "scores.csv", "classes.csv"):
        assert not re.search(r"\bnan\b", (crowded_report / file).read_text(), re.IGNORECASE), file


def test_every_method_has_a_look_of_its_own(crowded_report: Path) -> None:
    first = read_report(crowded_report).methods[0]
    rows = tuple(first.model_copy(update={"name": str(index)}) for index in range(32))
    looks = figures.looks(read_report(crowded_report).model_copy(update={"methods": rows}))
    assert len(set(looks.values())) == 32
    assert len({look[:2] for look in looks.values()}) == 8


def test_scenes_are_chosen_by_their_scores() -> None:
    before = {"fog": {"a": 0.5, "b": 0.9, "c": 0.4, "only before": 0.0}, "rain": {"d": 0.3, "e": 0.8}}
    after = {"fog": {"a": 0.7, "b": 0.6, "c": 0.41}, "rain": {"d": 0.2, "e": 0.8}}
    first, worst, improved, worsened = scene_groups({"A": before, "B": after}, "A", "B")
    assert first.places == [
        DomainScene("fog", "a"),
        DomainScene("fog", "b"),
        DomainScene("fog", "c"),
        DomainScene("rain", "d"),
        DomainScene("rain", "e"),
    ]
    assert worst.places == [
        DomainScene("rain", "d"),
        DomainScene("fog", "c"),
        DomainScene("fog", "b"),
        DomainScene("fog", "a"),
        DomainScene("rain", "e"),
    ]
    assert improved.places == [DomainScene("fog", "a"), DomainScene("fog", "c")]
    assert worsened.places == [DomainScene("fog", "b"), DomainScene("rain", "d")]
    alone = scene_groups({"A": before}, "A", None)
    assert [group.title for group in alone] == ["The first scenes", "The worst scenes"]
    assert alone[1].places[0] == DomainScene("fog", "only before")


def test_scenes_without_a_picture_are_counted(page: str) -> None:
    assert pictured({"A": {"fog": {"a": 0.1, "b": 0.2}}, "B": {"fog": {"b": 0.3}}}) == 1
    assert "The evaluation kept" not in page  # all of them, here


def test_only_scenes_with_a_picture_are_chosen(crowded: ReportContent, tmp_path: Path) -> None:
    run = crowded.models[0].evaluation
    scores = image_scores(run, crowded.domains)
    assert {domain: list(images) for domain, images in scores.items()} == {
        "acdc": ["fog_0", "fog_1", "night_0", "night_1"], "dark_zurich": ["night_0", "night_1"], "bdd100k": []
    }  # fmt: skip
    confusion = read_image_counts(run, "acdc").confusion[2]
    assert scores["acdc"]["night_0"] == np.trace(confusion) / confusion.sum()
    (tmp_path / "predictions" / "acdc").mkdir(parents=True)
    (tmp_path / "predictions" / "acdc" / "fog_1.png").touch()
    (tmp_path / "images").symlink_to(run / "images")
    assert list(image_scores(tmp_path, ["acdc"])["acdc"]) == ["fog_1"]
