"""Finds an encoder's published weights before long work. Imports neither torch nor transformers."""

from pathlib import Path

from pipeline import hub
from pipeline.config.training import NetworkConfig
from pipeline.errors import UserError

KEY = "training.network.pretrained"
SHIPPED = Path(__file__).parent / "pretrained"
COMMIT = "commit "
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")


def encoder_folder(name: str) -> Path | None:
    """The folder on this machine that `name` means: of an encoder that ships with flexseg, or a local one; None for a
    name on the Hub."""
    if name in {path.name for path in SHIPPED.glob("*/")}:
        return SHIPPED / name
    return Path(name) if Path(name).is_dir() else None


def find_pretrained(name: str) -> hub.FoundFolder:
    """The folder with the encoder `name`: one that ships with flexseg, a local one, or a snapshot of a repository on
    the Hub, fetched if need be.

    UserError, one line on what to fetch and where to put it, where there is none.
    """
    found = hub.find(str(encoder_folder(name) or name), {"": (("config.json",), _WEIGHTS)}, KEY)
    folder = found.folder
    if not (folder / "config.json").is_file() or not any((folder / file).is_file() for file in _WEIGHTS):
        raise UserError(
            f"{KEY} {name}: the folder lacks config.json or {_WEIGHTS[0]}; wanted an encoder in transformers' layout,"
            " for instance what 'hf download nvidia/mit-b5 --local-dir FOLDER' writes"
        )
    return found


def encoder_commit(name: str) -> str | None:
    """The commit, as COMMIT and its digits, of the snapshot of the encoder `name` in the Hub's cache; None where there
    is none, or no such name. Fetches nothing."""
    found = hub.cached(name, {"": (("config.json",), _WEIGHTS)})
    return None if found is None else f"{COMMIT}{found.commit}"


def is_commit(key: str) -> bool:
    """Whether a fingerprint is a commit's, not a folder's."""
    return key.startswith(COMMIT)


def check_pretrained(config: NetworkConfig) -> None:
    """The weights of `network.pretrained`, if any, are here. UserError otherwise, see `find_pretrained`."""
    if config.pretrained is not None:
        find_pretrained(config.pretrained)
