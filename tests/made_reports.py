"""Reports whose numbers all differ, for tests of what is drawn from them."""

import numpy as np

from evaluation.report_schema import BandCurve, DomainFacts, MethodRow, Report, ScoreStat

ODD = "[bold]d[/bold] [/] :warning: $x_{$"
"""A name that rich would read as markup, as an error in markup, as an emoji; and matplotlib as a formula."""


def made_report(*domains: str, seeds: int = 3) -> Report:
    """Two methods whose every number is another one."""
    numbers = iter(np.arange(1, 999) / 1000)
    places = [*domains, "average"]

    def stats() -> dict[str, ScoreStat]:
        spread = None if seeds == 1 else float(next(numbers)) / 10
        return {place: ScoreStat(mean=float(next(numbers)), spread=spread, values=(0.5,) * seeds) for place in places}

    def row(name: str) -> MethodRow:
        return MethodRow(
            name=name,
            seeds=tuple(range(seeds)),
            miou=stats(),
            pixel_accuracy=dict(stats()),
            boundary_error=dict(stats()),
            interior_error=dict(stats()),
            ece=dict(stats()),
            iou={},
            conditions={},
            band_curve=BandCurve(px=(), boundary=(), interior=()),
            calibration=None,
            gain={},
            curves=(),
        )

    return Report(
        headline="",
        findings=(),
        name="r",
        baseline="source only",
        band=2,
        domains=tuple(DomainFacts(name=name, images=1, scale="1", skipped=(), conditions={}) for name in domains),
        methods=(row("source only"), row(ODD)),
        published=None,
        generated=None,
        seconds={},
        provenance={},
        confusion={},
    )
