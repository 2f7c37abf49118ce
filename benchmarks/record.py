"""How a benchmark's results are kept: rows with the machine, the versions and the date that they came from."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
NOT_MEASURED = "not yet measured"
Row = Mapping[str, str | int | float]


def record(name: str, title: str, rows: Sequence[Row], packages: Sequence[str] = ()) -> None:
    """Print `rows` as a table and write them to `results/<name>.json`. The first row's keys are the columns."""
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=160).print(table)
    RESULTS.mkdir(exist_ok=True)
    entry: dict[str, Any] = {"title": title, "date": datetime.now(UTC).date().isoformat(), "machine": machine()}
    entry["versions"] = {package: version(package) for package in ("torch", *packages)}
    entry["rows"] = [dict(row) for row in rows]
    (RESULTS / f"{name}.json").write_text(json.dumps(entry, indent=1) + "\n")


def machine() -> dict[str, str | int]:
    """The processor and, where there is one, the GPU."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = models[0].partition(":")[2].strip() if models else platform.processor()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"processor": processor, "cores": os.cpu_count() or 0, "gpu": gpu, "python": platform.python_version()}
