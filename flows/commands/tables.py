"""Tables of what is planned, made and found: images to generate, the cache, stages, data sets, a generator's scores."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table

from flows.tables import Column, percent, table
from pipeline.data.labels import CLASS_NAMES
from pipeline.requests import GenerationRequest
from pipeline.store.artifacts import Artifact, Event
from pipeline.work.progress import duration

if TYPE_CHECKING:
    from flows.commands.data_check import Finding
    from flows.commands.weights_quality import Quality
    from pipeline.store.inventory import Entry


class PlanRow(NamedTuple):
    """How many images of a class (or of all) are asked for, by condition."""

    name: str
    counts: Mapping[str, int]
    cell: Callable[[int], str] = str
    """How a count is written."""


def plan_table(requests: Sequence[GenerationRequest]) -> Table:
    """How many images are asked for, by class (rows) and condition (columns), and the share of each."""
    conditions = list(dict.fromkeys(request.condition for request in requests))
    of_class: dict[int, Counter[str]] = {}
    for request in requests:
        of_class.setdefault(request.class_id, Counter())[request.condition] += 1
    whole, totals = len(requests), Counter(request.condition for request in requests)
    columns = [
        Column[PlanRow]("class", lambda row: row.name, left=True),
        *(Column[PlanRow](name, _count_of(name)) for name in conditions),
        Column[PlanRow]("all", lambda row: row.cell(sum(row.counts.values()))),
        Column[PlanRow]("share", lambda row: f"{percent(sum(row.counts.values()) / whole)}%"),
    ]
    rows = [PlanRow(CLASS_NAMES[class_id], of_class[class_id]) for class_id in sorted(of_class)]
    sums = [PlanRow("all", totals), PlanRow("share", totals, lambda count: f"{percent(count / whole)}%")]
    title = "Images to generate, by the class that was asked for and by condition"
    return table(title, columns, rows, sums)


def _count_of(condition: str) -> Callable[[PlanRow], str]:
    return lambda row: row.cell(row.counts.get(condition, 0))


class CacheRow(NamedTuple):
    """Something that a config asks for: what there is of it."""

    what: str
    key: str
    artifact: Artifact | None
    unfinished: str
    """What there is of an unfinished one, in words; empty for nothing."""


def _state(row: CacheRow) -> str:
    if row.artifact is not None:
        return f"made, took {duration(row.artifact.manifest.seconds)}"
    return row.unfinished or "to be made"


def cache_table(rows: Iterable[CacheRow]) -> Table:
    """What the store holds already."""
    columns = [
        Column[CacheRow]("what", lambda row: row.what, left=True),
        Column[CacheRow]("key", lambda row: row.key[:16], left=True),
        Column[CacheRow]("state", _state, left=True),
    ]
    return table("What the cache holds", columns, rows)


def size_text(size: float) -> str:
    """Bytes as people say them: `640 B`, `1.2 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _condition(entry: "Entry") -> str:
    return "" if entry.manifest else "damaged" if entry.damage else "unfinished"


def _finished(entries: "Sequence[Entry]") -> str:
    manifest = entries[0].manifest
    return manifest.finished[:16].replace("T", " ") if manifest else ""


def _seconds(entries: "Sequence[Entry]") -> str:
    manifest = entries[0].manifest
    return duration(manifest.seconds) if manifest else ""


def _what_is_with(entries: "Sequence[Entry]") -> str:
    """How far an unfinished artifact is, who builds it, or that it is damaged."""
    state = _condition(entries[0])
    if state == "unfinished":
        state += f", {max(entry.parts for entry in entries)} parts"
    return ", ".join(filter(None, (state, *(f"built by {entry.owner}" for entry in entries if entry.owner))))


ENTRY_COLUMNS: "Sequence[Column[Sequence[Entry]]]" = (
    Column("stage", lambda entries: entries[0].stage, left=True),
    Column("key", lambda entries: entries[0].digits, left=True),
    Column("where", lambda entries: "both" if len(entries) == 2 else entries[0].where, left=True),
    Column("size", lambda entries: size_text(max(entry.size for entry in entries))),
    Column("made", _finished, left=True),
    Column("took", _seconds),
    Column("state", _what_is_with, left=True),
)


def entries_table(entries: "Iterable[Entry]") -> Table:
    """What `flexseg cache list` found: one row for an artifact that is alike here and in the remote store."""

    def alike(entry: "Entry") -> tuple[str, str]:
        return entry.name, _condition(entry)

    return table("", ENTRY_COLUMNS, [list(group) for _, group in groupby(sorted(entries, key=alike), key=alike)])


class StageRow(NamedTuple):
    """The artifacts of one stage that a run has used, each once, and the event in which it first did."""

    stage: str
    uses: Sequence[tuple[Event, Artifact]]

    @property
    def built(self) -> int:
        """How many of them this run has built."""
        return sum(event == "built" for event, _ in self.uses)


STAGE_COLUMNS: Sequence[Column[StageRow]] = (
    Column("stage", lambda row: row.stage, left=True),
    Column("built now", lambda row: str(row.built)),
    Column("from the cache", lambda row: str(len(row.uses) - row.built)),
    Column("time to make", lambda row: duration(sum(artifact.manifest.seconds for _, artifact in row.uses))),
)


def stages_table(history: Sequence[tuple[Event, Artifact]]) -> Table:
    """Per stage: artifacts built now and taken from the cache, and how long making them took, then or now."""
    first_uses = {artifact.key: (event, artifact) for event, artifact in reversed(history)}
    stages = dict.fromkeys(artifact.kind for _, artifact in history)
    rows = [StageRow(stage, [use for use in first_uses.values() if use[1].kind == stage]) for stage in stages]
    return table("Stages", STAGE_COLUMNS, rows)


def _absent(finding: "Finding") -> str:
    missing = [name for name, count in zip(CLASS_NAMES, finding.pixels, strict=True) if count == 0]
    return "all" if len(missing) == len(CLASS_NAMES) else ", ".join(missing) or "none"


def _scene_count(finding: "Finding") -> str:
    complete = finding.expected in (None, finding.scenes)
    return f"{finding.scenes:,}" + ("" if complete else f" of {finding.expected:,}")


DATA_COLUMNS: "Sequence[Column[Finding]]" = (
    Column("data set", lambda finding: finding.name, left=True),
    Column("scenes", _scene_count),
    Column("px", lambda finding: " to ".join(f"{width}×{height}" for height, width in finding.sizes), left=True),
    Column(
        "conditions",
        lambda finding: ", ".join(f"{name} {count:,}" for name, count in sorted(finding.conditions.items())),
        left=True,
    ),
    Column("labeled px", lambda finding: f"{finding.pixels.sum():,}"),
    Column("classes that do not occur", _absent, left=True),
    Column("problems", lambda finding: f"{len(finding.problems):,}"),
)


def data_table(findings: Sequence["Finding"]) -> Table:
    """What `flexseg data check` found."""
    return table("Data sets: every file read, every size compared", DATA_COLUMNS, findings)


class QualityRow(NamedTuple):
    """What a reader makes of generated images and of true renders, as shares."""

    reader: str
    condition: str
    generated: float | None
    true: float | None


QUALITY_COLUMNS: Sequence[Column[QualityRow]] = (
    Column("read by", lambda row: row.reader, left=True),
    Column("of", lambda row: row.condition, left=True),
    Column("generated", lambda row: percent(row.generated)),
    Column("true", lambda row: percent(row.true)),
)


def quality_table(quality: "Quality") -> Table:
    """What `flexseg weights measure` found."""
    generated, true = quality.generated, quality.true
    miou = [QualityRow("oracle's mIoU", "all", generated.miou, true.miou)]
    miou += [
        QualityRow("oracle's mIoU", name, generated.miou_by_condition.get(name), score)
        for name, score in true.miou_by_condition.items()
    ]
    weather = [QualityRow("weather classifier", "all", generated.weather_accuracy, true.weather_accuracy)]
    weather += [
        QualityRow("weather classifier", name, generated.weather_accuracy_by_condition.get(name), score)
        for name, score in true.weather_accuracy_by_condition.items()
    ]
    title = f"{quality.images} generated images beside true renders of the same label maps"
    return table(title, QUALITY_COLUMNS, miou, weather)
