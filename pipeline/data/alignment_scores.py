"""How well each image of a generated data set follows its label map: where these scores are kept, and reading them.

They are a stage of their own, so that another detector or radius repaints nothing. A data set that `flexseg generate
--output` published, or that somebody else made, holds them in columns of its own.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.generated_rows import GeneratedDataSet, data_files
from pipeline.errors import UserError, one_line

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

SCORES = "alignment.parquet"
"""The file of an `alignment` artifact: a row per image, in the order of the data set's rows."""
SCORE_COLUMNS = ("alignment", "alignment_control")


def has_scores(data_set: Path) -> bool:
    """Whether a data set has columns of its own for them. UserError where it has no file that can be read."""
    return GeneratedDataSet(data_set).has_alignment


def read_scores(data_set: Path, scored: Path | None = None) -> dict[str, np.ndarray]:
    """The columns of SCORE_COLUMNS that there are, each (N,) float32, for the N images of a data set in their order.

    `scored`: the folder of the data set's `alignment` artifact; without one the data set's own columns are read. Empty
    where it has none. UserError where both do not have equally many rows.
    """
    from pyarrow.parquet import read_table

    images = _images(data_set)
    if scored is None:
        names = [name for name in SCORE_COLUMNS if name in images.schema.names]
        table = images.to_table(columns=names)
    else:
        table = read_table(scored / SCORES, columns=list(SCORE_COLUMNS))
        if table.num_rows != (count := images.count_rows()):
            raise UserError(
                f"{scored / SCORES} has scores of {table.num_rows} images, but {data_set} holds {count}: delete the"
                f" folder {scored} and run again"
            )
    return {name: np.asarray(table[name]) for name in table.column_names}


def write_scores(scores: np.ndarray, path: Path) -> None:
    """Writes scores (N, 2): of each image and of its control, the boundaries moved to elsewhere."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    columns = scores.astype(np.float32).T
    write_table(pa.table(dict(zip(SCORE_COLUMNS, columns, strict=True))), path)


def _images(data_set: Path) -> "Dataset":
    from pyarrow import ArrowException
    from pyarrow.dataset import dataset  # imports pandas

    try:
        return dataset([str(shard) for shard in data_files(data_set)], format="parquet")
    except (ArrowException, OSError) as error:
        raise UserError(f"{data_set} cannot be read ({one_line(error)}): get its files again") from error
