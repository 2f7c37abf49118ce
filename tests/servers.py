"""Prefect's server on PostgreSQL and a worker, on loopback. `python -m tests.servers FOLDER` runs them until Ctrl-C.

Each is a process group of its own that can be killed and started again; the database stays.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
WAIT_S = 240.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def until(true: Callable[[], object], what: str, seconds: float = WAIT_S) -> None:
    """Looks again and again; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.2)


class Service:
    """A command in a process group of its own, with its output in a file."""

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str]) -> None:
        self.command, self.log, self.environment = command, log, {**os.environ, **environment}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, anew where it was killed."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends all of its processes."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            self.process.wait(60)
            self.process = None


class Database(Service):
    """PostgreSQL in a folder of its own; as root it runs as the user postgres, since it refuses root."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.place = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # short, and every user can reach it
        self.user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        if self.user:
            shutil.chown(self.place, "postgres")
        data = str(self.place / "data")
        options = ["-k", str(self.place), "-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        super().__init__([*self.user, _program("postgres"), "-D", data, *options], folder / "postgres.log", {})
        make = [*self.user, _program("initdb"), "-D", data, "-U", "prefect", "--auth=trust", "-E", "UTF8"]
        subprocess.run(make, check=True, capture_output=True, cwd="/")

    @property
    def url(self) -> str:
        """As SQLAlchemy names it."""
        return f"postgresql+asyncpg://prefect@127.0.0.1:{self.port}/postgres"

    def kill(self, number: signal.Signals = signal.SIGINT) -> None:
        """A fast shutdown: killed, it leaves shared memory behind."""
        super().kill(number)

    def ready(self) -> bool:
        """Whether it takes connections."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class PrefectServer(Service):
    """`prefect server start` on a database."""

    def __init__(self, folder: Path, database: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        settings = {
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
            "PREFECT_SERVER_UI_API_URL": self.url,  # else its pages ask port 4200
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            "DO_NOT_TRACK": "1",
        }
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        super().__init__(command, folder / "server.log", settings)

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class Cluster:
    """Database, server and worker in a folder. `environment` is what reaches the server from elsewhere."""

    def __init__(self, folder: Path) -> None:
        (folder / "home").mkdir(parents=True)
        self.database = Database(folder)
        self.server = PrefectServer(folder, self.database.url)
        self.environment = {
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_API_URL": self.server.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "flexseg", "--type", "process"]
        settings = {**self.environment, "PREFECT_WORKER_QUERY_SECONDS": "2"}
        self.worker = Service(command, folder / "worker.log", settings)

    def start(self) -> None:
        """Starts database and server, and waits until they answer."""
        self.database.start()
        until(self.database.ready, "PostgreSQL")
        self.start_server()

    def start_server(self) -> None:
        """Starts the server, anew where it was killed, and waits until it answers."""
        self.server.start()
        until(self.server.ready, f"the Prefect server, see {self.server.log}")

    def end(self) -> None:
        """Ends all of it, and flows that a worker left behind: each is a session of its own."""
        self.worker.kill()
        mark = f"PREFECT_HOME={self.environment['PREFECT_HOME']}".encode()
        for file in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if mark in file.read_bytes().split(b"\0"):
                    os.kill(int(file.parent.name), signal.SIGKILL)
        self.server.kill()
        self.database.kill()
        shutil.rmtree(self.database.place, ignore_errors=True)


def _program(name: str) -> str:
    """A program of PostgreSQL: Debian keeps them out of PATH."""
    places = (
        [Path(found)] if (found := shutil.which(name)) else sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    )
    assert places, f"{name} is not installed"
    return str(places[-1])


def available() -> bool:
    """Whether PostgreSQL is installed here."""
    return bool(shutil.which("postgres") or list(Path("/usr/lib/postgresql").glob("*/bin/postgres")))


if __name__ == "__main__":
    cluster = Cluster(Path(sys.argv[1]).absolute())
    cluster.start()
    cluster.worker.start()
    print(*(f"export {name}={value}" for name, value in cluster.environment.items()), sep="\n", flush=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        signal.pause()
    except KeyboardInterrupt:
        cluster.end()
