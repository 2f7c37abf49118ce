"""Where a generator's weights are and what they are. Apart from `loading`, so that looking needs no torch."""

import hashlib
import json
import re
from pathlib import Path

from generation.fit import check_fit, read_json
from pipeline import hub
from pipeline.config.weights import GeneratorParts
from pipeline.errors import UserError
from pipeline.files import file_sha256, write_json

PRETRAINED = Path(__file__).parent / "pretrained"
PRIOR = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
COMPONENTS = (*PRIOR, "controlnet")
LAYOUT, LAYOUT_VERSION = "flexseg.json", 1
"""A file beside each network that flexseg trains, and the version in it. Raise it when the channels of a condition, or
how the networks work together, change so that older ones would paint wrongly. Published networks have no such file."""

NETWORK_FILES = tuple(
    f"diffusion_pytorch_model{end}" for end in (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin")
)
ENCODER_FILES = ("model.safetensors", "model.fp16.safetensors", "pytorch_model.bin", "pytorch_model.fp16.bin")
"""Names of weight files in the order in which they are preferred: full precision, as published, and safetensors."""
NEEDED = {
    "vae": (("config.json",), NETWORK_FILES),
    "unet": (("config.json",), NETWORK_FILES),
    "controlnet": (("config.json",), NETWORK_FILES),
    "text_encoder": (("config.json",), ENCODER_FILES),
    "tokenizer": (("tokenizer_config.json",), ("vocab.json", "tokenizer.json"), ("merges.txt", "tokenizer.json")),
    "scheduler": (("scheduler_config.json",),),
}
"""The files of each component; one of each group is enough, the first that there is."""

Folders = dict[str, Path]
"""The folder of each component."""


def weights_folders(weights: GeneratorParts | str) -> Folders:
    """The folders of the generator that `generation.weights` names: a set that ships with flexseg, a folder on disk,
    or published parts, which are downloaded unless they are there.

    UserError where one is missing or incomplete, is of a kind that is not painted with, or where they do not fit
    together.
    """
    if isinstance(weights, str):
        folders = _whole(weights)
    else:
        key = "generation.weights"
        folders = prior_folders(weights.prior, f"{key}.prior")
        folders["controlnet"] = network_folder(weights.controlnet, "controlnet", f"{key}.controlnet")
        if weights.unet is not None:
            folders["unet"] = network_folder(weights.unet, "unet", f"{key}.unet")
    for component, folder in folders.items():
        _check_complete(component, folder)
        _check_layout(folder)
    check_fit(folders, palette=None if isinstance(weights, str) else weights.palette)
    return folders


def prior_folders(reference: str, key: str) -> Folders:
    """The folders of a prior's components; `key` is the config's key that holds `reference`."""
    folder, commit = _shipped(reference) or hub.find(reference, {name: NEEDED[name] for name in PRIOR}, key)
    missing = [] if commit else [name for name in PRIOR if not (folder / name).is_dir()]
    if missing:
        raise UserError(f"{key}: {folder} lacks {', '.join(missing)}; a prior needs the folders {', '.join(PRIOR)}")
    return {name: folder / name for name in PRIOR}


def network_folder(reference: str, component: str, key: str) -> Path:
    """The folder of one network; `key` is the config's key that holds `reference`."""
    folder, _ = _shipped(reference) or hub.find(reference, {"": NEEDED[component]}, key)
    if not (folder / "config.json").is_file() or weights_file(folder) is None:
        raise UserError(f"{key}: {folder} holds no network, which has a config.json and {NETWORK_FILES[0]}")
    return folder


def write_layout(folder: Path) -> None:
    """Note in a network's folder the layout version that this flexseg trains."""
    write_json(folder / LAYOUT, {"layout_version": LAYOUT_VERSION})


def weights_file(folder: Path) -> Path | None:
    """The file that a network in `folder` is read from; None where there is none, or several shards of one."""
    return next((folder / name for name in (*NETWORK_FILES, *ENCODER_FILES) if (folder / name).is_file()), None)


def weights_fingerprint(weights: GeneratorParts | str) -> str:
    """sha256 over the names and bytes of the files that are read: what a generated data set's key depends on."""
    digest = hashlib.sha256(b"whole" if isinstance(weights, str) else b"parts")
    for component, folder in sorted(weights_folders(weights).items()):
        chosen = weights_file(folder)
        for path in sorted(folder.iterdir()):
            is_weights = path.suffix in {".safetensors", ".bin"} and chosen in (None, path)
            if path.suffix in {".json", ".txt"} or is_weights:
                digest.update(f"{component}/{path.name} {_sha256(path)}".encode())
    if isinstance(weights, GeneratorParts) and weights.palette is not None:
        digest.update(json.dumps(weights.palette, sort_keys=True).encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    """The file's sha256. A large file in the Hub's cache is a link to a blob that is named by it."""
    name = path.resolve().name
    if path.is_symlink() and re.fullmatch("[0-9a-f]{64}", name):
        return name
    return file_sha256(path)


def _whole(weights: str) -> Folders:
    shipped = _shipped(weights)
    folder = shipped.folder if shipped else Path(weights).expanduser()
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


def _shipped(reference: str) -> hub.FoundFolder | None:
    """A set that ships with flexseg, or a network's folder in one; None for anything else."""
    sets = {(path.name,) for path in PRETRAINED.glob("*/")}
    folder = PRETRAINED / reference
    return hub.FoundFolder(folder, None) if Path(reference).parts[:1] in sets and folder.is_dir() else None


def _check_layout(folder: Path) -> None:
    version = read_json(folder / LAYOUT).get("layout_version", LAYOUT_VERSION)
    if version != LAYOUT_VERSION:
        newer = isinstance(version, int) and version > LAYOUT_VERSION
        raise UserError(
            f"{folder} was trained by {'a newer' if newer else 'another'} flexseg (layout version {version!r}, this one"
            f" reads {LAYOUT_VERSION}): {'install that flexseg or a newer one' if newer else 'train it again'}"
        )


def _check_complete(component: str, folder: Path) -> None:
    """UserError unless the files of a component are there; of weights in several files all that their index names."""
    for group in NEEDED[component]:
        indexes = [folder / f"{name}.index.json" for name in group if (folder / f"{name}.index.json").is_file()]
        names = {str(name) for index in indexes for name in read_json(index).get("weight_map", {}).values()}
        if not indexes and any((folder / name).is_file() for name in group):
            continue
        lacking = sorted(name for name in names if not (folder / name).is_file()) if names else [group[0]]
        if lacking:
            raise UserError(f"{folder} is incomplete, it lacks {lacking[0]}: fetch or train the {component} again")
