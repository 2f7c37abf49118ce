"""How segmenters are scored: the `evaluation` section."""

from typing import Annotated

from pydantic import Field

from pipeline.config.base import Section


class EvaluationConfig(Section):
    """Everything that decides the numbers and pictures of an evaluation. Scores are taken at the label's own size."""

    scale: Annotated[float, Field(gt=0)] = 1.0
    """Size of the network's input as a multiple of the image's size. It moves scores, so it is printed beside them."""
    band: Annotated[int, Field(gt=0)] = 5
    """A pixel is on a boundary if another class lies within this many px (Chebyshev distance)."""
    keep_predictions: Annotated[int, Field(ge=0)] = 4
    """Predictions that are kept as pictures, per domain: those of its first scenes."""
