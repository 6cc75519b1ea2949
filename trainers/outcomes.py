"""What became of labelled rows: counted, chosen, and refused where training should not start."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from instruct_builders.errors import ConfigError, RowError

from . import lengths

if TYPE_CHECKING:
    import datasets

    from .labelling import Policy

# Of a row, or of a part of it. All but these four mean that it is not trained on.
USED = ("whole", "turns_cut", "part", "tokens_cut")
TOO_LONG = "too_long"  # like the reasons below a key of instruct_builders.records.REASONS
STOPS = ("no_turns", "schema")  # reasons that say that the data is not what the recipe takes it for


def settle(labelled: datasets.Dataset, policy: Policy) -> tuple[datasets.Dataset, dict[str, int]]:
    """The rows to train on, and how many came to what; raises where training should not start.

    Args:
        labelled (`datasets.Dataset`): From [`trainers.labelling.label_all`].
        policy (`Policy`): The same.

    Returns:
        `tuple`: The used rows, and [`counts`].

    Raises:
        RowError: For the first row that has nothing to learn from or that the template can't print.
        ConfigError: For rows that are too long with `overlength="error"`, and if no row is left.
    """
    outcomes = _column(labelled, "outcome")
    for place in np.flatnonzero(np.isin(outcomes, STOPS))[:1]:
        entry = labelled[int(place)]
        raise RowError(entry["detail"], reason=entry["outcome"], row=entry["row"], field="messages")
    over = outcomes == TOO_LONG
    if over.any() and policy.overlength == "error":
        tokens = _column(labelled, "tokens")
        longest = int(np.where(over, tokens, 0).argmax())
        raise ConfigError(
            f"{over.sum()} of {counts(labelled)['rows_in']} rows are longer than max_length {policy.limit} (the "
            f"longest, row {labelled[longest]['row']}, has {tokens[longest]} tokens). Raise max_length, or set "
            f"overlength to one of {', '.join(name for name in lengths.POLICIES if name != 'error')}."
        )
    some = used(labelled)
    if not len(some):
        raise ConfigError(f"no row is left to train on: {counts(labelled)}. Raise max_length, or mend the data.")
    return some, counts(labelled)


def used(labelled: datasets.Dataset) -> datasets.Dataset:
    """The rows that are trained on."""
    places = np.flatnonzero(np.isin(_column(labelled, "outcome"), USED))
    return labelled if len(places) == len(labelled) else labelled.select(places)


def counts(labelled: datasets.Dataset) -> dict[str, int]:
    """Rows in, rows out, and rows per outcome (parts of a split row: `parts`). Nothing is lost between them.

    `split_with_loss` are those of the split rows of which some rounds are in no part.
    """
    outcomes, rows = _column(labelled, "outcome"), _column(labelled, "row")
    found = dict(sorted(Counter(outcomes.tolist()).items()))
    parts = found.pop("part", 0)
    split = len(np.unique(rows[outcomes == "part"])) if parts else 0
    out = int(np.isin(outcomes, USED).sum())
    total = {"rows_in": len(np.unique(rows)), "rows_out": out}
    total |= {"split": split, "parts": parts} if parts else {}
    lossy = outcomes == "part"
    lossy[lossy] = _column(labelled.select(np.flatnonzero(lossy)), "detail") != ""  # says how many rounds are in none
    return total | ({"split_with_loss": len(np.unique(rows[lossy]))} if lossy.any() else {}) | found


def _column(labelled: datasets.Dataset, name: str) -> np.ndarray:
    return np.asarray(labelled[name][:], str if name in ("outcome", "detail") else int)
