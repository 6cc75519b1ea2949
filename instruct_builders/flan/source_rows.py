"""A task's source -> tables of the columns that it reads, each row's number, and the rows that can't be read."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from instruct_builders import reader, sources
from instruct_builders.errors import SourceError
from instruct_builders.flan.examples import paths_of
from instruct_builders.flan.source_columns import check_columns
from instruct_builders.flan.task_files import Task

SAMPLE_BYTES = 1 << 18  # of a text file, to tell the types of its columns by
BATCH_ROWS, BATCH_BYTES = 1 << 15, 64 << 20


@dataclass(frozen=True)
class Unit:
    """A task with the files it is read from.

    Args:
        files (`tuple`): [`SourceFile`]s, each with our name of its split.
        schemas (`tuple`): Per file that is read, the columns to read.
        held_out (`bool`): Whether `files` ends with the training files once more, as `test`, for held-out rows.
    """

    task: Task
    files: tuple[sources.SourceFile, ...]
    schemas: tuple[pa.Schema, ...]
    held_out: bool = False

    def with_test(self) -> Unit:
        """With a place for rows that are held out of its training files."""
        files = tuple(replace(file, split="test") for file in self.files if file.split == "train")
        return replace(self, files=self.files + files, held_out=True)


@dataclass(frozen=True)
class Rows:
    """Some rows of a file.

    Args:
        table (`pa.Table`): `(n, columns)`.
        row (`np.ndarray`): int64 `(n,)`, places in the file.
        rejected (`list[dict]`): Lines of `rejected.jsonl` for rows that could not be read.
    """

    table: pa.Table
    row: np.ndarray
    rejected: list[dict]


def task_files(task: Task, data_files: object) -> list[sources.SourceFile]:
    """The files of a task, each with our name of its split; their license is the task's.

    Args:
        data_files (`object`): `"bundled"` for the task's samples, `None` for its own source, else what replaces it.

    Raises:
        SourceError: If the source or one of its splits is not there.
    """
    if data_files == "bundled":
        if not task.samples:
            raise SourceError(f"{task.name}: its file has no samples, which is what data_files='bundled' reads.")
        digest = hashlib.sha256(json.dumps(task.samples, sort_keys=True, default=str).encode()).hexdigest()
        source = f"{task.name}.yaml sha256:{digest[:16]}"
        return [sources.SourceFile("", f"{task.name}: samples", "train", digest, source, "apache-2.0")]
    if data_files is not None:
        files = sources.resolve(data_files)
    else:
        files = _own_source(task)
    license_id = task.license if task.license != "unknown" else None
    return [
        replace(file, name=f"{task.name}: {file.name}", license=license_id or file.license or "unknown")
        for file in files
    ]


def _own_source(task: Task) -> list[sources.SourceFile]:
    source, splits = task.source, task.source.get("splits", {"train": "train"})
    path = str(Path(task.path).parent / Path(source["path"]).expanduser())
    local = Path(path).exists() or glob.has_magic(source["path"])
    files = sources.resolve(
        path if local else source["path"], config=source.get("config"), revision=source.get("revision")
    )
    if local and {file.split for file in files} == {"train"}:
        named = [replace(file, split=_split_in_name(file.path)) for file in files]
        if len(splits) > 1 or any(file.split in splits.values() for file in named):
            files = named
    found = []
    for ours, theirs in splits.items():
        part = [replace(file, split=ours) for file in files if file.split == theirs]
        if not part:
            have = ", ".join(dict.fromkeys(file.split for file in files))
            raise SourceError(f"{source['path']} has no split {theirs!r}; it has {have}.")
        found += part
    return found


def _split_in_name(path: str) -> str:
    """`train` of `train.jsonl` and of `train-00000-of-00003.parquet`."""
    return re.split(r"-\d{5}-of-|\.", Path(path).name)[0]


def columns_of(file: sources.SourceFile, task: Task, field: str | None = None) -> pa.Schema:
    """The schema of the columns that the task reads from a file.

    Raises:
        SourceError: If a column is not there.
    """
    paths = paths_of(task)
    if not file.path:
        return _bundled(task).schema
    if _is_parquet(file):
        try:
            found = pq.read_schema(file.path)
        except (pa.ArrowInvalid, OSError) as error:
            raise SourceError(f"{file.name} is no Parquet file that can be read: {error}") from error
    else:
        found = _sampled_schema(file, paths, field)
    check_columns(found, paths, file.name)
    tops = dict.fromkeys(path if path in found.names else path.split(".")[0] for path in paths)
    return pa.schema([found.field(name) for name in tops])


def _is_parquet(file: sources.SourceFile) -> bool:
    return file.path.lower().endswith(".parquet")


def _bundled(task: Task) -> pa.Table:
    try:
        table = pa.Table.from_pylist(
            [{key: row.get(key) for row in task.samples for key in row} | row for row in task.samples]
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SourceError(f"{task.name}: samples do not have one type per column: {error}") from error
    check_columns(table.schema, paths_of(task), f"{task.name}: samples")
    return table


def _sampled_schema(file: sources.SourceFile, paths: list[str], field: str | None) -> pa.Schema:
    """Types of a text file's columns by its first rows; a column that none of them has is not there."""
    rows: list[dict] = []
    for chunk in reader.read(file.path, pa.schema([]), name=file.path, chunk_bytes=SAMPLE_BYTES, field=field):
        rows += [json.loads(text) if text else {} for text in chunk.table["extra"].to_pylist()]
        if rows:
            break
    names = dict.fromkeys(name for row in rows for name in row)
    fields = []
    for name in names:
        try:
            kind = pa.infer_type([row.get(name) for row in rows])
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            if name in paths or any(path.startswith(f"{name}.") for path in paths):
                raise SourceError(f"{file.name}: the column {name!r} has values of several types: {error}") from error
            kind = pa.string()
        fields.append(pa.field(name, _readable(kind)))
    return pa.schema(fields)


def _readable(kind: pa.DataType) -> pa.DataType:
    """Types that the reader knows; where no row of the sample had a value, text is what is expected."""
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_readable(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(part.name, _readable(part.type)) for part in kind])
    return kind


def read_rows(
    file: sources.SourceFile, task: Task, schema: pa.Schema, max_row_bytes: int, field: str | None = None
) -> Iterator[Rows]:
    """The rows of a file, in its order; what is not in `schema` is not read.

    Raises:
        SourceError: If the file as a whole can't be read.
    """
    if not file.path:
        table = _bundled(task)
        yield Rows(table, np.arange(len(table)), [])
    elif _is_parquet(file):
        yield from _parquet_rows(file, schema)
    else:
        for chunk in reader.read(file.path, schema, name=file.path, max_row_bytes=max_row_bytes, field=field):
            lines = [{**line.as_dict(), "file": file.name, "split": file.split} for line in chunk.rejected]
            yield Rows(chunk.table.drop_columns("extra"), chunk.row, lines)


def _parquet_rows(file: sources.SourceFile, schema: pa.Schema) -> Iterator[Rows]:
    row = 0
    with pq.ParquetFile(file.path) as source:
        groups = [source.metadata.row_group(place) for place in range(source.metadata.num_row_groups)]
        weight = sum(group.total_byte_size for group in groups) // max(source.metadata.num_rows, 1)
        size = min(max(BATCH_BYTES // max(weight, 1), 1), BATCH_ROWS)
        batches = source.iter_batches(batch_size=size, columns=schema.names)
        while True:
            try:
                batch = next(batches, None)
                if batch is None:
                    return
                batch.validate(full=True)
            except (pa.ArrowInvalid, OSError) as error:
                raise SourceError(f"{file.name}: the rows from {row} on can't be read: {error}") from error
            yield Rows(pa.table(batch), np.arange(row, row + len(batch)), [])
            row += len(batch)
