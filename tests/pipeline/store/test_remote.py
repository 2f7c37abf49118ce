"""The remote store's own promises: tried again, exclusive, one line when it gives up; and full disks."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner

from flows.cli import app
from flows.registered_models import registered
from pipeline.errors import StoreUnavailableError, UserError
from pipeline.store import remote as remotes
from pipeline.store.artifacts import ArtifactStore, Stage
from pipeline.store.remote import Remote, masked


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotes, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(remotes, "PATIENCE", 0.3)


@pytest.fixture(params=["folder", "memory"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Remote:
    MemoryFileSystem.store.clear()
    return Remote(f"file://{tmp_path}/there" if request.param == "folder" else "memory://there")


def test_objects(remote: Remote, tmp_path: Path) -> None:
    remote.check()
    assert remote.read("a/b") is None and remote.sizes() == {} and remote.sizes("a") == {}
    assert remote.create("a/b", b"one") and not remote.create("a/b", b"two") and remote.read("a/b") == b"one"
    remote.write("a/c", b"three")
    (tmp_path / "up").write_bytes(b"four!")
    remote.upload(tmp_path / "up", "a/d/e")
    assert remote.sizes() == remote.sizes("a") == {"a/b": 3, "a/c": 5, "a/d/e": 5} and list(remote.sizes("a/d")) == [
        "a/d/e"
    ]
    assert remote.download("a/d/e", tmp_path / "down") and (tmp_path / "down").read_bytes() == b"four!"
    assert not remote.download("a/x", tmp_path / "down")
    remote.remove("a/b")
    remote.remove("a/b")
    assert list(remote.sizes()) == ["a/c", "a/d/e"]


def test_a_folder_that_appears_while_it_is_listed_is_no_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """As s3fs answers: no object below, so it asks what the path is, and meanwhile another machine has made one."""
    remote = Remote("memory://appears")
    list_objects: Callable[..., dict[str, object]] = MemoryFileSystem.find

    def find(self: MemoryFileSystem, path: str, **options: object) -> dict[str, object]:
        found = list_objects(self, path, **options)
        remote.write("locks/00001", b"{}")
        return found or {path: self.info(path)}

    monkeypatch.setattr(MemoryFileSystem, "find", find)
    assert remote.sizes("locks") == {}
    assert remote.sizes("locks") == {"locks/00001": 2}


def failing(
    monkeypatch: pytest.MonkeyPatch, method: str, error: Exception, times: int, *, after: bool = False
) -> list[int]:
    """Lets a method of the memory's file system fail so many times; `after` doing its work, as a lost answer does."""
    original: Callable[..., object] = getattr(MemoryFileSystem, method)
    calls: list[int] = []

    def call(self: object, *args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) > times:
            return original(self, *args, **options)
        if after:
            original(self, *args, **options)
        raise error

    monkeypatch.setattr(MemoryFileSystem, method, call)
    return calls


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError(errno.ECONNREFUSED, "refused"), OSError(errno.EBUSY, "Slow down"), TimeoutError()]
)
def test_errors_of_the_server_are_tried_again(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    remote = Remote("memory://tried")
    remote.write("a", b"1")
    calls = failing(monkeypatch, "cat_file", error, 4)
    assert remote.read("a") == b"1" and len(calls) == 5


def test_giving_up_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "pipe_file", OSError(errno.EREMOTEIO, "We encountered an\ninternal error"), 10**9)
    with pytest.raises(StoreUnavailableError, match="memory://up has not answered for 0 s: .*nothing is lost") as error:
        Remote("memory://up").write("a", b"1")
    assert "\n" not in str(error.value) and isinstance(error.value, UserError)


def test_a_create_whose_answer_was_lost_is_known_as_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = Remote("memory://lost")
    failing(monkeypatch, "pipe_file", ConnectionResetError(errno.ECONNRESET, "reset"), 1, after=True)
    assert remote.create("lock", b"mine") and not remote.create("lock", b"other's")


def test_no_rights_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = failing(monkeypatch, "pipe_file", PermissionError("Access Denied"), 10**9)
    with pytest.raises(UserError, match="Access Denied; set machine.remote, or the credentials"):
        Remote("memory://no").check()
    assert len(calls) == 1


def test_a_store_that_cannot_create_exclusively_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def overwrite(self: MemoryFileSystem, path: str, value: bytes, mode: str = "overwrite") -> None:
        self.open(path, "wb", data=value)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", overwrite)
    with pytest.raises(UserError, match="cannot create an object exclusively"):
        ArtifactStore(Path("unused"), remote="memory://shared").check()


def test_other_servers_words_for_a_taken_name_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    class ClientError(Exception):
        response = {"Error": {"Code": "PreconditionFailed"}}

    taken = OSError(errno.EINVAL, "At least one of the pre-conditions did not hold")  # s3fs 2026.9, LocalBucket
    taken.__cause__ = ClientError()
    remote = Remote("memory://taken")
    remote.write("lock", b"other's")
    failing(monkeypatch, "pipe_file", taken, 10**9)
    assert not remote.create("lock", b"mine")


@pytest.mark.parametrize("url", ["nothing://bucket", "s3:/typo"])
def test_unknown_urls_are_one_line(url: str, tmp_path: Path) -> None:
    if url.startswith("nothing"):
        with pytest.raises(UserError, match="cannot use the remote store 'nothing://bucket'"):
            ArtifactStore(tmp_path, remote=url)
    else:
        with pytest.raises(UserError, match="set machine.remote to the URL"):
            ArtifactStore(Path(url))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_and_keeps_what_is_finished(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "finished").write_text("1")
        with Path("/dev/full").open("w") as file:
            file.write("2")

    store = ArtifactStore(tmp_path)
    with pytest.raises(UserError, match="the disk is full .*what was finished is kept") as error:
        store.get_or_build(Stage("made", 1), {}, {}, build)
    assert "\n" not in str(error.value)
    assert (store.partial(Stage("made", 1), {}, {}) / "finished").read_text() == "1"


def test_a_full_disk_in_a_worker_process_is_known_by_its_words(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        raise RuntimeError(f"worker 2 died: OSError: [Errno 28] {os.strerror(errno.ENOSPC)}")

    with pytest.raises(UserError, match="the disk is full"):
        ArtifactStore(tmp_path).get_or_build(Stage("made", 1), {}, {}, build)


SECRETS = {
    "s3://user:pass-word@bucket/folder": "s3://***@bucket/folder",
    "ftp://user:pass/word@host/folder": "ftp://***@host/folder",
    "ftp://user:p@ss@host/folder": "ftp://***@host/folder",
    "github://token@host:path": "github://***@host:path",
    "https://host/folder?sig=pass-word&x=1": "https://host/folder?***",
    "simplecache::s3://user:pass-word@bucket/a": "simplecache::s3://***@bucket/a",
    "cannot reach 'ftp://user:pass-word@host', twice": "cannot reach 'ftp://***@host', twice",
    "s3://bucket/folder": "s3://bucket/folder",
    "file:///tmp/a b/c": "file:///tmp/a b/c",
}


@pytest.mark.parametrize("url", SECRETS)
def test_what_may_be_secret_in_a_url_is_masked(url: str) -> None:
    assert masked(url) == SECRETS[url]


@pytest.mark.parametrize("url", ["memory://user:pass-word@there/folder", "memory://there/folder?key=pass-word"])
def test_no_message_shows_credentials(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 11: a remote's URL with credentials was printed in errors, also in those of other libraries."""
    told: list[str] = []

    def note(act: Callable[[], object]) -> None:
        with pytest.raises(UserError) as error:
            act()
        told.append(str(error.value))

    (tmp_path / "file").touch()
    store = ArtifactStore(tmp_path / "store", remote=url)
    store.get_or_build(Stage("made", 1), {}, {}, lambda folder: None)
    (path,) = (path for path in Remote(url).sizes() if path.endswith("manifest.json"))
    Remote(url).write(path, b"damaged")
    note(lambda: ArtifactStore(tmp_path / "other", remote=url).get_or_build(Stage("made", 1), {}, {}, lambda f: None))
    note(lambda: ArtifactStore(tmp_path / "other", remote=url.replace("memory", "nothing")))
    note(lambda: registered(ArtifactStore(tmp_path / "other", remote=url + "/empty")))
    for error in (PermissionError, OSError, FileNotFoundError):
        with monkeypatch.context() as patch:
            failing(patch, "pipe_file", error(f"cannot put {url}/x"), 10**9)
            note(lambda: Remote(url).check())
    full = OSError(errno.ENOSPC, f"no room in {url}")
    with monkeypatch.context() as patch:
        failing(patch, "pipe_file", full, 10**9)
        note(lambda: Remote(url).write("a", b"1"))
    assert len(told) == 7 and not [text for text in told if "pass-word" in text or "user:" in text], told
    result = CliRunner().invoke(app, ["cache", "verify", "--store", str(tmp_path / "store"), "--remote", url])
    assert result.exit_code == 2 and "pass-word" not in result.output
