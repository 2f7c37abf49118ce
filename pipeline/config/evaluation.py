"""How segmenters are scored: the `evaluation` section."""

from typing import Literal, Self

from pydantic import model_validator

from pipeline.config.base import Count, Px, Reference, Scale, Section
from pipeline.config.precision import Precision


class EvaluationConfig(Section):
    """Everything that decides the numbers and pictures of an evaluation. Scores are taken at the label's own size.

    The size of the network's input moves scores by up to 1.8 mIoU, so it is printed beside them.
    """

    scale: Scale = 1.0
    """Size of the network's input as a multiple of the image's size, where `size` says nothing else."""
    size: dict[str, tuple[Px, Px] | None] = {}
    """Per target: (height, width) px in which the network's input fits, aspect ratio kept, upright images upright.
    Published (DAFormer, DGInStyle): [512, 1024] on Cityscapes, BDD100K and Mapillary Vistas, [540, 960] on ACDC and
    Dark Zurich; twice that for HRDA."""
    input_filter: Literal["antialiased", "released"] = "antialiased"
    """How images shrink to the network's input: each px from all that it covers, or as released from its four nearest
    ones."""
    window: tuple[Px, Px] | None = None
    """(height, width) px of sliding windows over the network's input, their logits averaged; null: the whole image."""
    stride: tuple[Px, Px] | None = None
    """Rows and columns from window to window; null: two thirds of the window (ours)."""
    flip: bool = False
    """Also predict the mirrored image and average the probabilities."""
    scales: tuple[Scale, ...] = (1.0,)
    """Multiples of the network's input at which to predict; the probabilities are averaged."""
    precision: Precision = "fp32"
    """Number format in which the network computes; its logits are float32 in any case."""
    band: Px = 5
    """A pixel is on a boundary if another class lies within this many px (Chebyshev distance)."""
    curve: tuple[Px, ...] = (1, 2, 3, 5, 8, 12, 16)
    """Further widths, px, at which boundary and interior errors are taken (ours): the curve over the band's width."""
    keep_predictions: Count | Literal["all"] = 4
    """Predictions that are kept as pictures, per target, evenly spread over its scenes."""
    models: dict[str, Reference] = {}
    """Further rows of the report: a name, and a transformers model for semantic segmentation with the 19 Cityscapes
    classes, by its name on the Hugging Face Hub or its folder."""
    baseline: str | None = None
    """Method or model that the report compares all others with; null: the first method."""

    @property
    def widths(self) -> list[int]:
        """All widths at which boundary and interior errors are taken, px, ascending."""
        return sorted({self.band, *self.curve})

    @model_validator(mode="after")
    def _windows_cover_the_image(self) -> Self:
        if self.stride is not None and self.window is None:
            raise ValueError("'stride' is the step from window to window: set 'window' too, or leave it out")
        if self.window is not None and any(s > w for s, w in zip(self.stride or self.window, self.window, strict=True)):
            raise ValueError(f"stride {self.stride} leaves gaps between windows of {self.window}: make it smaller")
        if not self.scales:
            raise ValueError("'scales' is empty: leave it out for one prediction at the network's own input size")
        return self
