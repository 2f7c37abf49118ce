"""Picture files of generated data sets beside the checkpoint, memory-mapped, so that any of them is read at once.

Parquet has to be read by whole groups of rows; 10,000 images do not fit into memory. So the rows that are trained on
are copied once, when training starts, into an Arrow file whose pages the system loads and drops as needed.
"""

import mmap
from collections.abc import Iterable
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.files import written_whole

if TYPE_CHECKING:
    from pyarrow.ipc import RecordBatchFileReader

ROWS = 16
"""Rows of a batch of the Arrow file; a reader needs to know it to find a row."""


class ImageCopy:
    """The copy at `path`. It is opened by whoever first reads, so that it can be sent to loader workers."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Copies image and label files, in place of any earlier copy: one that is remade cannot be stale or damaged."""
        import pyarrow as pa

        schema = pa.schema({"image": pa.large_binary(), "label": pa.large_binary()})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with (
            written_whole(self.path, durable=False) as unfinished,
            unfinished.open("wb") as file,
            pa.ipc.new_file(file, schema) as copy,
        ):
            remaining = iter(pairs)
            while rows := list(islice(remaining, ROWS)):
                columns = [pa.array(column, pa.large_binary()) for column in zip(*rows, strict=True)]
                copy.write_batch(pa.record_batch(columns, schema=schema))

    def read(self, index: int) -> tuple[bytes, bytes]:
        """Image and label file number `index`."""
        batch = self._reader.get_batch(index // ROWS)
        image, label = (batch.column(name)[index % ROWS].as_py() for name in ("image", "label"))
        return image, label

    def __getstate__(self) -> dict[str, Path]:
        return {"path": self.path}

    @cached_property
    def _reader(self) -> "RecordBatchFileReader":
        import pyarrow as pa

        with self.path.open("rb") as file:  # pyarrow's own memory_map takes no names that are not UTF-8
            return pa.ipc.open_file(pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
