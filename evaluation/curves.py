"""Line charts of a report: learning curves, errors over the boundary band's width, reliability."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from evaluation.figures import STYLE, MethodLook, add_legend, looks, new_chart
from evaluation.report_schema import Report


def learning_curve(report: Report, key: str) -> Figure:
    """`loss` or `validation_miou` over iterations; thin lines are single seeds, thick ones their mean."""
    with mpl.rc_context(STYLE):
        figure, axes = new_chart(report, 3.3)
        for row in report.methods:
            courses = [course for log in row.curves if (course := getattr(log, key))]
            _curves(axes, courses, looks(report)[row.name], row.name)
        axes.set_title({"loss": "Training loss", "validation_miou": "mIoU on held-out source scenes"}[key])
        axes.set_xlabel("iteration")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        if key == "validation_miou":
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=""))
            axes.set_ylabel("mIoU (%)")
        add_legend(figure, axes)
    return figure


def _curves(axes: Axes, curves: Sequence[Sequence[tuple[int, float]]], look: MethodLook, label: str) -> None:
    """Every seed thin, their mean thick (over the iterations that all seeds logged)."""
    if not curves:
        return
    for curve in curves:
        axes.plot(*zip(*curve, strict=True), color=look.color, linewidth=0.8, alpha=0.35)
    shared = sorted(set.intersection(*({iteration for iteration, _ in curve} for curve in curves)))
    means = [np.mean([dict(curve)[iteration] for curve in curves]) for iteration in shared]
    marker = look.marker if len(shared) < 15 else None
    axes.plot(shared, means, look.dash, color=look.color, linewidth=2, label=label, marker=marker, markersize=4)


def band_chart(report: Report, key: str, highest: float) -> Figure:
    """Error rate over the width of the boundary band (the paper's figure 1 at every width), mean of domains and seeds.

    `key` is `boundary` (pixels in the band) or `interior` (all others); `highest` is the share at the axis' upper end.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_chart(report, 3.3)
        for row in report.methods:
            look, curve = looks(report)[row.name], row.band_curve
            rates = {"boundary": curve.boundary, "interior": curve.interior}[key]
            errors = [np.nan if rate is None else 100 * rate for rate in rates]
            axes.plot(curve.px, errors, look.dash, color=look.color, marker=look.marker, markersize=4, label=row.name)
        axes.axvline(report.band, color="#8a939b", linewidth=1, linestyle=":")
        axes.set_title(
            {"boundary": "Within so many px of another class", "interior": "Farther from every other class"}[key]
        )
        axes.set_xlabel("width of the band (px)")
        axes.set_ylabel("wrong pixels (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(0, 100 * max(highest, 0.01))
        add_legend(figure, axes)
    return figure


def reliability_diagram(report: Report) -> Figure:
    """How often a prediction is right (y) where the network says how sure it is (x); on the diagonal it knows itself.

    Bins with under 0.1% of the pixels are left out: their shares are noise.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_chart(report, 4.0)
        axes.plot([0, 100], [0, 100], color="#8a939b", linewidth=1, linestyle=":")
        axes.text(4, 7, "as sure as it should be", rotation=45, rotation_mode="anchor", color="#57616a", fontsize=8)
        for row in report.methods:
            look, bins = looks(report)[row.name], row.calibration or ()
            fewest = sum(b.pixels for b in bins) / 1000
            shown = [(100 * (b.confidence or 0.0), 100 * (b.accuracy or 0.0)) for b in bins if b.pixels > fewest]
            if shown:
                x, y = zip(*shown, strict=True)
                axes.plot(x, y, look.dash, color=look.color, marker=look.marker, markersize=4, label=row.name)
        axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence (%)", ylabel="pixels right (%)", title="Reliability")
        axes.set_aspect("equal")
        add_legend(figure, axes)
    return figure
