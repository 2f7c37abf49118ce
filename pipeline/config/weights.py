"""Which networks a generator is made of, and how they are trained: the `weights` section (`flexseg weights train`)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.base import Channels, Count, Positive, Px, Reference, Scale, Section, Share
from pipeline.data.labels import CLASS_NAMES

PROMPT, PLAIN_PROMPT = (
    "A city street scene with {classes}, in {weather} weather.",
    "A city street scene with {classes}.",
)
"""DGInStyle's prompts: the one of a weather, and the one that names none."""


Value = Annotated[int, Field(ge=0, le=255)]
Palette = Literal["cityscapes", "ade20k"] | dict[str, tuple[Value, Value, Value]]


class GeneratorParts(Section):
    """A generator put together from published parts.

    Each is a local folder or a place on the Hugging Face Hub, written REPO[@REVISION][/FOLDER]:
    `yurujaja/DGInStyle/ControlNet_UNet-S`, `stable-diffusion-v1-5/stable-diffusion-v1-5@main`.
    """

    prior: Reference
    """VAE, text encoder, tokenizer, U-Net and noise schedule in the layout of a diffusers pipeline."""
    controlnet: Reference
    unet: Reference | None = None
    """Another U-Net than the prior's. The source U-Net here turns style swap off."""
    palette: Palette | None = None
    """For a ControlNet that takes pictures (3 channels): the colors that its label maps had in training, those of
    Cityscapes, of ADE20K, or {class: [red, green, blue]} for each of the 19 classes. Ignored px are black."""

    @model_validator(mode="after")
    def _every_class_has_a_color(self) -> Self:
        if isinstance(self.palette, dict) and (wrong := set(self.palette) ^ set(CLASS_NAMES)):
            name = min(wrong)
            raise ValueError(
                f"palette {'lacks' if name in CLASS_NAMES else 'names'} {name!r}: give each of"
                f" {', '.join(CLASS_NAMES)} a color"
            )
        return self


class NetworkTraining(Section):
    """One training: AdamW whose learning rate warms up linearly over `warmup` steps."""

    steps: Positive
    """Updates of the weights."""
    batch_size: Positive = 16
    """Images per update, over all processes together."""
    accumulation: Positive = 1
    """Parts that a process runs its share of the batch in. More parts need less memory and give the same gradients."""
    learning_rate: Annotated[float, Field(gt=0)]
    warmup: Count = 100
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: half a cosine down to zero, or no change."""
    beta2: Share = 0.99
    """AdamW's decay of the squared gradients; 0.999 in DGInStyle's released code."""
    ema: Share = 0.0
    """Decay of the weights' exponential moving average, which is what is saved; 0 saves the last weights."""
    checkpoint_every: Positive = 100
    """Steps between two checkpoints, from which an interrupted training continues."""

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Self:
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size {self.batch_size} does not divide into {self.accumulation} equal parts")
        return self


class VaeTraining(NetworkTraining):
    """Image autoencoder: L1 + MSE + `gradient` x L1 of the image gradients + `kl` x KL per latent value."""

    channels: tuple[Channels, ...] = (24, 48, 64)
    latent_channels: Channels = 8
    crop: Px = 64
    """Side of the square training crops in px."""
    gradient: Annotated[float, Field(ge=0)] = 0.5
    kl: Annotated[float, Field(ge=0)] = 1e-3


class PriorTraining(NetworkTraining):
    """Text-conditional latent diffusion on the prior's world, with its text encoder."""

    channels: tuple[Channels, ...] = (64, 96, 128)
    text_width: Channels = 64
    text_layers: Channels = 2
    empty_share: Share = 0.1
    """Captions left empty, for classifier-free guidance."""
    plain_share: Share = 0.1
    """Captions that name no weather."""
    rare_share: Share = 0.5
    """Share of the crops that are drawn by rare-class sampling."""


class Scratch(Section):
    """VAE, text encoder and prior U-Net from nothing, on toy town. Sizes are (height, width) in px."""

    size: tuple[Px, Px] = (96, 192)
    """Size of the renders."""
    prior_images: Positive = 3200
    source_images: Positive = 1200
    vae: VaeTraining
    prior: PriorTraining


class FineTuning(NetworkTraining):
    """Diffusion training that starts from a prior: of the source U-Net, of the ControlNet."""

    rare_share: Share = 0.5
    """Share of the crops that are drawn by rare-class sampling (T = 0.01)."""
    area_balance: Share = 0.0
    """Weight of a cell's loss: 1 / (share of its crop that its class covers) to this power, scaled to a mean of 1 per
    crop (ours). 0 is the plain mean, in which a road counts for more than all persons."""
    height: Px | None = None
    """Height in px that the data set's images are resized to before a crop is cut; None keeps their own."""
    scales: Annotated[tuple[Scale, ...], Field(min_length=1)] = (1.0,)
    """Factors of the images' size, of which one is drawn for each image before its crop is cut (released for the source
    U-Net: 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""


class WeightsConfig(Section):
    """Everything that decides the weights: one of `prior_from` and `scratch`, then source U-Net and ControlNet.

    With `prior_from` the config's source data set is what is fine-tuned on; `scratch` brings its own renders.
    """

    seed: int = 0
    prior_from: Reference | None = None
    """A prior like `GeneratorParts.prior`, or a set that ships with flexseg."""
    scratch: Scratch | None = None
    init_from: Reference | None = None
    """A finished set like `prior_from`, from which `scratch` goes on: its VAE is kept, prior and ControlNet start with
    its weights. None starts with random ones."""
    crop: tuple[Px, Px] = (64, 128)
    """Height and width in px of the crops that the generator learns to make."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Number format in which the networks compute; weights, their averages and the optimizer's state stay float32."""
    source: FineTuning | str
    """How the source U-Net is trained, or where a trained one is: `yurujaja/DGInStyle/U-Net-Source-Finetuned`."""
    controlnet: FineTuning
    prompt: str = PLAIN_PROMPT
    """Text that the ControlNet sees beside a crop; `{classes}` are the names of the classes that the crop shows."""
    class_separator: str = ", "
    """Between the names in `{classes}`; DGInStyle's released code has a space."""

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.prior_from is None) == (self.scratch is None):
            raise ValueError(
                "give one of 'prior_from' (a published prior) and 'scratch' (VAE and prior from nothing on toy town)"
            )
        if self.init_from and not self.scratch:
            raise ValueError("'init_from' is what 'scratch' goes on from: leave it out, or use 'prior_from' alone")
        tunings = (self.source, self.controlnet)
        if self.scratch and any(isinstance(t, str) or t.height or t.scales != (1.0,) for t in tunings):
            raise ValueError(
                "'scratch' trains its own source U-Net on renders of 'scratch.size': leave out 'height' and 'scales'"
            )
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.scratch is None:
            return self
        vae, prior, size = self.scratch.vae, self.scratch.prior, self.scratch.size
        cell = 2 ** (len(vae.channels) - 1)
        multiple = cell * 2 ** (len(prior.channels) - 1)
        if any(side % multiple for side in self.crop):
            raise ValueError(f"crop must be a multiple of {multiple} px on both sides, got {list(self.crop)}")
        if any(side % cell for side in size) or any(c > s for c, s in zip(self.crop, size, strict=True)):
            raise ValueError(f"scratch.size must be a multiple of {cell} px and no smaller than crop, got {list(size)}")
        if vae.crop % cell or vae.crop > min(size):
            raise ValueError(f"vae.crop must be a multiple of {cell} px and fit into scratch.size, got {vae.crop}")
        return self


class Pretraining(NetworkTraining):
    """What ImageNet is to a published encoder, in toy town's world: classifying crops around objects of random towns
    under a clear sky. No target's style, no target's scene and no other weather is seen (ours)."""

    seed: int = 0
    images: Positive = 2000
    """Renders of the prior's world that crops are cut from."""
    test_images: Positive = 200
    """Further renders, for the accuracy on the card."""
    size: tuple[Px, Px] = (96, 192)
    """Height and width of a render in px."""
    side: Px = 64
    """Side in px of what the network sees; a multiple of 32."""
    crop: tuple[Px, Px] = (20, 64)
    """Shortest and longest side in px of the square crops, which are resized to `side`."""

    @model_validator(mode="after")
    def _crops_fit(self) -> Self:
        if self.side % 32 or not 1 < self.crop[0] <= self.crop[1] <= min(self.size):
            raise ValueError(
                f"wanted 'side' in multiples of 32 and 'crop' from 2 px to the render's height, ascending; got"
                f" {self.side} and {list(self.crop)}"
            )
        return self
