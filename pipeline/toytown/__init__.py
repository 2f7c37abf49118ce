"""Toy town: a seeded procedural street world with exact labels, so that the main job runs without a download."""

from pipeline.toytown.render import (
    TARGETS,
    Rendering,
    render_oracle,
    render_prior,
    render_restyled,
    render_source,
    render_target,
)
from pipeline.toytown.weather import WEATHERS
from pipeline.toytown.world import write_world

__all__ = [
    "TARGETS",
    "WEATHERS",
    "Rendering",
    "render_oracle",
    "render_prior",
    "render_restyled",
    "render_source",
    "render_target",
    "write_world",
]
