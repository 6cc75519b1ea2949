"""Capital and small letters. `change_case:*`

A word is a run of letters and digits with hyphens, apostrophes and full stops inside of it. nltk, which the published
code uses, cuts `DON'T` in two; here it is one word.
"""

from __future__ import annotations

import re

from . import languages
from .lengths import compare

WORD = re.compile(r"[^\W_]+(?:[-'’.&/][^\W_]+)*")


def capital_word_frequency(answer: str, capital_frequency: int, capital_relation: str) -> bool:
    capital = sum(1 for word in WORD.findall(answer) if word.isupper())
    return compare(capital, capital_relation, capital_frequency)


def english_capital(answer: str) -> bool | None:
    return answer.isupper() and languages.response_language(answer, "en")


def english_lowercase(answer: str) -> bool | None:
    return answer.islower() and languages.response_language(answer, "en")
