"""evaluation.json and report.json as models: written and read alike, damaged or older ones refused in one line, and the
JSON schemas that ship are the models' own (issue 10 §4)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation import report_schema, schema
from evaluation.report_schema import Report, read_report
from evaluation.schema import Evaluation, Record, read_evaluation, write_record
from pipeline.config.evaluation import EvaluationConfig
from pipeline.errors import UserError
from tests.scored import write_evaluation
from tests.tables import counted

SCHEMAS: dict[str, type[Record]] = {"evaluation.schema.json": Evaluation, "report.schema.json": Report}
HOME = Path(schema.__file__).parent

Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_committed_json_schema_is_the_models_own(name: str) -> None:
    """Write it anew by: python -c "from tests.evaluation.test_schema import *; write_schemas()"."""
    assert json.loads((HOME / name).read_text()) == SCHEMAS[name].model_json_schema()


def write_schemas() -> None:
    for name, model in SCHEMAS.items():
        (HOME / name).write_text(json.dumps(model.model_json_schema(), indent=1) + "\n")


def drop(*path: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        for part in path[:-1]:
            content = content[part]
        del content[path[-1]]

    return change


def put(value: object, *path: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        for part in path[:-1]:
            content = content[part]
        content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("schema_version"), "has no schema version, wanted 1: it was written by another version"),
        (put(2, "schema_version"), "has schema version 2, wanted 1"),
        (put("x" * 999, "schema_version"), "has schema version 'xxx"),
        (drop("domains"), r"is damaged \(domains: Field required\)"),
        (drop("domains", "fog", "miou"), r"is damaged \(domains\.fog\.miou: Field required\)"),
        (put("much", "domains", "fog", "miou"), r"domains\.fog\.miou: Input should be a valid number"),
        (put(1.5, "domains", "fog", "miou"), r"domains\.fog\.miou: .*less than or equal to 1"),
        (put([1, 2], "domains", "fog", "iou"), r"domains\.fog\.iou\.1: "),
        (put(-1, "domains", "fog", "images"), r"domains\.fog\.images: "),
        (put([], "domains"), r"domains: Input should be a valid dictionary"),
        (put(1, "unknown"), r"unknown: Extra inputs"),
        (put(None, "domains", "fog", "confusion", 3), r"domains\.fog\.confusion\.3: "),
    ],
)
def test_a_damaged_or_older_evaluation_is_one_line(tmp_path: Path, change: Change, message: str) -> None:
    write_evaluation(tmp_path, {"fog": counted(0)}, EvaluationConfig(band=5, curve=(2,)))
    written = json.loads((tmp_path / schema.FILE).read_text())
    change(written)
    (tmp_path / schema.FILE).write_text(json.dumps(written))
    with pytest.raises(UserError, match=message) as caught:
        read_evaluation(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert str(tmp_path) in str(caught.value) and "evaluate again" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b'{"schema_version": NaN}', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 9999, b"\0" * 50],
)
@pytest.mark.parametrize("read", [read_evaluation, read_report])
def test_a_file_that_is_no_record_is_one_line(tmp_path: Path, text: bytes, read: Callable[[Path], object]) -> None:
    for name in (schema.FILE, report_schema.FILE):
        (tmp_path / name).write_bytes(text)
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_evaluation, read_report])
def test_a_missing_file_or_a_folder_in_its_place_is_one_line(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(UserError, match="holds no"):
        read(tmp_path)
    for name in (schema.FILE, report_schema.FILE):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path)


def test_no_record_takes_a_number_that_json_cannot_hold() -> None:
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite number"):
            report_schema.Stat(mean=wrong, spread=None, values=())


def test_records_cannot_be_changed_and_are_written_whole(tmp_path: Path) -> None:
    row = report_schema.Stat(mean=0.5, spread=None, values=(0.5,))
    with pytest.raises(ValueError, match="frozen"):
        row.mean = 0.6  # type: ignore[misc]  # that is what is tested
    write_record(row, tmp_path / "stat.json")
    assert json.loads((tmp_path / "stat.json").read_text()) == {"mean": 0.5, "spread": None, "values": [0.5]}
    assert [file.name for file in tmp_path.iterdir()] == ["stat.json"]
