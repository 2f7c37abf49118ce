"""A stage in a process group of its own, which a time limit ends with all that the stage has started."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from flows import interrupts
from flows.run import Run
from pipeline.config.experiment import ExperimentConfig
from pipeline.errors import TryAgainError, UserError
from pipeline.work.devices import out_of_memory
from pipeline.work.interrupts import raise_if_came
from pipeline.work.progress import OnProgress, bar, duration, silent, telling

R = TypeVar("R")

GRACE_S = 30.0
"""What a stage gets to end by itself, a checkpoint in the making included, before it is killed."""
LOOK_S = 0.5
"""How often a stage that tells nothing is looked after."""


class EndedError(TryAgainError):
    """A stage's process was ended, at its limit or from outside. What it had finished is kept: trying again goes on."""


def limited(
    stage: Callable[..., R],
    run: Run,
    arguments: tuple[Any, ...],
    hours: float,
    on_progress: OnProgress,
    environment: Mapping[str, str] | None = None,
) -> R:
    """`stage(run, *arguments)` in a new process with at most `hours`; it must be importable.

    With an `environment` of its own the process is one of several side by side: it draws no bar, but tells.

    An interrupt of this process ends the stage too, as does this process's own death. Raises EndedError where the
    stage was ended, its UserError, or a RuntimeError with its traceback.
    """
    spawn = multiprocessing.get_context("spawn")  # CUDA and threads survive no fork
    told, tells = spawn.Pipe(duplex=False)
    target = (stage, run.config, arguments, tells, environment)
    process = spawn.Process(target=_work, args=target, name=stage.__name__)  # no daemon: it starts workers
    resource_tracker.ensure_running()  # before the signal is blocked: its own start unblocks it in Python 3.11
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: a terminal's Ctrl-C comes by us
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        tells.close()
    try:
        result, history = _outcome(process, told, hours, on_progress)
    finally:
        _end(process)
        told.close()
    run.history += history
    return result


def _outcome(process: SpawnProcess, told: Connection, hours: float, on_progress: OnProgress) -> Any:
    """What the stage returned, and the history of its run. Raises what it raised."""
    deadline = time.monotonic() + 3600 * hours
    while (left := deadline - time.monotonic()) > 0:
        raise_if_came()  # in a thread, where no signal's exception arrives
        alive = process.is_alive()  # asked before its last words are looked for
        try:
            message = told.recv() if told.poll(min(LOOK_S, left)) else None
        except EOFError:  # it has ended, or is about to
            process.join(LOOK_S)
            message, alive = None, process.is_alive()
        match message:
            case None if not alive:
                code = process.exitcode or 0
                end = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                raise EndedError(
                    f"the process of stage {process.name!r} was {end}, perhaps for want of memory; what it had finished"
                    " is kept: the same command continues from it"
                )
            case "progress", progress:
                on_progress(*progress)
            case "done", outcome:
                process.join(GRACE_S)
                return outcome
            case "failed", UserError() as error:
                raise error
            case "failed", text:
                raise RuntimeError(f"stage {process.name!r} failed:\n{text}")
    raise EndedError(
        f"stage {process.name!r} took longer than {duration(3600 * hours)} and was ended; what it had finished is kept:"
        f" run it again, or raise machine.timeout_hours.{process.name}"
    )


def _work(
    stage: Callable[..., Any],
    config: ExperimentConfig,
    arguments: tuple[Any, ...],
    tells: Connection,
    environment: Mapping[str, str] | None,
) -> None:
    """What the process does: the stage; it tells progress, and at last the result or the error."""
    os.setsid()
    os.environ.update(environment or {})  # before torch looks for GPUs
    interrupts.listen()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        draw = bar if environment is None else silent
        run = Run(config, telling(lambda *progress: tells.send(("progress", progress)), draw))
        result = stage(run, *arguments)
        raise_if_came()
        tells.send(("done", (result, run.history)))
    except KeyboardInterrupt:
        os._exit(interrupts.EXIT_CODE)  # whoever interrupted it says so
    except UserError as error:
        tells.send(("failed", error))
    except Exception as error:
        tells.send(("failed", out_of_memory(error) or traceback.format_exc()))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what `_end` sends to what is left finds it ending


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)


def _end(process: SpawnProcess) -> None:
    """Ends what is left of the process's group: asks it to, waits for GRACE_S, kills it."""
    group = process.pid
    assert group is not None
    try:
        if _signal(group, signal.SIGTERM):
            deadline = time.monotonic() + GRACE_S
            while (process.is_alive() or _signal(group, 0)) and time.monotonic() < deadline:
                process.join(0.05)
    finally:  # a second interrupt does not wait
        _signal(group, signal.SIGKILL)
        process.kill()  # it may not have had the time to make the group
        process.join()


def _signal(group: int, number: int) -> bool:
    """Whether there is such a process group to send the signal to."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
