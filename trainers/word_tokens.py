"""Token ids of many texts, each word tokenised once: words come again, and a dictionary is faster than a model.

A text is cut in front of each single space between two visible ASCII characters, and at both ends of each added token.
The tokenizer's own rules cut there too, whatever is on either side, if it is one of those that `word_tokens` takes:

1. added tokens are taken out of a text first, from left to right, of those at one place the longest;
2. a normaliser changes each character by itself, up to accents behind it;
3. the rules for words cut there, or no merge goes over the cut, as word_rules.py proves;
4. what SentencePiece's tokenizers write in front of a text, or of what is behind an added token, they write nowhere
   else; pieces that begin there have a dictionary of their own.

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
from .word_rules import cuts_blanks, cuts_letters, inside

KEPT = 1_000_000  # kinds of pieces; some 200 MB. With more the dictionary starts anew.
VISIBLE = np.zeros(256, bool)
VISIBLE[33:127] = True
MODELS = {"BPE", "Unigram", "WordPiece", "WordLevel"}
RANDOM = ("dropout", "alpha", "nbest_size")  # settings that make a model give other tokens each time
GAP = b"\xff"  # between texts: a byte that UTF-8 has not


class WordTokens:
    """A fast tokenizer, word by word; places are bytes.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): What it stands in for.
        added (`list[str]`): Its added tokens.
        inner (`tokenizers.Tokenizer`): What tokenises pieces that no segment begins with.
        each (`bool`): Whether a segment begins behind each added token too, or where a text does alone.
    """

    in_bytes, excludes = True, frozenset()

    def __init__(self, tokenizer, added: list[str], inner, each: bool):
        self.tokenizer, self.each, self.backends = tokenizer, each, (inner, tokenizer.backend_tokenizer)
        self.added = re.compile(_longest({name.encode() for name in added}) if added else rb"[^\s\S]")
        self.spaced = any(" " in name for name in added)
        self._forget()

    def _forget(self) -> None:
        self.known: tuple[dict[str, int], ...] = ({}, {})  # of pieces that no segment begins with, and of the others
        self.counts = np.zeros(0, np.int64)  # of tokens, per kind of piece
        self.tokens = np.zeros((3, 0), np.int64)  # of all kinds: ids, starts and ends in the piece

    def takes(self, texts: list[str]) -> np.ndarray:
        return np.ones(len(texts), bool)

    def encode(self, texts: list[str], marks: Marks) -> Tokens:
        lines = [text.encode() for text in texts]
        data = GAP.join(lines) + GAP
        begin = np.cumsum([0, *(len(line) + 1 for line in lines)])  # of each text, and behind the last
        starts, ends, opens = self._cut(data, begin)
        kinds = self._kinds(data, starts, ends, opens)
        counts = self.counts[kinds]
        first = np.cumsum(self.counts) - self.counts
        place = np.repeat(first[kinds] - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        ids, low, high = (column[place] for column in self.tokens)
        offsets = np.stack([low, high], 1) + np.repeat(starts, counts)[:, None]
        rows = np.searchsorted(begin, starts, side="right") - 1
        inside_spans, _ = choose(offsets, marks.edges + begin[marks.edge_rows])
        solid = np.flatnonzero(high > low)
        at = marks.stops + begin[marks.stop_rows]
        stops = np.append(solid, -1)[np.searchsorted(offsets[solid, 0], at)]
        stops = np.where(np.append(offsets[:, 0], -1)[stops] == at, stops, -1)
        per_row = np.bincount(rows, counts, len(texts)).astype(np.int64)
        return Tokens(ids.astype(np.int32), per_row, inside_spans, stops)

    def _cut(self, data: bytes, begin: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Starts and ends of the pieces of texts with `GAP` behind each, and whether the tokenizer itself is due."""
        letters = np.frombuffer(data, np.uint8)
        cuts, opens = np.zeros(len(data) + 1, bool), np.zeros(len(data) + 1, bool)
        if len(data) > 2:
            cuts[1 : len(data) - 1] = (letters[1:-1] == 32) & VISIBLE[letters[:-2]] & VISIBLE[letters[2:]]
        spans = np.array([found.span() for found in self.added.finditer(data)], np.int64).reshape(-1, 2)
        if self.spaced:
            for low, high in spans.tolist():
                cuts[low:high] = False
        cuts[spans.ravel()] = cuts[begin] = cuts[begin[1:] - 1] = True
        opens[begin] = opens[spans[:, 0]] = True
        if self.each:
            opens[spans[:, 1]] = True
        cuts = np.flatnonzero(cuts)
        pieces = np.ones(len(cuts) - 1, bool)
        pieces[np.searchsorted(cuts, begin[1:] - 1)] = False  # the gaps
        starts = cuts[:-1][pieces]
        return starts, cuts[1:][pieces], opens[starts]

    def _kinds(self, data: bytes, starts: np.ndarray, ends: np.ndarray, opens: np.ndarray) -> np.ndarray:
        """The number of each piece's kind; kinds that were not met before are tokenised."""
        edges = np.stack([starts, ends], 1).ravel().astype(np.int32)  # every second one is what is between two pieces
        pieces = pa.Array.from_buffers(
            pa.string(), max(len(edges) - 1, 0), [None, pa.py_buffer(edges), pa.py_buffer(data)]
        )
        parts = [np.flatnonzero(opens == part) for part in (False, True)]
        found = [pieces.take(pa.array(2 * part)).dictionary_encode() for part in parts]
        words = [part.dictionary.to_pylist() for part in found]
        if sum(map(len, (*self.known, *words))) > KEPT:
            self._forget()
        kinds = np.empty(len(starts), np.int64)
        for place, (backend, known) in enumerate(zip(self.backends, self.known, strict=True)):
            new = [word for word in words[place] if word not in known]
            if new:
                known |= zip(new, range(len(self.counts), len(self.counts) + len(new)), strict=True)
                self._learn(new, backend)
            numbers = np.fromiter(map(known.__getitem__, words[place]), np.int64, len(words[place]))
            kinds[parts[place]] = numbers[found[place].indices.to_numpy()]
        return kinds

    def _learn(self, words: list[str], backend) -> None:
        self.tokenizer(words[0], add_special_tokens=False, verbose=False)  # sets truncation and padding to none
        rows = backend.encode_batch(words, add_special_tokens=False)
        counts = np.fromiter(map(len, rows), np.int64, len(rows))
        ids = np.fromiter(chain.from_iterable(row.ids for row in rows), np.int64, int(counts.sum()))
        offsets = chain.from_iterable(chain.from_iterable(row.offsets for row in rows))
        offsets = np.fromiter(offsets, np.int64, 2 * len(ids)).reshape(-1, 2)
        first = np.concatenate([[0], np.cumsum(counts)])
        for place in [place for place, word in enumerate(words) if not word.isascii()]:
            own = slice(first[place], first[place + 1])
            offsets[own] = np.cumsum([0, *(len(letter.encode()) for letter in words[place])])[offsets[own]]
        self.counts = np.concatenate([self.counts, counts])
        self.tokens = np.concatenate([self.tokens, [ids, *offsets.T]], 1)


def word_tokens(tokenizer, is_usual: bool, cuts_bytes: bool) -> WordTokens | None:
    """The tokenizer word by word; `None` where it is not known to cut texts as that needs.

    Args:
        is_usual (`bool`): Whether its Python class does no more to a text than its backend does.
        cuts_bytes (`bool`): Whether its rules for words are known ones of a byte-level tokenizer.
    """
    backend = tokenizer.backend_tokenizer
    spec = json.loads(backend.to_str())
    model, added = spec["model"], spec["added_tokens"]
    blanks = not cuts_bytes and cuts_blanks(spec)
    if not is_usual or tokenizer.split_special_tokens or trims_offsets(tokenizer):
        return None
    if not (blanks or cuts_bytes or cuts_letters(spec["pre_tokenizer"])):
        return None
    if model["type"] not in MODELS or any(model.get(name) for name in RANDOM):
        return None
    normal = {step["type"] for step in steps(spec["normalizer"], "normalizers")}
    if not normal <= (LEVEL | {"Prepend", "Replace"} if blanks else LEVEL):
        return None
    if any(token["lstrip"] or token["rstrip"] or token["single_word"] or not token["content"] for token in added):
        return None
    when = {token["normalized"] for token in added}
    names = [token["content"] for token in added]
    if (normal and True in when) or (len(when) > 1 and not _are_apart(names)):
        return None  # those that are looked for in the normalised text are looked for later
    cutters = steps(spec["pre_tokenizer"], "pretokenizers")
    each = "Prepend" in normal or any(step.get("prepend_scheme") == "always" for step in cutters)
    return WordTokens(tokenizer, names, inside(backend, spec) if blanks else backend, each)


def _are_apart(names: list[str]) -> bool:
    """Whether no two of these tokens can overlap in a text."""
    together = "\0".join(names)
    begins = {name[:size] for name in names for size in range(1, len(name))}
    ends = {name[-size:] for name in names for size in range(1, len(name))}
    return begins.isdisjoint(ends) and not any(together.count(name) > 1 for name in names)


def _longest(names: set[bytes]) -> bytes:
    """A pattern for the longest of some names that comes next; each byte is looked at once, however many there are."""
    low, high = min(names), max(names)
    start = low[: next((place for place in range(len(low)) if low[place] != high[place]), len(low))]
    rest: dict[bytes, set[bytes]] = {}
    for name in names - {start}:
        rest.setdefault(name[len(start) : len(start) + 1], set()).add(name[len(start) :])
    if not rest:
        return re.escape(start)
    parts = b"|".join(_longest(rest[letter]) for letter in sorted(rest))
    return re.escape(start) + b"(?:" + parts + b")" + (b"?" if start in names else b"")
