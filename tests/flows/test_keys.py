"""Keys survive growth: a new option changes none; any other value changes just those of the stages that read it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, create_model

from flows import frozen, recipes
from flows.domains import Domain
from flows.run import Run
from generation.plan import DEPENDS_ON
from pipeline.config.base import Section
from pipeline.config.experiment import ExperimentConfig, load_config
from pipeline.data.datasets import Scene
from pipeline.data.fingerprints import FileDigests
from pipeline.store.artifacts import Stage

Mini = Callable[..., ExperimentConfig]
COMMITTED = Path(__file__).parent / "keys.json"


def keys(config: ExperimentConfig) -> dict[str, str]:
    """The keys of everything that is made from a config, but for the report."""
    run = Run(config)
    named = dict(recipes.recipes(run))
    if config.generation is not None:
        named["plan"] = recipes.plan_recipe(run)
    if run.world_recipe is not None:
        named["world"] = run.world_recipe
    return {what: run.key(recipe) for what, recipe in named.items()}


class YoungerSection(Section):
    """A section that somebody adds later."""

    depth: int = 3


def grown(kind: type[BaseModel]) -> type[BaseModel]:
    """The section's class as a later version may have it: with a further option and a further section, and so are all
    sections in it."""
    inner: dict[str, Any] = {name: (_grown(f.annotation), f) for name, f in kind.model_fields.items()}
    more: dict[str, Any] = {"younger": (float, 7.0), "younger_section": (YoungerSection, YoungerSection())}
    return create_model(kind.__name__, __base__=kind, **inner, **more)


def _grown(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return grown(annotation)
    arguments = tuple(_grown(part) for part in get_args(annotation))
    if not arguments or get_origin(annotation) is Literal or not any(_has_section(part) for part in arguments):
        return annotation
    origin = get_origin(annotation)
    return Union[arguments] if origin not in (dict, tuple) else origin[arguments]  # noqa: UP007  # of a tuple of types


def _has_section(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(_has_section(part) for part in get_args(annotation))


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["generation.fusion={}"],
        ["generation.fusion={stride: 4}", "training.network.hrda={detail_crop: [16, 32]}"],
        ["training.methods={mine: {generated: true, gap: true, training: {gap: {weight: 0.1}}}}"],
        ["generation=null", "training.methods={mine: {}}"],
        ["training.minimum_alignment=0.2", "evaluation.size={fog: [64, 128]}", "data.toytown={seed: 3}"],
    ],
)
def test_an_option_that_is_added_changes_no_key(mini: Mini, overrides: list[str]) -> None:
    before = mini(*overrides)
    after = grown(ExperimentConfig).model_validate(before.model_dump())
    assert isinstance(after, ExperimentConfig) and "younger" in type(after.training.network).model_fields
    assert keys(after) == keys(before)
    given = {"training": {**before.training.model_dump(), "younger": 8.0}}
    changed = type(after).model_validate({**before.model_dump(), **given})
    assert isinstance(changed, ExperimentConfig)
    segmenters = {what for what in keys(before) if what.startswith(("segmenter", "evaluation"))}
    assert {what for what, key in keys(changed).items() if key != keys(before)[what]} == segmenters


@pytest.fixture
def made_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets and weights that are nowhere, each of a content that its name stands for."""

    def domain(self: Run, dataset: Any, **options: Any) -> Domain:
        scene = Scene("0", Path("image.png"), Path("label.png"), {})
        key = f"scenes of {dataset.name}" if self.world_recipe is None else self.key(self.world_recipe)
        return Domain(dataset.name, lambda: [scene], FileDigests(None), key)

    monkeypatch.setattr(Run, "_domain", domain)
    monkeypatch.setattr("flows.run.weights_fingerprint", lambda weights: "weights")
    monkeypatch.setattr(Run, "encoder_key", lambda self, name: None)


@pytest.mark.usefixtures("made_data")
@pytest.mark.parametrize("preset", ["toy", "toy-ablation", "gta-dginstyle", "gta-hrda"])
def test_keys_of_this_version_stay(preset: str) -> None:
    """If a version of a stage was raised on purpose, or a preset changed, write what is printed into keys.json."""
    found, committed = keys(load_config(preset)), json.loads(COMMITTED.read_text())
    assert found == committed.get(preset), json.dumps({**committed, preset: found}, indent=1)


@pytest.mark.parametrize("stage", recipes.SECTIONS, ids=lambda stage: stage.name)
def test_every_option_is_frozen_in_the_version_that_it_came_with(stage: Stage) -> None:
    today = frozen.current(stage, recipes.SECTIONS[stage])
    assert today == frozen.frozen(stage), "run: python -m flows.frozen"


def test_what_is_frozen_is_never_changed() -> None:
    old: dict[str, dict[str, Any]] = {"A": {"defaults": {"x": 1}, "required": ["y"]}}
    new: dict[str, dict[str, Any]] = {
        "A": {"defaults": {"x": 2, "y": 5, "z": 3}, "required": ["w"]},
        "B": {"defaults": {}, "required": []},
    }
    assert frozen.with_younger(old, new) == {
        "A": {"defaults": {"x": 1, "z": 3}, "required": ["y", "w"]},
        "B": {"defaults": {}, "required": []},
    }


# What each field may be besides its default where halving, doubling, negating or the next choice does not do.
OTHER: dict[str, Any] = {
    "generation.counts": {"plain": 5},
    "generation.after": {"plain": 1},
    "generation.conditions": {"dusk": "At dusk."},
    "generation.classes": {"road": 0.5},
    "generation.label_height": 48,
    "generation.fusion": {},
    "generation.scheduler": "ddim",
    "training.network.hrda": {"detail_crop": [16, 32]},
    "training.network.pretrained": "nvidia/mit-b0",
    "training.network.encoder": "mit-b0",
    "training.generated_size": [64, 128],
    "training.source_size": [64, 128],
    "training.generated_limit": 2,
    "training.source_pool": {"pairs": 100},
    "training.generated_share": None,
    "training.gap.sizes": [3, 5],
    "training.feature_distance.classes": [11],
    "training.feature_distance.share": 0.9,
    "training.shade.basis": 3,
    "training.shade.concentration": 0.1,
    "training.optimizer.clip_norm": 1.0,
    "training.gap.weight_bounds": [0.25, 2.0],
    "evaluation.size": {"fog": [64, 128]},
    "evaluation.window": [32, 64],
    "evaluation.keep_predictions": "all",
    "evaluation.curve": [1, 2],
    "evaluation.scales": [1.0, 2.0],
}
WITH = {
    "evaluation.stride": ("evaluation.window=[32, 64]", [16, 32]),
    "alignment.weights": ("alignment.detector=hed", "w"),
}
"""Fields that act beside another one only: that one, and another value."""
NO_INPUT = {
    "generation.weights", "generation.lora", "training.methods", "training.seeds", "evaluation.models",
    "evaluation.baseline",
}  # fmt: skip
"""Fields that count by what they name, or as rows of their own."""


def other(path: str, value: Any, annotation: Any) -> Any:
    if path in OTHER:
        return OTHER[path]
    choices = [
        option
        for part in (annotation, *get_args(annotation))
        if get_origin(part) is Literal
        for option in get_args(part)
    ]
    if choices:
        return next(option for option in choices if option != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value} x"
    if isinstance(value, int | float):
        return value / 2 if isinstance(value, float) and value else 2 * value or 1
    assert isinstance(value, tuple), (path, value)
    return [other(f"{path}[]", item, type(item)) for item in value]


def fields(section: BaseModel, path: str) -> Iterator[tuple[str, Any, Any]]:
    """(dotted path, value, annotation) of every field that is no section."""
    for name, field in type(section).model_fields.items():
        value, place = getattr(section, name), f"{path}.{name}"
        if isinstance(value, BaseModel):
            yield from fields(value, place)
        elif place not in NO_INPUT:
            yield place, value, field.annotation


def dependents(path: str, everything: set[str]) -> set[str]:
    """What must get another key when this field changes."""
    section, _, name = path.partition(".")
    prefixes = {
        "data": ("world", "plan", "generated", "alignment", "segmenter", "evaluation"),
        "alignment": ("alignment",),
        "training": ("segmenter", "evaluation"),
        "evaluation": ("evaluation",),
        "generation": ("generated", "alignment", "segmenter", "evaluation"),
    }[section]
    found = {what for what in everything if what.startswith(prefixes)}
    if section == "generation":
        found = {what for what in found if "source-only" not in what}
        found |= {"plan"} if name in DEPENDS_ON else set()
    return found


def test_a_field_changes_the_keys_of_the_stages_that_read_it_and_no_other(mini: Mini) -> None:
    base = mini()
    assert base.generation is not None and base.data.toytown is not None
    sections = {
        "data.toytown": base.data.toytown, "generation": base.generation, "alignment": base.alignment,
        "training": base.training, "evaluation": base.evaluation,
    }  # fmt: skip
    before = keys(base)
    wrong: dict[str, set[str]] = {}
    same: list[str] = []
    for section, value in sections.items():
        for path, was, annotation in fields(value, section):
            beside, now = WITH.get(path, (None, None))
            start = before if beside is None else keys(mini(beside))
            now = other(path, was, annotation) if beside is None else now
            overrides = [f"{path}={json.dumps(now)}", *([beside] if beside else [])]
            after = keys(mini(*overrides))
            changed = {what for what in start if start[what] != after[what]}
            wrong |= {path: changed ^ dependents(path, set(start))}
            same.append(f"{path}={json.dumps(was)}")
    assert {path: what for path, what in wrong.items() if what} == {}
    assert len(wrong) > 80
    assert keys(mini(*same)) == before, "writing values out that they have in any case changes nothing"


def test_moved_and_machine_keys_change_nothing(mini: Mini) -> None:
    before = keys(mini())
    for override in ("generation_batch=3", "window_batch=1", "compile_generator=true", "workers=7", "processes=2"):
        assert keys(mini(f"machine.{override}")) == before


def test_a_folder_of_weights_counts_by_content_not_by_place(mini: Mini, tmp_path: Path) -> None:
    def of(folder: Path) -> dict[str, str]:
        return keys(
            mini(f"training.network.pretrained={folder}", "alignment.detector=hed", f"alignment.weights={folder}")
        )

    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ControlNetHED.pth").write_text("other" if name == "c" else "same")
    assert of(tmp_path / "a") == of(tmp_path / "b")
    different = {what for what, key in of(tmp_path / "c").items() if key != of(tmp_path / "a")[what]}
    assert different == {
        what for what in of(tmp_path / "a") if what.startswith(("segmenter", "evaluation", "alignment"))
    }
