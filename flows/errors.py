"""How the command line ends when a command fails."""

import sys
from typing import Any

from typer.core import TyperGroup

from pipeline.errors import UserError


class OneLineErrors(TyperGroup):
    """Turns a UserError into one line and exit code 2, Ctrl-C and SIGTERM into one line and exit code 130."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            print(f"flexseg: {_last_line(error)}", file=sys.stderr)
            sys.exit(2)
        except (KeyboardInterrupt, Exception) as error:
            if not _interrupted(error):
                raise
            print(
                "flexseg: interrupted; what was finished is kept, the same command continues from there",
                file=sys.stderr,
            )
            sys.exit(130)


def _interrupted(error: BaseException | None) -> bool:
    """Whether an interrupt is at the bottom of it: a terminal's Ctrl-C ends Prefect's server too, and Prefect's last
    words to it then fail with an error of their own."""
    while error is not None:
        if not isinstance(error, (Exception, SystemExit, GeneratorExit)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _last_line(error: Exception) -> str:
    """The message itself: torch's data loader hands errors of its workers on with their traceback above them."""
    return str(error).strip().splitlines()[-1].removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")
