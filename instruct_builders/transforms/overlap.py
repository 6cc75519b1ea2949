"""Texts of a table that hold a text of a fixed list, or a part of it: hashes find them, and tokens prove it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import flat, shingles, similar_sets
from .novelty import kind_of, unicode_tokens

SHINGLE = 3  # tokens, for near duplicates
LINE_END = pa.scalar("\n", pa.large_string())
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


class Index:
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


def search(piece: pa.Table, start: int, usable: np.ndarray, index: Index) -> list[Found]:
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
        together = text and kind_of(text[-1]) == "alone" and kind_of(word[0]) == "alone"
        text += word if together or not text else f" {word}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
