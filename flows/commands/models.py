"""Checkpoints of others, and the generator's weights."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import ConfigArgument, SetOption, load
from pipeline.files import check_new_folder, check_output, folder_written_whole

StoreOption = Annotated[Path, typer.Option(metavar="DIR", help="The store (machine.store) that re-evaluations use.")]
RemoteOption = Annotated[str | None, typer.Option(metavar="URL", help="Their remote store (machine.remote), if any.")]


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
    check_new_folder(output, "--output")
    from training.interop import load_mmseg

    segmenter = load_mmseg(checkpoint, teacher=teacher)
    with folder_written_whole(output) as unfinished:
        segmenter.save_pretrained(unfinished)
    print(output.absolute())


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
    for folder, option in ((output, "--output"), (ship, "--ship")):
        if folder is not None:
            check_output(folder, option)
    from flows.commands.weights_training import train_weights

    train_weights(load(config, overrides), output, ship=ship)
    print((ship or output).absolute())


def weights_measure(config: ConfigArgument, overrides: SetOption = []) -> None:
    """Measure a generator on toy town: an oracle segmenter and a weather classifier read its images."""
    from flows.commands.summary import print_quality
    from flows.commands.weights_quality import quality

    print_quality(quality(load(config, overrides)))


def models_register(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it in tables and notifications.")],
    model: Annotated[
        str, typer.Option(metavar="FOLDER_OR_KEY", help="As for flexseg evaluate; a folder is read anew each time.")
    ],
    baseline: Annotated[
        str | None,
        typer.Option(metavar="FOLDER_OR_KEY", help="The evaluation that it must not fall below; else its first one."),
    ] = None,
    store: StoreOption = Path("cache"),
    remote: RemoteOption = None,
) -> None:
    """Have a segmenter scored by every flexseg reevaluate. A name that is registered already is replaced."""
    check_output(store, "--store")
    from flows.registered_models import register
    from pipeline.store.artifacts import ArtifactStore

    record = register(ArtifactStore(store, remote=remote), name, model, baseline)
    print(f"{record.name}: {record.model}, baseline {record.baseline or 'will be its first evaluation'}")


def models_list(
    store: StoreOption = Path("cache"),
    remote: RemoteOption = None,
) -> None:
    """Print the registered models and their baselines."""
    from flows.registered_models import registered
    from pipeline.store.artifacts import ArtifactStore

    for record in registered(ArtifactStore(store, remote=remote)):
        print(f"{record.name}: {record.model}, baseline {record.baseline or 'will be its first evaluation'}")
