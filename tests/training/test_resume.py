"""A run that is killed at any moment and started again ends with the losses of one that never was."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.machine import Machine
from pipeline.config.training import Method, TrainingConfig
from pipeline.data.datasets import Scene
from pipeline.errors import UserError
from pipeline.files import seal
from pipeline.seeding import random_generator
from training.checkpoints import checkpoints, load_checkpoint, save_checkpoint
from training.networks import Segmenter
from training.train import train

Capture = pytest.CaptureFixture[str]
EVERYTHING = Method(generated=True, gap=True, ube=True, has=True, shade=True, feature_distance=True)


def _run(config: TrainingConfig, scenes: list[Scene], generated: Path, folder: Path, workers: int) -> None:
    machine = Machine(device="cpu", loader_workers=workers, tracker=None)
    train(config, EVERYTHING, 0, scenes, [generated], folder, machine=machine)


def _same(first: Path, second: Path) -> None:
    assert (first / "log.jsonl").read_text() == (second / "log.jsonl").read_text()
    weights, others = (Segmenter.from_pretrained(folder / "segmenter").state_dict() for folder in (first, second))
    for name, weight in weights.items():
        assert torch.equal(weight, others[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_random_moments(
    tiny_config: TrainingConfig, scenes: list[Scene], generated: Path, tmp_path: Path, workers: int
) -> None:
    config = tiny_config.of(
        Method(training={"iterations": 60, "checkpoint_every": 9, "validation_every": 20, "shade": {"basis": 4}})
    )
    _run(config, scenes, generated, tmp_path / "whole", workers=0)
    broken = tmp_path / "broken"
    log = broken / "log.jsonl"
    random, kills = random_generator("moments", workers), 0
    fork = multiprocessing.get_context("fork")
    for _ in range(40):
        process = fork.Process(target=_run, args=(config, scenes, generated, broken, workers))
        lines = len(log.read_text().splitlines()) if log.exists() else 0
        process.start()
        while process.is_alive() and (not log.exists() or len(log.read_text().splitlines()) < lines + 1):
            time.sleep(0.01)  # at least one block
        time.sleep(float(random.uniform(0, 0.5)))
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:
            break
    assert kills >= 3
    assert process.exitcode == 0
    _same(tmp_path / "whole", broken)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "flipped": lambda content: (
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 4]) + content[len(content) // 2 + 1 :]
    ),
    "truncated": lambda content: content[: len(content) // 3],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"\0",
    "another file": lambda content: b"<!DOCTYPE html><html></html>",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_said_and_not_trained_on(tmp_path: Path, damage: str, capsys: Capture) -> None:
    """Case F07: flipped bits were trained on in 5 of 6 trials, cut files were tracebacks, empty ones "Aborted."."""
    for iteration in (3, 6, 9):
        save_checkpoint(
            tmp_path, {"identity": "me", "iteration": iteration, "model": torch.full((50,), float(iteration))}
        )
    newest, older = checkpoints(tmp_path)
    newest.write_bytes(DAMAGES[damage](newest.read_bytes()))
    state = load_checkpoint(tmp_path, "me")
    assert state is not None and state["iteration"] == 6 and (state["model"] == 6).all()
    assert capsys.readouterr().err == f"flexseg: checkpoint {newest} is damaged: training goes on from the one before\n"
    older.write_bytes(DAMAGES[damage](older.read_bytes()))
    assert load_checkpoint(tmp_path, "me") is None
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"flexseg: checkpoint {older} is damaged: training goes on from the beginning"
    ]


class Marker:
    """What a planted pickle would run."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_a_planted_checkpoint_runs_nothing(tmp_path: Path, capsys: Capture) -> None:
    """With a seal that holds: a pickle with code, values without a state, another run's state."""
    for number, planted in enumerate([Marker(tmp_path / "ran"), {"iteration": 3}, [1, 2]]):
        folder = tmp_path / str(number)
        folder.mkdir()
        torch.save(planted, folder / "000000003.pt")
        seal(folder / "000000003.pt")
        assert load_checkpoint(folder, "me") is None
        assert "is damaged" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    save_checkpoint(tmp_path, {"identity": "another", "iteration": 3})
    with pytest.raises(UserError, match="another configuration or seed"):
        load_checkpoint(tmp_path, "me")


def test_damage_at_any_byte_is_noticed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"identity": "me", "iteration": 3, "model": torch.arange(20.0)})
    (file,) = checkpoints(tmp_path)
    whole, random = file.read_bytes(), random_generator("flipped bits")
    for place in random.integers(0, len(whole), 40):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(random.integers(8))]) + whole[place + 1 :])
        assert load_checkpoint(tmp_path, "me", quiet=True) is None
    file.write_bytes(whole)
    assert load_checkpoint(tmp_path, "me", quiet=True) is not None


def test_what_is_left_of_killed_processes_is_removed(tmp_path: Path) -> None:
    for name in (".000000001.pt.17.tmp", "000000002.pt", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    for iteration in (3, 6, 9):
        save_checkpoint(tmp_path, {"identity": "me", "iteration": iteration})
    assert [path.name[:9] for path in checkpoints(tmp_path)] == ["000000009", "000000006"]
    assert len(list(tmp_path.iterdir())) == 4  # the two, an unsealed one that is not read, the notes


def test_a_run_that_goes_back_a_checkpoint_ends_as_one_that_did_not(
    tiny_config: TrainingConfig, scenes: list[Scene], generated: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Also its log is that of the whole run: it comes back with the checkpoint."""
    config = tiny_config.of(
        Method(training={"iterations": 9, "checkpoint_every": 3, "validation_every": 100, "shade": {"basis": 4}})
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    _run(config, scenes, generated, whole, workers=0)

    def crash(items: Iterable[Any], /, **told: Any) -> Iterator[Any]:
        yield from islice(items, 8 if told["description"] == "training" else None)
        if told["description"] == "training":
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        machine = Machine(device="cpu", tracker=None)
        train(config, EVERYTHING, 0, scenes, [generated], broken, machine=machine, progress=crash)
    newest, _ = checkpoints(broken / "checkpoint")
    newest.write_bytes(b"")
    _run(config, scenes, generated, broken, workers=0)
    assert "is damaged: training goes on from the one before" in capsys.readouterr().err
    _same(whole, broken)


def test_a_log_line_that_was_cut_off_is_written_again(
    tiny_config: TrainingConfig, scenes: list[Scene], generated: Path, tmp_path: Path
) -> None:
    config = tiny_config.of(Method(training={"iterations": 6}))
    _run(config, scenes, generated, tmp_path / "whole", workers=0)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "log.jsonl").write_text('{"iteration": 3, "loss": 1.5}\n{"iterat')
    _run(config, scenes, generated, tmp_path / "cut", workers=0)
    _same(tmp_path / "whole", tmp_path / "cut")
    assert len(json.loads((tmp_path / "cut" / "log.jsonl").read_text().splitlines()[0])) > 2
