"""From noise to latents: the guided denoising loop in which the ControlNet drives the prior."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from diffusers import ControlNetModel
from torch import Tensor, nn

from generation.models import GeneratorNetworks
from generation.schedulers import Kept, draws_from, make_scheduler, noised
from generation.windows import Window
from pipeline.config.generation import GenerationConfig
from pipeline.work.in_flight import InFlight

AS_IT_IS = nn.Identity()  # one for all: a compiled ControlNet would be compiled again for another
KEPT_HINTS = 2**31
"""Bytes of embedded conditions that are kept from step to step (ours). Where they need more they are embedded anew at
every step, which gives the same and costs less than 1% of a step at Stable Diffusion's shape."""


class Views(NamedTuple):
    """All that the networks see in one step: windows, the text of their images (halves, B, tokens, D), the label maps
    (B, C, H, W) with `cell` px per cell, and in how many windows each cell lies (B, 1, h, w). `hints` are the windows'
    embedded conditions (n, C, h, w), None where they are too large to be kept: `embedding` makes them."""

    windows: Sequence[Window]
    text: Tensor
    condition: Tensor
    cell: int
    coverage: Tensor
    embedding: nn.Module
    hints: Tensor | None = None


@torch.inference_mode()
def denoise(
    networks: GeneratorNetworks,
    noise: Tensor,
    condition: Tensor,
    text: Tensor,
    config: GenerationConfig,
    *,
    windows: Sequence[Window] | None = None,
    kept: Kept | None = None,
    random: Sequence[torch.Generator] | None = None,
    window_batch: InFlight | int = 16,
) -> Tensor:
    """Latents (B, L, h, w) painted from unit `noise` of that shape.

    `condition` is the one-hot label map (B, 20, H, W); `text` (2, B, tokens, D) holds the embeddings of the empty
    prompts and of the prompts, for classifier-free guidance. With `windows` the networks see these alone, and where
    windows overlap their predictions are averaged (MultiDiffusion, Bar-Tal et al. 2023, eq. 5). After every step the
    cells of `kept` are replaced. `random`: a generator per image, for schedulers that draw noise. `window_batch` of the
    windows at most, or of the images where there are no windows, go through the networks in one call.
    """
    scheduler = make_scheduler(networks.scheduler, config, noise.device)
    latents = noise * scheduler.init_noise_sigma
    if windows is None:
        windows = [Window(image, 0, 0, *noise.shape[2:]) for image in range(len(noise))]
    if isinstance(window_batch, int):
        window_batch = InFlight("window", window_batch, "machine.window_batch", "take smaller windows")
    halves = text if config.guidance != 1 else text[1:]  # then the prompted half is all there is
    with embedded_conditions(networks.controlnet) as embedding:
        cell = condition.shape[-1] // noise.shape[-1]
        views = Views(windows, halves, condition, cell, coverage(windows, noise), embedding)
        views = views._replace(hints=hints_of(views, window_batch))
        for step, t in enumerate(scheduler.timesteps):
            # All windows look at the same latents, so their order does not matter and none sees another's result.
            inputs = scheduler.scale_model_input(latents, t)
            prediction = predict(networks, views, inputs, t, step, config, in_flight=window_batch)
            latents = scheduler.step(prediction, t, latents, **draws_from(scheduler, random)).prev_sample
            if kept is not None:
                # What the first pass made comes back as noisy as its surroundings are now, so that the next step
                # paints small things against it; after the last step it is there exactly.
                latents = torch.where(kept.cells, noised(scheduler, kept, step), latents)
    return latents


@contextmanager
def embedded_conditions(controlnet: ControlNetModel) -> Iterator[nn.Module]:
    """Inside, the ControlNet takes conditions that the given module has embedded, once instead of at every step."""
    embedding = controlnet.controlnet_cond_embedding
    controlnet.controlnet_cond_embedding = AS_IT_IS
    try:
        yield embedding
    finally:
        controlnet.controlnet_cond_embedding = embedding


def hints_of(views: Views, in_flight: InFlight) -> Tensor | None:
    """The embedded conditions of all windows (n, C, h, w), the same at every step; None where they are too large."""
    count = len(views.windows)
    hints = None
    for part, hint in in_flight.parts(lambda part: (part, hint_of(views, part)), count):
        if hint[0].nbytes * count > KEPT_HINTS:
            return None
        hints = hint.new_empty(count, *hint.shape[1:]) if hints is None else hints
        hints[part] = hint
    return hints


def hint_of(views: Views, part: slice) -> Tensor:
    """The embedded conditions (n, C, h, w) of some of the windows.

    A window's condition is cut before it is embedded: at a window's edge the embedding of a cut is not the cut of the
    embedding.
    """
    if views.hints is not None:
        return views.hints[part]
    cuts = torch.stack([window.cut(views.condition, views.cell) for window in views.windows[part]])
    return torch.as_tensor(views.embedding(cuts.to(next(views.embedding.parameters()).dtype)))


def coverage(windows: Sequence[Window], latents: Tensor) -> Tensor:
    """In how many windows each cell lies, (B, 1, h, w), but 1 where it lies in none."""
    count = torch.zeros_like(latents[:, :1])
    for window in windows:
        window.cut(count).add_(1)
    return count.clamp(min=1)


def predict(
    networks: GeneratorNetworks,
    views: Views,
    inputs: Tensor,
    t: Tensor,
    step: int,
    config: GenerationConfig,
    *,
    in_flight: InFlight,
) -> Tensor:
    """The guided prediction (B, L, h, w) for the whole canvas: the mean over the windows that hold a cell.

    For the first `config.control_start` of the steps the prior is alone, which lets it set the style (ours; 0 is
    DGInStyle).
    """
    alone = round(config.control_start * config.steps)
    scale = 0.0 if step < alone else config.control_scale
    total = torch.zeros_like(inputs)

    def guided(part: slice) -> tuple[slice, Tensor]:
        prediction = predict_part(networks, views, part, inputs, t, scale).float()
        if len(prediction) == 1:
            return part, prediction[0]
        # Classifier-free guidance: away from what the networks would paint without the prompt.
        empty, prompted = prediction
        return part, empty + config.guidance * (prompted - empty)

    for part, prediction in in_flight.parts(guided, len(views.windows)):
        # one after another: on a GPU index_add_ adds in an order of its own, and so rounds differently every time
        for window, cut in zip(views.windows[part], prediction, strict=True):
            window.cut(total).add_(cut)
    return total / views.coverage


def predict_part(
    networks: GeneratorNetworks, views: Views, part: slice, inputs: Tensor, t: Tensor, scale: float
) -> Tensor:
    """Predictions (halves, n, L, h, w) of the U-Net for some of the windows of `inputs`, in one call."""
    halves, windows, dtype = len(views.text), views.windows[part], networks.unet.dtype
    cuts = torch.stack([window.cut(inputs) for window in windows]).to(dtype).repeat(halves, 1, 1, 1)
    text = views.text[:, [window.image for window in windows]].to(dtype).flatten(0, 1)
    residuals = {} if scale == 0.0 else control(networks, cuts, t, text, hint_of(views, part), scale)
    prediction = networks.unet(cuts, t, encoder_hidden_states=text, **residuals).sample
    return prediction.unflatten(0, (halves, -1))


def control(
    networks: GeneratorNetworks, inputs: Tensor, t: Tensor, text: Tensor, hint: Tensor, scale: float
) -> dict[str, Tensor | list[Tensor]]:
    """The ControlNet's residuals for the U-Net. `hint` is the embedded condition, for all halves the same."""
    down, mid = networks.controlnet(
        inputs,
        t,
        encoder_hidden_states=text,
        controlnet_cond=hint.repeat(len(inputs) // len(hint), 1, 1, 1),
        conditioning_scale=scale,
        return_dict=False,
    )
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
