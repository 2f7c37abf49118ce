"""What scoring in bf16 changes: one trained segmenter on photographs, scored in float32 and in bfloat16.

    .venv/bin/python -m benchmarks.evaluation_precision FOLDER [--store DIR] [--set KEY=VALUE ...]

FOLDER holds CamVid's pictures as examples/camvid.yaml wants them. The example's segmenter is trained unless it is in
the store (10 minutes on one core), then scored twice. On a CPU without bf16 units, where bfloat16 is some 25 times as
slow, the products are taken in float32 of values that are rounded to bfloat16, and rounded again: what units with
float32 sums give. That this is autocast's result is checked first on a small picture. Writes
results/evaluation_precision.json.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from benchmarks.record import Row, record
from evaluation.evaluate import evaluate
from evaluation.inference import Network, Predict, in_precision, make_predict
from evaluation.schema import DomainScores, prediction_file, read_evaluation
from flows import stages
from flows.run import Run
from flows.segmenters import load_network
from pipeline.config.experiment import load_config
from pipeline.work.progress import bar

EXAMPLE = Path(__file__).parents[1] / "examples" / "camvid.yaml"
PRODUCTS = {
    functional.conv2d, functional.linear, functional.scaled_dot_product_attention, torch.matmul, torch.bmm,
    torch.Tensor.matmul, torch.Tensor.__matmul__,
}  # fmt: skip
"""What autocast computes in bfloat16."""


class RoundedProducts(TorchFunctionMode):
    """Within autocast to bfloat16: its products by float32 units, from and to rounded values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in PRODUCTS:
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            rounded = [arg.bfloat16().float() if isinstance(arg, torch.Tensor) else arg for arg in args]
            return func(*rounded, **(kwargs or {})).bfloat16()


def in_bf16(network: Network, device: torch.device) -> Network:
    """The network as `evaluation.precision: bf16` has it, fast on a CPU without bf16 units too."""
    half = in_precision(network, "bf16", device)
    if device.type != "cpu":
        return half

    def logits(images: torch.Tensor) -> torch.Tensor:
        with RoundedProducts():
            return half(images)

    return logits


def check_rounding(network: Network) -> None:
    """The products' other way changes logits far less than bf16 itself does."""
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64)).astype(np.float32))
    device = torch.device("cpu")
    with torch.inference_mode():
        exact, autocast = network(image), in_precision(network, "bf16", device)(image)
        ours = in_bf16(network, device)(image)
    change, error = float((autocast - exact).abs().mean()), float((autocast - ours).abs().mean())
    print(f"mean change of a logit by bf16: {change:.4g}; by taking its products otherwise: {error:.4g}")
    assert error < change, "the products in float32 are not autocast's"


def main() -> None:
    """Trains if need be, scores twice, compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--store", type=Path, default=Path("cache"))
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    options = parser.parse_args()
    places = [f"data.source.root={options.folder}", f"data.targets.0.root={options.folder}"]
    places += [f"machine.store={options.store}", "machine.tracker=null", "evaluation.keep_predictions=all"]
    run = Run(load_config(EXAMPLE, [*options.overrides, *places]), bar)
    model = stages.segmenter(run, "cross-entropy", 0, None).folder / "segmenter"
    if not torch.cuda.is_available():
        check_rounding(load_network(model, torch.device("cpu")))
    ways: dict[str, Callable[[Network, torch.device], Network]] = {"fp32": lambda network, _: network, "bf16": in_bf16}
    with tempfile.TemporaryDirectory() as place:
        folders = {name: Path(place) / name for name in ways}
        for name, way in ways.items():
            _score(run, model, way, folders[name])
        rows = [_row(name, folder, folders["fp32"]) for name, folder in folders.items()]
        images = _scores(folders["fp32"])[1].images
    changed = f" ({', '.join(options.overrides)})" if options.overrides else ""
    title = f"examples/camvid.yaml's segmenter{changed} on {images} photographs, scored in each precision"
    record("evaluation_precision", title, rows, ["transformers"])


def _score(run: Run, model: Path, way: Callable[[Network, torch.device], Network], folder: Path) -> None:
    section = run.config.evaluation

    def load(place: str, at_once: int) -> Predict:
        device = torch.device(place)
        return make_predict(way(load_network(model, device), device), section, device, at_once)

    folder.mkdir()
    domains = {domain.name: domain.scenes for domain in run.targets}
    evaluate(load, domains, section, folder, machine=run.config.machine, progress=bar)


def _row(precision: str, folder: Path, exact: Path) -> Row:
    scores, wanted = _scores(folder)[1], _scores(exact)[1]
    assert scores.miou is not None and wanted.miou is not None
    changes = [abs(a - b) for a, b in zip(scores.iou, wanted.iou, strict=True) if a is not None and b is not None]
    return {
        "precision": precision,
        "mIoU": 100 * scores.miou,
        "mIoU - fp32's": 100 * (scores.miou - wanted.miou),
        "largest change of a class's IoU": 100 * max(changes),
        "% of px with another label": 100 * _changed(folder, exact),
    }


def _scores(folder: Path) -> tuple[str, DomainScores]:
    """The one domain, by its name."""
    ((name, scores),) = read_evaluation(folder).domains.items()
    return name, scores


def _changed(folder: Path, exact: Path) -> float:
    """Share of the pixels of all predictions that differ."""
    domain, scores = _scores(exact)
    pairs = [[_picture(place, domain, scene) for place in (folder, exact)] for scene in scores.predictions]
    return float(np.mean([(a != b).any(axis=-1).mean() for a, b in pairs]))


def _picture(folder: Path, domain: str, scene: str) -> np.ndarray:
    return np.asarray(Image.open(prediction_file(folder, domain, scene)).convert("RGB"))


if __name__ == "__main__":
    main()
