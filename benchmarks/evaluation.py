"""What scoring costs: counting beside the usual ways, and a whole evaluation beside one window at a time.

    .venv/bin/python -m benchmarks.evaluation [--quick] [--device cpu|cuda]

Writes results/evaluation_counting.json, evaluation_throughput.json and evaluation_share.json. Counting is measured on
one thread at 2048x1024 px, on a street scene and on noise, where no two neighbors agree. The whole evaluation runs a
SegFormer-B0 of random weights over enlarged toy-town scenes in windows of 512x512 px. Contenders take turns; medians
are kept.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchmetrics.functional.classification import multiclass_confusion_matrix
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from benchmarks.record import record
from evaluation.evaluate import evaluate
from evaluation.inference import Network, Predict, input_size, make_predict
from evaluation.metrics import count
from evaluation.scoring import Loaded, load_or_skip
from pipeline.config.evaluation import EvaluationConfig
from pipeline.config.machine import Machine
from pipeline.data.datasets import Scene
from pipeline.data.labels import CLASS_NAMES, IGNORE, NUM_CLASSES, TRAIN_IDS
from pipeline.data.scores import confusion_matrix
from pipeline.toytown import TARGETS, render_target
from pipeline.work.progress import silent

SIZE = (1024, 2048)
SCENE_SIZE = (512, 1024)
CONFIG = EvaluationConfig(window=(512, 512), stride=(256, 256), keep_predictions=0)
LABELS = NDArray[np.uint8]


class Pair(NamedTuple):
    """A prediction and its label map, (H,W) uint8."""

    prediction: LABELS
    label: LABELS


def street() -> Pair:
    """Toy town's scene enlarged; the prediction is shifted by 3 px and wrong in a fifth of its 16 px blocks."""
    label = enlarged(render_target("clear", 0, 0, (96, 192)).label, SIZE, Image.Resampling.NEAREST)
    shifted = np.roll(label, 3, axis=1)
    wrong = np.kron(np.random.default_rng(0).random((SIZE[0] // 16, SIZE[1] // 16)) < 0.2, np.ones((16, 16), bool))
    guess = np.where(shifted == IGNORE, 0, shifted)
    return Pair(np.where(wrong, (guess + 3) % NUM_CLASSES, guess).astype(np.uint8), label)


def noise() -> Pair:
    """Random classes, a tenth of the pixels ignored."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, NUM_CLASSES, SIZE).astype(np.uint8)
    label[rng.random(SIZE) < 0.1] = IGNORE
    return Pair(rng.integers(0, NUM_CLASSES, SIZE).astype(np.uint8), label)


def enlarged(picture: LABELS, size: tuple[int, int], resample: Image.Resampling) -> LABELS:
    """The picture at (height, width) px."""
    return np.asarray(Image.fromarray(picture).resize(size[::-1], resample)).copy()


def three_histograms(pair: Pair) -> list[NDArray[np.int64]]:
    """mmsegmentation's intersect_and_union in NumPy: areas of the intersection, the prediction and the label."""
    kept = pair.label != IGNORE
    prediction, label = pair.prediction[kept], pair.label[kept]
    parts = (prediction[prediction == label], prediction, label)
    return [np.histogram(part, bins=np.arange(NUM_CLASSES + 1))[0] for part in parts]


def masked_bincount(pair: Pair) -> NDArray[np.int64]:
    """The usual fast histogram: labeled pixels picked out, one 64-bit code each."""
    kept = pair.label < NUM_CLASSES
    code = NUM_CLASSES * pair.label[kept].astype(np.int64) + pair.prediction[kept]
    return np.bincount(code, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)


def torchmetrics_confusion(pair: Pair) -> NDArray[np.int64]:
    """torchmetrics wants 64-bit maps."""
    prediction, label = (torch.from_numpy(part).long() for part in pair)
    matrix = multiclass_confusion_matrix(prediction, label, NUM_CLASSES, ignore_index=IGNORE)
    return np.asarray(matrix)


def ours(pair: Pair) -> NDArray[np.int64]:
    """evaluation.metrics."""
    return confusion_matrix(torch.from_numpy(pair.prediction), torch.from_numpy(pair.label))


COUNTERS: Mapping[str, Callable[[Pair], object]] = {
    "three np.histogram (mmsegmentation)": three_histograms,
    "np.bincount of masked pixels": masked_bincount,
    "torchmetrics": torchmetrics_confusion,
    "ours": ours,
}


def measure_counting(repeats: int) -> None:
    """Milliseconds per 2048x1024 px label map, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pairs = {"street scene": street(), "noise": noise()}
    for pair in pairs.values():
        for other in (masked_bincount, torchmetrics_confusion):
            np.testing.assert_array_equal(ours(pair), other(pair))
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats):
        for maps, pair in pairs.items():
            for name, counter in COUNTERS.items():
                times.setdefault((name, maps), []).append(seconds(partial(counter, pair)))
    torch.set_num_threads(threads)
    rows = []
    for name in COUNTERS:
        per_maps = {maps: median(times[name, maps]) for maps in pairs}
        row: dict[str, str | float] = {"way": name}
        for maps, value in per_maps.items():
            row |= {f"ms, {maps}": 1e3 * value, f"times ours, {maps}": value / median(times["ours", maps])}
        rows.append(row)
    title = f"Counting one {SIZE[1]}x{SIZE[0]} px label map on one thread, median of {repeats}"
    record("evaluation_counting", title, rows, ["numpy", "torchmetrics"])


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def write_scenes(folder: Path, images: int) -> list[Scene]:
    """Toy town's targets, enlarged to 1024x512 px, as PNG files."""
    scenes = []
    for k in range(images):
        rendering = render_target(TARGETS[k % len(TARGETS)], 0, k, (96, 192))
        scene = Scene(str(k), folder / f"{k}.png", folder / f"{k}_label.png", TRAIN_IDS)
        Image.fromarray(enlarged(rendering.image, SCENE_SIZE, Image.Resampling.BICUBIC)).save(folder / f"{k}.png")
        Image.fromarray(enlarged(rendering.label, SCENE_SIZE, Image.Resampling.NEAREST)).save(scene.label)
        scenes.append(scene)
    return scenes


def segformer_b0(device: torch.device) -> Network:
    """SegFormer-B0 of random weights."""
    torch.manual_seed(0)
    model = SegformerForSemanticSegmentation(SegformerConfig(id2label=dict(enumerate(CLASS_NAMES)))).eval().to(device)
    return lambda images: torch.as_tensor(model(images / 255).logits)


class Spent(NamedTuple):
    """Seconds of one evaluation: all of it, of that the confusion alone, and everything that is counted."""

    whole: float
    confusion: float
    counting: float


def one_at_a_time(network: Network, scenes: Sequence[Scene], device: torch.device) -> Spent:
    """Reads, predicts window by window and counts, one after the other."""
    predict = make_predict(network, CONFIG, device, batch_size=1)
    confusion = counting = 0.0
    start = time.perf_counter()
    for scene in scenes:
        loaded = load_or_skip(scene)
        assert isinstance(loaded, Loaded)
        size = (loaded.label.shape[0], loaded.label.shape[1])
        labels, confidence = predict(loaded.image[None], input_size(CONFIG, "", size))
        told, sure = (torch.as_tensor(part)[0].cpu() for part in (labels, confidence))
        truth = torch.tensor(loaded.label)
        confusion += seconds(partial(confusion_matrix, told, truth))
        counting += seconds(partial(count, told, truth, CONFIG.widths, sure))
    return Spent(time.perf_counter() - start - confusion, confusion, counting)


def overlapped(network: Network, scenes: Sequence[Scene], device: torch.device, batch_size: int) -> float:
    """Seconds of `evaluate` as flexseg calls it, in one process."""
    machine = Machine(device="cuda" if device.type == "cuda" else "cpu", workers=1, evaluation_batch=batch_size)

    def load(place: str, at_once: int) -> Predict:
        return make_predict(network, CONFIG, torch.device(place), at_once)

    with tempfile.TemporaryDirectory() as folder:
        domains = {"toy": scenes}
        return seconds(partial(evaluate, load, domains, CONFIG, Path(folder), machine=machine, progress=silent))


def measure_throughput(repeats: int, images: int, device: torch.device) -> None:
    """Images per second of the two ways, and which share counting has of the slower one."""
    network, batch_size = segformer_b0(device), 4 if device.type == "cpu" else 16
    singles, together = [], []
    with tempfile.TemporaryDirectory() as folder:
        scenes = write_scenes(Path(folder), images)
        overlapped(network, scenes[:2], device, batch_size)  # the first pass is slower
        for _ in range(repeats):
            singles.append(one_at_a_time(network, scenes, device))
            together.append(overlapped(network, scenes, device, batch_size))
    single, both = median(spent.whole for spent in singles), median(together)
    rows: list[dict[str, str | float]] = [
        {"way": "one window at a time, nothing overlapped", "images/s": images / single, "times as fast": 1.0},
        {
            "way": f"{batch_size} windows at once; reading, predicting and counting overlapped",
            "images/s": images / both,
            "times as fast": single / both,
        },
    ]
    title = f"{images} images of {SCENE_SIZE[1]}x{SCENE_SIZE[0]} px, SegFormer-B0, {device.type}, median of {repeats}"
    record("evaluation_throughput", title, rows, ["transformers", "numpy"])
    parts = {
        "confusion": median(spent.confusion for spent in singles),
        "confusion, boundary rings, calibration": median(spent.counting for spent in singles),
    }
    rows = [
        {"counted": name, "ms per image": 1e3 * part / images, "% of the evaluation": 100 * part / single}
        for name, part in parts.items()
    ]
    record("evaluation_share", f"What counting is of one window at a time; {title}", rows, ["transformers", "numpy"])


def main() -> None:
    """Both measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats and images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    measure_counting(3 if options.quick else 15)
    repeats, images = (1, 4) if options.quick else (3, 12)
    device = torch.device(options.device)
    measure_throughput(repeats, images if device.type == "cpu" else 10 * images, device)


if __name__ == "__main__":
    main()
