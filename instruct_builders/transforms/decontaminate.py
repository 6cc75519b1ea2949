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
import pyarrow.compute as pc

from ..errors import ConfigError, did_you_mean
from . import evaluation_sets, flat, shingles, similar_sets
from .notes import noted
from .novelty import _kind, unicode_tokens

ACTIONS = {"drop": "reject the row", "flag": "keep it and write `contaminated` into its `meta`"}
SHINGLE = 3  # tokens, for near duplicates
LINE_END = pa.scalar("\n", pa.large_string())
ROWS = 1024  # rows looked at a time
LISTED = 1000  # matches written into the account of the build; all of them are counted
SHOWN = 200  # characters of a matched text
SIEVE = np.uint64((1 << 20) - 1)  # most hashes are told from all questions by 20 of their bits


@dataclass(frozen=True)
class Found:
    """One text of the table that holds a question, or a part of it."""

    row: int
    field: str
    question: int
    text: str
    how: str


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
    questions = evaluation_sets.read(against, columns)
    if counts is not None and evaluation_sets.AT_HAND in _entries(against):
        counts["not_at_hand"] = evaluation_sets.at_hand()[1]
    if not questions.texts:
        return _with_nothing(table, counts)
    index = _Index(questions.texts, ngram, shortest, threshold)
    usable = flat.open_rows(table)
    found = []
    for start in range(0, table.num_rows, ROWS):
        found += _search(table.slice(start, ROWS), start, usable[start : start + ROWS], index)
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


class _Index:
    """The questions' hashes, in the order in which they are looked up."""

    def __init__(self, texts: list[str], ngram: int, shortest: int, threshold: float):
        self.texts, self.ngram, self.threshold = texts, ngram, threshold
        tokens, offsets = shingles.hashed_tokens(pa.array(texts, pa.large_string()))
        lengths = np.diff(offsets)
        self.lengths = [ngram, *sorted(set(lengths[(lengths >= shortest) & (lengths < ngram)].tolist()))]
        self.runs = _Postings(*shingles.runs(tokens, offsets, ngram))
        hashes, owners = shingles.runs(tokens, offsets, SHINGLE)
        parts = [_sets(hashes, owners, start, len(texts)) for start in range(0, len(texts), similar_sets.OWNERS)]
        self.values = np.concatenate([values for values, _ in parts])
        self.offsets = flat.offsets_of(np.concatenate([np.diff(bounds) for _, bounds in parts]))
        # A text as alike as `threshold` shares one of these with the question: its rarest shingles among all.
        owner = flat.row_of_turn(self.offsets)
        _, inverse, frequency = np.unique(self.values, return_inverse=True, return_counts=True)
        order = np.lexsort([self.values, frequency[inverse], owner])
        wanted = similar_sets.prefix_lengths(np.diff(self.offsets), threshold) * (np.diff(self.offsets) > 0)
        chosen = order[similar_sets.places(self.offsets[:-1], wanted)]
        self.prefixes = _Postings(self.values[chosen], owner[chosen])


class _Postings:
    """Hash -> questions that have it."""

    def __init__(self, hashes: np.ndarray, owners: np.ndarray):
        order = np.lexsort([owners, hashes])
        self.hashes, self.owners = hashes[order], owners[order]
        self.sieve = np.zeros(int(SIEVE) + 1, dtype=bool)
        self.sieve[(self.hashes & SIEVE).astype(np.int64)] = True

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places among `hashes` and the questions that have the same: one entry for each such pair."""
        places = np.flatnonzero(self.sieve[(hashes & SIEVE).astype(np.int64)])
        begin = np.searchsorted(self.hashes, hashes[places], side="left")
        counts = np.searchsorted(self.hashes, hashes[places], side="right") - begin
        return np.repeat(places, counts), self.owners[similar_sets.places(begin, counts)]


def _search(piece: pa.Table, start: int, usable: np.ndarray, index: _Index) -> list[Found]:
    """All pairs of a row and a question in a slice of the table that begins at row `start`."""
    texts, owners, fields = _texts_of(piece)
    tokens, offsets = shingles.hashed_tokens(texts)
    pairs: dict[tuple[int, int], tuple[int, int]] = {}  # text and question -> place and length of the first run
    for length in index.lengths:
        hashes, text_of = shingles.runs(tokens, offsets, length)
        places, asked = index.runs.find(hashes)
        begins = places - np.searchsorted(text_of, text_of[places])
        for text, question, begin in zip(text_of[places].tolist(), asked.tolist(), begins.tolist(), strict=True):
            pairs.setdefault((text, question), (begin, length))
    found = []
    for (text, question), (begin, length) in sorted(pairs.items()):
        if usable[owners[text]] and (words := _shared(texts[text].as_py(), index.texts[question], begin, length)):
            how = f"{len(words)} tokens in a row"
            found.append(Found(start + int(owners[text]), fields[text], question, _readable(words), how))
    hashes, text_of = shingles.runs(tokens, offsets, SHINGLE)
    for text, question, jaccard in _alike(hashes, text_of, len(texts), index):
        if usable[owners[text]] and (text, question) not in pairs:
            shown, how = _readable(unicode_tokens(texts[text].as_py())), f"Jaccard similarity {jaccard:.3f}"
            found.append(Found(start + int(owners[text]), fields[text], question, shown, how))
    return sorted(found, key=lambda entry: entry.row)


def _alike(hashes: np.ndarray, text_of: np.ndarray, count: int, index: _Index) -> list[tuple[int, int, float]]:
    """Texts that are near duplicates of a question, as a whole, and how much."""
    found = []
    for first in range(0, count, similar_sets.OWNERS):
        values, offsets = _sets(hashes, text_of, first, count)
        places, asked = index.prefixes.find(values)
        pairs = np.unique(np.stack([flat.row_of_turn(offsets)[places], asked], axis=1), axis=0)
        sizes, others = np.diff(offsets)[pairs[:, 0]], np.diff(index.offsets)[pairs[:, 1]]
        slack = 1 - similar_sets.SLACK
        pairs = pairs[np.minimum(sizes, others) >= index.threshold * slack * np.maximum(sizes, others)]
        for begin in range(0, len(pairs), similar_sets.OWNERS):
            some = pairs[begin : begin + similar_sets.OWNERS]
            jaccard = similar_sets.jaccards(values, offsets, index.values, index.offsets, some)
            close = jaccard >= index.threshold
            found += [
                (first + text, question, score)
                for (text, question), score in zip(some[close].tolist(), jaccard[close].tolist(), strict=True)
            ]
    return found


def _sets(hashes: np.ndarray, owners: np.ndarray, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The sets of owners `first` to `first` + 4,096; owners ascend."""
    last = min(count, first + similar_sets.OWNERS)
    begin, end = np.searchsorted(owners, [first, last])
    return similar_sets.sets_of(hashes[begin:end], owners[begin:end] - first, last - first)


def _texts_of(piece: pa.Table) -> tuple[pa.Array, np.ndarray, list[str]]:
    """Every turn's text, the first question's with `context`; the row of each, and its field."""
    offsets, turns = flat.flatten(piece)
    texts, owners = pc.fill_null(flat.text(turns), "").cast(pa.large_string()), flat.row_of_turn(offsets)
    if "context" in piece.column_names and piece["context"].null_count < piece.num_rows:
        first = flat.first_per_row(flat.roles(turns) == flat.USER, offsets)
        context = flat.one_array(piece["context"]).cast(pa.large_string())
        has = flat.booleans(pc.is_valid(context)) & (first < offsets[1:])
        mask = np.zeros(len(texts), dtype=bool)
        mask[first[has]] = True
        joined = pc.binary_join_element_wise(texts.filter(pa.array(mask)), context.filter(pa.array(has)), LINE_END)
        texts = pc.replace_with_mask(texts, pa.array(mask), joined)
    return texts, owners, flat.turn_field(np.arange(len(owners)) - offsets[owners], "content")


def _shared(text: str, question: str, begin: int, length: int) -> list[str] | None:
    """The run of tokens that both texts hold; `None` where only the hashes were the same."""
    words, asked = unicode_tokens(text)[begin : begin + length], unicode_tokens(question)
    return words if any(asked[at : at + len(words)] == words for at in range(len(asked) - len(words) + 1)) else None


def _readable(words: list[str]) -> str:
    text = ""
    for word in words:
        together = text and _kind(text[-1]) == "alone" and _kind(word[0]) == "alone"
        text += word if together or not text else f" {word}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


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
