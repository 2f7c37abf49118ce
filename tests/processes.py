"""Scripts that tests run in processes of their own, and end."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]


def alive(process: int) -> bool:
    """Whether the process still runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def group_alive(leader: int) -> bool:
    """Whether any process of the group runs that `leader` began."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


def workers_of(process: int) -> list[int]:
    """The processes that a process has started to make units: on the CPU, its fork server's children."""
    listed = subprocess.run(["ps", "-eww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    forked = [(int(pid), int(parent)) for pid, parent, command in rows if "forkserver" in command]
    servers = {pid for pid, parent in forked if parent == process}
    return [pid for pid, parent in forked if parent in servers]


def start(file: Path, script: str, *arguments: str) -> subprocess.Popen[str]:
    """Run a script in a process group of its own."""
    file.write_text(script)
    environment = {**os.environ, "PYTHONPATH": f"{file.parent}:{ROOT}"}
    command = [sys.executable, str(file), *arguments]
    return subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True)


def wait_until(true: Callable[[], object], seconds: float = 120) -> None:
    """Look again and again; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
