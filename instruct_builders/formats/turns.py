"""The turns of many rows, laid flat: what every format is read into and written from, without a Python loop over rows.

Rows of turns are one offsets array and one flat Arrow array per message field, so most conversions reuse the
contents' buffers and rebuild only the roles.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.errors import ConfigError, RowError
from instruct_builders.records import JSON, MESSAGE_FIELDS, ROLES, flat_turns

CONTEXT_SEPARATOR = "\n\n"  # between the first user turn and its context


@dataclass
class Batch:
    """Rows of turns. Message fields that no turn has are absent; JSON is held as plain strings."""

    offsets: np.ndarray  # int32, rows + 1: the turns of row i are offsets[i]:offsets[i + 1]
    fields: dict[str, pa.Array]  # role, content, ...: one value per turn
    null_rows: np.ndarray | None = None  # bool per row: the whole conversation is null
    context: pa.Array | None = None
    tools: pa.Array | None = None
    meta: pa.Array | None = None
    names: tuple[str, str, str] = ("messages", "role", "content")  # as the source calls them, for error messages
    problems: list[tuple[int, str, str, str]] = field(default_factory=list)  # row, reason, field, what is wrong
    first_row: int = 0  # of this batch in its dataset, for error messages

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def turns(self) -> int:
        return int(self.offsets[-1])

    def place(self, turn: int, name: str) -> tuple[int, str]:
        """`(row, "messages[3].role")` of a flat turn position."""
        row = int(np.searchsorted(self.offsets, turn, side="right")) - 1
        column, role, content = self.names
        spelled = {"role": role, "content": content}.get(name, name)
        return row, f"{column}[{turn - int(self.offsets[row])}].{spelled}"

    def fail(self, row: int, name: str, message: str, reason: str = "schema"):
        """Raise the `RowError` of one row of this batch."""
        raise RowError(message, reason=reason, row=self.first_row + int(row), field=name)

    def check(self) -> None:
        """Raise the `RowError` of the first row that no format can hold: nulls and unknown roles."""
        if self.problems:
            row, reason, name, detail = min(self.problems)
            self.fail(row, name, detail, reason)
        if self.null_rows is not None and self.null_rows.any():
            self.fail(
                int(self.null_rows.argmax()), self.names[0], "is null; a list of turns belongs here", "null_field"
            )
        for name in ("role", "content"):
            if self.fields[name].null_count:
                row, place = self.place(first_true(self.fields[name].is_null()), name)
                self.fail(row, place, "is null; text belongs here", "null_field")
        known = pc.is_in(self.fields["role"], value_set=pa.array(ROLES))
        if pc.all(known).as_py() is False:
            turn = first_true(pc.invert(known))
            row, place = self.place(turn, "role")
            given = self.fields["role"][turn].as_py()
            self.fail(row, place, f"role {given[:80]!r} is none of {', '.join(ROLES)}", "bad_role")


def first_true(mask: pa.Array) -> int:
    return int(mask.to_numpy(zero_copy_only=False).argmax())


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold text: strings of any width, or nulls only."""
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def text(array: pa.Array, name: str) -> pa.StringArray:
    """Any text or JSON column as one plain string array; `name` is what the error calls it."""
    if isinstance(array, pa.JsonArray):
        array = array.storage
    if not is_text(array.type):
        raise ConfigError(f"{name!r} holds {array.type}, not text; cast it to a string (or, for JSON, to Json) first")
    return array if array.type == pa.string() else array.cast(pa.string())


def flatten(column: pa.Array) -> tuple[np.ndarray, pa.Array, np.ndarray | None]:
    """`(offsets, values, null_rows)` of a list array of any kind, sliced or not; a null list has no values."""
    lengths, null_rows = pc.list_value_length(column), None
    if column.null_count:
        null_rows, lengths = column.is_null().to_numpy(zero_copy_only=False), lengths.fill_null(0)
    offsets = np.zeros(len(column) + 1, np.int32)
    np.cumsum(lengths.to_numpy(zero_copy_only=False), out=offsets[1:])
    return offsets, flat_turns(column), null_rows


def read_turns(column: pa.Array, name: str, names: dict[str, str]) -> tuple[np.ndarray, dict, np.ndarray | None]:
    """`(offsets, fields, null_rows)` of a column of turns.

    Args:
        column (`pa.Array`): list<struct> of any width.
        name (`str`): The column's name, for error messages.
        names (`dict`): The struct fields that are understood -> their message field.
    """
    if not is_list(column.type):
        raise ConfigError(f"{name!r} holds {column.type}; a list of {{{', '.join(list(names)[:2])}}} belongs there")
    offsets, values, null_rows = flatten(column)
    if pa.types.is_null(values.type):  # every row is an empty list: the type of a turn was never seen
        return offsets, {field: pa.nulls(0, pa.string()) for field in ("role", "content")}, null_rows
    if not pa.types.is_struct(values.type):
        raise ConfigError(f"{name!r} holds {column.type}; a list of {{{', '.join(list(names)[:2])}}} belongs there")
    fields = {}
    for spelled, values_of in zip([f.name for f in values.type], values.flatten(), strict=True):
        if spelled not in names:
            raise ConfigError(
                f"the turns in {name!r} have a field {spelled!r}; understood are {', '.join(names)}. Remove it"
            )
        target = names[spelled]
        if target == "train":
            fields[target] = values_of if values_of.type == pa.bool_() else values_of.cast(pa.bool_())
        else:
            fields[target] = text(values_of, f"{name}[].{spelled}")
    if missing := [
        spelled for spelled, target in names.items() if target in ("role", "content") and target not in fields
    ]:
        raise ConfigError(f"the turns in {name!r} lack the field {missing[0]!r}; they have {', '.join(fields)}")
    used = {n: a for n, a in fields.items() if n in ("role", "content") or a.null_count < len(a)}
    return offsets, used, null_rows


def nest(offsets: np.ndarray, fields: dict[str, pa.Array], null_rows: np.ndarray | None = None) -> pa.ListArray:
    """The list<struct> column of flat fields; JSON message fields get their extension type back."""
    arrays = [as_json(a) if MESSAGE_FIELDS.get(name) == JSON else a for name, a in fields.items()]
    struct = pa.StructArray.from_arrays(arrays, names=list(fields))
    mask = None if null_rows is None else pa.array(null_rows)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), struct, mask=mask)


def as_json(array: pa.Array) -> pa.JsonArray:
    return pa.ExtensionArray.from_storage(JSON, array)


def constant_roles(roles: tuple[str, ...], rows: int) -> pa.StringArray:
    """The same roles for every row, written straight into buffers: ten times as fast as `take`."""
    ends = np.cumsum([len(role) for role in roles])
    offsets = np.zeros(rows * len(roles) + 1, np.int32)
    offsets[1:] = (np.arange(rows)[:, None] * ends[-1] + ends).ravel()
    return pa.StringArray.from_buffers(
        rows * len(roles), pa.py_buffer(offsets), pa.py_buffer("".join(roles).encode() * rows)
    )


def alternate(first: pa.StringArray, second: pa.StringArray) -> pa.StringArray:
    """first[0], second[0], first[1], ...: one copy of the bytes; the offsets are computed."""
    rows = len(first)
    if first.null_count or second.null_count:
        index = np.arange(2 * rows).reshape(2, rows).T.ravel()
        return pa.concat_arrays([first, second]).take(pa.array(index))
    joined = pc.binary_join_element_wise(first, second, "")
    ends = np.frombuffer(joined.buffers()[1], np.int32)[: rows + 1]
    offsets = np.empty(2 * rows + 1, np.int32)
    offsets[0::2] = ends
    offsets[1::2] = ends[:-1] + pc.binary_length(first).to_numpy()
    return pa.StringArray.from_buffers(2 * rows, pa.py_buffer(offsets), joined.buffers()[2])


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Positions `starts[i], starts[i] + 1, ... starts[i] + counts[i] - 1` for every i, one after the other."""
    ends = np.cumsum(counts)
    return np.repeat(starts - ends + counts, counts) + np.arange(ends[-1] if len(ends) else 0)


def select(batch: Batch, starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, dict[str, pa.Array]]:
    """`(offsets, fields)` of `counts[i]` turns from flat position `starts[i]` on, for every row."""
    index = pa.array(ranges(starts, counts))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return offsets, {name: array.take(index) for name, array in batch.fields.items()}


def interleave(pieces: list[tuple[np.ndarray, dict[str, pa.Array]]]) -> tuple[np.ndarray, dict[str, pa.Array]]:
    """Row by row, the turns of the first piece, then those of the second, and so on."""
    counts = np.stack([np.diff(offsets) for offsets, _ in pieces], axis=1)
    bases = np.cumsum([0] + [int(offsets[-1]) for offsets, _ in pieces[:-1]])
    starts = np.stack([offsets[:-1] + base for (offsets, _), base in zip(pieces, bases, strict=True)], axis=1)
    index = pa.array(ranges(starts.ravel(), counts.ravel()))
    fields = {}
    for name in dict.fromkeys(n for _, piece in pieces for n in piece):
        parts = [p[name] if name in p else pa.nulls(int(o[-1]), MESSAGE_FIELDS[name]) for o, p in pieces]
        fields[name] = pa.concat_arrays([text(p, name) if name != "train" else p for p in parts]).take(index)
    return np.concatenate([[0], np.cumsum(counts.sum(axis=1))]).astype(np.int32), fields


def _first_user(batch: Batch) -> np.ndarray:
    """Flat position of each row's first user turn; -1 where it has none."""
    if not batch.turns:
        return np.full(len(batch), -1)
    hits = np.flatnonzero(pc.equal(batch.fields["role"], "user").fill_null(False).to_numpy(zero_copy_only=False))
    hits = np.append(hits, batch.turns)
    first = hits[np.searchsorted(hits, batch.offsets[:-1])]
    return np.where(first < batch.offsets[1:], first, -1)


def _rows_with_context(batch: Batch) -> np.ndarray:
    if batch.context is None:
        return np.empty(0, np.int64)
    return np.flatnonzero(pc.greater(pc.binary_length(batch.context), 0).fill_null(False))


def join_context(batch: Batch) -> pa.Array:
    """The contents with each row's context joined to its first user turn; an empty context joins nothing."""
    rows, content = _rows_with_context(batch), batch.fields["content"]
    if not len(rows):
        return content
    turns = _first_user(batch)[rows]
    if (turns < 0).any():
        batch.fail(rows[(turns < 0).argmax()], "context", "there is no user turn that the context could be joined to")
    index = np.full(batch.turns, -1)
    index[turns] = rows
    return append_context(content, batch.context.take(pa.array(index, mask=index < 0)))


def append_context(content: pa.Array, context: pa.Array) -> pa.Array:
    """Each text with its context after it, where that is neither null nor empty."""
    some = pc.greater(pc.binary_length(context), 0)
    tails = pc.if_else(some, pc.binary_join_element_wise(CONTEXT_SEPARATOR, context, ""), "")
    return pc.binary_join_element_wise(content, tails, "", null_handling="replace", null_replacement="")


def split_context(batch: Batch) -> None:
    """Undo [`join_context`] in place; a row whose first user turn does not end with its context becomes a problem."""
    rows = _rows_with_context(batch)
    if not len(rows):
        return
    turns = _first_user(batch)[rows]
    for row in rows[turns < 0]:
        batch.problems.append((int(row), "schema", "context", "there is no user turn that ends with this context"))
    rows, turns = rows[turns >= 0], turns[turns >= 0]
    content = batch.fields["content"]
    context = batch.context.take(pa.array(rows))
    joined = content.take(pa.array(turns)).fill_null("")
    ends = np.frombuffer(joined.buffers()[1], np.int32)[joined.offset : joined.offset + len(joined) + 1]
    tail_bytes = len(CONTEXT_SEPARATOR) + pc.binary_length(context).to_numpy()
    cuts = ends[1:] - tail_bytes
    fits = cuts >= ends[:-1]
    # Both halves of every turn share the turn's bytes: only the offsets are new.
    offsets = np.empty(2 * len(joined) + 1, np.int32)
    offsets[0::2], offsets[1::2] = ends, np.maximum(cuts, ends[:-1])
    halves = pa.StringArray.from_buffers(2 * len(joined), pa.py_buffer(offsets), joined.buffers()[2])
    heads, tails = (
        halves.take(pa.array(np.arange(0, len(halves), 2))),
        halves.take(pa.array(np.arange(1, len(halves), 2))),
    )
    same = pc.and_(pc.equal(tails, pc.binary_join_element_wise(CONTEXT_SEPARATOR, context, "")), pa.array(fits))
    for k in np.flatnonzero(~same.to_numpy(zero_copy_only=False)):
        row, place = batch.place(int(turns[k]), "content")
        detail = "does not end with a blank line and the row's 'context'; rename that column if it is something else"
        batch.problems.append((row, "schema", place, detail))
    mask = np.zeros(batch.turns, bool)
    mask[turns] = True
    batch.fields["content"] = pc.replace_with_mask(content, pa.array(mask), pc.if_else(same, heads, joined))
