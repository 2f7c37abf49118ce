"""How flexseg's own tiny generator is trained: the `weights` section (`flexseg weights train`)."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from pipeline.config.base import Section

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Fit(Section):
    """One training. The learning rate warms up linearly over `warmup` steps and decays to zero along a cosine."""

    steps: Positive
    batch_size: Positive = 16
    learning_rate: Annotated[float, Field(gt=0)]
    warmup: Annotated[int, Field(ge=0)] = 100
    ema: Share = 0.0
    """Decay of the weights' exponential moving average, which is what is saved; 0 saves the last weights."""


class VaeTraining(Fit):
    """Image autoencoder: L1 + MSE + `gradient` x L1 of the image gradients + `kl` x KL per latent value."""

    channels: tuple[Positive, ...] = (24, 48, 64)
    latent_channels: Positive = 8
    crop: Positive = 64
    """Side of the square training crops in px."""
    gradient: Annotated[float, Field(ge=0)] = 0.5
    kl: Annotated[float, Field(ge=0)] = 1e-3


class PriorTraining(Fit):
    """Text-conditional latent diffusion on the prior's world, with its text encoder."""

    channels: tuple[Positive, ...] = (64, 96, 128)
    text_width: Positive = 64
    text_layers: Positive = 2
    empty_share: Share = 0.1
    """Captions left empty, for classifier-free guidance."""
    plain_share: Share = 0.1
    """Captions that name no weather."""


class WeightsConfig(Section):
    """Everything that decides the weights. Sizes are (height, width) in px."""

    seed: int = 0
    size: tuple[Positive, Positive] = (96, 192)
    """Size of the renders."""
    crop: tuple[Positive, Positive] = (64, 128)
    """Size of the crops that the generator learns to make."""
    prior_images: Positive = 3200
    source_images: Positive = 1200
    rare_share: Share = 0.5
    """Share of the crops that are drawn by rare-class sampling."""
    vae: VaeTraining
    prior: PriorTraining
    source: Fit
    controlnet: Fit

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        cell = 2 ** (len(self.vae.channels) - 1)
        multiple = cell * 2 ** (len(self.prior.channels) - 1)
        if any(side % multiple for side in self.crop):
            raise ValueError(f"crop must be a multiple of {multiple} px on both sides, got {list(self.crop)}")
        if any(side % cell for side in self.size) or any(c > s for c, s in zip(self.crop, self.size, strict=True)):
            raise ValueError(f"size must be a multiple of {cell} px and no smaller than crop, got {list(self.size)}")
        if self.vae.crop % cell or self.vae.crop > min(self.size):
            raise ValueError(f"vae.crop must be a multiple of {cell} px and fit into size, got {self.vae.crop}")
        return self
