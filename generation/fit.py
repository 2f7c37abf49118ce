"""Whether the parts of a generator are of a kind that is painted with, and belong together: read in their configs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.weights import Palette
from pipeline.data.labels import NUM_CLASSES
from pipeline.errors import UserError, one_line

LARGEST = 1e30
"""A factor of a VAE lies below it (ours), so that float32 holds it."""
MOST_STEPS = 100_000
"""Longest noise schedule (ours): published ones have 1,000. A number without bound would fill the memory."""
KINDS = {"unet": "UNet2DConditionModel", "controlnet": "ControlNetModel", "vae": "AutoencoderKL"}
"""The diffusers class of each part."""


def check_fit(folders: Mapping[str, Path], palette: Palette | None) -> None:
    """UserError unless the parts are Stable Diffusion's kind, and a ControlNet takes label maps in a way that is known
    and was made for a U-Net of this shape."""
    vae, unet, controlnet = (read_json(folders[name] / "config.json") for name in ("vae", "unet", "controlnet"))
    _check_scale(folders["vae"] / "config.json", vae)
    _check_steps(folders["scheduler"] / "scheduler_config.json")
    for name, config in (("vae", vae), ("unet", unet), ("controlnet", controlnet)):
        if config.get("_class_name", KINDS[name]) != KINDS[name]:
            raise UserError(
                f"{folders[name]} is a {config['_class_name']}, wanted a {KINDS[name]}: take a {name} of the Stable"
                " Diffusion 1 or 2 family"
            )
    kinds = [unet.get(key) for key in ("addition_embed_type", "encoder_hid_dim_type")]
    if wants := [kind for kind in kinds if kind not in (None, "text")]:
        raise UserError(
            f"{folders['unet']} wants more than one text encoder gives ({wants[0]}, as SDXL's pooled text and time"
            " ids): take a prior of the Stable Diffusion 1 or 2 family"
        )
    if (channels := unet.get("in_channels", 4)) != (latents := vae.get("latent_channels", 4)):
        raise UserError(
            f"{folders['unet']} takes {channels} channels, but {folders['vae']} makes latents of {latents}: take a"
            " U-Net that paints from noise alone, not one for inpainting or editing"
        )
    for name in ("cross_attention_dim", "in_channels", "block_out_channels"):
        if unet.get(name) != controlnet.get(name):
            raise UserError(
                f"{folders['controlnet']} has {name} {controlnet.get(name)}, but the U-Net in {folders['unet']} has"
                f" {unet.get(name)}: take a ControlNet and a prior of the same family"
            )
    width, wanted = (
        read_json(folders["text_encoder"] / "config.json").get("hidden_size"),
        unet.get("cross_attention_dim"),
    )
    if None not in (width, wanted) and width != wanted:
        raise UserError(
            f"{folders['unet']} reads texts {wanted} wide, but {folders['text_encoder']} makes them {width} wide: take"
            " both from one prior"
        )
    _check_condition(folders["controlnet"], controlnet.get("conditioning_channels", 3), palette)


def _check_condition(folder: Path, channels: object, palette: Palette | None) -> None:
    if channels not in (NUM_CLASSES + 1, 3):
        raise UserError(
            f"{folder}: its conditions have {channels} channels, wanted {NUM_CLASSES + 1} (one-hot label map) or 3"
            " (label map in colors); take another ControlNet"
        )
    if channels == 3 and palette is None:
        raise UserError(
            f"{folder} takes pictures of 3 channels, and nothing in it says in what colors label maps are to be"
            " painted: set generation.weights {prior: ..., controlnet: ..., palette: ...} with cityscapes, ade20k or a"
            " table"
        )
    if channels != 3 and palette is not None:
        raise UserError(f"{folder} takes one-hot label maps, no pictures: leave generation.weights.palette out")


def _check_scale(path: Path, vae: Mapping[str, Any]) -> None:
    """UserError unless a VAE's config says by finite numbers how its latents are shifted and scaled."""
    scale, shift = vae.get("scaling_factor", 1.0), vae.get("shift_factor")
    for name, value, holds, wanted in (
        ("scaling_factor", scale, _is_finite(scale) and scale > 0, "a finite number above 0"),
        ("shift_factor", shift, shift is None or _is_finite(shift), "a finite number or null"),
    ):
        if not holds:
            shown = one_line(ValueError(value))
            raise UserError(f"{path} has a {name} of {shown}, wanted {wanted}: fetch or train the VAE again")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def _check_steps(path: Path) -> None:
    """UserError unless a noise schedule has a length."""
    steps = read_json(path).get("num_train_timesteps", 1)
    if isinstance(steps, bool) or not isinstance(steps, int) or not 0 < steps <= MOST_STEPS:
        raise UserError(
            f"{path} has num_train_timesteps of {one_line(ValueError(steps))}, wanted 1 to {MOST_STEPS:,}: fetch the"
            " prior again"
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a part, empty where there is none. UserError where it is damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not JSON ({one_line(error)}): fetch or train the network again") from error
