"""The artifact store: the one truth about what is done.

An artifact is a folder whose `manifest.json` was written last; it appears under its name by one rename, so it is
either finished or not there. Its key is the sha256 of (stage, version, config, keys of the inputs): whoever asks for
the same thing gets the same folder. Layout:

    <root>/<stage>/<first 16 digits of the key>/            finished, `manifest.json` in it
    <root>/<stage>/<first 16 digits of the key>.partial/    being built, or interrupted: the next build resumes in it
    <root>/<stage>/<first 16 digits of the key>.lock        held (flock) by the process that builds; dies with it

Several machines share artifacts through a file system that all of them see as `root`, or through an object store
(`remote`, see pipeline.store.shared_artifact and pipeline.store.lease), of which `root` is then each machine's own
copy.
"""

import fcntl
import json
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from pipeline.errors import UserError, one_line
from pipeline.files import fsync_folder, inside, printable
from pipeline.store.building import Settings, Stage, Wanted, build_in, disk_full
from pipeline.store.lease import acquire
from pipeline.store.manifest import MANIFEST, Manifest, canonical_json, key_of, read_manifest, verify_artifact
from pipeline.store.places import KEY_DIGITS, check_root, is_digits
from pipeline.store.remote import Remote, RemoteFullError
from pipeline.store.shared_artifact import SharedArtifact

__all__ = ["KEY_DIGITS", "Artifact", "ArtifactStore", "Config", "Event", "OnEvent", "Stage"]

CHECK_PATIENCE = 20.0  # s that a remote store may fail to answer when work begins


@dataclass(frozen=True)
class Artifact:
    """The finished, verified result of a stage: `folder` holds its files, `manifest` says where they come from."""

    kind: str
    key: str
    folder: Path
    manifest: Manifest


Event = Literal["waiting", "fetching", "building", "built", "cached"]
Config = BaseModel | Mapping[str, Any] | Settings
OnEvent = Callable[[Event, Stage, Artifact | None], None]


class ArtifactStore:
    """Finished artifacts under `root`, each built once however many processes ask for it, and on however many machines
    if they share `remote`, an fsspec URL. There a builder that has not been heard of for `lease` seconds is replaced.

    `on_event(event, stage, artifact)` hears what `get_or_build` does: `cached` or `built` with the artifact; before
    that perhaps `building`, `fetching`, or `waiting` for another process that builds the same, with None.
    """

    def __init__(
        self, root: Path, on_event: OnEvent | None = None, *, remote: str | None = None, lease: float = 60
    ) -> None:
        check_root(root)
        self.root = root
        self._on_event = on_event or (lambda event, stage, artifact: None)
        self._verified: set[Path] = set()
        self._lease = lease
        self.remote = None if remote is None else Remote(remote)

    def check(self) -> None:
        """Tries whether the remote store, if there is one, does what is wanted of it. UserError if not."""
        if self.remote is not None:
            self.remote.hurried(CHECK_PATIENCE).check()

    def key(self, stage: Stage, config: Config, inputs: Mapping[str, str]) -> str:
        """Hex sha256 over the canonical JSON of stage, version, what of the config a key holds, and input keys."""
        return key_of(*stage, _differing(config), inputs)

    def find(self, stage: Stage, config: Config, inputs: Mapping[str, str]) -> Artifact | None:
        """The finished artifact if it is on this machine, or None. Raises UserError if it is there but damaged."""
        key = self.key(stage, config, inputs)
        folder = self._folder(stage, key)
        return self._open(folder, key) if folder.exists() else None

    def has(self, stage: Stage, config: Config, inputs: Mapping[str, str]) -> bool:
        """Whether the artifact is on this machine: its folder is there. Its files are not looked at."""
        return self._folder(stage, self.key(stage, config, inputs)).is_dir()

    def get_or_build(
        self, stage: Stage, config: Config, inputs: Mapping[str, str], build: Callable[[Path], None]
    ) -> Artifact:
        """The finished artifact; if there is none, `build(folder)` makes it first.

        An interrupted `build` finds what it had written in the same folder when it is called again. Of two processes
        that ask at once one builds, the other waits and takes the result. UserError if the disk is full.
        """
        key = self.key(stage, config, inputs)
        wanted = Wanted(stage, key, _plain(config), _differing(config), dict(inputs))
        folder = self._folder(stage, wanted.key)
        event: Event = "cached"
        with self._in_one_line(folder):
            if not folder.exists():
                with self._locked(stage, folder):
                    # Whoever held the lock until now may have made it.
                    if not folder.exists():
                        event = self._make(wanted, build)
            elif self.remote is not None and folder not in self._verified:
                self._offer(folder, wanted)
        artifact = self._open(folder, wanted.key)
        self._on_event(event, stage, artifact)
        return artifact

    def folder(self, stage: Stage, config: Config, inputs: Mapping[str, str]) -> Path:
        """Where the artifact is on this machine, or will be."""
        return self._folder(stage, self.key(stage, config, inputs))

    def partial(self, stage: Stage, config: Config, inputs: Mapping[str, str]) -> Path:
        """The folder in which the artifact is being built, or was when its build broke off. It need not exist."""
        return _partial(self._folder(stage, self.key(stage, config, inputs)))

    def open(self, key: str) -> Artifact:
        """The finished artifact whose key starts with `key`. UserError if none or several do."""
        found = self._starting_with(key)
        if not found and self._fetch_by_prefix(key):
            found = self._starting_with(key)
        if len(found) != 1:
            what = f"{len(found)} artifacts' keys start" if found else "no artifact's key starts"
            raise UserError(
                f"{what} with {key[:80]!r} in the store {self.root}; give more digits of a key, or set machine.store"
            )
        return self._open(found[0], read_manifest(found[0]).key)

    def _starting_with(self, key: str) -> list[Path]:
        if not re.fullmatch("[0-9a-f]{0,64}", key):  # it is no pattern for file names either
            return []
        return [
            folder
            for folder in sorted(self.root.glob(f"*/{key[:KEY_DIGITS]}*"))
            if folder.is_dir() and is_digits(folder.name) and read_manifest(folder).key.startswith(key)
        ]

    def _folder(self, stage: Stage, key: str) -> Path:
        return self.root.absolute() / stage.name / key[:KEY_DIGITS]

    def _open(self, folder: Path, key: str) -> Artifact:
        # Every byte is read once per process and artifact: what is used is what was made, and nothing beside it.
        manifest = read_manifest(folder) if folder in self._verified else verify_artifact(folder)
        if (manifest.key, manifest.stage) != (key, folder.parent.name):
            raise UserError(
                f"{folder} belongs to another key ({manifest.stage} {manifest.key}); delete that folder and run again"
            )
        self._verified.add(folder)
        return Artifact(manifest.stage, key, folder, manifest)

    def _make(self, wanted: Wanted, build: Callable[[Path], None]) -> Event:
        """Builds the artifact, or fetches it from the remote store. Its lock is held."""
        folder = self._folder(wanted.stage, wanted.key)
        partial = _made_partial(folder)
        if self.remote is None:
            self._on_event("building", wanted.stage, None)
            build_in(wanted, partial, build)
            event: Event = "built"
        else:
            event = self._share(wanted, partial, build)
        self._publish(partial, folder)
        return event

    def _publish(self, partial: Path, folder: Path) -> None:
        """The artifact is whole: from here on it exists."""
        # It was just written and hashed, or just fetched and compared: it need not be read once more.
        self._verified.add(folder)
        os.rename(partial, folder)
        fsync_folder(folder.parent)

    def _share(self, wanted: Wanted, partial: Path, build: Callable[[Path], None]) -> Event:
        """Makes `partial` the artifact that the remote store has when this returns, built here or elsewhere."""
        shared, say = self._shared(wanted.stage.name, wanted.key), self._on_event
        home = f"{platform.node()}:{self.root.absolute()}"
        lease = acquire(shared, self._lease, home, lambda: say("waiting", wanted.stage, None))
        if lease is not None:
            with lease.kept(partial):
                lease.continues(partial)
                say("building", wanted.stage, None)
                build_in(wanted, partial, build)
                if shared.publish(partial):
                    return "built"
                # Another builder was quicker, when ours was held to be dead. Its artifact counts, also here: two
                # machines must not have different bytes under one key.
        say("fetching", wanted.stage, None)
        shared.fetch(partial)
        return "cached"

    def _offer(self, folder: Path, wanted: Wanted) -> None:
        """Publishes an artifact that was made when this machine did not share its work."""
        shared = self._shared(wanted.stage.name, wanted.key)
        if shared.manifest() is None:
            self._open(folder, wanted.key)
            shared.publish(folder)

    def _shared(self, stage: str, key: str) -> SharedArtifact:
        assert self.remote is not None
        return SharedArtifact(self.remote, f"{stage}/{key[:KEY_DIGITS]}", key)

    def _fetch_by_prefix(self, prefix: str) -> bool:
        """Brings the artifact whose key starts so from the remote store; False unless just one does."""
        if self.remote is None:
            return False
        names = {path.rpartition("/")[0] for path in self.remote.sizes() if path.endswith(f"/{MANIFEST}")}
        found = [name for name in names if name.rpartition("/")[2].startswith(prefix[:KEY_DIGITS])]
        if len(found) != 1:
            return False
        stage, _, digits = found[0].partition("/")
        if not is_digits(digits):
            return False
        folder = inside(self.root.absolute(), found[0])
        with self._in_one_line(folder), self._locked(Stage(stage, 0), folder):
            if not folder.exists():
                partial = _made_partial(folder)
                SharedArtifact(self.remote, found[0], digits).fetch(partial)
                self._publish(partial, folder)
        return True

    @contextmanager
    def _in_one_line(self, folder: Path) -> Iterator[None]:
        """Puts what may become of a disk while `folder` is made into one line."""
        try:
            yield
        except Exception as error:
            if disk_full(error) and not isinstance(error, RemoteFullError):
                raise UserError(
                    f"the disk is full ({self.root.absolute()}, or where temporary files go): free space (flexseg cache"
                    " prune) or set machine.store; what was finished is kept, the same command continues"
                ) from error
            if not isinstance(error, UserError) and not (_partial(folder).is_dir() or folder.is_dir()):
                raise UserError(
                    f"{_partial(folder)} is gone: the store was moved or deleted while it was in use"
                    f" ({one_line(error, 120)}); bring it back, or set machine.store, and run again"
                ) from error
            raise

    @contextmanager
    def _locked(self, stage: Stage, folder: Path) -> Iterator[None]:
        """Holds the artifact's lock. The kernel frees it when its owner dies, however it dies."""
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = folder.with_name(folder.name + ".lock").open("a")
        except OSError as error:
            place = printable(Path(error.filename)) if error.filename else self.root
            raise UserError(
                f"cannot write to the store {self.root}: {place}: {error.strerror}; set machine.store to a folder that"
                " you may write to, or delete what is in the way"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._on_event("waiting", stage, None)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _partial(folder: Path) -> Path:
    return folder.with_name(folder.name + ".partial")


def _made_partial(folder: Path) -> Path:
    partial = _partial(folder)
    if partial.is_symlink() or (partial.exists() and not partial.is_dir()):
        raise UserError(f"{partial} is no folder of flexseg's: delete it and run again")
    partial.mkdir(exist_ok=True)
    return partial


def _plain(config: Config) -> object:
    """The whole config as JSON values."""
    if isinstance(config, Settings):
        return config.full
    return config.model_dump(mode="json") if isinstance(config, BaseModel) else json.loads(canonical_json(config))


def _differing(config: Config) -> object:
    """What of the config a key holds: all of it, unless somebody has said what differs from its defaults."""
    return config.differing if isinstance(config, Settings) else _plain(config)
