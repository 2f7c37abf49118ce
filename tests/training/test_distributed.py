"""Two processes at batch 1 against one at batch 2, and what ends them."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from torch import distributed, nn

from pipeline.config.machine import Machine
from pipeline.config.training import Method, TrainingConfig
from pipeline.data.datasets import Scene
from pipeline.data.statistics import class_pixels
from pipeline.errors import StoreUnavailableError, TryAgainError, UserError
from pipeline.work.progress import silent
from training import ranks
from training.checkpoints import checkpoints
from training.launch import run_on_ranks
from training.synchronized import synchronize_norms
from training.train import Job, check_training, train, train_rank

CPU = Machine(device="cpu", tracker=None)
FLEX = Method(generated=True, gap=True, ube=True, has=True)


@pytest.fixture
def job(tiny_config: TrainingConfig, scenes: list[Scene], generated: Path, tmp_path: Path) -> Job:
    """Without dropout, whose noise every rank draws for itself; with so few boundary cells per loss that ranks must
    choose them together; with steps that are small beside what rounding does to Adam's."""
    quiet = {
        "network": {"dropout": 0.0, "drop_path": 0.0},
        "gap": {"max_pixels": 40},
        "optimizer": {"learning_rate": 1e-4},
    }
    config = tiny_config.of(Method(training=quiet))
    return Job(config, FLEX, 0, scenes, [generated], tmp_path, CPU, class_pixels(scenes))


class StopAfter:
    """Asks to stop when it has been asked so often: once per iteration."""

    def __init__(self, iterations: int) -> None:
        self.left = iterations

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def on_forked_ranks(work: Callable[..., None], place: Path, *arguments: Any) -> list[int | None]:
    """Calls `work(*arguments)` on two forked ranks; their exit codes."""
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=_as_rank, args=(rank, place, work, arguments)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=240)
    return [process.exitcode for process in ranks]


def _as_rank(rank: int, place: Path, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier test has told it that this process is alone
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    work(*arguments)


def _fit(job: Job, stop: Callable[[], bool]) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_rank(job, silent, stop)


def _log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def _in(job: Job, folder: Path) -> Job:
    folder.mkdir(exist_ok=True)
    return replace(job, folder=folder)


@pytest.mark.parametrize(("ube", "tolerance"), [(False, 1e-5), (True, 1e-3)])
def test_two_ranks_train_as_one(job: Job, tmp_path: Path, ube: bool, tolerance: float) -> None:
    """UBE divides by the deviation of the band's entropy: of a fresh network that is so small that rounding shows."""
    job = replace(job, method=job.method.model_copy(update={"ube": ube}))
    one, two = _in(job, tmp_path / "one"), _in(job, tmp_path / "two")
    _fit(one, StopAfter(6))
    assert on_forked_ranks(_fit, tmp_path / "store", two, StopAfter(4)) == [
        0,
        0,
    ]  # they agree when the block ends, at 6
    alone, together = (torch.load(checkpoints(j.folder / "checkpoint")[0], weights_only=True) for j in (one, two))
    assert alone["iteration"] == together["iteration"] == 6
    torch.testing.assert_close(together["state"], alone["state"], rtol=0, atol=10 * tolerance)
    assert together["state"]["PrototypeBank"]["counts"].sum() > 0
    torch.testing.assert_close(together["hardness"], alone["hardness"], rtol=tolerance, atol=0)
    assert sum(int(pool["counts"].sum()) for pool in together["hardness"]) == 12
    torch.testing.assert_close(together["model"], alone["model"], rtol=0, atol=10 * tolerance)
    for ours, theirs in zip(_log(two.folder), _log(one.folder), strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance)
    assert [path.name for path in (two.folder / "previews").iterdir()] == ["000006.png"]


def test_one_process_goes_on_where_two_have_stopped(job: Job, tmp_path: Path) -> None:
    assert on_forked_ranks(_fit, tmp_path / "store", job, StopAfter(4)) == [0, 0]
    train_rank(job, silent, lambda: False)
    assert [line["iteration"] for line in _log(tmp_path)] == [3, 6, 9, 12]
    assert (tmp_path / "segmenter" / "model.safetensors").is_file()


def _normalize(target: Path, rank_of_image: list[int]) -> None:
    """Forward and backward through a synchronized norm; saves this rank's gradients and the running statistics."""
    random = torch.Generator().manual_seed(0)
    images, weights = torch.randn(2, 2, 5, 3, 4, generator=random)
    norm = nn.Sequential(nn.BatchNorm2d(5))
    synchronize_norms(norm, torch.device("cpu"))
    chosen = [k for k, owner in enumerate(rank_of_image) if owner == ranks.rank()]
    image = (3 + 2 * images[chosen]).requires_grad_()
    (norm(image) * weights[chosen]).sum().backward()
    assert image.grad is not None
    torch.save((image.grad, norm.state_dict()), target / f"{len(set(rank_of_image))}-{ranks.rank()}.pt")


def test_batch_norm_over_ranks_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    _normalize(tmp_path, [0, 0])
    assert on_forked_ranks(_normalize, tmp_path / "store", tmp_path, [0, 1]) == [0, 0]
    gradient, state = torch.load(tmp_path / "1-0.pt")
    parts = [torch.load(tmp_path / f"2-{rank}.pt") for rank in (0, 1)]
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), gradient)
    for part in parts:
        torch.testing.assert_close(part[1], state)


def test_what_cannot_be_divided_is_refused(job: Job) -> None:
    with pytest.raises(UserError, match="batch_size 2 does not divide over 3 processes"):
        check_training(job.config, FLEX, job.source, job.generated, CPU.model_copy(update={"processes": 3}))
    halves = job.config.of(Method(training={"accumulation": 2}))
    check_training(halves, FLEX, job.source, job.generated, CPU)
    with pytest.raises(UserError, match="multiple of 4"):
        check_training(halves, FLEX, job.source, job.generated, CPU.model_copy(update={"processes": 2}))


def test_the_number_of_started_processes_must_be_the_one_asked_for(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_training(job.config, FLEX, job.source, job.generated, CPU)
    with pytest.raises(UserError, match="machine.processes is 4, but 2 processes were started"):
        check_training(job.config, FLEX, job.source, job.generated, CPU.model_copy(update={"processes": 4}))


def _misbehave(how: str, stop: Callable[[], bool]) -> None:
    if how == "error" and ranks.rank() == 1:
        raise UserError("image 7 is broken: correct it")
    if how == "unreachable" and ranks.rank() == 1:
        raise StoreUnavailableError("the disk did not answer")
    if how == "killed" and ranks.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "interrupted":
        if ranks.rank() == 0:
            os.kill(os.getppid(), signal.SIGINT)
        while not stop():
            time.sleep(0.01)
        return
    ranks.summed(torch.zeros(1))  # waits for the other rank


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "message", "kind"),
    [
        ("error", "^image 7 is broken: correct it$", UserError),
        ("unreachable", "^the disk did not answer$", StoreUnavailableError),
        ("killed", "ended from outside .*SIGKILL", TryAgainError),
    ],
)
def test_a_failing_rank_ends_all(how: str, message: str, kind: type[UserError]) -> None:
    """What may go well when it is tried again says so, as everywhere: flows then retry it."""
    with pytest.raises(UserError, match=message) as error:
        run_on_ranks(2, "cpu", _misbehave, (how,))
    assert "\n" not in str(error.value) and type(error.value) is kind


@pytest.mark.slow
def test_an_interrupt_ends_all_ranks() -> None:
    with pytest.raises(KeyboardInterrupt):
        run_on_ranks(2, "cpu", _misbehave, ("interrupted",))
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_train_starts_the_processes_that_the_machine_names(job: Job, tmp_path: Path) -> None:
    for processes in (1, 2):
        machine, folder = CPU.model_copy(update={"processes": processes}), tmp_path / str(processes)
        method = FLEX.model_copy(update={"ube": False})
        train(job.config, method, 0, job.source, job.generated, folder, machine=machine)
    for ours, theirs in zip(_log(tmp_path / "2"), _log(tmp_path / "1"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow
def test_under_torchrun_rank_0_leads_and_the_others_help(tiny_config: TrainingConfig, tmp_path: Path) -> None:
    changes = {"methods": {"plain": {"gap": True}}, "iterations": 6}
    config = {
        "data": {"toytown": {"source_images": 10, "target_images": 1, "size": [64, 128]}},
        "training": {**tiny_config.model_dump(mode="json"), **changes},
        "machine": {"device": "cpu", "store": str(tmp_path / "store")},
    }
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(config))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "flows.cli", "train", str(tmp_path / "two.yaml"), "--method", "plain"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert (folder / "model.safetensors").is_file()
    assert [line["iteration"] for line in _log(folder.parent)] == [3, 6]
