"""The report of an experiment: report.json first, then one self-contained page, tables and figures drawn from it."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.colors import to_hex
from pydantic import JsonValue

from evaluation import figures, gallery
from evaluation.charts import draw_charts
from evaluation.findings import signed
from evaluation.report_schema import FILE, Report
from evaluation.scenes import SceneGroup, image_scores, pictured, scene_groups
from evaluation.schema import write_record
from evaluation.summary import ReportContent, summarize
from evaluation.tables import write_tables
from pipeline.data.labels import CLASSES
from pipeline.work.progress import duration

WEATHER_ORDER = ("plain", "sunny", "rainy", "snowy", "foggy", "night")
SOFT = "#57616a"
"""The page's gray for what matters less."""
ShownGroup = tuple[SceneGroup, list[gallery.ComparedScene]]
SIDE_BY_SIDE = 3
"""Methods whose predictions stand side by side; of more, only the baseline and the best of the others."""


def build_report(content: ReportContent, folder: Path) -> None:
    """Writes `report.json`, `index.html` (no request leaves it), `*.csv` and `figures/*.png` (charts also as SVG).

    UserError if there is no run, none of the baseline, or an evaluation is missing or lacks a domain.
    """
    report = summarize(content)
    folder.mkdir(parents=True, exist_ok=True)
    write_record(report, folder / FILE)
    write_tables(report, folder)
    pictures = folder / "figures"
    pictures.mkdir(exist_ok=True)
    kept, scenes = _scenes(content, report, pictures)
    template = _environment().get_template("report.html.j2")
    gains = [gain for row in report.methods for gain in row.gain.values()]
    page = template.render(
        numbers=report,
        tops=_tops(report),
        intervals=any(gain.p is not None for gain in gains),
        about_methods=any(gain.about == "methods" for gain in gains),
        about_networks=any(gain.about == "networks" for gain in gains),
        classes=CLASSES,
        charts=draw_charts(report, pictures),
        domain_pictures=gallery.domain_pictures(content.domains),
        kept=kept,
        scene_groups=scenes,
        generated=_generated(content.generated, pictures, content.alignment),
        provenance=_provenance(report),
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def _tops(report: Report) -> dict[str, float | None]:
    """The best mIoU of each domain and on average."""
    places = report.methods[0].miou
    scores = {place: [row.miou[place].mean for row in report.methods] for place in places}
    return {place: max((mean for mean in means if mean is not None), default=None) for place, means in scores.items()}


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=_percent, signed=signed, signs=_signs, duration=duration, heat=_heat, change=_change, several=_several
    )
    return environment


def _scenes(content: ReportContent, report: Report, folder: Path) -> tuple[int, list[ShownGroup]]:
    """How many scenes have kept predictions, and the groups chosen among them; of each method's first seed."""
    evaluations = {method: models[0].evaluation for method, models in content.by_method().items()}
    close = report.pair
    if len(evaluations) > SIDE_BY_SIDE:
        evaluations = {method: evaluations[method] for method in close}
    scores = {method: image_scores(evaluation, content.domains) for method, evaluation in evaluations.items()}
    groups = scene_groups(scores, close[0], close[1] if len(close) > 1 else None)
    draw = partial(gallery.compared_scenes, domains=content.domains, evaluations=evaluations, band=report.band)
    return pictured(scores), [(group, list(draw(group.places, figures=folder))) for group in groups]


def _generated(
    folder: Path | None, figures_folder: Path, scored: Path | None
) -> dict[str, list[gallery.GeneratedImage]]:
    """Example images by condition, in the usual order of the weathers."""
    shown = gallery.generated_images(folder, figures_folder, scored) if folder else {}
    order = [*WEATHER_ORDER, *(condition for condition in shown if condition not in WEATHER_ORDER)]
    return {condition: shown[condition] for condition in order if condition in shown}


def _provenance(report: Report) -> dict[str, Sequence[tuple[str, str]]]:
    """(name, text) rows by heading: how it was measured, then what the caller says it was made from."""
    measured: dict[str, JsonValue] = {
        "methods": {row.name: f"seeds {', '.join(map(str, row.seeds))}" for row in report.methods},
        "domains": {
            d.name: f"{_several(d.images, 'image')}, {len(d.skipped)} skipped, network input {d.scale}"
            for d in report.domains
        },
        "baseline": report.baseline,
        "boundary band": f"{report.band} px",
    }
    plain = {name: value for name, value in report.provenance.items() if not isinstance(value, Mapping)}
    parts = {name: value for name, value in report.provenance.items() if isinstance(value, Mapping)}
    groups: dict[str, Mapping[str, Any]] = {"How it was measured": measured, "Code and machine": plain, **parts}
    return {title: list(_flat(part)) for title, part in groups.items() if part}


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


def _signs(values: Sequence[float | None]) -> str:
    """The sign of a difference in each seed, for instance `++−`; nothing where there is one seed only."""
    if len(values) < 2:
        return ""
    return "".join("·" if not value else "+" if value > 0 else "−" for value in values)


def _several(count: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _heat(share: float | None) -> str:
    """CSS of a heat map cell: one hue from light (0) to dark (1), readable by color-blind eyes and in gray print."""
    return _cell(None if share is None else mpl.colormaps["Blues"](0.9 * share))


def _change(points: float | None) -> str:
    """CSS of a cell that holds a change of IoU: blue is better, orange worse; its sign is printed."""
    if points is None or abs(points) < 0.005:
        return _cell(None)
    return _cell(mpl.colormaps["Blues" if points > 0 else "Oranges"](0.6 * min(1.0, abs(points) / 0.2)))


def _cell(background: figures.RGBA | None) -> str:
    if background is None:
        return f"color: {SOFT}"
    return f"background: {to_hex(background)}; color: {figures.ink_on(background)}"
