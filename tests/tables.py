"""Tables read back as they are drawn, and counts of images that all differ."""

import io

import numpy as np
from rich.console import Console
from rich.table import Table

from evaluation.counts import ImageCounts, no_counts, stack
from pipeline.data.labels import NUM_CLASSES


def cells(table: Table) -> list[dict[str, str]]:
    """The rows of a table as they are drawn: what stands under each heading, read back by the places of the lines."""
    console = Console(width=2000, file=io.StringIO(), record=True, color_system=None)
    console.print(table)
    return read_back(console.export_text())


def read_back(text: str) -> list[dict[str, str]]:
    """The rows of a table that was printed."""
    lines = [line for line in text.splitlines() if line.startswith(("┃", "│"))]
    headings, *rows = ([cell.strip() for cell in line.strip("┃│").replace("┃", "│").split("│")] for line in lines)
    assert all(len(row) == len(headings) for row in rows), "as many cells as headings"
    return [dict(zip(headings, row, strict=True)) for row in rows]


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def counted(seed: int, images: int = 6) -> ImageCounts:
    rng, rows = np.random.default_rng(seed), []
    for k in range(images):
        confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
        confusion[:4, :5] = rng.integers(1, 50, (4, 5))
        pixels = rng.integers(20, 40, 2)
        bins = no_counts(2).bin_pixels.copy()
        bins[9] = confusion.sum()
        rows.append(
            (
                f"scene{k}",
                None,
                no_counts(2)._replace(
                    confusion=confusion,
                    ring_pixels=pixels,
                    ring_wrong=pixels // 3,
                    bin_pixels=bins,
                    bin_right=bins // 2,
                    bin_confidence=(bins * 0.62).astype(np.float64),
                ),
            )
        )
    return stack(rows, 2)
