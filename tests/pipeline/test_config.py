"""Loading configs: presets, base, overrides, and one-line errors that say what came and what was wanted."""

from pathlib import Path

import pytest

from pipeline.config.experiment import ExperimentConfig, load_config
from pipeline.config.reading import presets
from pipeline.errors import UserError


def file(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", presets())
def test_each_preset_loads(name: str) -> None:
    assert load_config(name).name == name


def test_three_seeds_differ_from_the_demo_in_nothing_else() -> None:
    one, three = load_config("toy"), load_config("toy-3-seeds")
    assert one.training.seeds == (0,) and three.training.seeds == (0, 1, 2)
    same = one.model_dump(exclude={"name": True, "training": {"seeds"}})
    assert same == three.model_dump(exclude={"name": True, "training": {"seeds"}})


def test_file_over_base_over_defaults_and_set_over_all(tmp_path: Path) -> None:
    low = file(tmp_path, "training: {iterations: 7, batch_size: 3}\ngeneration: {weights: w, seed: 5}", "low.yaml")
    top = file(tmp_path, f"base: {low}\ntraining: {{iterations: 8}}")
    config = load_config(top, ["generation.steps=4", "training.seeds=[4, 5]"])
    assert config.name == "mine"
    assert (config.training.iterations, config.training.batch_size, config.training.seeds) == (8, 3, (4, 5))
    assert config.generation is not None and (config.generation.seed, config.generation.steps) == (5, 4)
    assert config.machine == ExperimentConfig(name="x").machine


def test_set_reaches_a_section_that_the_file_lacks(tmp_path: Path) -> None:
    config = load_config(file(tmp_path, ""), ["machine.device=cpu", "evaluation.scale=0.5"])
    assert config.machine.device == "cpu" and config.evaluation.scale == 0.5 and config.generation is None


def test_a_base_of_itself_is_an_error(tmp_path: Path) -> None:
    path = file(tmp_path, f"base: {tmp_path}/mine.yaml")
    with pytest.raises(UserError, match="leads back to itself"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("training: {iteration: 7}", ["unknown key 'training.iteration'", "did you mean 'iterations'"]),
        ("generation: {wights: w}", ["unknown key 'generation.wights'", "did you mean 'weights'"]),
        ("trainig: {}", ["unknown key 'trainig'", "'training'"]),
        ("training: {zzzz: 7}", ["unknown key 'training.zzzz'", "known keys: methods, seeds"]),
        ("training: {iterations: many}", ["'training.iterations' is 'many'", "integer"]),
        ("generation: {weights: w, steps: 0}", ["'generation.steps' is 0", "greater than 0"]),
        ("generation: {weights: w, counts: {fogy: 3}}", ["counts asks for 'fogy'", "choose one of foggy"]),
        ("data: {source: {name: a, layout: gta}}", ["'data.source.root'", "required"]),
        ("data: {source: {name: a, root: ., layout: kitti}}", ["'data.source.layout' is 'kitti'", "'cityscapes'"]),
        ("data: {targets: [{name: a, root: ., layout: gta, splt: x}]}", ["'data.targets.0.splt'", "'split'"]),
        ("data: {source: {name: a, root: ., layout: globs, labels: '*', ids: nope}}", ["'data.source.ids'", "'nope'"]),
        ("data: {source: {name: a, root: ., layout: globs}}", ["'data.source'", "needs 'labels'"]),
        ("training: {methods: {mine: {gapp: true}}}", ["unknown key 'training.methods.mine.gapp'", "'gap'"]),
        ("[1, 2]", ["wanted a mapping of sections"]),
        ("a: [1", ["is not YAML"]),
    ],
)
def test_a_mistake_is_one_line_with_path_and_way_out(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = file(tmp_path, text)
    with pytest.raises(UserError) as error:
        load_config(path)
    message = str(error.value)
    assert "\n" not in message and "mine.yaml" in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("override", ["training.iterations", "=3", "training..iterations=3", "a=[1"])
def test_a_bad_override_is_named(tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError, match="--set"):
        load_config(file(tmp_path, ""), [override])


def test_an_override_with_an_unknown_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown key 'training.iteratons'; did you mean 'iterations'"):
        load_config(file(tmp_path, ""), ["training.iteratons=3"])


def test_missing_config_lists_the_presets() -> None:
    with pytest.raises(UserError, match=r"config nowhere.yaml not found.*toy"):
        load_config("nowhere.yaml")
