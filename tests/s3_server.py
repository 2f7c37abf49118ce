"""A real S3 server process on loopback that keeps its objects on disk: started, killed and started again by tests.

It is LocalBucket (pip: localbucket): objects are files, PUT with If-None-Match: * is exclusive (link(2)), and what was
acknowledged is there after SIGKILL. It checks no signatures.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

BUCKET = "flexseg"


class S3Server:
    """One server over the folder `data`, at the same port each time it is started."""

    def __init__(self, data: Path) -> None:
        self._data = data
        (data / BUCKET).mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a client finds the server by."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Starts the process and waits until it answers."""
        command = [sys.executable, "-m", "localbucket", str(self._data), "--port", str(self._port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                assert self._process.poll() is None and time.monotonic() < deadline, "the S3 server does not start"
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """SIGKILL, in the middle of whatever it does."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None
