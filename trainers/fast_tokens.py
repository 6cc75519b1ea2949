"""The way to run a tokenizer that costs the least and is proven to give the same.

A byte-level BPE is also run by tiktoken, several times faster, if it is proven to be the same function:

1. the rules for the cut into words are one of `PATTERNS`, and every code point above ASCII is tried in both before the
   first text that holds it is let through;
2. the later of two merges makes the token with the higher id, of two tokens with lower ids or of single bytes;
3. the tokenizer makes of each token's own bytes that one token. Then, whenever two neighbours form a token, they are
   the two that the merge list has for it (others would have shown in 3), so both choose the same.

Every other tokenizer runs word by word (word_tokens.py) or as it is (rust_tokens.py).
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import unicodedata

import numpy as np

from instruct_builders.errors import TemplateError

from .rust_tokens import Marks, RustTokens, Tokens, between, by_bounds, letters, steps
from .word_tokens import WordTokens, word_tokens

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


class ByteTokens:
    """A byte-level BPE through tiktoken; places are bytes. Proven for texts without added tokens (`excludes`)."""

    in_bytes = True

    def __init__(self, tokenizer, encoding, ranks: dict[bytes, int], special: dict[str, int], form: str | None):
        self.tokenizer, self.encoding, self.form = tokenizer, encoding, form
        self.separator = encoding.encode(SEPARATOR, allowed_special={SEPARATOR})[0]
        self.allowed = {*special, SEPARATOR}
        self.excludes = {*special, *SEPARATOR} - {SEPARATOR}
        self.sizes = np.zeros(self.separator + 1, np.int64)
        for token, number in [*ranks.items(), *((text.encode(), number) for text, number in special.items())]:
            self.sizes[number] = len(token)
        self.tried = np.zeros(0x110000, bool)
        self.other: set[str] = set()  # code points that the two do not treat alike
        self.try_out([chr(code) for code in range(128)])

    def takes(self, texts: list[str]) -> np.ndarray:
        """Which of these texts are proven to give the same ids."""
        met = "".join(itertools.filterfalse(str.isascii, texts))
        if met:
            codes = np.unique(np.frombuffer(met.encode("utf-32-le"), np.uint32))
            self.try_out([chr(code) for code in codes[~self.tried[codes]]])
        return np.fromiter(map(self._takes, texts), bool, len(texts))

    def _takes(self, text: str) -> bool:
        if len(text) > WORD and LONG.search(text):
            return False
        if text.isascii():
            return True
        if self.other and not self.other.isdisjoint(text):
            return False
        return not self.form or unicodedata.is_normalized(self.form, text)

    def try_out(self, characters: list[str]) -> None:
        """Compares both ways for characters not met before, each behind and before any kind of other."""
        if not characters:
            return
        texts = [TRIED.format(character) for character in characters]
        theirs = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        for character, text, ids in zip(characters, texts, theirs["input_ids"], strict=True):
            # Of what came later to Unicode, the normaliser may know more than Python does.
            unknown = self.form and unicodedata.category(character) == "Cn"
            if unknown or self.encoding.encode_ordinary(text) != ids:
                self.other.add(character)
            self.tried[ord(character)] = True

    def encode(self, texts: list[str], marks: Marks) -> Tokens:
        ids = self.encoding.encode_to_numpy(
            SEPARATOR.join(texts), allowed_special=self.allowed, disallowed_special=()
        ).astype(np.int32)
        between_texts = ids == self.separator
        counts = np.diff(np.flatnonzero(between_texts), prepend=-1, append=len(ids)) - 1
        if len(counts) != len(texts):
            raise TemplateError("a text holds the characters U+10FFF0 U+10FFF1, which no text may. Remove the row.")
        ids = ids[~between_texts]
        bounds, first = (np.concatenate([[0], np.cumsum(values)]) for values in (self.sizes[ids], counts))
        turns, stops = by_bounds(bounds, first, marks)
        return Tokens(ids, counts, between(turns, len(ids)), stops)


def fastest(tokenizer) -> ByteTokens | WordTokens | RustTokens:
    """tiktoken where it is installed and proven to give the same; else word by word where that is; else as it is."""
    step = json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"]
    by_words = functools.partial(word_tokens, tokenizer, not _changed(tokenizer), _cuts_at_spaces(step))
    return byte_tokens(tokenizer) or by_words() or RustTokens(tokenizer)


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
    parts = steps(step, "pretokenizers")
    if not parts or parts[-1]["type"] != "ByteLevel" or parts[-1]["add_prefix_space"]:
        return None
    if len(parts) == 1:
        return _GPT2 if parts[0]["use_regex"] else None
    split = parts[0]
    if len(parts) > 2 or split["type"] != "Split" or parts[1]["use_regex"]:
        return None
    pattern = split["pattern"].get("Regex")
    return pattern if pattern in PATTERNS and split["behavior"] == "Isolated" and not split["invert"] else None


def _cuts_at_spaces(step: dict | None) -> bool:
    """Whether a byte-level pre-tokenizer has known rules alone: they cut before a space between visible letters."""
    parts = [part for part in steps(step, "pretokenizers") if part["type"] != "Digits"]
    return bool(parts) and _pattern({"type": "Sequence", "pretokenizers": parts}) is not None


def _ranks(model: dict, added: set[str]) -> dict[bytes, int] | None:
    """Bytes -> id of all tokens that merges can make; `None` unless conditions 2 and 3 are met."""
    from tokenizers import models

    vocabulary, single = model["vocab"], letters()
    ranks = {bytes([byte]): vocabulary.get(letter, -1) for letter, byte in single.items()}
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    known, last = dict.fromkeys(single, -1), -1  # token -> id; a byte's own may be any
    for left, right in merges:
        number = vocabulary.get(left + right, -1)
        if number < last or known.get(left, number) >= number or known.get(right, number) >= number:
            return None
        known[left + right] = last = number
    made = list(itertools.islice(known, len(single), None))
    alone = models.BPE(vocab=vocabulary, merges=merges)
    if min(ranks.values()) < 0 or any(len(alone.tokenize(token)) != 1 for token in made):
        return None
    if model.get("ignore_merges") and vocabulary.keys() - known.keys() - added:
        return None
    byte_of = str.maketrans({letter: chr(byte) for letter, byte in single.items()})
    return ranks | {token.translate(byte_of).encode("latin-1"): known[token] for token in made}
