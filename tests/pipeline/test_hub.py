"""Weights by others: found here or in the Hub's cache, fetched, or one line that helps."""

import fnmatch
import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

from pipeline import hub
from pipeline.errors import TryAgainError, UserError

COMMIT, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40
WANTED: hub.Wanted = {"": (("config.json",), ("model.safetensors", "model.safetensors.index.json"))}
INDEX = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
WHOLE = {"config.json": "{}", "model.safetensors": "weights"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, and a working folder in which nothing lies."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "hub"


def cache(home: Path, repo: str, files: dict[str, str], commit: str = COMMIT, ref: str = "main") -> Path:
    """A snapshot as the Hub's client leaves it, in plain files."""
    repository = home / f"models--{repo.replace('/', '--')}"
    for name, content in files.items():
        path = repository / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / ref).write_text(commit)
    return repository / "snapshots" / commit


def test_places_on_the_hub() -> None:
    assert hub.parse("owner/name") == ("owner/name", None, "")
    assert hub.parse("owner/name/a/b") == ("owner/name", None, "a/b")
    assert hub.parse("owner/name@v1.0/a") == ("owner/name", "v1.0", "a")
    names = ("name", "/owner/name", "./owner/name", "../a/b", "owner/", "", "o/n/../x", "o/n//x", "-o/n", "o/n\n")
    assert [hub.parse(text) for text in names] == [None] * len(names)


def test_a_snapshot_is_found_with_its_commit(home: Path) -> None:
    snapshot = cache(home, "owner/name", {**WHOLE, **{f"part/{name}": text for name, text in WHOLE.items()}})
    assert hub.find("owner/name", WANTED, "key") == (snapshot, COMMIT)
    assert hub.find("owner/name/part", WANTED, "key") == (snapshot / "part", COMMIT)
    assert hub.find(f"owner/name@{COMMIT}", WANTED, "key") == (snapshot, COMMIT)


def test_a_revision_is_another_snapshot(home: Path) -> None:
    cache(home, "owner/name", WHOLE)
    snapshot = cache(home, "owner/name", WHOLE, OTHER, "v2")
    assert hub.find("owner/name@v2", WANTED, "key") == (snapshot, OTHER)
    with pytest.raises(UserError, match="--revision v3"):
        hub.find("owner/name@v3", WANTED, "key")


def test_a_folder_here_comes_first_and_has_no_commit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache(home, "owner/name", WHOLE)
    Path("owner/name").mkdir(parents=True)
    assert hub.find("owner/name", WANTED, "key") == (Path("owner/name"), None)
    monkeypatch.setenv("HOME", str(Path.cwd()))
    assert hub.find("~/owner/name", WANTED, "key") == (Path.cwd() / "owner/name", None)


@pytest.mark.parametrize(
    ("files", "whole"),
    [
        (WHOLE, True),
        ({"config.json": "{}"}, False),
        ({"model.safetensors": "weights"}, False),
        ({"config.json": "{}", "model.safetensors.index.json": INDEX, "model-1.safetensors": "1"}, False),
        (
            {"config.json": "{}", "model.safetensors.index.json": INDEX}
            | {f"model-{k}.safetensors": "part" for k in (1, 2)},
            True,
        ),
    ],
)
def test_a_snapshot_counts_only_when_it_holds_all_that_is_wanted(
    home: Path, files: dict[str, str], whole: bool
) -> None:
    snapshot = cache(home, "owner/name", files)
    if whole:
        assert hub.find("owner/name", WANTED, "key").folder == snapshot
    else:
        with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
            hub.find("owner/name", WANTED, "key")


@pytest.mark.parametrize("name", ["../../../secret", "/etc/hostname", "", None])
def test_an_index_names_no_file_elsewhere(home: Path, name: str | None) -> None:
    index = {"config.json": "{}", "model.safetensors.index.json": json.dumps({"weight_map": {"a": name}})}
    cache(home, "owner/name", index)
    with pytest.raises(UserError):
        hub.find("owner/name", WANTED, "key")


@pytest.mark.parametrize("reference", ["runs/exp1", "runs/exp1/segmenter", "./owner/name", "/no/where", "a b/c", "~/x"])
def test_what_is_meant_as_a_path_is_not_looked_for_on_the_hub(reference: str) -> None:
    """Issue 16 §9: `hf download runs/...` is no advice where there is a folder `runs`."""
    Path("runs").mkdir()
    with pytest.raises(UserError, match="correct the path") as caught:
        hub.find(reference, WANTED, "the.key")
    line = str(caught.value)
    assert line.startswith(f"the.key is '{reference}'") and "hf download" not in line and "\n" not in line


@pytest.mark.parametrize("reference", ["owner--x/name", "owner/na..me", f"owner/{'n' * 120}"])
def test_names_that_the_hub_cannot_have(reference: str) -> None:
    with pytest.raises(UserError, match="has no such names"):
        hub.find(reference, WANTED, "key")


def serve(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], home: Path) -> list[str]:
    """Stands in for the Hub's client: it lists `files` and brings those that match into the cache."""
    fetched: list[str] = []

    def model_info(self: object, repo: str, revision: str | None = None) -> SimpleNamespace:
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in files])

    def snapshot_download(repo: str, *, revision: str | None, allow_patterns: list[str]) -> None:
        matching = [name for name in files if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns)]
        fetched.extend(matching)
        cache(home, repo, {name: files[name] for name in matching}, ref=revision or "main")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return fetched


def test_only_what_is_wanted_is_downloaded_and_only_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = {f"x/model-{k}.safetensors": "part" for k in (1, 2)}
    files = {"x/config.json": "{}", "x/model.safetensors.index.json": INDEX, "x/pytorch_model.bin": "b", **shards}
    fetched = serve(monkeypatch, {**files, "x/code.py": "print()", "y/config.json": "{}"}, home)
    folder, commit = hub.find("owner/name/x", WANTED, "key")
    assert commit == COMMIT and sorted(path.name for path in folder.iterdir()) == [
        "config.json", "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json",
    ]  # fmt: skip
    before = len(fetched)
    assert hub.find("owner/name/x", WANTED, "key").folder == folder and len(fetched) == before
    with pytest.raises(UserError, match=r"key: owner/name has no y/model\.safetensors"):
        hub.find("owner/name/y", WANTED, "key")


def response(status: int) -> SimpleNamespace:
    return SimpleNamespace(status_code=status, headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (OfflineModeIsEnabled("offline"), False),
        (RepositoryNotFoundError("404: no such repository\nsecond line", response=response(404)), False),  # type: ignore[arg-type]  # what is read of it
        (huggingface_hub.errors.HfHubHTTPError("503: overloaded", response=response(503)), True),  # type: ignore[arg-type]  # what is read of it
        (ConnectionError("no route to host"), True),
        (TimeoutError(), True),
    ],
)
def test_only_a_hub_that_does_not_answer_is_asked_again(
    error: Exception, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def model_info(self: object, repo: str, revision: str | None = None) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    with pytest.raises(
        UserError, match="hf download owner/name config.json model.safetensors --local-dir DIR"
    ) as caught:
        hub.find("owner/name", WANTED, "key")
    assert isinstance(caught.value, TryAgainError) is again
    assert "\n" not in str(caught.value)


def test_a_damaged_index_is_named(home: Path) -> None:
    cache(home, "owner/name", {"config.json": "{}", "model.safetensors.index.json": "<html>"})
    with pytest.raises(UserError, match=r"is no index of weights .*: remove it"):
        hub.find("owner/name", WANTED, "key")
