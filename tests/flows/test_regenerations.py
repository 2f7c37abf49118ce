"""Regeneration asks for what is not there yet."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flows.recipes import generated_recipe
from flows.regenerations import asked, existing, regenerations
from flows.run import Run
from generation.plan import plan
from pipeline.config.experiment import ExperimentConfig
from pipeline.errors import UserError
from pipeline.store.artifacts import Artifact

Mini = Callable[..., ExperimentConfig]


def make(run: Run) -> Artifact:
    """A stand-in for the generated images of a run: its manifest is what counts."""
    return run.store.get_or_build(*generated_recipe(run), lambda folder: None)


def test_it_goes_on_behind_what_exists_and_draws_nothing_twice(mini: Mini) -> None:
    own = Run(mini())
    assert existing(own) == {"plain": 2, "foggy": 2}
    assert regenerations(own) == []
    first = Run(mini(*asked(own, {"night": 3, "foggy": 1}, {})))
    make(own)
    made = [make(first)]
    assert existing(own) == {"plain": 2, "foggy": 3, "night": 3}
    second = Run(mini(*asked(own, {"night": 2}, {"road": 1.0})))
    made.append(make(second))
    assert existing(own) == {"plain": 2, "foggy": 3, "night": 5}
    assert regenerations(own) == [artifact.folder for artifact in made]
    for run in (own, first, second):
        run.render_world()
    requests = [[r.id for r in plan(run.generation, run.source.scenes)] for run in (own, first, second)]
    assert requests[1:] == [
        ["foggy-000002", "night-000000", "night-000001", "night-000002"],
        ["night-000003", "night-000004"],
    ]
    assert len({name for names in requests for name in names}) == 4 + 4 + 2
    assert {r.class_id for r in plan(second.generation, second.source.scenes)} == {0}


def test_data_sets_of_other_machines_count(mini: Mini, tmp_path: Path) -> None:
    def on(machine: str, *overrides: str) -> Run:
        places = (f"machine.store={tmp_path / machine}", f"machine.remote=file://{tmp_path}/remote")
        return Run(mini(*places, *overrides))

    made = make(on("one", *asked(on("one"), {"night": 3}, {})))
    assert existing(on("other")) == {"plain": 2, "foggy": 2, "night": 3}
    assert regenerations(on("other")) == [tmp_path / "other" / "generated" / made.key[:16]]
    assert regenerations(on("other"))[0].is_dir()


def test_one_that_broke_off_is_continued(mini: Mini) -> None:
    own = Run(mini())
    once, again = (Run(mini(*asked(own, {"night": 3}, {}))) for _ in range(2))
    assert once.key(generated_recipe(once)) == again.key(generated_recipe(again))


def test_without_counts_it_makes_as_many_as_the_config(mini: Mini) -> None:
    further = Run(mini(*asked(Run(mini()), {}, {"road": 1.0})))
    assert {c: n for c, n in further.generation.counts.items() if n} == {"plain": 2, "foggy": 2}
    assert further.generation.after == {"plain": 2, "foggy": 2}


@pytest.mark.parametrize("other", ["generation.seed=5", "generation.guidance=2", "data.toytown.seed=5"])
def test_images_of_other_settings_do_not_count(mini: Mini, other: str) -> None:
    make(Run(mini(*asked(Run(mini(other)), {"night": 3}, {}), other)))
    assert existing(Run(mini())) == {"plain": 2, "foggy": 2}
    assert existing(Run(mini(other))) == {"plain": 2, "foggy": 2, "night": 3}


def test_an_unknown_condition_is_found_before_anything_is_rendered(
    write_config: Callable[..., Path], stand_in_weights: Path
) -> None:
    from flows.regenerate import regenerate  # imports Prefect

    config = write_config(stand_in_weights)
    with pytest.raises(UserError, match="counts asks for 'dusk'"):
        regenerate.fn(str(config), counts={"dusk": 3})
    with pytest.raises(UserError, match="classes names 'riders'"):
        regenerate.fn(str(config), classes={"riders": 1.0})
    assert not list((config.parent / "store").rglob("manifest.json"))


def test_mistakes_are_one_line(mini: Mini, stand_in_weights: Path) -> None:
    with pytest.raises(UserError, match="asks for 0 images"):
        asked(Run(mini()), {"night": 0}, {})
    with pytest.raises(UserError, match="counts asks for 'dusk'"):
        mini(*asked(Run(mini()), {"dusk": 3}, {}))
    with pytest.raises(UserError, match="classes names 'riders'"):
        mini(*asked(Run(mini()), {}, {"riders": 1.0}))
