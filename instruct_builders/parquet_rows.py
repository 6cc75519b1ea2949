"""Parquet -> rows, with the columns cast to the schema; a column of another type is an error of the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .chunks import EXTRA, RAW_LIMIT, Chunk, Rejection, Unfit
from .errors import SourceError
from .json_fit import json_text
from .records import JSON

_MAX_BATCH = 1 << 16


def open_parquet(stream: BinaryIO, file: str) -> pq.ParquetFile:
    """The file, or a [`SourceError`] that says what is wrong with it."""
    try:
        return pq.ParquetFile(stream)
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(f"{file} is no Parquet file that can be read: {error}") from error


def read_parquet(stream: BinaryIO, schema: pa.Schema, file: str, extra: str, chunk_bytes: int) -> Iterator[Chunk]:
    """Yields the rows of a Parquet file. A null or a NUL takes out its row; a wrong type raises [`SourceError`].

    Columns outside `schema` go to `extra` where they are not null: in Parquet a missing key and null are the same.
    """
    source = open_parquet(stream, file)
    names = source.schema_arrow.names
    for field in schema:
        if field.name not in names and not field.nullable:
            raise SourceError(f"{file} has no column {field.name!r}, it has {', '.join(names)}.")
    others = sorted(name for name in names if name not in schema.names)
    if others and extra == "reject":
        raise SourceError(f"{file}: the column {others[0]!r} is not one of {', '.join(schema.names)}.")
    groups = [source.metadata.row_group(i) for i in range(source.metadata.num_row_groups)]
    size = sum(group.total_byte_size for group in groups) // max(source.metadata.num_rows, 1)
    row = 0
    for batch in source.iter_batches(batch_size=min(max(chunk_bytes // max(size, 1), 1), _MAX_BATCH)):
        yield _chunk(batch, schema, others, file, row)
        row += len(batch)


def _chunk(batch: pa.RecordBatch, schema: pa.Schema, others: list[str], file: str, first_row: int) -> Chunk:
    count = len(batch)
    level = _Level(file, np.arange(count), np.ones(count, bool), lambda index: [], {})
    columns = []
    for field in schema:
        found = batch.schema.names
        column = batch[field.name] if field.name in found else pa.nulls(count)
        columns.append(_fit(column, field, level))
    columns.append(_extras(batch, others, file, level.faults))
    keep = np.ones(count, bool)
    keep[list(level.faults)] = False
    table = pa.Table.from_arrays(columns, schema=schema.append(EXTRA))
    table = table if keep.all() else table.filter(pa.array(keep))
    rejected = [_rejection(batch, row, why, file, first_row) for row, why in sorted(level.faults.items())]
    rows = first_row + np.flatnonzero(keep)
    nowhere = np.full(len(rows), -1, np.int64)
    return Chunk(table, rows, nowhere, nowhere, rejected)


def _rejection(batch: pa.RecordBatch, row: int, why: Unfit, file: str, first_row: int) -> Rejection:
    try:
        raw = json.dumps(batch.slice(row, 1).to_pylist()[0], ensure_ascii=False, default=repr).encode()
    except UnicodeError:
        raw = None  # such a row has no bytes of its own that could be shown
    size = 0 if raw is None else len(raw)
    raw = raw if raw is None else raw[:RAW_LIMIT]
    return Rejection(file, first_row + row, None, None, why.reason, why.field, why.detail, raw, size)


def _extras(batch: pa.RecordBatch, others: list[str], file: str, faults: dict[int, Unfit]) -> pa.Array:
    """The other columns of each row as the JSON text of one object."""
    texts: list[str | None] = [None] * len(batch)
    for row in range(len(batch)) if others else ():
        try:
            values = {name: batch[name][row].as_py() for name in others}
            values = {name: value for name, value in values.items() if value is not None}
            texts[row] = _dumps(values) if values else None
        except UnicodeDecodeError as error:
            faults.setdefault(row, Unfit("bad_utf8", f"byte 0x{error.object[error.start]:02x} in another column"))
        except (TypeError, ValueError) as error:
            raise SourceError(f"{file}: a column of {', '.join(others)} can't be kept as JSON: {error}") from error
    return pa.array(texts, pa.string())


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True)
class _Level:
    """Where the elements of an array belong: which row, whether a parent is null, and the path down to them."""

    file: str
    rows: np.ndarray
    alive: np.ndarray
    path: Callable[[int], list]
    faults: dict[int, Unfit]

    def fault(self, wrong: np.ndarray, name: str | None, reason: str, detail: str) -> None:
        for index in np.flatnonzero(wrong & self.alive):
            path = self.path(int(index)) + ([name] if name else [])
            self.faults.setdefault(int(self.rows[index]), Unfit(reason, detail, *reversed(path)))


def _mask(array: pa.Array) -> np.ndarray:
    return array.is_null().to_numpy(zero_copy_only=False)


def _fit(array: pa.Array, field: pa.Field, level: _Level, name: str | None = "") -> pa.Array:
    """`array` as `field` wants it; elements at fault are noted in `level.faults`."""
    name = field.name if name == "" else name
    kind = field.type
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if not field.nullable:
        level.fault(_mask(array), name, "null_field", "null, where a value is required")
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), kind)
    if kind == JSON:
        return _fit_json(array, name, level)
    if pa.types.is_list(kind) and _is_any_list(array.type):
        return _fit_list(array, kind, name, level)
    if pa.types.is_struct(kind) and pa.types.is_struct(array.type):
        return _fit_struct(array, kind, name, level)
    accepted = {
        pa.string(): _is_text,
        pa.int64(): pa.types.is_integer,
        pa.float64(): lambda found: pa.types.is_floating(found) or pa.types.is_integer(found),
        pa.bool_(): pa.types.is_boolean,
    }
    if kind not in accepted or not accepted[kind](array.type):
        where = field.name if name else f"items of {field.name}"
        raise SourceError(
            f"{level.file}: the column {where!r} is {array.type}, and {kind} is needed: cast it or map another."
        )
    if kind == pa.string():
        _check_text(array, name, level)
    return array.cast(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_any_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _check_text(array: pa.Array, name: str | None, level: _Level) -> None:
    try:
        array.validate(full=True)
        level.fault(_contains_nul(array), name, "nul", "a NUL character")
    except pa.ArrowInvalid:
        wrong = np.zeros(len(array), bool)
        for index, value in enumerate(array.cast(pa.large_binary())):
            try:
                (value.as_py() or b"").decode()
            except UnicodeDecodeError:
                wrong[index] = True
        level.fault(wrong, name, "bad_utf8", "bytes that are not UTF-8")


def _contains_nul(array: pa.Array) -> np.ndarray:
    found = pc.match_substring(array, "\0")
    return found.fill_null(False).to_numpy(zero_copy_only=False)


def _fit_json(array: pa.Array, name: str | None, level: _Level) -> pa.Array:
    texts: list[str | None] = []
    for index, value in enumerate(array.to_pylist()):
        try:
            text = value if value is None or _is_text(array.type) else _dumps(value)
            texts.append(None if text is None else json_text(text))
        except Unfit as why:
            texts.append(None)
            level.fault(np.arange(len(array)) == index, name, why.reason, why.detail)
        except (TypeError, ValueError) as error:
            raise SourceError(f"{level.file}: the column {name!r} can't be kept as JSON: {error}") from error
    return pa.array(texts, pa.string()).cast(JSON)


def _fit_list(array: pa.Array, kind: pa.DataType, name: str | None, level: _Level) -> pa.Array:
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    owner = np.repeat(np.arange(len(array)), lengths)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])

    def path(index: int) -> list:
        parent = int(owner[index])
        return level.path(parent) + ([name] if name else []) + [int(index - offsets[parent])]

    inner = _Level(level.file, level.rows[owner], level.alive[owner], path, level.faults)
    values = _fit(array.flatten(), kind.value_field, inner, name=None)
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), values, type=kind, mask=pa.array(_mask(array)) if array.null_count else None
    )


def _fit_struct(array: pa.Array, kind: pa.DataType, name: str | None, level: _Level) -> pa.Array:
    def path(index: int) -> list:
        return level.path(index) + ([name] if name else [])

    inner = _Level(level.file, level.rows, level.alive & ~_mask(array), path, level.faults)
    found = [part.name for part in array.type]
    children = []
    for part in kind:
        child = pc.struct_field(array, [found.index(part.name)]) if part.name in found else pa.nulls(len(array))
        children.append(_fit(child, part, inner))
    known = [part.name for part in kind]
    for place, other in enumerate(found):
        if other not in known:
            wrong = ~_mask(pc.struct_field(array, [place]))
            inner.fault(wrong, other, "schema", f"the key {other!r} is not one of {', '.join(sorted(known))}")
    return pa.StructArray.from_arrays(children, type=kind, mask=pa.array(_mask(array)) if array.null_count else None)
