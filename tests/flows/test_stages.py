"""What each stage's key depends on, and what it must not depend on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flows import stages
from flows.run import Run
from pipeline.config.experiment import ExperimentConfig
from pipeline.errors import UserError
from pipeline.store import Stage

Mini = Callable[..., ExperimentConfig]


def keys(config: ExperimentConfig) -> dict[str, str]:
    run = Run(config)
    return {what: run.key(recipe) for what, recipe in stages.recipes(run)}


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("evaluation.band=3", "evaluation"),
        ("training.iterations=5", "segmenter evaluation"),
        ("generation.seed=5", "generated evaluation cross-entropy flex-seg"),
        ("data.toytown.seed=5", "generated segmenter evaluation"),
        ("machine.loader_workers=1", ""),
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


def test_the_generator_counts_by_content_not_by_place(mini: Mini, stand_in_weights: Path) -> None:
    before = keys(mini())
    moved = stand_in_weights.rename(stand_in_weights.with_name("moved"))
    assert keys(mini(f"generation.weights={moved}")) == before
    (moved / "unet" / "config.json").write_text("changed")
    assert keys(mini(f"generation.weights={moved}")) != before


def test_stage_versions(mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(mini())
    monkeypatch.setattr(stages, "SEGMENTER", Stage("segmenter", 999))
    after = keys(mini())
    assert {what for what in before if before[what] != after[what]} == {w for w in before if "generated" not in w}


def test_check_finds_what_would_fail_late(mini: Mini) -> None:
    stages.check(Run(mini()))
    with pytest.raises(UserError, match="add a 'generation' section"):
        stages.check(Run(mini("generation=null")))
    with pytest.raises(UserError, match="neither a set that ships"):
        stages.check(Run(mini("generation.weights=nowhere")))
    with pytest.raises(UserError, match="no data to train on"):
        stages.check(Run(mini("data.toytown=null")))
    with pytest.raises(UserError, match="no method 'mine'"):
        stages.segmenter_recipe(Run(mini()), "mine", 0)


def test_find_model_wants_a_segmenter(mini: Mini, tmp_path: Path) -> None:
    run = Run(mini())
    with pytest.raises(UserError, match=r"holds a config.json"):
        stages.find_model(run, str(tmp_path))
    with pytest.raises(UserError, match="no artifact's key starts"):
        stages.find_model(run, "abcdef")
    world = run.world
    assert world is not None
    with pytest.raises(UserError, match="is a 'world' artifact"):
        stages.find_model(run, world.key)
    (tmp_path / "segmenter").mkdir()
    (tmp_path / "segmenter" / "config.json").write_text("{}")
    fingerprint, folder = stages.find_model(run, str(tmp_path))
    assert folder == tmp_path / "segmenter"
    (folder / "config.json").write_text("{ }")
    assert stages.find_model(run, str(tmp_path))[0] != fingerprint
