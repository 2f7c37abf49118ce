"""Whether this process was asked to end.

An interrupt is an exception that a signal's handler raises wherever the main thread happens to be. If that is inside
another library's bare `except:`, it is swallowed or turned into an error of that library's (both were seen: in
datasets' fingerprints, in safetensors' reading). So the handler also leaves a note here; loops ask for it between two
items, and the command asks at its end.
"""

_signals: list[int] = []


def note(number: int) -> None:
    """A signal that asks this process to end has come."""
    _signals.append(number)


def came() -> bool:
    """Whether one has come, however its exception ended."""
    return bool(_signals)


def raise_if_came() -> None:
    """Called where a loop may be left: raises KeyboardInterrupt if a signal has come whose exception was swallowed."""
    if _signals:
        raise KeyboardInterrupt


def start_anew() -> None:
    """What came before does not count: this process begins something new."""
    _signals.clear()
