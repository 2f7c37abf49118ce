"""How many processes can share a batch: what docs/training.md promises, and what really divides."""

import re
from pathlib import Path

import pytest

from pipeline.config.machine import Machine
from pipeline.config.training import TrainingConfig
from pipeline.errors import UserError
from training.processes import check_processes, possible_processes

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


@pytest.mark.parametrize("batch", [1, 2, 6, 8, 12])
@pytest.mark.parametrize("accumulation", [1, 2, 3, 4])
def test_what_is_possible_is_what_divides(batch: int, accumulation: int) -> None:
    config = TrainingConfig(batch_size=batch, accumulation=accumulation)
    divides = [count for count in range(1, 20) if batch % (count * accumulation) == 0]
    assert possible_processes(config) == divides
    for count in range(1, 20):
        if count in divides:
            check_processes(config, Machine(processes=count))
        else:
            with pytest.raises(UserError, match=f"over {count} processes .* multiple of {count * accumulation} "):
                check_processes(config, Machine(processes=count))


def test_the_combinations_in_the_docs_work() -> None:
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| ([\d, ]+) \| ([\d, ]+) \|$", DOCS.read_text(), re.MULTILINE)
    assert len(rows) >= 6
    for gpus, batch, accumulation, processes, at_a_time in rows:
        possible = possible_processes(TrainingConfig(batch_size=int(batch), accumulation=int(accumulation)))
        fitting = [count for count in possible if count <= int(gpus)]
        assert [int(count) for count in processes.split(",")] == fitting
        assert [int(count) for count in at_a_time.split(",")] == [int(gpus) // count for count in fitting]
