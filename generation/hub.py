"""Weights on the Hugging Face Hub: found in its cache, else downloaded, else one line that says what to fetch."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import UserError

NETWORK = tuple(f"diffusion_pytorch_model{end}" for end in (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin"))
ENCODER = ("model.safetensors", "model.fp16.safetensors", "pytorch_model.bin", "pytorch_model.fp16.bin")
WEIGHTS = (*NETWORK, *ENCODER)
"""Names of weight files in the order in which they are preferred: full precision, as published, and safetensors."""
NEEDED = {
    "vae": (("config.json",), NETWORK),
    "unet": (("config.json",), NETWORK),
    "controlnet": (("config.json",), NETWORK),
    "text_encoder": (("config.json",), ENCODER),
    "tokenizer": (("tokenizer_config.json",), ("vocab.json", "tokenizer.json"), ("merges.txt", "tokenizer.json")),
    "scheduler": (("scheduler_config.json",),),
}
"""The files of each component; one of each group is enough, the first that there is."""


class HubFolder(NamedTuple):
    """A folder of a repository, or with an empty `folder` its root."""

    repo: str
    revision: str | None
    folder: str

    def path(self, *parts: str) -> str:
        """The path of what lies below this folder, from the repository's root."""
        return "/".join(part for part in (self.folder, *parts) if part)


def parse(reference: str) -> HubFolder | None:
    """REPO[@REVISION][/FOLDER], where REPO is OWNER/NAME; None for anything else."""
    match = re.fullmatch(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([^/]+))?(?:/(.+?))?/?", reference)
    return HubFolder(match[1], match[2], match[3] or "") if match else None


def fetch(place: HubFolder, components: Mapping[str, str], key: str) -> dict[str, Path]:
    """The local folders of `components` (name -> folder below `place`), downloaded where the cache lacks them.

    `key` is the config's key that names the place. UserError, one line with the command that fetches them, where the
    Hub cannot be reached or does not hold them. HF_HOME and HF_HUB_OFFLINE are obeyed; downloads resume.
    """
    found = _cached(place, components)
    if found is None:
        _download(place, components, key)
        found = _cached(place, components)
    if found is None:
        raise UserError(f"{key}: the download of {place.repo} is incomplete; run the same command again")
    return found


def _cached(place: HubFolder, components: Mapping[str, str]) -> dict[str, Path] | None:
    """The components' folders in the Hub's cache; None unless all their files are there."""
    from huggingface_hub import try_to_load_from_cache

    folders = {}
    for component, below in components.items():
        for names in NEEDED[component]:
            paths = (
                try_to_load_from_cache(place.repo, place.path(below, name), revision=place.revision) for name in names
            )
            file = next((path for path in paths if isinstance(path, str)), None)
            if file is None:
                return None
            folders[component] = Path(file).parent
    return folders


def _download(place: HubFolder, components: Mapping[str, str], key: str) -> None:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    # The first base is the error of the HTTP library, another one in each major version: a host that is not there.
    unreachable: Any = (*HfHubHTTPError.__bases__, ValueError)
    try:
        there = {file.rfilename for file in HfApi().model_info(place.repo, revision=place.revision).siblings or ()}
        wanted = [_choose(place, below, names, there, key) for c, below in components.items() for names in NEEDED[c]]
        small = [place.path(below, f"*.{kind}") for below in components.values() for kind in ("json", "txt")]
        snapshot_download(place.repo, revision=place.revision, allow_patterns=[*wanted, *small])
    except unreachable as error:
        raise UserError(_how_to_fetch(place, components, key, error)) from error


def _choose(place: HubFolder, below: str, names: tuple[str, ...], there: set[str], key: str) -> str:
    for name in names:
        if place.path(below, name) in there:
            return place.path(below, name)
    raise UserError(f"{key}: {place.repo} has no {place.path(below, names[0])}; mend the repository or folder in {key}")


def _how_to_fetch(place: HubFolder, components: Mapping[str, str], key: str, error: Exception) -> str:
    """One line: what is missing, why, the command that fetches it, and where to put it."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import OfflineModeIsEnabled

    files = " ".join(place.path(below, names[0]) for c, below in components.items() for names in NEEDED[c])
    revision = f" --revision {place.revision}" if place.revision else ""
    what, here = ("/".join(part for part in (start, place.folder) if part) for start in (place.repo, "DIR"))
    offline = isinstance(error, OfflineModeIsEnabled)
    reason = "HF_HUB_OFFLINE is set" if offline else (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"{key}: {what} is no folder here, is not in {HF_HUB_CACHE}, and cannot be downloaded ({reason}): where the Hub"
        f" can be reached run 'hf download {place.repo} {files}{revision} --local-dir DIR', bring DIR here and set"
        f" {key} to {here}"
    )
