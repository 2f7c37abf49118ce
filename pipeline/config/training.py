"""How segmenters are trained: the `training` section (FLEX-Seg; shared method section 3).

Defaults hold the published values. "(ours)" marks a value that is not published.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.base import Section

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Stages = tuple[Positive, Positive, Positive, Positive]


class Method(Section):
    """One row of the result table. Whatever is not named here is the same in every row."""

    generated: bool = False
    """Train on the generated data set too."""
    gap: bool = False
    """Add the granular adaptive prototypes' loss."""
    ube: bool = False
    """Weight the cross-entropy by uncertainty boundary emphasis."""
    has: bool = False
    """Draw images by their hardness."""


class NetworkConfig(Section):
    """A MiT encoder with DAFormer's decoder.

    `pretrained` is a SegFormer encoder on the Hugging Face Hub or a local folder; with None the encoder starts from
    random weights and has the sizes below, one per stage.
    """

    pretrained: str | None = "nvidia/mit-b5"
    hidden_sizes: Stages = (64, 128, 320, 512)
    depths: Stages = (3, 6, 40, 3)
    heads: Stages = (1, 2, 5, 8)
    reductions: Stages = (8, 4, 2, 1)
    """How much shorter each stage's keys and values are, per side."""
    drop_path: Share = 0.1
    channels: Positive = 256
    """Channels of the decoder, so of the features that the prototypes live in."""
    dropout: Share = 0.1
    """On the fused features before the classifier."""


class UbeConfig(Section):
    """Uncertainty boundary emphasis."""

    alpha: Rate = 3.0


class GapConfig(Section):
    """Granular adaptive prototypes."""

    weight: Rate = 0.5
    """Of L_GAP in the total loss."""
    sizes: tuple[Positive, ...] = (3, 5, 7)
    """Window sizes of the thin, medium and thick band in feature cells; odd, ascending (ours). Times the cell's size
    in px the last also gives the band of UBE."""
    temperature: Rate = 0.07
    momentum: Share = 0.99
    """Of a prototype's moving average (ours)."""
    max_pixels: Positive = 4096
    """Boundary cells per batch that the loss is taken on, drawn evenly over the prototypes (ours)."""

    @model_validator(mode="after")
    def _sizes_are_windows(self) -> Self:
        if list(self.sizes) != sorted(set(self.sizes)) or any(size < 3 or size % 2 == 0 for size in self.sizes):
            raise ValueError(f"'sizes' must be odd, at least 3 and ascending, got {list(self.sizes)}")
        return self


class HasConfig(Section):
    """Hardness-aware sampling: at t = 100 x iteration / iterations a draw is plain with probability threshold(t)."""

    schedule: Literal["sigmoid", "linear", "none"] = "sigmoid"
    """Of the threshold: 1 / (1 + exp(steepness (t - midpoint))), a fall from 1 to 0, or always 0."""
    steepness: Rate = 0.05
    midpoint: float = 50.0
    """(ours)"""
    temperature: Rate = 1.0
    """Of the softmax over hardness."""
    rate: Share = 0.9
    """Of the moving average of an image's loss (ours)."""


class OptimizerConfig(Section):
    """AdamW (0.9, 0.999) with linear warm-up and polynomial decay."""

    learning_rate: Rate = 6e-5
    """Of the encoder."""
    head_factor: Rate = 10.0
    """Learning rate of the decoder over that of the encoder."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """0 on norms."""
    warmup: Count = 1500
    """Iterations in which the rate rises from `warmup_ratio` of its value."""
    warmup_ratio: Share = 1e-6
    power: Rate = 1.0


class TrainingConfig(Section):
    """Everything that decides the weights of a segmenter."""

    methods: dict[str, Method] = {
        "source-only": Method(),
        "cross-entropy": Method(generated=True),
        "flex-seg": Method(generated=True, gap=True, ube=True, has=True),
    }
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    network: NetworkConfig = NetworkConfig()
    iterations: Positive = 40_000
    batch_size: Positive = 2
    """Images per iteration over all devices together."""
    generated_share: Share = 0.5
    """Share of a batch's images that are generated, where the method uses them (ours)."""
    source_size: tuple[Positive, Positive] | None = (720, 1280)
    """Height and width that source images are resized to before the crop; None keeps their own."""
    crop: tuple[Positive, Positive] = (512, 512)
    """Height and width of a training crop in px."""
    scale: Rate = 1.0
    """The network's input size over the image's (in px), in training and prediction."""
    rare_classes: bool = True
    """Draw source images by rare-class sampling, else uniformly. Under HAS it is the plain draw."""
    rare_class_temperature: Rate = 0.01
    rare_class_pixels: Count = 3000
    """An image counts as holding a class from this many px on; a crop should keep half of them (10 tries)."""
    optimizer: OptimizerConfig = OptimizerConfig()
    ube: UbeConfig = UbeConfig()
    gap: GapConfig = GapConfig()
    has: HasConfig = HasConfig()
    precision: Literal["fp32", "bf16"] = "fp32"
    loss_limit: Rate = 100.0
    """A loss above this counts as diverged and stops the run (ours)."""
    block: Positive = 50
    """Iterations that are drawn together, then logged; hardness acts from the next block on (ours)."""
    checkpoint_every: Positive = 1000
    validation_every: Positive = 4000
    validation_scenes: Count = 50
    """Source scenes held out of training to watch it; the same for every method and seed (ours)."""
