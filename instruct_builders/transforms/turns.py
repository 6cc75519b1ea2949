"""Order, roles, number and length of a conversation's turns."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ConfigError, did_you_mean
from ..records import ROLES
from . import flat
from .flat import ASSISTANT, OTHER, SYSTEM, TOOL, USER

# FOLLOWS[a, b]: a turn of role b may come right after one of role a.
FOLLOWS = np.zeros((5, 5), dtype=bool)
for _before, _after in (
    (SYSTEM, USER),
    (USER, ASSISTANT),
    (ASSISTANT, USER),
    (ASSISTANT, TOOL),
    (TOOL, TOOL),
    (TOOL, ASSISTANT),
):
    FOLLOWS[_before, _after] = True

# A turn with a character that prints: no white space, control or format character.
PRINTABLE = r"[^\s\p{C}\p{Z}]"
NO_INPUT = (
    r"(?i)\A\s*(?:[<(\[]\s*)?(?:no[ _-]?input(?: (?:is |was )?(?:needed|required|necessary|provided|given))?|n/a|none"
    r"|not applicable)(?:\s*[>)\]])?\s*\.?\s*\z"
)
# The same said in other words.
NO_CONTEXT = (
    r"(?i)\A\s*(?:[<(\[（【]\s*empty\s*[>)\]）】]|[<(\[（【]?\s*(?:(?:无|没有|无需|不需要)输入"
    r"|no (?:additional |further )?input (?:is |was )?(?:needed|required|necessary|provided|given)"
    r"(?: (?:for|in|by|with) (?:this|the) \w+)?)\s*[>)\]）】]?)\s*[.。]?\s*\z"
)
ROLE_ALIASES = {"chatgpt": "assistant", "bard": "assistant", "bing": "assistant", "bot": "assistant"}


def trim_turns(table: pa.Table) -> pa.Table:
    """Drops turns before the first user turn (but keeps a system turn in first place) and after the last answer.

    A conversation without a question that is answered is rejected as `no_turns` and keeps its turns.
    """
    offsets, turns = flat.flatten(table)
    codes, rows = flat.roles(turns), flat.row_of_turn(offsets)
    position = np.arange(len(codes))
    first = flat.first_per_row(codes == USER, offsets)
    # The last answer is the first one of the reversed turns.
    back = len(codes) - offsets[::-1]
    last = len(codes) - 1 - flat.first_per_row(codes[::-1] == ASSISTANT, back)[::-1]
    hopeless = first > last
    keep = (position >= first[rows]) & (position <= last[rows])
    keep |= (position == offsets[rows]) & (codes == SYSTEM)
    keep |= ~(flat.open_rows(table) & ~hopeless)[rows]
    table = flat.keep_turns(table, offsets, turns, keep)
    return flat.reject(table, hopeless, "no_turns", "messages", "no question with an answer after it")


def alternation(table: pa.Table, repair: str | None = None) -> pa.Table:
    """Rejects conversations that don't alternate, as `role_order`.

    After an optional system turn comes a user turn; a user turn is answered by the assistant; an assistant turn is
    followed by the user or, where it calls tools, by tool answers; those by the assistant or further tool answers.
    How a conversation ends is not asked here.

    Args:
        table (`pa.Table`): Records.
        repair (`str`, *optional*): `"merge"` first joins neighbouring turns of the same role (not of tools) with an
            empty line between. Turns that hold more than text (tool calls, reasoning, a name) or differ in `train`
            are not joined.
    """
    if repair not in (None, "merge"):
        raise ConfigError(f"alternation: repair={repair!r} is not known; it is 'merge', or null for none.")
    if repair == "merge":
        table = _merged(table)
    offsets, turns = flat.flatten(table)
    codes = flat.roles(turns)
    starts = np.zeros(len(codes), dtype=bool)
    starts[offsets[:-1][np.diff(offsets) > 0]] = True
    before = np.concatenate([[OTHER], codes[:-1]]).astype(np.int64)[: len(codes)]
    fine = np.where(starts, np.isin(codes, (SYSTEM, USER)), FOLLOWS[before, codes])
    if turns.type.get_field_index("tool_calls") >= 0:  # without the field nothing tells whether tools were called
        calls = flat.filled(turns, "tool_calls")
        called = np.concatenate([[False], calls[:-1]])[: len(codes)]
        fine &= starts | (before != ASSISTANT) | (called == (codes == TOOL))
    first = flat.first_per_row(~fine, offsets)
    rows = first < offsets[1:]
    bad = first[rows]
    names = pc.fill_null(pc.struct_field(turns, "role"), "no role").cast(pa.string())
    follows = pc.binary_join_element_wise(
        names.take(pa.array(bad)), names.take(pa.array(np.maximum(bad - 1, 0))), " after "
    )
    alone = pc.binary_join_element_wise(names.take(pa.array(bad)), "in first place", " ")
    details = pc.if_else(pa.array(starts[bad]), alone, follows)
    return flat.reject(table, rows, "role_order", flat.turn_field(bad - offsets[:-1][rows], "role"), details)


def _merged(table: pa.Table) -> pa.Table:
    offsets, turns = flat.flatten(table)
    if len(turns) == 0:
        return table
    codes, rows = flat.roles(turns), flat.row_of_turn(offsets)
    plain = np.isin(codes, (SYSTEM, USER, ASSISTANT)) & flat.open_rows(table)[rows]
    for field in turns.type:
        if field.name not in ("role", "content", "train"):
            plain &= ~flat.filled(turns, field.name)
    joins = np.zeros(len(codes), dtype=bool)
    joins[1:] = (codes[1:] == codes[:-1]) & (rows[1:] == rows[:-1]) & plain[1:] & plain[:-1]
    if turns.type.get_field_index("train") >= 0:
        train = pc.fill_null(turns.field("train").cast(pa.int8()), -1).to_numpy(zero_copy_only=False)
        joins[1:] &= train[1:] == train[:-1]
    if not joins.any():
        return table
    heads = np.flatnonzero(~joins)
    groups = pa.LargeListArray.from_arrays(
        pa.array(np.append(heads, len(codes))), pc.fill_null(flat.text(turns), "").cast(pa.string())
    )
    alone = flat.text(turns).take(pa.array(heads))
    single = pa.array(np.diff(np.append(heads, len(codes))) == 1)
    contents = pc.if_else(single, alone, pc.binary_join(groups, "\n\n").cast(alone.type))
    merged = flat.with_field(turns.take(pa.array(heads)), "content", contents)
    return flat.with_turns(table, flat.offsets_of(flat.sum_per_row(~joins, offsets)), merged)


def empty_turns(table: pa.Table, on_empty: str = "cut") -> pa.Table:
    """Cuts a conversation before the round in which a turn is empty or shows no printable character, or rejects it.

    A turn with tool calls is never empty. An empty system turn is left out where conversations are cut. A
    conversation of which no round would be left is rejected: `empty_output` where the empty turn is an answer,
    `no_turns` otherwise.

    Args:
        table (`pa.Table`): Records.
        on_empty (`str`, *optional*, defaults to `"cut"`): `"cut"` or `"reject"`.
    """
    if on_empty not in ("cut", "reject"):
        raise ConfigError(f"empty_turns: on_empty={on_empty!r} is not known; it is 'cut' or 'reject'.")
    offsets, turns = flat.flatten(table)
    codes, rows = flat.roles(turns), flat.row_of_turn(offsets)
    empty = ~flat.booleans(pc.match_substring_regex(flat.text(turns), PRINTABLE)) & ~flat.filled(turns, "tool_calls")
    first = flat.first_per_row(empty & (codes != SYSTEM) if on_empty == "cut" else empty, offsets)
    hit = first < offsets[1:]
    starts = flat.round_starts(codes, offsets)
    position = np.arange(len(codes))
    # Where the round of the empty turn begins: the last start at or before it, else the conversation's own beginning.
    begins = np.maximum.accumulate(np.where(starts, position, -1)) if len(codes) else position
    cut = offsets[1:].copy()
    cut[hit] = np.maximum(begins[first[hit]], offsets[:-1][hit])
    earlier_rounds = flat.sum_per_row(starts & (position < cut[rows]), offsets)
    lost = hit & ((earlier_rounds == 0) | (on_empty == "reject"))
    keep = (position < cut[rows]) & ~(empty & (codes == SYSTEM))
    table = flat.keep_turns(table, offsets, turns, keep | ~(flat.open_rows(table) & ~lost)[rows])
    answer = np.zeros(len(lost), dtype=bool)
    answer[lost] = codes[first[lost]] == ASSISTANT
    for chosen, reason in ((lost & answer, "empty_output"), (lost & ~answer, "no_turns")):
        fields = flat.turn_field(first[chosen] - offsets[:-1][chosen], "content")
        table = flat.reject(table, chosen, reason, fields, "no printable character")
    return table


def too_short(table: pa.Table, min_chars: int = 16, min_rounds: int = 1) -> pa.Table:
    """Rejects conversations below a length, as `too_short`.

    Args:
        table (`pa.Table`): Records.
        min_chars (`int`, *optional*, defaults to 16): Characters of all turns and `context` together.
        min_rounds (`int`, *optional*, defaults to 1): Rounds, each a question with all that follows up to the next.
    """
    offsets, turns = flat.flatten(table)
    lengths = pc.fill_null(pc.utf8_length(flat.text(turns)), 0).to_numpy(zero_copy_only=False)
    chars = flat.sum_per_row(lengths, offsets)
    if "context" in table.column_names:
        context = flat.one_array(table["context"])
        chars = chars + pc.fill_null(pc.utf8_length(context), 0).to_numpy(zero_copy_only=False)
    rounds = flat.sum_per_row(flat.round_starts(flat.roles(turns), offsets), offsets)
    few = chars < min_chars
    table = flat.reject(table, few, "too_short", "messages", [f"{n} characters" for n in chars[few].tolist()])
    few = rounds < min_rounds
    return flat.reject(table, few, "too_short", "messages", [f"{n} rounds" for n in rounds[few].tolist()])


def no_input_markers(table: pa.Table) -> pa.Table:
    """Empties a `context` that only says that there is none: `<noinput>`, `No input required.`, `N/A`, `None`, ...

    `NA` alone is left: it may be sodium.
    """
    if "context" not in table.column_names:
        return table
    context = flat.one_array(table["context"])
    where = np.logical_or(*(flat.booleans(pc.match_substring_regex(context, one)) for one in (NO_INPUT, NO_CONTEXT)))
    where &= flat.open_rows(table)
    if not where.any():
        return table
    emptied = pc.if_else(pa.array(where), pa.scalar("", context.type), context)
    return table.set_column(table.column_names.index("context"), table.schema.field("context"), emptied)


def role_names(table: pa.Table, mapping: Mapping[str, str] | None = None) -> pa.Table:
    """Renames roles, whatever their case: by default `chatgpt`, `bard`, `bing` and `bot` to `assistant`.

    Args:
        table (`pa.Table`): Records.
        mapping (`dict`, *optional*): Role in the data -> one of [`instruct_builders.records.ROLES`], instead of the
            default's.
    """
    mapping = ROLE_ALIASES if mapping is None else mapping
    for theirs, ours in mapping.items():
        if ours not in ROLES:
            raise ConfigError(
                f"role_names: {theirs!r} maps to {ours!r}, which is none of {', '.join(ROLES)}."
                + did_you_mean(str(ours), ROLES)
            )
    offsets, turns = flat.flatten(table)
    names = pc.struct_field(turns, "role")
    known = pa.array([name.lower() for name in mapping], names.type)
    found = pc.index_in(pc.utf8_lower(names), known)
    found = pc.if_else(pa.array(flat.open_rows(table)[flat.row_of_turn(offsets)]), found, None)
    if found.null_count == len(found):
        return table
    renamed = pc.coalesce(pa.array(list(mapping.values()), names.type).take(found), names)
    return flat.with_turns(table, offsets, flat.with_field(turns, "role", renamed))
