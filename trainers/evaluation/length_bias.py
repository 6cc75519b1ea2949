"""Does the longer answer win? What a judge's scores and choices have to do with length, and a win rate without it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from . import results

RIDGE = 0.01  # pulls both coefficients to 0: finite also where one side wins always
ONE_SIDED = 0.05  # share of pairs that must be no longer, and no shorter: nothing tells length from worth without
_STEPS = 40
_LONGEST_STEP = 2.0  # in logits: Newton's method overshoots where all outcomes are the same


def correlation(scores: Sequence[float], lengths: Sequence[int]) -> float | None:
    """Spearman's rank correlation of score and length; `None` where one of them is always the same."""
    ranks = [_ranks(np.asarray(values, float)) for values in (scores, lengths)]
    if len(scores) < 3 or any(np.ptp(values) == 0 for values in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, those of equal values their mean."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[place]


def by_length(
    outcomes: Sequence[float], differences: Sequence[int], groups: Sequence[Hashable], seed: int = 0
) -> dict[str, dict]:
    """Win rates apart for the pairs in which the candidate's answer is the longer and the shorter one.

    Args:
        outcomes (`Sequence[float]`): 1 won, 0.5 tie, 0 lost, per pair.
        differences (`Sequence[int]`): Characters of the candidate's answer less those of the other.
        groups (`Sequence`): The question of each pair, for the intervals.
        seed (`int`, *optional*, defaults to 0): Of the intervals.

    Returns:
        `dict[str, dict]`: Metrics `win_rate_when_longer`, `win_rate_when_shorter`, and `longer_wins`: of the pairs
            that somebody won and whose lengths differ, the share that the longer answer won. Without those that no
            pair speaks of.
    """
    rows = list(zip(outcomes, differences, groups, strict=True))
    longer_won = [
        (float((outcome > 0.5) == (gap > 0)), group) for outcome, gap, group in rows if outcome != 0.5 and gap
    ]
    parts = {
        "win_rate_when_longer": [(outcome, group) for outcome, gap, group in rows if gap > 0],
        "win_rate_when_shorter": [(outcome, group) for outcome, gap, group in rows if gap < 0],
        "longer_wins": longer_won,
    }
    return {
        name: results.metric([value for value, _ in part], seed=seed, groups=[group for _, group in part])
        for name, part in parts.items()
        if part
    }


def controlled_win_rate(
    outcomes: Sequence[float], differences: Sequence[int], groups: Sequence[Hashable], seed: int = 0
) -> dict | None:
    """The win rate that would be expected of answers that are as long as the other's.

    A logistic regression, after the idea of length-controlled AlpacaEval (https://huggingface.co/papers/2404.04475):

        logit P(win) = a + b * tanh(d / s)

    with d the difference in characters and s its standard deviation over all pairs; a tie counts as half a win. The
    controlled win rate is 1 / (1 + exp(-a)), what the model predicts at d = 0. AlpacaEval has a third term for the
    difficulty of each instruction, which needs many models' results and is left out. Where the candidate is nearly
    always longer (or always shorter), d = 0 lies outside of what was seen: a and b can't be told apart, and the ridge
    would share the difference between them, with a narrow interval.

    Args:
        outcomes, differences, groups, seed: As in [`by_length`].

    Returns:
        `dict`: A metric, its interval from the same draws of whole questions as all others; `None` where fewer than
            `ONE_SIDED` of the pairs are no longer, or no shorter.
    """
    won, gap = np.asarray(outcomes, float), np.asarray(differences, float)
    if min((gap <= 0).mean(), (gap >= 0).mean()) < ONE_SIDED:
        return None
    spread = gap.std()
    x = np.tanh(gap / spread) if spread > 0 else np.zeros(len(gap))
    places: dict[Hashable, int] = {}
    at = np.array([places.setdefault(group, len(places)) for group in groups])
    value = float(_win_rates(np.ones((1, len(won))), won, x)[0])
    low = high = None
    if len(places) > 1:
        fits = []
        for drawn in results.draws(len(places), seed):
            rows = np.arange(len(drawn))[:, None] * len(places)
            times = np.bincount((rows + drawn).ravel(), minlength=drawn.size).reshape(drawn.shape)
            fits.append(_win_rates(times[:, at].astype(float), won, x))
        low, high = results.interval(np.concatenate(fits))
    return {"value": round(value, 6), "low": low, "high": high, "n": len(won)}


def _win_rates(weights: np.ndarray, won: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Win rate at no difference in length, for each row of weights (fits x pairs), by Newton's method."""
    a, b = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-(a[:, None] + b[:, None] * x)))
        left, curve = weights * (won - p), weights * p * (1 - p)
        slope_a, slope_b = left.sum(1) - RIDGE * a, (left * x).sum(1) - RIDGE * b
        aa, ab, bb = curve.sum(1) + RIDGE, (curve * x).sum(1), (curve * x * x).sum(1) + RIDGE
        inverse = aa * bb - ab * ab
        step_a, step_b = (bb * slope_a - ab * slope_b) / inverse, (aa * slope_b - ab * slope_a) / inverse
        a += np.clip(step_a, -_LONGEST_STEP, _LONGEST_STEP)
        b += np.clip(step_b, -_LONGEST_STEP, _LONGEST_STEP)
        if max(np.abs(step_a).max(), np.abs(step_b).max()) < 1e-10:
            break
    return 1 / (1 + np.exp(-a))
