"""An interrupt that arrives where Python or a library drops exceptions still ends the run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flows import interrupts as handlers
from flows.errors import OneLineErrors
from pipeline.errors import UserError
from pipeline.work import interrupts
from tests.processes import ROOT

LINE = "flexseg: interrupted; what was finished is kept, the same command continues from there\n"

SCRIPT = """
import signal, time
from flows import interrupts

interrupts.listen()
if {prefect}:
    from prefect.exceptions import TerminationSignal  # takes seconds
    def handler(number, frame):
        raise TerminationSignal(signal=number)
    signal.signal(signal.SIGTERM, handler)

class Dropping:
    def __del__(self):
        signal.raise_signal({number})
        for _ in range(1000):
            pass

try:
    Dropping()
    time.sleep(20)
except BaseException as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("number", "prefect", "wanted"),
    [
        (signal.SIGINT, False, "KeyboardInterrupt"),
        (signal.SIGTERM, False, "KeyboardInterrupt"),
        (signal.SIGTERM, True, "TerminationSignal"),
    ],
)
def test_an_interrupt_in_a_finalizer_is_not_lost(number: int, prefect: bool, wanted: str) -> None:
    script = SCRIPT.format(number=int(number), prefect=prefect)
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == wanted, done.stderr


@pytest.fixture
def handled() -> Iterator[None]:
    """Signals as the command handles them, for this test."""
    before = {number: signal.getsignal(number) for number in handlers.SIGNALS}
    hook = sys.unraisablehook
    handlers.listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    sys.unraisablehook = hook
    interrupts.start_anew()


def swallow(number: int) -> None:
    """As a library does that takes every exception for one of its own."""
    try:
        os.kill(os.getpid(), number)
        time.sleep(5)
    except:  # noqa: E722  # what this is about
        pass


@pytest.mark.usefixtures("handled")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", ["success", "a wrong UserError", "another exit code"])
def test_what_a_library_swallowed_ends_the_command_as_an_interrupt(number: signal.Signals, after: str) -> None:
    """F18: a training went on to its end with exit code 0; an evaluation said "holds no segmenter"."""
    app = typer.Typer(cls=OneLineErrors)

    @app.command()
    def command() -> None:
        swallow(number)
        if after == "a wrong UserError":
            raise UserError("models/x holds no segmenter of flexseg")
        if after == "another exit code":
            sys.exit(2)

    app.command()(lambda: None)
    result = CliRunner().invoke(app, ["command"])
    assert (result.exit_code, result.stderr) == (130, LINE)


@pytest.mark.usefixtures("handled")
def test_prefects_handler_stays_and_the_signal_is_noted() -> None:
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    handlers.listen_within_flow()
    handlers.listen_within_flow()
    os.kill(os.getpid(), signal.SIGTERM)
    assert seen == [signal.SIGTERM]
    with pytest.raises(KeyboardInterrupt):
        interrupts.raise_if_came()


@pytest.mark.usefixtures("handled")
def test_a_signal_that_the_shell_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    handlers.listen()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_an_interrupt_while_the_command_still_imports(tmp_path: Path) -> None:
    """F18: within 0.15 s of the start it came with a traceback."""
    (tmp_path / "typer.py").write_text("import os, time\nos.kill(os.getpid(), 2)\ntime.sleep(5)\n")
    command = [sys.executable, "-c", "from flows.main import main; main()", "plan", "toy"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (130, LINE)
