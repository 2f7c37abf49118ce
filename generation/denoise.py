"""From noise to latents: the guided denoising loop in which the ControlNet drives the prior."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from diffusers import ControlNetModel
from torch import Tensor, nn

from generation.models import GeneratorNetworks
from generation.schedulers import Kept, draws_from, make_scheduler, noised
from generation.windows import Window
from pipeline.config.generation import GenerationConfig

AS_IT_IS = nn.Identity()  # one for all: a compiled ControlNet would be compiled again for another


class Group(NamedTuple):
    """Windows that go through the networks together, with what is the same for them at every step: text embeddings
    (halves, n, tokens, D) and embedded conditions (n, C, h, w)."""

    windows: Sequence[Window]
    text: Tensor
    hint: Tensor


class Views(NamedTuple):
    """All that the networks see in one step: groups of windows, and in how many windows each cell lies (B, 1, h, w)."""

    groups: Sequence[Group]
    coverage: Tensor


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
    window_batch: int = 16,
) -> Tensor:
    """Latents (B, L, h, w) painted from unit `noise` of that shape.

    `condition` is the one-hot label map (B, 20, H, W); `text` (2, B, tokens, D) holds the embeddings of the empty
    prompts and of the prompts, for classifier-free guidance. With `windows` the networks see these alone, and where
    windows overlap their predictions are averaged (MultiDiffusion, Bar-Tal et al. 2023, eq. 5). After every step the
    cells of `kept` are replaced. `random`: a generator per image, for schedulers that draw noise. At most
    `window_batch` of the windows go through the networks in one call.
    """
    scheduler = make_scheduler(networks.scheduler, config, noise.device)
    latents = noise * scheduler.init_noise_sigma
    if windows is None:
        windows, limit = [Window(image, 0, 0, *noise.shape[2:]) for image in range(len(noise))], len(noise)
    else:
        limit = window_batch
    halves = text if config.guidance != 1 else text[1:]  # then the prompted half is all there is
    with embedded_conditions(networks.controlnet) as embedding:
        # What is the same at every step is made once: cuts of the condition, embedded, and text for every window.
        groups = make_groups(windows, limit, condition, halves, condition.shape[-1] // noise.shape[-1], embedding)
        views = Views(groups, coverage(windows, noise))
        for step, t in enumerate(scheduler.timesteps):
            # All windows look at the same latents, so their order does not matter and none sees another's result.
            inputs = scheduler.scale_model_input(latents, t)
            prediction = predict(networks, views, inputs, t, step, config)
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


def make_groups(
    windows: Sequence[Window], limit: int, condition: Tensor, text: Tensor, cell: int, embedding: nn.Module
) -> list[Group]:
    """The windows in groups of `limit` at most and of about equal sizes. `cell` is in px of `condition`.

    A window's condition is cut before it is embedded: at a window's edge the embedding of a cut is not the cut of the
    embedding.
    """
    weight = next(embedding.parameters())
    groups = []
    for part in np.array_split(np.arange(len(windows)), max(1, -(-len(windows) // limit))):
        members = [windows[k] for k in part]
        if members:
            cuts = torch.stack([window.cut(condition, cell) for window in members])
            images = [window.image for window in members]
            groups.append(Group(members, text[:, images].to(weight.dtype), embedding(cuts.to(weight.dtype))))
    return groups


def coverage(windows: Sequence[Window], latents: Tensor) -> Tensor:
    """In how many windows each cell lies, (B, 1, h, w), but 1 where it lies in none."""
    count = torch.zeros_like(latents[:, :1])
    for window in windows:
        window.cut(count).add_(1)
    return count.clamp(min=1)


def predict(
    networks: GeneratorNetworks, views: Views, inputs: Tensor, t: Tensor, step: int, config: GenerationConfig
) -> Tensor:
    """The guided prediction (B, L, h, w) for the whole canvas: the mean over the windows that hold a cell.

    For the first `config.control_start` of the steps the prior is alone, which lets it set the style (ours; 0 is
    DGInStyle).
    """
    alone = round(config.control_start * config.steps)
    scale = 0.0 if step < alone else config.control_scale
    total = torch.zeros_like(inputs)
    for group in views.groups:
        prediction = predict_group(networks, group, inputs, t, scale).float()
        if len(prediction) == 1:
            guided = prediction[0]
        else:
            # Classifier-free guidance: away from what the networks would paint without the prompt.
            empty, prompted = prediction
            guided = empty + config.guidance * (prompted - empty)
        # one after another: on a GPU index_add_ adds in an order of its own, and so rounds differently every time
        for window, part in zip(group.windows, guided, strict=True):
            window.cut(total).add_(part)
    return total / views.coverage


def predict_group(networks: GeneratorNetworks, group: Group, inputs: Tensor, t: Tensor, scale: float) -> Tensor:
    """Predictions (halves, n, L, h, w) of the U-Net for a group of windows of `inputs`, in one call."""
    halves = len(group.text)
    cuts = torch.stack([window.cut(inputs) for window in group.windows]).to(group.text.dtype)
    cuts, hint, text = cuts.repeat(halves, 1, 1, 1), group.hint.repeat(halves, 1, 1, 1), group.text.flatten(0, 1)
    residuals = control(networks, cuts, t, text, hint, scale)
    prediction = networks.unet(cuts, t, encoder_hidden_states=text, **residuals).sample
    return prediction.unflatten(0, (halves, -1))


def control(
    networks: GeneratorNetworks, inputs: Tensor, t: Tensor, text: Tensor, hint: Tensor, scale: float
) -> dict[str, Tensor | list[Tensor]]:
    """The ControlNet's residuals for the U-Net, none where `scale` is 0. `hint` is the embedded condition."""
    if scale == 0.0:
        return {}
    down, mid = networks.controlnet(
        inputs, t, encoder_hidden_states=text, controlnet_cond=hint, conditioning_scale=scale, return_dict=False
    )
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
