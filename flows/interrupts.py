"""Ctrl-C and SIGTERM end a run wherever they arrive."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from pipeline.work import interrupts

EXIT_CODE = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def listen() -> None:
    """Makes SIGTERM end the process as Ctrl-C does, and lets neither get lost.

    Both are exceptions that a signal handler raises in the main thread. If they arrive while Python runs a weak
    reference's callback or a `__del__`, the interpreter prints and drops them (`sys.unraisablehook`), and the run would
    go on; then the signal is sent again. That they came is noted, see `pipeline.work.interrupts`.
    """
    interrupts.start_anew()
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup, or a shell that runs it in the background
            signal.signal(number, _interrupt)
    sys.unraisablehook = _send_again


def listen_within_flow() -> None:
    """Prefect replaces SIGTERM's handler while a flow runs: it stays in charge, but what comes is noted before."""
    handler = signal.getsignal(signal.SIGTERM)
    if not callable(handler) or handler is _interrupt or isinstance(handler, _Noting):
        return
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _Noting(handler))


def end() -> None:
    """Ends this process with its one line, and at once where a further signal comes. It does not return."""
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: os._exit(EXIT_CODE))
    print("flexseg: interrupted; what was finished is kept, the same command continues from there", file=sys.stderr)
    sys.exit(EXIT_CODE)


class _Noting:
    """Another handler, before which the signal is noted."""

    def __init__(self, handler: Callable[[int, FrameType | None], object]) -> None:
        self._handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        interrupts.note(number)
        self._handler(number, frame)


def _interrupt(number: int, frame: FrameType | None) -> None:
    interrupts.note(number)
    raise KeyboardInterrupt


def _send_again(dropped: "sys.UnraisableHookArgs") -> None:
    error = dropped.exc_value
    if error is None or isinstance(error, Exception):
        sys.__unraisablehook__(dropped)
        return
    number = getattr(error, "signal", signal.SIGINT)  # Prefect's TerminationSignal knows its signal
    # Not at once: a signal that is raised in here would be dropped as well.
    threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
