"""Ratios of sums over rows with bootstrap intervals: of one model, and of the difference of two on the same rows.

A share of constraints, a loss per token and a mean over tasks are all one sum divided by another; what differs is what
a row adds to each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from . import results

MOST = 700.0  # no float can hold the exponential of more


def ratio(sums: Sequence[float], sizes: Sequence[float], seed: int, n: int | None = None) -> dict:
    """The sum of `sums` over that of `sizes`, with a 95% interval over rows, in the form of [`results.metric`].

    Args:
        sums (`Sequence[float]`), sizes (`Sequence[float]`): What each row adds; no size may be 0.
        seed (`int`): Of the draws.
        n (`int`, *optional*): How many things are averaged; the number of rows by default.
    """
    sums, sizes = np.asarray(sums, float), np.asarray(sizes, float)
    made = results.plain_metric(sums.sum() / sizes.sum(), len(sums) if n is None else n)
    if np.ptp(sums / sizes) > 0:  # else draws tell nothing, as in `metric`
        made["low"], made["high"] = results.interval(_drawn(sums, sizes, seed))
    return made


def difference(before: np.ndarray, after: np.ndarray, seed: int, of: Callable = np.asarray) -> dict:
    """How much larger the ratio of `after` is, with a 95% interval of the paired bootstrap: the same rows are drawn
    for both, so that what makes a row hard for both does not widen it.

    Args:
        before (`np.ndarray`), after (`np.ndarray`): A row of `(sum, size)` each, in the same order.
        seed (`int`): Of the draws.
        of (`Callable`, *optional*): Of each ratio before they are subtracted, such as `np.exp`.
    """
    values = [of(each[:, 0].sum() / each[:, 1].sum()) for each in (before, after)]
    made = results.plain_metric(values[1] - values[0], len(before))
    if np.ptp(after[:, 0] / after[:, 1] - before[:, 0] / before[:, 1]) > 0:
        drawn = [of(_drawn(each[:, 0], each[:, 1], seed)) for each in (before, after)]
        made["low"], made["high"] = results.interval(drawn[1] - drawn[0])
    return made


def perplexity(loss: float | np.ndarray) -> float | np.ndarray:
    """exp(loss), of nats per token."""
    return np.exp(np.minimum(loss, MOST))


def _drawn(sums: np.ndarray, sizes: np.ndarray, seed: int) -> np.ndarray:
    blocks = results.draws(len(sums), seed)
    return np.concatenate([sums[places].sum(1) / sizes[places].sum(1) for places in blocks])
