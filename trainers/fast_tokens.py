"""Token ids of many texts, and where in the texts each token is, at the least cost that is proven to give the same.

A byte-level BPE is also run by tiktoken, several times faster, if it is proven to be the same function:

1. the rules for the cut into words are one of `PATTERNS`, and every code point above ASCII is tried in both before the
   first text that holds it is let through;
2. the later of two merges makes the token with the higher id, of two tokens with lower ids or of single bytes;
3. the tokenizer makes of each token's own bytes that one token. Then, whenever two neighbours form a token, they are
   the two that the merge list has for it (others would have shown in 3), so both choose the same.

Every other tokenizer runs as it is, in one call for all texts.
"""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from typing import NamedTuple

import numpy as np

# How the splits of these tokenizers write the rules that tiktoken's engine and theirs are known to read alike.
_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LATER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {_GPT2, _LATER.format(""), _LATER.format("{1,3}")}
SEPARATOR = "\U0010fff0\U0010fff1"  # between texts; no text that holds it gets here
WORD = 4000  # characters: tiktoken takes time that grows with the square of a word's length
LONG = re.compile(rf"\S{{{WORD}}}|\s{{{WORD}}}")
TRIED = "a{0}a {0} 1{0}1 '{0}s'{0} .{0}.\n{0}\n{0}{0} {0}{0}a  {0}  {0}\t{0}\r\n{0}"


class Tokens(NamedTuple):
    """Tokens of texts put one behind the other.

    Attributes:
        ids (`np.ndarray`): Shape (tokens,), int32.
        counts (`np.ndarray`): Tokens of each text, shape (texts,).
        offsets (`np.ndarray`): Start and end in all texts, shape (tokens, 2): bytes or characters.
    """

    ids: np.ndarray
    counts: np.ndarray
    offsets: np.ndarray


class RustTokens:
    """A fast tokenizer as it is; offsets are characters, with gaps where the tokenizer leaves some."""

    in_bytes = False

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def takes(self, text: str) -> bool:
        return True

    def encode(self, texts: list[str]) -> Tokens:
        self.tokenizer(texts[0], add_special_tokens=False, verbose=False)  # sets truncation and padding to none
        rows = self.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        ids = [row.ids for row in rows]
        counts = np.fromiter(map(len, ids), np.int64, len(rows))
        total = int(counts.sum())
        pairs = itertools.chain.from_iterable(row.offsets for row in rows)
        offsets = np.fromiter(itertools.chain.from_iterable(pairs), np.int64, 2 * total).reshape(-1, 2)
        begin = np.cumsum([0, *map(len, texts[:-1])])
        return Tokens(
            np.fromiter(itertools.chain.from_iterable(ids), np.int32, total),
            counts,
            offsets + np.repeat(begin, counts)[:, None],
        )


class ByteTokens:
    """A byte-level BPE through tiktoken; offsets are bytes."""

    in_bytes = True

    def __init__(self, tokenizer, encoding, ranks: dict[bytes, int], special: dict[str, int], form: str | None):
        self.tokenizer, self.encoding, self.form = tokenizer, encoding, form
        self.separator = encoding.encode(SEPARATOR, allowed_special={SEPARATOR})[0]
        self.allowed = {*special, SEPARATOR}
        self.sizes = np.zeros(self.separator + 1, np.int64)
        for token, number in [*ranks.items(), *((text.encode(), number) for text, number in special.items())]:
            self.sizes[number] = len(token)
        self.tried = np.zeros(0x110000, bool)
        self.other: set[str] = set()  # code points that the two do not treat alike
        self.try_out([chr(code) for code in range(128)])

    def takes(self, text: str) -> bool:
        """Whether this text is proven to give the same ids."""
        if len(text) > WORD and LONG.search(text):
            return False
        if text.isascii():
            return True
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        if not self.tried[codes].all():
            self.try_out([chr(code) for code in np.unique(codes) if not self.tried[code]])
        if self.other and not self.other.isdisjoint(text):
            return False
        return not self.form or unicodedata.is_normalized(self.form, text)

    def try_out(self, characters: list[str]) -> None:
        """Compares both ways for characters not met before, each behind and before any kind of other."""
        texts = [TRIED.format(character) for character in characters]
        theirs = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        for character, text, ids in zip(characters, texts, theirs["input_ids"], strict=True):
            # Of what came later to Unicode, the normaliser may know more than Python does.
            unknown = self.form and unicodedata.category(character) == "Cn"
            if unknown or self.encoding.encode_ordinary(text) != ids:
                self.other.add(character)
            self.tried[ord(character)] = True

    def encode(self, texts: list[str]) -> Tokens:
        ids = self.encoding.encode_to_numpy(
            SEPARATOR.join(texts), allowed_special=self.allowed, disallowed_special=()
        ).astype(np.int32)
        cuts = np.flatnonzero(ids == self.separator)
        counts = np.diff(cuts, prepend=-1, append=len(ids)) - 1
        ids = np.delete(ids, cuts)
        ends = np.cumsum(self.sizes[ids])
        return Tokens(ids, counts, np.stack([ends - self.sizes[ids], ends], 1))


def fastest(tokenizer) -> ByteTokens | RustTokens:
    """tiktoken where it is installed and proven to give the same, else the tokenizer itself."""
    return byte_tokens(tokenizer) or RustTokens(tokenizer)


def byte_tokens(tokenizer) -> ByteTokens | None:
    """The tokenizer through tiktoken; `None` where that is not installed or not proven to be the same."""
    try:
        import tiktoken
    except ImportError:
        return None
    backend = tokenizer.backend_tokenizer
    spec = json.loads(backend.to_str())
    model, pattern = spec["model"], _pattern(spec["pre_tokenizer"])
    normalizer = (spec["normalizer"] or {}).get("type")
    plain = model["type"] == "BPE" and not any(
        model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    )
    if not plain or pattern is None or normalizer not in (None, "NFC", "NFKC") or _changed(tokenizer):
        return None
    added = {token["content"]: token["id"] for token in spec["added_tokens"]}
    if any(token["lstrip"] or token["rstrip"] or token["single_word"] for token in spec["added_tokens"]):
        return None
    together = "\0".join(added)
    if "" in added or any(together.count(token) > 1 for token in added) or tokenizer.split_special_tokens:
        return None  # a special token within another one: which of them is meant, the two may see differently
    ranks = _ranks(model, set(added))
    if ranks is None:
        return None
    special = {**added, SEPARATOR: 1 + max([*ranks.values(), *added.values()])}
    if len({*ranks.values(), *special.values()}) < len(ranks) + len(special):
        return None
    encoding = tiktoken.Encoding("own", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    return ByteTokens(tokenizer, encoding, ranks, special, normalizer)


def _changed(tokenizer) -> bool:
    """Whether this Python class does more to a text than its backend does."""
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    names = ("_encode_plus", "__call__", "encode")
    bases = (PreTrainedTokenizerFast, PreTrainedTokenizerBase)
    return not all(any(getattr(type(tokenizer), name) is getattr(base, name, 0) for base in bases) for name in names)


def _pattern(step: dict | None) -> str | None:
    """The rule that a byte-level pre-tokenizer cuts texts into words by; `None` for any other."""
    steps = step["pretokenizers"] if step and step["type"] == "Sequence" else [step]
    if any(part is None for part in steps) or steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    if len(steps) == 1:
        return _GPT2 if steps[0]["use_regex"] else None
    split = steps[0]
    if len(steps) > 2 or split["type"] != "Split" or steps[1]["use_regex"]:
        return None
    pattern = split["pattern"].get("Regex")
    return pattern if pattern in PATTERNS and split["behavior"] == "Isolated" and not split["invert"] else None


def _ranks(model: dict, added: set[str]) -> dict[bytes, int] | None:
    """Bytes -> id of all tokens that merges can make; `None` unless conditions 2 and 3 are met."""
    from tokenizers import models

    vocabulary = model["vocab"]
    letters = _letters()
    ranks = {bytes([byte]): vocabulary.get(letter, -1) for letter, byte in letters.items()}
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    made, last = {}, -1
    single = set(letters)
    for left, right in merges:
        token = left + right
        number = vocabulary.get(token, -1)
        parts = [vocabulary.get(part, number) for part in (left, right) if part not in single]
        if number < last or any(part >= number for part in parts):
            return None
        if not all(part in single or part in made for part in (left, right)):
            return None
        made[token] = last = number
    alone = models.BPE(vocab=vocabulary, merges=merges)
    if any(len(alone.tokenize(token)) != 1 for token in made) or min(ranks.values()) < 0:
        return None
    if model.get("ignore_merges") and set(vocabulary) - made.keys() - single - added:
        return None
    return ranks | {bytes([letters[letter] for letter in token]): number for token, number in made.items()}


def _letters() -> dict[str, int]:
    """The letter that byte-level tokenizers write for each byte: itself if it can be seen, else one from U+0100 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + place): byte for place, byte in enumerate(hidden)}
