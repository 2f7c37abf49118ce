"""What runs on a Ray node to make units. It imports little: on a CPU cluster there may be many on one machine."""

import pickle
import tempfile
import traceback
from pathlib import Path
from typing import Any

import ray

from flows.ray import cluster as ray_cluster
from pipeline.errors import UserError
from pipeline.work.devices import out_of_memory
from pipeline.work.units import Load, Make


class Maker:
    """A worker: makes files and hands over their bytes. Becomes an actor in `flows.ray.units`."""

    def __init__(self, load: bytes, device: str, folder: str) -> None:
        ray_cluster.enter(folder)
        self._load = load
        self._device = device
        self._make: Make | None = None

    def node(self) -> str:
        """Where it is, which tells that it is there."""
        return ray.get_runtime_context().get_node_id()

    def make(self, task: Any) -> bytes | UserError | str:
        """The bytes of a task's file, what the user must correct, or the traceback of a defect. Loads the models before
        the first one."""
        try:
            if self._make is None:
                load: Load = pickle.loads(self._load)
                self._make = load(self._device)
            with tempfile.TemporaryDirectory() as place:
                path = Path(place) / "unit"
                for _ in self._make(task, path):
                    pass
                return path.read_bytes()
        except UserError as error:
            return error
        except Exception as error:
            return out_of_memory(error) or traceback.format_exc()
