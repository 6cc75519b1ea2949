"""Exact duplicates over a whole table: by what a conversation says, or by an id of the source.

What is kept per row is a 16-byte digest, so memory grows with the rows and not with their text.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ConfigError, did_you_mean
from . import clusters, flat

BY = {
    "conversation": "conversation",
    "first_round": "first question and its answer",
    "prompt": "first question",
}
SLICE = 10_000  # rows whose normalised text is in memory at a time
NOTHING, COLON = pa.scalar("", pa.large_string()), pa.scalar(":", pa.large_string())
UNEVEN_SPACE = r"[\s\p{Z}]{2,}|[\t\n\v\f\r]|[^\PZ ]"  # white space that is not one plain space
COMPARED = ("content", "tool_calls", "name")  # what a turn says besides its role


def exact_duplicates(
    table: pa.Table, by: str = "conversation", normalize: bool = True, prefer: str = "earlier"
) -> pa.Table:
    """Rejects all but one of the rows that say the same, as `dup_content`. For whole tables.

    Rows that are already rejected neither count as the one that stays nor are looked at; nor are rows without the
    turns asked for.

    Args:
        table (`pa.Table`): Records.
        by (`str`, *optional*, defaults to `"conversation"`): What has to be the same: `"conversation"`, all turns,
            `context` and `tools`; `"first_round"`, the first question with its answer and `context`; `"prompt"`, the
            first question and `context`. System turns count for `"conversation"` only.
        normalize (`bool`, *optional*, defaults to `True`): Whether case, the amount of white space and the Unicode
            composition (NFC) of characters make no difference.
        prefer (`str`, *optional*, defaults to `"earlier"`): Which row stays, as for
            [`near_duplicates.near_duplicates`]: of rows with the same question only, `score` keeps the better answer.
    """
    clusters.check_prefer(table, prefer, "exact_duplicates")
    if by not in BY:
        raise ConfigError(
            f"exact_duplicates: by={by!r} is not known; it is one of {', '.join(BY)}.{did_you_mean(by, BY)}"
        )
    pieces = [table.slice(start, SLICE) for start in range(0, table.num_rows, SLICE)]
    keys = [key for piece in pieces for key in digests(piece, by, normalize)]
    return _reject_others(table, pa.array(keys, pa.binary(16)), "dup_content", "messages", f"same {BY[by]}", prefer)


def duplicate_ids(table: pa.Table, column: str = "id") -> pa.Table:
    """Rejects every row whose id an earlier row has, as `dup_id`; the first stays. For whole tables.

    Args:
        table (`pa.Table`): Records.
        column (`str`, *optional*, defaults to `"id"`): A column, or `meta.<key>` for a key of the JSON object in
            `meta`. Rows without a value are left alone.
    """
    name, _, key = column.partition(".")
    if name not in table.column_names or (key and name != "meta"):
        names = table.column_names
        raise ConfigError(
            f"duplicate_ids: column {column!r} is not there; the table has {', '.join(names)}, and meta.<key> names "
            f"a key of the source's own fields.{did_you_mean(name, names)}"
        )
    values = flat.storage(flat.one_array(table[name]))
    if key:
        wanted = flat.booleans(pc.match_substring(values, json.dumps(key, ensure_ascii=False)))
        found = [json.loads(text).get(key) for text in values.filter(pa.array(wanted)).to_pylist()]
        column_of = np.full(table.num_rows, None, dtype=object)
        column_of[wanted] = [None if value is None else json.dumps(value) for value in found]
        values = pa.array(column_of.tolist(), pa.string())
    return _reject_others(table, values, "dup_id", column, "same id", "earlier")


def _reject_others(table: pa.Table, keys: pa.Array, reason: str, field: str, same: str, prefer: str) -> pa.Table:
    """Rejects the open rows whose key, where not null, an open row that is preferred has."""
    considered = np.flatnonzero(flat.open_rows(table) & flat.booleans(pc.is_valid(keys)))
    if prefer != "earlier":
        considered = considered[np.argsort(clusters.ranks(table, considered, prefer, "exact_duplicates"))]
    codes = keys.take(pa.array(considered)).dictionary_encode().indices.to_numpy()
    _, firsts, inverse = np.unique(codes, return_index=True, return_inverse=True)
    kept = considered[firsts[inverse]]  # row that each considered row repeats; itself where it is the first
    rows, stays = np.zeros(table.num_rows, dtype=bool), np.arange(table.num_rows)
    stays[considered] = kept
    rows[considered[kept != considered]] = True
    where = [str(row) for row in stays[rows].tolist()]
    if "id" in table.column_names:
        ids = table["id"].take(pa.array(stays[rows])).to_pylist()
        where = [f"{row} (id {name})" for row, name in zip(where, ids, strict=True)]
    return flat.reject(table, rows, reason, field, [f"{same} as row {place}" for place in where])


def digests(table: pa.Table, by: str, normalize: bool) -> list[bytes | None]:
    """A digest per row of what is compared; `None` where a row has none of it."""
    offsets, turns = flat.flatten(table)
    codes, rows = flat.roles(turns), flat.row_of_turn(offsets)
    used = np.ones(len(codes), dtype=bool)
    if by != "conversation":
        rounds = np.cumsum(flat.round_starts(codes, offsets))
        before = np.concatenate([[0], rounds])[offsets[:-1]]
        used = (rounds - before[rows] == 1) & (codes != flat.SYSTEM)
        if by == "prompt":
            used &= codes == flat.USER
    chosen = turns.filter(pa.array(used))
    # Every part stands behind its own length, so that no two different lists of parts look the same.
    parts = [_measured(pc.struct_field(chosen, "role"), normalize=False)]
    for name in COMPARED:
        if turns.type.get_field_index(name) >= 0:
            parts.append(_measured(flat.storage(chosen.field(name)), normalize))
    said = pc.binary_join_element_wise(*parts, NOTHING)
    new_offsets = flat.offsets_of(flat.sum_per_row(used, offsets))
    joined = pc.binary_join(pa.LargeListArray.from_arrays(pa.array(new_offsets), said), NOTHING)
    columns = ["context"] + ["tools"] * (by == "conversation")
    around = [
        _measured(flat.storage(flat.one_array(table[name])), normalize)
        for name in columns
        if name in table.column_names
    ]
    whole = pc.binary_join_element_wise(joined, *around, NOTHING).cast(pa.large_binary())
    keys = [hashlib.blake2b(value, digest_size=16).digest() for value in whole.to_pylist()]
    return [key if count else None for key, count in zip(keys, np.diff(new_offsets).tolist(), strict=True)]


def _measured(strings: pa.Array, normalize: bool) -> pa.Array:
    strings = pc.fill_null(strings, "").cast(pa.large_string())
    if normalize:
        wide = pc.invert(pc.string_is_ascii(strings))
        strings = pc.replace_with_mask(strings, wide, pc.utf8_normalize(strings.filter(wide), form="NFC"))
        strings = pc.utf8_trim_whitespace(pc.utf8_lower(strings))
        uneven = pc.match_substring_regex(strings, UNEVEN_SPACE)
        evened = pc.replace_substring_regex(strings.filter(uneven), UNEVEN_SPACE, " ")
        strings = pc.replace_with_mask(strings, uneven, evened)
    return pc.binary_join_element_wise(pc.binary_length(strings).cast(pa.large_string()), strings, COLON)
