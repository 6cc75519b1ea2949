"""Words and letters that an answer must or must not have. `keywords:*`

Keywords are found anywhere, also inside of longer words, without case; forbidden words only as whole words, and
anywhere in Chinese and Japanese, which have no spaces (the published pattern finds none there). In the
published data no keyword is a pattern, and here none is read as one.
"""

from __future__ import annotations

import re

from .lengths import ONE_BY_ONE, compare

SPELLED = rf"[^\W{ONE_BY_ONE}]"  # of a word that has spaces or signs around it, which Chinese and Japanese have not


def existence(answer: str, keywords: list[str]) -> bool:
    return all(_times(keyword, answer) for keyword in keywords)


def frequency(answer: str, keyword: str, frequency: int, relation: str) -> bool:
    return compare(_times(keyword, answer), relation, frequency)


def forbidden_words(answer: str, forbidden_words: list[str]) -> bool:
    return not any(re.search(_whole(word.strip()), answer, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(answer: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return compare(answer.lower().count(letter.lower()), let_relation, let_frequency)


def _times(keyword: str, answer: str) -> int:
    return len(re.findall(re.escape(keyword.strip()), answer, re.IGNORECASE))


def _whole(word: str) -> str:
    """The pattern of a word that is no part of a longer one; a side of it that is no letter, as in C++, ends there."""
    before = rf"(?<!{SPELLED})" if re.match(SPELLED, word[0]) else ""
    after = rf"(?!{SPELLED})" if re.match(SPELLED, word[-1]) else ""
    return f"{before}{re.escape(word)}{after}"
