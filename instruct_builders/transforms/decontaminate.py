"""Rows that hold what an evaluation set asks: a model trained on them has seen the test.

Two ways to find them: a run of `ngram` tokens that stands in a question too, wherever in the row; and a turn that is,
as a whole, a near duplicate of a question. Tokens are words, and characters in scripts without spaces; case,
punctuation, white space and compatibility forms make no difference.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..errors import ConfigError, did_you_mean
from . import evaluation_sets, flat
from .notes import noted
from .overlap import Found, Index, search

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
    action: str = "drop",
    counts: Counter | None = None,
) -> pa.Table:
    """Rejects or flags rows that share text with evaluation sets, as `contaminated`.

    Every turn is looked at, of every role; the first question together with `context`. A question of fewer than
    `ngram` tokens is looked for as a whole: inside other text, or, if it has fewer than `shortest` tokens, as a whole
    text, since "What do you think?" stands in many rows that have seen no test.

    Args:
        table (`pa.Table`): Records.
        against (`str` or `list` or `dict`): Evaluation sets; see [`evaluation_sets.named`].
        columns (`str` or `list`, *optional*): Columns of the evaluation sets that hold texts.
        ngram (`int`, *optional*, defaults to 13): Tokens in a row that two texts don't share by chance.
        shortest (`int`, *optional*, defaults to 8): Fewest tokens of a question that is looked for inside other text.
        threshold (`float`, *optional*, defaults to 0.7): Jaccard similarity of shingles of three tokens from which a
            turn is a near duplicate of a question.
        action (`str`, *optional*, defaults to `"drop"`): A key of [`ACTIONS`].
        counts (`Counter`, *optional*): Gets `evaluation_sets` (name -> texts, rows that hold one, and what was read),
            `contaminated` (rows), `pairs` (row and question), and `matches`, the first 1,000 of them; with `at_hand`
            also `not_at_hand` (name -> reason), and a `note` where there is no set at all.

    Raises:
        ConfigError: If an argument is out of its range, or a set has no such column.
        SourceError: If an evaluation set can't be had or read.
    """
    if action not in ACTIONS:
        known = "; ".join(f"{key!r}: {value}" for key, value in ACTIONS.items())
        raise ConfigError(f"decontaminate: action={action!r}; {known}.{did_you_mean(str(action), ACTIONS)}")
    if ngram < 1 or not 1 <= shortest <= ngram or not 0 < threshold <= 1:
        raise ConfigError(
            f"decontaminate: ngram={ngram}, shortest={shortest}, threshold={threshold}: 1 or more tokens, shortest "
            "not above ngram, and a threshold above 0 up to 1 are right."
        )
    if action == "flag" and "meta" not in table.column_names:
        raise ConfigError("decontaminate: action='flag' writes into the column 'meta', which the table lacks.")
    return searched(table, prepare(against, columns, ngram, shortest, threshold), action, counts)


@dataclass(frozen=True)
class Prepared:
    """Evaluation sets, read and indexed; `index` is `None` where there is no question at all."""

    questions: evaluation_sets.Questions
    index: Index | None
    missing: dict[str, dict[str, str]]


def prepare(
    against: str | os.PathLike | Sequence | Mapping,
    columns: str | Sequence[str] | None = None,
    ngram: int = 13,
    shortest: int = 8,
    threshold: float = 0.7,
) -> Prepared:
    """What tables are searched for; the arguments are those of [`decontaminate`]."""
    questions = evaluation_sets.read(against, columns)
    index = Index(questions.texts, ngram, shortest, threshold) if questions.texts else None
    at_hand = evaluation_sets.AT_HAND in _entries(against)
    return Prepared(questions, index, {"not_at_hand": evaluation_sets.at_hand()[1]} if at_hand else {})


def searched(table: pa.Table, prepared: Prepared, action: str = "drop", counts: Counter | None = None) -> pa.Table:
    """[`decontaminate`] with sets that are read already, for a table in parts."""
    if counts is not None:
        for name, value in prepared.missing.items():
            counts[name] = value
    questions, index = prepared.questions, prepared.index
    if index is None:
        return _with_nothing(table, counts)
    usable = flat.open_rows(table)
    found = []
    for start in range(0, table.num_rows, ROWS):
        found += search(table.slice(start, ROWS), start, usable[start : start + ROWS], index)
    _account(counts, found, questions, table)
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
        _account(counts, [], evaluation_sets.Questions(), table)
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
    counts: Counter | None, found: list[Found], questions: evaluation_sets.Questions, table: pa.Table
) -> None:
    if counts is None:
        return
    rows: dict[str, set[int]] = {name: set() for name in questions.sets}
    for entry in found:
        rows[questions.places[entry.question][0]].add(entry.row)
    counts["evaluation_sets"] = {
        name: {"texts": texts, "rows": len(rows[name]), "source": questions.sources[name]}
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
