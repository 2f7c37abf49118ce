"""The command line: its commands, and how it starts and ends."""

import os

import typer

from flows import interrupts
from flows.commands import data, experiments, images, models
from flows.errors import OneLineErrors

app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From label maps to robust street-scene segmentation: generate stylized images (DGInStyle), train segmenters"
    " (FLEX-Seg), evaluate them on domains that they have never seen. Start with: flexseg run toy",
)
for command in (
    experiments.run,
    experiments.plan,
    images.generate,
    images.export,
    experiments.train,
    experiments.evaluate,
    experiments.compare,
    models.convert,
):
    app.command()(command)

weights = typer.Typer(no_args_is_help=True, help="Train and measure the generator's weights.")
weights.command("train")(models.weights_train)
weights.command("measure")(models.weights_measure)
app.add_typer(weights, name="weights")

data_sets = typer.Typer(no_args_is_help=True, help="Look at the data sets that a config names.")
data_sets.command("check")(data.data_check)
app.add_typer(data_sets, name="data")


def main() -> None:
    """Entry point of the `flexseg` command."""
    interrupts.listen()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        app()
        return
    from training.launch import leading  # started by torchrun or accelerate launch

    with leading() as leads:
        if leads:
            app()


if __name__ == "__main__":
    main()
