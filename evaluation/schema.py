"""What evaluation.json holds, as frozen models: written from them, read into them, nothing else is in the file.

Shares and scores lie in 0..1. A score that does not exist (nothing was labeled) is null, never NaN.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from pipeline.data.labels import NUM_CLASSES
from pipeline.errors import UserError, one_line
from pipeline.files import file_stem, write_json

SCHEMA_VERSION: Literal[1] = 1
"""The version of evaluation.json and report.json. 1: the first that is written down; older files hold none."""

Share = Annotated[float, Field(ge=0, le=1)]
Score = Share | None
Count = Annotated[int, Field(ge=0)]
ClassScores = Annotated[tuple[Score, ...], Field(min_length=NUM_CLASSES, max_length=NUM_CLASSES)]
"""One per class, by train id; null for a class that is neither in the labels nor in the predictions."""
_ClassCounts = Annotated[tuple[Count, ...], Field(min_length=NUM_CLASSES, max_length=NUM_CLASSES)]
ConfusionTable = Annotated[tuple[_ClassCounts, ...], Field(min_length=NUM_CLASSES, max_length=NUM_CLASSES)]
"""(19,19) px per label class (rows) and predicted class (columns)."""


class Record(BaseModel):
    """A part of a file of ours: frozen, without unknown fields, without NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class ReliabilityBin(Record):
    """Pixels whose confidence lies in one of 15 equal bins."""

    confidence: Score
    """Mean over the bin's pixels; null in an empty bin."""
    accuracy: Score
    """Share of the bin's pixels that are right; null in an empty bin."""
    pixels: Count


class Calibration(Record):
    """How far the confidence of a segmenter can be believed."""

    ece: Score
    """Expected calibration error."""
    bins: tuple[ReliabilityBin, ...]


class ErrorCurve(Record):
    """Error rates for every width of the boundary band."""

    px: tuple[Annotated[int, Field(gt=0)], ...]
    """Widths of the band, ascending."""
    boundary: tuple[Score, ...]
    """Per width, the share of the band's pixels that are wrong."""
    interior: tuple[Score, ...]
    """Per width, the share of all other labeled pixels that are wrong."""
    share: tuple[Score, ...]
    """Per width, the share of the labeled pixels that lie in the band."""


class SkippedScene(Record):
    """A scene that could not be used, and why in one line."""

    id: str
    reason: str


class PlaceScores(Record):
    """All scores of some images: those of a domain, or of one condition of a domain."""

    images: Count
    confusion: ConfusionTable
    iou: ClassScores
    miou: Score
    pixel_accuracy: Score
    boundary_error: Score
    interior_error: Score
    curve: ErrorCurve
    calibration: Calibration | None
    """Null where the segmenter gave no confidences."""

    @property
    def ece(self) -> Score:
        """Expected calibration error; None where it is not known."""
        return self.calibration.ece if self.calibration else None


class DomainScores(PlaceScores):
    """All scores of a domain, and how they came about."""

    conditions: dict[str, PlaceScores]
    scale: str
    """What the network saw, in words."""
    predictions: tuple[str, ...]
    """Ids of the scenes whose predictions are kept as pictures."""
    skipped: tuple[SkippedScene, ...]


class Evaluation(Record):
    """evaluation.json: one segmenter on every domain."""

    schema_version: Literal[1] = SCHEMA_VERSION
    band: Annotated[int, Field(gt=0)]
    """Width of the boundary band, px."""
    domains: dict[str, DomainScores]


FILE = "evaluation.json"


def counts_file(folder: Path, domain: str) -> Path:
    """Where an evaluation's folder holds the counts of a domain's images."""
    return folder / "images" / f"{file_stem(domain)}.npz"


def prediction_file(folder: Path, domain: str, scene: str) -> Path:
    """Where an evaluation's folder holds the prediction for a scene, if that is kept. Names are made safe."""
    return folder / "predictions" / file_stem(domain) / f"{file_stem(scene)}.png"


AnyRecord = TypeVar("AnyRecord", bound=Record)


def read_evaluation(folder: Path) -> Evaluation:
    """What an evaluation's folder holds. UserError, one line, where it holds none, a damaged one or an older one."""
    return read_record(Evaluation, folder / FILE, "give an evaluation's folder or key, or evaluate again")


def read_record(model: type[AnyRecord], path: Path, redo: str) -> AnyRecord:
    """Reads a file of ours into its model. `redo` says how to come by a whole one.

    UserError in one line where the file is not there, is damaged, or is of another version.
    """
    try:
        content: Any = from_json(path.read_bytes(), allow_inf_nan=False)
    except FileNotFoundError as error:
        raise UserError(f"{path.parent} holds no {path.name}: {redo}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}): {redo}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        found = "no schema version" if version is None else f"schema version {version!r:.40}"
        raise UserError(
            f"{path} has {found}, wanted {SCHEMA_VERSION}: it was written by another version of flexseg; {redo}"
        )
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        more = f", and {error.error_count() - 1} more" if error.error_count() > 1 else ""
        raise UserError(f"{path} is damaged ({place}: {one_line(Exception(first['msg']))}{more}): {redo}") from error


def write_record(record: Record, path: Path) -> None:
    """Writes a file of ours, whole."""
    write_json(path, record.model_dump(mode="json"))
