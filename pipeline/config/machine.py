"""What the run happens on: the `machine` section. Nothing here ever enters an artifact's key."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.base import LocalPath, Section

Processes = Annotated[int, Field(gt=0, le=4096)]
Batch = Annotated[int, Field(gt=0, le=65536)]


class Machine(Section):
    """Paths and devices. The same experiment gives the same artifacts under another `Machine`."""

    store: LocalPath = Path("cache")
    """The artifact store's folder: on this machine, or on a file system that several machines share."""
    remote: str | None = None
    """An object store that several machines share, as fsspec names it (s3://bucket/folder). Finished artifacts come
    from there and go there; `store` is then this machine's copy. Credentials come from the environment."""
    lease: Annotated[float, Field(gt=0)] = 60
    """Seconds after which a machine that no longer renews its lock in `remote` counts as dead."""
    executor: Literal["local", "ray"] = "local"
    """`local`: processes on this machine, one per device. `ray`: the cluster at RAY_ADDRESS, else the one that runs on
    this machine."""
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    """Times that a flow tries a stage again after an error that is not the user's (a lost node, a store that does not
    answer), after 10 s, 20 s, 40 s and so on. What the stage had finished is kept."""
    timeout_hours: dict[Literal["generated", "segmenter", "evaluation"], Annotated[float, Field(gt=0)]] = {}
    """Hours after which a flow ends a stage with all its processes; a retry continues it."""
    output: LocalPath = Path("runs")
    """Where `flexseg run` puts a link to the finished report."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Processes | Literal["auto"] = "auto"
    """Processes that share the work of one stage, each with the networks in memory: they paint shards of a generated
    data set or score parts of the targets. `auto` is one per GPU; without a GPU one per core, 4 at most, to paint, and
    one to score, which uses `evaluation_batch` cores. No artifact's bytes depend on it."""
    loader_workers: Annotated[int, Field(ge=0, le=4096)] | Literal["auto"] = "auto"
    """Processes that load and crop training images for each training process; 0 loads in that process itself. `auto`
    is this machine's cores over its training processes, 1 to 8; without a GPU 0, as training itself takes the cores."""
    decoded_copies: LocalPath | None = None
    """A folder on a fast disk of this machine for decoded copies of the source's files, written as they are first drawn
    and used by all trainings from then on: decoding takes most of the time of a crop. A scene of GTA's size takes 8 MB,
    all of GTA 200 GB. Delete it at any time."""
    processes: Processes = 1
    """Processes that train one segmenter together, one per GPU (or on the CPU). `training.batch_size` is divided among
    them. Under torchrun or accelerate launch leave it at 1: they set the number."""
    autotune: bool = True
    """On a GPU let cuDNN time its ways to convolve when it first sees a shape, and take the fastest: seconds at the
    start, then faster; another run may take another way, which changes the last bits of sums."""
    compile: bool = False
    """Compile the segmenter with torch.compile before training: minutes at the start, faster steps after."""
    compile_generator: bool = False
    """Compile U-Net and ControlNet with torch.compile before painting: minutes at the start, then faster."""
    generation_batch: Batch = 8
    """Images that are denoised together. Like the two fields around it, it may change the last bits of sums, and so a
    few px by one step of 255: docs/generation.md says how much was seen."""
    window_batch: Batch = 16
    """Windows of latent fusion's second pass in one network call, of all images that are denoised together."""
    tracker: Literal["tensorboard", "wandb"] | None = "tensorboard"
    """Where losses go besides log.jsonl: event files in the run's folder `tracking`, or Weights & Biases."""
    evaluation_batch: Batch = 4
    """Images of one size, or sliding windows, that a segmenter sees at once when it is scored: bounds the memory.
    Without a GPU it sees them one by one, in as many threads, a core each."""
