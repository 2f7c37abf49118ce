"""Published scores to stand beside ours: GTA5 -> five data sets, mIoU in percent, MiT-B5 encoder.

They are shown only where a target has the name of a published one, and with the scale at which they were measured,
which alone moves such scores by up to 1.8 mIoU.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from evaluation.report_schema import AVERAGE, OtherCount, PublishedRow, PublishedScores


class Published(NamedTuple):
    """A data set of published scores: its names in configs, and how many images its validation split has."""

    names: frozenset[str]
    images: int


DATA_SETS = {
    "ACDC": Published(frozenset({"acdc"}), 406),
    "Dark Zurich": Published(frozenset({"darkzurich", "dz"}), 50),
    "Cityscapes": Published(frozenset({"cityscapes", "cs"}), 500),
    "BDD100K": Published(frozenset({"bdd100k", "bdd", "bdd10k"}), 1000),
    "Mapillary Vistas": Published(frozenset({"mapillary", "mapillaryvistas", "vistas", "mv"}), 2000),
}
SINGLE_RESOLUTION = "1024×512 px; 960×540 px on ACDC and Dark Zurich"
HIGH_RESOLUTION = "2048×1024 px; 1920×1080 px on ACDC and Dark Zurich"
DGINSTYLE = "Jia et al., ECCV 2024, as listed by Kim et al."
FLEX_SEG = "Kim et al., AAAI 2026, arXiv 2511.22948"


class Row(NamedTuple):
    """A published model."""

    name: str
    source: str
    scale: str
    trained_with: str
    """What its training had beside source and generated images; it explains a part of a difference to our rows."""
    percents: tuple[float, ...]
    """mIoU in the order of `DATA_SETS`."""


DISTANCE, NONE = "ImageNet feature distance", "neither feature distance nor SHADE"
ROWS = (
    Row("DAFormer + DGInStyle", DGINSTYLE, SINGLE_RESOLUTION, DISTANCE, (44.04, 25.58, 55.31, 50.82, 56.62)),
    Row("DAFormer + FLEX-Seg", FLEX_SEG, SINGLE_RESOLUTION, NONE, (46.56, 29.51, 56.84, 52.06, 57.93)),
    Row(
        "HRDA + DGInStyle", DGINSTYLE, HIGH_RESOLUTION, f"{DISTANCE}, rare-class sampling and SHADE",
        (46.07, 25.53, 58.63, 52.25, 62.47),
    ),
    Row("HRDA + FLEX-Seg", FLEX_SEG, HIGH_RESOLUTION, NONE, (48.51, 28.16, 59.49, 52.48, 61.71)),
)  # fmt: skip


def published_scores(images: Mapping[str, int]) -> PublishedScores | None:
    """The published rows for these domains (name -> evaluated images); None where no domain is a published one.

    A row's average is that of the domains with images; None unless all of these are published ones.
    """
    known = {domain: name for domain in images if (name := _data_set(domain)) is not None}
    if not known:
        return None
    order = list(DATA_SETS)
    rows = []
    for row in ROWS:
        scores = {d: row.percents[order.index(known[d])] / 100 if d in known else None for d in images}
        average = _mean(scores[domain] for domain, count in images.items() if count)
        facts = {"name": row.name, "source": row.source, "scale": row.scale, "trained_with": row.trained_with}
        rows.append(PublishedRow(**facts, miou={**scores, AVERAGE: average}))
    others = [
        OtherCount(name=domain, images=images[domain], published=DATA_SETS[name].images)
        for domain, name in known.items()
        if images[domain] != DATA_SETS[name].images
    ]
    return PublishedScores(rows=tuple(rows), other_counts=tuple(others))


def _data_set(domain: str) -> str | None:
    """The published data set that a domain's name stands for: `dark_zurich`, `Dark Zurich` and `DZ` are one."""
    plain = "".join(letter for letter in domain.lower() if letter.isalnum())
    return next((name for name, published in DATA_SETS.items() if plain in published.names), None)


def _mean(shares: Iterable[float | None]) -> float | None:
    """Mean of the shares; None if one is missing or there is none."""
    values = list(shares)
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present and len(present) == len(values) else None
