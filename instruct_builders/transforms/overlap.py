"""Texts of a table that hold a text of a fixed list, or a part of it: hashes find them, and tokens prove it.

What very many texts hold is no sign that one has seen another: a prompt's template, a saying, a licence. As for GPT-3
(Brown et al. 2020, appendix C), runs of tokens that stand in more than a few rows are not gone by, nor those in as
many questions; a whole question always is. So the table is gone through twice: [`seen`], then [`search`].
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import flat, shingles, similar_sets
from .novelty import kind_of, unicode_tokens

SHINGLE = 3  # tokens, for near duplicates
FEWEST = 3  # tokens of a question that is looked for at all: "Yes" stands everywhere
LINE_END = pa.scalar("\n", pa.large_string())
SHOWN = 200  # characters of a matched text
LISTED = 20  # passages that were not gone by, told in the account
SIEVE = np.uint64((1 << 20) - 1)  # most hashes are told from all questions by 20 of their bits


@dataclass(frozen=True)
class Found:
    """One text of the table that holds a question, or a part of it."""

    row: int
    field: str
    question: int
    text: str
    how: str


@dataclass(frozen=True)
class Seen:
    """What the rows of a table have in common with the questions.

    Args:
        rows (`np.ndarray`): Rows that have anything: int64.
        runs (`np.ndarray`): Runs that rows hold, and how many rows: int64, shape (found, 2).
        near (`np.ndarray`): Questions that rows are near to, but not equal, and how many rows: likewise.
    """

    rows: np.ndarray
    runs: np.ndarray
    near: np.ndarray


class Index:
    """The questions' hashes, in the order in which they are looked up.

    Args:
        texts (`list[str]`): The questions.
        ngram (`int`), shortest (`int`), threshold (`float`), common (`int`): As for [`decontaminate`].
    """

    def __init__(self, texts: list[str], ngram: int, shortest: int, threshold: float, common: int):
        self.texts, self.ngram, self.threshold, self.common = texts, ngram, threshold, common
        tokens, offsets = shingles.hashed_tokens(pa.array(texts, pa.large_string()))
        self.sizes = np.diff(offsets)
        self.short = self.sizes < shortest
        self.too_short = self.short & (self.sizes < FEWEST)
        self.lengths = [ngram, *sorted(set(self.sizes[~self.short & (self.sizes < ngram)].tolist()))]
        hashes, owners = shingles.runs(tokens, offsets, ngram)
        begins = np.arange(len(owners)) - np.searchsorted(owners, owners)
        used = ~self.short[owners]
        self.runs = _Postings(hashes[used], owners[used], begins[used])
        self.whole = self.runs.only(np.zeros(len(self.runs.hashes), dtype=bool))
        self.frames = np.zeros(len(texts), dtype=bool)  # questions that rows are near to only by what all of them say
        hashes, owners = shingles.runs(tokens, offsets, SHINGLE)
        parts = [_sets(hashes, owners, start, len(texts)) for start in range(0, len(texts), similar_sets.OWNERS)]
        self.values = np.concatenate([values for values, _ in parts])
        self.offsets = flat.offsets_of(np.concatenate([np.diff(bounds) for _, bounds in parts]))
        # A text as alike as `threshold` shares one of these with the question: its rarest shingles among all.
        owner = flat.row_of_turn(self.offsets)
        _, inverse, frequency = np.unique(self.values, return_inverse=True, return_counts=True)
        order = np.lexsort([self.values, frequency[inverse], owner])
        wanted = similar_sets.prefix_lengths(np.diff(self.offsets), threshold)
        wanted *= (np.diff(self.offsets) > 0) & ~self.too_short
        chosen = order[similar_sets.places(self.offsets[:-1], wanted)]
        self.prefixes = _Postings(self.values[chosen], owner[chosen], np.zeros(len(chosen), np.int64))

    def settled(self, seen: Sequence[Seen]) -> tuple[Index, dict]:
        """The index without what more than `common` rows or questions have, and the account of that: `runs` and
        `questions`, how many, and `passages`, the most frequent: `text`, `questions`, `rows`."""
        runs, new = self.runs, copy.copy(self)
        rows = _total([part.runs for part in seen], runs.count)
        near = _total([part.near for part in seen], len(self.texts))
        questions = runs.questions()
        common = (questions > self.common) | (rows > self.common)
        new.runs = runs.only(~common[runs.number])
        rare = np.zeros(len(self.texts), dtype=bool)
        rare[new.runs.owners] = True
        new.whole = runs.only(common[runs.number] & (runs.begins == 0) & ~rare[runs.owners])
        new.frames = near > self.common
        ignored = np.flatnonzero(common & (rows > 0))
        passages = self._passages(ignored, questions, rows)
        passages += [
            {"text": _readable(unicode_tokens(self.texts[question])), "questions": 1, "rows": int(near[question])}
            for question in np.flatnonzero(new.frames).tolist()
        ]
        passages.sort(key=lambda entry: (-entry["rows"], -entry["questions"], entry["text"]))
        told = {"runs": len(ignored), "questions": int(new.frames.sum()), "passages": passages[:LISTED]}
        return new, told

    def _passages(self, ignored: np.ndarray, questions: np.ndarray, rows: np.ndarray) -> list[dict]:
        """Runs that follow one another in a question, as one text."""
        first = self.runs.first[ignored]
        owners, begins = self.runs.owners[first], self.runs.begins[first]
        order = np.lexsort([begins, owners])
        ignored, owners, begins = ignored[order], owners[order], begins[order]
        new = (np.diff(owners, prepend=-1) != 0) | (np.diff(begins, prepend=-2) != 1)
        found = []
        for part in np.split(np.arange(len(ignored)), np.flatnonzero(new)[1:]) if len(ignored) else []:
            words = unicode_tokens(self.texts[owners[part[0]]])[begins[part[0]] : begins[part[-1]] + self.ngram]
            most = [int(counts[ignored[part]].max()) for counts in (questions, rows)]
            found.append({"text": _readable(words), "questions": most[0], "rows": most[1]})
        return found


class _Postings:
    """Hash -> questions that have it, and where in the question."""

    def __init__(self, hashes: np.ndarray, owners: np.ndarray, begins: np.ndarray):
        order = np.lexsort([begins, owners, hashes])
        self.hashes, self.owners, self.begins = hashes[order], owners[order], begins[order]
        self.unique, self.first, self.number = np.unique(self.hashes, return_index=True, return_inverse=True)
        self.count = len(self.unique)
        self.sieve = np.zeros(int(SIEVE) + 1, dtype=bool)
        self.sieve[(self.hashes & SIEVE).astype(np.int64)] = True

    def only(self, chosen: np.ndarray) -> _Postings:
        return _Postings(self.hashes[chosen], self.owners[chosen], self.begins[chosen])

    def questions(self) -> np.ndarray:
        """How many questions have each different hash (int64)."""
        pairs = np.unique(np.stack([self.number, self.owners], axis=1), axis=0)
        return np.bincount(pairs[:, 0], minlength=self.count)

    def known(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places among `hashes` of those that a question has, and their numbers."""
        places = np.flatnonzero(self.sieve[(hashes & SIEVE).astype(np.int64)])
        at = np.minimum(np.searchsorted(self.unique, hashes[places]), max(0, self.count - 1))
        same = self.unique[at] == hashes[places] if self.count else np.zeros(len(places), dtype=bool)
        return places[same], at[same]

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places among `hashes` and the questions that have the same: one entry for each such pair."""
        places, number = self.known(hashes)
        begin, counts = self.first[number], np.diff(np.append(self.first, len(self.hashes)))[number]
        return np.repeat(places, counts), self.owners[similar_sets.places(begin, counts)]


def _total(parts: list[np.ndarray], size: int) -> np.ndarray:
    total = np.zeros(size, np.int64)
    for part in parts:
        np.add.at(total, part[:, 0], part[:, 1])  # a part may be of several slices
    return total


def seen(piece: pa.Table, start: int, usable: np.ndarray, index: Index) -> Seen:
    """What the usable rows of a slice, which begins at row `start` of its table, have in common with the questions."""
    texts, owners, _, asked = _texts_of(piece)
    tokens, offsets = shingles.hashed_tokens(texts)
    held = [np.empty((0, 2), np.int64)]
    for length in index.lengths:
        hashes, text_of = shingles.runs(tokens, offsets, length)
        places, number = index.runs.known(hashes)
        held.append(np.stack([owners[text_of[places]], number], axis=1))
    hashes, text_of = shingles.runs(tokens, offsets, SHINGLE)
    alike = [
        (owners[text], question, jaccard < 1)
        for text, question, jaccard in _alike(hashes, text_of, len(texts), index)
        if asked[text] or not index.short[question]
    ]
    near = np.array(alike, np.int64).reshape(-1, 3)
    held = np.unique(np.concatenate(held), axis=0)
    held, near = held[usable[held[:, 0]]], near[usable[near[:, 0]]]
    rows = np.unique(np.concatenate([held[:, 0], near[:, 0]])) + start
    unlike = np.unique(near[near[:, 2] == 1, :2], axis=0)
    counted = [np.unique(pairs[:, 1], return_counts=True) for pairs in (held, unlike)]
    return Seen(rows, *(np.stack(pair, axis=1) for pair in counted))


def search(piece: pa.Table, numbers: np.ndarray, index: Index) -> list[Found]:
    """All pairs of a row and a question; `numbers` are those of the rows in their table."""
    texts, owners, fields, asked = _texts_of(piece)
    tokens, offsets = shingles.hashed_tokens(texts)
    pairs: dict[tuple[int, int], list[tuple[int, int, bool]]] = {}  # text and question -> runs: place, length, whole
    for length in index.lengths:
        hashes, text_of = shingles.runs(tokens, offsets, length)
        for postings, whole in ((index.runs, False), (index.whole, True)):
            places, questions = postings.find(hashes)
            begins = places - np.searchsorted(text_of, text_of[places])
            sizes = index.sizes[questions] if whole else np.full(len(questions), length)
            for text, *entry in zip(*(a.tolist() for a in (text_of[places], questions, begins, sizes)), strict=True):
                known = pairs.setdefault((text, entry[0]), [])
                if whole or not known:
                    known.append((entry[1], entry[2], whole))
    found, done, words_of = [], set(), _Words(texts, index.texts)
    for (text, question), runs in sorted(pairs.items()):
        if words := words_of.shared(text, question, runs):
            done.add((text, question))
            how = f"{len(words)} tokens in a row"
            found.append(Found(int(numbers[owners[text]]), fields[text], question, _readable(words), how))
    hashes, text_of = shingles.runs(tokens, offsets, SHINGLE)
    for text, question, jaccard in _alike(hashes, text_of, len(texts), index):
        gone_by = (asked[text] or not index.short[question]) and (jaccard == 1 or not index.frames[question])
        if gone_by and (text, question) not in done:
            shown, how = _readable(unicode_tokens(texts[text].as_py())), f"Jaccard similarity {jaccard:.3f}"
            found.append(Found(int(numbers[owners[text]]), fields[text], question, shown, how))
    return sorted(found, key=lambda entry: entry.row)


def _alike(hashes: np.ndarray, text_of: np.ndarray, count: int, index: Index) -> list[tuple[int, int, float]]:
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


def _texts_of(piece: pa.Table) -> tuple[pa.Array, np.ndarray, list[str], np.ndarray]:
    """Every turn's text, the first question's with `context`; row and field of each, and whether it is a user's."""
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
    fields = flat.turn_field(np.arange(len(owners)) - offsets[owners], "content")
    return texts, owners, fields, flat.roles(turns) == flat.USER


class _Words:
    """The tokens of texts and of questions, each made once."""

    def __init__(self, texts: pa.Array, questions: list[str]):
        self.text = cache(lambda number: unicode_tokens(texts[number].as_py()))
        self.question = cache(lambda number: unicode_tokens(questions[number]))

    def shared(self, text: int, question: int, runs: list[tuple[int, int, bool]]) -> list[str] | None:
        """The first run of tokens that both hold; `None` where only the hashes were the same, or the beginning is of a
        question that has to be there whole."""
        own, asked = self.text(text), self.question(question)
        for begin, length, whole in runs:
            words = own[begin : begin + length]
            held = any(asked[at : at + len(words)] == words for at in range(len(asked) - len(words) + 1))
            if held and (len(words) == length or not whole):
                return words
        return None


def _readable(words: list[str]) -> str:
    text = ""
    for word in words:
        together = text and kind_of(text[-1]) == "alone" and kind_of(word[0]) == "alone"
        text += word if together or not text else f" {word}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
