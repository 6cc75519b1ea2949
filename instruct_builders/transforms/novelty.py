"""Is this text new? ROUGE-L against all accepted texts, decided as Self-Instruct does, without O(pool) Python.

A text is refused when its ROUGE-L F with an accepted one is above the threshold. That bounds how long the other text
can be and how many tokens both must share, so only texts with one of the candidate's rarest tokens are looked at, and
rapidfuzz computes the longest common subsequence of the few that are left. Scores and decisions are those of Google's
`rouge_score` (`rougeL`, no stemmer), ties and rounding included.
"""

from __future__ import annotations

import math
import re
import sys
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from ..errors import ConfigError, did_you_mean

NOTHING = (0.0, -1)  # what `nearest` says where no text is above the floor
_SLACK = 1e-9  # bounds are computed in floating point and must not lose a tie; the score itself decides
_OVERLAP = 4  # k below: fewer make longer lists to verify, more read the lists of frequent words
_NO_TEXTS = array("i")
_EMBEDDED = 1024  # texts at a time
_SURROGATES = (0xD800, 0x800)  # first, and how many: code points that no text can hold
# Scripts written without spaces between words: every character is a token, by the Unicode name's first words.
_UNSPACED = ("CJK ", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "BOPOMOFO", "YI ", "NUSHU")


def rouge_tokens(text: str) -> list[str]:
    """The tokens that `rouge_score` sees: runs of a to z and 0 to 9 of the text in lower case, and nothing else.

    Of a text in another script nothing is left, so two of them are never alike: see [`unicode_tokens`].
    """
    return re.findall("[a-z0-9]+", text.lower())


def unicode_tokens(text: str) -> list[str]:
    """Tokens in any script: words where they are divided by spaces, characters where they are not.

    Case, width and compatibility forms count as one. A text without any letter or digit, such as emoji, is taken
    character by character.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    tokens, start = [], None
    for position, character in enumerate(folded):
        kind = kind_of(character)
        if kind != "word" and start is not None:
            tokens.append(folded[start:position])
            start = None
        if kind == "word" and start is None:
            start = position
        elif kind == "alone":
            tokens.append(character)
    if start is not None:
        tokens.append(folded[start:])
    return tokens or [character for character in folded if not character.isspace()]


@lru_cache(maxsize=65536)
def kind_of(character: str) -> str:
    """`word`: part of a run; `alone`: a token of its own; `none`: between tokens. A mark belongs to its letter."""
    if unicodedata.category(character)[0] not in "LMN":
        return "none"
    return "alone" if unicodedata.name(character, "").startswith(_UNSPACED) else "word"


TOKENIZERS: dict[str, Callable[[str], list[str]]] = {"rouge": rouge_tokens, "unicode": unicode_tokens}


class NoveltyIndex:
    """The accepted texts, and the most similar of them to a new one.

    Adding costs O(tokens); asking costs a few of the texts that share a rare token with the candidate.

    Args:
        threshold (`float`, *optional*, defaults to 0.7): ROUGE-L F above which a text is not new. 0.7 itself is.
        tokenizer (`str`, *optional*, defaults to `"rouge"`): `"rouge"`, as published, which sees only a to z and 0 to
            9; or `"unicode"`, for every script.

    Example:

    ```python
    >>> from instruct_builders.transforms.novelty import NoveltyIndex
    >>> index = NoveltyIndex(threshold=0.7)
    >>> index.add("Name three primary colors.")
    0
    >>> index.nearest("Name the three primary colors!")
    (0.888888888888889, 0)
    >>> index.nearest("Write a poem.")
    (0.0, -1)
    ```
    """

    def __init__(self, threshold: float = 0.7, tokenizer: str = "rouge"):
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold={threshold}: a ROUGE-L F between 0 and 1 is allowed.")
        if tokenizer not in TOKENIZERS:
            hint = did_you_mean(str(tokenizer), TOKENIZERS)
            raise ConfigError(f"tokenizer={tokenizer!r}: there are {', '.join(TOKENIZERS)}.{hint}")
        self.threshold = threshold
        self._tokens_of = TOKENIZERS[tokenizer]
        self._codes: dict[
            str, str
        ] = {}  # token -> one character, so that a text is a string that rapidfuzz reads fast
        self._postings: defaultdict[str, array] = defaultdict(lambda: array("i"))  # code -> texts that hold it
        self._texts: list[str] = []  # coded
        self._lengths = array("i")

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str) -> int:
        """Accepts a text, whatever it is like. Returns its position: how many were accepted before it."""
        coded = "".join([self._codes.get(token) or self._new_code(token) for token in self._tokens_of(text)])
        position = len(self._texts)
        self._texts.append(coded)
        self._lengths.append(len(coded))
        for code in set(coded):
            self._postings[code].append(position)
        return position

    def extend(self, texts: Iterable[str]) -> None:
        """Accepts several texts, in order."""
        for text in texts:
            self.add(text)

    def nearest(self, text: str, floor: float | None = None) -> tuple[float, int]:
        """The accepted text that is most like this one, if any is too much like it.

        Args:
            text (`str`): The candidate.
            floor (`float`, *optional*, defaults to the threshold): Only scores above it are found. 0 finds the
                nearest text however far it is, which is slower.

        Returns:
            `tuple[float, int]`: ROUGE-L F and position of the first text with the highest score above the floor;
            `(0.0, -1)` where there is none.
        """
        floor = self.threshold if floor is None else floor
        coded = "".join([self._codes.get(token, "\0") for token in self._tokens_of(text)])  # "\0": in no text
        candidates, shared = self._candidates(coded, floor)
        if not len(candidates):
            return NOTHING
        texts = [self._texts[position] for position in candidates]
        lcs = cdist([coded], texts, scorer=LCSseq.similarity, score_cutoff=shared, dtype=np.int32)[0]
        # In the order of operations of rouge_score: at a tie the last bit decides.
        precision, recall = lcs / np.frombuffer(self._lengths, np.int32)[candidates], lcs / len(coded)
        scores = np.divide(
            2 * precision * recall, precision + recall, out=np.zeros(len(lcs)), where=precision + recall > 0
        )
        best = int(scores.argmax())
        return (float(scores[best]), int(candidates[best])) if scores[best] > floor else NOTHING

    def _candidates(self, coded: str, floor: float) -> tuple[np.ndarray, int]:
        """Positions, in order, of all texts that can score above the floor, and the least LCS that takes.

        F = 2 LCS / (m + n) > t needs LCS > t (m + n) / 2, and LCS is at most m and n. So n lies between t m / (2 - t)
        and (2 - t) m / t, and both texts share at least `shared` tokens: k of them are among any m - shared + k.
        """
        m = len(coded)
        if not m or not self._texts:
            return np.empty(0, np.int64), 0
        shortest = max(1, math.ceil(floor * m / (2 - floor) - _SLACK))
        longest = math.floor((2 - floor) * m / floor + _SLACK) if floor else np.iinfo(np.int32).max
        shared = max(1, math.ceil(floor * (m + shortest) / 2 - _SLACK))
        if shared > m:
            return np.empty(0, np.int64), 0
        lists = {code: self._postings.get(code, _NO_TEXTS) for code in set(coded)}
        rarest = sorted(coded, key=lambda code: len(lists[code]))
        overlap = min(_OVERLAP, shared)
        counts = np.zeros(len(self._texts), np.int32)
        for code, times in Counter(rarest[: m - shared + overlap]).items():
            if lists[code]:
                counts[np.frombuffer(lists[code], np.int32)] += times  # at least as often as the text really shares it
        found = np.flatnonzero(counts >= overlap)
        lengths = np.frombuffer(self._lengths, np.int32)[found]
        return found[(lengths >= shortest) & (lengths <= longest)], shared

    def _new_code(self, token: str) -> str:
        number = len(self._codes) + 1  # 0 is for tokens of a candidate that no text has
        number += _SURROGATES[1] if number >= _SURROGATES[0] else 0
        if number > sys.maxunicode:
            raise ConfigError(
                f"more than {len(self._codes):,} different tokens: divide the texts over several indexes."
            )
        self._codes[token] = chr(number)
        return self._codes[token]


class EmbeddingNoveltyIndex:
    """The same two methods on embeddings: a text is not new where a cosine similarity is above the threshold.

    Args:
        embed (`Callable`): List of texts -> float array of shape (texts, dimensions), such as the `encode` of a
            `sentence_transformers.SentenceTransformer`.
        threshold (`float`, *optional*, defaults to 0.9): Cosine similarity above which a text is not new.
    """

    def __init__(self, embed: Callable[[list[str]], np.ndarray], threshold: float = 0.9):
        if not -1 <= threshold <= 1:
            raise ConfigError(f"threshold={threshold}: a cosine similarity between -1 and 1 is allowed.")
        self.threshold, self._embed, self._size = threshold, embed, 0
        self._vectors = np.empty((0, 0), np.float32)
        self._last: tuple[str, np.ndarray] | None = None  # asked about, then as a rule added: embedded once

    def __len__(self) -> int:
        return self._size

    def add(self, text: str) -> int:
        """Accepts a text, whatever it is like. Returns its position: how many were accepted before it."""
        self._append(self._vector(text))
        return self._size - 1

    def extend(self, texts: Iterable[str]) -> None:
        """Accepts several texts, in order, embedded many at a time."""
        texts = list(texts)
        for start in range(0, len(texts), _EMBEDDED):
            for vector in self._embedded(texts[start : start + _EMBEDDED]):
                self._append(vector)

    def _append(self, vector: np.ndarray) -> None:
        if self._size == len(self._vectors):  # doubled, so that adding is O(1) in the mean
            grown = np.empty((max(64, 2 * self._size), len(vector)), np.float32)
            grown[: self._size] = self._vectors[: self._size] if self._size else 0
            self._vectors = grown
        self._vectors[self._size] = vector
        self._size += 1

    def nearest(self, text: str, floor: float | None = None) -> tuple[float, int]:
        """As [`NoveltyIndex.nearest`], with the cosine similarity as the score."""
        floor = self.threshold if floor is None else floor
        if not self._size:
            return NOTHING
        scores = self._vectors[: self._size] @ self._vector(text)
        best = int(scores.argmax())
        return (float(scores[best]), best) if scores[best] > floor else NOTHING

    def _vector(self, text: str) -> np.ndarray:
        if self._last is None or self._last[0] != text:
            self._last = text, self._embedded([text])[0]
        return self._last[1]

    def _embedded(self, texts: list[str]) -> np.ndarray:
        """Vectors of length 1."""
        rows = np.asarray(self._embed(texts), np.float32)
        if rows.ndim != 2 or len(rows) != len(texts) or not np.isfinite(rows).all() or not rows.any(1).all():
            raise ConfigError(
                f"embed gave an array of shape {rows.shape} for {len(texts)} texts: one finite, non-zero row for each "
                "is needed."
            )
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)
