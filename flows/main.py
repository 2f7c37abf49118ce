"""The `flexseg` command: it listens to signals before anything that takes time, then sees to it that it can run where
it is, and hands over to the command line."""

import os
import sys
from pathlib import Path

from flows import interrupts

STARTED_BY_TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def main() -> None:
    """Entry point of the `flexseg` command."""
    interrupts.listen()
    try:
        tolerant_output()
        several = started_with_others()
        from flows.cli import app

        if not several:
            app()
            return
        from training.launch import leading  # started by torchrun or accelerate launch

        with leading() as leads:
            if leads:
                app()
    except KeyboardInterrupt:  # before the command has begun: afterwards `flows.errors` ends it
        interrupts.end()


def tolerant_output() -> None:
    """Lets no character of a name end a run: what the terminal's encoding lacks is written as an escape (\\xe9). A
    closed output is a place where all is forgotten."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # as long as the process
        else:
            stream.reconfigure(errors="backslashreplace")


def started_with_others() -> bool:
    """Whether torchrun or accelerate launch has started this process among others. A WORLD_SIZE that something else has
    left in the environment is taken out of it, or Accelerate would wait for processes that nobody starts."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        return False
    missing = [name for name in STARTED_BY_TORCHRUN if name not in os.environ]
    if size.isdecimal() and not missing:
        return True
    why = f"without {', '.join(missing)}" if missing else "which is no number"
    print(f"flexseg: WORLD_SIZE={size} is ignored, {why}: torchrun did not start this process", file=sys.stderr)
    del os.environ["WORLD_SIZE"]
    return False


if __name__ == "__main__":
    main()
