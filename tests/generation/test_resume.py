"""What `weights train` resumes from: tensors and JSON under a digest, never a pickle; the same weights each time."""

import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from generation.weights import finetune, loop, scratch
from generation.weights.checkpoints import LAYOUT, discard, keep, kept
from generation.weights.diffusion import sample
from generation.weights.loop import CHECKPOINT, MicroBatch, train_network
from generation.weights.output import publish, published
from generation.weights.train import train_from_scratch
from pipeline.config.machine import Machine
from pipeline.config.weights import NetworkTraining
from pipeline.data.labels import CLASS_NAMES
from pipeline.errors import UserError
from pipeline.store.manifest import canonical_digest, file_table
from tests.tiny import tiny_weights_training

ROOT = Path(__file__).parents[2]
CPU = Machine(device="cpu")
TINY = tiny_weights_training(steps=3, checkpoint_every=1)
SIX = NetworkTraining(steps=6, batch_size=4, learning_rate=1e-2, warmup=2, ema=0.9, checkpoint_every=2)


class Planted:
    """Unpickling it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def small(folder: Path, stop_before: int | None = None) -> list[torch.Tensor]:
    """The weights after a training of six steps in `folder`, or KeyboardInterrupt before a step."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = nn.Linear(5, 2)

    def loss(network: nn.Module, batch: MicroBatch) -> torch.Tensor:
        if batch.step == stop_before:
            raise KeyboardInterrupt
        values = torch.randn(4, 5, generator=torch.Generator().manual_seed(batch.step))[batch.rows]
        return (network(values) - values[:, :2]).square().mean()

    train_network(network, iter, loss, SIX, folder)
    return [parameter.detach().clone() for parameter in network.parameters()]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> list[torch.Tensor]:
    return small(tmp_path_factory.mktemp("calm"))


def test_resumed_training_repeats_the_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    whole = small(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "broken", 5)  # a step beyond the checkpoint at 4, whose log line must not appear twice
    for one, other in zip(whole, small(tmp_path / "broken"), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "broken")]
    losses = [[(json.loads(line)["step"], json.loads(line)["loss"]) for line in log] for log in logs]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == [1, 2, 3, 4, 5, 6]


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A training with a checkpoint at step 4 of 6."""
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path, stop_before=5)
    return tmp_path


def flip(path: Path, seed: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(seed).randrange(len(content))] ^= 1
    path.write_bytes(content)


def tensors_of(folder: Path) -> Path:
    return folder / str(json.loads((folder / CHECKPOINT).read_text())["tensors"])


def resealed(folder: Path, **changes: object) -> None:
    content = json.loads((folder / CHECKPOINT).read_text()) | changes
    content.pop("seal")
    (folder / CHECKPOINT).write_text(json.dumps({**content, "seal": canonical_digest(content)}))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit of the tensors": lambda folder: flip(tensors_of(folder)),
    "another bit of the tensors": lambda folder: flip(tensors_of(folder), 7),
    "a bit of the numbers": lambda folder: flip(folder / CHECKPOINT),
    "tensors cut short": lambda folder: os.truncate(tensors_of(folder), 100),
    "tensors that are gone": lambda folder: tensors_of(folder).unlink(),
    "an empty file": lambda folder: (folder / CHECKPOINT).write_text(""),
    "no object": lambda folder: (folder / CHECKPOINT).write_text("[1, 2]"),
    "tensors elsewhere": lambda folder: resealed(folder, tensors="../../elsewhere.safetensors"),
    "another layout": lambda folder: resealed(folder, layout=LAYOUT + 1),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_not_used(
    damage: Callable[[Path], object], interrupted: Path, calm: list[torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(interrupted)
    weights = small(interrupted)
    assert all(torch.equal(one, other) for one, other in zip(weights, calm, strict=True))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"flexseg: {interrupted / CHECKPOINT} is damaged or not ours (")
    assert line.endswith("begins again")


def test_nothing_is_unpickled_on_resume(interrupted: Path, calm: list[torch.Tensor]) -> None:
    """Case F02: pickles in every file that Accelerate's load_state or torch.load might have read."""
    mark = interrupted / "PWNED"
    planted = pickle.dumps(Planted(mark))
    folder = interrupted / "checkpoint"
    folder.mkdir()
    for name in ("custom_checkpoint_0.pkl", "custom_checkpoint_1.pkl", "optimizer.bin", "random_states_0.pkl"):
        (folder / name).write_bytes(planted)
    for kind in (False, True):
        torch.save(Planted(mark), folder / "scheduler.bin", _use_new_zipfile_serialization=kind)
    weights = small(interrupted)
    assert not mark.exists()
    assert all(torch.equal(one, other) for one, other in zip(weights, calm, strict=True))


@pytest.mark.parametrize("name", ["tensors", "numbers"])
def test_a_pickle_in_a_checkpoints_place_is_no_checkpoint(name: str, interrupted: Path) -> None:
    mark = interrupted / "PWNED"
    path = tensors_of(interrupted) if name == "tensors" else interrupted / CHECKPOINT
    path.write_bytes(pickle.dumps(Planted(mark)))
    small(interrupted)
    assert not mark.exists()


def test_the_state_of_another_training_is_one_line(interrupted: Path) -> None:
    keep(interrupted / CHECKPOINT, {"network.weight": torch.zeros(7, 7)}, {"step": 2, "seconds": 0.0})
    with pytest.raises(UserError, match="holds another training's state .*: delete it") as caught:
        small(interrupted)
    assert "\n" not in str(caught.value)


def test_a_log_that_was_cut_off_by_a_kill_goes_on(interrupted: Path) -> None:
    with (interrupted / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "lo')
    small(interrupted)
    assert [json.loads(line)["step"] for line in (interrupted / "log.jsonl").read_text().splitlines()] == [2, 4, 6]


def test_what_is_kept_comes_back_and_can_be_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "there" / "state.json"
    tensors = {"a": torch.arange(6).view(2, 3).t(), "b": torch.tensor(0.1, dtype=torch.float64)}
    assert kept(path, "it") is None
    for step in range(3):
        keep(path, tensors, {"step": step, "share": 0.1})
        found = kept(path, "it")
        assert found is not None and found.values == {"step": step, "share": 0.1}
        assert all(torch.equal(found.tensors[name], value) for name, value in tensors.items())
        assert len(list(path.parent.iterdir())) == 2
    discard(path)
    assert list(path.parent.iterdir()) == []


def test_a_published_network_that_was_damaged_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Network:
        def save_pretrained(self, folder: Path) -> None:
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps({"_name_or_path": "/home/me", "width": 3}))

    folder = tmp_path / "unet"
    assert not published(folder)
    publish(Network(), folder)
    assert published(folder) and json.loads((folder / "config.json").read_text()) == {"width": 3}
    publish(Network(), folder)  # what is there is replaced
    assert published(folder)
    (folder / "config.json").write_text("{}")
    assert not published(folder) and not folder.exists()
    assert f"{folder} is damaged" in capsys.readouterr().err


def stop_in(name: str, step: int) -> Callable[..., Iterator[Any]]:
    """A `Track` under which the training of a network is interrupted."""

    def track(items: Any, /, *, total: int, description: str, done: int = 0, **options: object) -> Iterator[Any]:
        for item in items:
            if description == f"Training {name}" and item == step:
                raise KeyboardInterrupt
            yield item

    return track


def test_an_interrupted_training_from_scratch_gives_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case F04: stopped in each training, once after a part was finished, and begun again each time."""
    monkeypatch.setattr(loop, "PREVIEWS", 1)
    for module in (scratch, finetune):
        monkeypatch.setattr(module, "sample", partial(sample, steps=1))
    train_from_scratch(TINY, tmp_path / "calm", machine=CPU)
    kills = (("vae", 2), ("prior", 0), ("controlnet", 1))
    for name, step in kills:
        with pytest.raises(KeyboardInterrupt):
            train_from_scratch(TINY, tmp_path / "killed", machine=CPU, progress=stop_in(name, step))
    train_from_scratch(TINY, tmp_path / "killed", machine=CPU)

    def networks(folder: Path) -> dict[str, Any]:
        return {name: entry for name, entry in file_table(folder).items() if not name.startswith("training/")}

    calm = networks(tmp_path / "calm")
    assert networks(tmp_path / "killed") == calm
    assert {"tokenizer/tokenizer.json", "vae/config.json", "model_index.json", "controlnet/config.json"} <= set(calm)
    for file in (tmp_path / "calm").rglob("*"):
        if file.is_file() and file.suffix in {".json", ".txt"}:
            assert str(tmp_path) not in file.read_text() and "name_or_path" not in file.read_text(), file
        assert not file.name.startswith(("checkpoint", "bank", "pipeline.partial")), file  # F02: they are not shared


def test_the_vocabulary_is_the_same_in_every_process() -> None:
    """Case F04: 60 builds gave 'wall' two ids, since the trainer numbers letters in hash order."""
    code = (
        "import sys\n"
        "from generation.weights.words import learn_vocabulary\n"
        f"texts = ['A city street scene with, in weather.', *{CLASS_NAMES!r}]\n"
        "assert not {'torch', 'transformers', 'diffusers'} & set(sys.modules)\n"
        "print(*{str(learn_vocabulary(texts)) for _ in range(10)}, sep='\\n')\n"
    )
    built = set()
    for seed in ("0", "1", "7", "random"):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        built |= set(done.stdout.splitlines())
    assert len(built) == 1
