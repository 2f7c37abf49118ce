"""The report of an experiment: report.json first, then one self-contained page and figures drawn from it."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.colors import to_hex

from evaluation import figures, gallery
from evaluation.findings import findings, headline, signed
from evaluation.summary import Numbers, ReportContent, best_method, summarize
from pipeline.labels import CLASSES
from pipeline.manifest import write_json
from pipeline.pictures import file_uri
from pipeline.progress import duration

WEATHER_ORDER = ("plain", "sunny", "rainy", "snowy", "foggy", "night")


def build_report(content: ReportContent, folder: Path) -> None:
    """Writes `folder/report.json`, `folder/index.html` (no request leaves it) and `folder/figures/*.png`.

    UserError if a run has no evaluation or lacks a domain.
    """
    numbers = summarize(content)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", {"headline": headline(numbers), "findings": findings(numbers), **numbers})
    pictures = folder / "figures"
    pictures.mkdir(exist_ok=True)
    template = _environment().get_template("report.html.j2")
    page = template.render(
        numbers=numbers,
        best=best_method(numbers),
        headline=headline(numbers),
        findings=findings(numbers),
        classes=CLASSES,
        charts=_charts(numbers, pictures),
        domain_pictures=gallery.domain_pictures(content.domains),
        scenes=list(gallery.compared_scenes(content.runs, content.domains, numbers["band"], pictures)),
        generated=_generated(content.generated, pictures),
        provenance=list(_flat(content.provenance)),
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, signed=signed, duration=duration, heat=_heat, several=_several)
    return environment


def _charts(numbers: Numbers, folder: Path) -> dict[str, str]:
    """The charts that the numbers have data for, as data URIs, by file name."""
    wanted = {key: partial(figures.error_bars, numbers, key) for key in ("boundary_error", "interior_error")}
    curves = [curve for row in numbers["methods"] for curve in row["curves"]]
    for key in ("loss", "validation_miou"):
        if any(curve[key] for curve in curves):
            wanted[key] = partial(figures.learning_curve, numbers, key)
    if numbers["generated"] and numbers["generated"]["alignment"]:
        wanted["alignment"] = partial(figures.alignment_histogram, numbers["generated"]["alignment"])
    return {
        name: file_uri(figures.save(draw(), folder / f"{name}.png"), "image/svg+xml") for name, draw in wanted.items()
    }


def _generated(folder: Path | None, figures_folder: Path) -> dict[str, list[gallery.GeneratedImage]]:
    """Example images by condition, in the usual order of the weathers."""
    shown = gallery.generated_images(folder, figures_folder) if folder else {}
    order = [*WEATHER_ORDER, *(condition for condition in shown if condition not in WEATHER_ORDER)]
    return {condition: shown[condition] for condition in order if condition in shown}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Sequence[tuple[str, str]]:
    """Nested provenance as (dotted name, text) rows."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            rows.append((f"{prefix}{name}", ", ".join(str(item) for item in value)))
        else:
            rows.append((f"{prefix}{name}", str(value)))
    return rows


def _percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage; a dash for a score that does not exist."""
    return "–" if share is None else f"{100 * share:.{digits}f}"


def _several(count: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _heat(share: float | None) -> str:
    """CSS of a heat map cell: one hue from light (0) to dark (1), readable by color-blind eyes and in gray print."""
    if share is None:
        return "color: #6b757d"
    background = mpl.colormaps["Blues"](0.9 * share)
    return f"background: {to_hex(background)}; color: {'#fff' if share > 0.78 else '#14181c'}"
