"""What each stage's key depends on, and what it must not depend on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import recipes, stages
from flows.run import Run
from flows.segmenters import find_model
from pipeline.config.experiment import ExperimentConfig
from pipeline.errors import UserError
from pipeline.store.artifacts import Stage

Mini = Callable[..., ExperimentConfig]


def keys(config: ExperimentConfig) -> dict[str, str]:
    run = Run(config)
    return {what: run.key(recipe) for what, recipe in recipes.recipes(run)}


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("evaluation.band=3", "evaluation"),
        ("training.iterations=5", "segmenter evaluation"),
        ("generation.seed=5", "generated evaluation cross-entropy flex-seg"),
        ("data.toytown.seed=5", "generated alignment segmenter evaluation"),
        ("alignment.radius=3", "alignment"),
        ("machine.loader_workers=1", ""),
        ("machine.generation_batch=1", ""),
        ("machine.window_batch=1", ""),
        ("machine.compile_generator=true", ""),
        ("machine.device=auto", ""),
        ("name=other", ""),
        ("training.seeds=[0, 1]", ""),
    ],
)
def test_an_option_changes_its_own_stage_and_what_follows(mini: Mini, override: str, changed: str) -> None:
    before, after = keys(mini()), keys(mini(override))
    different = {what for what in before if before[what] != after[what]}
    if override.startswith("generation"):
        expected = {what for what in before if "source-only" not in what}
    else:
        expected = {what for what in before if any(what.startswith(word) for word in changed.split())}
    assert different == expected


def test_names_and_neighbors_of_a_method_do_not_count(mini: Mini) -> None:
    own = "training.methods={mine: {generated: true}}"
    assert keys(mini(own))["segmenter mine, seed 0"] == keys(mini())["segmenter cross-entropy, seed 0"]


def test_a_row_of_a_sweep_is_known_by_what_it_trains_not_by_how_it_is_written(mini: Mini) -> None:
    base = keys(mini())
    sweep = mini(
        "training.methods={cross-entropy: {generated: true},"
        " same: {generated: true, training: {has: {schedule: sigmoid}, gap: {sizes: [3, 5, 7]}}},"
        " linear: {generated: true, training: {has: {schedule: linear}}},"
        " fewer: {generated: true, training: {generated_limit: 2}}}"
    )
    rows = keys(sweep)
    one = {rows[f"segmenter {name}, seed 0"] for name in ("cross-entropy", "same")}
    assert one == {base["segmenter cross-entropy, seed 0"]}  # nothing is trained again when rows are added
    assert len({rows[f"segmenter {name}, seed 0"] for name in ("same", "linear", "fewer")}) == 3
    whole = mini("training.methods={linear: {generated: true}}", "training.has.schedule=linear")
    assert keys(whole)["segmenter linear, seed 0"] == rows["segmenter linear, seed 0"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{training: {hass: {}}}", r"methods\.mine\.training\.hass"),
        ("{training: {has: {schedule: linar}}}", r"methods\.mine\.training\.has\.schedule.*linar"),
        ("{training: {gap: {sizes: [4]}}}", "odd"),
        ("{training: {seeds: [1]}}", "changes how it trains, not the table"),
    ],
)
def test_mistakes_in_a_row_are_named(mini: Mini, row: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mini(f"training.methods={{mine: {row}}}")


def test_the_generator_counts_by_content_not_by_place(mini: Mini, stand_in_weights: Path) -> None:
    before = keys(mini())
    moved = stand_in_weights.rename(stand_in_weights.with_name("moved"))
    assert keys(mini(f"generation.weights={moved}")) == before
    file = moved / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"changed": True}))
    assert keys(mini(f"generation.weights={moved}")) != before


def test_stage_versions(mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(mini())
    monkeypatch.setattr(recipes, "SEGMENTER", Stage("segmenter", 999))
    after = keys(mini())
    assert {what for what in before if before[what] != after[what]} == {
        what for what in before if what.startswith(("segmenter", "evaluation"))
    }


def test_check_finds_what_would_fail_late(mini: Mini) -> None:
    stages.check(Run(mini()))
    with pytest.raises(UserError, match="add a 'generation' section"):
        stages.check(Run(mini("generation=null")))
    with pytest.raises(UserError, match="neither a set that ships"):
        stages.check(Run(mini("generation.weights=nowhere")))
    with pytest.raises(UserError, match="no data to train on"):
        stages.check(Run(mini("data.toytown=null")))
    with pytest.raises(UserError, match="no method 'mine'"):
        recipes.segmenter_recipe(Run(mini()), "mine", 0)


def test_find_model_wants_a_segmenter(mini: Mini, tmp_path: Path) -> None:
    run = Run(mini())
    with pytest.raises(UserError, match=r"holds a config.json"):
        find_model(run.store, str(tmp_path))
    with pytest.raises(UserError, match="no artifact's key starts"):
        find_model(run.store, "abcdef")
    world = run.render_world()
    assert world is not None
    with pytest.raises(UserError, match="is a 'world' artifact"):
        find_model(run.store, world.key)
    (tmp_path / "segmenter").mkdir()
    (tmp_path / "segmenter" / "config.json").write_text("{}")
    fingerprint, folder = find_model(run.store, str(tmp_path))
    assert folder == tmp_path / "segmenter"
    (folder / "config.json").write_text("{ }")
    assert find_model(run.store, str(tmp_path))[0] != fingerprint
