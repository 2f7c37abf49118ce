"""Which images were taken on one drive: neighbours on a road look alike, so chance draws whole drives, not images."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEAST_SEQUENCES = 5
"""With fewer of them nothing can be learned about other drives (ours)."""
_BEFORE_THE_LAST_NUMBER = re.compile(r"^(.*?)[_-]*\d+\D*$")


def sequences(ids: Sequence[str]) -> NDArray[np.int64]:
    """(N,) number of the sequence that each scene belongs to, by the scenes' ids.

    A sequence is what the ids say before their last number: `frankfurt_000001` of `frankfurt_000001_005898` (a drive
    in Cityscapes), `GOPR0475_frame` of `GOPR0475_frame_000041` (ACDC, Dark Zurich). Where that gives fewer than
    LEAST_SEQUENCES, every image counts for itself: an interval then speaks of other images of these drives.
    """
    matches = [_BEFORE_THE_LAST_NUMBER.match(scene) for scene in ids]
    names = [match[1] if match else scene for match, scene in zip(matches, ids, strict=True)]
    _, numbers = np.unique(np.array(names, np.str_), return_inverse=True)
    if len(set(names)) < LEAST_SEQUENCES:
        return np.arange(len(ids))
    return np.asarray(numbers, np.int64)
