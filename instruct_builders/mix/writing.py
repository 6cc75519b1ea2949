"""Rows by number out of an Arrow table, page by page, and a drawn mixture written to disk in its order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import BuildError, own_error

PAGE_BYTES = 128 << 20  # rows of one page, of which up to three copies are in memory
BATCH_ROWS = 1000  # of the file: a later reader of single rows decodes no more than this
# It keeps what is freed for the next page; Arrow's own pools hand large pieces back, and each is zeroed again.
POOL = pa.system_memory_pool()


class RowReader:
    """Reads any rows of a dataset: whole Arrow batches at a time, without copying the table.

    `pyarrow.Table.take` first puts all chunks of a text column into one, that is, reads the whole table into memory.

    Args:
        dataset ([`~datasets.Dataset`]): Also one with an indices mapping, such as a shuffled one.
    """

    def __init__(self, dataset: datasets.Dataset):
        table = dataset.data.table.select(dataset.column_names)
        self.batches = table.replace_schema_metadata(None).to_batches()
        self.starts = np.cumsum([0] + [batch.num_rows for batch in self.batches])
        # No public way leads to the mapping but row by row.
        self.mapping = None if dataset._indices is None else dataset._indices.column(0)
        self.schema = table.schema.remove_metadata()
        self.row_bytes = table.nbytes / max(1, len(table))

    def sorted_rows(self, rows: np.ndarray) -> tuple[list[pa.RecordBatch], np.ndarray]:
        """Rows in the order they lie in, and for each row asked for its place among them, int64 of shape (rows,)."""
        if self.mapping is not None:
            rows = self.mapping.take(pa.array(rows)).to_numpy().astype(np.int64)
        order = np.argsort(rows, kind="stable")
        places = np.empty(len(rows), dtype=np.int64)
        places[order] = np.arange(len(rows))
        ordered = rows[order]
        which = np.searchsorted(self.starts, ordered, side="right") - 1
        cuts = np.flatnonzero(np.diff(which)) + 1
        parts = []
        for piece, batch in zip(np.split(ordered, cuts), which[np.r_[0, cuts]], strict=True):
            first, last = int(piece[0] - self.starts[batch]), int(piece[-1] - self.starts[batch])
            if last - first + 1 == len(piece) and len(np.unique(piece)) == len(piece):
                parts.append(self.batches[batch].slice(first, len(piece)))  # rows in a run: no copy
            else:
                chosen = pa.array(piece - self.starts[batch])
                parts.append(pc.take(self.batches[batch], chosen, boundscheck=False, memory_pool=POOL))
        return parts, places


def write_arrow(
    dataset: datasets.Dataset, path: str | os.PathLike, *, page_bytes: int = PAGE_BYTES
) -> datasets.Dataset:
    """Writes a dataset to one Arrow file in the order of its rows, so that reading it is sequential.

    What `flatten_indices` does, in a small part of its time; memory is bounded by the page, not by the dataset.

    Args:
        dataset ([`~datasets.Dataset`]): Such as [`draw`] gives.
        path (`str`): The file to make. It is there only when it is whole.
        page_bytes (`int`, *optional*, defaults to 128 MiB): Rows taken at a time.

    Returns:
        `datasets.Dataset`: The same rows, memory-mapped from `path`.

    Raises:
        BuildError: If the file can't be written.
    """
    target = Path(os.path.abspath(path))
    if target.is_dir():
        raise BuildError(f"{target} is a folder: give the name of a file to make.")
    temporary = Path(f"{target}.{os.getpid()}.incomplete")
    schema = dataset.features.arrow_schema  # with the features in its metadata, which is where `datasets` looks
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file, pa.ipc.new_stream(file, schema) as writer:
            for page in pages(dataset, page_bytes):
                writer.write_table(page.cast(schema), max_chunksize=BATCH_ROWS)
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        raise own_error(error, target) from error
    return datasets.Dataset.from_file(str(target), info=dataset.info, split=dataset.split)


def pages(dataset: datasets.Dataset, page_bytes: int) -> Iterator[pa.Table]:
    """The dataset's rows in their order, as tables of about `page_bytes`."""
    reader = RowReader(dataset)
    size = max(1, int(page_bytes / max(1.0, reader.row_bytes)))
    for start in range(0, len(dataset), size):
        rows = np.arange(start, min(start + size, len(dataset)))
        parts, places = reader.sorted_rows(rows)
        yield in_order(pa.Table.from_batches(parts, reader.schema), places)


def in_order(table: pa.Table, places: np.ndarray) -> pa.Table:
    """The rows of a table of many pieces in another order, in one piece."""
    whole = table.combine_chunks(memory_pool=POOL)
    return pc.take(whole, pa.array(places), boundscheck=False, memory_pool=POOL)
