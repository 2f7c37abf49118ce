"""Ctrl-C and SIGTERM end a run wherever they arrive."""

import os
import signal
import sys
import threading


def listen() -> None:
    """Makes SIGTERM end the process as Ctrl-C does, and lets neither get lost.

    Both are exceptions that a signal handler raises in the main thread. If they arrive while Python runs a weak
    reference's callback or a `__del__`, the interpreter prints and drops them (`sys.unraisablehook`), and the run would
    go on; then the signal is sent again. Prefect's own SIGTERM handler stays in charge while a flow runs.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    sys.unraisablehook = _send_again


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _send_again(dropped: "sys.UnraisableHookArgs") -> None:
    error = dropped.exc_value
    if error is None or isinstance(error, Exception):
        sys.__unraisablehook__(dropped)
        return
    number = getattr(error, "signal", signal.SIGINT)  # Prefect's TerminationSignal knows its signal
    # Not at once: a signal that is raised in here would be dropped as well.
    threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
