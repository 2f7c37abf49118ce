"""How label maps become stylized images: the `generation` section (DGInStyle; shared method section 2)."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.base import Section

Condition = Literal["plain", "snowy", "rainy", "sunny", "foggy", "night"]


class GenerationConfig(Section):
    """Everything that decides the bytes of a generated data set.

    `counts` says how many images of each condition are made (`plain` = a prompt without weather). `label_height`
    shrinks the label maps (nearest) before the crop is drawn, for weights that were trained at a smaller scale than
    the maps have. Values tagged "ours" are not published.
    """

    weights: str
    """A set that ships with flexseg (`toy-town`), or a local folder in the diffusers layout."""
    counts: dict[Condition, Annotated[int, Field(ge=0)]] = {
        "plain": 3000,
        "snowy": 1000,
        "rainy": 1000,
        "foggy": 1000,
        "night": 1000,
    }
    """Images of each condition: DGInStyle's 3,000 plain, 3,000 adverse (split evenly: ours) and 1,000 night."""
    prompt: str = "A city street scene with {classes}, in {weather} weather."
    plain_prompt: str = "A city street scene with {classes}."
    size: tuple[int, int] = (512, 512)
    """Height and width of a generated image in px; a multiple of the VAE's factor times the U-Net's."""
    label_height: Annotated[int, Field(gt=0)] | None = None
    rare_class_temperature: Annotated[float, Field(gt=0)] = 0.01
    """T of rare-class sampling, P(c) = softmax((1 - f_c) / T) (DAFormer eq. 9)."""
    rare_class_pixels: Annotated[int, Field(ge=0)] = 3000
    """A label map counts as holding a class from this many px on; the crop must keep half of them (10 tries)."""
    steps: Annotated[int, Field(gt=0)] = 20
    guidance: Annotated[float, Field(ge=0)] = 7.5
    control_scale: Annotated[float, Field(ge=0)] = 1.0
    control_start: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the denoising steps that the prior takes alone before the ControlNet joins (ours)."""
    batch_size: Annotated[int, Field(gt=0)] = 8
    """Requests denoised together. It is part of the key because float sums may differ in the last bit with it."""
    shard_size: Annotated[int, Field(gt=0)] = 48
    """Images in one parquet file, the unit of resume."""
    alignment_radius: Annotated[int, Field(ge=0)] = 1
    """An image edge within this many px of a label boundary follows it (ours)."""
    seed: int = 0
