"""What tests of the store ask of an error and of `flexseg cache`."""

from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from flows.cli import app
from pipeline.errors import UserError


def one_line(act: Callable[[], object]) -> str:
    """The message of the UserError that `act` raises, which fits on a line."""
    with pytest.raises(UserError) as error:
        act()
    assert str(error.value).isprintable() and len(str(error.value)) < 1000
    return str(error.value)


def cache(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `flexseg cache`, which ends without a traceback."""
    result = CliRunner().invoke(app, ["cache", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr
