"""An interrupt that arrives where Python drops exceptions still ends the run."""

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import signal, time
from prefect.exceptions import TerminationSignal
from flows import interrupts

interrupts.listen()
if {prefect}:
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
