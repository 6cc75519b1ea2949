"""A result: one JSON file per evaluation, with what was measured, on what, how surely, and all that did not count.

    {"kind", "name", "model", "data", "settings", "seed", "versions", "date", "counts", "metrics", "groups", "samples",
     "notes"}

`metrics` and each of `groups` hold `{"value", "low", "high", "n"}` by name; low and high are a 95% interval. Two runs
of the same thing differ in `date` alone.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import tempfile
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np

from instruct_builders.errors import BuildError, ConfigError

from .result_tables import labels, markdown, shown, table

__all__ = ["comparable", "labels", "markdown", "metric", "read", "result", "shown", "table", "write"]

KINDS = (
    *("mt_bench", "mt_bench_pairwise", "instruction_following"),
    *("held_out_loss", "task_metrics", "lm_eval"),
)
FIELDS: dict[str, type] = {
    "kind": str,
    "name": str,
    "model": dict,
    "data": dict,
    "settings": dict,
    "seed": int,
    "versions": dict,
    "counts": dict,
    "metrics": dict,
    "groups": dict,
    "samples": list,
    "notes": list,
}
MODEL_FIELDS = ("name", "revision", "adapter", "adapter_revision", "local")
DATA_FIELDS = ("name", "revision", "digest", "rows", "license")
PACKAGES = (
    *("instruct-builders", "numpy", "datasets", "torch", "transformers", "trl", "peft", "accelerate"),
    *("bitsandbytes", "openai", "lm_eval", "rouge-score", "sacrebleu"),
)
RESAMPLES = 2000
# Where two results differ in one of these, so do their scores.
SAME_SETTINGS = ("judge", "references", "prompts", "baseline", "split", "metric", "num_fewshot", "max_new_tokens")
SAME_ANSWERS = ("max_tokens", "temperatures")  # of settings["answers"]
FILE = "result.json"
_DRAWN_AT_ONCE = 1 << 22  # numbers: 32 MiB


def result(
    kind: str,
    name: str,
    *,
    model: Mapping,
    data: Mapping,
    settings: Mapping,
    seed: int,
    counts: Mapping[str, int],
    metrics: Mapping[str, dict],
    groups: Mapping[str, Mapping[str, dict]] | None = None,
    samples: Sequence[dict] | None = None,
    notes: Sequence[str] | None = None,
    date: str | None = None,
) -> dict:
    """Puts a result together and checks that it is one.

    Args:
        kind (`str`): One of `KINDS`.
        name (`str`): For people, such as `"MT-Bench, single answers"`.
        model (`Mapping`): `name`, and `revision`, `adapter`, `adapter_revision`, `local` where there are any.
        data (`Mapping`): `name`, `rows`, and `revision`, `digest`, `license` where there are any.
        settings (`Mapping`): All that can change the outcome; `SAME_SETTINGS` are compared by [`comparable`].
        seed (`int`): Of the run.
        counts (`Mapping[str, int]`): What was asked, answered, unusable, and why.
        metrics (`Mapping[str, dict]`): From [`metric`].
        groups (`Mapping`, *optional*): Group, such as a category -> metrics.
        samples (`Sequence[dict]`, *optional*): A few of `prompt` and `answer`.
        notes (`Sequence[str]`, *optional*): What a reader must know.
        date (`str`, *optional*): Such as `"2026-11-22"`; set by the recipe.

    Raises:
        ConfigError: If something is missing or of the wrong kind.
    """
    found = {
        "kind": kind,
        "name": name,
        "model": dict.fromkeys(MODEL_FIELDS) | {"local": False} | dict(model),
        "data": dict.fromkeys(DATA_FIELDS) | dict(data),
        "settings": dict(settings),
        "seed": seed,
        "versions": versions(),
        "date": date,
        "counts": dict(counts),
        "metrics": dict(metrics),
        "groups": {group: dict(values) for group, values in (groups or {}).items()},
        "samples": [dict(sample) for sample in samples or ()],
        "notes": list(notes or ()),
    }
    _check(found, "result")
    return found


def metric(
    values: Sequence[float],
    *,
    seed: int = 0,
    level: float = 0.95,
    groups: Sequence[Hashable] | None = None,
) -> dict:
    """The mean with a bootstrap interval.

    Whole groups are drawn again, with what belongs to them: both turns of a question stay together, and an interval
    is about other questions of the kind, not about other turns. The interval is the middle `level` of the means of
    2,000 draws (percentile bootstrap); with very few groups it is somewhat too narrow. With one group, or where all
    have the same mean, draws tell nothing, and there is none.

    Args:
        values (`Sequence[float]`): One or more per question.
        seed (`int`, *optional*, defaults to 0): Of the draws: the same seed and values give the same interval, on any
            numpy.
        level (`float`, *optional*, defaults to 0.95): Share of the draws inside.
        groups (`Sequence`, *optional*): The question of each value; by default each value is its own.

    Returns:
        `dict`: `value`, `low`, `high` (`None` where draws tell nothing) and `n`, the number of values.

    Raises:
        ConfigError: For no values, or one that is not a finite number.
    """
    numbers = np.asarray(list(values), np.float64)
    if not len(numbers) or not np.isfinite(numbers).all():
        raise ConfigError(f"metric: {len(numbers)} values; at least one is needed, and all must be finite numbers.")
    sums, sizes = _by_group(numbers, groups)
    value = float(sums.sum() / sizes.sum())
    low = high = None
    if np.ptp(sums / sizes) > 0:
        means = np.concatenate([sums[drawn].sum(1) / sizes[drawn].sum(1) for drawn in draws(len(sums), seed)])
        low, high = interval(means, level)
    return {"value": _rounded(value), "low": low, "high": high, "n": len(numbers)}


def plain_metric(value: float, n: int) -> dict:
    """A number without an interval, such as a bound."""
    return {"value": _rounded(float(value)), "low": None, "high": None, "n": int(n)}


def interval(means: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of what the draws gave."""
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return _rounded(float(low)), _rounded(float(high))


def draws(size: int, seed: int, resamples: int = RESAMPLES):
    """Positions of `size` things drawn with replacement, `resamples` times, a block of rows at a time.

    PCG64's own numbers, since numpy keeps their stream and not that of its distributions; the remainder of a 64-bit
    number by `size` prefers no position by more than size / 2^64.
    """
    stream = np.random.PCG64(np.random.SeedSequence([seed, size]))
    step = max(1, _DRAWN_AT_ONCE // size)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        yield (stream.random_raw(rows * size) % np.uint64(size)).astype(np.int64).reshape(rows, size)


def _by_group(values: np.ndarray, groups: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each group, in the order of their first appearance."""
    if groups is None:
        return values, np.ones(len(values))
    places: dict[Hashable, int] = {}
    at = np.array([places.setdefault(group, len(places)) for group in groups])
    if len(at) != len(values):
        raise ConfigError(f"metric: {len(values)} values and {len(at)} groups; each value needs its group.")
    return np.bincount(at, values, len(places)), np.bincount(at, minlength=len(places)).astype(float)


def _rounded(value: float) -> float:
    """Six digits after the point: the order of a sum shows beyond them."""
    return round(value, 6) + 0.0


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """The installed versions of the packages that decide what comes out."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed took no part
    return found


def write(result: Mapping, path: str | os.PathLike) -> Path:
    """Writes a result in one step: the file is whole, or as it was.

    Raises:
        ConfigError: If it is no result.
        BuildError: If it can't be written.
    """
    _check(result, "result")
    path = Path(path)
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".", delete=False) as file:
            file.write(text)
        os.chmod(file.name, 0o644)  # a temporary file is its owner's alone
        os.replace(file.name, path)
    except OSError as error:
        raise BuildError(f"{path}: the result could not be written: {error.strerror or error}.") from error
    return path


def read(path: str | os.PathLike) -> dict:
    """Reads a result: a file, or the folder that holds its `result.json`.

    Raises:
        ConfigError: If there is none, or it is no result.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: None)
    except OSError as error:
        raise ConfigError(f"{path}: no result can be read there: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not a result: not valid JSON ({error}).") from error
    _check(found, str(path))
    return found


def _check(found: object, where: str) -> None:
    if not isinstance(found, Mapping):
        raise ConfigError(f"{where}: a result is an object, not {type(found).__name__}.")
    for field, kind in FIELDS.items():
        if not isinstance(found.get(field), kind) or isinstance(found.get(field), bool):
            given = type(found[field]).__name__ if field in found else "missing"
            raise ConfigError(f"{where}: not a result: {field} is {given}, and {kind.__name__} belongs there.")
    if found["kind"] not in KINDS:
        raise ConfigError(f"{where}: kind is {found['kind']!r}; {', '.join(KINDS)} are allowed.")
    for part, field in (("model", "name"), ("data", "name"), ("data", "rows")):
        if found[part].get(field) is None:
            raise ConfigError(f"{where}: not a result: {part}.{field} is missing.")
    for name, count in found["counts"].items():
        if type(count) is not int or count < 0:
            raise ConfigError(f"{where}: counts.{name} is {count!r}; a number of things belongs there.")
    for group, values in [("metrics", found["metrics"]), *found["groups"].items()]:
        for name, value in values.items():
            _check_metric(value, f"{where}: {group}.{name}")


def _check_metric(value: object, where: str) -> None:
    if not isinstance(value, Mapping) or not {"value", "low", "high", "n"} <= value.keys():
        raise ConfigError(f"{where} is {value!r}; value, low, high and n belong there.")
    for field in ("value", "low", "high"):
        number = value[field]
        is_number = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
        if not is_number and (field == "value" or number is not None):
            raise ConfigError(f"{where}.{field} is {number!r}; a finite number belongs there.")


def comparable(a: Mapping, b: Mapping) -> None:
    """Whether two results measure the same thing in the same way.

    Raises:
        ConfigError: If kind, data, one of `SAME_SETTINGS` or one of `SAME_ANSWERS` differ.
    """
    names = [shown(one) for one in (a, b)]
    if a["kind"] != b["kind"]:
        raise ConfigError(f"{names[0]} is a result of {a['kind']}, {names[1]} one of {b['kind']}: no comparison.")
    for field in ("digest", "revision", "rows"):
        if field == "revision" and a["data"].get("digest"):
            continue  # the same content, whatever it was taken from
        if a["data"].get(field) != b["data"].get(field):
            raise ConfigError(
                f"{names[0]} and {names[1]} answered different questions: {field} {a['data'].get(field)} of "
                f"{a['data']['name']!r}, and {b['data'].get(field)} of {b['data']['name']!r}. Run both on the same "
                "set."
            )
    for field in (*SAME_SETTINGS, *SAME_ANSWERS):
        one, other = (
            (side["settings"].get("answers") or {} if field in SAME_ANSWERS else side["settings"]).get(field)
            for side in (a, b)
        )
        if one != other:
            raise ConfigError(
                f"{names[0]} and {names[1]} differ in {field}: {_short(one)} and {_short(other)}. Scores compare only "
                "where they are the same."
            )


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:199] + "…"
