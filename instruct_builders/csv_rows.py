"""CSV and TSV bytes -> rows: every cell is text, an empty cell is an empty text."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from .chunks import Draft, Unfit
from .errors import SourceError
from .json_fit import canonical


class CsvParser:
    """Parses the lines of one buffer after the other; called by [`chunks.stream_chunks`].

    A quoted cell may hold line breaks. Where a row of several lines turns out to be none (a quote that is never
    closed, a wrong number of cells), only its first line is rejected and reading goes on with the second.

    Args:
        schema (`pa.Schema`): Text columns. Those that may not be null must be in the header.
        delimiter (`str`): `,` or a tab.
        quotes (`bool`): Whether `"` encloses cells; otherwise it is a character like any other.
        header (`Sequence[str]` or `None`): Names of the columns of a file without a header line.
        extra (`str`): `keep` or `reject` columns outside the schema.
        max_row_bytes (`int`): Rows longer than this are rejected.
        file (`str`): Name of the file, for messages.
    """

    def __init__(
        self,
        schema: pa.Schema,
        delimiter: str,
        quotes: bool,
        header: Sequence[str] | None,
        extra: str,
        max_row_bytes: int,
        file: str,
    ):
        self.schema, self.delimiter, self.extra = schema, delimiter, extra
        self.quoting = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
        self.max_row_bytes, self.file = max_row_bytes, file
        self.header: list[str] | None = None
        if header is not None:
            self._set_header(list(header))

    def _set_header(self, names: list[str]) -> None:
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise SourceError(f"{self.file}: the header names {doubled[0]!r} twice: rename one of the columns.")
        missing = [field.name for field in self.schema if not field.nullable and field.name not in names]
        if missing:
            raise SourceError(
                f"{self.file}: the first line has no column {missing[0]!r}, it has {', '.join(names)[:500]}. Rename a "
                "column, or give the names with header=[...] if the file has no header line."
            )
        for field in self.schema:
            if field.name in names and field.type != pa.string():
                raise SourceError(
                    f"{self.file}: the column {field.name!r} is text, as all of CSV is, and {field.type} is needed: "
                    "save the rows as JSON Lines or Parquet."
                )
        unknown = [name for name in names if name not in self.schema.names]
        if unknown and self.extra == "reject":
            raise SourceError(f"{self.file}: the column {unknown[0]!r} is not one of {', '.join(self.schema.names)}.")
        places = {name: place for place, name in enumerate(names)}
        self.places = [places.get(name) for name in self.schema.names]
        self.others = [(name, places[name]) for name in (sorted(unknown) if self.schema.names else unknown)]
        self.header = names

    def __call__(self, draft: Draft, starts: np.ndarray, last: bool) -> int:
        if last:
            starts = np.append(starts, len(draft.buffer)) if starts[-1] < len(draft.buffer) else starts
        limit = csv.field_size_limit(max(self.max_row_bytes, 1))
        try:
            return self._parse(draft, starts.tolist(), last)
        finally:
            csv.field_size_limit(limit)  # it holds for the whole process

    def _parse(self, draft: Draft, bounds: list[int], last: bool) -> int:
        lines = [draft.buffer[start:stop] for start, stop in pairwise(bounds)]
        texts = [line.decode("utf-8", "surrogateescape") for line in lines]
        at = 0
        while at < len(lines):
            rows = csv.reader(iter(texts[at:]), delimiter=self.delimiter, quoting=self.quoting, strict=True)
            for cells, first, stop, error in _rows_with_lines(rows, at):
                at = first
                if error and stop == len(lines) and not last and bounds[-1] - bounds[first] <= self.max_row_bytes:
                    return bounds[first]  # the end of the quoted cell may still come
                why = (
                    Unfit("schema", f"{error}: close the quote, or read with quotes=False")
                    if error
                    else self._fault(cells, lines[first:stop])
                )
                at = stop
                if why and stop > first + 1 and why.reason == "schema":
                    at = first + 1  # the rows that a stray quote has swallowed are read again
                if why:
                    self._reject(draft, bounds, first, at, why)
                elif self.header is None:
                    self._set_header(cells)
                elif cells:
                    draft.add_row(self._values(cells), bounds[first])
                if at != stop or error:
                    break
        return bounds[-1]

    def _fault(self, cells: list[str], lines: list[bytes]) -> Unfit | None:
        raw = b"".join(lines)
        if not cells:  # a blank line is no row
            return None
        if self.header is not None and len(cells) != len(self.header):
            return Unfit("schema", f"{len(cells)} cells, allowed: {len(self.header)}, as in the header")
        if len(raw) > self.max_row_bytes:
            return Unfit("too_long", f"{len(raw)} bytes, allowed: {self.max_row_bytes}")
        if b"\0" in raw:
            return Unfit("nul", f"a NUL byte at byte {raw.index(0)} of the row")
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            return Unfit("bad_utf8", f"byte 0x{raw[error.start]:02x} at byte {error.start} of the row")
        return None

    def _reject(self, draft: Draft, bounds: list[int], first: int, stop: int, why: Unfit) -> None:
        raw = draft.buffer[bounds[first] : bounds[stop]].rstrip(b"\r\n")
        if self.header is None:
            raise SourceError(f"{self.file}: the first line can't be read ({why.detail}), so no column has a name.")
        if raw:
            draft.reject(bounds[first], bounds[first] + len(raw), why)

    def _values(self, cells: list[str]) -> list[str | None]:
        extra = canonical({name: cells[place] for name, place in self.others}) if self.others else None
        return [None if place is None else cells[place] for place in self.places] + [extra]


def _rows_with_lines(rows: Iterator[list[str]], first: int) -> Iterable[tuple[list[str], int, int, str | None]]:
    """`(cells, first line, line behind the last, error)` of each row of a `csv.reader` that begins at line `first`."""
    start = first
    while True:
        try:
            cells, error = next(rows), None
        except StopIteration:
            return
        except csv.Error as fault:
            cells, error = [], f"{fault}: close the quote, or read with quotes=False"
        stop = first + rows.line_num
        yield cells, start, stop, error
        start = stop
