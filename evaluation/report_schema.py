"""What report.json holds, as frozen models: the page, all tables and Prefect's pages are drawn from these.

`AVERAGE` stands among the domains' names where there is a score of all of them; no domain may have that name.
"""

from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from evaluation.schema import (
    SCHEMA_VERSION,
    ClassScores,
    ConfusionTable,
    Count,
    Record,
    ReliabilityBin,
    Score,
    SkippedScene,
    read_record,
)

AVERAGE = "average"
FILE = "report.json"


class Stat(Record):
    """A score, or a difference of scores, over the seeds of a method. A missing value is null and counts nowhere."""

    mean: float | None
    spread: float | None
    """Sample standard deviation; null for a single seed."""
    values: tuple[float | None, ...]
    """One per seed."""


class ScoreStat(Stat):
    """A score with its 95% bootstrap interval over images; null where there is none."""

    low: float | None = None
    high: float | None = None


class Gain(ScoreStat):
    """A difference to the baseline with its interval and the paired test of it; null where it was not tested."""

    p: float | None = None
    """Corrected by Holm: the averages over targets as one family, the single targets of all methods as another."""
    verdict: Literal["better", "worse"] | None = None
    """Null where the difference may be chance."""
    about: Literal["methods", "networks"] | None = None
    """What the test speaks of: of the methods where both sides had several seeds, else of these trained networks."""


class ConditionStats(Record):
    """One condition of one domain."""

    images: Count
    miou: Stat
    pixel_accuracy: Stat
    boundary_error: Stat
    interior_error: Stat
    ece: Stat


class BandCurve(Record):
    """Error rates for every width of the boundary band, mean over domains and seeds."""

    px: tuple[int, ...]
    boundary: tuple[Score, ...]
    interior: tuple[Score, ...]


class TrainingCurve(Record):
    """The log of one training: (iteration, value) pairs."""

    seed: int
    loss: tuple[tuple[int, float], ...]
    validation_miou: tuple[tuple[int, float], ...]


class MethodRow(Record):
    """One method: its trained networks, one per seed. Dicts go from domain (or `average`) to its stat."""

    name: str
    seeds: tuple[int, ...]
    miou: dict[str, ScoreStat]
    pixel_accuracy: dict[str, Stat]
    boundary_error: dict[str, Stat]
    interior_error: dict[str, Stat]
    ece: dict[str, Stat]
    iou: dict[str, ClassScores]
    """Mean over seeds; `average` is the mean over the domains that have the class."""
    conditions: dict[str, dict[str, ConditionStats]]
    """Domain -> condition -> scores."""
    band_curve: BandCurve
    calibration: tuple[ReliabilityBin, ...] | None
    """Bins of all pixels of all domains and seeds; null where no prediction had a confidence."""
    gain: dict[str, Gain]
    """Difference in mIoU to the baseline."""
    curves: tuple[TrainingCurve, ...]


class DomainFacts(Record):
    """A domain, and how it was scored."""

    name: str
    images: Count
    scale: str
    """What the network saw, in words."""
    skipped: tuple[SkippedScene, ...]
    conditions: dict[str, Count]
    """Images of each condition."""


class PublishedRow(Record):
    """A published model's mIoU per domain; null where nothing is published."""

    name: str
    source: str
    scale: str
    trained_with: str
    """What its training had beside source and generated images."""
    miou: dict[str, Score]


class OtherCount(Record):
    """A domain whose number of images is not that of the published split."""

    name: str
    images: Count
    published: Count


class PublishedScores(Record):
    """Published scores that stand beside ours."""

    rows: tuple[PublishedRow, ...]
    other_counts: tuple[OtherCount, ...]


class GeneratedFacts(Record):
    """A generated data set in numbers."""

    images: Count
    conditions: dict[str, Count]
    classes: dict[str, Count]
    """Images by the train id of the class that was asked for."""
    alignment: tuple[tuple[float, float | None], ...]
    """(score, score of its control) of each image that has a score."""


class Report(Record):
    """report.json: all methods on all domains. The first method is the baseline."""

    schema_version: Literal[1] = SCHEMA_VERSION
    headline: str
    findings: tuple[str, ...]
    name: str
    baseline: str
    band: int
    """Width of the boundary band, px."""
    domains: tuple[DomainFacts, ...]
    methods: tuple[MethodRow, ...]
    published: PublishedScores | None
    generated: GeneratedFacts | None
    seconds: dict[str, float]
    """How long each stage took when it was built."""
    provenance: dict[str, JsonValue]
    confusion: dict[str, ConfusionTable]
    """The confusion of the methods in `pair`, summed over domains and seeds."""

    @property
    def places(self) -> list[str]:
        """The domains' names, and `average` where there are several."""
        names = [domain.name for domain in self.domains]
        return [*names, AVERAGE] if len(names) > 1 else names

    @property
    def best(self) -> MethodRow:
        """The method with the highest mIoU averaged over domains and seeds (the earliest on a tie)."""
        return max(self.methods, key=average_miou)

    @property
    def pair(self) -> list[str]:
        """The two methods that are looked at closely: the baseline and the best of the others, if there is one."""
        baseline, *others = self.methods
        return [baseline.name] + ([max(others, key=average_miou).name] if others else [])


def average_miou(row: MethodRow) -> float:
    """For comparing: a method without any score comes last."""
    mean = row.miou[AVERAGE].mean
    return -1.0 if mean is None else mean


def read_report(folder: Path) -> Report:
    """What a report's folder holds. UserError, one line, where it holds none, a damaged one or an older one."""
    return read_record(Report, folder / FILE, "make it again by flexseg run")
