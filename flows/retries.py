"""When trying a stage again may help, and doing so where no Prefect is there to do it."""

import errno
import functools
import sys
import time
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

from flows.run import Run
from pipeline.errors import TryAgainError, one_line
from pipeline.work.devices import out_of_memory
from pipeline.work.progress import duration

Ts = TypeVarTuple("Ts")
R = TypeVar("R")

FIRST_DELAY_S = 10.0
"""Before the second try; twice as long before each further one."""
PASSING = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.ENETDOWN,
    errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH,
}  # fmt: skip
"""What a shared file system or a network says while its server is away."""


def may_help(error: object) -> bool:
    """Whether trying again, unchanged, may go well: killed processes, stores and hosts that did not answer, a full GPU.

    Not after a mistake of the user, nor after a defect of ours: it would fail alike, hours later, and its traceback
    would come last.
    """
    if isinstance(error, TryAgainError):
        return True
    if isinstance(error, OSError) and error.errno in PASSING:
        return True
    return isinstance(error, BaseException) and out_of_memory(error) is not None


def persistently(stage: Callable[[Run, *Ts], R]) -> Callable[[Run, *Ts], R]:
    """The stage, tried again up to `machine.retries` times where that may help, as a flow's task is."""

    @functools.wraps(stage)
    def call(run: Run, *args: *Ts) -> R:
        for tried in range(run.config.machine.retries):
            try:
                return stage(run, *args)
            except Exception as error:
                if not may_help(error):
                    raise
                delay = FIRST_DELAY_S * 2**tried
                what = f"stage {stage.__name__!r} is tried again in {duration(delay)}"
                print(f"flexseg: {one_line(error)}; {what}", file=sys.stderr)
                time.sleep(delay)
        return stage(run, *args)

    return call
