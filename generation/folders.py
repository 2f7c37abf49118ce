"""Where a generator's weights are and what they are. Apart from `models`, so that looking needs no torch."""

import hashlib
from pathlib import Path

from pipeline.errors import UserError

PRETRAINED = Path(__file__).parent / "pretrained"
COMPONENTS = ("vae", "text_encoder", "tokenizer", "unet", "controlnet", "scheduler")


def weights_folder(weights: str) -> Path:
    """The folder that `generation.weights` names: a set that ships with flexseg, or a folder on disk.

    Raises UserError where neither holds a complete generator.
    """
    shipped = PRETRAINED / weights
    folder = shipped if shipped.is_dir() else Path(weights)
    if not (folder / "model_index.json").is_file():
        known = ", ".join(sorted(p.name for p in PRETRAINED.glob("*/") if p.is_dir())) or "none"
        raise UserError(
            f"generation.weights is '{weights}', which is neither a set that ships with flexseg ({known}) nor a folder "
            "with a model_index.json: name one of them, or train one with 'flexseg weights train'"
        )
    missing = [name for name in COMPONENTS if not (folder / name).is_dir()]
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)}: a generator needs the folders {', '.join(COMPONENTS)}")
    return folder


def weights_fingerprint(weights: str) -> str:
    """sha256 over the names and bytes of the weights' files: what a generated data set's key depends on."""
    folder = weights_folder(weights)
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in {".json", ".safetensors", ".txt"}):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
