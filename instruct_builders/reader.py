"""Files -> rows, straight from the bytes: a bad row is handed out as a rejection and never takes others with it.

JSON Lines, JSON arrays, CSV, TSV and Parquet; gzip, xz, bzip2 and zstd are told by their first bytes.

How rows are found again behind damage:
- JSON Lines: a line is a row.
- JSON array: a row begins at a mark, which is learned from the first rows: the line break, indentation and `{` of the
  first row, or `{` and a top-level key where rows are not on lines of their own. Bytes from a mark that don't parse
  are one rejection that ends at the next mark. A row may hold marks itself only if it fits the schema.
- CSV: a row of several lines that does not parse costs its first line; reading goes on with the second.
A missing or doubled comma between two whole rows of an array loses nothing and is accepted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from .byte_source import COMPRESSIONS, HEAD_BYTES, ByteSource, is_url, open_file, text_source
from .chunks import Chunk, Draft, Rejection, stream_chunks
from .csv_rows import CsvParser
from .errors import ConfigError, SourceError
from .json_fit import WHITESPACE, row_parser
from .json_layout import LIST_COLUMNS, Layout, detect, enter, line_starts
from .json_rows import JsonParser
from .parquet_rows import open_parquet, read_parquet

__all__ = ["Chunk", "Rejection", "peek", "ranges", "read"]

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
_JSON_SUFFIXES = SUFFIXES[:3]
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read(
    path: str | os.PathLike,
    schema: pa.Schema,
    *,
    name: str | None = None,
    open: Callable[[str], BinaryIO] | None = None,
    start: int = 0,
    stop: int | None = None,
    chunk_bytes: int = 8 << 20,
    max_row_bytes: int = 16 << 20,
    extra: str = "keep",
    field: str | None = None,
    header: Sequence[str] | None = None,
    quotes: bool = True,
    fast: bool = True,
) -> Iterator[Chunk]:
    """Reads the rows of a file, in its order, as Arrow tables.

    Args:
        path (`str` or `os.PathLike`): A local file or an fsspec URL such as `hf://datasets/org/name/train.jsonl`.
        schema (`pa.Schema`): Columns of string, int64, float64, bool, list, struct and `pa.json_()` (any JSON value,
            kept as JSON text). A field that is not nullable has to be there in every row.
        name (`str`, *optional*, defaults to `path`): What messages call the file; its ending tells the format.
        open (`Callable`, *optional*): From `path` to a binary stream.
        start (`int`, *optional*, defaults to 0), stop (`int`, *optional*): Read the lines that begin in these bytes.
            JSON Lines only; see [`ranges`]. Rows and lines are still counted from the beginning of the file.
        chunk_bytes (`int`, *optional*, defaults to 8 MiB): Bytes read at a time.
        max_row_bytes (`int`, *optional*, defaults to 16 MiB): Longer rows are rejected and never held in memory.
        extra (`str`, *optional*, defaults to `"keep"`): `"keep"` puts the keys outside `schema` in the column `extra`,
            `"reject"` rejects the row.
        field (`str`, *optional*): Key of the list of rows in a JSON file that is one object.
        header (`Sequence[str]`, *optional*): Names of the columns of a CSV or TSV file without a header line.
        quotes (`bool`, *optional*, defaults to `True`): Whether `"` encloses CSV and TSV cells, or means itself.
        fast (`bool`, *optional*, defaults to `True`): Let Arrow parse JSON where it agrees with the slow path.

    Yields:
        [`Chunk`]: rows and rejections. Rows in = rows out + rejected, without a gap.

    Raises:
        SourceError: If the file as a whole can't be read: it is missing, empty, in UTF-16, of a format not known, its
            compression is damaged (after the rows before the damage), or a Parquet column has another type.
        ConfigError: If an argument does not fit the format.
    """
    name = os.fspath(path) if name is None else name
    if extra not in ("keep", "reject"):
        raise ConfigError(f"extra={extra!r}, allowed: 'keep' or 'reject'.")
    if chunk_bytes < 1 or max_row_bytes < 1:
        raise ConfigError(f"chunk_bytes={chunk_bytes} and max_row_bytes={max_row_bytes}: both must be positive.")
    suffix = _suffix(name)
    if field is not None and suffix != ".json":
        raise ConfigError(f"field={field!r} is for .json files, and {name} is {suffix}.")
    if header is not None and suffix not in (".csv", ".tsv"):
        raise ConfigError(f"header is for .csv and .tsv files, and {name} is {suffix}.")
    parse_row = row_parser(schema, extra)  # refuses types that are not supported
    row = 0
    with (open or open_file)(os.fspath(path)) as stream:
        if suffix == ".parquet":
            chunks = read_parquet(stream, schema, name, extra, chunk_bytes)
        else:
            source, head, offset = text_source(stream, name)
            place = Draft(name, schema, start=offset)
            if suffix in _JSON_SUFFIXES:
                layout = _layout(head, suffix, schema, name, field)
                source.read(layout.begin)
                place.line += head.count(b"\n", 0, layout.begin)
                place.start += layout.begin
                parse = JsonParser(schema, layout, parse_row, max_row_bytes, fast)
                find_starts, lines = layout.find_starts, layout.lines
            else:
                parse = CsvParser(schema, _DELIMITERS[suffix], quotes, header, extra, max_row_bytes, name)
                find_starts, lines = line_starts, False
            if (start or stop is not None) and not lines:
                raise ConfigError(f"start and stop are for JSON Lines, and {name} is not.")
            _skip_lines(source, place, start)
            source.stop(None if stop is None else stop - place.start)
            chunks = stream_chunks(source, find_starts, parse, place, chunk_bytes, max_row_bytes)
            row = place.row
        for chunk in chunks:
            row = _counted(chunk, row)
            yield chunk


def _layout(head: bytes, suffix: str, schema: pa.Schema, name: str, field: str | None) -> Layout:
    if field is not None:
        return enter(head, field, schema, name)
    return detect(head, suffix, schema, (*schema.names, *LIST_COLUMNS), name, whole=len(head) < HEAD_BYTES)


def peek(
    path: str | os.PathLike,
    *,
    name: str | None = None,
    open: Callable[[str], BinaryIO] | None = None,
    field: str | None = None,
    header: Sequence[str] | None = None,
) -> dict[str, Any] | None:
    """The first row that can be read, whatever its keys, to tell a file's format by. `None` if there are no rows.

    Raises:
        SourceError: If the file can't be read, or has rows and none of them can.
    """
    name = os.fspath(path) if name is None else name
    if _suffix(name) == ".parquet":
        with (open or open_file)(os.fspath(path)) as stream:
            first = next(open_parquet(stream, name).iter_batches(batch_size=1), None)
            return first.to_pylist()[0] if first is not None and len(first) else None
    rejected = []
    for chunk in read(path, pa.schema([]), name=name, open=open, field=field, header=header, chunk_bytes=1 << 16):
        if len(chunk.table):
            return json.loads(chunk.table["extra"][0].as_py() or "{}")
        rejected += chunk.rejected
    if not rejected:
        return None
    why = rejected[0]
    raise SourceError(
        f"{name}: none of its {len(rejected)} rows can be read. The first one, in line {why.line} at byte "
        f"{why.offset}: {why.reason}, {why.detail}."
    )


def ranges(path: str | os.PathLike, n: int) -> list[tuple[int, int | None]]:
    """At most `n` byte ranges of about the same size for `start` and `stop` of [`read`], each beginning with a line.

    Only a local, uncompressed JSON Lines file can be divided; any other gives `[(0, None)]`.
    """
    path = os.fspath(path)
    if n < 2 or is_url(path) or not path.endswith((".jsonl", ".ndjson")) or not os.path.getsize(path):
        return [(0, None)]
    size, cuts = os.path.getsize(path), [0]
    with open_file(path) as stream:
        if stream.read(6).startswith(tuple(COMPRESSIONS)):
            return [(0, None)]
        for part in range(1, n):
            stream.seek(size * part // n)
            stream.readline()
            if cuts[-1] < stream.tell() < size:
                cuts.append(stream.tell())
    return list(zip(cuts, [*cuts[1:], None], strict=True))


def _suffix(name: str) -> str:
    base = name.split("::")[0].lower()
    for compression in (".gz", ".xz", ".bz2", ".zst"):
        base = base.removesuffix(compression)
    for suffix in SUFFIXES:
        if base.endswith(suffix):
            return suffix
    raise SourceError(f"{name}: the ending tells the format, allowed: {', '.join(SUFFIXES)}, also compressed (.gz).")


def _skip_lines(source: ByteSource, place: Draft, start: int) -> None:
    """Reads to the first line that begins at byte `start` or later, and counts the rows and lines before it."""
    counted = False  # whether the line that goes on in the next bytes is already known not to be blank
    while place.start < start and (data := source.read(HEAD_BYTES)):
        end = data.find(b"\n", max(start - 1 - place.start, 0)) + 1
        if end:
            source.put_back(data[end:])
            data = data[:end]
        starts = line_starts(data)
        stops = np.append(starts[1:], len(data))
        for begin, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            blank = not data[begin:stop].strip(WHITESPACE)
            place.row += not blank and not (counted and begin == 0)
            counted = (counted and begin == 0) or not blank
        place.line += len(starts) - 1
        place.start += len(data)
        if end and place.start >= start:
            return


def _counted(chunk: Chunk, row: int) -> int:
    """Checks that no row between `row` and the end of the chunk is lost or doubled, and returns that end."""
    rejected = np.array([why.row for why in chunk.rejected], np.int64)
    rows = np.sort(np.concatenate([chunk.row, rejected]))
    if len(chunk.table) != len(chunk.row) or not np.array_equal(rows, np.arange(row, row + len(rows))):
        raise AssertionError(f"rows {row} to {row + len(rows)}: rows in are not rows out + rejected")
    return row + len(rows)
