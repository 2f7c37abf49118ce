"""Segmenters by others, as further rows of the table: transformers models with the 19 Cityscapes classes."""

from pathlib import Path
from typing import Any

import torch
from pydantic_core import from_json
from safetensors import SafetensorError

from evaluation.inference import Network
from pipeline import hub
from pipeline.data.labels import CLASS_NAMES, NUM_CLASSES
from pipeline.errors import UserError, one_line

FILES = (("config.json",), ("preprocessor_config.json",), ("model.safetensors", "model.safetensors.index.json"))


def is_transformers(folder: Path) -> bool:
    """Whether the model in a folder is in transformers' layout (ours has no `model_type` in its config.json)."""
    return "model_type" in _json_object(folder / "config.json")


def locate(name: str) -> Path:
    """The folder of a model that is named by its folder or by its name on the Hugging Face Hub, fetched if need be.

    UserError where it is neither here nor to be had.
    """
    return hub.find(name, {"": FILES}, "model").folder


def transformers_network(folder: Path, device: torch.device) -> Network:
    """The model of a folder behind its own image normalization: (B,3,H,W) float RGB in 0..255 -> logits (B,19,h,w).

    UserError unless it is a model for semantic segmentation with Cityscapes' 19 classes in their order.
    """
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    # Asked for code of the folder's own, transformers would offer on the terminal to run it; pickles may run code too.
    safe = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, loading = AutoModelForSemanticSegmentation.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **safe
        )
        processor = AutoImageProcessor.from_pretrained(folder, **safe)
    except (OSError, ValueError, SafetensorError) as error:
        if files := _own_code(folder):
            raise UserError(
                f"{folder} wants Python code of its own to be run ({files} name it in auto_map), which flexseg never"
                " does: give a model of a type that transformers itself has"
            ) from error
        raise UserError(
            f"{folder} is no transformers model for semantic segmentation with its image processor"
            f" ({one_line(error, 160)}); wanted config.json, preprocessor_config.json and safetensors"
        ) from error
    _check_weights(folder, loading)
    _check_classes(folder, model.config.id2label)
    scale, (mean, std) = _rescale(processor), _normalization(processor)
    mean, std = (values.to(device) for values in (mean, std))
    model = model.to(device).eval()

    def logits(image: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(model(pixel_values=(image * scale - mean) / std).logits)

    return logits


def _own_code(folder: Path) -> str:
    """The files of a folder that name Python code which comes with the model; empty where none does."""
    names = ("config.json", "preprocessor_config.json", "processor_config.json")
    return " and ".join(name for name in names if "auto_map" in _json_object(folder / name))


def _json_object(file: Path) -> dict[str, object]:
    """What a JSON file holds; nothing where it is not there, is damaged or holds no object."""
    try:
        content = from_json(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _check_weights(folder: Path, loading: dict[str, Any]) -> None:
    """Weights that the files lack would be random numbers, of which transformers tells its log alone."""
    lacking = sorted(map(str, [*loading.get("missing_keys", ()), *loading.get("mismatched_keys", ())]))
    if lacking:
        raise UserError(
            f"{folder}: {len(lacking)} of the model's weights are not in its files or have another shape, for instance"
            f" {lacking[0]}; fetch it again"
        )


def _check_classes(folder: Path, id2label: dict[int, str]) -> None:
    """A class in another place would be scored as another class; default names (LABEL_0) say nothing."""
    names = [id2label[k].lower() for k in sorted(id2label)]
    if len(names) != NUM_CLASSES:
        raise UserError(f"{folder}: the model knows {len(names)} classes, wanted Cityscapes' {NUM_CLASSES}")
    wrong = [
        f"{name!r} in the place of {wanted!r}"
        for name, wanted in zip(names, CLASS_NAMES, strict=True)
        if name != wanted and not name.startswith("label_")
    ]
    if wrong:
        raise UserError(f"{folder}: the model's classes are not Cityscapes' 19 in their order ({wrong[0]})")


def _rescale(processor: object) -> float:
    return float(getattr(processor, "rescale_factor", 1 / 255)) if getattr(processor, "do_rescale", True) else 1.0


def _normalization(processor: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation, (3,1,1)."""
    if not getattr(processor, "do_normalize", True):
        return torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    mean, std = (torch.tensor(getattr(processor, name)).view(3, 1, 1) for name in ("image_mean", "image_std"))
    return mean, std
