"""Arguments that several commands have."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flows.run import Run

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A preset's name (toy, toy-3-seeds) or a YAML file.")
]
SetOption = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Overrides one key of the config: --set training.iterations=100"),
]


def load(config: str, overrides: list[str]) -> "Run":
    """A use of the config that draws progress bars. UserError for everything that is wrong in it."""
    from flows.run import Run
    from pipeline.config.experiment import load_config
    from pipeline.work.progress import bar

    loaded = load_config(config, overrides)
    for line in loaded.dropped:
        print(f"flexseg: config {config}: {line}", file=sys.stderr)
    return Run(loaded, bar)
