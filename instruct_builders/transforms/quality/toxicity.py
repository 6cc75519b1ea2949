"""The hook for a classifier of toxic text, which this package does not bring along."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from ...errors import ConfigError
from .pairs import column, spread


def toxic(
    pairs: pa.Table, classify: Callable[[list[str]], Sequence[float]] | None = None, max_score: float = 0.5
) -> pa.Array:
    """Drops answers that a classifier of yours finds toxic.

    Args:
        pairs (`pa.Table`): Pairs.
        classify (`Callable`): Takes a list of texts and returns one number from 0 (harmless) to 1 (toxic) for each.
        max_score (`float`, *optional*, defaults to 0.5): An answer above it is dropped.

    Raises:
        ConfigError: If no function was handed in.
    """
    if classify is None:
        raise ConfigError(
            "toxic: needs a classifier: pass toxicity=FUNCTION to check_quality, where FUNCTION takes a list of texts "
            "and returns a number from 0 to 1 for each; or take the check out of the preset."
        )
    answers = column(pairs, "answer")
    scores = np.asarray(classify(answers.to_pylist()), dtype=float) if len(answers) else np.zeros(0)
    if scores.shape != (len(answers),) or not np.all((scores >= 0) & (scores <= 1)):
        raise ValueError(f"the classifier returned {scores.shape} scores for {len(answers)} texts, or not from 0 to 1")
    where = scores > max_score
    return spread(where, [f"{score:.2f} above {max_score}" for score in scores[where].tolist()])
