"""Locks: the objects that say who builds an artifact in the remote store.

What follows from them, and who may write them: `pipeline.store.lease`.
"""

import re
from typing import NamedTuple

from pipeline.store.manifest import Moment
from pipeline.store.records import DamagedError, FileTable, Seconds, StoredRecord, json_object, parse_record
from pipeline.store.shared_artifact import SharedArtifact


class LockRecord(StoredRecord):
    """What a lock's object holds: who builds, and how far it is."""

    owner: str
    """Host and process, for people."""
    home: str
    """Host and folder of the owner's local store."""
    token: str
    """Tells two locks of one owner apart."""
    renewals: int
    released: bool
    """Whether the owner has given the lease back; its parts stay."""
    started: Moment
    seconds: Seconds
    """That all owners together have worked."""
    parts: FileTable
    """Finished files of the build, whose contents have been sent."""


class Term(NamedTuple):
    """The newest lock of an artifact: its number and what its owner last wrote."""

    number: int
    lock: LockRecord


def newest(shared: SharedArtifact) -> Term | None:
    """The lock that counts, None if there is none. UserError if it is damaged."""
    for path in reversed(shared.remote.sizes(f"{shared.name}/locks")):
        name = path.rpartition("/")[2]
        if not re.fullmatch("[0-9]{5}", name):
            raise shared.damaged(f"locks/{name[:80]}", "wanted a lock's number of 5 digits")
        data = shared.remote.read(path)
        if data is not None:
            try:
                return Term(int(name), parse_record(LockRecord, json_object(data)))
            except DamagedError as error:
                raise shared.damaged(f"locks/{name}", str(error)) from error
    return None
