"""A table's questions and answers side by side: what every check of this folder looks at.

A pair is one answer with the user turn it belongs to, so that a conversation has as many pairs as answers. All pairs
of a table are one Arrow table, and a check is a few calls over its columns; [`confirm`] is for what a regular
expression of RE2 can't decide, and runs Python over the few rows that one has found.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import flat
from ..shingles import hashed_tokens

QUOTED = 80  # characters of a text that a detail shows
EMPTY, BETWEEN = pa.scalar("", pa.large_string()), pa.scalar("\n\n", pa.large_string())


def pairs_of(table: pa.Table) -> pa.Table:
    """The pairs of the rows that are not rejected yet.

    Answers that only call tools are no pairs. `context` belongs to a row's first question.

    Returns:
        `pa.Table`: `instruction`, `context` and `answer` (strings, never null), `words`, the answer's length by
        [`units`], `tokens`, the hashes of these words, `row`, the row's number, `turn`, the answer's place in its
        conversation, and `tools`, whether the row offers functions to call.
    """
    offsets, turns = flat.flatten(table)
    codes, rows = flat.roles(turns), flat.row_of_turn(offsets)
    contents = pc.fill_null(flat.text(turns), "").cast(pa.large_string())
    calls_only = flat.filled(turns, "tool_calls") & ~matches(contents, r"\S")
    answers = np.flatnonzero((codes == flat.ASSISTANT) & ~calls_only & flat.open_rows(table)[rows])
    asked = np.maximum.accumulate(np.where(codes == flat.USER, np.arange(len(codes)), -1))[answers]
    asked = np.where(asked >= offsets[rows[answers]], asked, -1)
    hashes, bounds = hashed_tokens(contents.take(pa.array(answers)))  # once for all that count or compare words
    first = asked == flat.first_per_row(codes == flat.USER, offsets)[rows[answers]]
    columns = {
        "instruction": _taken(contents, asked, asked >= 0),
        "context": pa.repeat(EMPTY, len(answers)),
        "answer": contents.take(pa.array(answers)),
        "words": pa.array(np.diff(bounds)),
        "tokens": pa.LargeListArray.from_arrays(pa.array(bounds), pa.array(hashes)),
        "row": pa.array(rows[answers]),
        "turn": pa.array(answers - offsets[rows[answers]]),
    }
    offered = pa.array(np.zeros(table.num_rows, dtype=bool))
    if "tools" in table.column_names:
        offered = flat.one_array(pc.is_valid(table["tools"]))
    columns["tools"] = offered.take(pa.array(rows[answers]))
    if "context" in table.column_names:
        context = flat.one_array(table["context"]).cast(pa.large_string())
        columns["context"] = _taken(context, rows[answers], first)
    return pa.table(columns)


def _taken(texts: pa.Array, positions: np.ndarray, where: np.ndarray) -> pa.Array:
    """The texts at these positions; the empty string where `where` is false or the text is null."""
    return pc.fill_null(texts.take(pa.array(positions, mask=~where)), EMPTY)


def column(pairs: pa.Table, name: str) -> pa.Array:
    """A column of the pairs as one array."""
    return flat.one_array(pairs[name])


def tokens(pairs: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The answers' words, as [`shingles.hashed_tokens`] gives them."""
    lists = column(pairs, "tokens")
    bounds = lists.offsets.to_numpy()
    return lists.values.to_numpy()[bounds[0] : bounds[-1]], bounds - bounds[0]


def prompt(pairs: pa.Table) -> pa.Array:
    """Instruction and context, an empty line between them."""
    return pc.binary_join_element_wise(column(pairs, "instruction"), column(pairs, "context"), BETWEEN)


def matches(texts: pa.Array, pattern: str) -> np.ndarray:
    """Which texts an RE2 expression finds something in (bool)."""
    return flat.booleans(pc.match_substring_regex(texts, pattern))


def holds(texts: pa.Array, *parts: str) -> np.ndarray:
    """Which texts have at least one of these strings in them (bool); one pass for all, whatever their number."""
    return matches(texts, "|".join(re.escape(part) for part in parts))


def found(texts: pa.Array, pattern: str, where: np.ndarray | None = None) -> pa.Array:
    """What an RE2 expression finds first in each text, quoted; null where it finds nothing or `where` is false."""
    hit = matches(texts, pattern)
    if where is not None:
        hit &= where
    if not hit.any():
        return pa.nulls(len(texts), pa.string())
    parts = pc.extract_regex(texts.filter(pa.array(hit)), f"(?P<hit>{pattern})")
    return spread(hit, [repr(text[:QUOTED]) for text in pc.struct_field(parts, "hit").to_pylist()])


def confirm(where: np.ndarray, judge: Callable[..., str | None], *columns: pa.Array) -> pa.Array:
    """Asks a Python function about the chosen rows only: a detail for each row to drop, `None` to keep it."""
    chosen = pa.array(where)
    picked = [texts.filter(chosen).to_pylist() for texts in columns] if where.any() else [[]]
    return spread(where, [judge(*texts) for texts in zip(*picked, strict=True)])


def spread(where: np.ndarray, details: list[str | None]) -> pa.Array:
    """Details of the chosen rows as a column for all, null elsewhere."""
    if not details:
        return pa.nulls(len(where), pa.string())
    everywhere = np.full(len(where), None, dtype=object)
    everywhere[where] = details
    return pa.array(everywhere, pa.string())


def units(texts: pa.Array) -> np.ndarray:
    """Length in words, where each character of a script without spaces counts as one (int64)."""
    return np.diff(hashed_tokens(texts)[1])


def plain(texts: pa.Array) -> pa.Array:
    """Lower case, white space collapsed, no quotes or final punctuation: for comparing texts with one another."""
    texts = pc.replace_substring_regex(pc.utf8_lower(texts), r"[\s\pZ]+", " ")
    return pc.utf8_trim(texts, " .!?。！？\"'“”:：")


def lacks(texts: pa.Array, pattern: str) -> np.ndarray:
    """Which texts an RE2 expression finds nothing in (bool)."""
    return ~matches(texts, pattern)


def inside_quotes(text: str, position: int) -> bool:
    """Whether a place in a text lies within quotation marks opened in the same line."""
    line = text[text.rfind("\n", 0, position) + 1 : position]
    straight = len(re.findall(r'"', line)) % 2
    curly = len(re.findall("[“«„「]", line)) - len(re.findall("[”»」]", line))
    return bool(straight) or curly > 0
