"""A table's turns laid flat: what the transforms of this folder share.

All turns of a table are one struct array, and `offsets` (int64, rows + 1) says which of them are a row's, so that
work on turns is one call per table. Every transform leaves rows that are already rejected exactly as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ConfigError
from ..records import REJECTED

SYSTEM, USER, ASSISTANT, TOOL, OTHER = range(5)  # role codes; OTHER is an unknown or missing role
ROLE_NAMES = pa.array(["system", "user", "assistant", "tool"])


def flatten(table: pa.Table) -> tuple[np.ndarray, pa.StructArray]:
    """The table's `offsets` and its turns; a null conversation has no turns.

    Raises:
        ConfigError: If `messages` is missing or is no list of structs with `role` and `content`.
    """
    if "messages" not in table.column_names:
        raise ConfigError(f"transforms need a column 'messages', and the table has {table.column_names}.")
    lists = one_array(table["messages"])
    kind = lists.type
    known = isinstance(kind, pa.ListType | pa.LargeListType) and pa.types.is_struct(kind.value_type)
    if not known or any(kind.value_type.get_field_index(name) < 0 for name in ("role", "content")):
        raise ConfigError(f"'messages' must be a list of structs with 'role' and 'content', and is {kind}.")
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return offsets_of(lengths), lists.flatten()


def with_turns(table: pa.Table, offsets: np.ndarray, turns: pa.StructArray) -> pa.Table:
    """The table with other turns; conversations that were null stay null."""
    old = table["messages"]
    kind = pa.LargeListArray if isinstance(old.type, pa.LargeListType) else pa.ListArray
    integer = pa.int64() if kind is pa.LargeListArray else pa.int32()
    # Arrow takes either a mask or nulls among the offsets, and no mask together with sliced offsets: these are fresh.
    mask = pc.is_null(one_array(old)) if old.null_count else None
    lists = kind.from_arrays(pa.array(offsets, integer), turns, type=old.type, mask=mask)
    return table.set_column(table.column_names.index("messages"), table.schema.field("messages"), lists)


def with_contents(table: pa.Table, turns: pa.StructArray, offsets: np.ndarray, contents: pa.Array) -> pa.Table:
    """The table with the same turns but other contents."""
    return with_turns(table, offsets, with_field(turns, "content", contents))


def with_field(turns: pa.StructArray, name: str, values: pa.Array) -> pa.StructArray:
    """The turns with one field replaced, cast to that field's type."""
    fields = list(turns.type)
    arrays = [values.cast(field.type) if field.name == name else turns.field(field.name) for field in fields]
    return pa.StructArray.from_arrays(arrays, fields=fields, mask=turns.is_null() if turns.null_count else None)


def one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column as a single array; zero chunks of an extension type, which Arrow can't combine, included."""
    if isinstance(column, pa.Array):
        return column
    if column.num_chunks == 1:  # combining would copy it
        return column.chunk(0)
    return column.combine_chunks() if column.num_chunks else pa.nulls(0, column.type)


def storage(array: pa.Array) -> pa.Array:
    """The strings under a JSON extension array; any other array as it is."""
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def text(turns: pa.StructArray) -> pa.Array:
    """Contents of the turns, null where there is none."""
    return pc.struct_field(turns, "content")


def roles(turns: pa.StructArray) -> np.ndarray:
    """Role codes of the turns: SYSTEM, USER, ASSISTANT, TOOL or OTHER."""
    codes = pc.index_in(pc.struct_field(turns, "role"), ROLE_NAMES.cast(turns.type.field("role").type))
    return pc.fill_null(codes, OTHER).to_numpy(zero_copy_only=False)


def filled(turns: pa.StructArray, name: str) -> np.ndarray:
    """Which turns have a value in a field (bool); none where the struct has no such field."""
    if turns.type.get_field_index(name) < 0:
        return np.zeros(len(turns), dtype=bool)
    return booleans(pc.is_valid(turns.field(name)))


def booleans(array: pa.Array) -> np.ndarray:
    """A boolean array as numpy, null as false."""
    return pc.fill_null(array, False).to_numpy(zero_copy_only=False)


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Offsets (int64, rows + 1) of lists with these lengths."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def row_of_turn(offsets: np.ndarray) -> np.ndarray:
    """Row number of each turn."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def sum_per_row(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Sum of a value per turn over each row's turns (int64); 0 for a row without turns."""
    return np.diff(np.concatenate([[0], np.cumsum(values, dtype=np.int64)])[offsets])


def first_per_row(flags: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Flat position of each row's first flagged turn, or the row's end where there is none."""
    hits = np.append(np.flatnonzero(flags), len(flags))
    return np.minimum(hits[np.searchsorted(hits, offsets[:-1])], offsets[1:])


def round_starts(codes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Which turns begin a round (bool): a user turn that follows no other user turn, in its own row.

    A round is a question and all that answers it: user, assistant with tool calls, tool, assistant.
    """
    user = codes == USER
    follows_user = np.zeros(len(codes), dtype=bool)
    follows_user[1:] = user[:-1]
    follows_user[offsets[:-1][offsets[:-1] < len(codes)]] = False
    return user & ~follows_user


def open_rows(table: pa.Table) -> np.ndarray:
    """Which rows are not rejected yet (bool)."""
    if "rejected" not in table.column_names:
        return np.ones(table.num_rows, dtype=bool)
    return one_array(pc.is_null(table["rejected"])).to_numpy(zero_copy_only=False)


def keep_turns(table: pa.Table, offsets: np.ndarray, turns: pa.StructArray, keep: np.ndarray) -> pa.Table:
    """The table with only the turns where `keep` (bool) is true."""
    if keep.all():
        return table
    return with_turns(table, offsets_of(sum_per_row(keep, offsets)), turns.filter(pa.array(keep)))


def edit(strings: pa.Array, where: np.ndarray, function: Callable[[str], str]) -> pa.Array:
    """Runs a Python function over the chosen strings (bool mask) only."""
    if not where.any():
        return strings
    mask = pa.array(where)
    new = [function(value) for value in strings.filter(mask).to_pylist()]
    return pc.replace_with_mask(strings, mask, pa.array(new, strings.type))


def reject(
    table: pa.Table,
    rows: np.ndarray,
    reason: str,
    field: str | Sequence[str] | pa.Array | None = None,
    detail: str | Sequence[str] | pa.Array | None = None,
) -> pa.Table:
    """Sets `rejected`, added when absent, for the rows of a bool mask that are not rejected yet.

    Args:
        table (`pa.Table`): Records.
        rows (`np.ndarray`): Which to reject: bool, shape (rows,).
        reason (`str`): A key of [`instruct_builders.records.REASONS`].
        field (`str` or sequence, *optional*): The field at fault, one for all or one per chosen row, in order.
        detail (`str` or sequence, *optional*): What was found there, likewise.
    """
    size = table.num_rows
    old = one_array(table["rejected"]) if "rejected" in table.column_names else pa.nulls(size, REJECTED)
    chosen = np.flatnonzero(rows)
    still_open = booleans(pc.is_null(old))[chosen]
    if still_open.any():
        why = pa.StructArray.from_arrays(
            [_spread(value, len(chosen)) for value in (reason, field, detail)], fields=list(REJECTED)
        )
        position = np.full(size, len(chosen))  # past the end: null
        position[chosen[still_open]] = np.flatnonzero(still_open)
        fresh = why.take(pa.array(position, mask=position == len(chosen)))
        old = pc.if_else(pc.is_valid(fresh), fresh, old)
    if "rejected" in table.column_names:
        return table.set_column(table.column_names.index("rejected"), pa.field("rejected", REJECTED), old)
    return table.append_column(pa.field("rejected", REJECTED), old)


def _spread(value: str | Sequence[str] | pa.Array | None, size: int) -> pa.Array:
    if isinstance(value, str) or value is None:
        return pa.repeat(pa.scalar(value, pa.string()), size)
    return value.cast(pa.string()) if isinstance(value, pa.Array) else pa.array(value, pa.string())


def turn_field(positions: np.ndarray, name: str) -> list[str]:
    """`messages[3].content` for position 3 in its conversation, for each position."""
    return [f"messages[{position}].{name}" for position in positions.tolist()]
