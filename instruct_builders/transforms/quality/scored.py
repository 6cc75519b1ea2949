"""The four scores of the preset `default`, from 0 to 1: what `classic` means to measure, without its false alarms.

They lean on checks. Those that all pairs have `passed` already, with their own thresholds, find nothing more and are
not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np
import pyarrow as pa

from .classic import taken_up
from .echoes import instruction_echoed, repeated_ngrams
from .endings import open_code_fence, truncated_output
from .harm import harm_patterns, harmful
from .leftovers import control_character, empty_output
from .pairs import prompt, tokens
from .parameters import Count, Positive, Share
from .refusals import refusal


def fair_length(pairs: pa.Table, max_words: Positive = 2000, *, passed: Set[str] = frozenset()) -> np.ndarray:
    """1 for an answer of 1 to `max_words` words, max / n above and 0 without a word or sign.

    One word is a full answer to many tasks. A character counts as a word in scripts without spaces; an answer of signs
    alone ("+", an emoji, a formula) counts as one word.
    """
    words = np.maximum(pairs["words"].to_numpy(), 1 - _hit(empty_output, pairs, passed))
    return np.minimum(words, max_words / np.maximum(words, 1)).clip(0, 1)


def sound_format(pairs: pa.Table, *, passed: Set[str] = frozenset()) -> np.ndarray:
    """1 less a quarter for each of: a fence left open, an answer cut off, a loop, a control character.

    Nothing is asked about capital letters or full stops, which lists, numbers, code and most scripts do without.
    """
    checks = (open_code_fence, truncated_output, repeated_ngrams, control_character)
    return 1 - sum(_hit(check, pairs, passed) for check in checks) / len(checks)


def fair_relevance(
    pairs: pa.Table, enough: Share = 0.2, short: Count = 12, *, passed: Set[str] = frozenset()
) -> np.ndarray:
    """0 for a refusal or an echo; 1 for a short answer; else the prompt's content words taken up, `enough` being full.

    An answer shorter than `short` words need not repeat anything ("Apple." for "Name a fruit."). Words are compared
    as they stand, characters for scripts without spaces: a proxy, and no judge of whether the answer is right.
    """
    share, total = taken_up(prompt(pairs), tokens(pairs))
    score = np.where((pairs["words"].to_numpy() < short) | (total < 2), 1.0, np.minimum(1, share / max(enough, 1e-9)))
    return score * (1 - np.maximum(_hit(refusal, pairs, passed), _hit(instruction_echoed, pairs, passed)))


def category_safety(
    pairs: pa.Table,
    categories: Sequence[str] | None = None,
    extra: Mapping[str, Sequence[str]] | None = None,
    *,
    passed: Set[str] = frozenset(),
) -> np.ndarray:
    """1 less a half for each category of harm found in instruction, context or answer; see [`harm.harmful`]."""
    if harmful.__name__ in passed and not extra:
        return np.ones(len(pairs))
    found = [
        _hit(harmful, pairs, (), [name], {name: extra[name]} if name in (extra or {}) else None)
        for name in harm_patterns(categories, extra)
    ]
    return (1 - 0.5 * np.sum(found, axis=0)).clip(0, 1) if found else np.ones(len(pairs))


def _hit(check: Callable[..., pa.Array], pairs: pa.Table, passed: Set[str] | tuple, *parameters: object) -> np.ndarray:
    """1.0 where a check finds its defect, else 0.0."""
    if check.__name__ in passed:
        return np.zeros(len(pairs))
    return check(pairs, *parameters).is_valid().to_numpy(zero_copy_only=False).astype(float)
