"""The temporary server: behind no proxy, replaced when it dies, gone with whom it serves, and a full disk is its name.

Its process is a stand-in here that answers as the real one does; the slow tests have the real one.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from flows.server import local_server, temporary_server
from flows.server.local_server import TemporaryServer, reach_loopback
from pipeline.errors import TryAgainError, UserError
from tests.processes import ROOT, alive, start, wait_until

STAND_IN = """
import socket, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
sys.path.insert(0, {root!r})
from flows.server.temporary_server import end_with

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *words):
        pass

threading.Thread(target=end_with, args=(int(sys.argv[2]),), daemon=True).start()
server = HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket = socket.socket(fileno=int(sys.argv[1]))
server.serve_forever()
"""
PARENT = """
import sys, threading, time
from pathlib import Path
from flows.server import temporary_server
from flows.server.local_server import TemporaryServer

def serve():
    server = TemporaryServer(folder / "home")
    server.start()
    server.wait()
    (folder / "pid").write_text(str(server.process.pid))

folder = Path(sys.argv[1])
temporary_server.__file__ = str(folder / "stand_in.py")
thread = threading.Thread(target=serve)
thread.start()
thread.join()
(folder / "thread-ended").touch()
time.sleep(600)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], TemporaryServer]]:
    """A server whose process runs a script."""
    servers = []

    def begin(script: str = STAND_IN) -> TemporaryServer:
        file = tmp_path / "stand_in.py"
        file.write_text(script.replace("{root!r}", repr(str(ROOT))))
        monkeypatch.setattr(temporary_server, "__file__", str(file))
        server = TemporaryServer(tmp_path / "home")
        servers.append(server)
        server.start()
        return server

    yield begin
    for server in servers:
        server.stop()


@pytest.mark.parametrize("before", ["", "127.0.0.1,intern.example"])
def test_a_proxy_stands_before_nothing_of_this_machine(
    stand_in: Callable[..., TemporaryServer], monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """Case 11: the health check went through the proxy, for five minutes."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, before)
    server = stand_in()
    server.wait()
    if not before:
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{server.url}/health")
    reach_loopback()
    reach_loopback()
    assert httpx.get(f"{server.url}/health").status_code == 200  # as Prefect's own client asks
    for name in ("no_proxy", "NO_PROXY"):
        places = os.environ[name].split(",")
        assert sorted(places) == sorted({*before.split(","), "127.0.0.1", "localhost", "::1"} - {""})


def test_a_killed_server_is_replaced_at_the_same_address(
    stand_in: Callable[..., TemporaryServer], capfd: pytest.CaptureFixture[str]
) -> None:
    """Issue 11: killed in mid-run it cost 374 s and the summary. Callers wait until the next one answers."""
    server = stand_in()
    server.wait()
    for _ in range(local_server.MOST_STARTS - 1):
        killed = server.process.pid
        server.process.kill()
        assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200
        assert server.process.pid != killed and not server.lost
    server.process.kill()
    wait_until(lambda: server.lost, 10)
    with pytest.raises(httpx.ConnectError):  # at once, and not after a time limit
        httpx.get(f"{server.url}/health", timeout=60)
    lines = capfd.readouterr().err.splitlines()
    assert [line.endswith("it is started again") for line in lines] == [True] * 3 + [False]


@pytest.mark.parametrize(
    "words", ["sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) database or disk is full", "{enospc}"]
)
def test_a_full_disk_is_said_at_once(stand_in: Callable[..., TemporaryServer], words: str) -> None:
    """F14: 325 s of silence, and then the advice to wait longer."""
    words = words.replace("{enospc}", f"OSError: [Errno 28] {os.strerror(28)}")
    server = stand_in(
        f"import sys; print({words!r}, 'Application startup failed.', sep='\\n', file=sys.stderr); sys.exit(3)"
    )
    before = time.monotonic()
    with pytest.raises(UserError, match=r"^the disk is full \(.*home.*free space") as caught:
        server.wait()
    assert not isinstance(caught.value, TryAgainError) and time.monotonic() - before < 30


def test_another_end_at_the_start_is_said_with_its_last_words(stand_in: Callable[..., TemporaryServer]) -> None:
    server = stand_in("raise SystemExit('no such table: flow_run')")
    with pytest.raises(TryAgainError, match="exit code 1 before it answered: no such table: flow_run; run again"):
        server.wait()


def test_a_store_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="^Prefect cannot write to .*Not a directory"):
        TemporaryServer(tmp_path / "file" / "prefect").start()


def test_a_folder_whose_name_would_be_cut_at_its_question_mark(tmp_path: Path) -> None:
    """Prefect's database would lie beside the store, at the name up to the ?."""
    with pytest.raises(UserError, match=r"what follows a \? for options: set machine.store"):
        TemporaryServer(tmp_path / "store?x" / "prefect").start()
    assert not list(tmp_path.iterdir())


def test_a_server_outlives_the_thread_that_started_it_and_not_its_process(tmp_path: Path) -> None:
    """F05: a SIGKILL of `flexseg run` left its server listening for ever."""
    (tmp_path / "stand_in.py").write_text(STAND_IN.replace("{root!r}", repr(str(ROOT))))
    parent = start(tmp_path / "parent.py", PARENT, str(tmp_path))
    wait_until((tmp_path / "thread-ended").exists)
    server = int((tmp_path / "pid").read_text())
    time.sleep(2 * temporary_server.LOOK_S)
    assert alive(server)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not alive(server), 10)


@pytest.mark.slow
def test_prefects_own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 11, F05 and the server that was killed in mid-run, without the stand-in."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    script = PARENT.replace('temporary_server.__file__ = str(folder / "stand_in.py")\n', "reach_loopback()\n")
    script = script.replace("import TemporaryServer", "import TemporaryServer, reach_loopback")
    script = script.replace(
        '"pid").write_text(str(server.process.pid))', '"pid").write_text(f"{server.process.pid} {server.url}")'
    )
    parent = start(tmp_path / "parent.py", script, str(tmp_path))
    wait_until((tmp_path / "thread-ended").exists, 300)
    process, url = (tmp_path / "pid").read_text().split()
    reach_loopback()
    assert httpx.get(f"{url}/health").json() is True
    os.kill(int(process), signal.SIGKILL)
    assert httpx.get(f"{url}/health", timeout=300).json() is True
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not listening(url), 30)


def listening(url: str) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", urlsplit(url).port)) == 0


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="mounts a small file system")
@pytest.mark.parametrize("left_over", [0, 1 << 16, 4 << 20])
def test_a_disk_that_is_really_full(tmp_path: Path, left_over: int) -> None:
    """F14: whether not even a folder can be made, or Prefect's database finds no room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        (disk / "fill").write_bytes(bytes((12 << 20) - left_over))
        before = time.monotonic()
        with pytest.raises(UserError, match="^the disk is full"):
            TemporaryServer(disk / "store" / "prefect").start()
        assert time.monotonic() - before < 5
    finally:
        subprocess.run(["umount", str(disk)], check=True)
