"""Weights by others: a folder here, else the Hugging Face Hub's cache, else a download, else one line that helps.

The one place that asks the Hub. HF_HOME and HF_HUB_OFFLINE are obeyed, and downloads resume. What is cached is taken
without asking whether the Hub has something newer: the commit that was found says which files a result was made from.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import TryAgainError, UserError, one_line
from pipeline.files import inside

FORM = "OWNER/NAME[@REVISION][/FOLDER]"
INDEX = ".index.json"
TEXTS = ("*.json", "*.txt")
"""Small files that are downloaded along with what is wanted, from the same folders."""

Wanted = Mapping[str, Sequence[Sequence[str]]]
"""Groups of file names per folder ("" for the place itself): one file of a group is enough, the first that there is.
A file that ends in `.index.json` stands for itself and the shards that it names."""


class HubFolder(NamedTuple):
    """A folder of a repository, or with an empty `folder` its root."""

    repo: str
    revision: str | None
    folder: str

    def path(self, *parts: str) -> str:
        """The path of what lies below this folder, from the repository's root."""
        return "/".join(part for part in (self.folder, *parts) if part)


class FoundFolder(NamedTuple):
    """A folder on this machine, and the commit of the repository that it is a snapshot of: None for a local folder."""

    folder: Path
    commit: str | None


def parse(reference: str) -> HubFolder | None:
    """REPO[@REVISION][/FOLDER], where REPO is OWNER/NAME; None for anything else."""
    match = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)(?:@([^/]+))?(?:/(.+?))?/?", reference)
    if match is None or any(part in ("", ".", "..") for part in (match[3] or "folder").split("/")):
        return None
    return HubFolder(match[1], match[2], match[3] or "")


def find(reference: str, wanted: Wanted, key: str) -> FoundFolder:
    """The folder that `reference` names: a folder here as it is, or one of the Hub that holds all that is `wanted`.

    `key` is what the user set to `reference` (a config's key, an option). UserError, one line that says how to fix it,
    where it is neither; TryAgainError where the Hub does not answer.
    """
    local = Path(reference).expanduser()
    if local.is_dir():
        return FoundFolder(local, None)
    from huggingface_hub.errors import HFValidationError

    place = _on_hub(reference, local, key)
    try:
        found = _cached(place, wanted)
    except HFValidationError as error:
        raise UserError(
            f"{key} is '{reference}', which is no folder here, and the Hugging Face Hub has no such names"
            f" ({one_line(error)}): correct it"
        ) from error
    if found is None:
        _download(place, wanted, key)
        found = _cached(place, wanted)
    if found is None:
        raise TryAgainError(f"{key}: the download of {place.repo} is incomplete; run the same command again")
    return found


def cached(reference: str, wanted: Wanted) -> FoundFolder | None:
    """The place on the Hub that `reference` names, if all that is `wanted` of it is in the cache. Fetches nothing."""
    from huggingface_hub.errors import HFValidationError

    place = parse(reference)
    try:
        return None if place is None else _cached(place, wanted)
    except HFValidationError:
        return None


def _on_hub(reference: str, local: Path, key: str) -> HubFolder:
    """The place that `reference` names. UserError for what is no such name, and for what is meant as a path."""
    place = parse(reference)
    here = Path(*local.parts[:1])
    if place is None or here.is_dir():
        why = f", though there is a folder {here}" if place else ""
        raise UserError(
            f"{key} is '{reference}', which is neither a folder here{why} nor a place on the Hugging Face Hub ({FORM}):"
            " correct the path"
        )
    return place


def _cached(place: HubFolder, wanted: Wanted) -> FoundFolder | None:
    """The place in the Hub's cache; None unless all that is wanted is there."""
    from huggingface_hub import try_to_load_from_cache

    folder, groups = next(iter(wanted.items()))
    for name in groups[0]:
        path = place.path(folder, name)
        file = try_to_load_from_cache(place.repo, path, revision=place.revision)
        if isinstance(file, str):
            snapshot = Path(file).parents[path.count("/")]
            whole = all(_holds(snapshot / place.path(f), group) for f, groups in wanted.items() for group in groups)
            return FoundFolder(snapshot / place.folder, snapshot.name) if whole else None
    return None


def _holds(folder: Path, names: Sequence[str]) -> bool:
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None or not file.name.endswith(INDEX):
        return file is not None
    return all((folder / shard).is_file() for shard in _shards(file))


def _shards(index: Path) -> set[Path]:
    """The files that an index of transformers or diffusers names."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise UserError(
            f"{index} is no index of weights ({one_line(error)}): remove it, it is fetched again"
        ) from error
    return {inside(index.parent, name) for name in names}


def _download(place: HubFolder, wanted: Wanted, key: str) -> None:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    # The first base is the error of the HTTP library, another one in each major version: a host that is not there.
    failures: Any = (*HfHubHTTPError.__bases__, EntryNotFoundError, OSError, ValueError)
    try:
        there = {file.rfilename for file in HfApi().model_info(place.repo, revision=place.revision).siblings or ()}
        files = list(_choose(place, wanted, there, key))
        texts = [place.path(folder, kind) for folder in wanted for kind in TEXTS]
        snapshot_download(place.repo, revision=place.revision, allow_patterns=[*files, *texts])
    except failures as error:
        raise _not_to_be_had(place, wanted, key, error) from error


def _choose(place: HubFolder, wanted: Wanted, there: set[str], key: str) -> Iterator[str]:
    """What to download: of each group the first file that is `there`, with the shards of an index."""
    for folder, groups in wanted.items():
        for names in groups:
            name = next((name for name in names if place.path(folder, name) in there), None)
            if name is None:
                raise UserError(
                    f"{key}: {place.repo} has no {place.path(folder, names[0])}; correct the repository or folder in"
                    f" {key}"
                )
            yield place.path(folder, name)
            if name.endswith(INDEX):
                stem, _, kind = name.removesuffix(INDEX).rpartition(".")
                yield place.path(folder, f"{stem}-*.{kind}")


def _not_to_be_had(place: HubFolder, wanted: Wanted, key: str, error: Exception) -> UserError:
    """One line: what is missing, why, the command that fetches it, and where to put it.

    A TryAgainError where the Hub did not answer; where it answered with a refusal, or may not be asked, asking again
    would give the same.
    """
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    files = " ".join(place.path(folder, names[0]) for folder, groups in wanted.items() for names in groups)
    revision = f" --revision {place.revision}" if place.revision else ""
    what, here = ("/".join(part for part in (start, place.folder) if part) for start in (place.repo, "DIR"))
    offline = isinstance(error, OfflineModeIsEnabled)
    refused = isinstance(error, HfHubHTTPError) and error.response.status_code < 500
    reason = "HF_HUB_OFFLINE is set" if offline else one_line(error)
    kind = UserError if offline or refused else TryAgainError
    return kind(
        f"{key}: {what} is no folder here, is not in {HF_HUB_CACHE}, and cannot be downloaded ({reason}): where the Hub"
        f" can be reached run 'hf download {place.repo} {files}{revision} --local-dir DIR', bring DIR here and set"
        f" {key} to {here}"
    )
