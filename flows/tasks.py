"""A stage as a Prefect task: tried again where that may help, ended at its time limit, one at a time on the GPUs."""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.tasks import exponential_backoff

from flows.interrupts import listen_within_flow
from flows.retries import FIRST_DELAY_S, may_help
from flows.run import Run
from flows.server.pages import progress_pages
from flows.side_by_side import PLACE, Place
from flows.time_limits import limited
from pipeline.config.machine import Machine
from pipeline.store.artifacts import KEY_DIGITS
from pipeline.work.interrupts import raise_if_came

Ts = TypeVarTuple("Ts")
R = TypeVar("R")

GPU_LIMIT = "flexseg-gpu"
"""The global concurrency limit of a Prefect server that says how many GPUs all flows may use at once."""
GPU_STAGES = ("generated", "segmenter", "evaluation")
LEASE_S = 120.0
"""After this time a killed flow's GPUs are free again."""
LOOK_S = 30.0
"""How often a stage that waits for GPUs looks whether it was interrupted."""


def task(stage: Callable[[Run, *Ts], R]) -> Callable[[Run, *Ts], R]:
    """The stage as a task of a flow. How often it is tried and how long it may take stands in the run's machine."""

    @functools.wraps(stage)
    def work(run: Run, *args: *Ts) -> R:
        listen_within_flow()
        with gpus(run.config.machine, stage.__name__):
            return placed(stage, run, args)

    @functools.wraps(stage)
    def call(run: Run, *args: *Ts) -> R:
        words = [str(word)[:KEY_DIGITS] for word in (stage.__name__, *args) if isinstance(word, str | int)]
        return Task(
            work,
            name=stage.__name__,
            task_run_name=" ".join(words),
            cache_policy=NO_CACHE,  # the artifact store alone knows what is done
            persist_result=False,
            retries=run.config.machine.retries,
            retry_delay_seconds=exponential_backoff(FIRST_DELAY_S),
            retry_condition_fn=_may_help,
        )(run, *args)

    return call


def placed(stage: Callable[[Run, *Ts], R], run: Run, args: tuple[*Ts]) -> R:
    """The stage in this process; in one of its own if it has a time limit, or is one of several side by side."""
    hours = run.config.machine.timeout_hours.get(stage.__name__)  # type: ignore[call-overload]  # other names have none
    place, page = PLACE.get(), progress_pages()
    if place is None:
        return stage(run, *args) if hours is None else limited(stage, run, args, hours, page)

    def tell(description: str, done: int, total: int) -> None:
        page(description, done, total)
        place.tell(description, done, total)

    return limited(
        stage, in_its_slot(run, place), args, math.inf if hours is None else hours, tell, environment=place.environment
    )


def in_its_slot(run: Run, place: Place) -> Run:
    """The run of a row: it shares the run's history, and has the part of the machine that is the row's."""
    row = Run(run.config.model_copy(update={"machine": place.machine(run.config.machine)}))
    row.history = run.history
    return row


def run_name() -> str:
    """What a flow's run is called: `experiment toy`."""
    return f"{flow_run.flow_name} {Path(flow_run.parameters['config']).stem}"


def _may_help(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    return may_help(state.data)


@contextmanager
def gpus(machine: Machine, stage: str) -> Iterator[None]:
    """Occupies as many slots of the server's GPU limit as the stage has processes, waiting for them where others have
    them. Nothing happens without a GPU or a limit, nor on Ray, which counts GPUs itself."""
    slots = _slots(machine, stage)
    if slots == 0 or (limit := _gpu_limit()) is None:
        yield
        return
    with ExitStack() as held:
        while True:
            raise_if_came()  # in a row's thread, where no signal's exception arrives
            # A lost server must not end hours of work: the lease is renewed when the server is back.
            occupied = concurrency(
                GPU_LIMIT,
                occupy=min(slots, limit),
                timeout_seconds=LOOK_S,
                lease_duration=LEASE_S,
                raise_on_lease_renewal_failure=False,
            )
            with suppress(TimeoutError):
                held.enter_context(occupied)
                break
        yield


def _slots(machine: Machine, stage: str) -> int:
    """GPUs of this machine that the stage uses."""
    if stage not in GPU_STAGES or machine.device == "cpu" or machine.executor == "ray":
        return 0
    if PLACE.get() is not None:  # a row's stages use what one training uses
        return machine.processes
    import torch  # slow to import

    present = torch.cuda.device_count()
    wanted = machine.processes if stage == "segmenter" else machine.workers
    return present if wanted == "auto" else min(wanted, present)


def _gpu_limit() -> int | None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        try:
            found = client.read_global_concurrency_limit_by_name(GPU_LIMIT)
        except ObjectNotFound:
            return None
    return found.limit if found.active else None
