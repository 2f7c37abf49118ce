"""Draws README's first picture from a finished run: a label map painted in five weathers, and an unseen scene read by
two segmenters.

    python -m benchmarks.first_picture runs/toy --domain snow --output docs/first_picture.png

The upper row is the first column of the shipped generator's samples, the lower one a sheet of the run's report.
"""

import argparse
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


def draw(run: Path, domain: str, scene: int, column: int) -> Figure:
    """The picture: six samples above, and below image, labels, and the predictions of the first and the last method."""
    methods = [row.name for row in read_report(run).methods]
    found = sorted((run / "figures").glob(f"predictions_{domain}_*.png"))
    parts = sheet(found[scene % len(found)], 2 + 2 * len(methods))
    shown = [(f"{domain}, never seen", parts[0]), ("its labels", parts[1])]
    shown += [(method, parts[2 + 2 * methods.index(method)]) for method in (methods[0], methods[-1])]
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    upper, lower = np.ravel(np.array(figure.subfigures(2, 1, height_ratios=(1, 1.3))))
    for part, pictures in ((upper, list(zip(ROWS, samples(SAMPLES, column), strict=True))), (lower, shown)):
        for axes, (title, picture) in zip(part.subplots(1, len(pictures)), pictures, strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set_title(title, fontsize=9)
            axes.axis("off")
    return figure


def main() -> None:
    """Reads the arguments and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--domain", default="snow")
    parser.add_argument("--scene", type=int, default=0, help="which of the domain's sheets")
    parser.add_argument("--column", type=int, default=1, help="which of the samples' columns")
    parser.add_argument("--output", type=Path, default=Path("docs/first_picture.png"))
    options = parser.parse_args()
    draw(options.run, options.domain, options.scene, options.column).savefig(options.output, dpi=130)


if __name__ == "__main__":
    main()
