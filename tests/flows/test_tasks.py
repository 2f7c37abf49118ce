"""What a task tries again, which GPUs it asks for, and what is shown in Prefect's UI. No server is needed."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any
from uuid import UUID, uuid4

import pytest
import torch
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Failed

from flows import stages, tasks
from flows.server import pages
from flows.server.local_server import reachable_server
from flows.server.notify import notification_block, send
from flows.time_limits import EndedError
from pipeline.config.experiment import ExperimentConfig
from pipeline.config.machine import Machine
from pipeline.errors import StoreUnavailableError, TryAgainError, UserError
from pipeline.work import interrupts

Mini = Callable[..., ExperimentConfig]


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (OSError("gone"), False),
        (OSError(errno.ESTALE, "stale file handle"), True),
        (ConnectionResetError(errno.ECONNRESET, "reset"), True),
        (PermissionError(errno.EACCES, "denied"), False),
        (RuntimeError("x"), False),  # a defect would fail alike, hours later
        (AssertionError(), False),
        (torch.OutOfMemoryError("full"), True),
        (TryAgainError("killed"), True),
        (EndedError("limit"), True),
        (TryAgainError("3 worker processes in a row died"), True),
        (StoreUnavailableError("away"), True),
        (UserError("typo"), False),
    ],
)
def test_what_is_tried_again(error: Exception, again: bool) -> None:
    assert tasks._may_help(None, None, Failed(data=error)) == again  # type: ignore[arg-type]  # only the state counts


def test_a_task_looks_like_its_stage() -> None:
    task = tasks.task(stages.segmenter)
    assert task.__name__ == "segmenter"
    assert signature(task) == signature(stages.segmenter)


@pytest.mark.parametrize(
    ("stage", "machine", "slots"),
    [
        ("generated", {}, 4),
        ("generated", {"workers": 3}, 3),
        ("generated", {"workers": 8}, 4),
        ("segmenter", {"workers": 3}, 1),
        ("segmenter", {"processes": 4}, 4),
        ("evaluation", {"workers": 2}, 2),
        ("labels", {}, 0),
        ("generated", {"device": "cpu"}, 0),
        ("generated", {"executor": "ray"}, 0),
    ],
)
def test_slots_of_a_machine_with_four_gpus(
    stage: str, machine: dict[str, Any], slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert tasks._slots(Machine.model_validate(machine), stage) == slots


@pytest.mark.parametrize(("limit", "occupied"), [(None, []), (8, [4]), (2, [2])])
def test_never_more_slots_than_the_limit(
    limit: int | None, occupied: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    @contextmanager
    def concurrency(name: str, occupy: int, **options: Any) -> Iterator[None]:
        taken.append(occupy)
        yield

    monkeypatch.setattr(tasks, "_slots", lambda machine, stage: 4)
    monkeypatch.setattr(tasks, "_gpu_limit", lambda: limit)
    monkeypatch.setattr(tasks, "concurrency", concurrency)
    with tasks.gpus(Machine(), "generated"):
        pass
    assert taken == occupied


def test_who_waits_for_gpus_hears_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    @contextmanager
    def concurrency(name: str, timeout_seconds: float, **options: Any) -> Iterator[None]:
        nonlocal tries
        tries += 1
        if tries == 3:
            interrupts.note(2)
        raise TimeoutError(f"{timeout_seconds} s")
        yield

    monkeypatch.setattr(tasks, "_slots", lambda machine, stage: 1)
    monkeypatch.setattr(tasks, "_gpu_limit", lambda: 1)
    monkeypatch.setattr(tasks, "concurrency", concurrency)
    try:
        with pytest.raises(KeyboardInterrupt), tasks.gpus(Machine(), "segmenter"):
            raise AssertionError("nothing was free")
    finally:
        interrupts.start_anew()
    assert tries == 3


def test_progress_has_a_page_per_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[UUID, list[Any]] = {}

    def create(percent: float, key: str, text: str) -> UUID:
        page = uuid4()
        made[page] = [key, percent]
        return page

    monkeypatch.setattr(pages, "create_progress_artifact", create)
    monkeypatch.setattr(pages, "update_progress_artifact", lambda page, percent, text: made[page].append(percent))
    tell = pages.progress_pages()
    for done in (1, 2):
        tell("Training GAP + UBE, seed 0", done, 4)
        tell("Generating images", 2 * done, 8)
    assert list(made.values()) == [["training-gap-ube-seed-0", 25.0, 50.0], ["generating-images", 25.0, 50.0]]


def test_a_server_that_is_away_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*arguments: Any) -> None:
        raise OSError("connection refused")

    monkeypatch.setattr(pages, "create_progress_artifact", away)
    monkeypatch.setattr("pipeline.work.progress.TELL_EVERY_S", 0.0)
    assert list(pages.track([1, 2, 3], total=3, description="Counting")) == [1, 2, 3]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (None, "no Prefect server is named"),
        ("http://127.0.0.1:9/api", "no Prefect server answers at http://127.0.0.1:9/api"),
    ],
)
def test_a_server_that_is_not_there_is_one_line(url: str | None, said: str) -> None:
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(UserError, match=said) as caught:
        reachable_server()
    assert "\n" not in str(caught.value)


def test_a_notification_that_fails_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def notify(self, body: str, subject: str) -> None:
            raise OSError("connection refused")

    send(Broken(), "text", "subject")  # type: ignore[arg-type]  # what is asked of a block
    assert capsys.readouterr().err == "flexseg: the notification was not sent: connection refused\n"
    with pytest.raises(UserError, match="wanted block-type/name"):
        notification_block("slack")
