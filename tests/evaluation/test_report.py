"""report.json against sums done by hand and by others, and the words, tables and page that are made from it."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation import gallery
from evaluation.bootstrap import holm
from evaluation.compare import compare
from evaluation.counts import read_image_counts
from evaluation.findings import findings, headline
from evaluation.method_rows import SCORES
from evaluation.report import build_report
from evaluation.report_schema import Gain, ScoreStat, read_report
from evaluation.schema import read_evaluation
from evaluation.summary import ReportContent, summarize
from pipeline.config.data import DataConfig, Dataset
from pipeline.data.labels import CLASS_NAMES
from pipeline.errors import UserError

ATTACK = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def least(content: ReportContent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The least that a report is made of: one method, seed and domain, nothing else; and a hostile name."""
    folder = tmp_path_factory.mktemp("least")
    run = replace(content.models[0], training=None, method=ATTACK)
    domains = {"fog": content.domains["fog"]}
    build_report(replace(content, name=ATTACK, models=[run], domains=domains, generated=None, seconds={}), folder)
    return folder


def miou(content: ReportContent, method: str) -> np.ndarray:
    """(seeds, domains) straight from the evaluations."""
    folders = [model.evaluation for model in content.models if model.method == method]
    results = [json.loads((folder / "evaluation.json").read_text())["domains"] for folder in folders]
    return np.array([[domains[name]["miou"] for name in content.domains] for domains in results])


def test_reports_and_evaluations_come_back_as_they_were_written(content: ReportContent, report: Path) -> None:
    assert read_report(report) == summarize(content)
    assert json.loads((report / "report.json").read_text())["schema_version"] == 1
    evaluation = read_evaluation(content.models[0].evaluation)
    assert list(evaluation.domains) == list(content.domains)
    counts = read_image_counts(content.models[0].evaluation, "fog").confusion.sum(axis=0)
    assert [list(row) for row in evaluation.domains["fog"].confusion] == counts.tolist()


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
    report = summarize(content)
    score = 100 * miou(content, "flexseg").mean()
    gain = score - 100 * miou(content, "source only").mean()
    expected = f"flexseg reaches {score:.1f} mIoU on average over 5 unseen domains, +{gain:.1f} against source only"
    assert report.headline == headline(report) == expected
    assert list(report.findings) == findings(report)
    first, second = report.findings
    assert "ahead on 5 of 5 domains" in first
    assert "3 of 3 seeds" in first
    assert "Within 5 px of another class flexseg" in second


def test_a_baseline_that_wins_is_said_to_win(content: ReportContent) -> None:
    report = summarize(replace(content, models=list(reversed(content.models))))
    assert report.baseline == "flexseg"
    assert report.headline.startswith("No method beats flexseg")
    assert "generated is ahead on 0 of 5 domains, from −" in report.findings[0]


def test_one_seed_has_no_spread_and_says_so(content: ReportContent, least: Path) -> None:
    numbers = json.loads((least / "report.json").read_text())
    assert numbers["methods"][0]["miou"]["fog"]["spread"] is None
    page = (least / "index.html").read_text()
    assert "±" not in page.split("</style>")[1]
    assert "One seed, so no spread is known." in page
    for absent in ("What was generated", "How training went", "Where the time went", "Does it know", "minus"):
        assert absent not in page.split("</style>")[1]
    one_seed = summarize(replace(content, models=content.models[:2]))
    assert "One seed tells about these trained networks only, nothing about the methods." in one_seed.findings[0]


def test_text_from_outside_is_escaped(least: Path) -> None:
    page = (least / "index.html").read_text()
    assert ATTACK not in page
    assert "&lt;script&gt;alert(1)" in page


def test_page_prints_the_table_and_marks_the_best(content: ReportContent, report: Path) -> None:
    page = (report / "index.html").read_text()
    table = page[page.index('<table class="scores">') : page.index("</table>")]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)[1:]
    gains = json.loads((report / "report.json").read_text())["methods"]
    assert len(rows) == 3
    for row, method in zip(rows, ("source only", "generated", "flexseg"), strict=True):
        scores = miou(content, method)
        expected = [f"{100 * value:.1f}" for value in [*scores.mean(axis=0), scores.mean()]]
        assert re.findall(r'<span class="value">([\d.]+)<', row) == expected
        assert row.count('"best"') + row.count("average best") == (6 if method == "flexseg" else 0)
        verdicts = [gain["verdict"] for row in gains if row["name"] == method for gain in row["gain"].values()]
        assert (row.count("▲"), row.count("▼")) == (verdicts.count("better"), verdicts.count("worse"))


def test_every_picture_is_written_as_a_file_too(report: Path) -> None:
    names = {file.name for file in (report / "figures").iterdir()}
    charts = {"miou", "gain", "boundary_error", "interior_error", "boundary_curve", "interior_curve", "alignment"}
    charts |= {"confusion_0", "confusion_1", "loss", "validation_miou"}
    sheets = {"generated_snowy", "generated_night", "generated_foggy"}
    domains = ("clear", "fog", "rain", "snow", "night")
    assert {name for name in names if name.endswith(".svg")} == {f"{name}.svg" for name in charts}
    pictures = {name for name in names if name.endswith(".png")}
    assert {f"{name}.png" for name in charts | sheets} | {f"predictions_{d}_{d}_0.png" for d in domains} <= pictures
    with Image.open(report / "figures" / "predictions_fog_fog_0.png") as sheet:
        side = gallery.PICTURE_PX  # 128x64 px, enlarged; image, truth, 3 x (labels, errors)
        assert sheet.size == (8 * side + 7 * 8, side // 2)


@pytest.mark.parametrize("without", [0, 2])
def test_a_method_without_any_score_is_no_number(content: ReportContent, without: int) -> None:
    report = summarize(content)
    nothing = {"mean": None, "spread": None, "values": (None,) * 3}
    rows = []
    for index, row in enumerate(report.methods):
        lost: dict[str, object] = {}
        if index == without:
            lost = {score: dict.fromkeys(row.miou, ScoreStat(**nothing)) for score in SCORES}
        if without in (0, index):
            lost["gain"] = dict.fromkeys(row.miou, Gain(**nothing))
        rows.append(row.model_copy(update=lost))
    report = report.model_copy(update={"methods": tuple(rows)})
    words = [headline(report), *findings(report)]
    assert words[0].startswith("generated reaches" if without else "flexseg reaches")
    assert ("source only has no score" in words[0]) == (without == 0)
    assert not re.search(r"nan|None|\b0\.0\b", " ".join(words))


def test_missing_evaluations_are_one_line_errors(content: ReportContent, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one evaluated model"):
        summarize(replace(content, models=[]))
    with pytest.raises(UserError, match=r"holds no evaluation\.json"):
        summarize(replace(content, models=[replace(content.models[2], evaluation=tmp_path)]))
    with pytest.raises(UserError, match=r"lacks the domains \['mars'\]"):
        summarize(replace(content, domains={**content.domains, "mars": []}))
    with pytest.raises(UserError, match=r"baseline 'ours' is no method of this report: choose one of source only, gen"):
        summarize(replace(content, baseline="ours"))


def test_gains_carry_the_interval_and_the_verdict_of_the_paired_test(content: ReportContent) -> None:
    rows = {row.name: row for row in summarize(content).methods}
    folders = {name: [m.evaluation for m in content.models if m.method == name] for name in ("source only", "flexseg")}
    truth = compare(folders["source only"], folders["flexseg"])
    others = [name for name in rows if name != "source only"]
    alike = {
        name: compare(folders["source only"], [m.evaluation for m in content.models if m.method == name])
        for name in others
    }
    cells = [(name, place) for name in others for place in truth.domains]
    families = {
        **dict(zip(cells, holm([alike[name].domains[place].p for name, place in cells]), strict=True)),
        **dict(zip([(n, "average") for n in others], holm([alike[n].mean.p for n in others]), strict=True)),
    }
    gains = rows["flexseg"].gain
    for place, expected in {**truth.domains, "average": truth.mean}.items():
        assert gains[place].mean == pytest.approx(expected.difference)
        assert (gains[place].low, gains[place].high) == (expected.low, expected.high)
        assert gains[place].p == families["flexseg", place]
        assert gains[place].verdict == ("better" if families["flexseg", place] < 0.05 else None)
        assert gains[place].about == "methods"
    own = rows["source only"]
    assert own.gain["fog"] == Gain(mean=0, spread=0, values=(0, 0, 0))
    low, high = own.miou["fog"].low, own.miou["fog"].high
    assert low is not None and high is not None and low <= high


def test_baseline_can_be_chosen_and_comes_first(content: ReportContent) -> None:
    report = summarize(replace(content, baseline="generated"))
    assert [row.name for row in report.methods] == ["generated", "source only", "flexseg"]
    expected = miou(content, "source only").mean() - miou(content, "generated").mean()
    assert report.methods[1].gain["average"].mean == pytest.approx(expected)
    assert list(report.confusion) == report.pair == ["generated", "flexseg"]


def test_counts_are_pooled_over_domains_and_seeds(content: ReportContent) -> None:
    report = summarize(content)
    for method in ("source only", "flexseg"):
        folders = [model.evaluation for model in content.models if model.method == method]
        images = [read_image_counts(folder, domain) for folder in folders for domain in content.domains]
        summed = sum(each.confusion.sum(axis=0) for each in images)
        np.testing.assert_array_equal(report.confusion[method], summed)
    row = report.methods[0]
    at = row.band_curve.px.index(report.band)
    assert row.band_curve.boundary[at] == pytest.approx(row.boundary_error["average"].mean)
    assert row.band_curve.interior[at] == pytest.approx(row.interior_error["average"].mean)


def test_tables_hold_the_numbers_of_the_report(report: Path) -> None:
    numbers = json.loads((report / "report.json").read_text())
    with (report / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["domain"]) for row in rows] == [
        (method["name"], place) for method in numbers["methods"] for place in method["miou"]
    ]
    for row in rows:
        method = next(each for each in numbers["methods"] if each["name"] == row["method"])
        place = row["domain"]
        assert float(row["miou"]) == method["miou"][place]["mean"]
        assert float(row["boundary_error"]) == method["boundary_error"][place]["mean"]
        assert row["gain_low"] == ("" if method["name"] == "source only" else str(method["gain"][place]["low"]))
        assert row["ece"] == ""  # these predictions come without a confidence
    with (report / "classes.csv").open(newline="") as file:
        classes = list(csv.DictReader(file))
    assert len(classes) == 3 * 6
    iou = numbers["methods"][0]["iou"]["clear"]
    assert [classes[0][name] for name in CLASS_NAMES] == ["" if value is None else str(value) for value in iou]


def test_no_domain_may_be_called_like_the_mean_over_all(content: ReportContent) -> None:
    with pytest.raises(UserError, match="named 'average'"):
        summarize(replace(content, domains={"fog": content.domains["fog"], "average": content.domains["rain"]}))


def test_the_class_table_says_of_no_class_that_it_is_not_predicted_where_it_is(
    content: ReportContent, report: Path, tmp_path: Path
) -> None:
    """Issue 16 §9: predictions at unlabeled pixels count nowhere, so a dash does not mean that no prediction has it."""
    page = " ".join((report / "index.html").read_text().split())
    assert "neither in the labels nor in the predictions" not in page
    assert "no labeled pixel is of the class or was predicted as it" in page
    assert "taken before rounding" in page
    numbers = summarize(content)
    for domain in content.domains:
        confusion = sum(
            read_image_counts(model.evaluation, domain).confusion.sum(axis=0)
            for model in content.models
            if model.method == "source only"
        )
        counted = np.asarray(confusion).sum(axis=0) + np.asarray(confusion).sum(axis=1)
        dashes = [value is None for value in numbers.methods[0].iou[domain]]
        assert dashes == (counted == 0).tolist()


def test_a_target_called_average_is_refused_with_the_config(tmp_path: Path) -> None:
    town = Dataset(name="average", root=tmp_path, layout="cityscapes")
    with pytest.raises(ValueError, match="taken for the mean over all targets"):
        DataConfig(source=town.model_copy(update={"name": "source"}), targets=(town,))
    assert DataConfig(targets=(town.model_copy(update={"name": "averages"}),)).targets[0].name == "averages"
