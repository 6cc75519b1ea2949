"""The hook for a classifier of toxic text, which this package does not bring along.

Classifiers are models: any that gives a number from 0 to 1 will do, such as one of Detoxify's,
`lambda texts: Detoxify("multilingual").predict(texts)["toxicity"]`. Without one, the check `harmful` (words and
categories, in the preset `default`) is what there is: it knows topics, and not tone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from ...errors import ConfigError
from ..functions import function_of
from .pairs import column, spread
from .parameters import Share


def toxic(
    pairs: pa.Table, classify: Callable[[list[str]], Sequence[float]] | str | None = None, max_score: Share = 0.5
) -> pa.Array:
    """Drops answers that a classifier of yours finds toxic.

    Args:
        pairs (`pa.Table`): Pairs.
        classify (`Callable` or `str`): Takes a list of texts and returns one number from 0 (harmless) to 1 (toxic) for
            each; in YAML where to import it from, `module:function`.
        max_score (`float`, *optional*, defaults to 0.5): An answer above it is dropped.

    Raises:
        ConfigError: If no function was handed in, or it can't be imported.
    """
    classify = classifier(classify)
    answers = column(pairs, "answer")
    scores = np.asarray(classify(answers.to_pylist()), dtype=float) if len(answers) else np.zeros(0)
    if scores.shape != (len(answers),) or not np.all((scores >= 0) & (scores <= 1)):
        raise ValueError(f"the classifier returned {scores.shape} scores for {len(answers)} texts, or not from 0 to 1")
    where = scores > max_score
    return spread(where, [f"{score:.2f} above {max_score}" for score in scores[where].tolist()])


def classifier(classify: Callable | str | None) -> Callable:
    """The function behind `classify`.

    Raises:
        ConfigError: If there is none, or it can't be imported.
    """
    if classify is None:
        raise ConfigError(
            "toxic: needs a classifier: `toxic: {classify: module:function}` in the preset, or toxicity=FUNCTION, "
            "where FUNCTION takes a list of texts and returns a number from 0 to 1 for each. None comes with this "
            "package; without one, take the check out of the preset and leave it to `harmful`, which goes by words."
        )
    return function_of(classify, "toxic: classify")
