"""Prefect's settings for a run without a Prefect server of its own. Must be called before prefect is imported."""

import os
from pathlib import Path


def configure_prefect(store: Path) -> None:
    """Sets what the user has not set in the environment.

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
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
