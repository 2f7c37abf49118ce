"""What `flexseg plan` says about the trainings: how many run side by side here, and what would be refused."""

from flows.side_by_side import slots
from pipeline.config.experiment import ExperimentConfig
from pipeline.errors import UserError
from training.processes import check_processes, possible_processes


def trainings_text(config: ExperimentConfig, left: int) -> str:
    """How the `left` trainings that are not made yet share this machine, or why they can't."""
    machine, sections = config.machine, [config.training.of(method) for method in config.training.methods.values()]
    count = f"{left} trainings are left" if left > 1 else "1 training is left"
    try:
        for section in sections:
            check_processes(section, machine)
    except UserError as error:
        return f"{count}, which flexseg run refuses: {error}"
    if machine.executor == "ray":
        return f"{count}, as many at a time as the Ray cluster has room for"
    at_once = len(slots(machine))
    if at_once < 2 or left < 2:
        return f"{count}, one after the other" if left > 1 else count
    gpus, rounds = at_once * machine.processes, -(-left // at_once)
    text = f"{count}, {min(left, at_once)} at a time on {gpus} GPUs"
    if rounds > 1:
        return f"{text}: {rounds} rounds"
    shared = set.intersection(*(set(possible_processes(section)) for section in sections))
    most = max(count for count in shared if count * left <= gpus)
    return f"{text}; machine.processes={most} would use {most * left} of them" if most > machine.processes else text
