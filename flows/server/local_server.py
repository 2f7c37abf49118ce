"""Prefect for a run without a Prefect server of its own: its settings, and a temporary server that is watched."""

import atexit
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flows.server import temporary_server
from pipeline.errors import TryAgainError, UserError, one_line
from pipeline.store.building import disk_full

HEARTBEAT_S = "30"
"""How often a flow says that it lives; Prefect allows no shorter time."""
START_S = "300"
"""A temporary server needs up to 50 s on two cores, minutes on busy ones."""
MOST_STARTS = 4
DATABASE_BYTES = 8 << 20
"""Prefect's database and its journal took 6.5 MB after a few runs."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
URL = "PREFECT_API_URL"
PATIENCE = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"

_servers: "list[TemporaryServer]" = []


def configure_prefect(store: Path) -> Path:
    """Sets what the user has not set in the environment, before prefect is imported; the folder that Prefect writes to.

    Its log level is raised because every failure leaves the flow as the exception itself, which Prefect would print
    twice more over the progress bars.
    """
    defaults = {
        "PREFECT_HOME": str(store.absolute() / "prefect"),
        PATIENCE: START_S,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": HEARTBEAT_S,
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    home = Path(os.environ["PREFECT_HOME"]).expanduser()
    # Prefect makes no folders above its own and warns when it is imported. Whether the place can be written to is said
    # in one line when the server starts.
    with suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
    return home


def reach_loopback() -> None:
    """Lets no proxy of the environment stand between this machine and itself."""
    for name in ("NO_PROXY", "no_proxy"):
        spared = [place for place in os.environ.get(name, "").split(",") if place]
        os.environ[name] = ",".join([*spared, *(place for place in LOOPBACK if place not in spared)])


def server_named() -> bool:
    """Whether the environment names a Prefect server, on which people may look for every run."""
    return bool(os.environ.get(URL))


@contextmanager
def prefect_server(store: Path) -> Iterator[None]:
    """Within it flows find a Prefect server: the one that is named, or a temporary one that ends with this process.

    UserError where the one that is named does not answer, or the disk of the temporary one is full; TryAgainError
    where that does not start.
    """
    home = configure_prefect(store)
    reach_loopback()
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is not None:  # by the environment, a profile or a file of settings
        reachable_server()
        yield
        return
    server = _started(home)
    os.environ[URL] = server.url
    refresh_global_settings_context()  # where Prefect's threads look
    try:
        import prefect.flows  # noqa: F401  # it takes seconds, in which the server starts

        server.wait()
        yield
    finally:
        del os.environ[URL]
        refresh_global_settings_context()


def _started(home: Path) -> "TemporaryServer":
    """One temporary server for all flows of this process."""
    if not _servers:
        server = TemporaryServer(home)
        server.start()
        atexit.register(server.stop)
        _servers.append(server)
    return _servers[0]


def server_lost() -> bool:
    """Whether the temporary server has ended so often that it was given up."""
    return any(server.lost for server in _servers)


class TemporaryServer:
    """Prefect's API on a port of the loopback that this process holds, answered by a process that is replaced when it
    ends: callers then wait a little longer, and the flow's states are in the database.

    That process is in a group of its own, out of Ctrl-C's reach: without its server an interrupted flow would try for
    minutes to report to it.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.lost = False
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/api"
        self._words: deque[str] = deque(maxlen=100)
        self._ready = False
        self._stopping = False

    def start(self) -> None:
        """Starts the process; `wait` tells whether it answers."""
        if "?" in str(self.home):
            raise UserError(
                f"Prefect cannot keep its database in {self.home}, as it takes what follows a ? for options: set"
                " machine.store, or PREFECT_HOME, to a folder without it"
            )
        try:
            self.home.mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder only
            with tempfile.TemporaryFile(dir=self.home) as probe:
                probe.write(bytes(DATABASE_BYTES))
                probe.flush()
        except OSError as error:
            if disk_full(error):
                raise self._disk_full() from error
            raise UserError(
                f"Prefect cannot write to {self.home} ({error.strerror}): set machine.store, or PREFECT_HOME, to a"
                " folder that you may write to"
            ) from error
        self._begin()
        threading.Thread(target=self._watch, daemon=True).start()

    def wait(self) -> None:
        """Returns when it answers. UserError if the disk is full, TryAgainError if it ends, or needs too long."""
        deadline = time.monotonic() + float(os.environ.get(PATIENCE, START_S))
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while not self._ready:
            try:
                with direct.open(f"{self.url}/health", timeout=2) as answer:
                    self._ready = answer.status == 200
            except OSError as error:
                code = self.process.poll()
                if code is not None:
                    time.sleep(0.2)  # its last words are on their way
                    words = " ".join(self._words)
                    if "disk is full" in words or disk_full(OSError(words)):
                        raise self._disk_full() from None
                    last = f": {self._words[-1]}" if self._words else ""
                    raise TryAgainError(
                        f"Prefect's temporary server ended with exit code {code} before it answered{last}; run again,"
                        f" or name a server in {URL}"
                    ) from None
                if time.monotonic() > deadline:
                    raise TryAgainError(
                        f"Prefect's temporary server did not start in time ({one_line(error)}): run again, give it"
                        f" longer by {PATIENCE}, or name a server in {URL}"
                    ) from None

    def stop(self) -> None:
        """Ends it."""
        self._stopping = True
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._socket.close()

    def _begin(self) -> None:
        descriptor = self._socket.fileno()
        environment = {name: value for name, value in os.environ.items() if name != URL}
        self.process = subprocess.Popen(
            [sys.executable, "-P", temporary_server.__file__, str(descriptor), str(os.getpid())],
            pass_fds=[descriptor],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
        )

    def _watch(self) -> None:
        """Starts it again where it ends before its time; gives up in the end, and where it has never answered."""
        for start in range(1, MOST_STARTS + 1):
            assert self.process.stderr is not None
            for line in self.process.stderr:
                self._words.append(line.strip())
            code = self.process.wait()
            if self._stopping or not self._ready:
                return
            end = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            if start < MOST_STARTS:
                print(f"flexseg: Prefect's temporary server was {end}; it is started again", file=sys.stderr)
                self._begin()
            else:
                self.lost = True
                self._socket.close()  # so that nobody waits for an answer
                print(f"flexseg: Prefect's temporary server was {end}, {start} times by now", file=sys.stderr)

    def _disk_full(self) -> UserError:
        return UserError(
            f"the disk is full ({self.home}, where Prefect keeps its notes): free space (flexseg cache prune) or set"
            " machine.store; what was finished is kept, the same command continues"
        )


def reachable_server() -> str:
    """The address of the Prefect server that is configured. UserError if none is, or none answers there."""
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    reach_loopback()
    url = get_current_settings().api.url
    if url is None:
        raise UserError(
            "no Prefect server is named: start one (prefect server start) and set PREFECT_API_URL to its address"
        )
    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    if error is not None:
        raise UserError(
            f"no Prefect server answers at {url} ({one_line(error)}): start it, or set PREFECT_API_URL to another one"
        )
    return str(url)
