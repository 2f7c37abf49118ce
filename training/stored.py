"""A trained segmenter's folder, which may come from anywhere: what it says is checked before a network is built."""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError

from pipeline.config.base import Channels, Scale, Section, Share
from pipeline.config.training import HrdaConfig
from pipeline.errors import UserError, one_line
from training.encoders import check_stored_encoder
from training.foreign_files import read_tensors
from training.networks import Segmenter, check_layout


class _StoredConfig(Section):
    """What config.json holds: the arguments of `Segmenter`."""

    encoder: dict[str, Any]
    channels: Channels = 256
    dropout: Share = 0.1
    classes: Annotated[int, Field(gt=0, le=255)]
    hrda: HrdaConfig | None = None
    scale: Scale = 1.0
    layout_version: int = 1


def load_segmenter(folder: Path, device: str) -> Segmenter:
    """The network that `Segmenter.save_pretrained` has written into `folder`, in eval mode.

    UserError: no such folder, one of another layout, a config or weights that are damaged, something else, or of
    another network. Nothing is allocated beyond what the weights' file holds.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no trained segmenter (config.json, model.safetensors): train one first")
    config = _config(folder)
    with torch.device("meta"):  # shapes without numbers: the numbers are the file's
        segmenter = Segmenter(**config.model_dump(mode="json"))
    wanted = segmenter.state_dict()
    try:
        weights = read_tensors(folder / "model.safetensors")
    except UserError as error:
        raise _no_segmenter(folder, one_line(error, 200)) from error
    wrong = sorted(wanted.keys() ^ weights.keys()) or [n for n, w in wanted.items() if w.shape != weights[n].shape]
    if wrong:
        raise _no_segmenter(folder, f"{len(wrong)} weights are missing, unknown or of other sizes, as {wrong[0]:.80}")
    segmenter.to_empty(device=device)
    segmenter.load_state_dict(weights)
    # A GPU's matrix units take channels last; on a CPU it only costs.
    layout = torch.channels_last if torch.device(device).type == "cuda" else torch.preserve_format
    return segmenter.to(memory_format=layout).eval()


def _config(folder: Path) -> _StoredConfig:
    """UserError unless config.json is that of a segmenter whose network can be built."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if isinstance(content, dict):  # first: whatever else another layout holds would only give a list of names
            check_layout(str(folder), content.get("layout_version", 1))
        config = _StoredConfig.model_validate(content)
        check_stored_encoder(config.encoder)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise _no_segmenter(folder, one_line(ValueError(f"config.json, {field}: {first['msg']}"), 200)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _no_segmenter(folder, f"config.json: {one_line(error, 120)}") from error
    return config


def _no_segmenter(folder: Path, reason: str) -> UserError:
    return UserError(
        f"{folder} holds no segmenter of flexseg, or not all of it ({reason}): wanted what flexseg train or flexseg"
        " convert has written"
    )
