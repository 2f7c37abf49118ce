"""Plans and checkpoints of `weights train` changed at random: read as they are, or named in a line."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from generation.plan import PLAN, plan_text, read_plan
from generation.weights.checkpoints import keep, kept
from pipeline.errors import UserError
from pipeline.requests import Box, GenerationRequest
from pipeline.store.manifest import canonical_digest
from tests.mutations import changed, damaged, is_one_line_about, tried

TEXTS = st.text(max_size=12).filter(lambda text: all(not "\ud800" <= letter <= "\udfff" for letter in text))
REQUESTS = st.lists(
    st.builds(
        GenerationRequest,
        id=TEXTS,
        source=TEXTS,
        box=st.builds(Box, *[st.integers(0, 3000)] * 4),
        class_id=st.integers(0, 18),
        condition=TEXTS,
        prompt=TEXTS,
        plan_seed=st.integers(0, 2**63),
    ),
    max_size=4,
)
ONE = GenerationRequest("fog-000000", "town", Box(1, 2, 3, 4), 5, "fog", "a street", 7)


@tried(40)
@given(requests=REQUESTS)
def test_a_plan_is_read_as_it_was_written(tmp_path: Path, requests: list[GenerationRequest]) -> None:
    (tmp_path / PLAN).write_text(plan_text(requests), encoding="utf-8")
    assert read_plan(tmp_path) == requests
    lines = (tmp_path / PLAN).read_text(encoding="utf-8").split("\n")[:-1]
    assert [json.loads(line) for line in lines] == [asdict(request) for request in requests]


@tried(60)
@given(data=st.data())
def test_a_changed_plan_is_what_it_says_or_named(tmp_path: Path, data: st.DataObject) -> None:
    text = plan_text([ONE, ONE])
    tree = data.draw(changed(asdict(ONE)))
    content = data.draw(
        damaged(text.encode()) | st.just(f"{text}{json.dumps(tree)}\n".encode("utf-8", "surrogatepass"))
    )
    (tmp_path / PLAN).write_bytes(content)
    try:
        found = read_plan(tmp_path)
    except UserError as error:
        is_one_line_about(error, tmp_path / PLAN)
    else:
        assert content.endswith(b"\n") or not content
        rows = [json.loads(line) for line in content.split(b"\n")[:-1]]
        assert [asdict(request) for request in found] == rows
        assert all(isinstance(request.seed, int) for request in found)


@tried(60)
@given(data=st.data(), resealed=st.booleans())
def test_what_a_training_was_kept_by_is_whole_or_named(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, *, resealed: bool
) -> None:
    path = tmp_path_factory.mktemp("training") / "checkpoint.json"
    tensors, values = {"weight": torch.arange(6.0).view(2, 3)}, {"step": 4, "names": ["a"]}
    keep(path, tensors, values)
    content = json.loads(path.read_text())
    other = path.with_name(content["tensors"])
    kind = data.draw(st.sampled_from(["text", "tree", "tensors"]))
    new: Any = content
    if kind == "text":
        path.write_bytes(data.draw(damaged(path.read_bytes())))
    elif kind == "tree":
        new = data.draw(changed(content))
    else:
        other.write_bytes(data.draw(damaged(other.read_bytes())))
    if kind == "tree":
        if resealed and isinstance(new, dict):
            new = _resealed({name: value for name, value in new.items() if name != "seal"})
        path.write_text(json.dumps(new))
    found = kept(path, "the training")
    if found is not None:
        assert resealed or found.values == values
        assert found.tensors.keys() == tensors.keys() and torch.equal(found.tensors["weight"], tensors["weight"])
        assert found.values == new["values"]


def _resealed(content: dict[str, Any]) -> dict[str, Any]:
    try:
        return {**content, "seal": canonical_digest(content)}
    except (ValueError, RecursionError):  # NaN, a surrogate
        return {**content, "seal": "0" * 64}


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"{}", b'{"layout": 1}', b"null", b"[1]", b"\xff\xfe"])
def test_what_is_no_record_is_one_line(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "checkpoint.json"
    path.write_bytes(content)
    save_file({"a": torch.ones(1)}, tmp_path / "checkpoint-a.safetensors")
    assert kept(path, "the training") is None
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line and line.endswith("the training begins again")
