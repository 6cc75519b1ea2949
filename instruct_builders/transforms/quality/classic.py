"""The simple checker: four scores from 0 to 1 by plain rules, in a style that is often published.

Kept for comparison, with its weaknesses, which the preset `default` mends:

- length counts what stands between blanks, so that a Chinese answer has one word;
- format wants a capital letter and a final mark, so that a list, a number or code loses points;
- relevance counts shared words, so that an echo is perfect and "Apple." for "Name a fruit." is nothing; a refusal is
  seen only when it begins with one of two English phrases;
- safety looks for substrings, so that "drugstore", "hackathon" and "an illegal move in chess" are harm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import flat
from ..shingles import hashed_tokens, mixed
from .pairs import column, matches, tokens
from .parameters import Positive

# Words that say nothing about a task's subject.
STOP_WORDS = frozenset(
    "a about after all also am an and any are as at be because been before being both but by can could did do does "
    "doing down each few following for from further given had has have having he her here him his how i if in into is "
    "it its just me more most my no nor not now of off on once only or other our out over own provide same she should "
    "so some such than that the their them then there these they this those through to too under until up use using "
    "very was we were what when where which while who whom whose why will with would write you your".split()
)
UNSAFE = ("kill", "bomb", "hack", "drug", "illegal", "suicide", "weapon", "murder", "terror", "explosive", "steal")
TWO_PREFIXES = r"(?i)\A\s*(?:I['’]?m sorry|As an AI)"


def length(pairs: pa.Table, min_words: Positive = 3, max_words: Positive = 500) -> np.ndarray:
    """1 for an answer of `min_words` to `max_words` words between blanks; n / min below, max / n above."""
    words = pc.count_substring_regex(column(pairs, "answer"), r"\S+").to_numpy(zero_copy_only=False).astype(float)
    return np.minimum(1, np.minimum(words / max(min_words, 1), max_words / np.maximum(words, 1)))


def format(pairs: pa.Table) -> np.ndarray:
    """A quarter each: the instruction begins with a capital letter, it ends with `. ? ! :`, likewise the answer."""
    asked, answers = column(pairs, "instruction"), column(pairs, "answer")
    capital, mark = r"\A\s*\p{Lu}", r"[.?!:]\s*\z"
    parts = [matches(texts, pattern) for texts in (asked, answers) for pattern in (capital, mark)]
    return np.mean(parts, axis=0) if len(pairs) else np.zeros(0)


def relevance(pairs: pa.Table) -> np.ndarray:
    """Share of the instruction's different content words that the answer has; 0 for two English refusals' beginnings.

    An instruction without content words gives 1.
    """
    answers = column(pairs, "answer")
    share, _ = taken_up(column(pairs, "instruction"), tokens(pairs))
    return np.where(matches(answers, TWO_PREFIXES), 0.0, share)


def safety(pairs: pa.Table, substrings: Sequence[str] = UNSAFE) -> np.ndarray:
    """0 where one of the substrings stands in instruction or answer, whatever its case, else 1."""
    unsafe = np.zeros(len(pairs), dtype=bool)
    for name in ("instruction", "answer"):
        for part in substrings:
            unsafe |= flat.booleans(pc.match_substring(column(pairs, name), part, ignore_case=True))
    return 1.0 - unsafe


def taken_up(asked: pa.Array, answers: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Share of each text's different content words that its answer has (1 where there are none), and their number.

    Args:
        asked (`pa.Array`): Texts.
        answers (`tuple[np.ndarray, np.ndarray]`): Their answers' words, as [`pairs.tokens`] gives them.
    """
    hashes, rows = _words(asked)
    content = ~np.isin(hashes, hashed_tokens(pa.array(sorted(STOP_WORDS)))[0])
    wanted, first = np.unique(_keys(hashes[content], rows[content]), return_index=True)
    rows = rows[content][first]
    given = np.sort(
        np.append(_keys(answers[0], flat.row_of_turn(answers[1])), np.uint64(2**64 - 1))
    )  # `np.isin` takes six times as long
    there = given[np.searchsorted(given, wanted)] == wanted
    total, hits = (np.bincount(which, minlength=len(asked)) for which in (rows, rows[there]))
    return np.where(total > 0, hits / np.maximum(total, 1), 1.0), total


def _words(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    hashes, offsets = hashed_tokens(texts)
    return hashes, flat.row_of_turn(offsets)


def _keys(hashes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A number (uint64) for each word in its row: the same word in another row has another one."""
    return mixed(hashes + rows.astype(np.uint64))
