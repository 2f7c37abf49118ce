"""report.json against sums done by hand, and the words and page that are made from it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.findings import findings, headline
from evaluation.report import build_report
from evaluation.summary import ReportContent, summarize
from pipeline.errors import UserError


def on_fog_alone(content: ReportContent, **changes: Any) -> ReportContent:
    """One seed, one domain, nothing generated, no training logs: the least that a report is made of."""
    runs = [replace(run, training=None) for run in content.runs[:3]]
    domains = {"fog": content.domains["fog"]}
    return replace(content, **{"runs": runs, "domains": domains, "generated": None, **changes})


def miou(content: ReportContent, method: str) -> np.ndarray:
    """(seeds, domains) straight from the evaluations."""
    folders = [run.evaluation for run in content.runs if run.method == method]
    results = [json.loads((folder / "evaluation.json").read_text())["domains"] for folder in folders]
    return np.array([[domains[name]["miou"] for name in content.domains] for domains in results])


def test_report_json_holds_mean_spread_and_gain(content: ReportContent, report: Path) -> None:
    numbers = json.loads((report / "report.json").read_text())
    assert [row["name"] for row in numbers["methods"]] == ["source only", "generated", "flexseg"]
    baseline = miou(content, "source only")
    for row in numbers["methods"]:
        scores = miou(content, row["name"])
        for column, domain in enumerate(content.domains):
            assert row["miou"][domain]["mean"] == pytest.approx(scores[:, column].mean())
            assert row["miou"][domain]["spread"] == pytest.approx(scores[:, column].std(ddof=1))
        average = scores.mean(axis=1)
        assert row["miou"]["average"]["mean"] == pytest.approx(average.mean())
        assert row["miou"]["average"]["spread"] == pytest.approx(average.std(ddof=1))
        assert row["gain"]["average"]["mean"] == pytest.approx((average - baseline.mean(axis=1)).mean())
    assert numbers["generated"]["images"] == 18
    assert numbers["generated"]["conditions"] == {"snowy": 6, "night": 6, "foggy": 6}


def test_headline_and_findings_follow_the_numbers(content: ReportContent) -> None:
    numbers = summarize(content)
    score = 100 * miou(content, "flexseg").mean()
    gain = score - 100 * miou(content, "source only").mean()
    expected = f"flexseg reaches {score:.1f} mIoU on average over 5 unseen domains, +{gain:.1f} against source only"
    assert headline(numbers) == expected
    first, second = findings(numbers)
    assert "ahead on 5 of 5 domains" in first
    assert "3 of 3 seeds" in first
    assert "Within 5 px of another class flexseg" in second


def test_a_baseline_that_wins_is_said_to_win(content: ReportContent) -> None:
    numbers = summarize(replace(content, runs=list(reversed(content.runs))))
    assert numbers["baseline"] == "flexseg"
    assert headline(numbers).startswith("No method beats flexseg")
    assert "generated is ahead on 0 of 5 domains, from −" in findings(numbers)[0]


def test_one_seed_has_no_spread_and_says_so(content: ReportContent, tmp_path: Path) -> None:
    build_report(on_fog_alone(content), tmp_path)
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["methods"][0]["miou"]["fog"]["spread"] is None
    page = (tmp_path / "index.html").read_text()
    assert "±" not in page.split("</style>")[1]
    assert "One seed, so no spread is known." in page
    assert "chance is not ruled out" in page
    assert "What was generated" not in page
    assert "How training went" not in page


def test_page_prints_the_table_and_marks_the_best(content: ReportContent, report: Path) -> None:
    page = (report / "index.html").read_text()
    table = page[page.index('<table class="scores">') : page.index("</table>")]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)[1:]
    assert len(rows) == 3
    for row, method in zip(rows, ("source only", "generated", "flexseg"), strict=True):
        scores = miou(content, method)
        expected = [f"{100 * value:.1f}" for value in [*scores.mean(axis=0), scores.mean()]]
        assert re.findall(r"<span>([\d.]+) <span", row) == expected
        assert row.count("best") == (6 if method == "flexseg" else 0)


def test_every_picture_is_written_as_a_file_too(report: Path) -> None:
    names = {file.name for file in (report / "figures").iterdir()}
    charts = {"boundary_error.png", "interior_error.png", "loss.png", "validation_miou.png", "alignment.png"}
    sheets = {"generated_snowy.png", "generated_night.png", "generated_foggy.png"}
    assert charts | sheets | {f"predictions_{d}_{d}_0.png" for d in ("clear", "fog", "rain", "snow", "night")} == names
    with Image.open(report / "figures" / "predictions_fog_fog_0.png") as sheet:
        assert sheet.size == (8 * 640 + 7 * 8, 320)  # 128x64 px enlarged five times; image, truth, 3 x (labels, errors)


def test_text_from_outside_is_escaped(content: ReportContent, tmp_path: Path) -> None:
    attack = "<script>alert(1)</script>"
    runs = [replace(run, training=None, method=attack) for run in content.runs[:1]]
    build_report(on_fog_alone(content, name=attack, runs=runs), tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert attack not in page
    assert "&lt;script&gt;alert(1)" in page


def test_classes_without_a_score_and_skipped_files_are_shown(content: ReportContent, tmp_path: Path) -> None:
    run = replace(content.runs[0], evaluation=tmp_path, training=None)
    results = json.loads((content.runs[0].evaluation / "evaluation.json").read_text())
    for domain in results["domains"].values():
        domain["iou"][16] = None
    results["domains"]["fog"]["skipped"] = [{"id": "x", "reason": "x.png: cannot be read <at all>"}]
    (tmp_path / "evaluation.json").write_text(json.dumps(results))
    build_report(on_fog_alone(content, runs=[run]), tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    trains = re.search(r'<th scope="row">train</th>(.*?)</tr>', page)
    assert trains is not None
    assert re.findall(r">([^<>]+)</td>", trains[1]) == ["–"]
    assert "x.png: cannot be read &lt;at all&gt;" in page


@pytest.mark.parametrize("without", [0, 1])
def test_a_method_without_any_score_is_no_number(content: ReportContent, tmp_path: Path, without: int) -> None:
    runs = [replace(run, training=None) for run in content.runs[:2]]
    results = json.loads((runs[without].evaluation / "evaluation.json").read_text())
    missing = dict.fromkeys(("miou", "pixel_accuracy", "boundary_error", "interior_error"))
    results["domains"]["fog"] |= {**missing, "iou": [None] * 19, "images": 0}
    (tmp_path / "evaluation.json").write_text(json.dumps(results))
    runs[without] = replace(runs[without], evaluation=tmp_path)
    build_report(on_fog_alone(content, runs=runs), tmp_path / "report")
    numbers = json.loads((tmp_path / "report" / "report.json").read_text())
    assert numbers["methods"][without]["miou"]["average"]["mean"] is None
    assert numbers["methods"][1]["gain"]["fog"]["mean"] is None
    winner = runs[1 - without].method
    assert winner in numbers["headline"]
    assert "nan" not in " ".join([numbers["headline"], *numbers["findings"]]).lower()


def test_missing_evaluations_are_one_line_errors(content: ReportContent, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one evaluated run"):
        summarize(replace(content, runs=[]))
    with pytest.raises(UserError, match="no evaluation of flexseg"):
        summarize(replace(content, runs=[replace(content.runs[2], evaluation=tmp_path)]))
    with pytest.raises(UserError, match=r"lacks the domains \['mars'\]"):
        summarize(replace(content, domains={**content.domains, "mars": []}))
