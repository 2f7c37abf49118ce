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
    generation_workers: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    """Processes that paint shards of a generated data set; `auto` is one per GPU, or one per core and 4 at most
    without a GPU. The data set's bytes do not depend on it."""
    loader_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that load and crop training images for each training process; 0 loads in that process itself."""
    processes: Annotated[int, Field(gt=0)] = 1
    """Processes that train one segmenter together, one per GPU (or on the CPU). `training.batch_size` is divided among
    them. Under torchrun or accelerate launch leave it at 1: they set the number."""
    compile: bool = False
    """Compile the network with torch.compile before training: minutes at the start, faster steps after."""
    tracker: Literal["tensorboard", "wandb"] | None = "tensorboard"
    """Where losses go besides log.jsonl: event files in the run's folder `tracking`, or Weights & Biases."""
    evaluation_batch: Annotated[int, Field(gt=0)] = 4
    """Images of one size, or sliding windows, that a segmenter sees at once when it is scored: bounds the memory."""
