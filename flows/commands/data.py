"""The data sets that a config names."""

import sys

from flows.commands.options import ConfigArgument, SetOption, load


def data_check(config: ConfigArgument, overrides: SetOption = []) -> None:
    """Read every file of the config's data sets; print what is there, what is wrong and where to get what is missing.

    Exit code 2 if anything is wrong.
    """
    from flows.commands.summary import print_data

    if not print_data(load(config, overrides)):
        sys.exit(2)
