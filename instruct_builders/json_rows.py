"""JSON bytes -> rows. Arrow parses whole chunks; where it refuses one, smaller pieces, then single rows are tried.

What a row is does not depend on the path taken: `json_fit.row_parser` is the specification. Arrow's parser is held to
it by what is checked before (every piece is one `{...}`, no NUL) and after (as many rows as pieces, UTF-8, finite
numbers); keys given twice, unknown keys, nulls where the schema allows none and other types it refuses by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from .chunks import EXTRA, Draft, Unfit, swap_json
from .json_extra import TextKeys
from .json_fit import WHITESPACE
from .json_layout import Layout, before_space, skip_space, value_end

_FEW = 32  # rows that are not worth another call of Arrow's parser
_SPAN = 1 << 20  # bytes that a row may have if it holds something that looks like the beginning of a row
_SYNTAX = ("bad_json", "bad_utf8", "nul")  # faults that may come from a piece that is not one row
_SEPARATORS = re.compile(rb"[ \t\n\r,]*")
_NEXT_OBJECT = re.compile(rb",[ \t\n\r]*(?=\{)")
# Arrow's parser crashes the process on a null between rows. Where every piece is `{...}` it must stand behind a row.
_NULL_BETWEEN = re.compile(rb"\}[ \t\n\r]*null")


@dataclass
class _Pieces:
    """The rows of one buffer. `bounds` are n+1 positions; `starts` and `stops` leave out what separates the rows."""

    bounds: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    clean: np.ndarray  # bool: one `{...}` by its first and last byte, properly separated, not too long
    flat: bytes | bytearray  # the buffer with the commas between rows blanked
    closed: bool = False  # the last piece is followed by the bracket that ends the array


class JsonParser:
    """Parses the rows of one buffer after the other; called by [`chunks.stream_chunks`].

    Args:
        schema (`pa.Schema`): Columns of the rows.
        layout (`Layout`): Where rows begin in this file.
        fit (`Callable`): From the bytes of a row to its values: `json_fit.row_parser(schema, extra)`.
        max_row_bytes (`int`): Rows longer than this are rejected.
        fast (`bool`, *optional*, defaults to `True`): Let Arrow parse what it can. The rows are the same without.
    """

    def __init__(
        self,
        schema: pa.Schema,
        layout: Layout,
        fit: Callable[[bytes], list],
        max_row_bytes: int,
        fast: bool = True,
    ):
        self.schema, self.layout, self.fit, self.max_row_bytes = schema, layout, fit, max_row_bytes
        self.span = min(_SPAN, max_row_bytes)
        # A JSON column is only left to Arrow while it is null: Arrow keeps no text of a list or object.
        self.arrow_fields = [part.with_type(swap_json(part.type, pa.null())) for part in schema]
        self.fast = fast and len(schema) > 0
        self.has_floats = "double" in str(schema)
        self.others = TextKeys()
        self.ended = not layout.bracket
        self.tail_rejected = False

    def __call__(self, draft: Draft, starts: np.ndarray, last: bool) -> int | None:
        """Adds rows and rejections to `draft`. Returns the bytes that are done with, or `None` to read no further."""
        size = len(draft.buffer)
        if self.layout.lines:
            draft.newlines = starts[1:] - 1  # known already, so not searched for again
        if last or (not self.layout.lines and size - starts[-1] > self.max_row_bytes):
            starts = np.append(starts, size)
        pieces = (self._cut_lines if self.layout.lines else self._cut_values)(draft.buffer, starts, last)
        done = self._parse(draft, pieces, last)
        if last and not self.ended and not self.tail_rejected and done is not None:
            draft.reject(size, size, Unfit("bad_json", "the file ends before the closing bracket of its array"))
        return int(starts[-1]) if done == pieces.bounds[-1] else done

    def _parse(self, draft: Draft, pieces: _Pieces, last: bool) -> int | None:
        count, position = len(pieces.starts), 0
        ranges = [(0, count)]
        while ranges:
            begin, end = ranges.pop()
            begin = max(begin, position)
            if begin >= end:
                continue
            table = self._arrow_rows(draft.buffer, pieces, begin, end)
            if table is not None:
                draft.add_table(table, pieces.starts[begin:end])
                position = end
                self.ended |= pieces.closed and end == count
            elif end - begin > _FEW:
                step = max(_FEW, -(-(end - begin) // 16))
                ranges.extend((at, min(at + step, end)) for at in reversed(range(begin, end, step)))
            else:
                position = begin
                while position < end:
                    done, following = self._one(draft, pieces, position, last), pieces.bounds[position + 1]
                    if done is None or done < following:
                        return done
                    position = position + 1 if done == following else int(np.searchsorted(pieces.bounds[:-1], done))
        self.ended |= pieces.closed and not count
        return int(pieces.bounds[-1])

    def _cut_lines(self, buffer: bytes, starts: np.ndarray, last: bool) -> _Pieces:
        data = np.frombuffer(buffer, np.uint8)
        starts, stops = starts[:-1], starts[1:].copy()
        for byte in b"\n\r":
            full = stops > starts
            stops[full] -= data[stops[full] - 1] == byte
        full = stops > starts
        starts, stops = starts[full], stops[full]
        clean = (data[starts] == ord("{")) & (data[stops - 1] == ord("}")) & (stops - starts <= self.max_row_bytes)
        return _Pieces(np.append(starts, len(buffer)), starts, stops, clean, buffer)

    def _cut_values(self, buffer: bytes, bounds: np.ndarray, last: bool) -> _Pieces:
        data = np.frombuffer(buffer, np.uint8)
        starts, stops = bounds[:-1], bounds[1:].copy()
        closed = False
        if last and self.layout.bracket and not self.layout.inside:
            end = len(buffer.rstrip(WHITESPACE))
            closed = buffer[end - 1 : end] == b"]"
            stops[-1] = end - closed
        stops = before_space(data, starts, stops)
        full = stops > starts
        comma = np.zeros(len(stops), bool)
        comma[full] = data[stops[full] - 1] == ord(",")
        flat = bytearray(buffer)
        np.frombuffer(flat, np.uint8)[stops[comma] - 1] = ord(" ")
        stops = before_space(data, starts, stops - comma)
        full = stops > starts
        clean = full & (stops - starts <= self.max_row_bytes)
        clean[full] &= (data[starts[full]] == ord("{")) & (data[stops[full] - 1] == ord("}"))
        separated = comma if self.layout.bracket else ~comma
        separated[-1] |= last  # no comma behind the last row of an array
        return _Pieces(bounds, starts, stops, clean & separated, flat, closed)

    def _arrow_rows(self, buffer: bytes, pieces: _Pieces, begin: int, end: int) -> pa.Table | None:
        """The pieces from `begin` to `end` by Arrow's parser, or `None` where it can't be sure of every row."""
        if not self.fast or not pieces.clean[begin:end].all():
            return None
        start, stop = int(pieces.starts[begin]), int(pieces.stops[end - 1])
        if buffer.find(b"\\u0000", start, stop) >= 0:
            return None
        if buffer.find(b"null", start, stop) >= 0 and _NULL_BETWEEN.search(buffer, start, stop):
            return None
        explicit = pa.schema(self.arrow_fields + self.others.fields())
        try:
            table = pyarrow.json.read_json(
                pa.BufferReader(pa.py_buffer(memoryview(pieces.flat)[start:stop])),
                read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=stop - start + 1),
                parse_options=pyarrow.json.ParseOptions(
                    explicit_schema=explicit, newlines_in_values=True, unexpected_field_behavior="error"
                ),
            )
            table.validate(full=True)  # Arrow's parser takes bytes that are not UTF-8
        except pa.ArrowInvalid:
            return None
        # One object per piece: a break between pieces that lay inside an object would be `} {`, which is no JSON.
        if len(table) != end - begin or (self.has_floats and not _all_finite(table)):
            return None
        if self.others.names and self.others.refuse_absent(table):
            return None
        extra = self.others.join(table) if self.others.names else pa.nulls(len(table), EXTRA.type)
        if extra is None:
            return None
        table = table.select(self.schema.names)
        table = table.cast(self.schema) if table.schema != self.schema else table
        return table.append_column(EXTRA, extra)

    def _one(self, draft: Draft, pieces: _Pieces, index: int, last: bool) -> int | None:
        """One piece by the specification. Returns where it ends, or less if more of the file must be seen first."""
        start, stop = int(pieces.starts[index]), int(pieces.stops[index])
        if self.layout.lines:
            raw = draft.buffer[start:stop].strip(WHITESPACE)
            if raw:  # a blank line is no row
                self._add(draft, start, stop, raw)
        elif pieces.clean[index]:
            raw = draft.buffer[start:stop]
            try:
                self._keep(draft, start, self.fit(raw))
            except Unfit as why:
                if why.reason in _SYNTAX and value_end(raw, 0, len(raw)) != len(raw):
                    return self._recut(draft, pieces.bounds, index, last)
                draft.reject(start, stop, why)
            self.ended |= pieces.closed and index == len(pieces.starts) - 1
        else:
            return self._recut(draft, pieces.bounds, index, last)
        return int(pieces.bounds[index + 1])

    def _add(self, draft: Draft, start: int, stop: int, raw: bytes) -> None:
        try:
            if stop - start > self.max_row_bytes:
                raise Unfit("too_long", f"{stop - start} bytes, allowed: {self.max_row_bytes}")
            self._keep(draft, start, self.fit(raw))
        except Unfit as why:
            draft.reject(start, stop, why)

    def _keep(self, draft: Draft, start: int, values: list) -> None:
        draft.add_row(values, start)
        if values[-1] is not None:
            self.others.learn(values[-1])

    def _recut(self, draft: Draft, bounds: np.ndarray, index: int, last: bool) -> int | None:
        """Finds the rows in a piece that is not exactly one row. Where nothing parses, the rest of it is rejected."""
        buffer, position, stop = draft.buffer, int(bounds[index]), int(bounds[index + 1])
        while True:
            position = _SEPARATORS.match(buffer, position).end()
            whole = last or stop < len(buffer)  # otherwise the piece may go on
            if position >= stop:
                return stop
            if self.layout.bracket and buffer[position] == ord("]"):
                if self.layout.inside:
                    self.ended = True
                    return None
                if skip_space(buffer, position + 1) == len(buffer):
                    self.ended |= last
                    return stop if last else position
            end = value_end(buffer, position, stop)
            after = end and skip_space(buffer, end)
            if not whole and (end is None or after == len(buffer)):
                return position
            if end is None:
                end = self._spanning(buffer, position, stop)
                unsure = len(buffer) - position < self.span if end is None else end > bounds[-1]
                if unsure and not last:
                    return position
                if end is not None:
                    stop = int(bounds[np.searchsorted(bounds, end)])
                    after = skip_space(buffer, end)
            if end is None or (after < stop and buffer[after] not in b",]{"):
                resume = self._resume(buffer, position, stop)
                self._reject_rest(draft, position, resume, end)
                position = resume
                self.tail_rejected = last and resume == len(buffer)
                continue
            self._add(draft, position, end, buffer[position:end])
            position = end

    def _spanning(self, buffer: bytes, position: int, stop: int) -> int | None:
        """The end of a row with marks of other rows inside: only believed if it fits the schema."""
        end = value_end(buffer, position, min(position + self.span, len(buffer)))
        if end is None or end <= stop:
            return None
        after = skip_space(buffer, end)
        if after < len(buffer) and buffer[after] not in b",]":
            return None
        try:
            self.fit(buffer[position:end])
        except Unfit:
            return None
        return end

    def _resume(self, buffer: bytes, position: int, stop: int) -> int:
        """Where the next row begins behind damage: at an object that fits the schema, or at the next piece."""
        for comma in _NEXT_OBJECT.finditer(buffer, position, stop):
            end = value_end(buffer, comma.end(), stop)
            try:
                values = [] if end is None else self.fit(buffer[comma.end() : end])
            except Unfit:
                continue
            after = end and skip_space(buffer, end)
            if any(value is not None for value in values[:-1]) and (after == stop or buffer[after] in b",]"):
                return comma.end()
        return stop

    def _reject_rest(self, draft: Draft, position: int, stop: int, end: int | None) -> None:
        raw = draft.buffer[position:stop].rstrip(WHITESPACE + b",")
        if len(raw) > self.max_row_bytes:
            why = Unfit("too_long", f"{len(raw)} bytes, allowed: {self.max_row_bytes}")
        elif end is not None:
            why = Unfit("bad_json", f"text behind the row that ends at its byte {end - position}")
        else:
            why = self._fault(raw)
        draft.reject(position, position + len(raw), why)

    def _fault(self, raw: bytes) -> Unfit:
        try:
            self.fit(raw)
        except Unfit as why:
            return why
        return Unfit("bad_json", "not one row of an array")


def _all_finite(table: pa.Table) -> bool:
    return all(pc.all(pc.is_finite(array)).as_py() is not False for array in _float_arrays(table.columns))


def _float_arrays(arrays: list) -> Iterator[pa.Array | pa.ChunkedArray]:
    for array in arrays:
        if pa.types.is_floating(array.type):
            yield array
        elif pa.types.is_list(array.type):
            yield from _float_arrays([pc.list_flatten(array)])
        elif pa.types.is_struct(array.type):
            yield from _float_arrays([pc.struct_field(array, [i]) for i in range(array.type.num_fields)])
