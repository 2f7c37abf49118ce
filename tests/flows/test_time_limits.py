"""A stage with a time limit runs in a process group of its own, of which nothing is left at the limit."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows import time_limits
from flows.run import Run
from flows.time_limits import EndedError, limited
from pipeline.config.experiment import ExperimentConfig
from pipeline.errors import UserError
from pipeline.work import progress
from tests import long_stages
from tests.processes import alive, start, wait_until

Mini = Callable[..., ExperimentConfig]
SECOND = 1 / 3600
SCRIPT = """
import sys
from pathlib import Path
from flows import interrupts, time_limits
from flows.run import Run
from pipeline.config.experiment import ExperimentConfig
from tests.long_stages import stubborn

if __name__ == "__main__":
    time_limits.GRACE_S = 0.5
    interrupts.listen()
    folder = Path(sys.argv[1])
    config = ExperimentConfig.model_validate({"name": "x", "machine": {"store": str(folder / "store")}})
    time_limits.limited(stubborn, Run(config), (folder,), 1, print)
"""


def nobody(description: str, done: int, total: int) -> None:
    pass


def processes(folder: Path) -> list[int]:
    return [int(file.name) for file in folder.iterdir() if file.name.isdigit()]


def test_its_result_and_history_arrive(mini: Mini) -> None:
    run = Run(mini())
    artifact = limited(long_stages.quick, run, ("abc",), 60 * SECOND, nobody)
    assert (artifact.folder / "text").read_text() == "abc"
    assert run.history == [("built", artifact)]
    assert long_stages.quick(run, "abc").folder == artifact.folder


def test_at_the_limit_it_ends_with_all_that_it_started(
    mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_limits, "GRACE_S", 0.5)
    (tmp_path / "pids").mkdir()
    with pytest.raises(EndedError, match="'stubborn' took longer than 6.0 s and was ended") as caught:
        limited(long_stages.stubborn, Run(mini()), (tmp_path / "pids",), 6 * SECOND, nobody)
    assert "\n" not in str(caught.value)
    ended = processes(tmp_path / "pids")
    assert len(ended) == 2
    wait_until(lambda: not any(map(alive, ended)), 10)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        signal.SIGKILL,
    ],
)
def test_it_ends_with_the_flow(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "pids").mkdir()
    process = start(tmp_path / "flow.py", SCRIPT, str(tmp_path / "pids"))
    wait_until(lambda: len(processes(tmp_path / "pids")) == 2, 60)
    process.send_signal(number)
    assert process.wait(20) != 0
    wait_until(lambda: not any(map(alive, processes(tmp_path / "pids"))), 10)


def test_its_errors_arrive(mini: Mini) -> None:
    with pytest.raises(UserError, match="^labels/1.png: cannot be read$"):
        limited(long_stages.mistaken, Run(mini()), (), 60 * SECOND, nobody)
    with pytest.raises(RuntimeError, match=r"(?s)'defective' failed:.*in defective.*ValueError: it is our fault"):
        limited(long_stages.defective, Run(mini()), (), 60 * SECOND, nobody)
    with pytest.raises(EndedError, match="'killed' was ended by SIGKILL"):
        limited(long_stages.killed, Run(mini()), (), 60 * SECOND, nobody)


def test_progress_is_told_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []
    now = 100.0
    monkeypatch.setattr("pipeline.work.progress.time.monotonic", lambda: now)

    def letters() -> Iterator[str]:
        nonlocal now
        for letter in "abcdefgh":
            yield letter
            now += 2

    track = progress.telling(lambda *what: told.append(what))
    assert list(track(letters(), total=10, description="Letters", done=2)) == list("abcdefgh")
    assert told == [("Letters", 6, 10), ("Letters", 9, 10), ("Letters", 10, 10)]
    told.clear()
    assert list(track("ab", total=2, description="Letters")) == ["a", "b"]
    assert told == []
