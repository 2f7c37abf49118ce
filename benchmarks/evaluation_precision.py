"""What scoring in bf16 changes: one trained segmenter on photographs, scored in float32 and in bfloat16.

    .venv/bin/python -m benchmarks.evaluation_precision FOLDER [--store DIR]

FOLDER holds CamVid's pictures as examples/camvid.yaml wants them. The example's segmenter is trained unless it is in
the store (10 minutes on one core), then scored once in each precision. Writes results/evaluation_precision.json.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.record import Row, record
from evaluation.schema import DomainScores, prediction_file, read_evaluation
from flows import stages
from flows.run import Run
from pipeline.config.experiment import load_config
from pipeline.store.artifacts import Artifact
from pipeline.work.progress import bar

EXAMPLE = Path(__file__).parents[1] / "examples" / "camvid.yaml"
PRECISIONS = ("fp32", "bf16")


def main() -> None:
    """Trains if need be, scores twice, compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--store", type=Path, default=Path("cache"))
    options = parser.parse_args()
    settings = [f"data.source.root={options.folder}", f"data.targets.0.root={options.folder}"]
    settings += [f"machine.store={options.store}", "machine.tracker=null", "evaluation.keep_predictions=all"]
    made: dict[str, Artifact] = {}
    for precision in PRECISIONS:
        run = Run(load_config(EXAMPLE, [*settings, f"evaluation.precision={precision}"]), bar)
        model = stages.segmenter(run, "cross-entropy", 0, None)
        made[precision] = stages.evaluation(run, model.key, model.folder / "segmenter")
    exact = made["fp32"]
    rows = [_row(precision, artifact, exact) for precision, artifact in made.items()]
    images = _scores(exact)[1].images
    title = f"examples/camvid.yaml's segmenter on {images} photographs, scored in each precision"
    record("evaluation_precision", title, rows, ["transformers"])


def _row(precision: str, made: Artifact, exact: Artifact) -> Row:
    scores, wanted = _scores(made)[1], _scores(exact)[1]
    assert scores.miou is not None and wanted.miou is not None
    changes = [abs(a - b) for a, b in zip(scores.iou, wanted.iou, strict=True) if a is not None and b is not None]
    return {
        "precision": precision,
        "mIoU": 100 * scores.miou,
        "mIoU - fp32's": 100 * (scores.miou - wanted.miou),
        "largest change of a class's IoU": 100 * max(changes),
        "% of px with another label": 100 * _changed(made, exact),
        "s": made.manifest.seconds,
    }


def _scores(evaluation: Artifact) -> tuple[str, DomainScores]:
    """The one domain, by its name."""
    ((name, scores),) = read_evaluation(evaluation.folder).domains.items()
    return name, scores


def _changed(made: Artifact, exact: Artifact) -> float:
    """Share of the pixels of all predictions that differ."""
    domain, scores = _scores(exact)
    pairs = [[_picture(artifact, domain, scene) for artifact in (made, exact)] for scene in scores.predictions]
    return float(np.mean([(a != b).any(axis=-1).mean() for a, b in pairs]))


def _picture(evaluation: Artifact, domain: str, scene: str) -> np.ndarray:
    return np.asarray(Image.open(prediction_file(evaluation.folder, domain, scene)).convert("RGB"))


if __name__ == "__main__":
    main()
