"""Matplotlib figures of a report. Methods differ in color, and beyond the eighth in hatch, dash and marker as well."""

import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation.method_rows import StatOfRow
from evaluation.report_schema import Report, Stat
from pipeline.data.labels import CLASS_NAMES

COLORS = ("#5b6770", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#882255")
"""Okabe and Ito's, which color-blind readers can tell apart; gray and wine stand for their black and yellow."""
MARKERS = "osD^vPX*"
HATCHES = ("", "////", "....", "xxxx")
DASHES = ("-", "--", ":", "-.")
RGBA = tuple[float, float, float, float]
PNG_DPI = 200
WIDTH = 5.2
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
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "svg.hashsalt": "flexseg",
    "text.parse_math": False,  # a method or a data set may have dollar signs in its name
}


class MethodLook(NamedTuple):
    """How a method is drawn, the same in every figure."""

    color: str
    marker: str
    hatch: str
    dash: str


def looks(report: Report) -> dict[str, MethodLook]:
    """The look of every method, in table order: colors repeat after eight, then hatch and dash tell them apart."""
    names = [row.name for row in report.methods]
    many = len(COLORS)
    return {
        name: MethodLook(COLORS[i % many], MARKERS[i % many], HATCHES[i // many % 4], DASHES[i // many % 4])
        for i, name in enumerate(names)
    }


def ink_on(background: RGBA) -> str:
    """Black or white, whichever reads better: a contrast of at least 4.5 on every color (WCAG 2)."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in background[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000" if luminance > 0.179 else "#fff"


def save_chart(figure: Figure, file: Path) -> bytes:
    """Writes the figure as PNG and SVG and returns the SVG, which stays sharp at every size."""
    buffer = io.BytesIO()
    with mpl.rc_context({"text.parse_math": STYLE["text.parse_math"]}):  # tick labels are only made when they are drawn
        figure.savefig(file.with_suffix(".png"), dpi=PNG_DPI)
        figure.set_layout_engine("none")  # it is laid out: once is enough
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    file.with_suffix(".svg").write_bytes(buffer.getvalue())
    return buffer.getvalue()


def new_chart(report: Report, inches: float) -> tuple[Figure, Axes]:
    """A chart that is `inches` high without the legend that `add_legend` puts below it."""
    names = [row.name for row in report.methods]
    rows = -(-len(names) // _legend_columns(names))
    figure = Figure(figsize=(WIDTH, inches + 0.2 * rows), layout="constrained")
    return figure, figure.subplots()


def add_legend(figure: Figure, axes: Axes) -> None:
    """The names of what is drawn below the chart, in as many columns as they leave room for."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=_legend_columns(labels), fontsize=9)


def _legend_columns(names: Sequence[str]) -> int:
    return max(1, min(4, 68 // (7 + max(map(len, names), default=0))))


def score_bars(report: Report, places: Mapping[str, StatOfRow], title: str, axis: str, *, up_to: float = 0.0) -> Figure:
    """Bars of a score per place and method; whiskers are the spread over seeds.

    `places` maps a label to how its stat is found in a method's row. A score that does not exist is written as a dash.
    `up_to` is the share that the axis reaches at least, for charts that are to be compared.
    """
    rows, look = report.methods, looks(report)
    height = 0.84 / len(rows)
    with mpl.rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure, axes = new_chart(report, _inches(places, report))
        for index, row in enumerate(rows):
            at = np.arange(len(places)) + height * (index - (len(rows) - 1) / 2)
            _bars(axes, [stat(row) for stat in places.values()], at, height * 0.92, look[row.name])
            axes.barh(0, 0, color=look[row.name].color, hatch=look[row.name].hatch, label=row.name)
        _name_places(axes, places)
        axes.set_xlim(0, max(axes.get_xlim()[1] * 1.06, 100 * up_to))
        axes.set_xlabel(axis)
        axes.set_title(title)
        add_legend(figure, axes)
    return figure


def _bars(axes: Axes, stats: Sequence[Stat], at: np.ndarray, height: float, look: MethodLook) -> None:
    """One method's bars, with their values at the end."""
    for y, stat in zip(at, stats, strict=True):
        mean, spread = 100 * (stat.mean or 0.0), 100 * (stat.spread or 0.0)
        if stat.mean is not None:
            axes.barh(
                y, mean, height, color=look.color, hatch=look.hatch, edgecolor="white", linewidth=0,
                xerr=spread or None, error_kw={"ecolor": "#1d2329", "elinewidth": 1},
            )  # fmt: skip
        text = "–" if stat.mean is None else f"{mean:.1f}"
        axes.annotate(text, (mean + spread, y), (3, 0), textcoords="offset points", va="center", fontsize=8)


def gain_intervals(report: Report, places: Sequence[str]) -> Figure:
    """Each method's difference in mIoU to the baseline per place, with its 95% interval; filled if significant."""
    rows, look = report.methods[1:], looks(report)
    with mpl.rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure, axes = new_chart(report, _inches(places, report))
        axes.axvline(0, color="#1d2329", linewidth=1)
        for index, row in enumerate(rows):
            color, marker, *_ = look[row.name]
            for y, place in enumerate(places):
                gain, at = row.gain[place], y + 0.84 / len(rows) * (index - (len(rows) - 1) / 2)
                if gain.low is not None and gain.high is not None:
                    axes.plot([100 * gain.low, 100 * gain.high], [at, at], color=color, linewidth=1.8)
                if gain.mean is not None:
                    fill = color if gain.verdict else "white"
                    axes.plot(100 * gain.mean, at, marker, color=color, markerfacecolor=fill, markersize=5.5)
            axes.plot([], [], marker, color=color, label=row.name)
        _name_places(axes, places)
        axes.set(xlabel="points of mIoU", title=f"Difference to {report.baseline}")
        add_legend(figure, axes)
    return figure


def _inches(places: Collection[str], report: Report) -> float:
    """Height of a chart with a line per place and method."""
    return 0.95 + len(places) * (0.16 + max(0.15 * len(report.methods), 0.2))


def _name_places(axes: Axes, places: Collection[str]) -> None:
    axes.set_yticks(range(len(places)), list(places))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(places) - 0.5, -0.5)


def confusion_picture(confusion: Sequence[Sequence[int]], method: str) -> Figure:
    """Where each class's pixels (rows) went (columns), in percent of the row; classes that no label has stay empty."""
    counts = np.array(confusion, dtype=float)
    of_class = counts.sum(axis=1, keepdims=True)
    percent = np.divide(100 * counts, of_class, out=np.full_like(counts, np.nan), where=of_class > 0)
    with mpl.rc_context({**STYLE, "axes.grid": False, "font.size": 7.5}):
        figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
        axes = figure.subplots()
        axes.imshow(percent, cmap="Blues", vmin=0, vmax=110)
        for row, column in np.argwhere(percent >= 0.5):
            value = percent[row, column]
            ink = ink_on(mpl.colormaps["Blues"](value / 110))
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6, color=ink)
        axes.set_xticks(range(len(CLASS_NAMES)), CLASS_NAMES, rotation=90)
        axes.set_yticks(range(len(CLASS_NAMES)), CLASS_NAMES)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="predicted as", ylabel="true class", title=method)
    return figure


def alignment_histogram(alignment: Sequence[tuple[float, float | None]]) -> Figure:
    """How the alignment scores of the generated images are spread, beside those of their controls where these exist."""
    scores = [score for score, _ in alignment]
    controls = [control for _, control in alignment if control is not None]
    lowest = min(scores + controls)
    bins = np.linspace(lowest, max([*scores, *controls, lowest + 0.01]), 31).tolist()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.5), layout="constrained")
        axes = figure.subplots()
        for values, name, color, hatch, dash in (
            (controls, "control: the same mask, moved", "#e69f00", "////", "--"),
            (scores, "image and its mask", "#0072b2", "", "-"),
        ):
            if values:
                median = float(np.median(values))
                label = f"{name} (median {median:.2f})"
                axes.hist(values, bins, color=color, alpha=0.65, hatch=hatch, edgecolor="white", label=label)
                axes.axvline(median, color="#1d2329", linewidth=1.4, linestyle=dash)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(title="Alignment", xlabel="share of the mask’s boundary with an image edge close by", ylabel="images")
        add_legend(figure, axes)
    return figure
