"""What every section of the config has in common."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen part of the config. Unknown keys are errors: a mistyped option must never be silently ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`top` over `base`: mappings key by key, everything else replaced."""
    result = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result
