"""What the reader hands out (`Chunk`, `Rejection`) and the loop that turns a byte stream into it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from .records import JSON

RAW_LIMIT = 4096  # bytes of a rejected row that are kept
_OVERLAP = 256  # bytes kept while a row that is too long is skipped: the longest mark of a row's beginning
EXTRA = pa.field("extra", pa.string())


class Unfit(Exception):
    """Why one row can't be used. `path` is written innermost first, as it is found while the calls unwind."""

    def __init__(self, reason: str, detail: str, *path: str | int):
        super().__init__(detail)
        self.reason, self.detail, self.path = reason, detail, list(path)

    @property
    def field(self) -> str | None:
        parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in reversed(self.path))
        return "".join(parts).lstrip(".") or None


@dataclass(frozen=True)
class Rejection:
    """One row that could not be read.

    Args:
        file (`str`): Name of the file.
        row (`int` or `None`): 0-based position of the row in its file.
        line (`int` or `None`): 1-based line where the row begins; `None` where the format has no lines.
        offset (`int` or `None`): Byte (of the decompressed file) where the row begins.
        reason (`str`): One of [`instruct_builders.records.REASONS`].
        field (`str` or `None`): The field at fault, such as `conversations[2].value`.
        detail (`str`): What was found and what is allowed.
        raw (`bytes` or `None`): The row as it stands in the file, at most its first 4,096 bytes.
        raw_bytes (`int`): Length of the whole row in bytes.
    """

    file: str
    row: int | None
    line: int | None
    offset: int | None
    reason: str
    field: str | None
    detail: str
    raw: bytes | None
    raw_bytes: int
    split: str | None = None
    stage: str = "read"
    id: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The object that is written to `rejected.jsonl`: `raw` as text, or `raw_base64` where it is not UTF-8."""
        text = encoded = None
        if self.raw is not None:
            try:
                text = self.raw.decode()
            except UnicodeDecodeError as error:
                # The limit may have cut the last character in two: that is no fault of the row.
                if self.raw_bytes > len(self.raw) and error.start >= len(self.raw) - 3:
                    text = self.raw[: error.start].decode()
                else:
                    encoded = base64.b64encode(self.raw).decode()
        keys = ("file", "row", "line", "offset", "split", "stage", "reason", "field", "detail", "id")
        row = {key: getattr(self, key) for key in keys}
        return row | {"raw": text, "raw_base64": encoded, "raw_bytes": self.raw_bytes}


@dataclass(frozen=True)
class Chunk:
    """Some of a file's rows, in the order of the file.

    Args:
        table (`pa.Table`): The rows that were read: the schema's columns, then `extra` (JSON text of an object with
            the row's other keys, null where there are none).
        row (`np.ndarray`): int64 `(n,)`, 0-based position of each row in its file, rejected ones counted.
        line (`np.ndarray`): int64 `(n,)`, 1-based line where each row begins; -1 where the format has no lines.
        offset (`np.ndarray`): int64 `(n,)`, byte where each row begins in the decompressed file; -1 for Parquet.
        rejected (`list[Rejection]`): The rows of this part of the file that could not be read.
    """

    table: pa.Table
    row: np.ndarray
    line: np.ndarray
    offset: np.ndarray
    rejected: list[Rejection]


def swap_json(kind: pa.DataType, stand_in: pa.DataType) -> pa.DataType:
    """`kind` with `stand_in` wherever it says `pa.json_()`, which few of Arrow's functions can build."""
    if kind == JSON:
        return stand_in
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(swap_json(kind.value_type, stand_in)))
    if pa.types.is_struct(kind):
        return pa.struct([part.with_type(swap_json(part.type, stand_in)) for part in kind])
    return kind


@dataclass
class Draft:
    """One chunk while it is put together; `row`, `line` and `start` say where its buffer lies in the file."""

    file: str
    schema: pa.Schema
    row: int = 0
    line: int = 1
    start: int = 0
    buffer: bytes = b""
    tables: list[pa.Table] = field(default_factory=list)
    starts: list[np.ndarray] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    pending: list[list] = field(default_factory=list)
    pending_at: list[tuple[int, int]] = field(default_factory=list)
    newlines: np.ndarray | None = None

    def lines_at(self, starts):
        """The 1-based line of each position in the buffer."""
        if self.newlines is None:
            self.newlines = np.flatnonzero(np.frombuffer(self.buffer, np.uint8) == 10)
        return self.line + np.searchsorted(self.newlines, starts)

    def add_table(self, table: pa.Table, starts: np.ndarray) -> None:
        self.flush()
        self.tables.append(table)
        self.starts.append(starts)
        self.rows.append(np.arange(self.row, self.row + len(starts)))
        self.row += len(starts)

    def add_row(self, values: list, start: int) -> None:
        """One row: the schema's values in order, then `extra`. Written to Arrow together with its neighbours."""
        self.pending.append(values)
        self.pending_at.append((self.row, start))
        self.row += 1

    def reject(self, start: int, stop: int, why: Unfit, length: int | None = None) -> None:
        raw = self.buffer[start : min(stop, start + RAW_LIMIT)]
        line, offset = int(self.lines_at(start)), self.start + start
        length = stop - start if length is None else length
        self.rejected.append(
            Rejection(self.file, self.row, line, offset, why.reason, why.field, why.detail, raw, length)
        )
        self.row += 1

    def flush(self) -> None:
        if not self.pending:
            return
        rows, starts = np.array(self.pending_at, np.int64).T
        self.tables.append(_table(zip(*self.pending, strict=True), self.schema.append(EXTRA)))
        self.rows.append(rows)
        self.starts.append(starts)
        self.pending, self.pending_at = [], []

    def chunk(self) -> Chunk:
        self.flush()
        empty = np.zeros(0, np.int64)
        starts = np.concatenate([empty, *self.starts])
        table = (
            pa.concat_tables(self.tables)
            if self.tables
            else _table([()] * (len(self.schema) + 1), self.schema.append(EXTRA))
        )
        row = np.concatenate([empty, *self.rows])
        return Chunk(table, row, self.lines_at(starts).astype(np.int64), starts + self.start, self.rejected)


def _table(columns: Iterable[Sequence], schema: pa.Schema) -> pa.Table:
    arrays = []
    for part, column in zip(schema, columns, strict=True):
        array = pa.array(column, swap_json(part.type, pa.string()))
        arrays.append(array if array.type == part.type else array.cast(part.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def stream_chunks(
    stream: BinaryIO,
    find_starts: Callable[[bytes], np.ndarray],
    parse: Callable[[Draft, np.ndarray, bool], int | None],
    place: Draft,
    chunk_bytes: int,
    max_row_bytes: int,
) -> Iterator[Chunk]:
    """Reads `stream` in parts, cuts them where rows begin and hands them to `parse`.

    Args:
        find_starts (`Callable`): Positions in a buffer where a row begins, 0 included.
        parse (`Callable`): Takes a draft, the starts and whether this is the end of the file. Adds rows and
            rejections to the draft and returns how many bytes are done with, or `None` to stop reading.
        place (`Draft`): The file, the schema and where the first byte lies in it.

    A row longer than `max_row_bytes` is skipped as it is read: only its first 4,096 bytes are kept.
    """
    row, line, start, rest, last = place.row, place.line, place.start, b"", False
    while not last:
        data = stream.read(chunk_bytes)
        last = not data
        buffer = rest + data
        starts = find_starts(buffer)
        if len(starts) == 1 and not last and len(buffer) <= max_row_bytes:
            rest = buffer
            continue
        draft = Draft(place.file, place.schema, row, line, start, buffer)
        done = parse(draft, starts, last)
        if done is None:
            last, done = True, len(buffer)
        rest = buffer[done:]
        line = int(draft.lines_at(done))
        start += done
        if len(rest) > max_row_bytes and not last:
            skipped, newlines, rest = _skip(stream, rest, find_starts, chunk_bytes)
            draft.reject(done, len(buffer), Unfit("too_long", f"{skipped} bytes, allowed: {max_row_bytes}"), skipped)
            line += newlines
            start += skipped
        row = draft.row
        if draft.rejected or draft.tables or draft.pending:
            yield draft.chunk()


def _skip(stream: BinaryIO, rest: bytes, find_starts: Callable, chunk_bytes: int) -> tuple[int, int, bytes]:
    """Reads on until a row begins. Returns the bytes and the newlines skipped, and what was read of that row."""
    skipped = newlines = 0
    while True:
        data = stream.read(chunk_bytes)
        buffer = rest[-_OVERLAP:] + data
        skipped += max(len(rest) - _OVERLAP, 0)
        newlines += rest.count(b"\n", 0, max(len(rest) - _OVERLAP, 0))
        # Position 0 is no beginning here. Where the overlap held one, it would have been found before.
        starts = find_starts(buffer)[1:]
        if len(starts) or not data:
            stop = int(starts[0]) if len(starts) else len(buffer)
            return skipped + stop, newlines + buffer.count(b"\n", 0, stop), buffer[stop:]
        rest = buffer
