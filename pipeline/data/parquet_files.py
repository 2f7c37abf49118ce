"""Parquet files of others, opened as they are spelled and held to what their size allows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError, one_line

if TYPE_CHECKING:
    from pyarrow.parquet import ColumnChunkMetaData, FileMetaData, ParquetFile

MOST_BYTES = 2**30
"""Bytes of the cells that are held at once (ours). One value of a column may stand, by its number, in every row."""
MOST_UNPACKED = 2**28
"""Bytes of a column in memory (ours), beside 100 times those in the file: pictures hardly get smaller when packed."""


@contextmanager
def opened(file: Path) -> Iterator["ParquetFile"]:
    """The parquet file at exactly this path: pyarrow, given a path, would also try it as an address."""
    from pyarrow.parquet import ParquetFile

    with file.open("rb") as content:
        yield ParquetFile(content)


@contextmanager
def arrow_errors(file: Path) -> Iterator[None]:
    """Names the file where pyarrow cannot read it. UserError."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file} cannot be read ({one_line(error)}); it may be truncated: get the file again"
        ) from error


def check_claims(file: Path, metadata: "FileMetaData", columns: Sequence[str]) -> None:
    """UserError where a file says that it holds far more than its size allows: a few KB may stand for any number of
    rows, and for values of any length, which would be allocated."""
    size = file.stat().st_size
    if not 0 <= metadata.num_rows <= size:
        raise UserError(f"{file} claims {metadata.num_rows:,} rows in {size:,} bytes: get the file again")
    for chunk in _chunks(metadata, columns):
        unpacked, packed = chunk.total_uncompressed_size, chunk.total_compressed_size
        if unpacked > MOST_UNPACKED + 100 * max(packed, 0):
            name = one_line(ValueError(chunk.path_in_schema), 80)
            raise UserError(f"{file} claims {unpacked:,} bytes of {name!r} in {packed:,}: get the file again")


def rows_at_once(table: "ParquetFile", columns: Sequence[str], most: int) -> int:
    """How many rows fit into MOST_BYTES if each held the largest value that its columns have."""
    largest = max((chunk.total_uncompressed_size for chunk in _chunks(table.metadata, columns)), default=0)
    return max(1, min(most, MOST_BYTES // max(largest, 1)))


def _chunks(metadata: "FileMetaData", columns: Sequence[str]) -> Iterator["ColumnChunkMetaData"]:
    """What is stored of these columns, and of the fields in them, in each group of rows."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = (group.column(place) for place in range(group.num_columns))
        yield from (chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] in columns)
