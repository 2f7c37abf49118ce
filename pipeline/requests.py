"""The plan's record: what one generated image is to be, written down before any image is made."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property

from pipeline.seeding import derive_seed


@dataclass(frozen=True)
class Box:
    """A crop in px of the (resized) label map."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class GenerationRequest:
    """One image to be generated. Its seed follows from its own content, so the same request gives the same image
    whatever the number of workers or the order of work.

    `id` names it within the plan, `source` the scene whose label map is painted, `class_id` the train id that
    rare-class sampling asked for, `condition` the weather word or `plain`.
    """

    id: str
    source: str
    box: Box
    class_id: int
    condition: str
    prompt: str
    plan_seed: int

    @cached_property
    def seed(self) -> int:
        """Seed of the starting noise, 63 bits."""
        return derive_seed("request", json.dumps(asdict(self), sort_keys=True))

    @property
    def digest(self) -> str:
        """sha256 of the request's content."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
