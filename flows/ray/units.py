"""Units made by a Ray cluster: workers on its nodes make files, this process claims units and keeps the files.

Workers are actors, which keep their models from unit to unit. (Ray's tasks could, too, but a process that has used one
GPU cannot be given another one: therefore Ray ends it after each task that asked for a GPU.) Any worker or node may die
at any moment: its units go to others.
"""

import pickle
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import ray

from flows.ray import cluster as ray_cluster
from flows.ray.worker import Maker
from flows.time_limits import EndedError
from pipeline.config.machine import Machine
from pipeline.errors import UserError, one_line
from pipeline.work.units import PATIENCE, Load, Unit, claimed, writing

MOST_DEATHS = 3
"""So many processes in a row may die with one unit in hand, lost nodes aside, or while they start."""
SILENCE_S = 60.0
"""After this time without a single worker the user is told what is waited for."""


class Given(NamedTuple):
    """A unit that a worker has in hand, its claim, and the answer that will come."""

    unit: Unit
    claim: ExitStack
    answer: Any


@dataclass
class RayWorker:
    """An actor and its units, the one in work first."""

    actor: Any
    node: str = ""
    given: deque[Given] = field(default_factory=deque)


def run(units: Sequence[Unit], load: Load, machine: Machine, *, inputs: Sequence[Path] = ()) -> Iterator[None]:
    """Make the units that are missing on the cluster: an `Executor`.

    Every node must be able to read `inputs`. The files come to this process, so that only it need see the units'
    folder. UserError: no cluster, no such device, a file that a node cannot read; EndedError: processes keep dying.
    """
    missing = [unit for unit in units if not unit.done]
    if not missing:
        return
    left = sum(unit.items for unit in missing)
    with ray_cluster.connected():
        kind = ray_cluster.resource(machine)
        ray_cluster.check_nodes(inputs, kind)
        workers = RayWorkers(missing, load, kind, len(missing) if machine.workers == "auto" else machine.workers)
        try:
            while workers.busy:
                for unit in workers.step():
                    left -= unit.items
                    yield from [None] * unit.items
        finally:
            workers.end()
    yield from [None] * left  # another call has finished them


class RayWorkers:
    """Workers and the units that are not made yet."""

    def __init__(self, units: Sequence[Unit], load: Load, kind: str, most: int) -> None:
        self._waiting = deque(units)
        self._folder = units[0].work
        self._kind = kind
        self._most = most
        self._told = ray.put(pickle.dumps(load)), ray_cluster.device(kind), str(Path.cwd())
        self._starting: dict[Any, RayWorker] = {}
        self.workers: list[RayWorker] = []
        self._deaths: dict[Path, list[str]] = {}  # the nodes on which workers died over a unit
        self._false_starts = 0
        self._look_again = 0.0
        self._patient_until = time.monotonic() + SILENCE_S
        for _ in range(min(len(units), most, ray_cluster.total(kind))):
            self._start()

    @property
    def busy(self) -> bool:
        """Whether there is something to do or to wait for. Another call that finishes all removes the folder."""
        at_work = any(worker.given for worker in self.workers)
        return at_work or (bool(self._waiting) and self._folder.is_dir())

    def step(self) -> list[Unit]:
        """Waits until something happens and deals with it. The units that are now done, by others too."""
        done = self.hand_out()
        answers = {worker.given[0].answer: worker for worker in self.workers if worker.given}
        events = [*answers, *self._starting]
        if not events:
            time.sleep(PATIENCE)  # all that is left is with others
            return done
        ready, _ = ray.wait(events, num_returns=len(events), timeout=0)
        if not ready:
            ready, _ = ray.wait(events, timeout=PATIENCE)
        for event in ready:
            if event in self._starting:
                self._started(event)
            elif (made := self._answered(answers[event])) is not None:
                done.append(made)
        self._say_what_is_waited_for()
        return done

    def end(self) -> None:
        """Ends all workers and gives back what is not made."""
        for worker in (*self.workers, *self._starting.values()):
            ray.kill(worker.actor)
            for given in worker.given:
                given.claim.close()

    def _start(self) -> None:
        actor: Any = ray.remote(Maker).options(**ray_cluster.options(self._kind)).remote(*self._told)
        self._starting[actor.node.remote()] = RayWorker(actor)

    def _started(self, event: Any) -> None:
        """A worker is there. Another one is asked for, which comes as soon as the cluster has room for it."""
        worker = self._starting.pop(event)
        try:
            worker.node = ray.get(event)
        except ray.exceptions.RayError as error:
            self._false_starts += 1
            if self._false_starts >= MOST_DEATHS:
                raise EndedError(
                    f"{MOST_DEATHS} Ray workers in a row died at their start: {one_line(error)}"
                ) from error
        else:
            self._false_starts = 0
            self.workers.append(worker)
        if not self._starting and self._waiting and len(self.workers) < self._most:
            self._start()

    def hand_out(self) -> list[Unit]:
        """Gives every worker a unit, and a second one while there are plenty: it need not wait until this process has
        stored the first one. The units that others have made meanwhile."""
        done: list[Unit] = []
        for depth in (1, 2):
            for worker in self.workers:
                plenty = depth == 1 or len(self._waiting) > len(self.workers)
                if len(worker.given) < depth and plenty and (given := self._next(done)) is not None:
                    unit, claim = given
                    worker.given.append(Given(unit, claim, worker.actor.make.remote(unit.task)))
        if not self._waiting:  # nobody will need who is not there yet
            for worker in self._starting.values():
                ray.kill(worker.actor)
            self._starting.clear()
        return done

    def _next(self, done: list[Unit]) -> tuple[Unit, ExitStack] | None:
        """A unit that is now this process's to make. Those that turn out to be made go to `done`."""
        if time.monotonic() < self._look_again:
            return None
        for _ in range(len(self._waiting)):
            unit, claim = self._waiting.popleft(), ExitStack()
            if claim.enter_context(claimed(unit)):
                return unit, claim
            claim.close()
            (done if unit.done else self._waiting).append(unit)
        self._look_again = time.monotonic() + PATIENCE  # others have them all
        return None

    def _answered(self, worker: RayWorker) -> Unit | None:
        """Stores what a worker has made; None if it died. Raises its UserError, or its defect with the traceback."""
        unit, claim, answer = worker.given[0]
        try:
            content = ray.get(answer)
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:
            self._lost(worker, error)
            return None
        if isinstance(content, UserError):
            raise content
        if isinstance(content, str):
            raise RuntimeError(f"a Ray worker on node {worker.node} failed:\n{content}")
        with claim, writing(unit) as path:
            path.write_bytes(content)
        worker.given.popleft()
        self._deaths.pop(unit.path, None)
        return unit

    def _lost(self, worker: RayWorker, error: Exception) -> None:
        """Puts the units of a dead worker back, and starts another one. A lost node is no unit's fault."""
        self.workers.remove(worker)
        first = worker.given[0].unit
        for given in reversed(worker.given):
            given.claim.close()
            self._waiting.appendleft(given.unit)
        nodes = self._deaths.setdefault(first.path, [])
        nodes.append(worker.node)
        alive = ray_cluster.alive_nodes()  # a node that was just lost is still in it: a later look tells
        if sum(node in alive for node in nodes) >= MOST_DEATHS:
            raise EndedError(
                f"{MOST_DEATHS} Ray workers died over {first.path.name} (too little memory?), finished units are kept:"
                f" {one_line(error)}"
            ) from error
        print("flexseg: a Ray worker or its node was lost; another worker takes over its work", file=sys.stderr)
        ray.kill(worker.actor)
        self._start()

    def _say_what_is_waited_for(self) -> None:
        if self.workers:
            self._patient_until = time.monotonic() + SILENCE_S
        elif time.monotonic() > self._patient_until:
            self._patient_until = float("inf")
            print(f"flexseg: waiting for a free {self._kind} of the Ray cluster", file=sys.stderr)
