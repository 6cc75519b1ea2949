"""Quality of rows: checks that drop, scores that rank, and personal data that is masked. A preset is a YAML file.

A check is a pure function of the table of [`pairs.pairs_of`] and says for each pair why it is dropped, in a few words,
or null. A score gives each pair a number from 0 to 1. To add one: one file with the function, its name in [`CHECKS`]
or [`SCORES`], its reason in [`instruct_builders.records.REASONS`], and its test.

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
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from ...errors import ConfigError, did_you_mean
from .. import flat
from .arithmetic import wrong_arithmetic
from .claims import media_reference, url_claimed
from .classic import format, length, relevance, safety
from .difficulty import difficulty
from .echoes import answer_in_instruction, instruction_echoed, repeated_ngrams
from .harm import harmful
from .leftovers import (
    control_character,
    empty_output,
    merged_rows,
    no_input_marker,
    open_code_fence,
    truncated_output,
)
from .pairs import pairs_of
from .pii import check_actions, pii
from .refusals import refusal
from .scored import category_safety, fair_length, fair_relevance, sound_format
from .toxicity import classifier, toxic
from .wrong_language import wrong_language

# A check's name is the reason that it gives.
CHECKS: dict[str, Callable[..., pa.Array]] = {
    "empty_output": empty_output,
    "no_input_marker": no_input_marker,
    "merged_rows": merged_rows,
    "control_character": control_character,
    "open_code_fence": open_code_fence,
    "truncated_output": truncated_output,
    "answer_in_instruction": answer_in_instruction,
    "instruction_echoed": instruction_echoed,
    "repeated_ngrams": repeated_ngrams,
    "refusal": refusal,
    "url_claimed": url_claimed,
    "media_reference": media_reference,
    "wrong_language": wrong_language,
    "wrong_arithmetic": wrong_arithmetic,
    "harmful": harmful,
    "toxic": toxic,
}
SCORES: dict[str, Callable[..., np.ndarray]] = {
    "length": length,
    "format": format,
    "relevance": relevance,
    "safety": safety,
    "fair_length": fair_length,
    "sound_format": sound_format,
    "fair_relevance": fair_relevance,
    "category_safety": category_safety,
    "difficulty": difficulty,
}
PRESETS = ("classic", "default")
SECTIONS = ("checks", "scores", "keep_at", "pii")


def check_quality(
    table: pa.Table,
    preset: str | Mapping = "default",
    toxicity: Callable | str | None = None,
    counts: Counter | None = None,
) -> pa.Table:
    """Rejects rows that a preset's checks or scores drop, each under its own reason, and masks personal data.

    A row is dropped for its first bad answer. A check that fails on a row rejects that row as `check_failed`, with the
    error, and goes on with the others.

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
        ConfigError: If the preset names what is not known, or a check needs what is not installed.
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
    table = _by_scores(table, pairs, plan)
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


def resolved(plan: Mapping) -> dict:
    """What [`load`] gave, with the thresholds that it leaves to the checks' own defaults: what is in force."""
    return {
        "checks": {name: _settings(CHECKS[name], own) for name, own in plan["checks"].items()},
        "scores": {name: _settings(SCORES[name], own) for name, own in plan["scores"].items()},
        "keep_at": plan["keep_at"],
        "pii": {name: getattr(value, "__qualname__", value) for name, value in plan["pii"].items()},
    }


def _settings(function: Callable, given: Mapping) -> dict:
    """The parameters of a check or score: what was given, and else its defaults; a function by its name."""
    defaults = {name: entry.default for name, entry in inspect.signature(function).parameters.items()}
    settings = {name: value for name, value in {**defaults, **given}.items() if name != "pairs"}
    return {name: getattr(value, "__qualname__", value) for name, value in settings.items()}


def load(preset: str | Mapping) -> dict:
    """A preset with all its names checked: `checks`, `scores`, `keep_at` and `pii`.

    Raises:
        ConfigError: If the file can't be read, or a section, check, score, kind or parameter is not known.
    """
    given = preset if isinstance(preset, Mapping) else _read(preset)
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(f"quality: {preset!r} holds no preset; it has the keys {', '.join(SECTIONS)}.")
    for name in given:
        if name not in SECTIONS:
            hint = did_you_mean(str(name), SECTIONS)
            raise ConfigError(f"quality: {name!r} is no key of a preset; they are {', '.join(SECTIONS)}.{hint}")
    plan = {
        "checks": _named(given, "checks", CHECKS),
        "scores": _named(given, "scores", SCORES, added=("min_score",)),
        "keep_at": given.get("keep_at", 0.0),
        "pii": dict(given.get("pii") or {}),
    }
    bounds = [plan["keep_at"], *(entry.get("min_score", 0) for entry in plan["scores"].values())]
    if not all(isinstance(bound, int | float) and 0 <= bound <= 1 for bound in bounds):
        raise ConfigError(f"quality: keep_at and min_score are numbers from 0 to 1, not {bounds}.")
    check_actions(plan["pii"])
    if "classify" in plan["checks"].get("toxic", {}):
        classifier(plan["checks"]["toxic"]["classify"])
    return plan


def _read(preset: str) -> object:
    path = Path(__file__).with_name(f"{preset}.yaml") if preset in PRESETS else Path(str(preset))
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"quality: {preset!r} is neither {' nor '.join(PRESETS)} nor a YAML file that can be read ({error})."
            + did_you_mean(str(preset), PRESETS)
        ) from error


def _named(given: Mapping, section: str, known: Mapping, added: tuple = ()) -> dict[str, dict]:
    """A section's entries, each with a dict of parameters that its function has."""
    entries = given.get(section) or {}
    entries = dict.fromkeys(entries) if isinstance(entries, list) else entries
    if not isinstance(entries, Mapping):
        raise ConfigError(f"quality: {section}: give {{name: {{parameter: value}}}}, not {entries!r}.")
    for name, parameters in entries.items():
        if name not in known:
            hint = did_you_mean(str(name), known)
            raise ConfigError(f"quality: {section}: {name!r} is not known; they are {', '.join(known)}.{hint}")
        if not isinstance(parameters, Mapping | None):
            raise ConfigError(f"quality: {name}: give {{parameter: value}}, not {parameters!r}.")
        allowed = [key for key in inspect.signature(known[name]).parameters if key != "pairs"] + [*added]
        for key in parameters or {}:
            if key not in allowed:
                has = f"its parameters are {', '.join(allowed)}" if allowed else "it has none"
                raise ConfigError(f"quality: {name}: {key!r} is no parameter; {has}.{did_you_mean(str(key), allowed)}")
    return {name: dict(parameters or {}) for name, parameters in entries.items()}


def _isolated(name: str, function: Callable, pairs: pa.Table, parameters: dict) -> tuple[pa.Array, pa.Array]:
    """What a check or score says, and what went wrong; where it raises, halves are tried down to the one bad pair."""
    try:
        result = function(pairs, **parameters)
        if len(result) != len(pairs):
            raise ValueError(f"{len(result)} results for {len(pairs)} rows")
        result = result if isinstance(result, pa.Array) else pa.array(result, pa.float64())
        return result, pa.nulls(len(pairs), pa.string())
    except (ConfigError, MemoryError):  # nothing that a row could do about
        raise
    except Exception as error:
        function(pairs.slice(0, 0), **parameters)  # what fails without any row is the check's fault, and stops all
        if len(pairs) <= 1:
            kind = pa.float64() if name in SCORES else pa.string()
            message = f"{name}: {type(error).__name__}: {error}"[:300]
            return pa.nulls(len(pairs), kind), pa.array([message] * len(pairs), pa.string())
    middle = len(pairs) // 2
    halves = [_isolated(name, function, part, parameters) for part in (pairs.slice(0, middle), pairs.slice(middle))]
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


def _scored(pairs: pa.Table, plan: dict) -> tuple[dict[str, np.ndarray], pa.Array]:
    """Every score of a plan and `total`, NaN where one failed, and what went wrong first."""
    values, failures = {}, pa.nulls(len(pairs), pa.string())
    for name, parameters in plan["scores"].items():
        own = {key: value for key, value in parameters.items() if key != "min_score"}
        result, failed = _isolated(name, SCORES[name], pairs, own)
        values[name] = result.to_numpy(zero_copy_only=False)
        failures = pc.coalesce(failures, failed)
    if values:
        values["total"] = np.mean(list(values.values()), axis=0)
    return values, failures


def _by_scores(table: pa.Table, pairs: pa.Table, plan: dict) -> pa.Table:
    if not plan["scores"]:
        return table
    values, failures = _scored(pairs, plan)
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
