"""Matplotlib figures of a report, in colors that color-blind readers can tell apart (Okabe and Ito)."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from evaluation.summary import Numbers

COLORS = ("#5b6770", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
"""One per method in table order; the baseline is gray."""
SIZE = (5.2, 3.5)
"""Inches; two charts stand side by side on a desk and one below the other on a phone, readable on both."""
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a939b",
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.labelcolor": "#39424a",
    "xtick.color": "#39424a",
    "ytick.color": "#39424a",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e6e8ea",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "flexseg",
}


def color_of(numbers: Numbers, method: str) -> str:
    """The color that a method has in every figure."""
    return COLORS[[row["name"] for row in numbers["methods"]].index(method) % len(COLORS)]


def save(figure: Figure, file: Path) -> bytes:
    """Writes the figure as PNG and returns it as SVG, which stays sharp at every size of the page."""
    figure.savefig(file, dpi=200)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def error_bars(numbers: Numbers, key: str) -> Figure:
    """`boundary_error` or `interior_error` per domain and method (the paper's figure 1); whiskers are the spread."""
    places = [domain["name"] for domain in numbers["domains"]]
    places += ["average"] if len(places) > 1 else []
    width = 0.84 / len(numbers["methods"])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for index, row in enumerate(numbers["methods"]):
            at = np.arange(len(places)) + width * (index - (len(numbers["methods"]) - 1) / 2)
            _bars(axes, [row[key][place] for place in places], at, width * 0.94, color_of(numbers, row["name"]))
            axes.bar(0, 0, color=color_of(numbers, row["name"]), label=row["name"])
        axes.set_xticks(range(len(places)), places)
        axes.tick_params(axis="x", length=0)
        axes.set_ylabel("wrong pixels (%)")
        axes.set_ylim(0, _highest_error(numbers))
        axes.set_title({"boundary_error": "Boundary", "interior_error": "Interior"}[key])
        _legend(figure, axes)
    return figure


def _bars(axes: Axes, stats: Sequence[Numbers], at: NDArray[np.floating], width: float, color: str) -> None:
    """One method's bars with their values; a score that does not exist leaves its place empty."""
    for x, stat in zip(at, stats, strict=True):
        if stat["mean"] is None:
            continue
        mean, spread = 100 * stat["mean"], 100 * (stat["spread"] or 0.0)
        axes.bar(x, mean, width, color=color, yerr=spread or None, error_kw={"ecolor": "#1d2329", "elinewidth": 1})
        axes.annotate(f"{mean:.0f}", (x, mean + spread), (0, 2), textcoords="offset points", ha="center", fontsize=7.5)


def _highest_error(numbers: Numbers) -> float:
    """Upper end of the error axis in percent, the same for boundary and interior so that the charts compare."""
    keys = ("boundary_error", "interior_error")
    stats = [stat for row in numbers["methods"] for key in keys for stat in row[key].values()]
    return max((115 * (stat["mean"] + (stat["spread"] or 0)) for stat in stats if stat["mean"]), default=100.0)


def learning_curve(numbers: Numbers, key: str) -> Figure:
    """`loss` or `validation_miou` over iterations; thin lines are single seeds, thick ones their mean."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for row in numbers["methods"]:
            _curves(axes, [c[key] for c in row["curves"] if c[key]], color_of(numbers, row["name"]), row["name"])
        axes.set_title({"loss": "Training loss", "validation_miou": "mIoU on held-out source scenes"}[key])
        axes.set_xlabel("iteration")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        if key == "validation_miou":
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=""))
            axes.set_ylabel("mIoU (%)")
        _legend(figure, axes)
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))


def _curves(axes: Axes, curves: Sequence[Sequence[tuple[int, float]]], color: str, label: str) -> None:
    """Every seed thin, their mean thick (over the iterations that all seeds logged)."""
    if not curves:
        return
    for curve in curves:
        axes.plot(*zip(*curve, strict=True), color=color, linewidth=0.8, alpha=0.35)
    shared = sorted(set.intersection(*({iteration for iteration, _ in curve} for curve in curves)))
    means = [np.mean([dict(curve)[iteration] for curve in curves]) for iteration in shared]
    marker = "o" if len(shared) < 15 else None
    axes.plot(shared, means, color=color, linewidth=2, label=label, marker=marker, markersize=3.5)


def alignment_histogram(alignment: Sequence[float]) -> Figure:
    """How the alignment scores of the generated images are spread."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        axes.hist(alignment, bins=30, color="#0072b2")
        median = float(np.median(alignment))
        axes.axvline(median, color="#1d2329", linewidth=1.2)
        axes.set_title(f"Median {median:.2f}")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("alignment of image edges with the mask’s boundaries")
        axes.set_ylabel("images")
    return figure
