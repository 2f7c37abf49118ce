"""LoRA weights of the prior U-Net, for instance those that need few steps."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import hub
from pipeline.errors import UserError
from pipeline.files import file_sha256

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"  # diffusers' and the Hub's


def lora_file(lora: str) -> Path:
    """The file that `generation.lora` names: itself, the only safetensors file of a folder, or one from the Hub, which
    is `pytorch_lora_weights.safetensors` where a repository or its folder is named instead of a file in it."""
    path = Path(lora).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            raise UserError(f"generation.lora is {lora}, a folder with {len(files)} safetensors files: name one file")
        return files[0]
    place, _, name = lora.rpartition("/") if lora.endswith(".safetensors") else (lora, "", WEIGHTS_NAME)
    return hub.find(place, {"": ((name,),)}, "generation.lora").folder / name


def lora_fingerprint(lora: str) -> str:
    """sha256 of the LoRA's file: a generated data set's key depends on it."""
    return file_sha256(lora_file(lora))


def merge_lora(unet: "UNet2DConditionModel", lora: str, scale: float) -> None:
    """Add the LoRA, times `scale`, to the U-Net's weights, so that it costs nothing afterwards."""
    from diffusers import StableDiffusionControlNetPipeline as Pipeline

    file = lora_file(lora)
    try:
        state, alphas = Pipeline.lora_state_dict(str(file.parent), weight_name=file.name, unet_config=unet.config)
        Pipeline.load_lora_into_unet(state, alphas, unet, adapter_name="lora")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"generation.lora {file} does not fit the U-Net of generation.weights ({reason})") from error
    unet.fuse_lora(lora_scale=scale)
    unet.unload_lora()
