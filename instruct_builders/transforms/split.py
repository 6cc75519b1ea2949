"""Long conversations -> several that fit, at whole rounds, without losing one."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ConfigError
from ..records import RECORD
from . import flat

TOKEN_OVERHEAD = 6  # tokens a template puts around a turn, as the Vicuna authors reckoned
COUNTED = ("content", "reasoning_content", "tool_calls")


def split_long(
    table: pa.Table,
    max_tokens: int | None = None,
    max_chars: int | None = None,
    count: Callable[[list[str]], Sequence[int]] | None = None,
    tokenizer: str | Path | None = None,
    overhead_per_turn: int | None = None,
    counts: Counter | None = None,
) -> pa.Table:
    """Splits conversations above a length at whole rounds; as many rounds as fit go into each part.

    A round is a user turn with all that follows up to the next. A part is a record of its own: it repeats the system
    turn and the tools (both count for every part), has `parent` = the id of the whole, `{"part": i, "parts": n}` (i
    from 1) in `meta`, and an `id` of its own. `context` belongs to the first question and stays with the first part.
    A round that is too long by itself is a part by itself, rejected as `too_long`: nothing is cut inside a turn,
    nothing is lost. A length is that of contents, reasoning, tool calls, `context` and `tools`, plus
    `overhead_per_turn` for each turn.

    Args:
        table (`pa.Table`): Records.
        max_tokens (`int`, *optional*): Tokens a part may have. Give this or `max_chars`.
        max_chars (`int`, *optional*): Characters a part may have.
        count (`Callable`, *optional*): With `max_tokens`: texts -> their numbers of tokens.
        tokenizer (`str` or `Path`, *optional*): With `max_tokens`, instead of `count`: a `tokenizer.json`, or its
            folder.
        overhead_per_turn (`int`, *optional*): Defaults to 6 for tokens and 0 for characters.
        counts (`collections.Counter`, *optional*): Gets the number of rows that were `split`.

    Raises:
        ConfigError: If the limits or ways to count don't fit together, or the tokenizer can't be used.
    """
    limit, lengths_of = _limit(max_tokens, max_chars, count, tokenizer)
    if overhead_per_turn is None:
        overhead_per_turn = TOKEN_OVERHEAD if max_chars is None else 0
    for name in ("parent", "meta"):
        if name not in table.column_names:  # always, so that every batch has the same columns
            table = table.append_column(name, pa.nulls(table.num_rows, RECORD.field(name).type))
    offsets, turns = flat.flatten(table)
    considered = flat.open_rows(table)
    codes = flat.roles(turns)
    of_turn = _turn_lengths(turns, lengths_of) + overhead_per_turn
    first_only, always = (_column_lengths(table, name, lengths_of) for name in ("context", "tools"))
    total = flat.sum_per_row(of_turn, offsets) + first_only + always
    pieces: list[tuple[int, int, int, int]] = []  # row, first turn, end, system turn or -1
    sizes_of: list[int] = []
    starts = flat.round_starts(codes, offsets)
    for row in np.flatnonzero(considered & (total > limit)).tolist():
        start, end = int(offsets[row]), int(offsets[row + 1])
        head = start if start < end and codes[start] == flat.SYSTEM else -1
        body = start + (head >= 0)
        fixed = int(always[row]) + (int(of_turn[head]) if head >= 0 else 0)
        edges = [*sorted({body, *(np.flatnonzero(starts[body:end]) + body).tolist()}), end]
        sizes = [int(of_turn[first:last].sum()) for first, last in pairwise(edges)]
        sizes[0] += int(first_only[row])
        for first, last in _pack(sizes, limit - fixed):
            pieces.append((row, edges[first], edges[last], head))
            sizes_of.append(fixed + sum(sizes[first:last]))
    of_row = np.bincount([row for row, *_ in pieces], minlength=table.num_rows)
    if counts is not None:
        counts["split"] += int((of_row > 1).sum())
    if (of_row > 1).any():
        table = _with_parts(table, offsets, turns, np.array(pieces), of_row)
    length = np.zeros(table.num_rows, np.int64)
    length[np.repeat(of_row > 0, np.maximum(of_row, 1))] = sizes_of  # parts come in the order of their rows
    unit = "tokens" if max_chars is None else "characters"
    details = [f"{size} {unit}, the limit is {limit}" for size in length[length > limit].tolist()]
    return flat.reject(table, length > limit, "too_long", "messages", details)


def _pack(sizes: list[int], room: int) -> list[tuple[int, int]]:
    """Ranges of rounds, each as long as fits; one that does not fit by itself is a range by itself."""
    ranges, first, used = [], 0, 0
    for number, size in enumerate(sizes):
        if number > first and used + size > room:
            ranges.append((first, number))
            first, used = number, 0
        used += size
    return [*ranges, (first, len(sizes))]


def _with_parts(
    table: pa.Table, offsets: np.ndarray, turns: pa.StructArray, pieces: np.ndarray, of_row: np.ndarray
) -> pa.Table:
    """The table with each split row replaced by its parts; `of_row` is how many pieces a row has, 0 if left whole."""
    taken = np.repeat(np.arange(table.num_rows), np.maximum(of_row, 1))
    begin, end, head = offsets[taken], offsets[taken + 1], np.full(len(taken), -1)
    begin[of_row[taken] > 0], end[of_row[taken] > 0], head[of_row[taken] > 0] = pieces[:, 1:].T
    new_offsets = flat.offsets_of(end - begin + (head >= 0))
    row = flat.row_of_turn(new_offsets)
    place = np.arange(new_offsets[-1]) - new_offsets[row] - (head[row] >= 0)  # -1 is the repeated system turn
    chosen = np.where(place < 0, head[row], begin[row] + place)
    result = flat.with_turns(table.take(pa.array(taken)), new_offsets, turns.take(pa.array(chosen)))
    number = np.arange(len(taken)) - np.searchsorted(taken, taken) + 1
    return _label_parts(result, of_row[taken] > 1, number, of_row[taken])


def _label_parts(table: pa.Table, is_part: np.ndarray, number: np.ndarray, parts: np.ndarray) -> pa.Table:
    """Gives parts their `parent`, `meta`, `context` and `id`."""
    mask = pa.array(is_part)
    if "context" in table.column_names:
        context = flat.one_array(table["context"])
        later = pa.array(is_part & (number > 1))
        table = _set(table, "context", pc.if_else(later, pa.scalar(None, context.type), context))
    meta = flat.one_array(table["meta"])
    texts = flat.storage(meta).to_pylist()
    for row in np.flatnonzero(is_part).tolist():
        told = {} if texts[row] is None else json.loads(texts[row])
        told = {**told, "part": int(number[row]), "parts": int(parts[row])}
        # What was escaped stays escaped: half of a UTF-16 pair can't be written otherwise.
        texts[row] = json.dumps(told, ensure_ascii="\\u" in (texts[row] or ""))
    stored = pa.array(texts, flat.storage(meta).type)
    extension = isinstance(meta, pa.ExtensionArray)
    table = _set(table, "meta", pa.ExtensionArray.from_storage(meta.type, stored) if extension else stored)
    if "id" not in table.column_names:
        return table
    from ..records import content_ids

    old = flat.one_array(table["id"])
    table = _set(table, "parent", pc.if_else(mask, old, flat.one_array(table["parent"])))
    return _set(table, "id", pc.replace_with_mask(old, mask, flat.one_array(content_ids(table.filter(mask)))))


def _set(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), table.schema.field(name), values)


def _turn_lengths(turns: pa.StructArray, lengths_of: Callable[[pa.Array], np.ndarray]) -> np.ndarray:
    fields = [name for name in COUNTED if turns.type.get_field_index(name) >= 0]
    return sum((lengths_of(flat.storage(turns.field(name))) for name in fields), np.zeros(len(turns), np.int64))


def _column_lengths(table: pa.Table, name: str, lengths_of: Callable[[pa.Array], np.ndarray]) -> np.ndarray:
    if name not in table.column_names:
        return np.zeros(table.num_rows, np.int64)
    return lengths_of(flat.storage(flat.one_array(table[name])))


def _limit(max_tokens, max_chars, count, tokenizer) -> tuple[int, Callable[[pa.Array], np.ndarray]]:
    """The limit, and the function that measures an array of texts, nulls as 0, in its unit."""
    given = {"max_tokens": max_tokens, "max_chars": max_chars, "count": count, "tokenizer": tokenizer}
    names = [name for name, value in given.items() if value is not None]
    if names not in (["max_chars"], ["max_tokens", "count"], ["max_tokens", "tokenizer"]):
        raise ConfigError(
            "split_long: give max_chars alone, or max_tokens with either tokenizer (the path of a tokenizer.json) or "
            f"count (a function); got {', '.join(names) or 'none of them'}."
        )
    limit = max_chars if max_tokens is None else max_tokens
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ConfigError(f"split_long: {names[0]} must be a whole number above 0, not {limit!r}.")
    if max_chars is not None:
        return (
            limit,
            lambda texts: pc.fill_null(pc.utf8_length(texts), 0).to_numpy(zero_copy_only=False).astype(np.int64),
        )
    counter = count if tokenizer is None else _token_counter(os.fspath(tokenizer))

    def lengths_of(texts: pa.Array) -> np.ndarray:
        lengths = np.zeros(len(texts), np.int64)
        filled = flat.booleans(pc.greater(pc.binary_length(texts), 0))
        found = np.asarray(counter(texts.filter(pa.array(filled)).to_pylist()) if filled.any() else [], dtype=np.int64)
        if found.shape != (int(filled.sum()),):
            raise ConfigError(
                f"split_long: count gave {found.shape} numbers for {int(filled.sum())} texts; it must give one each."
            )
        lengths[filled] = found
        return lengths

    return limit, lengths_of


def _token_counter(path: str) -> Callable[[list[str]], list[int]]:
    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ConfigError(
            f"split_long: tokenizer={path!r}: there is no file {file}. Give the path of a tokenizer.json."
        )
    return _loaded(str(file), file.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _loaded(file: str, changed: int) -> Callable[[list[str]], list[int]]:
    """`changed` (ns) is part of the key, so that a file written anew is read anew."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigError(
            "split_long: tokenizer needs tokenizers, which is not installed. Do: "
            'pip install "instruct-builders[train]", or give max_chars.'
        ) from None
    tokenizer = Tokenizer.from_file(file)
    tokenizer.no_truncation()  # a file may ask for it, and every text would be short enough
    tokenizer.no_padding()
    return lambda texts: [len(item.ids) for item in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
