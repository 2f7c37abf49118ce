"""The command starts and ends well in poor surroundings: one line, never a traceback."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from flows import main
from flows.errors import own_text
from pipeline.errors import TryAgainError, UserError
from tests.processes import ROOT


def flexseg(redirection: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """Runs the command in a shell that does this to its output."""
    words = [sys.executable, "-c", "from flows.main import main; main()", *arguments]
    shell = ["bash", "-c", f'set -o pipefail; "$@" {redirection}', "bash", *words]
    return subprocess.run(shell, check=False, capture_output=True, cwd=ROOT, env={**os.environ, **environment})


@pytest.mark.parametrize(
    ("redirection", "code", "words"),
    [
        ("| true", 141, ""),
        ("> /dev/full", 2, "flexseg: the output cannot be written: [Errno 28] No space left on device\n"),
        (">&-", 0, ""),
    ],
)
@pytest.mark.parametrize("arguments", [("--help",), ("cache", "list", "--store", "/")])
def test_an_output_that_is_closed_or_full(
    redirection: str, code: int, words: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    arguments = tuple(str(tmp_path) if word == "/" else word for word in arguments)
    done = flexseg(redirection, *arguments)
    assert (done.returncode, done.stderr.decode()) == (code, words)


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_name_that_the_terminal_cannot_show(environment: Mapping[str, str]) -> None:
    done = flexseg("", "plan", "Zürich.yaml", **environment)
    assert done.returncode == 2 and b"Traceback" not in done.stderr
    assert done.stderr.startswith(b"flexseg: ") and done.stderr.count(b"\n") == 1
    shown = done.stderr.split()[2]  # own_text replaces what is no character: half of a name's bytes in an ASCII locale
    assert shown in {b"Z\\xfcrich.yaml", b"Z??rich.yaml"}


@pytest.mark.parametrize(
    ("left", "words"),
    [
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE=4 is ignored, without RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "4", "RANK": "0"}, "WORLD_SIZE=4 is ignored, without LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "all"}, "WORLD_SIZE=all is ignored, without RANK"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE= is ignored"),
        ({"WORLD_SIZE": "1"}, ""),
        ({}, ""),
    ],
)
def test_a_stray_world_size(
    left: Mapping[str, str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("WORLD_SIZE", *main.STARTED_BY_TORCHRUN):
        monkeypatch.delenv(name, raising=False)
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert not main.started_with_others()
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == bool(words)
    assert os.environ.get("WORLD_SIZE", "1") == "1"


def test_torchruns_world_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", *main.STARTED_BY_TORCHRUN):
        monkeypatch.setenv(name, "2")
    assert main.started_with_others()


def test_all_of_a_message_is_shown_as_one_line() -> None:
    assert own_text(UserError("two  blanks stay,\n  lines do not\n")) == "two  blanks stay, lines do not"
    assert own_text(UserError("no \x1b[31mcolors")) == "no ?[31mcolors"
    wrapped = (
        "Caught TryAgainError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 1\npipeline.errors.TryAgainError: labels/1.png: half\nof it is missing\n'
    )
    assert own_text(TryAgainError(wrapped)) == "labels/1.png: half of it is missing"
