"""Finds an encoder's published weights before long work. Imports neither torch nor transformers."""

from pathlib import Path

from pipeline.config.training import NetworkConfig
from pipeline.errors import UserError

_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")


def check_pretrained(config: NetworkConfig) -> None:
    """The weights of `network.pretrained` lie in a local folder or in the Hub's cache, or the Hub answers.

    UserError otherwise: one line on what to fetch and where to put it.
    """
    name = config.pretrained
    if name is None:
        return
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file() or not any((folder / file).is_file() for file in _WEIGHTS):
            raise UserError(
                f"training.network.pretrained {name}: the folder lacks config.json or {_WEIGHTS[0]}; wanted an encoder"
                " in transformers' layout, for instance what 'hf download nvidia/mit-b5 --local-dir FOLDER' writes"
            )
        return
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if any(isinstance(try_to_load_from_cache(name, file), str) for file in _WEIGHTS):
            return
        hf_hub_download(name, "config.json")
    except (OSError, HFValidationError) as error:  # offline, unknown, gated, or neither a folder nor a Hub name
        raise missing(name) from error


def missing(name: str) -> UserError:
    """What to do about an encoder that is neither here nor within reach."""
    return UserError(
        f"training.network.pretrained {name!r} is neither a local folder nor in the Hub's cache, and cannot be fetched:"
        f" where there is a network, run 'hf download {name} --local-dir FOLDER', bring the folder here and set"
        " training.network.pretrained to it; or set it to null for random weights"
    )
