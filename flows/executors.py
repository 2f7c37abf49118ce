"""Who makes the units of a stage, and where a segmenter is trained."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.machine import Machine
from pipeline.work.units import Executor

if TYPE_CHECKING:
    from training.train import Launch


def check_cluster(machine: Machine) -> None:
    """UserError if the cluster that `machine` names is not there or lacks what it asks for."""
    from flows.ray import cluster as ray_cluster

    with ray_cluster.connected():
        ray_cluster.resource(machine, machine.processes)


def trainings_at_once(machine: Machine) -> int:
    """How many trainings the cluster that `machine` names has room for, if nobody else uses it. UserError as above."""
    from flows.ray import cluster as ray_cluster

    with ray_cluster.connected():
        return ray_cluster.total(ray_cluster.resource(machine, machine.processes)) // machine.processes


def units(machine: Machine, local: Executor, *, inputs: Sequence[Path]) -> Executor:
    """The executor that `machine.executor` names: a stage's `local` one, or a cluster, every node of which must be able
    to read `inputs`, files and folders."""
    if machine.executor == "ray":
        from flows.ray import units as ray_units

        return partial(ray_units.run, inputs=inputs)
    return local


def training(machine: Machine) -> "Launch | None":
    """What runs the processes of a training elsewhere, None for this machine."""
    if machine.executor == "ray":
        from flows.ray import training as ray_training

        return ray_training.launch
    return None
