"""How good the shipped generator is: read by an oracle segmenter and by a weather classifier, beside true renders.

Every generated image has a twin that the renderer of toy town draws on the same label map, in the prompted weather
and a look of the prior's world: what a perfect generator would have painted. Both are read by the same networks,
which were trained on renders only.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pyarrow.parquet import read_table

from evaluation.metrics import Scores
from evaluation.schema import Record, Score, Share
from flows import stages
from flows.recipes import SEGMENTER, segmenter_settings
from flows.run import Run
from generation.weather import read_weather, train_weather_network
from pipeline.config.data import Dataset
from pipeline.config.toytown import ToyTown
from pipeline.config.training import Method
from pipeline.data.datasets import find_scenes
from pipeline.data.generated_rows import data_files, decode_pair, row_name
from pipeline.data.labels import CLASS_NAMES
from pipeline.data.pictures import png
from pipeline.data.scores import class_iou, mean_iou
from pipeline.errors import UserError
from pipeline.files import written_whole
from pipeline.seeding import derive_seed, random_generator
from pipeline.store.artifacts import Artifact, Stage
from pipeline.toytown import WEATHERS, render_oracle, render_prior, render_restyled
from pipeline.work.devices import device_of
from pipeline.work.progress import Track, silent
from training.predict import predictor
from training.train import train

ORACLE_WORLD = Stage("oracle-world", 1)
QUALITY = Stage("quality", 1)
ORACLE_SCENES = 2000
WEATHER_IMAGES = 1500
WEATHER_EPOCHS = 8
BAND = 2  # px; toy images are an eighth of a street photograph's height


QUALITY_FILE = "quality.json"


class Reading(Record):
    """What the oracle and the weather classifier make of some images. A score without a labeled pixel is null."""

    miou: Score
    iou: dict[str, Score]
    """Per class."""
    boundary_error: Score
    interior_error: Score
    miou_by_condition: dict[str, Score]
    weather_accuracy: Share
    weather_accuracy_by_condition: dict[str, Share]


class Quality(Record):
    """quality.json: generated images beside true renders of the same label maps."""

    images: int
    oracle_scenes: int
    weather_images: int
    generated: Reading
    true: Reading
    miou_ratio: float
    """mIoU on generated images as a share of that on true ones."""


def read_quality(folder: Path) -> Quality:
    """What `quality` has written into its artifact's folder."""
    return Quality.model_validate_json((folder / QUALITY_FILE).read_bytes())


class Twin(NamedTuple):
    """A generated image, the true render of the same label map in the same weather, and that label map."""

    condition: str
    generated: np.ndarray
    true: np.ndarray
    label: np.ndarray


def quality(run: Run) -> Artifact:
    """`quality.json` of the generator that the config names, on images made by its generation section.

    The oracle is trained by the config's training section on toy town in all styles. UserError without toy town:
    only a world that can be rendered has true twins.
    """
    town = run.config.data.toytown
    if town is None:
        raise UserError("measuring a generator needs data.toytown: only a world that can be rendered has true images")
    images, oracle = stages.generated(run), train_oracle(run, town)

    def build(folder: Path) -> None:
        predict = predictor(
            oracle.folder / "segmenter", run.config.evaluation.scale, str(device_of(run.config.machine))
        )
        result = measure_quality(images.folder, town, predict, progress=run.progress)
        (folder / QUALITY_FILE).write_text(result.model_dump_json(indent=1) + "\n")

    inputs = {"generated": images.key, "oracle": oracle.key}
    return run.store.get_or_build(QUALITY, {"scale": run.config.evaluation.scale}, inputs, build)


def train_oracle(run: Run, town: ToyTown) -> Artifact:
    """A segmenter trained on toy town in all styles, by the config's training section with plain cross-entropy."""
    world = run.store.get_or_build(
        ORACLE_WORLD,
        {"seed": town.seed, "size": town.size, "scenes": ORACLE_SCENES},
        {},
        lambda folder: write_oracle_world(town, folder, progress=run.progress),
    )
    scenes = find_scenes(
        Dataset(
            name="oracle", root=world.folder, layout="globs", images="images/*.png", labels="labels/*.png", ids="train"
        )
    )
    section, seed = run.config.training, run.config.training.seeds[0]
    return run.store.get_or_build(
        SEGMENTER,
        segmenter_settings(section, Method(), seed),
        {"source": world.key},
        lambda folder: train(
            section, Method(), seed, scenes, [], folder, machine=run.config.machine, progress=run.progress
        ),
    )


def write_oracle_world(town: ToyTown, folder: Path, *, progress: Track = silent) -> None:
    """Scenes of all styles with seeds of their own: `images/NNNNN.png`, `labels/NNNNN.png` (train ids)."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for k in progress(range(ORACLE_SCENES), total=ORACLE_SCENES, description="Rendering the oracle's scenes"):
        if not (folder / "labels" / f"{k:05d}.png").exists():
            scene = render_oracle(town.seed, k, town.size)
            (folder / "images" / f"{k:05d}.png").write_bytes(png(scene.image))
            # The label comes last: where there is one, its image is whole.
            with written_whole(folder / "labels" / f"{k:05d}.png", durable=False) as unfinished:
                unfinished.write_bytes(png(scene.label))


def twins(dataset: Path, town: ToyTown) -> Iterator[Twin]:
    """Every image of a data set that was generated on toy town's source, with its true twin."""
    rows = (row for path in data_files(dataset) for row in read_table(path).to_pylist())
    for number, row in enumerate(rows):
        image, label = decode_pair(row["image"]["bytes"], row["label"]["bytes"], row_name(dataset, number))
        box = row["box"]
        true = render_restyled(town.seed, int(row["source"]), town.size, row["condition"])
        window = np.s_[box["top"] : box["top"] + box["height"], box["left"] : box["left"] + box["width"]]
        if not np.array_equal(true.label[window], label):
            raise ValueError(f"the render of scene {row['source']} has another label map than the generated image's")
        yield Twin(row["condition"], image, true.image[window], label)


def measure_quality(
    dataset: Path,
    town: ToyTown,
    oracle: Callable[[np.ndarray], np.ndarray],
    *,
    progress: Track = silent,
) -> Quality:
    """Oracle mIoU and weather accuracy on the generated images of `dataset` and on their true twins."""
    pairs = list(twins(dataset, town))
    height, width = pairs[0].label.shape

    def draw(k: int) -> tuple[np.ndarray, int]:
        rng = random_generator("weather images", town.seed, k)
        weather = int(rng.integers(len(WEATHERS)))
        scene = render_prior(derive_seed("weather images", town.seed), k, town.size, WEATHERS[weather])
        top, left = (int(rng.integers(0, a - b + 1)) for a, b in zip(town.size, (height, width), strict=True))
        return scene.image[top : top + height, left : left + width], weather

    network = train_weather_network(draw, WEATHER_IMAGES, WEATHER_EPOCHS, town.seed, progress=progress)
    readings: dict[str, Reading] = {}
    for kind in ("generated", "true"):
        images = [getattr(pair, kind) for pair in pairs]
        predictions = [
            oracle(image) for image in progress(images, total=len(images), description=f"Oracle reads {kind}")
        ]
        readings[kind] = _read(pairs, predictions, read_weather(network, images))
    generated, true = readings["generated"], readings["true"]
    if generated.miou is None or not true.miou:
        raise UserError("no pixel of the generated images' label maps has a class: there is nothing to measure")
    return Quality(
        images=len(pairs),
        oracle_scenes=ORACLE_SCENES,
        weather_images=WEATHER_IMAGES,
        generated=generated,
        true=true,
        miou_ratio=generated.miou / true.miou,
    )


def _read(pairs: list[Twin], predictions: list[np.ndarray], weathers: np.ndarray) -> Reading:
    conditions = sorted({pair.condition for pair in pairs})
    scores = {name: Scores(BAND) for name in ("all", *conditions)}
    right: dict[str, list[bool]] = {name: [] for name in scores}
    for pair, prediction, weather in zip(pairs, predictions, weathers, strict=True):
        for name in ("all", pair.condition):
            scores[name].add(prediction, pair.label)
            right[name].append(WEATHERS[int(weather)] == pair.condition)
    iou = class_iou(scores["all"].confusion)
    return Reading(
        miou=_score(mean_iou(iou)),
        iou={name: _score(value) for name, value in zip(CLASS_NAMES, iou.tolist(), strict=True)},
        boundary_error=_score(scores["all"].boundary_error),
        interior_error=_score(scores["all"].interior_error),
        miou_by_condition={name: _score(mean_iou(class_iou(scores[name].confusion))) for name in conditions},
        weather_accuracy=float(np.mean(right["all"])),
        weather_accuracy_by_condition={name: float(np.mean(right[name])) for name in conditions},
    )


def _score(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else value
