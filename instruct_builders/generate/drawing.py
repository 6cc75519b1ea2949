"""Demonstrations drawn so that a text more or less changes only the questions that it is drawn for.

Each question ranks all texts by a hash of its own and takes the first: a uniform draw without replacement, in which no
text's rank depends on what else is there, or on where it stands. Drawing by position would give almost every question
other demonstrations, and have it asked and paid for anew, when one seed is added.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable

import numpy as np


def number_of(*parts: object) -> int:
    """64 bits that follow from the parts alone, on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode("utf-8", "replace"), digest_size=8).digest(), "big")


class Urn:
    """Texts to draw from, in the order in which they came.

    Args:
        texts (`Iterable[str]`, *optional*): The first ones. No text should be there twice.
    """

    def __init__(self, texts: Iterable[str] = ()):
        self.texts: list[str] = []
        self._keys = array("Q")
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, text: str) -> None:
        self.texts.append(text)
        self._keys.append(number_of(text))

    def draw(self, count: int, *question: object, among: int | None = None) -> list[int]:
        """Places of `count` texts (or of all, where there are fewer), in random order.

        Args:
            count (`int`): How many.
            question: What the draw is for, such as the run's seed and the question's number.
            among (`int`, *optional*): Only the first so many texts are there to be drawn.
        """
        # uint64 wraps, which is meant: the finalizer of splitmix64 (Steele, Lea and Flood, 2014), a bijection.
        ranks = np.frombuffer(self._keys, dtype=np.uint64)[:among] ^ np.uint64(number_of(*question))
        ranks = (ranks ^ (ranks >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        ranks = (ranks ^ (ranks >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        ranks ^= ranks >> np.uint64(31)
        count = min(count, len(ranks))
        first = np.argpartition(ranks, count - 1)[:count] if 0 < count < len(ranks) else np.arange(len(ranks))[:count]
        return first[np.argsort(ranks[first], kind="stable")].tolist()


def shuffled(texts: Iterable[str], *question: object) -> list[str]:
    """The texts in an order of the question's own; again, no two texts change places because of a third."""
    return sorted(texts, key=lambda text: (number_of(*question, text), text))
