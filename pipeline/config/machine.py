"""What the run happens on: the `machine` section. Nothing here ever enters an artifact's key."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.base import Section


class Machine(Section):
    """Paths and devices. The same experiment gives the same artifacts under another `Machine`."""

    store: Path = Path("cache")
    """The artifact store's folder."""
    output: Path = Path("runs")
    """Where `flexseg run` puts a link to the finished report."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    loader_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that load and augment training images; 0 loads in the training process."""
