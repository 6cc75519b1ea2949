"""Token ids of many texts, each word tokenised once: words come again, and a dictionary is faster than a model.

A text is cut in front of each single space between two visible ASCII characters, and at both ends of each added token.
The tokenizer's own rules cut there too, whatever is on either side, if it is one of those that `word_tokens` takes:

1. added tokens are taken out of a text first; none can overlap another one, so each occurrence of one is one;
2. a normaliser changes each character by itself, up to accents behind it;
3. the rules for words are Metaspace's, or one of those in fast_tokens.py: none lets a word go on behind a space, and
   none looks behind the character after a space;
4. the model sees one word at a time.

So the tokens of a text are those of its pieces, and so are the offsets. Each kind of piece is tokenised once, by the
tokenizer itself. tables.py compares a sample of rows with what the tokenizer gives for the whole row.
"""

from __future__ import annotations

import json
import re
from itertools import chain

import numpy as np
import pyarrow as pa

from .labels import choose
from .rendering import trims_offsets
from .rust_tokens import LEVEL, Marks, Tokens, steps

KEPT = 1_000_000  # kinds of pieces; some 200 MB. With more the dictionary starts anew.
VISIBLE = np.zeros(256, bool)
VISIBLE[33:127] = True
MODELS = {"BPE", "Unigram", "WordPiece", "WordLevel"}
RANDOM = ("dropout", "alpha", "nbest_size")  # settings that make a model give other tokens each time


class WordTokens:
    """A fast tokenizer, word by word; places are bytes."""

    in_bytes, excludes = True, frozenset()

    def __init__(self, tokenizer, added: list[str]):
        self.tokenizer = tokenizer
        self.added = re.compile("|".join(map(re.escape, added)).encode() or rb"[^\s\S]")
        self._forget()

    def _forget(self) -> None:
        self.known: dict[str, int] = {}
        self.counts = np.zeros(0, np.int64)  # of tokens, per kind of piece
        self.tokens = np.zeros((3, 0), np.int64)  # of all kinds: ids, starts and ends in the piece

    def takes(self, texts: list[str]) -> np.ndarray:
        return np.ones(len(texts), bool)

    def encode(self, texts: list[str], marks: Marks) -> Tokens:
        data = "\n".join(texts).encode()
        sizes = [len(text) if text.isascii() else len(text.encode()) for text in texts]
        begin = np.concatenate([[0], np.cumsum(np.array(sizes) + 1)])  # of each text, and behind the last line's end
        starts, ends = self._cut(data, begin)
        kinds = self._kinds(data, starts, ends)
        counts = self.counts[kinds]
        first = np.cumsum(self.counts) - self.counts
        place = np.repeat(first[kinds] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        ids, low, high = (column[place] for column in self.tokens)
        offsets = np.stack([low, high], 1) + np.repeat(starts, counts)[:, None]
        rows = np.searchsorted(begin, starts, side="right") - 1
        inside, _ = choose(offsets, marks.edges + begin[marks.edge_rows])
        solid = np.flatnonzero(high > low)
        at = marks.stops + begin[marks.stop_rows]
        stops = np.append(solid, -1)[np.searchsorted(offsets[solid, 0], at)]
        stops = np.where(np.append(offsets[:, 0], -1)[stops] == at, stops, -1)
        per_row = np.bincount(rows, counts, len(texts)).astype(np.int64)
        return Tokens(ids.astype(np.int32), per_row, inside, stops)

    def _cut(self, data: bytes, begin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Starts and ends of the pieces of texts with a line's end behind each."""
        letters = np.frombuffer(data, np.uint8)
        cuts = np.zeros(len(data) + 2, bool)
        if len(data) > 2:
            cuts[1 : len(data) - 1] = (letters[1:-1] == 32) & VISIBLE[letters[:-2]] & VISIBLE[letters[2:]]
        cuts[[edge for found in self.added.finditer(data) for edge in found.span()]] = True
        cuts[begin] = cuts[begin[1:] - 1] = True
        cuts = np.flatnonzero(cuts)
        pieces = np.ones(len(cuts) - 1, bool)
        pieces[np.searchsorted(cuts, begin[1:] - 1)] = False  # the lines' ends
        return cuts[:-1][pieces], cuts[1:][pieces]

    def _kinds(self, data: bytes, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """The number of each piece's kind; kinds that were not met before are tokenised."""
        edges = np.stack([starts, ends], 1).ravel().astype(np.int32)  # every second one is what is between two pieces
        pieces = pa.Array.from_buffers(
            pa.string(), max(len(edges) - 1, 0), [None, pa.py_buffer(edges), pa.py_buffer(data)]
        )
        found = pieces.take(pa.array(np.arange(0, len(edges), 2))).dictionary_encode()
        words = found.dictionary.to_pylist()
        if len(self.known) + len(words) > KEPT:
            self._forget()
        new = [word for word in words if word not in self.known]
        if new:
            self._learn(new)
        known = np.fromiter(map(self.known.__getitem__, words), np.int64, len(words))
        return known[found.indices.to_numpy()]

    def _learn(self, words: list[str]) -> None:
        self.tokenizer(words[0], add_special_tokens=False, verbose=False)  # sets truncation and padding to none
        rows = self.tokenizer.backend_tokenizer.encode_batch(words, add_special_tokens=False)
        ids = [row.ids for row in rows]
        counts = np.fromiter(map(len, ids), np.int64, len(ids))
        ids = np.fromiter(chain.from_iterable(ids), np.int64, int(counts.sum()))
        offsets = chain.from_iterable(chain.from_iterable(row.offsets for row in rows))
        offsets = np.fromiter(offsets, np.int64, 2 * len(ids)).reshape(-1, 2)
        first = np.concatenate([[0], np.cumsum(counts)])
        for place in [place for place, word in enumerate(words) if not word.isascii()]:
            own = slice(first[place], first[place + 1])
            offsets[own] = np.cumsum([0, *(len(letter.encode()) for letter in words[place])])[offsets[own]]
        self.known |= zip(words, range(len(self.known), len(self.known) + len(words)), strict=True)
        self.counts = np.concatenate([self.counts, counts])
        self.tokens = np.concatenate([self.tokens, [ids, *offsets.T]], 1)


def word_tokens(tokenizer, is_usual: bool, cuts_bytes: bool) -> WordTokens | None:
    """The tokenizer word by word; `None` where it is not known to cut texts as that needs.

    Args:
        is_usual (`bool`): Whether its Python class does no more to a text than its backend does.
        cuts_bytes (`bool`): Whether its rules for words are known ones of a byte-level tokenizer.
    """
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    step, model, added = spec["pre_tokenizer"] or {}, spec["model"], spec["added_tokens"]
    spaces = step.get("type") == "Metaspace" and step.get("split", True)
    spaces = spaces and step["prepend_scheme"] in ("always", "never") and step["replacement"] == "\u2581"
    if not is_usual or tokenizer.split_special_tokens or trims_offsets(tokenizer) or not (spaces or cuts_bytes):
        return None
    if model["type"] not in MODELS or any(model.get(name) for name in RANDOM):
        return None
    normal = steps(spec["normalizer"], "normalizers")
    if not {one["type"] for one in normal} <= LEVEL:
        return None
    if any(token["lstrip"] or token["rstrip"] or token["single_word"] for token in added):
        return None
    if normal and any(token["normalized"] for token in added):
        return None
    names = [token["content"] for token in added]
    return WordTokens(tokenizer, names) if _are_apart(names) else None


def _are_apart(names: list[str]) -> bool:
    """Whether no two of these tokens can overlap in a text, and none holds a blank."""
    if any(not name or re.search(r"\s", name) for name in names):
        return False
    together = "\0".join(names)
    begins = {name[:size] for name in names for size in range(1, len(name))}
    ends = {name[-size:] for name in names for size in range(1, len(name))}
    return begins.isdisjoint(ends) and not any(together.count(name) > 1 for name in names)
