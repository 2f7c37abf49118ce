"""The dataset card of a generated data set and its picture: what is in it, how it was made, how well it aligns."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from huggingface_hub import DatasetCardData

from pipeline.config.generation import AlignmentConfig, GenerationConfig
from pipeline.data.labels import CLASS_NAMES
from pipeline.requests import GenerationRequest

PICTURE = "alignment.png"
COLUMNS = {
    "image": "the painted image, PNG",
    "label": "its label map, PNG: Cityscapes train ids 0 to 18, 255 = ignore; a crop of the map that was painted",
    "prompt": "the prompt",
    "class_id": "train id of the class that rare-class sampling asked for",
    "condition": "weather or time of day in the prompt; `plain` names none",
    "seed": "seed of the starting noise",
    "source": "id of the label map",
    "box": "the crop in px of the label map",
}
SCORE_COLUMNS = {
    "alignment": "share of the label map's boundary px that have an image edge close by",
    "alignment_control": "the same share with the boundaries moved to elsewhere in the image",
}
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_card(
    config: GenerationConfig,
    requests: Sequence[GenerationRequest],
    folder: Path,
    *,
    alignment: AlignmentConfig | None = None,
    scores: np.ndarray | None = None,
) -> None:
    """Write `README.md`, from which Hugging Face `datasets` reads the layout.

    `scores` (N, 2) are the images' alignment and its control, which `alignment` says how they were measured: where the
    data set has them, the card says so and shows the picture that lies beside it.
    """
    head = DatasetCardData(
        pretty_name="Stylized street scenes",
        task_categories=["image-segmentation"],
        tags=["synthetic", "street-scenes", "diffusion", "controlnet"],
        size_categories=[next((name for most, name in SIZES if len(requests) < most), "n>1M")],
        configs=[
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]},
        ],
    )
    parts = [f"---\n{head.to_yaml()}\n---"]
    if alignment is None or scores is None:
        parts.append(_contents(config, requests, COLUMNS))
    else:
        parts += [_contents(config, requests, COLUMNS | SCORE_COLUMNS), _alignment(alignment, *scores.T)]
    (folder / "README.md").write_text("\n\n".join([*parts, _making(config, requests)]) + "\n", encoding="utf-8")


def draw_histogram(alignment: np.ndarray, control: np.ndarray, file: Path) -> None:
    """Draw how the scores (N,) of a data set's images are spread, beside those of the moved boundaries."""
    import matplotlib as mpl  # slow to import
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    style = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}
    with mpl.rc_context(style):
        figure = Figure(figsize=(6.4, 3.6), dpi=120, layout="constrained")
        axes = figure.subplots()
        bins = [k / 40 for k in range(41)]
        for scores, color, name in ((control, "#9aa5b1", "boundaries moved (control)"), (alignment, "#0072b2", "own")):
            median = float(np.median(scores))
            axes.hist(scores, bins=bins, color=color, alpha=0.75, label=f"{name}, median {median:.2f}")
            axes.axvline(median, color=color, linewidth=1.5)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(
            xlim=(0, 1), ylabel="images", xlabel="share of the mask’s boundary px that have an image edge close by"
        )
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        figure.savefig(file, metadata={"Software": None})  # the same bytes wherever it is drawn


def _contents(config: GenerationConfig, requests: Sequence[GenerationRequest], columns: Mapping[str, str]) -> str:
    conditions = Counter(request.condition for request in requests)
    classes = Counter(request.class_id for request in requests)
    sources = len({request.source for request in requests})
    return "\n".join(
        [
            "# Stylized street scenes",
            "",
            f"{len(requests)} images of {config.size[1]}x{config.size[0]} px that flexseg painted onto crops of"
            f" {sources} label maps with a ControlNet",
            "generator. They follow their labels only roughly.",
            "",
            "```python",
            "from datasets import load_dataset",
            "",
            'rows = load_dataset("FOLDER", split="train")',
            "```",
            "",
            *_table(("column", "what it is"), columns.items()),
            "",
            *_table(("condition", "images"), conditions.items()),
            "",
            *_table(
                ("class asked for", "images"), [(CLASS_NAMES[train_id], n) for train_id, n in classes.most_common()]
            ),
        ]
    )


def _alignment(config: AlignmentConfig, alignment: np.ndarray, control: np.ndarray) -> str:
    above = float(np.mean(alignment > control))
    return "\n".join(
        [
            "## Alignment",
            "",
            f"![histogram of the alignment scores and of their control]({PICTURE})",
            "",
            f"`alignment` is the share of a label map's boundary px with an image edge ({config.detector})"
            f" within {config.radius} px:",
            f"median {np.median(alignment):.3f}. Edges elsewhere do not lower it, so texture raises it by chance;"
            " `alignment_control` says",
            "how much: it is the same share with the boundaries rolled by half the width and a quarter of the height,"
            f" median {np.median(control):.3f}.",
            f"{100 * above:.1f}% of the images score above their own control.",
        ]
    )


def _making(config: GenerationConfig, requests: Sequence[GenerationRequest]) -> str:
    fusion = "one pass" if config.fusion is None else "multi-resolution latent fusion"
    return "\n".join(
        [
            "## How it was made",
            "",
            f"Weights: `{config.weights_name}`. Sampling: {fusion}, {config.steps} steps, guidance {config.guidance:g},"
            f" control scale {config.control_scale:g}, seed {config.seed}.",
            "Classes, label maps and crops were drawn by rare-class sampling; `plan.jsonl` holds every request, written"
            " before painting.",
            "The label of an image is the crop of its label map, pixel by pixel. Train on it as on imperfect data: the"
            " image may not",
            "show what its label says, least of all where classes are small.",
            "",
            f"Prompts, for example: “{requests[0].prompt}”",
        ]
    )


def _table(head: tuple[str, str], rows: Iterable[tuple[str, object]]) -> list[str]:
    lines = [f"| {name} | {what} |" for name, what in rows]
    return [f"| {head[0]} | {head[1]} |", "|---|---|", *lines]
