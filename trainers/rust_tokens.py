"""Token ids of many texts from a fast tokenizer, and which of the tokens are supervised, without a list of offsets.

To find the offsets of every token costs about a fifth of the tokenizer's own time, to turn them into Python numbers
another, though only a few places of a text matter: where its spans and its end-of-turn tokens start and end.

- A byte-level BPE makes of an ASCII text tokens that are as long as their own letters, if together they are as long
  as the text (`letter_sizes` says of which tokenizers that is known). Such texts are encoded without offsets.
- Of other texts the tokenizer is asked for the tokens at those places alone.
- Where such a place is in no token, or a tokenizer leaves blanks out of its offsets, all offsets are used.
"""

from __future__ import annotations

import itertools
import json
from typing import NamedTuple

import numpy as np

from .labels import choose, tiled
from .rendering import trims_offsets

# Steps that change no ASCII character's place, and steps that only cut a text.
LEVEL = {"Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"}
CUTS = {"Split", "Digits", "ByteLevel"}


class Marks(NamedTuple):
    """Places in texts, in the order of the texts and within each ascending; bytes or characters from its start.

    Attributes:
        edges (`np.ndarray`), edge_rows (`np.ndarray`): Starts and ends of spans in turn, and the text of each edge.
        stops (`np.ndarray`), stop_rows (`np.ndarray`): Starts of tokens, and the text of each.
    """

    edges: np.ndarray
    edge_rows: np.ndarray
    stops: np.ndarray
    stop_rows: np.ndarray


class Tokens(NamedTuple):
    """Tokens of texts put one behind the other.

    Attributes:
        ids (`np.ndarray`): Shape (tokens,), int32.
        counts (`np.ndarray`): Tokens of each text, shape (texts,).
        inside (`np.ndarray`): Whether a token lies wholly in one of the spans, shape (tokens,).
        stops (`np.ndarray`): The token that starts at each stop, or -1, shape (stops,).
    """

    ids: np.ndarray
    counts: np.ndarray
    inside: np.ndarray
    stops: np.ndarray


class RustTokens:
    """A fast tokenizer as it is; places are characters."""

    in_bytes, excludes = False, frozenset()

    def __init__(self, tokenizer):
        self.tokenizer, self.trims = tokenizer, trims_offsets(tokenizer)
        self.sizes = letter_sizes(tokenizer)

    def takes(self, texts: list[str]) -> np.ndarray:
        return np.ones(len(texts), bool)

    def encode(self, texts: list[str], marks: Marks) -> Tokens:
        self.tokenizer(texts[0], add_special_tokens=False, verbose=False)  # sets truncation and padding to none
        backend = self.tokenizer.backend_tokenizer
        sized = np.fromiter(map(self._is_sized, texts), bool, len(texts))
        rows: list = [None] * len(texts)
        for some, encode in ((sized, backend.encode_batch_fast), (~sized, backend.encode_batch)):
            places = np.flatnonzero(some).tolist()
            for place, row in zip(places, encode([texts[p] for p in places], add_special_tokens=False), strict=True):
                rows[place] = row
        counts = np.fromiter(map(len, rows), np.int64, len(rows))
        ids = np.fromiter(itertools.chain.from_iterable(row.ids for row in rows), np.int32, int(counts.sum()))
        first = np.concatenate([[0], np.cumsum(counts)])
        bounds = np.zeros(len(ids) + 1, np.int64)
        if self.sizes is not None:
            np.cumsum(self.sizes[ids], out=bounds[1:])
        given = np.fromiter(map(len, texts), np.int64, len(texts))
        due = sized & (bounds[first[1:]] - bounds[first[:-1]] == given)
        for place in np.flatnonzero(sized & ~due).tolist():
            rows[place] = backend.encode(texts[place], add_special_tokens=False)
        turns, stops = by_bounds(bounds, first, marks)
        hard = self._ask(rows, first, marks, ~due, turns, stops)
        inside = between(turns, len(ids))
        for place in hard:
            self._by_offsets(rows[place], place, first, marks, inside, stops)
        return Tokens(ids, counts, inside, stops)

    def _is_sized(self, text: str) -> bool:
        """Whether its tokens have the sizes of their letters; trimmed offsets are odd for a blank at the start."""
        return self.sizes is not None and text.isascii() and not (self.trims and text[:1].isspace())

    def _ask(self, rows: list, first, marks: Marks, left, turns: np.ndarray, stops: np.ndarray) -> list[int]:
        """Sets the tokens at the marks of the rows in `left`; returns those rows where that can't be told."""
        edges, starts = marks.edges.tolist(), marks.stops.tolist()
        edge_of = np.searchsorted(marks.edge_rows, np.arange(len(rows) + 1)).tolist()
        stop_of = np.searchsorted(marks.stop_rows, np.arange(len(rows) + 1)).tolist()
        hard = []
        for place in np.flatnonzero(left).tolist():
            some, stop = slice(edge_of[place], edge_of[place + 1]), slice(stop_of[place], stop_of[place + 1])
            found = None if self.trims else _tokens_at(rows[place], edges[some], starts[stop])
            if found is None:
                hard.append(place)
                turns[some] = first[place]
            else:
                turns[some] = found[0] + first[place]
                stops[stop] = np.where(found[1] < 0, -1, found[1] + first[place])
        return hard

    def _by_offsets(self, row, place: int, first, marks: Marks, inside: np.ndarray, stops: np.ndarray) -> None:
        """Sets the tokens inside the spans of a row, and those at its stops, from the offsets of all its tokens."""
        offsets = tiled(row.offsets, self.trims)
        inside[first[place] : first[place + 1]] = choose(offsets, marks.edges[marks.edge_rows == place])[0]
        some, solid = np.flatnonzero(marks.stop_rows == place), np.flatnonzero(offsets[:, 1] > offsets[:, 0])
        at = np.append(solid, -1)[np.searchsorted(offsets[solid, 0], marks.stops[some])]
        right = np.append(offsets[:, 0], -1)[at] == marks.stops[some]
        stops[some] = np.where(right, at + first[place], -1)


def by_bounds(bounds: np.ndarray, first: np.ndarray, marks: Marks) -> tuple[np.ndarray, np.ndarray]:
    """The tokens at marks, for tokens without gaps.

    Args:
        bounds (`np.ndarray`): Where each token starts, and the end of the last, in all texts; shape (tokens + 1,).
        first (`np.ndarray`): The first token of each text, and the number of all; shape (texts + 1,).

    Returns:
        `tuple`: The first token of each span and the one behind its last, in turn; the token of each stop, or -1.
    """
    edges = marks.edges + bounds[first[marks.edge_rows]]
    turns = np.empty(len(edges), np.int64)
    turns[::2] = np.searchsorted(bounds, edges[::2])
    turns[1::2] = np.searchsorted(bounds, edges[1::2], side="right") - 1
    at = marks.stops + bounds[first[marks.stop_rows]]
    stops = np.minimum(np.searchsorted(bounds, at), len(bounds) - 1)
    right = (bounds[stops] == at) & (stops < first[marks.stop_rows + 1])
    return turns, np.where(right, stops, -1)


def between(turns: np.ndarray, total: int) -> np.ndarray:
    """Which of `total` tokens are between the first and the second, the third and the fourth, and so on."""
    turns = turns.copy()
    turns[1::2] = np.maximum(turns[::2], turns[1::2])  # a span that is a part of one token holds none
    lengths = np.diff(turns, prepend=0, append=total)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def _tokens_at(row, edges: list[int], stops: list[int]) -> tuple[np.ndarray, np.ndarray] | None:
    """As [`by_bounds`] for one row, from its tokens at these characters; `None` where a character is in no token."""
    turns, count = [], len(row)
    end = row.token_to_chars(count - 1)[1] if count else 0
    for place, edge in enumerate(edges):
        token = count if edge == end and place % 2 else row.char_to_token(edge)
        if token is None:
            return None
        while not place % 2 and token < count and row.token_to_chars(token)[0] < edge:
            token += 1  # a token that straddles the start
        turns.append(token)
    found = []
    for stop in stops:
        token = row.char_to_token(stop)
        if token is None:
            return None
        found.append(token if row.token_to_chars(token)[0] == stop else -1)
    ends = [max(pair) for pair in zip(turns[::2], turns[1::2], strict=True)]
    if any(low < end for low, end in zip(turns[2::2], ends, strict=False)):
        return None  # tokens that are not in the order of the text
    return np.array(turns, np.int64), np.array(found, np.int64)


def letter_sizes(tokenizer) -> np.ndarray | None:
    """Characters of an ASCII text that each id of a byte-level BPE stands for, shape (ids,); `None` of any other."""
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    model, cutters = spec["model"], steps(spec["pre_tokenizer"], "pretokenizers")
    own = ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if model["type"] != "BPE" or any(model.get(name) for name in own):
        return None
    if not cutters or cutters[-1]["type"] != "ByteLevel" or not {step["type"] for step in cutters} <= CUTS:
        return None
    if any(step.get("add_prefix_space") for step in cutters):
        return None
    if not {step["type"] for step in steps(spec["normalizer"], "normalizers")} <= LEVEL:
        return None
    if any(token["lstrip"] or token["rstrip"] or token["single_word"] for token in spec["added_tokens"]):
        return None
    vocabulary = model["vocab"] | {token["content"]: token["id"] for token in spec["added_tokens"]}
    if any(letter not in vocabulary for letter, byte in letters().items() if byte < 128):
        return None  # an unknown character would be a token of another size
    sizes = np.zeros(1 + max(vocabulary.values()), np.int64)
    sizes[list(vocabulary.values())] = list(map(len, vocabulary))
    return sizes


def letters() -> dict[str, int]:
    """The letter that byte-level tokenizers write for each byte: itself if it can be seen, else one from U+0100 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


def steps(step: dict | None, name: str) -> list[dict]:
    """A step of a tokenizer's description, or the steps of a sequence."""
    if step is None:
        return []
    return [part for one in step[name] for part in steps(one, name)] if step["type"] == "Sequence" else [step]
