"""Words and letters that an answer must or must not have. `keywords:*`

Keywords are found anywhere, also inside of longer words, without case; forbidden words only as whole words. In the
published data no keyword is a pattern, and here none is read as one.
"""

from __future__ import annotations

import re

from .lengths import compare


def existence(answer: str, keywords: list[str]) -> bool:
    return all(_times(keyword, answer) for keyword in keywords)


def frequency(answer: str, keyword: str, frequency: int, relation: str) -> bool:
    return compare(_times(keyword, answer), relation, frequency)


def forbidden_words(answer: str, forbidden_words: list[str]) -> bool:
    return not any(
        re.search(rf"\b{re.escape(word)}\b", answer, re.IGNORECASE) for word in map(str.strip, forbidden_words)
    )


def letter_frequency(answer: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return compare(answer.lower().count(letter.lower()), let_relation, let_frequency)


def _times(keyword: str, answer: str) -> int:
    return len(re.findall(re.escape(keyword.strip()), answer, re.IGNORECASE))
