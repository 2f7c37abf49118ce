"""Prefect for a run without a Prefect server of its own: its settings, and a temporary server."""

import os
import signal
from pathlib import Path

from pipeline.errors import UserError

HEARTBEAT_S = "30"
"""How often a flow says that it lives; Prefect allows no shorter time."""


def configure_prefect(store: Path) -> None:
    """Sets what the user has not set in the environment. Must be called before prefect is imported.

    Prefect's temporary server needs up to 50 s on two cores, minutes on busy ones, where Prefect waits 20 s. Its log
    level is raised because every failure leaves the flow as the exception itself, which Prefect would print twice more
    over the progress bars.
    """
    home = store.absolute() / "prefect"
    if "PREFECT_HOME" not in os.environ:
        home.mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder only
    defaults = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": HEARTBEAT_S,
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def server_named() -> bool:
    """Whether the environment names a Prefect server, on which people may look for every run."""
    return bool(os.environ.get("PREFECT_API_URL"))


def start_server() -> None:
    """Starts Prefect's temporary server where no server is configured, deaf to Ctrl-C.

    A terminal sends Ctrl-C to every process. Without its server an interrupted flow would try for minutes to report to
    it. The signal stays blocked in the process that is started now; here it is delivered once the server runs.
    UserError where it does not start in time.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is not None:
        reachable_server()
        return
    server = SubprocessASGIServer()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        server.start()
    except RuntimeError as error:
        server.stop()
        raise UserError(
            f"Prefect's temporary server did not start ({' '.join(str(error).split())}): run again, give it longer by"
            " PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, or name a server in PREFECT_API_URL"
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def reachable_server() -> str:
    """The address of the Prefect server that is configured. UserError if none is, or none answers there."""
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if url is None:
        raise UserError(
            "no Prefect server is named: start one (prefect server start) and set PREFECT_API_URL to its address"
        )
    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    if error is not None:
        raise UserError(
            f"no Prefect server answers at {url} ({error}): start it, or set PREFECT_API_URL to another one"
        )
    return str(url)
