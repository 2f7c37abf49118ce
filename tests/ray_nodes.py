"""Real Ray nodes on this machine, each of which can be killed as if its machine were lost."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
START_S = 120
OBJECTS = 100_000_000
"""Bytes of shared memory of a node; Ray takes no less than 75 MiB."""


class Node:
    """`ray start --block` with all the processes below it. The head is started without an address."""

    def __init__(self, cpus: int, address: str | None = None, gpus: int = 0) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # a short path: Unix sockets lie in it
        self.address = address or f"127.0.0.1:{_free_port()}"
        if address is None:
            port = self.address.rpartition(":")[2]
            place = ["--head", f"--port={port}", f"--temp-dir={self.folder}", "--include-dashboard=false"]
        else:
            place = [f"--address={address}"]
        size = [f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--object-store-memory={OBJECTS}"]
        common = ["--node-ip-address=127.0.0.1", "--disable-usage-stats", "--block"]
        command = [str(Path(sys.executable).with_name("ray")), "start", *place, *size, *common]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # for the modules of tests
        environment["RAY_raylet_start_wait_time_s"] = str(START_S)
        environment.pop("RAY_ADDRESS", None)
        self.log = self.folder / "start.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_S
        while "Ray runtime started" not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def workers(self, name: str) -> list[int]:
        """Ids of its processes that work at what Ray calls `name`, as in Maker.make."""
        return [number for number in descendants(self.process.pid) if f"ray::{name}" in _command(number)]

    def kill(self) -> None:
        """SIGKILL to every process of the node."""
        for number in [self.process.pid, *descendants(self.process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.wait()


@contextmanager
def cluster(cpus: int = 1, gpus: int = 0) -> Iterator[tuple[Node, Node]]:
    """A head and a second node of `cpus` and `gpus` logical ones each; RAY_ADDRESS names them within."""
    nodes: list[Node] = []
    before = os.environ.get("RAY_ADDRESS")
    try:
        nodes.append(Node(cpus, gpus=gpus))
        nodes.append(Node(cpus, nodes[0].address, gpus))
        os.environ["RAY_ADDRESS"] = nodes[0].address
        yield nodes[0], nodes[1]
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        if before is not None:
            os.environ["RAY_ADDRESS"] = before
        for node in reversed(nodes):
            node.kill()
            shutil.rmtree(node.folder, ignore_errors=True)


def descendants(parent: int) -> list[int]:
    """Ids of all processes below `parent`."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    children: dict[int, list[int]] = {}
    for line in table.splitlines():
        number, above = map(int, line.split())
        children.setdefault(above, []).append(number)
    found, left = [], [parent]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def _command(number: int) -> str:
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
