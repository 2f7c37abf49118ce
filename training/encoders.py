"""Encoders from transformers: Mix Transformers (SegFormer, NeurIPS 2021) and ResNets, by name, sizes or weights."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, SegformerModel
from transformers.utils import logging

from pipeline.config.training import NetworkConfig
from pipeline.errors import UserError, one_line
from training.pretrained_encoders import find_pretrained

_MIT_DEPTHS = {
    "mit-b0": (2, 2, 2, 2),
    "mit-b1": (2, 2, 2, 2),
    "mit-b2": (3, 4, 6, 3),
    "mit-b3": (3, 4, 18, 3),
    "mit-b4": (3, 8, 27, 3),
    "mit-b5": (3, 6, 40, 3),
}
PUBLISHED = (*_MIT_DEPTHS, "resnet-101")
"""Encoders whose sizes are known by their name."""
_KINDS = ("segformer", "resnet")
_MOST_BLOCKS = 1000
"""Blocks of a stage (ours): published encoders have 40 at most, and a file may claim any number."""
_OF_THE_CLASSIFIER = {"id2label", "label2id", "architectures", "transformers_version"}
_UNREADABLE = (
    OSError, ValueError, TypeError, LookupError, RuntimeError, AttributeError, ArithmeticError, SafetensorError,
    StrictDataclassError,
)  # fmt: skip
"""What transformers raises on configs and weights that are damaged or not of the network that they claim to be."""
_OUTER_NORM = re.compile(r"layernorm_(before|after)$|^stages\.\d+\.layer_norm$")


def encoder_config(config: NetworkConfig) -> dict[str, Any]:
    """transformers' config of an encoder that starts from random weights."""
    if config.encoder == "resnet-101":
        return {"model_type": "resnet", "depths": [3, 4, 23, 3]}
    sizes = {
        "hidden_sizes": list(config.hidden_sizes),
        "depths": list(config.depths),
        "num_attention_heads": list(config.heads),
        "sr_ratios": list(config.reductions),
    }
    if config.encoder is not None:
        sizes = {
            "hidden_sizes": [32, 64, 160, 256] if config.encoder == "mit-b0" else [64, 128, 320, 512],
            "depths": list(_MIT_DEPTHS[config.encoder]),
            "num_attention_heads": [1, 2, 5, 8],
            "sr_ratios": [8, 4, 2, 1],
        }
    return {"model_type": "segformer", **sizes, "drop_path_rate": config.drop_path}


def build_encoder(config: Mapping[str, Any]) -> PreTrainedModel:
    """An encoder with random weights. `config` is transformers' config as a dict, its `model_type` included."""
    model: PreTrainedModel = AutoModel.from_config(AutoConfig.for_model(**config))
    return _with_published_eps(model)


def check_stored_encoder(config: Mapping[str, Any]) -> None:
    """ValueError unless an encoder of ours can be built from a config that was read from a file, and takes images."""
    if config.get("model_type") not in _KINDS:
        raise ValueError(f"the encoder is a {config.get('model_type')!r} model, wanted one of {_KINDS}")
    depths = config.get("depths", [])
    if not isinstance(depths, list) or not all(isinstance(n, int) and 0 < n <= _MOST_BLOCKS for n in depths):
        raise ValueError(f"the encoder has the depths {depths!r}, wanted 1 to {_MOST_BLOCKS} blocks in each stage")
    try:
        with torch.device("meta"), _quietly():  # its shapes alone
            stages(build_encoder(config), torch.empty(1, 3, 64, 64))
    except _UNREADABLE as error:
        raise ValueError(f"the encoder cannot be built: {one_line(error, 120)}") from error


def pretrained_encoder(name: str, drop_path: float) -> PreTrainedModel:
    """An encoder with the weights of a local folder or Hub name. UserError if it can't be had or is not whole."""
    folder = find_pretrained(name).folder
    try:
        config = _checked_config(name, folder)
        if config.model_type == "segformer":
            config.drop_path_rate = drop_path
        with _quietly():
            encoder, info = AutoModel.from_pretrained(
                folder, config=config, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
    except _UNREADABLE as error:
        raise UserError(
            f"training.network.pretrained {name!r} does not load ({one_line(error)}): fetch it again, or take another"
        ) from error
    if lacking := sorted(info["missing_keys"]):
        raise UserError(
            f"training.network.pretrained {name!r} lacks {len(lacking)} of the encoder's weights"
            f" ({', '.join(lacking[:3])}): fetch it again"
        )
    return _with_published_eps(encoder)


def published_config(name: str) -> dict[str, Any]:
    """What `build_encoder` needs to build the like of a local folder or Hub name, without its weights."""
    config = _checked_config(name, find_pretrained(name).folder).to_diff_dict()
    return {key: value for key, value in config.items() if key not in _OF_THE_CLASSIFIER}


def _checked_config(name: str, folder: Path) -> PreTrainedConfig:
    """The config of a folder or Hub name. UserError unless transformers itself has the network: Python code that lies
    beside the weights is never run (transformers would ask on the terminal, and take a piped 'y' for an answer)."""
    kind = PreTrainedConfig.get_config_dict(folder, local_files_only=True)[0].get("model_type")
    if kind not in _KINDS:
        raise UserError(
            f"training.network.pretrained {name!r} is a {kind!r} model, wanted one of {_KINDS} (code of its own is not"
            " run): take for instance nvidia/mit-b5 or microsoft/resnet-101"
        )
    config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return config


def config_of(encoder: PreTrainedModel) -> dict[str, Any]:
    """What `build_encoder` needs to build the like: transformers' config without the names of ImageNet's classes."""
    config: dict[str, Any] = encoder.config.to_diff_dict()
    return {key: value for key, value in config.items() if key not in _OF_THE_CLASSIFIER}


def stages(encoder: nn.Module, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Image (B,3,H,W) -> four feature maps (B,C_i,H_i,W_i) with strides 4, 8, 16, 32.

    DAFormer's ResNet-101 dilates its last two stages to stride 8 and costs several times more; ours has the strides
    it was pretrained with.
    """
    return tuple(encoder(image, output_hidden_states=True).hidden_states[-4:])


def _with_published_eps(encoder: PreTrainedModel) -> PreTrainedModel:
    """transformers builds a MiT's norms with torch's epsilon of 1e-5 and ignores its own `layer_norm_eps`: the
    released code has 1e-6 around attention, MLP and stages, and 1e-5 within patch embeddings and attention."""
    if isinstance(encoder, SegformerModel):
        for name, norm in encoder.named_modules():
            if isinstance(norm, nn.LayerNorm) and _OUTER_NORM.search(name):
                norm.eps = encoder.config.layer_norm_eps
    return encoder


@contextmanager
def _quietly() -> Iterator[None]:
    """Keeps transformers from reporting that a checkpoint's ImageNet classifier is left out."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # it takes a second and would tear our own bar
    try:
        yield
    finally:
        logging.set_verbosity(before)
