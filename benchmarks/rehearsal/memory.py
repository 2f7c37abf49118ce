"""How much memory and processor time a command and all processes that it starts take, looked at every second."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

EVERY_S = 1.0
TICKS = os.sysconf("SC_CLK_TCK")


class Look(NamedTuple):
    """What a tree of processes had at a moment (seconds since the epoch): bytes of memory, pages that several share
    counted once, and seconds of processor time since it began."""

    moment: float
    memory: int
    processor: float


class Spent(NamedTuple):
    """What was seen between two moments: the most memory in bytes, and seconds of processor time."""

    memory: int
    processor: float


def watched(command: Sequence[str], log: Path) -> int:
    """Runs the command and returns its exit code. Looks are appended to `log`, a JSON list per line."""
    process = subprocess.Popen(command)
    ended = threading.Event()

    def look() -> None:
        with log.open("a", encoding="utf-8") as lines:
            while not ended.wait(EVERY_S):
                lines.write(json.dumps(look_at(process.pid)) + "\n")
                lines.flush()

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        return process.wait()
    except KeyboardInterrupt:  # the command has it too, and says what it kept
        process.wait()
        raise
    finally:
        ended.set()
        watcher.join()


def look_at(root: int) -> Look:
    """A look at a process and all below it."""
    memory, ticks = 0, 0
    for pid in tree(root):
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
            fields = _stat(pid)
        except OSError:  # it has just ended
            continue
        memory += 1024 * next((int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0)
        ticks += sum(map(int, fields[11:15]))  # its own time and that of its children that have ended
    return Look(time.time(), memory, ticks / TICKS)


def tree(root: int) -> Iterator[int]:
    """The process and all below it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            children.setdefault(int(_stat(int(folder.name))[1]), []).append(int(folder.name))
        except OSError:
            continue
    left = [root]
    while left:
        pid = left.pop()
        yield pid
        left += children.get(pid, [])


def read_looks(log: Path) -> list[Look]:
    """What `watched` has appended; a line that was cut off is left out."""
    looks = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        try:
            looks.append(Look(*json.loads(line)))
        except (ValueError, TypeError):
            continue
    return looks


def spent(looks: Sequence[Look], since: datetime, until: datetime) -> Spent | None:
    """What was seen between two moments; None where nobody looked."""
    inside = [look for look in looks if since.timestamp() <= look.moment <= until.timestamp() + EVERY_S]
    if not inside:
        return None
    # of a run that was killed and continued, time starts again at 0; what ran last before a look is not lost
    steps = (after.processor - before.processor for before, after in pairwise(inside))
    return Spent(max(look.memory for look in inside), sum(step for step in steps if step > 0))


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on: behind the name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
