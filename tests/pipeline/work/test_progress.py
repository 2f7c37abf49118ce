"""Progress bars hand every item through and count what was finished before."""

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from pipeline.work import progress
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
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=screen, width=120))
    list(bar(range(7), total=10, description="painting", done=3, note=lambda: "loss 0.5"))
    assert all(part in screen.getvalue() for part in ("painting", "10/10", "loss 0.5"))


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
