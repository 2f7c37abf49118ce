"""How a command ends: with what words, and with which exit code.

0    it is done
1    a defect of ours: its traceback
2    the user has to fix something, or trying again did not help: one line. Also files that had to be skipped
3    a model is worse than its baseline (evaluate --max-drop, reevaluate)
130  Ctrl-C or SIGTERM: one line
141  whoever read the output has closed it (as in `flexseg plan toy | head -1`): nothing more is said
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from typer.core import TyperGroup

from flows import interrupts as handlers
from pipeline.errors import UserError, one_line
from pipeline.work import interrupts

OUTPUT_CLOSED = 141


class OneLineErrors(TyperGroup):
    """Turns a UserError into one line and exit code 2, Ctrl-C and SIGTERM into one line and exit code 130, however the
    signal's own exception has ended."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Reads the arguments and runs what they ask for."""
        with _ending():
            return super().main(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; typer would call its interrupt an abort."""
        with _ending():
            return super().invoke(ctx)


@contextmanager
def _ending() -> Iterator[None]:
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BaseException as error:
        if isinstance(error, SystemExit) and error.code == handlers.EXIT_CODE:  # it has been said
            raise
        if interrupts.came() or _interrupted(error):
            handlers.end()
        _explain(error)
    if interrupts.came():
        handlers.end()


def _explain(error: BaseException) -> NoReturn:
    """One line if there is one, else the error itself."""
    if not isinstance(error, SystemExit):
        from pipeline.work.devices import out_of_memory  # not while help is asked for

        error = out_of_memory(error) or error
    if isinstance(error, UserError):
        print(f"flexseg: {own_text(error)}", file=sys.stderr)
        sys.exit(2)
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):  # rich has dealt with it
        sys.exit(OUTPUT_CLOSED)
    if isinstance(error, OSError) and _of_output(error):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in its buffer is written when Python ends
        if error.errno == errno.EPIPE:
            sys.exit(OUTPUT_CLOSED)
        print(f"flexseg: the output cannot be written: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    if isinstance(error, EOFError):  # typer would call it an abort by the user
        raise RuntimeError("a file or a process ended too early") from error
    raise error


def _interrupted(error: BaseException | None) -> bool:
    """Whether an interrupt is at the bottom of it: Prefect's own, or one that a library has wrapped."""
    while error is not None:
        if not isinstance(error, (Exception, SystemExit, GeneratorExit)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _of_output(error: OSError) -> bool:
    """Whether it was raised by writing to stdout, where one more line break then fails alike."""
    if error.errno not in {errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF}:
        return False
    try:
        os.write(1, b"\n")
    except OSError as again:
        return again.errno == error.errno
    return False


def own_text(error: Exception) -> str:
    """The whole message as one line. torch's data loader hands errors of its workers on with their traceback above
    them; what their own message was comes after the last name of their class."""
    text = str(error)
    name = f"{type(error).__module__}.{type(error).__qualname__}: "
    if "Traceback (most recent call last)" in text and name in text:
        text = text.rpartition(name)[2]
    line = " ".join(part.strip() for part in text.splitlines())
    return "".join(character if character.isprintable() else "?" for character in line).strip()
