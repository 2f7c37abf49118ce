"""Configs changed at random: what is loaded is what PyYAML and the sections read, or the file is named in a line."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.config.experiment import ExperimentConfig, load_config
from pipeline.config.reading import PRESETS, presets
from pipeline.errors import UserError
from tests.mutations import LEAVES, TREES, changed, damaged, is_one_line_about, tried


def laid_over(below: Any, above: Any) -> Any:
    """What `base` means: mappings key by key, entries of lists by their places, all else is replaced."""
    if isinstance(below, list) and isinstance(above, dict) and above and set(above) <= set(map(str, range(len(below)))):
        return [laid_over(entry, above[str(k)]) if str(k) in above else entry for k, entry in enumerate(below)]
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    both = dict(below)
    for key, value in above.items():
        both[key] = laid_over(below[key], value) if key in below else value
    return both


def whole(content: dict[str, Any]) -> dict[str, Any]:
    """A preset with all of its `base` in it."""
    content = dict(content)
    base = content.pop("base", None)
    return (
        content if base is None else laid_over(whole(yaml.safe_load((PRESETS / f"{base}.yaml").read_text())), content)
    )


WHOLE = [whole(yaml.safe_load((PRESETS / f"{name}.yaml").read_text())) for name in presets()]


def validated(content: Any) -> ExperimentConfig | None:
    """What the sections themselves make of a mapping."""
    try:
        return ExperimentConfig.model_validate({"name": "mine", **content})
    except (ValidationError, TypeError):
        return None


def shown(config: ExperimentConfig, folder: Path) -> str:
    """A config's content, paths as they are written in a file of `folder`."""
    return json.dumps(config.model_dump(mode="json"), sort_keys=True).replace(f"{folder}/", "")


@tried(30)
@given(tree=st.sampled_from(WHOLE).flatmap(changed))
def test_presets_with_a_change(tmp_path: Path, tree: Any) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))
    wanted = validated(tree) if isinstance(tree, dict) and "base" not in tree else None
    try:
        loaded = load_config(file)
    except UserError as error:
        is_one_line_about(error, file)
    else:
        assert wanted is not None and shown(loaded, tmp_path) == shown(wanted, tmp_path)


@tried(60)
@given(content=st.sampled_from([(PRESETS / f"{name}.yaml").read_bytes() for name in presets()]).flatmap(damaged))
def test_presets_that_are_damaged(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    try:
        loaded = load_config(file)
    except UserError as error:
        is_one_line_about(error, "config ")  # of a `base` that is not there, the base
    else:
        wanted = validated(whole(yaml.safe_load(content) or {}))
        assert wanted is not None and shown(loaded, tmp_path) == shown(wanted, tmp_path)


@tried(50)
@given(tree=TREES, text=st.binary(max_size=60) | st.text("{}[]:,-&*!?|>%@`#'\"\n a1.~<", max_size=40).map(str.encode))
def test_what_no_config_is(tmp_path: Path, tree: Any, text: bytes) -> None:
    file = tmp_path / "mine.yaml"
    for content in (yaml.safe_dump(tree).encode("utf-8", "surrogatepass"), text):
        file.write_bytes(content)
        try:
            assert shown(load_config(file), tmp_path) == shown(ExperimentConfig(name="mine"), tmp_path)
        except UserError as error:
            is_one_line_about(error, file)


def keys(tree: Any, above: str = "") -> list[str]:
    """Dotted paths of all that is in a tree."""
    here = [f"{above}{key}" for key in tree] if isinstance(tree, dict) else []
    return here + [path for key in here for path in keys(tree[key.removeprefix(above)], f"{key}.")]


@tried(40)
@given(
    key=st.sampled_from(keys(WHOLE[-1])) | st.text(".abx0", max_size=6),
    value=LEAVES.map(str) | TREES.map(lambda tree: yaml.safe_dump(tree, default_flow_style=True)) | st.text(max_size=8),
)
def test_overrides(key: str, value: str) -> None:
    assume(not key.startswith("base"))
    try:
        loaded = load_config("toy", [f"{key}={value}"])
    except UserError as error:
        is_one_line_about(error, "")
    else:
        tree: Any = yaml.safe_load(value)
        for part in reversed(key.split(".")):
            tree = {part: tree}
        wanted = validated(laid_over(WHOLE[presets().index("toy")], tree))
        assert wanted is not None
        assert loaded.model_dump(exclude={"name"}) == wanted.model_dump(exclude={"name"})


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_its_whole(name: str) -> None:
    wanted = validated(WHOLE[presets().index(name)])
    assert wanted is not None
    assert load_config(name).model_dump(exclude={"name"}) == wanted.model_dump(exclude={"name"})
