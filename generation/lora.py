"""LoRA weights of the prior U-Net, for instance those that need few steps."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from pipeline import hub
from pipeline.errors import UserError, one_line
from pipeline.files import file_sha256

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"  # diffusers' and the Hub's


def lora_file(lora: str) -> Path:
    """The file that `generation.lora` names: itself, the only safetensors file of a folder, or one from the Hub, which
    is `pytorch_lora_weights.safetensors` where a repository or its folder is named instead of a file in it.

    UserError where there is none, and where it holds no tensors.
    """
    file = _located(lora)
    try:
        with safe_open(file, "numpy") as content:
            tensors = len(content.keys())
    except (OSError, SafetensorError) as error:
        raise UserError(f"generation.lora {file} is no safetensors file ({one_line(error)}): fetch it again") from error
    if tensors == 0:
        raise UserError(f"generation.lora {file} holds no tensors, so it would change nothing: name another file")
    return file


def lora_fingerprint(lora: str) -> str:
    """sha256 of the LoRA's file: a generated data set's key depends on it."""
    return file_sha256(lora_file(lora))


def merge_lora(unet: "UNet2DConditionModel", lora: str, scale: float) -> None:
    """Add the LoRA, times `scale`, to the U-Net's weights, so that it costs nothing afterwards.

    UserError where nothing of it belongs to this U-Net; what does not, beside what does, is named on stderr.
    """
    from diffusers import StableDiffusionControlNetPipeline as Pipeline

    file = lora_file(lora)
    try:
        state, alphas = Pipeline.lora_state_dict(str(file.parent), weight_name=file.name, unet_config=unet.config)
        layers = {_layer(name) for name in state}
        left_out = sorted(layers - {f"unet.{name}" for name, _ in unet.named_modules()})
        if len(left_out) == len(layers):
            raise UserError(
                f"generation.lora {file} has no layer of the U-Net of generation.weights, it would change nothing (its"
                f" layers: {_some(left_out)}): name one for a U-Net of this kind"
            )
        state, alphas = (_without(left_out, values) for values in (state, alphas))
        Pipeline.load_lora_into_unet(state, alphas, unet, adapter_name="lora")
    except (OSError, ValueError, KeyError, RuntimeError, IndexError) as error:
        raise UserError(
            f"generation.lora {file} does not fit the U-Net of generation.weights ({one_line(error)}): name another"
        ) from error
    if left_out:
        print(
            f"flexseg: generation.lora {file}: {len(left_out)} of {len(layers)} layers are not the U-Net's and"
            f" are left out ({_some(left_out)})",
            file=sys.stderr,
        )
    unet.fuse_lora(lora_scale=scale)
    unet.unload_lora()


def _located(lora: str) -> Path:
    path = Path(lora).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix == ".safetensors")
        if len(files) != 1:
            raise UserError(f"generation.lora is {lora}, a folder with {len(files)} safetensors files: name one file")
        return files[0]
    place, _, name = lora.rpartition("/") if lora.endswith(".safetensors") else (lora, "", WEIGHTS_NAME)
    return hub.find(place, {"": ((name,),)}, "generation.lora").folder / name


def _layer(name: str) -> str:
    """The layer that a tensor of a LoRA belongs to: `unet.` or `text_encoder.`, then its path in that network."""
    return name.split(".lora", 1)[0].removesuffix(".alpha")


def _without(layers: list[str], values: dict[str, Any] | None) -> dict[str, Any] | None:
    return values and {name: value for name, value in values.items() if _layer(name) not in layers}


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
