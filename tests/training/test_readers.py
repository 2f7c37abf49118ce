"""Checkpoints changed at random: what is read is what an independent reading finds, or the file is named in a line."""

import hashlib
import io
import json
import pickle
import resource
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from pipeline.errors import UserError
from pipeline.files import seal
from pipeline.seeding import random_generator
from tests.mutations import changed, damaged, is_one_line_about, tried
from training.checkpoints import checkpoints, load_checkpoint, save_checkpoint
from training.foreign_files import read_tensors
from training.networks import Segmenter
from training.predict import load_network

KINDS = {"F32": np.float32, "F64": np.float64, "F16": np.float16, "I64": np.int64, "I32": np.int32, "U8": np.uint8}
STORAGES = {"FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16,
            "LongStorage": np.int64, "IntStorage": np.int32, "ByteStorage": np.uint8}  # fmt: skip
Arrays = dict[str, np.ndarray]
STATES = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name not in {"__metadata__", "state_dict"}),
    st.tuples(st.sampled_from(sorted(KINDS)), st.lists(st.integers(0, 4), max_size=3), st.integers(0, 99)),
    min_size=1,
    max_size=4,
)


def arrays_of(state: dict[str, tuple[str, list[int], int]]) -> Arrays:
    return {
        name: random_generator("state", seed).integers(0, 100, shape).astype(KINDS[kind])
        for name, (kind, shape, seed) in state.items()
    }


def same(found: dict[str, torch.Tensor], wanted: Arrays) -> bool:
    """Bit for bit, also where a number is none."""
    return found.keys() == wanted.keys() and all(
        value.numpy().dtype == wanted[name].dtype
        and tuple(value.shape) == wanted[name].shape
        and value.contiguous().numpy().tobytes() == wanted[name].tobytes()
        for name, value in found.items()
    )


def plain_safetensors(content: bytes) -> Arrays:
    """The format as its page describes it: a length, a JSON table, numbers."""
    size = int.from_bytes(content[:8], "little")
    table = json.loads(content[8 : 8 + size])
    table.pop("__metadata__", None)
    return {
        name: np.frombuffer(content[8 + size :][slice(*entry["data_offsets"])], KINDS[entry["dtype"]]).reshape(
            entry["shape"]
        )
        for name, entry in table.items()
    }


class _Pickle(pickle.Unpickler):
    """The pickle of a .pth file, of whose names three are known."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.folder = next(name for name in archive.namelist() if name.endswith("data.pkl")).removesuffix("data.pkl")
        super().__init__(io.BytesIO(archive.read(f"{self.folder}data.pkl")))
        self.archive = archive

    def find_class(self, module: str, name: str) -> Any:
        known = {("collections", "OrderedDict"): OrderedDict, ("torch._utils", "_rebuild_tensor_v2"): self.tensor}
        return name if name in STORAGES else known[module, name]

    def persistent_load(self, told: Any) -> np.ndarray:
        _, kind, key, _, count = told
        return np.frombuffer(self.archive.read(f"{self.folder}data/{key}"), STORAGES[kind], count)

    def tensor(self, storage: np.ndarray, offset: int, size: Any, stride: Any, *_: Any) -> np.ndarray:
        index = np.full(size, offset, np.int64)
        for axis, step in enumerate(stride):
            index += np.arange(size[axis]).reshape([-1 if k == axis else 1 for k in range(len(size))]) * step
        return storage[index]


def plain_pth(content: bytes) -> Arrays:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return dict(_Pickle(archive).load())


@tried(60)
@given(state=STATES, data=st.data(), suffix=st.sampled_from([".safetensors", ".pth"]))
def test_checkpoints_of_others(tmp_path: Path, state: Any, data: st.DataObject, suffix: str) -> None:
    wanted, file = arrays_of(state), tmp_path / f"x{suffix}"
    tensors = {name: torch.from_numpy(array) for name, array in wanted.items()}
    save_file(tensors, file) if suffix == ".safetensors" else torch.save(tensors, file)
    read = plain_safetensors if suffix == ".safetensors" else plain_pth
    assert same(read_tensors(file), wanted) and same(read_tensors(file), read(file.read_bytes()))
    content = data.draw(damaged(file.read_bytes()))
    file.write_bytes(content)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        found = read_tensors(file)
    except UserError as error:
        is_one_line_about(error, file)
    else:
        assert same(found, wanted) or same(found, read(content))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 300_000  # KB


@tried(40)
@given(data=st.data(), sealed=st.booleans())
def test_resumed_checkpoints(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, *, sealed: bool) -> None:
    """The newest one whose bytes are those that its name tells, by a sum of our own; what was sealed anew is no state,
    or one that says whose it is."""
    folder = tmp_path_factory.mktemp("run")
    for iteration in (3, 6):
        save_checkpoint(folder, {"identity": "me", "iteration": iteration, "model": torch.full((5,), float(iteration))})
    for file in data.draw(st.lists(st.sampled_from(checkpoints(folder)), min_size=1, unique=True)):
        file.write_bytes(data.draw(damaged(file.read_bytes())))
        if sealed:
            seal(file.rename(folder / f"{file.name[:9]}.pt"))
    whole = [
        file.name[:9]
        for file in sorted(folder.glob("*.pt"), reverse=True)
        if file.stem[10:] == hashlib.sha256(file.read_bytes()).hexdigest()
    ]
    try:
        state = load_checkpoint(folder, "me", quiet=True)
    except UserError as error:
        assert sealed
        is_one_line_about(error, folder)
        return
    if state is None:
        assert sealed or not whole
    elif not sealed:
        assert state["iteration"] == int(whole[0])
        assert torch.equal(state["model"], torch.full((5,), float(whole[0])))


@tried(30)
@given(data=st.data())
def test_trained_segmenters(stored_segmenter: tuple[Path, str], data: st.DataObject) -> None:
    """A config.json that was changed gives the network of the whole one, or is named."""
    folder, text = stored_segmenter
    content = json.loads(text)
    new = data.draw(changed(content) | changed(content["encoder"]).map(lambda encoder: {**content, "encoder": encoder}))
    (folder / "config.json").write_text(json.dumps(new))
    image = torch.zeros(1, 3, 32, 64)
    try:
        network = load_network(folder, "cpu")
    except UserError as error:
        is_one_line_about(error, folder)
    else:
        assert network(image).shape == (1, 19, 8, 16)


@pytest.fixture
def stored_segmenter(tmp_path: Path, tiny_config: Any) -> tuple[Path, str]:
    Segmenter.create(tiny_config.network, 0).save_pretrained(tmp_path)
    return tmp_path, (tmp_path / "config.json").read_text()
