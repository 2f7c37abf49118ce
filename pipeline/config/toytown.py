"""The embedded world's section: the `data.toytown` section."""

from typing import Annotated

from pydantic import Field, NonNegativeInt

from pipeline.config.base import Section

Side = Annotated[int, Field(ge=32, le=8192)]
Pictures = Annotated[int, Field(gt=0, le=10**6)]


class ToyTown(Section):
    """How much of toy town is rendered: pictures of the source and of each target, `size` is (height, width) in px."""

    seed: NonNegativeInt = 0
    source_images: Pictures = 300
    target_images: Pictures = 40
    size: tuple[Side, Side] = (96, 192)
