"""How segmenters are trained: the `training` section (FLEX-Seg; shared method section 3).

Defaults hold the published values. "(ours)" marks a value that is not published.
"""

from operator import gt
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from pipeline.config.base import Channels, Count, Positive, Px, Rate, Reference, Scale, Section, Share, merged
from pipeline.config.precision import Precision

Eights = Annotated[int, Field(gt=0, le=2**14, multiple_of=8)]
Stages = tuple[Channels, Channels, Channels, Channels]


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
    feature_distance: bool = False
    """Keep the encoder's features of things near ImageNet's (DAFormer)."""
    shade: bool = False
    """Train on hallucinated styles beside the real ones, consistently (SHADE)."""
    training: dict[str, Any] = {}
    """Keys of the training section that this row alone changes, for instance {has: {schedule: linear}}."""


class HrdaConfig(Section):
    """HRDA: context at half resolution and details at full resolution through one network, fused by an attention that
    weights the two per class. Sizes are px of the network's input and multiples of 8, so that both align. Prototypes
    see the context's features, whose cells are 8 px (ours)."""

    detail_crop: tuple[Eights, Eights] = (512, 512)
    """Height and width of the detail crop in training, of the overlapping detail windows in prediction. The context is
    `training.crop`, then the whole image or `evaluation.window` (published: 1024 px, stride 512)."""
    detail_weight: Share = 0.1
    """Share of the detail crop's own loss in the total; the loss of the fused prediction has the rest."""
    attention_channels: Channels = 256
    """Channels of the attention's embeddings."""


class NetworkConfig(Section):
    """An encoder with DAFormer's decoder, or HRDA's two scales of both."""

    pretrained: Reference | None = "nvidia/mit-b5"
    """The encoder's weights and sizes: `toy-town`, which ships with flexseg, nvidia/mit-b0 to -b5 or
    microsoft/resnet-101 on the Hugging Face Hub, or a local folder in that layout (SegFormer or ResNet); None for
    random weights."""
    encoder: Literal["mit-b0", "mit-b1", "mit-b2", "mit-b3", "mit-b4", "mit-b5", "resnet-101"] | None = None
    """Published sizes for random weights; None takes those below, of a MiT with four stages."""
    hidden_sizes: Stages = (64, 128, 320, 512)
    depths: Stages = (3, 6, 40, 3)
    heads: Stages = (1, 2, 5, 8)
    reductions: Stages = (8, 4, 2, 1)
    """How much shorter each stage's keys and values are, per side."""
    drop_path: Share = 0.1
    """Probability that a block of a MiT is skipped, rising linearly with depth to this."""
    channels: Channels = 256
    """Channels of the decoder, so of the features that the prototypes live in."""
    dropout: Share = 0.1
    """On the fused features before the classifier."""
    decoder_init: Literal["fan-in", "fan-out"] = "fan-in"
    """How the decoder's convolutions start (Kaiming's normal distribution). `fan-out`, as released, starts depthwise
    ones far smaller, as they have as many outputs as channels but one input."""
    hrda: HrdaConfig | None = None

    @model_validator(mode="after")
    def _one_source_of_sizes(self) -> Self:
        if self.pretrained is not None and self.encoder is not None:
            raise ValueError(
                f"'encoder' {self.encoder!r} is for random weights, but 'pretrained' is {self.pretrained!r}: set"
                " 'pretrained' to null, or leave 'encoder' out"
            )
        return self


class UbeConfig(Section):
    """Uncertainty boundary emphasis."""

    alpha: Rate = 3.0
    eps: Rate = 1e-6
    """Added to the deviation of the entropy (ours)."""


class GapConfig(Section):
    """Granular adaptive prototypes."""

    weight: Rate = 0.5
    """Factor of L_GAP in the total loss."""
    sizes: tuple[Px, ...] = (3, 5, 7)
    """Window sizes of the thin, medium and thick band in feature cells; odd, ascending (ours). Times the cell's size
    in px the last also gives the band of UBE."""
    temperature: Rate = 0.07
    momentum: Share = 0.99
    """What a prototype's moving average keeps of its old value (ours)."""
    weight_power: Annotated[float, Field(ge=0)] = 0.5
    """A prototype's pixels weigh (mean count / its count of updates) to this power (ours)."""
    weight_bounds: tuple[Rate, Rate] = (0.5, 2.0)
    """Between which these weights are clipped, before they are scaled to mean 1 (ours)."""
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
    """How the threshold falls: 1 / (1 + exp(steepness (t - midpoint))), a fall from 1 to 0, or always 0."""
    steepness: Rate = 0.05
    midpoint: float = 50.0
    """(ours)"""
    temperature: Rate = 1.0
    """Temperature of the softmax over hardness: lower draws hard images more often."""
    rate: Share = 0.9
    """What the moving average of an image's loss keeps of its old value (ours)."""
    rare_classes: bool = False
    """Where rare classes are drawn on the fly, a hardness draw takes a rare class too, then by hardness one of the
    images that hold it, and its crop shows the class. Without it takes any source image and any crop: hardness then
    replaces rare-class sampling. A `source_pool` keeps its classes in any case."""


class SourcePoolConfig(Section):
    """A source that is chosen beforehand, as in the released DAFormer rows: (image, class) pairs by rare-class
    sampling, the same for every method and seed. Each is an image of its own to hardness; its crop shows its class."""

    pairs: Positive = 6000
    distinct: bool = False
    """Choose no image twice, as released; without it pairs are drawn with replacement (ours), also more than images."""


class FeatureDistanceConfig(Section):
    """ImageNet feature distance (DAFormer, equation 8): how far the encoder's deepest features of thing classes have
    moved from those of the encoder that training started from; on source and generated images, as released."""

    weight: Rate = 0.005
    classes: tuple[Annotated[int, Field(ge=0, le=18)], ...] = (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)
    """Train ids of the thing classes."""
    share: Annotated[float, Field(gt=0.5, le=1)] = 0.75
    """A feature cell counts if one thing class fills at least this share of it."""


class ShadeConfig(Section):
    """SHADE (Zhao et al., ECCV 2022). A style is the mean and deviation of each channel of the encoder's first stage;
    new ones are random mixtures of basis styles, which lie farthest apart among the styles seen. Its retrospection
    consistency is the feature distance: switch on `feature_distance` too."""

    weight: Rate = 10.0
    """Factor of the Jensen-Shannon divergence between the predictions of an image in its own and in a new style."""
    basis: Channels | None = None
    """Number of basis styles; None takes as many as the first stage has channels, as published."""
    concentration: Rate | None = None
    """Concentration of the mixtures' Dirichlet distribution; None takes 1 / number of basis styles, as published."""
    memory: Channels = 2048
    """Styles of the last images trained on, from which the basis is chosen (ours; the paper's own code passes over the
    whole training set instead)."""
    refresh: Positive = 500
    """Iterations after which the basis is chosen anew (ours; published: every 3 epochs)."""


class OptimizerConfig(Section):
    """AdamW (0.9, 0.999) with linear warm-up and polynomial decay."""

    learning_rate: Rate = 6e-5
    """Highest learning rate of the encoder."""
    head_factor: Rate = 10.0
    """Learning rate of the decoder over that of the encoder."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """0 on norms."""
    warmup: Count = 1500
    """Iterations in which the rate rises from `warmup_ratio` of its value."""
    warmup_ratio: Share = 1e-6
    power: Rate = 1.0
    clip_norm: Rate | None = None
    """Gradients with a larger norm, over all weights together, are scaled down to it (ours)."""


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
    """Images per iteration over all devices and accumulated parts together."""
    accumulation: Positive = 1
    """Parts that a device's share of the batch passes through the network in, one after the other, to save memory.
    Every part has its own batch statistics, prototype update and `gap.max_pixels`; all else is as for the whole."""
    generated_share: Share | None = 0.5
    """Share of the drawn images that are generated, where the method uses them; None draws from source and generated
    images in proportion to their numbers (ours). Hardness and rare classes choose within each of the two."""
    minimum_alignment: Share = 0.0
    """Leave out generated images whose alignment with their label map is below this (ours)."""
    generated_shift: Annotated[int, Field(ge=0, le=1000)] = 0
    """Labels of generated crops are moved by this many px in a random direction: a known misalignment (ours)."""
    generated_size: tuple[Px, Px] | None = None
    """Height and width that generated images are resized to before the crop; None keeps their own. HRDA's crops of 1024
    px want (1024, 1024) for images of 512."""
    generated_limit: Positive | None = None
    """Train on this many of the generated images at most, the same for every method and seed; None takes all."""
    source_size: tuple[Px, Px] | None = (720, 1280)
    """Height and width that source images are resized to before the crop; None keeps their own."""
    source_keep_ratio: bool = False
    """Resize source images to fit into `source_size` and keep their ratio, as released (GTA's to 704 x 1280 px), not to
    exactly that size."""
    source_filter: Literal["antialiased", "released"] = "antialiased"
    """How source images shrink to `source_size`: each px from all that it covers, or as released from its four nearest
    ones, and labels by OpenCV's nearest px."""
    crop: tuple[Px, Px] = (512, 512)
    """Height and width of a training crop in px."""
    scale: Scale = 1.0
    """The network's input size over the image's (in px), in training and prediction."""
    rare_classes: bool = True
    """Draw source images by rare-class sampling, else uniformly. Under HAS it is the plain draw."""
    rare_class_temperature: Rate = 0.01
    rare_class_pixels: Count = 3000
    """An image counts as holding a class if its label file has more px of it than this."""
    rare_class_crop: Count = 1500
    """A crop that is drawn for a class should show more px of it than this (10 tries): half of `rare_class_pixels`; the
    released code takes four times as many for crops of 1024 px, whose images have twice the resolution."""
    source_pool: SourcePoolConfig | None = None
    """Train on source images that are chosen beforehand; None draws them on the fly from all."""
    crop_class_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """A crop in which one class covers this share of the labeled px or more is drawn again (10 tries); 1 takes every
    crop (released: 0.75)."""
    optimizer: OptimizerConfig = OptimizerConfig()
    ube: UbeConfig = UbeConfig()
    gap: GapConfig = GapConfig()
    has: HasConfig = HasConfig()
    feature_distance: FeatureDistanceConfig = FeatureDistanceConfig()
    shade: ShadeConfig = ShadeConfig()
    precision: Precision = "fp32"
    loss_limit: Rate = 100.0
    """A loss above this counts as diverged and stops the run (ours)."""
    block: Positive = 50
    """Iterations that are drawn together, then logged; hardness acts from the next but one block on, as the next is
    being loaded by then (ours)."""
    checkpoint_every: Positive = 1000
    validation_every: Positive = 4000
    validation_scenes: Count = 50
    """Source scenes held out of training to watch it; the same for every method and seed (ours)."""

    @model_validator(mode="after")
    def _details_align(self) -> Self:
        """HRDA's detail crop lies in the training crop, on whole cells of the context and whole px of the label."""
        if self.network.hrda is not None:
            detail, inputs = self.network.hrda.detail_crop, [side * self.scale for side in self.crop]
            if (8 / self.scale) % 1 or any(side % 8 for side in inputs) or any(map(gt, detail, inputs)):
                raise ValueError(
                    "HRDA needs 'crop' x 'scale' in multiples of 8 that hold 'detail_crop', and 'scale' to divide 8;"
                    f" got crop {list(self.crop)}, scale {self.scale}, detail_crop {list(detail)}"
                )
        return self

    @model_validator(mode="after")
    def _pool_is_drawn_by_rare_classes(self) -> Self:
        if self.source_pool is not None and not self.rare_classes:
            raise ValueError(
                "'source_pool' is chosen by rare-class sampling: set 'rare_classes' to true, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _rows_are_whole(self) -> Self:
        """Every method's changes give a valid section."""
        for name, method in self.methods.items():
            try:
                self.of(method)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                where = ".".join(str(part) for part in ("methods", name, "training", *first["loc"]))
                raise ValueError(f"{where}: {first['msg']}, got {first['input']!r}") from error
        return self

    def of(self, method: Method) -> Self:
        """The section as `method` trains by it: with its own changes, and without the table's rows and seeds."""
        if table := method.training.keys() & {"methods", "seeds"}:
            raise ValueError(f"a method's 'training' changes how it trains, not the table: remove {', '.join(table)}")
        own = self.model_dump(exclude={"methods", "seeds"})
        return self.model_validate({**merged(own, method.training), "methods": {}})
