"""What rows are compared by: the parts of a row, apart from one another, and the functions that it may call.

Every part has shingles of its own, which no other part has, even where both say the same; and rows that offer other
`tools`, or call other functions, share none at all. So a row's parts lie beside each other as sets, and all of them
together are one set: where every part of two rows is alike by a threshold, so are the whole rows (the similarity of
the whole is a mean of those of the parts, weighted by their sizes), and a search over whole rows misses no pair.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import flat, shingles, similar_sets

BY = {
    "instruction": "what users say, and `context`",
    "output": "what assistants say and call",
    "both": "what users say, `context`, and what assistants say and call",
}
PARTS = {
    "instruction": ("instruction", "context"),
    "output": ("output",),
    "both": ("instruction", "context", "output"),
}
SPOKEN = {"instruction": flat.USER, "output": flat.ASSISTANT}
# Makes a part's shingles its own; any three different numbers of 64 bits would do.
TAGS = {"instruction": 0, "context": 0xB5297A4D3F84D5B5, "output": 0x68E31DA4C2B2AE35}
SHORT = 8  # shingles: an answer of fewer, about nine words, may be the same for quite different questions
TEXT_BYTES = 1 << 21  # text in work at a time: a slice of the table


def said(table: pa.Table, by: str) -> tuple[pa.Array, np.ndarray]:
    """Texts that are compared, and the part (int64, ascending) that each belongs to: row times parts, plus its place
    in [`PARTS`]. Shingles don't cross turns."""
    offsets, turns = flat.flatten(table)
    codes, rows, names = flat.roles(turns), flat.row_of_turn(offsets), PARTS[by]
    found = []
    for number, name in enumerate(names):
        if name in SPOKEN:
            used = codes == SPOKEN[name]
            found.append((flat.text(turns).filter(pa.array(used)), rows[used], number))
        elif name in table.column_names:
            context = flat.one_array(table[name])
            filled = flat.booleans(pc.is_valid(context))
            found.append((context.filter(pa.array(filled)), np.flatnonzero(filled), number))
    if "output" in names and (called := _calling(turns, codes)).any():
        calls = flat.storage(turns.field("tool_calls")).filter(pa.array(called))
        found.append((calls, rows[called], names.index("output")))
    owners = np.concatenate([rows * len(names) + number for _, rows, number in found])
    texts = [texts.cast(found[0][0].type) for texts, _, _ in found if len(texts)]
    if len(texts) < 2:
        return (texts or [found[0][0]])[0], owners
    order = np.argsort(owners, kind="stable")
    return pa.concat_arrays(texts).take(pa.array(order)), owners[order]


def row_sets(table: pa.Table, by: str, shingle: int, tokenizer: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sets of shingles of each row: their elements, where each row's begin, and where each part's do."""
    mean, kinds = max(1, table.nbytes // max(1, table.num_rows)), len(PARTS[by])
    filled = [number for number, name in enumerate(PARTS[by]) if name in SPOKEN or _has_text(table, name)]
    place = np.cumsum(np.isin(np.arange(kinds), filled)) - 1  # among those that any row has
    size = min(similar_sets.OWNERS // len(filled), max(64, TEXT_BYTES // mean))
    tags = np.array([TAGS[name] for name in PARTS[by]], np.uint64)
    pieces, lengths = [], [np.empty(0, np.int64)]
    for start in range(0, table.num_rows, size):
        piece = table.slice(start, size)
        texts, owners = said(piece, by)
        tokens, offsets = shingles.hashed_tokens(texts, tokenizer)
        rows, parts = np.divmod(owners, kinds)
        marks = tags[parts] ^ tool_marks(piece)[rows]
        if marks.any():
            tokens ^= np.repeat(marks, np.diff(offsets))
        owners = rows * len(filled) + place[parts]
        own, bounds = similar_sets.run_sets(tokens, offsets, owners, shingle, piece.num_rows * len(filled))
        sizes = np.zeros((piece.num_rows, kinds), np.int64)
        sizes[:, filled] = np.diff(bounds).reshape(-1, len(filled))
        pieces.append(own)
        lengths.append(sizes.ravel())
    bounds = flat.offsets_of(np.concatenate(lengths))
    values, end = np.empty(bounds[-1], np.uint64), int(bounds[-1])
    while pieces:  # from the last to the first, each given back at once: all of them together take no memory twice
        last = pieces.pop()
        values[end - len(last) : end] = last
        end -= len(last)
    return values, bounds[::kinds].copy(), bounds


def _has_text(table: pa.Table, name: str) -> bool:
    return name in table.column_names and table[name].null_count < table.num_rows


def short_answers(bounds: np.ndarray, by: str) -> np.ndarray:
    """Which rows (bool) answer in so few words that the answer says nothing about the question; `bounds` as
    [`row_sets`] gives them. None where answers are not compared, or nothing but answers is."""
    kinds = len(PARTS[by])
    if by != "both":
        return np.zeros((len(bounds) - 1) // kinds, dtype=bool)
    sizes = np.diff(bounds)[PARTS[by].index("output") :: kinds]
    return (sizes > 0) & (sizes < SHORT)


def tool_marks(table: pa.Table) -> np.ndarray:
    """What tells rows apart that offer other `tools` or call other functions: uint64, 0 where a row does neither."""
    marks = np.zeros(table.num_rows, np.uint64)
    offsets, turns = flat.flatten(table)
    known: dict[int, list] = {}
    if "tools" in table.column_names:
        tools = flat.storage(flat.one_array(table["tools"]))
        rows = np.flatnonzero(flat.booleans(pc.is_valid(tools)))
        for row, offered in zip(rows.tolist(), tools.take(pa.array(rows)).to_pylist(), strict=True):
            known.setdefault(row, []).append(json.loads(offered) or None)
    called = _calling(turns, flat.roles(turns))
    if called.any():
        calls = flat.storage(turns.field("tool_calls")).filter(pa.array(called)).to_pylist()
        for row, made in zip(flat.row_of_turn(offsets)[called].tolist(), calls, strict=True):
            known.setdefault(row, []).append([call["function"]["name"] for call in json.loads(made)])
    for row, values in known.items():
        if any(values):
            text = json.dumps(values, sort_keys=True).encode("utf-8", "surrogatepass")
            marks[row] = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return marks


def _calling(turns: pa.StructArray, codes: np.ndarray) -> np.ndarray:
    return flat.filled(turns, "tool_calls") & (codes == flat.ASSISTANT)
