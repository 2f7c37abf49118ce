"""The `data` section: names that become file names, id tables, paths at home."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.config.data import DataConfig, Dataset


def dataset(**changes: Any) -> Dataset:
    fields = {"name": "own", "root": "x", "layout": "globs", "labels": "*.png", "ids": "train"}
    return Dataset.model_validate(fields | changes)


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "a/b",
        "[bold]d[/bold]",
        "$x_{$",
        "x" * 300,
        "",
        ".",
        ".hidden",
        " a",
        "a ",
        "a\nb",
        "a\0b",
        "a\\b",
        "\ud800",
    ],
)
def test_case_f06_names_that_are_no_file_names(name: str) -> None:
    with pytest.raises(ValidationError, match="becomes part of file names") as error:
        dataset(name=name)
    assert "\n" not in error.value.errors()[0]["msg"]


@pytest.mark.parametrize("name", ["acdc", "own-photographs-spring", "Köln 2 (v1.0)+night", "x" * 60])
def test_names_that_are_taken(name: str) -> None:
    assert dataset(name=name).name == name


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ({256: 0}, r"file ids \[256\] do not occur in label maps"),
        ({-2: 255, 3: 1}, r"file ids \[-2\]"),
        ({0: 40}, r"maps to \[40\], wanted train ids 0 to 18"),
        ({0: 19, 1: -1}, r"maps to \[-1, 19\]"),
        ({-1: 255, 255: 3}, "-1 and 255 are the same stored value"),
        ({True: 8}, "holds True: wanted a table from whole numbers"),
        ({1: True}, "holds True: wanted a table from whole numbers"),
        ({7: 0, " 7": 8}, "holds ' 7': wanted a table"),
        ({10: 0, "1_0": 8}, "holds '1_0': wanted a table"),
    ],
)
def test_id_tables(ids: dict[object, int], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        dataset(ids=ids)
    assert dataset(ids={-1: 255, 0: 18, 255: 255}).ids == {-1: 255, 0: 18, 255: 255}


def test_home_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of/mine")
    assert dataset(root="~/data").root == Path("/home/of/mine/data")
    assert DataConfig.model_validate({"generated": ["~/set"]}).generated == (Path("/home/of/mine/set"),)
    with pytest.raises(ValidationError, match="knows no such user"):
        dataset(root="~nobody-of-that-name/data")
