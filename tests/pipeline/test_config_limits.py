"""Configs that nobody means: each is one line, at once. Cases 10-yaml-duplicate-keys and F17-config."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from pipeline.config.base import merged
from pipeline.config.experiment import MOVED, ExperimentConfig, load_config
from pipeline.config.yaml_text import MOST_BYTES, MOST_DEPTH, parse_yaml
from pipeline.errors import UserError

DUPLICATES = """\
base: toy
data:
  toytown: null
  source:
    name: mine
    root: .
    layout: globs
    images: "images/*.png"
    labels: "labels/*.png"
    ids: {0: 0, 1: 10, 0: 8}
"""


def fails(path: Path, *overrides: str) -> str:
    """The one line that the config ends in, within a few seconds."""
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 1200 and line.isprintable()
    assert time.monotonic() - start < 10  # 45 s and more before
    return line


def file(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return path


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        (DUPLICATES, "0", (10, 10)),  # case 10: road would become vegetation
        ("evaluation: {scale: 2}\ntraining: {}\nevaluation: {flip: true}\n", "evaluation", (3, 1)),  # case 10
        ("training:\n  iterations: 3\n  seeds: [1]\n  iterations: 4\n", "iterations", (4, 2)),
        ("data:\n  targets:\n    - {name: a, root: ., layout: gta, name: b}\n", "name", (3, 3)),
        ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\n", "<<", (4, 3)),
        ("? 'training'\n: {}\n\"training\": {}\n", "training", (3, 1)),
        ("generation:\n  counts: {0x10: 1, 16: 2}\n", "16", (2, 2)),
        ("data:\n  source:\n    ids:\n      7: 0\n      '7': 8\n", "7", (5, 4)),  # case 10, hidden: 7 is 7
    ],
)
def test_the_same_key_twice_is_named_with_its_line(tmp_path: Path, text: str, key: str, lines: tuple[int, int]) -> None:
    said = f"line {lines[0]}: the key '{key}' stands in line {lines[1]} already"
    assert said in fails(file(tmp_path, text))
    file(tmp_path, text, "low.yaml")
    line = fails(file(tmp_path, "base: low.yaml\n", "top.yaml"))
    assert said in line and "low.yaml" in line


def test_the_same_key_twice_in_an_override(tmp_path: Path) -> None:
    assert "the key 'x' stands in line 1 already" in fails(file(tmp_path, ""), "training={x: 1, x: 2}")


def test_an_override_of_a_number_that_is_a_key_replaces_it() -> None:
    assert merged({"ids": {7: 0, 8: 1}}, {"ids": {"7": 3}}) == {"ids": {7: 3, 8: 1}}


@pytest.mark.parametrize("place", ["training.iterations", "training.scale", "generation.guidance"])
def test_yes_is_no_number(place: str) -> None:
    """`iterations: yes` trained for one iteration."""
    assert "true or false (or yes, no, on, off): wanted a number" in fails(Path("toy"), f"{place}=yes")


def test_a_folder_that_is_left_empty() -> None:
    assert "'machine.store': empty: wanted a file or folder" in fails(Path("toy"), "machine.store=")


def test_a_merged_mapping_may_be_changed() -> None:
    text = "low: &low {a: 1, b: 2}\nmiddle: &middle {<<: *low, b: 3}\ntop: {<<: *middle, b: 4, c: 5}\n"
    assert parse_yaml(text, "it")["top"] == {"a": 1, "b": 4, "c": 5}


def floats(kind: type[BaseModel], path: str = "") -> Iterator[str]:
    """Dotted paths of all fields that may hold a float."""
    for name, field in kind.model_fields.items():
        place = f"{path}{name}"
        if name in ("methods", "weights"):
            continue
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from floats(part, f"{place}.")
            elif part is float:
                yield place


FLOATS = [path for path in floats(ExperimentConfig) if not path.startswith("data.")]


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e999"])
def test_numbers_are_finite(tmp_path: Path, value: str) -> None:
    assert len(FLOATS) > 30
    path = file(
        tmp_path,
        "base: toy-encoder\ngeneration: {fusion: {}}\ntraining: {network: {hrda: {detail_crop: [8, 8]}}}",
    )
    for place in FLOATS:
        line = fails(path, f"{place}={value}")
        assert place in line and ("finite" in line or "greater" in line or "less" in line), line


@pytest.mark.parametrize(
    "override",
    [
        "generation.counts.night=1000000000000000",  # F17: memory grew without end
        "generation.counts.night=100000000000000000000",
        "generation.label_height=1000000",
        "generation.size=[100000, 100000]",
        "generation.size=[-64, 128]",
        "generation.steps=1000000",
        "generation.seed=100000000000000000000000",
        "training.iterations=100000000000000000000",
        "training.crop=[1000000, 64]",
        "training.scale=1e9",
        "evaluation.scale=1e9",
        "evaluation.curve=[1, 1000000]",
        "data.toytown.source_images=100000000000",
        "data.toytown.size=[96, 1000000]",
        "machine.workers=1000000",
        "machine.generation_batch=100000000000",
        "training.seeds=[100000000000000000000]",
    ],
)
def test_whole_numbers_have_bounds(tmp_path: Path, override: str) -> None:
    assert override.partition("=")[0].partition("[")[0] in fails(file(tmp_path, "base: toy"), override)


@pytest.mark.parametrize("character", ["\\ud800", "\\n", "\\0", "\\e[31m", "\\L", "\\P", "\\r", "\\x7f", "\\x9b"])
def test_texts_are_one_line_without_control_characters(tmp_path: Path, character: str) -> None:
    for text in (
        f'name: "a{character}b"',
        f'generation: {{weights: toy-town, prompt: "a{character}b"}}',
        f'generation: {{weights: toy-town, conditions: {{dusk: "a{character}b"}}}}',
        f'data: {{toytown: null, source: {{name: gta, layout: gta, root: "a{character}b"}}}}',
        f'machine: {{store: "a{character}b"}}',
        f'training: {{methods: {{"a{character}b": {{}}}}}}',
        f'training: {{"a{character}b": 3}}',
    ):
        assert "'" in fails(file(tmp_path, text))


def test_a_text_of_many_lines_says_how_to_write_it(tmp_path: Path) -> None:
    assert "use quotes" in fails(file(tmp_path, "generation:\n  weights: toy-town\n  prompt: |\n    a\n    b\n"))


@pytest.mark.parametrize("name", ["/any/symlink", "../x", "..", ".", "", " ", ".hidden", "a/b", "x" * 300])
def test_the_name_is_a_file_name(tmp_path: Path, name: str) -> None:
    assert "name" in fails(file(tmp_path, f"name: '{name}'"))


@pytest.mark.parametrize("name", ["my run", "näme", "a+b, c", "2001-01-01", "x" * 120])
def test_other_names_are_names(tmp_path: Path, name: str) -> None:
    assert load_config(file(tmp_path, f"name: '{name}'")).name == name


def test_a_date_is_a_text(tmp_path: Path) -> None:
    assert load_config(file(tmp_path, "name: 2001-99-99")).name == "2001-99-99"
    assert load_config(file(tmp_path, "name: 2001-01-01 10:00:00")).name == "2001-01-01 10:00:00"


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training: {seeds: [" + "1" * 5000 + "]}", "mine.yaml"),
        ("name: " + "[" * 3000 + "]" * 3000, f"more than {MOST_DEPTH} deep"),
        ("".join("  " * k + "a:\n" for k in range(300)), f"more than {MOST_DEPTH} deep"),
        ("data: {generated: [" + "some/folder, " * 1_000_000 + "]}", f"at most {MOST_BYTES:,}"),
        ("x: [" + "1," * 60_000 + "]", "more than 10,000 values"),
        ("x: [&b [1, 2]" + ", *b" * 6000 + "]", "values"),
        (LAUGHS, "values in"),
        ("a: &a [*a]", "an anchor holds itself"),
        ("a: &a {b: *a}", "an anchor holds itself"),
        ("? [a, b]\n: 3", "is no key"),
        ("? {a: b}\n: 3", "is no key"),
        ("a: !!python/object/apply:os.system ['true']", "is not YAML"),
        ("a: 1\n---\nb: 2", "is not YAML"),
        ("\x00", "is not YAML"),
        ("\ud800", "cannot be read"),
        ("a: \t- b\n\tc", "is not YAML"),
        ("base: [toy]", "'base' is ['toy']"),
        ("base: 3", "'base' is 3"),
        ("3: 4", "mine.yaml"),
        ("null: 4", "mine.yaml"),
    ],
)
def test_what_no_config_is(tmp_path: Path, text: str, said: str) -> None:
    assert said in fails(file(tmp_path, text))


def test_a_chain_of_bases_has_an_end(tmp_path: Path) -> None:
    for k in range(1200):
        file(tmp_path, f"base: {k + 1}.yaml\n", f"{k}.yaml")
    file(tmp_path, "", "1200.yaml")
    assert "a chain of more than 20 'base' files" in fails(tmp_path / "0.yaml")
    assert load_config(tmp_path / "1190.yaml").name == "1190"


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "nowhere.yaml", "", "~nobody-of-this-name/x.yaml", "."])
def test_a_config_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(name)
    assert "not found" in str(caught.value) and len(str(caught.value)) < 700


def test_paths_start_from_the_files_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs" / "weights").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", "/home/somebody")
    file(tmp_path, "data: {source: {name: a, root: data/a, layout: gta}}\nmachine: {output: out}", "base.yaml")
    text = (
        "base: ../base.yaml\n"
        "data:\n  generated: [images, /abs, ~/own]\n  targets: [{name: b, root: ../b, layout: acdc}]\n"
        "generation: {weights: weights}\n"
        "training: {network: {pretrained: nvidia/mit-b0}, methods: {m: {training: {network: {pretrained: weights}}}}}\n"
        "machine: {store: ~/cache}\n"
    )
    config = load_config(file(tmp_path / "configs", text), ["evaluation.models={x: weights, y: ~/y}"])
    assert config.data.source is not None and config.generation is not None
    assert config.data.source.root.resolve() == tmp_path / "data" / "a"
    assert config.data.generated == (tmp_path / "configs" / "images", Path("/abs"), Path("/home/somebody/own"))
    assert config.data.targets[0].root.resolve() == tmp_path / "b"
    assert config.generation.weights == str(tmp_path / "configs" / "weights")  # as there is such a folder
    network = config.training.of(config.training.methods["m"]).network
    assert (config.training.network.pretrained, network.pretrained) == ("nvidia/mit-b0", config.generation.weights)
    assert config.machine.store == Path("/home/somebody/cache")
    assert config.machine.output.resolve() == tmp_path / "out"
    assert config.evaluation.models == {"x": "weights", "y": "/home/somebody/y"}  # overrides: the working folder
    # what was loaded can be written down and read again, whatever its texts were
    assert ExperimentConfig.model_validate(config.model_dump(mode="json")) == config


def test_presets_and_overrides_start_from_the_working_folder() -> None:
    config = load_config("gta-dginstyle", ["machine.store=here"])
    assert config.data.source is not None and config.data.source.root == Path("data/gta")
    assert config.machine.store == Path("here") and config.machine.output == Path("runs")


def test_a_store_has_a_name(tmp_path: Path) -> None:
    assert "machine.store" in fails(file(tmp_path, ""), "machine.store=''")
    assert "knows no such user" in fails(file(tmp_path, ""), "machine.store=~nobody-of-this-name/x")


@pytest.mark.parametrize("old", MOVED)
def test_a_key_that_has_moved_says_where(tmp_path: Path, old: str) -> None:
    line = fails(file(tmp_path, "base: toy"), f"{old}=1")
    assert f"'{old}' is '{MOVED[old]}' now" in line
    for part in MOVED[old].split("."):  # and that is a key
        assert part in ExperimentConfig.model_fields | _fields(MOVED[old].partition(".")[0])


def _fields(section: str) -> dict[str, Any]:
    return dict(type(getattr(ExperimentConfig(name="x"), section)).model_fields)


def test_a_config_says_what_it_leaves_out(tmp_path: Path) -> None:
    text = "base: toy\nevaluation: {size: {fog: [64, 128], acdc: null, bdd100k: null}}"
    config = load_config(file(tmp_path, text))
    assert config.dropped == ["evaluation.size of acdc, bdd100k is null and so left out"]
    assert load_config("toy").dropped == []


def test_sections_made_in_python_are_held_to_the_same() -> None:
    for name in ("a\nb", "a/b"):
        with pytest.raises(ValidationError):
            ExperimentConfig(name=name)
    with pytest.raises(ValidationError, match="finite"):
        ExperimentConfig.model_validate({"name": "a", "training": {"ube": {"alpha": math.inf}}})
    nested = {"name": "a", "training": {"methods": {"m": {"training": {"ube": {"alpha": math.nan}}}}}}
    with pytest.raises(ValidationError, match="finite"):
        ExperimentConfig.model_validate(nested)
