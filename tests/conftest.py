"""What all tests share: one torch thread, no network, golden files. Read by pytest before any test module."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

# Before torch is imported: one thread gives the same sums everywhere, and tiny tensors gain nothing from more.
os.environ["OMP_NUM_THREADS"] = "1"
# The hub's clients would otherwise look for newer files before they use the ones on disk.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
# Prefect reads its settings when it is imported, which a test module may do before a command sets them.
os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "300"
os.environ["PREFECT_LOGGING_LEVEL"] = os.environ["PREFECT_SERVER_LOGGING_LEVEL"] = "CRITICAL"
# A shell that runs the tests in the background has them ignore Ctrl-C, and so all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden files: $FLEXSEG_GOLDEN, else the small set in tests/golden."""
    folder = Path(os.environ.get("FLEXSEG_GOLDEN") or ROOT / "tests" / "golden")
    if not folder.is_dir():
        pytest.skip(f"FLEXSEG_GOLDEN is {folder}, which is no folder: name one with golden files, or unset it")
    return folder


@pytest.fixture(scope="module", autouse=True)
def no_network() -> Iterator[None]:
    """Lets TCP connections reach this machine only, also in fixtures that a module's tests share."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and self.type == socket.SOCK_STREAM:
            assert address[0] in {"127.0.0.1", "::1", "localhost"}, f"a test reached for the network: {address}"
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_here)
        yield
