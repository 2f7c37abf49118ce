"""The command line. Each command loads its config, checks it, and calls the stages; errors of the user are one line.

Imports of what the commands need are inside them, so that `flexseg --help` answers at once.
"""

import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from flows import interrupts
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
        except KeyboardInterrupt:
            print(
                "flexseg: interrupted; what was finished is kept, the same command continues from there",
                file=sys.stderr,
            )
            sys.exit(130)


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From label maps to robust street-scene segmentation: generate stylized images (DGInStyle), train segmenters"
    " (FLEX-Seg), evaluate them on domains that they have never seen. Start with: flexseg run toy",
)
weights = typer.Typer(no_args_is_help=True, help="Train and measure the generator's weights.")
data = typer.Typer(no_args_is_help=True, help="Look at the data sets that a config names.")
app.add_typer(weights, name="weights")
app.add_typer(data, name="data")

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A preset's name (toy, toy-3-seeds) or a YAML file.")
]
SetOption = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Overrides one key of the config: --set training.iterations=100"),
]


@app.command()
def run(config: ConfigArgument, overrides: SetOption = []) -> None:
    """Run the whole experiment: generate, train every method, evaluate, report. Finished stages come from the cache."""
    from flows.run import Run
    from flows.settings import configure_prefect
    from flows.stages import check
    from pipeline.config.experiment import load_config

    settings = load_config(config, overrides)
    check(Run(settings))  # the flow checks too, but only after Prefect's server has started
    configure_prefect(settings.machine.store)
    from flows.experiment import experiment
    from flows.summary import print_summary

    print_summary(experiment(settings))


@app.command()
def plan(config: ConfigArgument, overrides: SetOption = []) -> None:
    """Print what would be generated and what the cache holds already, before anything long is started."""
    from flows.summary import print_plan

    print_plan(_load(config, overrides))


@app.command()
def generate(
    config: ConfigArgument,
    overrides: SetOption = [],
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Copy the finished data set to this new folder.")
    ] = None,
) -> None:
    """Generate the stylized images of a config: a Hugging Face dataset folder (parquet with images and labels)."""
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output} exists and is not an empty folder; name a new folder")
    from flows import stages

    run = _load(config, overrides)
    _ = run.weights_key
    stages.class_statistics(run, run.source)
    images = stages.generated(run)
    if output is not None:
        shutil.copytree(images.folder, output, dirs_exist_ok=True)
    print(f"{(output or images.folder).absolute()}")


@app.command()
def train(
    config: ConfigArgument,
    method: Annotated[str, typer.Option(help="A method of the config's training.methods, for instance flex-seg.")],
    seed: Annotated[int, typer.Option(help="Seed of weights, crops and order.")] = 0,
    overrides: SetOption = [],
) -> None:
    """Train one segmenter (generating its images first if the method uses them). Prints the model's folder."""
    from flows import stages

    run = _load(config, overrides)
    uses_images = "generated" in stages.segmenter_recipe(run, method, seed).inputs
    stages.check_images(run.source)
    stages.class_statistics(run, run.source)
    images = stages.generated(run) if uses_images else None
    print(stages.segmenter(run, method, seed, images).folder / "segmenter")


@app.command()
def evaluate(
    config: ConfigArgument,
    model: Annotated[
        str, typer.Option(metavar="FOLDER_OR_KEY", help="A trained segmenter's folder, or its key in the store.")
    ],
    overrides: SetOption = [],
) -> None:
    """Score a segmenter on the target data sets of a config: mIoU, per class, boundary and interior error."""
    from flows import stages
    from flows.summary import print_evaluation

    run = _load(config, overrides)
    key, folder = stages.find_model(run, model)
    if not print_evaluation(stages.evaluation(run, key, folder)):
        sys.exit(2)


@weights.command("train")
def weights_train(
    config: ConfigArgument,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where the weights go (diffusers layout).")],
    overrides: SetOption = [],
    ship: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the half-precision set with its model card there too.")
    ] = None,
) -> None:
    """Train a generator's weights (VAE, prior, source U-Net, ControlNet) by the config's 'weights' section."""
    from pipeline.config.experiment import load_config

    settings = load_config(config, overrides)
    if settings.weights is None:
        raise UserError(f"config {config} has no 'weights' section; the preset toy-weights has one")
    from generation.weights.ship import ship_weights
    from generation.weights.train import train_weights
    from pipeline.progress import bar

    train_weights(settings.weights, output, progress=bar)
    if ship is not None:
        ship_weights(settings.weights, output, ship)
    print((ship or output).absolute())


@weights.command("measure")
def weights_measure(config: ConfigArgument, overrides: SetOption = []) -> None:
    """Measure a generator on toy town: an oracle segmenter and a weather classifier read its images."""
    from flows.quality import quality
    from flows.summary import print_quality

    print_quality(quality(_load(config, overrides)))


@data.command("check")
def data_check(config: ConfigArgument, overrides: SetOption = []) -> None:
    """Read every file of the config's data sets and print what was found, or the first thing that is wrong."""
    from flows.summary import print_data

    print_data(_load(config, overrides))


def main() -> None:
    """Entry point of the `flexseg` command."""
    interrupts.listen()
    app()


def _load(config: str, overrides: list[str]) -> "Any":
    from flows.run import Run
    from pipeline.config.experiment import load_config
    from pipeline.progress import bar

    return Run(load_config(config, overrides), bar)


def _last_line(error: Exception) -> str:
    """The message itself: torch's data loader hands errors of its workers on with their traceback above them."""
    return str(error).strip().splitlines()[-1].removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")


if __name__ == "__main__":
    main()
