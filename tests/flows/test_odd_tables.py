"""Tables whose rows lack numbers, stand below others or are joined: each number still stands under its heading."""

from pathlib import Path

import numpy as np

from evaluation.counts import no_counts, read_image_counts, save_image_counts, stack
from evaluation.evaluate import place_scores
from evaluation.schema import DomainScores, Evaluation, PlaceScores, read_evaluation
from flows.commands.tables import entries_table
from flows.score_tables import scores_table
from pipeline.config.evaluation import EvaluationConfig
from pipeline.data.labels import NUM_CLASSES
from pipeline.store.inventory import Entry
from pipeline.store.manifest import Manifest
from pipeline.store.remote import Remote
from tests.artifact_manifests import manifest_of
from tests.made_reports import ODD
from tests.scored import write_evaluation
from tests.tables import cells, counted, percent


def test_places_without_an_image_a_confidence_or_an_error_keep_their_columns(tmp_path: Path) -> None:
    """What is missing is a dash in its own column, all and nothing are 100.0 and 0.0."""
    right, wrong = no_counts(2), no_counts(2)
    right = right._replace(confusion=np.diag(np.arange(NUM_CLASSES)), ring_pixels=np.array([9, 9]))
    wrong = wrong._replace(confusion=np.roll(right.confusion, 1, axis=1), ring_pixels=np.array([9, 9]))
    wrong = wrong._replace(ring_wrong=np.array([9, 9]))
    counts = {
        "empty": stack([], 2),
        "right": stack([("a", None, right), ("b", None, right)], 2),
        "wrong": stack([("a", None, wrong), ("b", None, wrong)], 2),
    }
    write_evaluation(tmp_path, counts, EvaluationConfig(band=5, curve=(2,)))
    columns = (
        "mIoU",
        "95% interval",
        "pixels right",
        "boundary error",
        "interior error",
        "calibration error",
        "images",
    )
    rows = cells(scores_table(read_evaluation(tmp_path), tmp_path))
    found = {row["domain"]: tuple(row[name] for name in columns) for row in rows}
    assert found["empty"] == ("-", "-", "-", "-", "-", "-", "0")
    assert found["right"] == ("100.0", "100.0 to 100.0", "100.0", "0.0", "0.0", "-", "2")
    assert found["wrong"] == ("0.0", "0.0 to 0.0", "0.0", "100.0", "100.0", "-", "2")


def test_conditions_stand_below_their_domain_with_their_own_numbers(tmp_path: Path) -> None:
    """Two weathers of two domains, none of which borrows a number of its neighbor."""
    for k, name in enumerate(("acdc", "zurich")):
        whole = counted(k)
        conditions = np.array(["fog", "night"] * 3)
        save_image_counts(whole._replace(conditions=conditions), tmp_path, name)
    config = EvaluationConfig(band=5, curve=(2,))
    domains = {}
    for name in ("acdc", "zurich"):
        images = read_image_counts(tmp_path, name)
        parts = {c: PlaceScores(**dict(place_scores(images.where(c), config))) for c in ("fog", "night")}
        scores = dict(place_scores(images, config))
        domains[name] = DomainScores(**scores, conditions=parts, scale="1", predictions=(), skipped=())
    found = cells(scores_table(Evaluation(band=5, domains=domains), tmp_path))
    assert [row["domain"] for row in found] == ["acdc", "fog", "night", "zurich", "fog", "night"]
    wanted = [part for scores in domains.values() for part in (scores, *scores.conditions.values())]
    assert [row["mIoU"] for row in found] == [percent(part.miou) for part in wanted]
    assert [row["boundary error"] for row in found] == [percent(part.boundary_error) for part in wanted]
    assert [row["images"] for row in found] == ["6", "3", "3"] * 2
    assert len({row["mIoU"] for row in found}) == 6


def test_the_store_stands_under_its_headings(tmp_path: Path) -> None:
    """`flexseg cache list`: an artifact that is in both places alike is one row, what differs is two."""
    remote = Remote(f"file://{tmp_path}")
    made = Manifest.model_validate(manifest_of({}, seconds=61.0))
    entries = [
        Entry("generated", "0" * 16, tmp_path, made, 1200), Entry("generated", "0" * 16, remote, made, 1200),
        Entry("segmenter", "1" * 16, tmp_path, made, 5), Entry("segmenter", "1" * 16, remote, None, 7, 2, ODD),
        Entry("world", "2" * 16, remote, None, 10**9, damage="its digest is missing"),
    ]  # fmt: skip
    time = {"made": "2026-11-01 00:00", "took": "1 min 01 s", "state": ""}
    missing = {"made": "", "took": ""}
    assert cells(entries_table(entries)) == [
        {"stage": "generated", "key": "0" * 16, "where": "both", "size": "1.2 kB"} | time,
        {"stage": "segmenter", "key": "1" * 16, "where": "local", "size": "5 B"} | time,
        {"stage": "segmenter", "key": "1" * 16, "where": "remote", "size": "7 B"}
        | missing
        | {"state": f"unfinished, 2 parts, built by {ODD}"},
        {"stage": "world", "key": "2" * 16, "where": "remote", "size": "1.0 GB"} | missing | {"state": "damaged"},
    ]
