"""Texts -> hashes of their tokens and of runs of n tokens, for whole Arrow arrays, in any script.

The tokens are those of [`novelty.unicode_tokens`]: words where they are divided by spaces, single characters where
they are not, case and compatibility forms folded, punctuation left out. A token's hash is a polynomial over its
characters modulo 2**64, and so is that of a run of tokens over its tokens; with numpy alone both are read from one
running sum over all texts. Every character is known by the hash of its folded form, so hashes are the same on every
machine and with every numpy, with numba and without.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from functools import cache
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ConfigError, did_you_mean
from .flat import booleans, edit, offsets_of
from .novelty import kind_of

TOKENIZERS = {
    "unicode": "words; characters in scripts without spaces",
    "characters": "letters and digits one by one, in every script",
}
APART, WORD, ALONE, SYMBOL, UNKNOWN = 0, 1, 2, 3, 255  # what a character is: SYMBOL is neither space nor letter
KINDS = {"word": WORD, "alone": ALONE, "none": APART}
CODE_POINTS = 0x110000
UNSPACED_FROM = 0x0E00  # no script before Thai is written without spaces
BLOCK = 1 << 17  # characters hashed at a time, unless one text is longer: the sums stay in the processor's cache

# Odd numbers that are 5 modulo 8: their powers repeat only after 2**62.
OF_CHARACTERS, OF_TOKENS = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95


@cache
def loops() -> ModuleType | None:
    """The module [`compiled`], or `None` where numba is not installed (extra `dedup`)."""
    if importlib.util.find_spec("numba") is None:
        return None
    from . import compiled

    return compiled


def check_tokenizer(name: str, step: str) -> None:
    if name not in TOKENIZERS:
        known = "; ".join(f"{key!r}: {value}" for key, value in TOKENIZERS.items())
        raise ConfigError(f"{step}: tokenizer={name!r} is not known; {known}.{did_you_mean(str(name), TOKENIZERS)}")


def hashed_tokens(texts: pa.Array, tokenizer: str = "unicode") -> tuple[np.ndarray, np.ndarray]:
    """The tokens of each text, in order.

    Args:
        texts (`pa.Array`): Strings; null counts as empty.
        tokenizer (`str`, *optional*, defaults to `"unicode"`): A key of [`TOKENIZERS`].

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Hashes (uint64) of all tokens, and offsets (int64, texts + 1) of each text's.
    """
    parts, lengths = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    size = 16 * BLOCK if loops() else BLOCK  # compiled loops make no sums
    for block in _blocks(pc.fill_null(texts, "").cast(pa.large_string()), size):
        hashes, offsets = _tokens_of(*_code_points(block), tokenizer)
        parts.append(hashes)
        lengths.append(np.diff(offsets))
    return np.concatenate(parts), offsets_of(np.concatenate(lengths))


def runs(tokens: np.ndarray, offsets: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all runs of n tokens that lie in one text; of a shorter text, of all its tokens.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Hashes (uint64), and the text (int64) of each, in order of place.
    """
    lengths = np.diff(offsets)
    counts = np.where(lengths < n, np.minimum(lengths, 1), lengths - n + 1)
    if loops():
        hashes, text_of = np.empty(counts.sum(), np.uint64), np.empty(counts.sum(), np.int64)
        loops().runs(tokens, offsets, powers_of(OF_TOKENS, n)[0], n, hashes, text_of)
        return hashes, text_of
    text_of = np.repeat(np.arange(len(lengths)), counts)
    starts = np.arange(len(text_of)) - np.repeat(offsets_of(counts)[:-1], counts) + offsets[text_of]
    ends = np.minimum(starts + n, offsets[text_of + 1])
    hashes = _polynomials(tokens, starts, ends, OF_TOKENS)
    hashes += (ends - starts).astype(np.uint64)  # a whole text of two tokens is no run of three
    return mixed(hashes), text_of


def mixed(values: np.ndarray) -> np.ndarray:
    """Every bit of a uint64 spread over all of them, in place: the finaliser of SplitMix64."""
    shifted = values >> np.uint64(30)
    values ^= shifted
    values *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(values, np.uint64(27), out=shifted)
    values ^= shifted
    values *= np.uint64(0x94D049BB133111EB)
    np.right_shift(values, np.uint64(31), out=shifted)
    values ^= shifted
    return values


def _blocks(texts: pa.Array, size: int) -> list[pa.Array]:
    ends = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    blocks, start = [], 0
    while start < len(texts):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + size, side="right")) - 1)
        blocks.append(texts.slice(start, stop - start))
        start = stop
    return blocks


def _code_points(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Characters of all texts, compatibility forms folded (NFKC), and their offsets."""
    ascii_only = pc.string_is_ascii(texts)
    if not pc.all(ascii_only).as_py():
        wide = pc.invert(ascii_only)
        texts = pc.replace_with_mask(texts, wide, pc.utf8_normalize(texts.filter(wide), form="NFKC"))
        longer = booleans(pc.match_substring_regex(texts, _folded_to_several()))
        texts = edit(texts, longer, str.casefold)
    ends = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = memoryview(texts.buffers()[2] or b"")[ends[0] : ends[-1]]
    if pc.all(ascii_only).as_py():
        return np.frombuffer(data, np.uint8), ends - ends[0]
    wide_data = str(data, "utf-8").encode("utf-32-le")
    return np.frombuffer(wide_data, np.uint32), offsets_of(pc.utf8_length(texts).to_numpy())


def _tokens_of(characters: np.ndarray, bounds: np.ndarray, tokenizer: str) -> tuple[np.ndarray, np.ndarray]:
    kinds, values, in_words = _learnt(characters)
    if loops():
        hashes, counts = np.empty(len(characters) + 1, np.uint64), np.empty(len(bounds) - 1, np.int64)
        word = UNKNOWN if tokenizer == "characters" else WORD
        powers = powers_of(OF_CHARACTERS, int(np.diff(bounds).max(initial=0)))[0]
        total = loops().tokens(characters, bounds, kinds, values, in_words, powers, word, hashes, counts)
        return hashes[:total], offsets_of(counts)
    kind = kinds.take(characters)
    if tokenizer == "characters":
        kind[kind == WORD] = ALONE
    starts, ends = _spans(kind, bounds)
    offsets = np.searchsorted(starts, bounds)
    empty = np.diff(offsets) == 0
    if empty.any():  # a text without any letter or digit, such as emoji: its symbols are its tokens
        symbols = np.repeat(empty, np.diff(bounds)) & (kind == SYMBOL)
        if symbols.any():
            kind[symbols] = ALONE
            starts, ends = _spans(kind, bounds)
            offsets = np.searchsorted(starts, bounds)
    return mixed(_polynomials(values.take(characters), starts, ends, OF_CHARACTERS)), offsets


def _spans(kind: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First place of each token and the place after its last; a token never goes on in the next text."""
    word = kind == WORD
    start, end = word.copy(), word.copy()
    start[1:] &= ~word[:-1]
    end[:-1] &= ~word[1:]
    firsts, lasts = bounds[:-1][bounds[:-1] < len(kind)], bounds[1:][bounds[1:] > 0] - 1
    start[firsts], end[lasts] = word[firsts], word[lasts]
    alone = kind == ALONE
    return np.flatnonzero(start | alone), np.flatnonzero(end | alone) + 1


def _polynomials(values: np.ndarray, starts: np.ndarray, ends: np.ndarray, base: int) -> np.ndarray:
    """Sum of values[start + i] * base**i over each span, modulo 2**64."""
    powers, inverses = powers_of(base, len(values))
    running = np.empty(len(values) + 1, np.uint64)
    running[0] = 0
    np.cumsum(values * powers[: len(values)], out=running[1:])
    sums = running.take(ends)
    sums -= running.take(starts)
    sums *= inverses.take(starts)
    return sums


_tables: dict[int, tuple[np.ndarray, np.ndarray]] = {}


def powers_of(base: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """base**i and base**-i modulo 2**64 for i up to at least `size`; kept, since every block asks for the same."""
    if base not in _tables or len(_tables[base][0]) <= size:
        room = max(BLOCK, 1 << size.bit_length())
        pair = []
        for factor in (base, pow(base, -1, 1 << 64)):
            powers = np.full(room + 1, factor, np.uint64)
            powers[0] = 1
            pair.append(np.multiply.accumulate(powers))
        if room > 64 * BLOCK:  # for one enormous text only
            return pair[0], pair[1]
        _tables[base] = (pair[0], pair[1])
    return _tables[base]


def _learnt(characters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kind and hash of every code point, and the hash again but 0 where it is not of a word; those not met before are
    looked up first."""
    kinds, values, in_words = _characters()
    if characters.dtype != np.uint8:
        for code in np.unique(characters[kinds.take(characters) == UNKNOWN]).tolist():
            _learn(kinds, values, in_words, code)
    return kinds, values, in_words


@cache
def _folded_to_several() -> str:
    """Characters such as ß, which case folding makes two of: what can't be told character by character."""
    return f"[{''.join(chr(code) for code in range(sys.maxunicode) if len(chr(code).casefold()) > 1)}]"


@cache
def _characters() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kinds, values = np.full(CODE_POINTS, UNKNOWN, np.uint8), np.zeros(CODE_POINTS, np.uint64)
    in_words = np.zeros(CODE_POINTS, np.uint64)
    for code in range(128):
        _learn(kinds, values, in_words, code)
    return kinds, values, in_words


def _learn(kinds: np.ndarray, values: np.ndarray, in_words: np.ndarray, code: int) -> None:
    folded = chr(code).casefold()
    kinds[code] = KINDS[kind_of(folded[0])]
    if kinds[code] == APART and not folded.isspace():
        kinds[code] = SYMBOL
    values[code] = int.from_bytes(hashlib.blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=8).digest())
    in_words[code] = values[code] if kinds[code] == WORD else 0
