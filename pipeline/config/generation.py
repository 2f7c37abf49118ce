"""How label maps become stylized images: the `generation` section (DGInStyle; shared method section 2)."""

import re
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.base import Count, Px, Reference, Section
from pipeline.config.precision import Precision
from pipeline.config.weights import PLAIN_PROMPT, PROMPT, GeneratorParts
from pipeline.data.labels import CLASS_NAMES

WEATHERS = ("snowy", "rainy", "sunny", "foggy", "night")
PLAIN = "plain"
KeptNoise = Literal["scheduler", "released"]
Images = Annotated[int, Field(ge=0, le=10**7)]
"""How many a condition may have. More would be planned for days, in memory."""


class FusionConfig(Section):
    """Multi-resolution latent fusion (DGInStyle sec. 3.3): a second pass over the enlarged image, window by window."""

    upscale: Annotated[int, Field(gt=1, le=8)] = 2
    """Times that the first pass is enlarged (Lanczos) before the second one; the result is shrunk back."""
    window: tuple[Px, Px] | None = None
    """Height and width of a window in cells; null is the size that the U-Net was trained at (64 x 64 for SD 1.5)."""
    stride: Px = 8
    """Cells from a window to the next: 8 in the released generator, 16 in its demo. More is faster and coarser."""
    large_component: Count | None = 20000
    """Connected components of a class with more px than this keep the first pass; null keeps nothing of it."""
    kept_noise: KeptNoise = "scheduler"
    """How noisy kept cells are after a step: as the scheduler has it, or one training timestep before the step's own,
    as the released code has it."""
    cover: Literal["all", "sparse"] = "all"
    """`sparse` looks through few windows that together hold every cell that is not kept (ours, approximate)."""


class AlignmentConfig(Section):
    """How it is measured whether generated images follow their label maps: a stage of its own that repaints nothing."""

    detector: Literal["canny", "hed", "pidinet"] = "canny"
    """What finds the edges of an image: controlnet-aux's detector of that name. Canny needs no weights."""
    weights: Reference = "lllyasviel/Annotators"
    """Weights of HED and PiDiNet: a Hub repository, or a local folder with its files."""
    radius: Annotated[int, Field(ge=0, le=1000)] = 1
    """An image edge within this many px of a label boundary follows it (ours)."""


class GenerationConfig(Section):
    """Everything that decides the bytes of a generated data set.

    `counts` says how many images of each condition are made: `plain` is a prompt without weather, the weathers are
    those of DGInStyle, others need a prompt of their own in `conditions`. `label_height`
    shrinks the label maps (nearest) before the crop is drawn, for weights that were trained at a smaller scale than
    the maps have. Values tagged "ours" are not published.
    """

    weights: GeneratorParts | Reference
    """A set that ships with flexseg (`toy-town`), a local folder in the diffusers layout, or published parts."""
    counts: dict[str, Images] = {
        "plain": 3000,
        "snowy": 1000,
        "rainy": 1000,
        "foggy": 1000,
        "night": 1000,
    }
    """Images of each condition: DGInStyle's 3,000 plain, 3,000 adverse (split evenly: ours) and 1,000 night."""
    after: dict[str, Images] = {}
    """Images of each condition that exist already: the numbering goes on behind them, and so none is made twice."""
    prompt: str = PROMPT
    plain_prompt: str = PLAIN_PROMPT
    class_separator: str = ", "
    """Between the names in `{classes}`; DGInStyle's released code, and so its published ControlNet, has a space."""
    conditions: dict[str, str] = {}
    """Prompts of conditions of your own, for instance dusk: "A city street scene with {classes}, at dusk." """
    classes: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """Probability that a request asks for a class, by its name, for instance rider: 0.2. What they leave is
    rare-class sampling's, over the classes that are not named (ours)."""
    size: tuple[Px, Px] = (512, 512)
    """Height and width of a generated image in px; a multiple of the VAE's factor times the U-Net's."""
    label_height: Px | None = None
    rare_class_temperature: Annotated[float, Field(gt=0)] = 0.01
    """T of rare-class sampling, P(c) = softmax((1 - f_c) / T) (DAFormer eq. 9)."""
    rare_class_pixels: Count = 3000
    """A label map counts as holding a class if it has more px of it than this. The crop is centered on one of them, and
    drawn again until the class covers more than 1% of it (10 tries)."""
    steps: Annotated[int, Field(gt=0, le=1000)] = 20
    guidance: Annotated[float, Field(ge=0)] = 7.5
    control_scale: Annotated[float, Field(ge=0)] = 1.0
    control_start: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the denoising steps that the prior takes alone before the ControlNet joins (ours)."""
    fusion: FusionConfig | None = None
    """Multi-resolution latent fusion; null paints in one pass."""
    scheduler: Literal["weights", "ddim", "unipc", "dpm-solver", "lcm"] = "weights"
    """What steps the latents: the weights' own scheduler, or another one on their noise schedule (approximate)."""
    lora: Reference | None = None
    """LoRA of the prior U-Net, for instance for few steps: a file, a folder or a Hub repository (ours)."""
    lora_scale: float = 1.0
    precision: Precision = "fp32"
    """Number format in which U-Net and ControlNet compute. The VAE and the latents stay in float32."""
    shard_size: Annotated[int, Field(gt=0, le=100_000)] = 48
    """Images in one parquet file, the unit of resume and of what a worker does."""
    seed: int = 0

    @property
    def weights_name(self) -> str:
        """What to call the weights in texts: the set or the folder, without the path to it, or the published parts."""
        if isinstance(self.weights, str):
            return PurePath(self.weights).name
        return " + ".join(part for part in (self.weights.prior, self.weights.unet, self.weights.controlnet) if part)

    @model_validator(mode="before")
    @classmethod
    def _no_feature_cache(cls, values: Any) -> Any:
        if isinstance(values, dict) and "feature_cache" in values:
            raise ValueError(
                "feature_cache is no option any more (it needed 36 GB at full size and was approximate): leave it out,"
                " or take scheduler: unipc with fewer steps"
            )
        return values

    @model_validator(mode="after")
    def _conditions_have_prompts(self) -> Self:
        for condition in (*self.counts, *self.conditions):
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", condition):
                raise ValueError(f"condition {condition!r} becomes part of file names: use a-z, 0-9, _ and -")
        known = {PLAIN, *WEATHERS, *self.conditions}
        if unknown := [condition for condition in self.counts if condition not in known]:
            raise ValueError(
                f"counts asks for {unknown[0]!r}: choose one of {', '.join(sorted(known))},"
                " or give it a prompt in generation.conditions"
            )
        for prompt in (self.prompt, self.plain_prompt, *self.conditions.values()):
            _check_prompt(prompt)
        return self

    @model_validator(mode="after")
    def _savings_agree(self) -> Self:
        if self.fusion and self.fusion.kept_noise == "released" and self.scheduler not in {"weights", "ddim"}:
            raise ValueError(f"fusion.kept_noise 'released' is defined for ddim alone, not for {self.scheduler}")
        return self

    @model_validator(mode="after")
    def _shares_are_of_classes(self) -> Self:
        if unknown := [name for name in self.classes if name not in CLASS_NAMES]:
            raise ValueError(f"classes names {unknown[0]!r}: choose among {', '.join(CLASS_NAMES)}")
        if (total := sum(self.classes.values())) > 1 + 1e-9:
            raise ValueError(f"classes sums to {total:g}: the shares of all images may sum to 1 at most")
        return self


def _check_prompt(prompt: str) -> None:
    try:
        prompt.format(classes="road, sky", weather="sunny")
    except (LookupError, ValueError, AttributeError) as error:
        raise ValueError(
            f"prompt {prompt!r} cannot be filled in ({error!r}): only {{classes}} and {{weather}} are known"
        ) from error
