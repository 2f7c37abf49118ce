"""What every section of the config has in common."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen part of the config. Unknown keys are errors: a mistyped option must never be silently ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`top` over `base`: mappings key by key, everything else replaced. Over a list, a mapping from places ("0" is the
    first) to values replaces or changes these entries alone."""
    return {**base, **{key: _over(base.get(key), value) for key, value in top.items()}}


def _over(old: object, new: object) -> object:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return merged(old, new)
    if isinstance(old, list) and isinstance(new, Mapping) and new.keys() <= {str(place) for place in range(len(old))}:
        return [_over(entry, new[str(place)]) if str(place) in new else entry for place, entry in enumerate(old)]
    return new
