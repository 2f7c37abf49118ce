"""What can be seen of the Ray executor without a cluster."""

import json
from concurrent.futures import Future
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError
from torch.distributed import DistNetworkError

from flows.ray import cluster as ray_cluster
from flows.ray import training as ray_training
from pipeline.config.machine import Machine
from pipeline.errors import UserError


@pytest.fixture
def no_network() -> None:
    """For Ray 127.0.0.1 is the machine's own address, which the fixture of all other tests refuses."""


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:9", r"no Ray cluster runs at 127.0.0.1:9 \(RAY_ADDRESS\): start one with 'ray start --head'"),
        ("ray://head:10001", "RAY_ADDRESS is 'ray://head:10001', but its form must be HEAD:6379"),
        ("local", "RAY_ADDRESS is 'local'"),
    ],
)
def test_no_cluster_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, address: str, message: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=message) as error, ray_cluster.connected():
        pass
    assert "\n" not in str(error.value)


def test_the_cluster_must_have_what_the_machine_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 8.0})
    assert ray_cluster.resource(Machine()) == ray_cluster.resource(Machine(device="cpu"), 8) == "CPU"
    with pytest.raises(UserError, match="no node of the Ray cluster has a GPU"):
        ray_cluster.resource(Machine(device="cuda"))
    with pytest.raises(UserError, match="has 8 CPUs, but 9 are needed"):
        ray_cluster.resource(Machine(), 9)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    assert ray_cluster.resource(Machine(), 2) == "GPU"
    assert ray_cluster.resource(Machine(device="cpu"), 4) == "CPU"
    with pytest.raises(UserError, match="has 2 GPUs, but 3 are needed"):
        ray_cluster.resource(Machine(), 3)


def test_a_node_with_other_code_or_without_a_file_is_named(tmp_path: Path) -> None:
    here = ray_cluster.versions()
    assert ray_cluster.complaint([str(tmp_path)], here) is None
    missing = ray_cluster.complaint([str(tmp_path), str(tmp_path / "labels")], here)
    assert missing is not None and missing.startswith(f"cannot read {tmp_path / 'labels'}: put it on a file system")
    other = ray_cluster.complaint([], {**here, "torch": "1.0"})
    assert other == f"has torch {here['torch']}, but this machine has 1.0: install the same on both"


def test_the_log_tells_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_training, "LOOK_S", 0.01)
    file, trained = tmp_path / "log.jsonl", Future[None]()
    assert ray_training.TrainingLog(file).iteration == 0
    file.write_text(json.dumps({"iteration": 2, "loss": 3.0}) + "\n")
    log = ray_training.TrainingLog(file)
    assert log.iteration == 2
    images = log.follow(trained)
    with file.open("a") as lines:
        lines.write(json.dumps({"iteration": 4, "loss": 0.5}) + "\n" + '{"iteration": 6, "lo')
    assert [next(images), next(images)] == [None, None]
    assert log.note() == "loss 0.500"
    trained.set_result(None)
    assert list(images) == []


def test_only_lost_processes_are_started_again() -> None:
    lost = [RuntimeError("Connection closed by peer"), DistNetworkError("reset"), ActorDiedError()]
    assert all(map(ray_training.may_pass, lost))
    assert not any(map(ray_training.may_pass, [ValueError("a defect"), UserError("a mistake")]))


def test_ranks_look_for_the_stop_file_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    stop = ray_training.StopFile(tmp_path / ray_training.STOP)
    assert not stop()
    (tmp_path / ray_training.STOP).touch()
    assert not stop()
    now += ray_training.LOOK_S
    assert stop()
