"""Progress bars hand every item through and count what was finished before."""

import io
import re
import signal
from collections.abc import Iterator

import pytest
from rich.console import Console

from pipeline.work import interrupts, progress
from pipeline.work.progress import bar, duration, silent


@pytest.mark.parametrize("track", [bar, silent])
def test_items_pass_unchanged_and_lazily(track: progress.Track) -> None:
    drawn = []

    def items() -> Iterator[int]:
        for k in range(5):
            drawn.append(k)
            yield k

    seen = track(items(), total=5, description="counting")
    assert drawn == []
    assert next(seen) == 0 and drawn == [0]
    assert list(seen) == [1, 2, 3, 4]


def test_bar_shows_count_and_what_was_done_before(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=screen, width=120, force_terminal=True))
    list(bar(range(7), total=10, description="[painting]", done=3, note=lambda: "loss 0.5"))
    assert all(part in screen.getvalue() for part in ("[painting]", "10/10", "loss 0.5"))


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("pipeline.work.progress.time.monotonic", lambda: self.now)

    def ticking(self, seconds: float, count: int) -> Iterator[int]:
        """Items that take so long each."""
        for k in range(count):
            self.now += seconds
            yield k


def test_a_log_has_a_line_at_the_start_one_a_minute_and_one_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case 18: the log of a training was empty for as long as that took."""
    clock = Clock(monkeypatch)
    list(bar(clock.ticking(8, 30), total=300, description="training", done=270, note=lambda: "loss 0.5"))
    lines = capsys.readouterr().err.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d training: ", line) for line in lines)
    said = [line.split("training: ")[1] for line in lines]
    assert said[0] == "270 of 300, to begin with, loss 0.5"
    assert said[1] == "278 of 300, 8.0 s each, 2 min 56 s left, loss 0.5", "the first after 64 s, 22 of 8 s are left"
    assert said[-1] == "300 of 300, took 4 min 00 s, 8.0 s each, loss 0.5"
    assert len(said) == 2 + 3, "one a minute, in four minutes"
    assert "\x1b" not in "".join(lines)


def test_the_rate_is_of_what_was_done_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 18: a resumed training claimed 18,242 iterations a second."""
    clock = Clock(monkeypatch)
    pace = progress.Pace(total=20000, before=18000, start=clock.now)
    pace.done = 100
    clock.now += 0.01
    assert (pace.rate(), pace.left()) == ("", ""), "nobody knows yet"
    clock.now += 49.99
    assert (pace.rate(), pace.left()) == ("2.0/s", "15 min 50 s left")
    pace.done = 2000
    assert pace.left() == ""


@pytest.mark.parametrize("track", [bar, silent, progress.telling(lambda *what: None)])
def test_an_interrupt_that_was_swallowed_ends_the_loop_between_two_items(track: progress.Track) -> None:
    """F18."""
    seen = []
    with pytest.raises(KeyboardInterrupt):
        for item in track(range(5), total=5, description="counting"):
            seen.append(item)
            if item == 1:
                interrupts.note(signal.SIGTERM)
    assert seen == [0, 1]
    interrupts.start_anew()
    assert list(track(range(2), total=2, description="counting")) == [0, 1]


def test_a_bar_inside_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=120, force_terminal=True)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    pairs = [
        (a, b) for a in bar(range(2), total=2, description="outer") for b in bar(range(2), total=2, description="inner")
    ]
    assert len(pairs) == 4


def test_an_error_inside_passes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        for item in bar([1, 0], total=2, description="dividing"):
            1 / item


@pytest.mark.parametrize(("seconds", "text"), [(4.21, "4.2 s"), (185.4, "3 min 05 s"), (7620, "2 h 07 min")])
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
