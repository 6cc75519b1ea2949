"""How the rows of a JSON file lie in its bytes: one per line, in one array, or one object after the other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from .errors import SourceError
from .json_fit import WHITESPACE

# Columns of known formats that hold lists of objects: a file with one such row is no wrapper around rows.
LIST_COLUMNS = ("conversations", "conversation", "messages", "items", "instances", "tools")
_SPACE = re.compile(rb"[ \t\n\r]*")
_IS_SPACE = np.isin(np.arange(256), np.frombuffer(WHITESPACE, np.uint8))
_HEAD_BYTES = 1 << 20  # what is looked at to tell the layout
_scanner = json.JSONDecoder(parse_int=str, parse_float=str)  # only finds where values end


@dataclass(frozen=True)
class Layout:
    """Where rows begin.

    Args:
        lines (`bool`): One row per line. Otherwise rows are the values of an array, or follow one another.
        begin (`int`): Bytes before the first row.
        find_starts (`Callable`): Positions in a buffer, which itself begins at a row, where a row begins.
        bracket (`bool`): The rows end with `]`.
        inside (`bool`): The array is one member of an object: what follows its `]` is none of ours.
    """

    lines: bool
    begin: int
    find_starts: Callable[[bytes], np.ndarray]
    bracket: bool = False
    inside: bool = False


def line_starts(buffer: bytes) -> np.ndarray:
    newlines = np.flatnonzero(np.frombuffer(buffer, np.uint8) == 10)
    return np.concatenate([np.zeros(1, np.int64), newlines + 1])


def skip_space(buffer: bytes, position: int) -> int:
    return _SPACE.match(buffer, position).end()


def before_space(data: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """`stops` moved back over white space. More than 64 bytes of it are left for the slow path."""
    stops = stops.copy()
    moving = np.arange(len(stops))
    for _ in range(64):
        moving = moving[stops[moving] > starts[moving]]
        moving = moving[_IS_SPACE[data[stops[moving] - 1]]]
        if not len(moving):
            break
        stops[moving] -= 1
    return stops


def value_end(buffer: bytes, start: int, stop: int) -> int | None:
    """Where the JSON value that begins at `start` ends, or `None` where none ends before `stop`.

    Bytes that are not UTF-8, keys given twice and the like are left to `json_fit`.
    """
    size = 1 << 14  # grows, so that a short row at the front of a long buffer does not pay for all of it
    while True:
        end = min(start + size, stop)
        text = buffer[start:end].decode("utf-8", "surrogateescape")
        try:
            length = _scanner.raw_decode(text)[1]
        except (json.JSONDecodeError, RecursionError):
            length = None
        # A number or a literal at the very end of the window may go on behind it.
        if length is not None and (length < len(text) or end == stop):
            return start + len(text[:length].encode("utf-8", "surrogateescape"))
        if end == stop:
            return None
        size *= 8


def detect(head: bytes, suffix: str, schema: pa.Schema, names: Sequence[str], file: str, whole: bool) -> Layout:
    """Tells the layout of a `.json` or `.jsonl` file by its first bytes.

    Args:
        head (`bytes`): The first bytes of the file, without byte order mark.
        suffix (`str`): `.json`, `.jsonl` or `.ndjson`.
        schema (`pa.Schema`): Its top-level names mark where rows begin in a file without line breaks.
        names (`Sequence[str]`): Keys whose lists of objects belong to a row.
        whole (`bool`): `head` is the whole file.

    Raises:
        SourceError: If the rows are inside an object, or a JSON Lines file is an array.
    """
    start = skip_space(head, 0)
    if head[start : start + 1] == b"[" and suffix == ".json":
        return _array(head, start + 1, schema)
    lines = [line for line in head[start:_HEAD_BYTES].split(b"\n", 8) if line.strip(WHITESPACE)]
    first, second = (*lines, b"", b"")[:2]
    if suffix != ".json":
        if head[start : start + 1] == b"[" and (
            first.strip(WHITESPACE) == b"[" or (whole and not second and _loads(first))
        ):
            raise SourceError(f"{file} is one JSON array, not JSON Lines: rename it to end in .json.")
        return Layout(True, 0, line_starts)
    alone = isinstance(_loads(first), dict)
    if (not alone or (whole and not second)) and not isinstance(_loads(second), dict):
        _refuse_wrapper(head, start, {*schema.names, *names}, file)
    if alone or not second or second.startswith(b"{"):
        return Layout(True, 0, line_starts)
    find_starts = _marks(re.compile(rb"\n\{"))
    return Layout(False, start, find_starts)


def enter(head: bytes, field: str, schema: pa.Schema, file: str) -> Layout:
    """The layout of the array that is the member `field` of the file's one object."""
    seen = []
    for name, position in _members(head, skip_space(head, 0)):
        seen.append(name)
        if name == field:
            if head[position : position + 1] != b"[":
                raise SourceError(f"{file}: field={field!r} is not a list.")
            return _array(head, position + 1, schema, inside=True)
    raise SourceError(f"{file}: no key {field!r} found; the keys are {', '.join(map(repr, seen)) or 'none'}.")


def _loads(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _members(head: bytes, start: int):
    """`(key, position of the value)` of each member of the object at `start`, as far as `head` goes."""
    position = start
    while head[position : position + 1] in (b"{", b","):
        position = skip_space(head, position + 1)
        end = (
            value_end(head, position, min(position + 4096, len(head)))
            if head[position : position + 1] == b'"'
            else None
        )
        colon = end and skip_space(head, end)
        if not end or head[colon : colon + 1] != b":":
            return
        value = skip_space(head, colon + 1)
        yield json.loads(head[position:end].decode("utf-8", "replace")), value
        end = value_end(head, value, len(head))
        if end is None:
            return
        position = skip_space(head, end)


def _refuse_wrapper(head: bytes, start: int, names: set[str], file: str) -> None:
    for name, position in _members(head, start):
        if name not in names and head[position : position + 1] == b"[":
            if head[skip_space(head, position + 1) :][:1] == b"{":
                raise SourceError(
                    f"{file} is one object with its rows under the key {name!r}: read it with field={name!r}, or "
                    "save that list as a file of its own."
                )


def _marks(pattern: re.Pattern) -> Callable[[bytes], np.ndarray]:
    """Positions of `{` in the matches of `pattern`, 0 first."""

    def find_starts(buffer: bytes) -> np.ndarray:
        found = [buffer.index(b"{", match.start()) for match in pattern.finditer(buffer, 0)]
        return np.array([0] * (not found or found[0] > 0) + found, np.int64)

    return find_starts


def _array(head: bytes, position: int, schema: pa.Schema, inside: bool = False) -> Layout:
    """An array's layout: what marks the beginning of a row, learned from the first rows.

    In a file with line breaks that is a line with the indentation of the first row and `{`, in one without it is `{`
    and a top-level key. Neither can occur inside a JSON string: a line break or a quote would be escaped there.
    """
    begin = skip_space(head, position)
    true_starts, stop = _true_starts(head, begin)
    finders = []
    gap = head[position:begin]
    if b"\n" in gap:
        indent = re.escape(gap.rpartition(b"\n")[2])
        finders.append(_marks(re.compile(rb"\n" + indent + rb"\{")))
    pattern = rb"\{[ \t\n\r]*\"(?:" + b"|".join(_row_keys(head, true_starts, schema)) + rb")\"[ \t\n\r]*:"
    finders.append(_marks(re.compile(pattern)))
    for find_starts in finders:
        if not true_starts or set(find_starts(head[begin:stop]) + begin) == set(true_starts):
            return Layout(False, begin, find_starts, bracket=True, inside=inside)
    return Layout(False, begin, finders[-1], bracket=True, inside=inside)


def _true_starts(head: bytes, begin: int, most: int = 32) -> tuple[list[int], int]:
    """Where the first rows begin by strict parsing, as far as they are well formed, and where the last one ends."""
    starts, stop = [], begin
    while head[begin : begin + 1] == b"{" and len(starts) < most:
        end = value_end(head, begin, min(len(head), begin + _HEAD_BYTES))
        if end is None:
            break
        starts.append(begin)
        comma, stop = skip_space(head, end), end
        if head[comma : comma + 1] != b",":
            break
        begin = skip_space(head, comma + 1)
    return starts, stop


def _row_keys(head: bytes, starts: list[int], schema: pa.Schema) -> list[bytes]:
    """Patterns of the keys a row may begin with: the first keys seen, the schema's, none that a nested field has."""
    nested = {part.name for kind in schema.types for part in _nested(kind)}
    first = [next(iter(_members(head, start)), ("", 0))[0] for start in starts]
    names = [name for name in dict.fromkeys([*first, *schema.names]) if name and name not in nested]
    spellings = [
        (name.encode(errors="surrogatepass"), json.dumps(name)[1:-1].encode()) for name in names or schema.names
    ]
    return [re.escape(spelling) for pair in spellings for spelling in dict.fromkeys(pair)] or [rb"[^\"\\]*"]


def _nested(kind: pa.DataType) -> list[pa.Field]:
    if pa.types.is_list(kind):
        return _nested(kind.value_type)
    if pa.types.is_struct(kind):
        return [*kind, *(inner for part in kind for inner in _nested(part.type))]
    return []
