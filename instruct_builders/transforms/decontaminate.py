"""Rows that hold what an evaluation set asks: a model trained on them has seen the test.

Two ways to find them: a run of `ngram` tokens that stands in a question too, wherever in the row; and a turn that is,
as a whole, a near duplicate of a question. Tokens are words, and characters in scripts without spaces; case,
punctuation, white space and compatibility forms make no difference. What many rows or many questions hold, such as the
words of a prompt's template, is not gone by.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from ..errors import ConfigError, did_you_mean
from . import evaluation_sets, flat, overlap
from .notes import noted
from .overlap import Found, Index, Seen, search

ACTIONS = {"drop": "reject the row", "flag": "keep it and write `contaminated` into its `meta`"}
ROWS = 1024  # rows looked at a time
LISTED = 1000  # matches written into the account of the build; all of them are counted


def decontaminate(
    table: pa.Table,
    against: str | os.PathLike | Sequence | Mapping = (),
    columns: str | Sequence[str] | None = None,
    ngram: int = 13,
    shortest: int = 8,
    threshold: float = 0.7,
    common: int = 10,
    action: str = "drop",
    counts: Counter | None = None,
) -> pa.Table:
    """Rejects or flags rows that share text with evaluation sets, as `contaminated`.

    Every turn is looked at, of every role; the first question together with `context`. A question of fewer than
    `ngram` tokens is looked for as a whole: inside other text, or, if it has fewer than `shortest` tokens, as all that
    a user says in a turn, since "What do you think?" stands in many rows that have seen no test. One of fewer than 3
    tokens ("Yes") is not looked for, and counted.

    Args:
        table (`pa.Table`): Records.
        against (`str` or `list` or `dict`): Evaluation sets; see [`evaluation_sets.named`].
        columns (`str` or `list`, *optional*): Columns of the evaluation sets that hold texts.
        ngram (`int`, *optional*, defaults to 13): Tokens in a row that two texts don't share by chance.
        shortest (`int`, *optional*, defaults to 8): Fewest tokens of a question that is looked for inside other text.
        threshold (`float`, *optional*, defaults to 0.7): Jaccard similarity of shingles of three tokens from which a
            turn is a near duplicate of a question.
        common (`int`, *optional*, defaults to 10): Most rows that may hold a run of tokens, or most questions, for it
            to say anything: what more of them hold is a template or a saying, as in GPT-3's filter. In the same way a
            question says nothing to which more rows are near, without being equal. A whole question always counts, in
            however many rows.
        action (`str`, *optional*, defaults to `"drop"`): A key of [`ACTIONS`].
        counts (`Counter`, *optional*): Gets `evaluation_sets` (name -> `texts`, those of them that are `too_short` to
            be looked for, `rows` that hold one, and the `source` that was read), `contaminated` (rows), `pairs` (row
            and question), `matches`, the first 1,000 of them, and `ignored`: how many `runs` of tokens and `questions`
            were not gone by, and the most frequent `passages`; with `at_hand` also `not_at_hand` (name -> reason), and
            a `note` where there is no set at all.

    Raises:
        ConfigError: If an argument is out of its range, or a set has no such column.
        SourceError: If an evaluation set can't be had or read.
    """
    if action not in ACTIONS:
        known = "; ".join(f"{key!r}: {value}" for key, value in ACTIONS.items())
        raise ConfigError(f"decontaminate: action={action!r}; {known}.{did_you_mean(str(action), ACTIONS)}")
    numbers = (ngram, shortest, threshold, common)
    right = all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers)
    if not right or ngram < 1 or not 1 <= shortest <= ngram or not 0 < threshold <= 1 or common < 1:
        raise ConfigError(
            f"decontaminate: ngram={ngram!r}, shortest={shortest!r}, threshold={threshold!r}, common={common!r}: 1 or "
            "more tokens, shortest not above ngram, a threshold above 0 up to 1, and 1 or more rows are right."
        )
    if action == "flag" and "meta" not in table.column_names:
        raise ConfigError("decontaminate: action='flag' writes into the column 'meta', which the table lacks.")
    prepared = prepare(against, columns, ngram, shortest, threshold, common)
    found = seen(table, prepared)
    return searched(table, settled(prepared, [found]), action, counts, found.rows)


@dataclass(frozen=True)
class Prepared:
    """Evaluation sets, read and indexed; `index` is `None` where there is no question at all."""

    questions: evaluation_sets.Questions
    index: Index | None
    missing: dict[str, dict[str, str]]
    ignored: dict | None = None  # what is not gone by; known once all rows have been seen


def prepare(
    against: str | os.PathLike | Sequence | Mapping,
    columns: str | Sequence[str] | None = None,
    ngram: int = 13,
    shortest: int = 8,
    threshold: float = 0.7,
    common: int = 10,
) -> Prepared:
    """What tables are searched for; the arguments are those of [`decontaminate`]."""
    questions = evaluation_sets.read(against, columns)
    index = Index(questions.texts, ngram, shortest, threshold, common) if questions.texts else None
    at_hand = evaluation_sets.AT_HAND in _entries(against)
    return Prepared(questions, index, {"not_at_hand": evaluation_sets.at_hand()[1]} if at_hand else {})


def seen(table: pa.Table, prepared: Prepared) -> Seen:
    """What the table, or a part of it, has in common with the questions: for [`settled`], which takes all parts."""
    nothing = np.empty((0, 2), np.int64)
    if prepared.index is None:
        return Seen(np.empty(0, np.int64), nothing, nothing)
    usable, parts = flat.open_rows(table), [Seen(np.empty(0, np.int64), nothing, nothing)]
    for start in range(0, table.num_rows, ROWS):
        piece, some = table.slice(start, ROWS), usable[start : start + ROWS]
        parts.append(overlap.seen(piece, start, some, prepared.index))
    return Seen(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "runs", "near")))


def settled(prepared: Prepared, parts: Sequence[Seen]) -> Prepared:
    """The sets without what too many rows or questions have, for [`searched`]."""
    if prepared.index is None:
        return prepared
    index, ignored = prepared.index.settled(parts)
    return replace(prepared, index=index, ignored=ignored)


def searched(
    table: pa.Table,
    prepared: Prepared,
    action: str = "drop",
    counts: Counter | None = None,
    among: np.ndarray | None = None,
) -> pa.Table:
    """[`decontaminate`] with sets that are read and settled already, for a table in parts; of the rows `among` (int64)
    alone, where they are given."""
    if counts is not None:
        for name, value in prepared.missing.items():
            counts[name] = value
    questions, index = prepared.questions, prepared.index
    if index is None:
        return _with_nothing(table, counts)
    rows = np.flatnonzero(flat.open_rows(table)) if among is None else among
    found = []
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        found += search(table.take(pa.array(some)), some, index)
    if counts is not None:
        counts["ignored"] = prepared.ignored
    _account(counts, found, questions, table, index.too_short)
    by_row: dict[int, list[Found]] = {}
    for entry in found:
        by_row.setdefault(entry.row, []).append(entry)
    if action == "flag":
        return _flagged(table, by_row, questions)
    rows = np.zeros(table.num_rows, dtype=bool)
    rows[list(by_row)] = True
    first = [entries[0] for _, entries in sorted(by_row.items())]
    details = [_detail(entries, questions) for _, entries in sorted(by_row.items())]
    return flat.reject(table, rows, "contaminated", [entry.field for entry in first], details)


def _entries(against: str | os.PathLike | Sequence | Mapping) -> list:
    return [against] if isinstance(against, str | os.PathLike) else list(against)


def _with_nothing(table: pa.Table, counts: Counter | None) -> pa.Table:
    """The table as it is: no evaluation set is at hand, which the account says."""
    if counts is not None:
        _account(counts, [], evaluation_sets.Questions(), table, np.zeros(0, dtype=bool))
        counts["note"] = (
            "no evaluation set is at hand, so nothing was compared: name files or folders in "
            f"{evaluation_sets.VARIABLE}, or give them in decontaminate ({', '.join(evaluation_sets.KNOWN)}, files, "
            "Hub ids)"
        )
    return table


def _place(entry: Found, questions: evaluation_sets.Questions) -> str:
    return "{} row {}".format(*questions.places[entry.question])


def _detail(entries: list[Found], questions: evaluation_sets.Questions) -> str:
    first, others = entries[0], [_place(entry, questions) for entry in entries[1:]]
    others = [place for place in dict.fromkeys(others) if place != _place(first, questions)]
    more = f"; also {', '.join(others[:5])}{' and more' if len(others) > 5 else ''}" if others else ""
    return f"{first.how} as in {_place(first, questions)}: {first.text!r}{more}"


def _account(
    counts: Counter | None,
    found: list[Found],
    questions: evaluation_sets.Questions,
    table: pa.Table,
    too_short: np.ndarray,
) -> None:
    if counts is None:
        return
    rows: dict[str, set[int]] = {name: set() for name in questions.sets}
    for entry in found:
        rows[questions.places[entry.question][0]].add(entry.row)
    short = Counter(questions.places[number][0] for number in np.flatnonzero(too_short).tolist())
    counts["evaluation_sets"] = {
        name: {
            "texts": texts,
            "too_short": short[name],
            "rows": len(rows[name]),
            "source": questions.sources[name],
        }
        for name, texts in questions.sets.items()
    }
    counts["contaminated"] = len({entry.row for entry in found})
    pairs = {(entry.row, questions.places[entry.question]): entry for entry in reversed(found)}
    counts["pairs"] = len(pairs)
    ids = table["id"] if "id" in table.column_names else None
    counts["matches"] = [
        {
            "evaluation_set": questions.places[entry.question][0],
            "evaluation_row": questions.places[entry.question][1],
            "row": entry.row,
            "id": None if ids is None else ids[entry.row].as_py(),
            "field": entry.field,
            "how": entry.how,
            "text": entry.text,
        }
        for entry in [*reversed(pairs.values())][:LISTED]
    ]


def _flagged(table: pa.Table, by_row: dict[int, list[Found]], questions: evaluation_sets.Questions) -> pa.Table:
    """The table with the questions that a row holds in its `meta`, under `contaminated`."""
    rows = sorted(by_row)
    places = [list(dict.fromkeys(_place(entry, questions) for entry in by_row[row])) for row in rows]
    return noted(table, np.array(rows, dtype=np.int64), "contaminated", places)
