"""Ctrl-C and SIGTERM while a training prepares and runs: never lost, never in the middle of an update."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """What came since `noticed` began.

    A signal's handler raises an exception, and other libraries have swallowed it (a bare `except` in `datasets`, a
    callback from C++): so the signal is remembered before the handler acts, and whoever runs the loop asks for `came`.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._held = False

    @property
    def came(self) -> bool:
        """Whether a signal has come, also one whose exception was swallowed."""
        return bool(self.numbers)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within it the first signal is remembered alone; a second one acts at once."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def acts(self, number: int) -> bool:
        """Remembers a signal; whether its handler is to act now."""
        self.numbers.append(number)
        return not self._held or len(self.numbers) > 1


@contextmanager
def noticed() -> Iterator[Interrupts]:
    """Remembers Ctrl-C and SIGTERM, then lets the handlers of before act, or raises KeyboardInterrupt where there were
    none. Signals that are ignored stay so. Outside the main thread nothing arrives."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupts.acts(number):
            handler = before[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)
            else:
                raise KeyboardInterrupt

    listened = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in listened:
        signal.signal(number, handle)
    try:
        yield interrupts
    finally:
        for number in listened:
            signal.signal(number, before[number])
