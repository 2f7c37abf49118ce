"""Where a generator's weights are and what they are. Apart from `loading`, so that looking needs no torch."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from generation import hub
from pipeline.config.weights import GeneratorParts
from pipeline.data.labels import NUM_CLASSES
from pipeline.errors import UserError
from pipeline.files import file_sha256

PRETRAINED = Path(__file__).parent / "pretrained"
PRIOR = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
COMPONENTS = (*PRIOR, "controlnet")

Folders = dict[str, Path]
"""The folder of each component."""


def weights_folders(weights: GeneratorParts | str) -> Folders:
    """The folders of the generator that `generation.weights` names: a set that ships with flexseg, a folder on disk,
    or published parts, which are downloaded unless they are there.

    UserError where one is missing, or where ControlNet and U-Net do not fit together.
    """
    if isinstance(weights, str):
        folders = _whole(weights)
    else:
        key = "generation.weights"
        folders = prior_folders(weights.prior, f"{key}.prior")
        folders["controlnet"] = network_folder(weights.controlnet, "controlnet", f"{key}.controlnet")
        if weights.unet is not None:
            folders["unet"] = network_folder(weights.unet, "unet", f"{key}.unet")
    _check_fit(folders)
    return folders


def prior_folders(reference: str, key: str) -> Folders:
    """The folders of a prior's components; `key` is the config's key that holds `reference`."""
    folder = _local(reference)
    if folder is None:
        return hub.fetch(_on_hub(reference, key), {name: name for name in PRIOR}, key)
    missing = [name for name in PRIOR if not (folder / name).is_dir()]
    if missing:
        raise UserError(f"{key}: {folder} lacks {', '.join(missing)}; a prior needs the folders {', '.join(PRIOR)}")
    return {name: folder / name for name in PRIOR}


def network_folder(reference: str, component: str, key: str) -> Path:
    """The folder of one network; `key` is the config's key that holds `reference`."""
    folder = _local(reference)
    if folder is None:
        return hub.fetch(_on_hub(reference, key), {component: ""}, key)[component]
    if not (folder / "config.json").is_file() or weights_file(folder) is None:
        raise UserError(f"{key}: {folder} holds no network, which has a config.json and {hub.NETWORK[0]}")
    return folder


def weights_file(folder: Path) -> Path | None:
    """The file that a network in `folder` is read from; None where there is none, or several shards of one."""
    return next((folder / name for name in hub.WEIGHTS if (folder / name).is_file()), None)


def weights_fingerprint(weights: GeneratorParts | str) -> str:
    """sha256 over the names and bytes of the files that are read: what a generated data set's key depends on."""
    digest = hashlib.sha256(b"whole" if isinstance(weights, str) else b"parts")
    for component, folder in sorted(weights_folders(weights).items()):
        chosen = weights_file(folder)
        for path in sorted(folder.iterdir()):
            is_weights = path.suffix in {".safetensors", ".bin"} and chosen in (None, path)
            if path.suffix in {".json", ".txt"} or is_weights:
                digest.update(f"{component}/{path.name} {_sha256(path)}".encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    """The file's sha256. A large file in the Hub's cache is a link to a blob that is named by it."""
    name = path.resolve().name
    if path.is_symlink() and re.fullmatch("[0-9a-f]{64}", name):
        return name
    return file_sha256(path)


def _whole(weights: str) -> Folders:
    folder = _local(weights) or Path(weights)
    if not (folder / "model_index.json").is_file():
        known = ", ".join(sorted(p.name for p in PRETRAINED.glob("*/") if p.is_dir())) or "none"
        raise UserError(
            f"generation.weights is '{weights}', which is neither a set that ships with flexseg ({known}) nor a folder "
            "with a model_index.json: name one of them, give published parts ('prior' and 'controlnet'), or train one "
            "with 'flexseg weights train'"
        )
    missing = [name for name in COMPONENTS if not (folder / name).is_dir()]
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)}: a generator needs the folders {', '.join(COMPONENTS)}")
    return {name: folder / name for name in COMPONENTS}


def _local(reference: str) -> Path | None:
    return next((path for path in (PRETRAINED / reference, Path(reference)) if path.is_dir()), None)


def _on_hub(reference: str, key: str) -> hub.HubFolder:
    place = hub.parse(reference)
    if place is None:
        raise UserError(
            f"{key} is '{reference}', which is neither a folder here nor a place on the Hugging Face Hub"
            " (OWNER/NAME[@REVISION][/FOLDER]): mend it"
        )
    return place


def _check_fit(folders: Folders) -> None:
    """UserError unless the ControlNet takes label maps and was made for a U-Net of this shape."""
    unet, controlnet = (_config(folders[name]) for name in ("unet", "controlnet"))
    channels = controlnet.get("conditioning_channels", 3)
    if channels not in (NUM_CLASSES + 1, 3):
        raise UserError(
            f"{folders['controlnet']}: its conditions have {channels} channels, wanted {NUM_CLASSES + 1} (one-hot label"
            " map) or 3 (label map in colors); take another ControlNet"
        )
    for name in ("cross_attention_dim", "in_channels", "block_out_channels"):
        if unet.get(name) != controlnet.get(name):
            raise UserError(
                f"{folders['controlnet']} has {name} {controlnet.get(name)}, but the U-Net in {folders['unet']} has"
                f" {unet.get(name)}: take a ControlNet and a prior of the same family"
            )


def _config(folder: Path) -> dict[str, Any]:
    """The network's config.json, empty where there is none: loading will name what is missing."""
    path = folder / "config.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): fetch or train the network again") from error
