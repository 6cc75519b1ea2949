"""A proxy for how hard a task is, from its text alone."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .pairs import column, prompt, units

UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
CONSTRAINTS = (
    r"(?i)\b(?:must|should|at least|at most|exactly|no more than|no less than|without|only|ensure|make sure|except|"
    r"include|including|excluding|using|between|avoid|limit(?:ed)?|each|both|step[- ]by[- ]step|in \d+ words|"
    r"format(?:ted)?|as (?:a )?(?:json|table|list|bullet))\b|\d+|必须|至少|不超过|不要|只能|确保|包括|muss"
    r"|mindestens|höchstens"
    r"|debe|al menos|doit|au moins|должен|не менее"
)
REASONING = (
    r"(?i)\b(?:why|how|prove|derive|explain|analy[sz]e|compare|contrast|evaluate|justify|design|optimi[sz]e|debug|"
    r"implement|solve|calculate|compute|deduce|infer|critique|argue|estimate)\b|为什么|如何|证明|推导|分析|比较|评估|设计"
    r"|计算|解释|warum|wie|por qué|cómo|pourquoi|comment|почему|как|докажи"
)


def difficulty(pairs: pa.Table) -> np.ndarray:
    """How demanding a task looks, from 0 to 1: the mean of four parts, each of which saturates.

    - words of prompt: log2(1 + n) / 8, full at 255;
    - constraints: numbers and words such as "at least", "without", "exactly"; full at 5;
    - reasoning: words such as "why", "prove", "compare"; full at 2;
    - words of the answer: log2(1 + n) / 9, full at 511.

    Instruction-following difficulty proper compares a model's loss on the answer with and without the question, and
    needs that model; this needs none, and only orders rows roughly. Characters of scripts without spaces count 0.6.
    """
    asked, answers = prompt(pairs), column(pairs, "answer")
    parts = [
        np.log2(1 + _words(asked)) / 8,
        _count(asked, CONSTRAINTS) / 5,
        _count(asked, REASONING) / 2,
        np.log2(1 + _words(answers)) / 9,
    ]
    return np.mean(np.minimum(parts, 1), axis=0) if len(pairs) else np.zeros(0)


def _words(texts: pa.Array) -> np.ndarray:
    return units(texts) - 0.4 * _count(texts, UNSPACED)  # a Chinese word has 1.6 characters on average


def _count(texts: pa.Array, pattern: str) -> np.ndarray:
    return pc.count_substring_regex(texts, pattern).to_numpy(zero_copy_only=False).astype(float)
