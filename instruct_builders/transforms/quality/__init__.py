"""Quality of rows: checks that drop, scores that rank, and personal data that is masked. A preset is a YAML file.

A check is a pure function of the table of [`pairs.pairs_of`] and says for each pair why it is dropped, in a few words,
or null. A score gives each pair a number from 0 to 1. To add one: one file with the function, its name in [`CHECKS`]
or [`SCORES`] (`presets.py`), its reason in [`instruct_builders.records.REASONS`], and its test.

```yaml
checks: {refusal: , truncated_output: {min_words: 20}}     # in this order; a row's first reason counts
scores: {length: , safety: {min_score: 0.5}}              # `min_score` drops by itself
keep_at: 0.6                                              # of the mean of all scores
pii: {email: mask, card: drop}
```

What works on whole columns: all but `wrong_arithmetic`, the fences and the comparison of texts with one another, where
Python reads those rows that a regular expression over the column has found.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import ConfigError
from .. import flat
from .pairs import pairs_of
from .pii import pii
from .presets import CHECKS, PRESETS, SCORES, load, resolved, settings

__all__ = ["CHECKS", "PRESETS", "SCORES", "check_quality", "load", "pairs_of", "resolved", "scores"]


def check_quality(
    table: pa.Table,
    preset: str | Mapping = "default",
    toxicity: Callable | str | None = None,
    counts: Counter | None = None,
) -> pa.Table:
    """Rejects rows that a preset's checks or scores drop, each under its own reason, and masks personal data.

    A row is dropped for its first bad answer. A check that fails on a row rejects that row as `check_failed`, with the
    error, and goes on with the others; one that fails on all of several answers is an error itself.

    Args:
        table (`pa.Table`): Records.
        preset (`str` or `dict`, *optional*, defaults to `"default"`): `classic`, `default`, a YAML file, or what would
            stand in one.
        toxicity (`Callable` or `str`, *optional*): For the check `toxic`, which then runs even if the preset does not
            name it: a function, or where it is (`module:function`).
        counts (`collections.Counter`, *optional*): Gets how often each kind of personal data was `masked_...`, and
            `preset`, as [`resolved`] gives it.

    The total of the scores stands in the column `score` afterwards, unless there is such a column already: by it
    [`near_duplicates`] chooses the better row, and a build leaves it out of the data.

    Raises:
        ConfigError: If the preset names what is not known, a check needs what is not installed, or a check or score
            fails on every answer.
    """
    plan = load(preset)
    checks = dict(plan["checks"])
    if toxicity is not None:
        checks["toxic"] = {**checks.get("toxic", {}), "classify": toxicity}
    if counts is not None:
        counts["preset"] = resolved({**plan, "checks": checks})
    pairs = pairs_of(table)
    for name, parameters in checks.items():
        details, failed = _isolated(name, CHECKS[name], pairs, parameters)
        table = _reject(table, pairs, failed, "check_failed")
        table = _reject(table, pairs, details, name)
        gone = pc.or_(pc.is_valid(details), pc.is_valid(failed)).to_numpy(zero_copy_only=False)
        if gone.any():  # the next check sees only rows that are left, whole
            pairs = pairs.filter(pa.array(flat.open_rows(table)[pairs["row"].to_numpy()]))
    passed = {name for name in checks if settings(CHECKS[name], checks[name]) == settings(CHECKS[name], {})}
    table = _by_scores(table, pairs, plan, frozenset(passed))
    return pii(table, plan["pii"], counts) if plan["pii"] else table


def scores(table: pa.Table, preset: str | Mapping = "default") -> pa.Table:
    """A preset's scores, for choosing among duplicates, for histograms and for tuning `keep_at`.

    Args:
        table (`pa.Table`): Records.
        preset (`str` or `dict`, *optional*, defaults to `"default"`): As in [`check_quality`].

    Returns:
        `pa.Table`: A row for each row of `table` and a column (double) for each score, the mean over the row's
        answers, and `total`, their mean; null for rows that are rejected, have no answer, or on which one failed.
    """
    pairs = pairs_of(table)
    values, _ = _scored(pairs, load(preset))
    return _per_row(values, pairs["row"].to_numpy(), table.num_rows)


def _isolated(name: str, function: Callable, pairs: pa.Table, parameters: dict) -> tuple[pa.Array, pa.Array]:
    """What a check or score says, and what went wrong with single pairs.

    Raises:
        ConfigError: If it fails on no pairs at all, or on every one of several: that is not the rows' fault.
    """
    result, failed = _halved(name, function, pairs, parameters)
    if len(pairs) > 1 and failed.null_count == 0:
        raise ConfigError(
            f"quality: the check or score {name!r} failed on every one of {len(pairs)} answers, first with "
            f"{failed[0].as_py().partition(': ')[2]}. Mend what it calls, or take {name} out of the preset."
        )
    return result, failed


def _halved(name: str, function: Callable, pairs: pa.Table, parameters: dict) -> tuple[pa.Array, pa.Array]:
    """Tries all pairs at once, and where that raises, halves of them, down to the one bad pair."""
    try:
        result = function(pairs, **parameters)
        if len(result) != len(pairs):
            raise ValueError(f"{len(result)} results for {len(pairs)} rows")
        result = result if isinstance(result, pa.Array) else pa.array(result, pa.float64())
        return result, pa.nulls(len(pairs), pa.string())
    except (ConfigError, MemoryError):  # nothing that a row could do about
        raise
    except Exception as error:
        if not len(pairs):  # what fails without any row is the check's fault, and stops all
            raise ConfigError(
                f"quality: the check or score {name!r} fails even without a row: {type(error).__name__}: {error}. "
                f"Mend what it calls, or take {name} out of the preset."
            ) from error
        _halved(name, function, pairs.slice(0, 0), parameters)
        if len(pairs) == 1:
            kind = pa.float64() if name in SCORES else pa.string()
            message = f"{name}: {type(error).__name__}: {error}"[:300]
            return pa.nulls(len(pairs), kind), pa.array([message] * len(pairs), pa.string())
    middle = len(pairs) // 2
    halves = [_halved(name, function, part, parameters) for part in (pairs.slice(0, middle), pairs.slice(middle))]
    return tuple(pa.concat_arrays(parts) for parts in zip(*halves, strict=True))


def _reject(table: pa.Table, pairs: pa.Table, details: pa.Array, reason: str) -> pa.Table:
    """Rejects the rows of pairs with a detail, for the first of them."""
    hit = np.flatnonzero(details.is_valid().to_numpy(zero_copy_only=False))
    if not len(hit):
        return table
    rows, first = np.unique(pairs["row"].to_numpy()[hit], return_index=True)
    chosen = hit[first]
    where = np.zeros(table.num_rows, dtype=bool)
    where[rows] = True
    fields = flat.turn_field(pairs["turn"].to_numpy()[chosen], "content")
    return flat.reject(table, where, reason, fields, details.take(pa.array(chosen)))


def _scored(
    pairs: pa.Table, plan: dict, passed: frozenset[str] = frozenset()
) -> tuple[dict[str, np.ndarray], pa.Array]:
    """Every score of a plan and `total`, NaN where one failed, and what went wrong first.

    Scores that look at what a check has decided are told which ones all these pairs have `passed`.
    """
    values, failures = {}, pa.nulls(len(pairs), pa.string())
    for name, parameters in plan["scores"].items():
        own = {key: value for key, value in parameters.items() if key != "min_score"}
        if "passed" in inspect.signature(SCORES[name]).parameters:
            own["passed"] = passed
        result, failed = _isolated(name, SCORES[name], pairs, own)
        values[name] = result.to_numpy(zero_copy_only=False)
        failures = pc.coalesce(failures, failed)
    if values:
        values["total"] = np.mean(list(values.values()), axis=0)
    return values, failures


def _by_scores(table: pa.Table, pairs: pa.Table, plan: dict, passed: frozenset[str]) -> pa.Table:
    if not plan["scores"]:
        return table
    values, failures = _scored(pairs, plan, passed)
    if "score" not in table.column_names:
        table = table.append_column("score", _per_row(values, pairs["row"].to_numpy(), table.num_rows)["total"])
    table = _reject(table, pairs, failures, "check_failed")
    bounds = {name: parameters.get("min_score", 0) for name, parameters in plan["scores"].items()}
    for name, bound in {**bounds, "total": plan["keep_at"]}.items():
        low = values[name] < bound - 1e-9  # NaN, a failure, is rejected already
        shown = ", ".join(f"{other} {{{other}:.2f}}" for other in plan["scores"])
        details = np.full(len(pairs), None, dtype=object)
        for at in np.flatnonzero(low).tolist():
            parts = shown.format(**{other: float(values[other][at]) for other in plan["scores"]})
            details[at] = f"{name} {values[name][at]:.2f} below {bound}: {parts}"
        table = _reject(table, pairs, pa.array(details, pa.string()), "low_score")
    return table


def _per_row(values: dict[str, np.ndarray], rows: np.ndarray, size: int) -> pa.Table:
    answers = np.bincount(rows, minlength=size)
    columns = {}
    for name, numbers in values.items():
        means = np.bincount(rows, numbers, minlength=size) / np.maximum(answers, 1)
        columns[name] = pa.array(means, pa.float64(), mask=(answers == 0) | np.isnan(means))
    return pa.table(columns)
