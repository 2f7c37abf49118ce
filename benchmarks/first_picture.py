"""Draws README's first picture: a label map painted in five weathers, and, from a finished run, an unseen scene as two
segmenters read it.

    python -m benchmarks.first_picture [--run runs/toy --domain snow] --output docs/first_picture.png

The upper row is a column of the shipped generator's samples, the lower one a sheet of the run's report.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from evaluation.report_schema import read_report

SAMPLES = Path(__file__).parents[1] / "generation" / "pretrained" / "toy-town" / "samples.png"
ROWS = ("label map", "snowy", "rainy", "sunny", "foggy", "night")
"""What the samples show from top to bottom (the model card says so)."""
GAP_PX = 8
"""White px between the pictures of a report's sheet."""


def samples(file: Path, column: int, columns: int = 3) -> list[np.ndarray]:
    """A column of the samples, one picture (h,w,3) per row."""
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[0] // len(ROWS), pixels.shape[1] // columns
    return [pixels[k * height : (k + 1) * height, column * width : (column + 1) * width] for k in range(len(ROWS))]


def sheet(file: Path, pictures: int) -> list[np.ndarray]:
    """The pictures of one of the report's sheets, which stand side by side."""
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB"))
    width = (pixels.shape[1] + GAP_PX) // pictures
    return [pixels[:, k * width : (k + 1) * width - GAP_PX] for k in range(pictures)]


def scene_of(run: Path, domain: str, number: int) -> list[tuple[str, np.ndarray]]:
    """A scene of a run's report: its image, its labels, and the predictions of the first and the last method."""
    methods = [row.name for row in read_report(run).methods]
    found = sorted((run / "figures").glob(f"predictions_{domain}_*.png"))
    parts = sheet(found[number % len(found)], 2 + 2 * len(methods))
    shown = [(f"{domain}, never seen", parts[0]), ("its labels", parts[1])]
    return shown + [(method, parts[2 + 2 * methods.index(method)]) for method in (methods[0], methods[-1])]


def draw(rows: Sequence[Sequence[tuple[str, np.ndarray]]]) -> Figure:
    """Rows of pictures with their titles."""
    figure = Figure(figsize=(10, 0.4 + 1.3 * len(rows)), layout="constrained")
    for part, row in zip(np.ravel(np.array(figure.subfigures(len(rows), 1))), rows, strict=True):
        for axes, (title, picture) in zip(part.subplots(1, len(row)), row, strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set_title(title, fontsize=9)
            axes.axis("off")
    return figure


def main() -> None:
    """Reads the arguments and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--domain", default="snow")
    parser.add_argument("--scene", type=int, default=0, help="which of the domain's sheets")
    parser.add_argument("--column", type=int, default=1, help="which of the samples' columns")
    parser.add_argument("--output", type=Path, default=Path("docs/first_picture.png"))
    options = parser.parse_args()
    rows = [list(zip(ROWS, samples(SAMPLES, options.column), strict=True))]
    if options.run is not None:
        rows.append(scene_of(options.run, options.domain, options.scene))
    draw(rows).savefig(options.output, dpi=130)


if __name__ == "__main__":
    main()
