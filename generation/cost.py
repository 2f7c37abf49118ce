"""What painting would cost on a GPU, counted on the generator's networks without their weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

from generation.denoise import KEPT_HINTS, embedded_conditions
from generation.folders import Folders
from generation.paint import DECODED_PX
from generation.windows import grid
from pipeline.config.generation import GenerationConfig
from pipeline.config.machine import Machine
from pipeline.work.cost import Cost, counted, tensors_of

Size = tuple[int, int]
"""Height and width."""

TOKENS = 77
"""Tokens of a prompt, as CLIP has them."""


class GeneratorShapes(NamedTuple):
    """A generator's networks on torch's meta device: they have shapes and no weights. The text encoder is left out, as
    it reads every prompt once."""

    unet: UNet2DConditionModel
    controlnet: ControlNetModel
    vae: AutoencoderKL

    @property
    def cell(self) -> int:
        """Image px per latent cell."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def trained_cells(self) -> Size:
        """Height and width in cells that the U-Net was trained at."""
        size = self.unet.config.sample_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])


def shapes_of(folders: Folders, config: GenerationConfig) -> GeneratorShapes:
    """The networks in `folders` (see `folders.weights_folders`), by their configs alone, as `config` has them compute:
    U-Net and ControlNet in its precision, the VAE in float32."""
    with torch.device("meta"):
        unet, controlnet, vae = (
            kind.from_config(kind.load_config(folders[name], local_files_only=True)).eval().requires_grad_(False)
            for name, kind in (("unet", UNet2DConditionModel), ("controlnet", ControlNetModel), ("vae", AutoencoderKL))
        )
    if config.precision == "bf16":
        unet.bfloat16()
        controlnet.bfloat16()
    return GeneratorShapes(unet, controlnet, vae)


def network_call(
    shapes: GeneratorShapes, windows: int, window: Size, *, halves: int = 2, controlled: bool = True
) -> Cost:
    """One call of ControlNet (if `controlled`) and U-Net on `windows` windows of `window` cells, each once per half of
    the classifier-free guidance; conditions were embedded before. All networks' weights are in the memory."""
    unet, controlnet, samples = shapes.unet, shapes.controlnet, windows * halves
    latents = _meta(unet, samples, unet.config.in_channels, *window)
    text = _meta(unet, samples, TOKENS, unet.config.cross_attention_dim)
    hint = _meta(unet, samples, unet.config.block_out_channels[0], *window)
    t = torch.zeros((), device="meta", dtype=torch.int64)

    def call() -> object:
        residuals: dict[str, Any] = {}
        with embedded_conditions(controlnet):
            if controlled:
                down, mid = controlnet(latents, t, text, hint, return_dict=False)
                residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        return unet(latents, t, text, **residuals).sample

    return _counted(shapes, call)


def embedding(shapes: GeneratorShapes, windows: int, window: Size) -> Cost:
    """The ControlNet's embedding of the conditions of `windows` windows of `window` cells, once for all steps."""
    channels, (height, width) = shapes.controlnet.config.conditioning_channels, window
    labels = _meta(shapes.controlnet, windows, channels, height * shapes.cell, width * shapes.cell)
    return _counted(shapes, lambda: shapes.controlnet.controlnet_cond_embedding(labels))


def decoding(shapes: GeneratorShapes, images: int, cells: Size) -> Cost:
    """The VAE's decoding of the latents of `images` images, `cells` each, at once."""
    latents = _meta(shapes.vae, images, shapes.vae.config.latent_channels, *cells)
    return _counted(shapes, lambda: shapes.vae.decode(latents).sample)


def encoding(shapes: GeneratorShapes, images: int, cells: Size) -> Cost:
    """The VAE's encoding of `images` images at once, to `cells` each."""
    pixels = _meta(shapes.vae, images, 3, cells[0] * shapes.cell, cells[1] * shapes.cell)
    return _counted(shapes, lambda: shapes.vae.encode(pixels).latent_dist)


def painted_image(shapes: GeneratorShapes, config: GenerationConfig, machine: Machine) -> Cost:
    """The FLOPs of one image, and the memory of a worker that paints `machine.generation_batch` of them together.

    Of latent fusion's second pass all windows count, though those wholly on kept cells are left out; of a sparse cover
    as many as cover the canvas without overlap.
    """
    images = machine.generation_batch
    cells = config.size[0] // shapes.cell, config.size[1] // shapes.cell
    cost = _denoising(shapes, config, cells, images, images)
    decoded = min(images, max(1, DECODED_PX // (config.size[0] * config.size[1])))
    cost = cost.then(decoding(shapes, decoded, cells).times(images / decoded))
    if (fusion := config.fusion) is not None:
        canvas = cells[0] * fusion.upscale, cells[1] * fusion.upscale
        window = fusion.window or shapes.trained_cells
        window = min(window[0], canvas[0]), min(window[1], canvas[1])
        stride = fusion.stride if fusion.cover == "all" else min(window)
        windows = images * len(grid(canvas, window, stride))
        cost = cost.then(_denoising(shapes, config, window, windows, min(windows, machine.window_batch)))
        cost = cost.then(encoding(shapes, 1, canvas).times(images)).then(decoding(shapes, 1, canvas).times(images))
    return cost.times(1 / images)


def _denoising(shapes: GeneratorShapes, config: GenerationConfig, window: Size, windows: int, at_once: int) -> Cost:
    """All steps of a pass over `windows` windows, `at_once` of them in a call. Embedded conditions of all windows stay
    in memory, or are made at every step where they are too large."""
    halves, calls = 2 if config.guidance != 1 else 1, windows / at_once
    alone = config.steps if config.control_scale == 0 else round(config.control_start * config.steps)
    hints = windows * shapes.unet.config.block_out_channels[0] * window[0] * window[1] * shapes.unet.dtype.itemsize
    kept = hints <= KEPT_HINTS
    cost = embedding(shapes, at_once, window).times(calls * (1 if kept else config.steps - alone))
    for steps, controlled in ((config.steps - alone, True), (alone, False)):
        if steps:
            call = network_call(shapes, at_once, window, halves=halves, controlled=controlled)
            cost = cost.then(call.times(calls * steps))
    return cost._replace(memory=cost.memory + hints) if kept else cost


def _counted(shapes: GeneratorShapes, call: Callable[[], object]) -> Cost:
    with torch.inference_mode():
        return counted(call, tensors_of(*shapes))


def _meta(network: Any, *shape: int) -> torch.Tensor:
    """A tensor as the network takes it."""
    return torch.empty(*shape, device="meta", dtype=network.dtype)
