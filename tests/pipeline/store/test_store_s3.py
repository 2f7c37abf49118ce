"""The store over a real S3 server: eight machines at once, the server and a builder killed meanwhile."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.store.manifest import file_table, read_manifest, verify_artifact
from pipeline.store.remote import Remote
from tests.pipeline.store.shared_work import UNITS
from tests.s3_server import BUCKET, S3Server

pytest.importorskip("localbucket", reason="the S3 server: pip install localbucket")
pytestmark = pytest.mark.slow
URL = f"s3://{BUCKET}/store"
WORK = Path(__file__).with_name("shared_work.py")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    server = S3Server(tmp_path / "server")
    server.start()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.kill()


def lines(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def until(condition: Callable[[], object], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_of_many_that_create_one_object_one_does(server: S3Server) -> None:
    remote = Remote(URL)
    remote.check()
    with ThreadPoolExecutor(16) as pool:
        for key in range(8):
            answers = list(pool.map(lambda k, key=key: remote.create(f"{key}", str(k).encode()), range(16)))
            assert answers.count(True) == 1
            assert remote.read(f"{key}") == str(answers.index(True)).encode()


def test_a_server_that_comes_back_is_waited_for(server: S3Server) -> None:
    remote = Remote(URL)
    remote.write("object", b"kept")
    server.kill()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(remote.read, "object")
        time.sleep(2)
        server.start()
        assert answer.result(60) == b"kept"


@pytest.mark.timeout(900)
def test_eight_machines_build_each_artifact_once_while_things_are_killed(tmp_path: Path, server: S3Server) -> None:
    log, lease = tmp_path / "log", 20.0  # a busy machine is not a dead one
    roots = [tmp_path / f"machine-{k}" for k in range(8)]

    command = [sys.executable, str(WORK), URL, str(lease), str(log), *map(str, roots)]
    machines = subprocess.Popen(command)
    remote = Remote(URL)

    def kept() -> dict[str, object]:
        """The finished parts of the images that the lock names."""
        locks = [path for path in remote.sizes("images") if "/locks/" in path]
        return json.loads(remote.read(locks[-1]) or b'{"parts": {}}')["parts"] if locks else {}

    until(lambda: len(kept()) >= 5)
    safe = {int(name[-2:]) for name in kept()}
    os.kill(next(int(pid) for stage, _, pid in lines(log) if stage == "images"), signal.SIGKILL)
    until(lambda: Counter(line[0] for line in lines(log))["model"] >= 3)
    server.kill()
    time.sleep(4)
    server.start()
    assert machines.wait(240) == 0
    assert subprocess.run(command, timeout=240, check=False).returncode == 0, "the killed machine comes back"

    made = Counter((stage, int(unit)) for stage, unit, _ in lines(log))
    assert set(made) == {("world", 0), ("report", 0)} | {
        (stage, k) for stage in ("images", "model") for k in range(UNITS)
    }
    again = {what for what, times in made.items() if times > 1}
    assert {stage for stage, _ in again} <= {"images"}, "only the killed builder's last parts are made again"
    assert safe.isdisjoint(unit for _, unit in again), "what was sent before it died is kept"
    assert len({pid for stage, _, pid in lines(log) if stage == "images"}) == 2
    assert len({pid for stage, _, pid in lines(log) if stage == "model"}) == 1

    folders = [sorted(path.parent.relative_to(root) for path in root.rglob("manifest.json")) for root in roots]
    assert len(folders[0]) == 4 and folders == [folders[0]] * 8
    for folder in folders[0]:
        tables = [file_table(root / folder) for root in roots]
        assert tables == [tables[0]] * 8
        verify_artifact(roots[0] / folder)
    left = remote.sizes()
    assert not [path for path in left if "/locks/" in path], "no locks are left"
    wanted = sum(len({f.sha256 for f in read_manifest(roots[0] / folder).files.values()}) for folder in folders[0])
    assert len(left) == wanted + 4, "nor older checkpoints"
