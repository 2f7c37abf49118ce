"""Pictures and videos of one's own, read by a trained segmenter."""

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, NamedTuple, cast

import typer

from flows.commands.options import SetOption
from pipeline.config.evaluation import EvaluationConfig
from pipeline.errors import UserError

if TYPE_CHECKING:  # torch and NumPy take seconds to import
    from evaluation.inference import Predict
    from evaluation.predictions import Ids, PictureFiles, Unread
    from evaluation.videos import Video

DOMAIN = "pictures"
"""What the pictures are called in an evaluation's config, whose sizes go by domain."""
IDS = ("train", "cityscapes", "color")
DEVICES = ("auto", "cpu", "cuda")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class Inputs(NamedTuple):
    """Everything that is to be read: pictures by their names, videos by theirs."""

    pictures: dict[str, Path]
    videos: dict[str, "Video"]

    @property
    def total(self) -> int:
        """Pictures and frames, as far as headers tell."""
        return len(self.pictures) + sum(video.length for video in self.videos.values())

    def unread(self) -> Iterator["Unread"]:
        """All pictures, then all frames."""
        from evaluation.predictions import Unread
        from evaluation.videos import frames
        from pipeline.data.image_files import read_image

        for name, path in self.pictures.items():
            yield Unread(name, partial(read_image, path))
        yield from itertools.chain.from_iterable(frames(video, name) for name, video in self.videos.items())


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A segmenter: its key or folder, RUN:METHOD (runs/toy:flex-seg), or a Hub name."
    ),
]
InputsArgument = Annotated[
    list[Path], typer.Argument(metavar="INPUT...", help="Folders of photographs, single photographs, videos.")
]
OutputOption = Annotated[
    Path, typer.Option(metavar="DIR", help="A new folder for the predictions, or one of an interrupted call.")
]
ConfigOption = Annotated[
    str | None, typer.Option(metavar="CONFIG", help="Predict as the 'evaluation' section of this config says.")
]
SizeOption = Annotated[
    tuple[int, int] | None,
    typer.Option(metavar="HEIGHT WIDTH", help="px in which the network's input fits, its ratio kept."),
]
IdsOption = Annotated[str, typer.Option(metavar="train|cityscapes|color", help="What the label maps' values are.")]
DeviceOption = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="auto: all GPUs, else the CPU.")]


def predict(
    model: ModelArgument,
    inputs: InputsArgument,
    *,
    output: OutputOption,
    config: ConfigOption = None,
    overrides: SetOption = [],
    size: SizeOption = None,
    ids: IdsOption = "train",
    overlays: Annotated[bool, typer.Option(help="Also write pictures under the classes' colors.")] = True,
    confidence: Annotated[bool, typer.Option("--confidence", help="Also write how sure it is, 0 to 255.")] = False,
    device: DeviceOption = "auto",
    batch: Annotated[int, typer.Option(help="Pictures or windows that a device sees at once.", min=1)] = 4,
    store: Annotated[Path, typer.Option(metavar="DIR", help="The store that a key is looked up in.")] = Path("cache"),
) -> None:
    """Read photographs and videos with a trained segmenter: label maps, overlays, a contact sheet, overlaid videos.

    Sizes are kept; photographs are turned upright as their EXIF orientation says. Exit code 2 if files were skipped.
    """
    # All that can be wrong with the arguments comes before the seconds that torch takes to load.
    for option, value, known in (("--ids", ids, IDS), ("--device", device, DEVICES)):
        if value not in known:
            raise UserError(f"{option} {value}: wanted one of {', '.join(known)}")
    section = _section(config, overrides, size)
    found = find_inputs(inputs, output)
    from flows.segmenters import find_model, load_predict
    from pipeline.store.artifacts import ArtifactStore

    fingerprint, folder = find_model(ArtifactStore(store), model, "MODEL")
    from evaluation.predictions import PictureFiles, open_output

    wanted = PictureFiles(cast("Ids", ids), overlays, confidence)
    how = section.model_dump(mode="json", include={"scale", "size", "window", "stride", "flip", "scales"})
    open_output(output, {"model": fingerprint, **how, **wanted._asdict()})
    devices = devices_of(device)
    predicts = [load_predict(folder, section, device, batch) for device in devices]
    if _predicted(found, output, section, wanted, predicts, 1 if devices == ["cpu"] else batch):
        sys.exit(2)


def _section(config: str | None, overrides: list[str], size: tuple[int, int] | None) -> EvaluationConfig:
    """How to predict: as a config evaluates, or as the defaults do, at the size that the user stated."""
    from pipeline.config.experiment import load_config

    if overrides and config is None:
        raise UserError("--set overrides a key of a config: add --config CONFIG, whose 'evaluation' section is used")
    if size is not None and min(size) < 1:
        raise UserError(f"--size {size[0]} {size[1]}: wanted a height and a width of at least 1 px")
    section = load_config(config, overrides).evaluation if config is not None else EvaluationConfig()
    return section.model_copy(update={"size": {DOMAIN: size}})


def find_inputs(inputs: Sequence[Path], output: Path) -> Inputs:
    """What the given paths mean. A picture's name is its path below the folder that was given, without its ending.

    UserError where a path is not there, holds no picture, or two pictures would have one name.
    """
    from evaluation.videos import ENDINGS as VIDEO_ENDINGS
    from evaluation.videos import open_video
    from pipeline.data.trees import check_name, files_below

    pictures: dict[str, Path] = {}
    videos: dict[str, Video] = {}
    taken: dict[str, Path] = {}
    for given in inputs:
        if not given.exists():
            raise UserError(f"{given} is not there: name a folder of photographs, a photograph or a video")
        root = given if given.is_dir() else given.parent
        names = list(files_below(given)) if given.is_dir() else [given.name]
        if given.is_dir() and output.absolute().is_relative_to(given.absolute()):
            raise UserError(f"--output {output} lies in the folder {given} that is read: name one elsewhere")
        wanted = (*PICTURE_ENDINGS, *VIDEO_ENDINGS)
        chosen = [name for name in names if not given.is_dir() or name.lower().endswith(wanted)]
        if not chosen:
            raise UserError(f"{given} holds no file that ends in {', '.join(wanted)}")
        for file in chosen:
            check_name(root, file)
            name, path = str(PurePosixPath(file).with_suffix("")), root / file
            if name in taken:
                raise UserError(f"{taken[name]} and {path} would both be written as {name}: rename one of them")
            taken[name] = path
            if path.suffix.lower() in VIDEO_ENDINGS:
                videos[name] = open_video(path)
            else:
                pictures[name] = path
    return Inputs(pictures, videos)


def devices_of(device: str) -> list[str]:
    """`cpu`, or every GPU that torch sees."""
    import torch

    count = 0 if device == "cpu" else torch.cuda.device_count()
    if device == "cuda" and not count:
        raise UserError("--device cuda: torch sees no GPU here; leave the option out")
    return [f"cuda:{index}" for index in range(count)] or ["cpu"]


def _predicted(
    found: Inputs,
    output: Path,
    config: EvaluationConfig,
    wanted: "PictureFiles",
    predicts: "Sequence[Predict]",
    batch: int,
) -> bool:
    """Predicts, joins videos, draws the sheet, and tells; whether something had to be skipped."""
    from evaluation.inference import input_size
    from evaluation.predictions import write_predictions, write_sheet
    from evaluation.videos import write_overlay_video
    from pipeline.work.progress import bar, duration

    start = time.monotonic()
    written = write_predictions(
        found.unread(),
        output,
        predicts,
        lambda size: input_size(config, DOMAIN, size),
        wanted,
        bar,
        total=found.total,
        batch_size=batch,
    )
    seconds = time.monotonic() - start
    if wanted.overlays:
        for name, video in found.videos.items():
            print(write_overlay_video(video, output, name).absolute())
        if sheet := write_sheet(output, list(found.pictures)):
            print(sheet.absolute())
    for name, reason in written.skipped.items():
        print(f"flexseg: skipped {name}: {reason}", file=sys.stderr)
    if written.predicted:
        rate = f"{written.predicted / seconds:.1f} pictures/s"
        print(f"{written.predicted} pictures in {duration(seconds)}, {rate}", file=sys.stderr)
    print(output.absolute())
    return bool(written.skipped)
