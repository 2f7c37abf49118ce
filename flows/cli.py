"""The command line. Each command loads its config, checks it, and calls the stages; errors of the user are one line.

Imports of what the commands need are inside them, so that `flexseg --help` answers at once.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import interrupts
from flows.errors import OneLineErrors
from pipeline.errors import UserError

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
    """Run the whole experiment: generate, train every method, evaluate, report. Finished stages come from the cache.

    Exit code: 2 if files of the targets had to be skipped; the report lists them.
    """
    from flows.run import Run
    from flows.settings import configure_prefect, start_server
    from flows.stages import check
    from pipeline.config.experiment import load_config

    settings = load_config(config, overrides)
    check(Run(settings))  # the flow checks too, but only after Prefect's server has started
    configure_prefect(settings.machine.store)
    start_server()
    from flows.experiment import experiment
    from flows.summary import print_summary

    if not print_summary(experiment(settings)):
        sys.exit(2)


@app.command()
def plan(
    config: ConfigArgument,
    overrides: SetOption = [],
    write: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Write the list of all images to this new file.")
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Paint one batch to see how long it takes.")] = False,
) -> None:
    """Print what would be generated, how long that takes and what the cache holds, before anything long is started."""
    if write is not None and write.exists():
        raise UserError(f"--write {write} is there already; name a new file")
    from flows import stages
    from flows.summary import print_plan

    run = _load(config, overrides)
    print_plan(run, measure=measure)
    if write is not None:
        write.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(stages.planned(run).folder / "plan.jsonl", write)


@app.command()
def generate(
    config: ConfigArgument,
    overrides: SetOption = [],
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Copy the finished data set to this new folder.")
    ] = None,
    join: Annotated[
        bool,
        typer.Option("--join", help="Help a 'flexseg generate' of this config, here or on a machine with this store."),
    ] = False,
) -> None:
    """Generate the stylized images of a config: a Hugging Face dataset folder (parquet with images and labels)."""
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output} exists and is not an empty folder; name a new folder")
    from flows import stages

    run = _load(config, overrides)
    _ = run.weights_key
    if join:
        stages.join_generation(run)
        return
    stages.class_statistics(run, run.source)
    images = stages.generated(run)
    if output is not None:
        shutil.copytree(images.folder, output, dirs_exist_ok=True)
    print(f"{(output or images.folder).absolute()}")


@app.command()
def export(
    images: Annotated[
        str, typer.Argument(metavar="KEY_OR_FOLDER", help="Generated images: their key in the store, or their folder.")
    ],
    to: Annotated[Path, typer.Option(metavar="DIR", help="A new folder, or one of an interrupted export.")],
    minimum_alignment: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Leave out images whose alignment is lower.", min=0, max=1)
    ] = None,
    store: Annotated[Path, typer.Option(metavar="DIR", help="The store that the key is looked up in.")] = Path("cache"),
) -> None:
    """Write generated images as the folders that DAFormer's, HRDA's and DGInStyle's code train from."""
    from generation.export import export as export_images
    from pipeline.progress import bar
    from pipeline.store import ArtifactStore

    folder = Path(images) if Path(images).is_dir() else ArtifactStore(store).open(images).folder
    count = export_images(folder, to, minimum_alignment, progress=bar)
    print(f"{count} images in {to.absolute()}")


@app.command()
def train(
    config: ConfigArgument,
    method: Annotated[str, typer.Option(help="A method of the config's training.methods, for instance flex-seg.")],
    seed: Annotated[int, typer.Option(help="Seed of weights, crops and order.")] = 0,
    overrides: SetOption = [],
) -> None:
    """Train one segmenter (generating its images first if the method uses them). Prints the model's folder."""
    from flows import stages
    from training.pretrained import check_pretrained

    run = _load(config, overrides)
    uses_images = "generated" in stages.segmenter_recipe(run, method, seed).inputs
    check_pretrained(run.config.training.of(run.config.training.methods[method]).network)
    stages.labels(run)
    images = stages.generated(run) if uses_images else None
    print(stages.segmenter(run, method, seed, images).folder / "segmenter")


@app.command()
def evaluate(
    config: ConfigArgument,
    model: Annotated[
        str,
        typer.Option(
            metavar="FOLDER_OR_KEY",
            help="A trained segmenter's folder or key in the store, or a transformers model's folder or Hub name.",
        ),
    ],
    overrides: SetOption = [],
    baseline: Annotated[
        str | None, typer.Option(metavar="FOLDER_OR_KEY", help="An earlier evaluation to compare with.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(metavar="POINTS", help="Exit 3 if mIoU fell by more, and significantly, anywhere.", min=0),
    ] = None,
) -> None:
    """Score a segmenter on the target data sets of a config: mIoU, per class, boundary and interior error.

    Exit code: 2 if files had to be skipped, 3 if the baseline is significantly better.
    """
    if max_drop is not None and baseline is None:
        raise UserError(
            "--max-drop says how far mIoU may fall: add --baseline, the evaluation that it is compared with"
        )
    from flows import stages
    from flows.comparison import evaluations, regressed
    from flows.models import find_model
    from flows.summary import print_evaluation

    run = _load(config, overrides)
    key, folder = find_model(run, model)
    before = evaluations(baseline, run.store) if baseline is not None else []
    evaluation = stages.evaluation(run, key, folder)
    complete = print_evaluation(evaluation)
    if baseline is not None and regressed(before, evaluation.folder, baseline, max_drop):
        sys.exit(3)
    if not complete:
        sys.exit(2)


@app.command()
def compare(
    baseline: Annotated[
        str,
        typer.Argument(
            metavar="A", help="The key or folder of an evaluation, or of a run with the method: runs/toy:flex-seg"
        ),
    ],
    other: Annotated[str, typer.Argument(metavar="B", help="What is compared with it, named alike.")],
    store: Annotated[Path, typer.Option(metavar="DIR", help="The store that keys are looked up in.")] = Path("cache"),
) -> None:
    """Say whether B is really better than A: difference in mIoU per target with 95% interval and p-value."""
    from evaluation.compare import compare as compare_folders
    from flows.comparison import evaluations, print_comparison
    from pipeline.store import ArtifactStore

    folders = [evaluations(place, ArtifactStore(store)) for place in (baseline, other)]
    print_comparison(compare_folders(*folders), baseline, other)


@app.command()
def convert(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="DAFormer or HRDA in mmseg's naming: .pth or .safetensors.")
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the segmenter.")],
    teacher: Annotated[
        bool, typer.Option("--teacher", help="Take the teacher of a domain adaptation run, not the student.")
    ] = False,
) -> None:
    """Bring a published checkpoint into our layout, for flexseg evaluate --model DIR."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output} exists and is not an empty folder; name a new folder")
    from training.interop import load_mmseg

    load_mmseg(checkpoint, teacher=teacher).save_pretrained(output)
    print(output.absolute())


@weights.command("train")
def weights_train(
    config: ConfigArgument,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the weights go (diffusers layout); one of before is continued.")
    ],
    overrides: SetOption = [],
    ship: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write toy town's half-precision set with its card there too.")
    ] = None,
) -> None:
    """Train a generator's weights by the config's 'weights' section: source U-Net and ControlNet, the prior too if
    it is not a published one. Under torchrun or accelerate launch the processes share the fine-tuning."""
    from flows.weights import train_weights

    train_weights(_load(config, overrides), output, ship=ship)
    print((ship or output).absolute())


@weights.command("measure")
def weights_measure(config: ConfigArgument, overrides: SetOption = []) -> None:
    """Measure a generator on toy town: an oracle segmenter and a weather classifier read its images."""
    from flows.quality import quality
    from flows.summary import print_quality

    print_quality(quality(_load(config, overrides)))


@data.command("check")
def data_check(config: ConfigArgument, overrides: SetOption = []) -> None:
    """Read every file of the config's data sets; print what is there, what is wrong and where to get what is missing.

    Exit code 2 if anything is wrong.
    """
    from flows.summary import print_data

    if not print_data(_load(config, overrides)):
        sys.exit(2)


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


def _load(config: str, overrides: list[str]) -> "Any":
    from flows.run import Run
    from pipeline.config.experiment import load_config
    from pipeline.progress import bar

    return Run(load_config(config, overrides), bar)


if __name__ == "__main__":
    main()
