"""Scores from elsewhere, by the id of the row, such as the difficulty of trainers/evaluation/difficulty.py."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..errors import ConfigError, SourceError, did_you_mean
from . import flat
from .notes import noted

MISSING = {"keep": "rows that the file does not know stay", "reject": "they go, as `score_out_of_range`"}


def given_scores(
    table: pa.Table,
    file: str | None = None,
    name: str = "ifd",
    least: float | None = None,
    most: float | None = None,
    missing: str = "keep",
    counts: Counter | None = None,
) -> pa.Table:
    """Writes a score into the `meta` of each row that a file has one for, and rejects what lies outside the limits as
    `score_out_of_range`.

    Later steps can go by it: `near_duplicates: {prefer: meta.ifd}`.

    Args:
        table (`pa.Table`): Records with their ids.
        file (`str`): JSON lines with `id` and the score.
        name (`str`, *optional*, defaults to `"ifd"`): The key of the score, in the file and in `meta`.
        least (`float`, *optional*), most (`float`, *optional*): Limits, themselves allowed.
        missing (`str`, *optional*, defaults to `"keep"`): A key of [`MISSING`]; a null in the file is missing too.
        counts (`Counter`, *optional*): Gets `scored` and `missing` (rows).

    Raises:
        ConfigError: If a parameter can't be right.
        SourceError: If the file can't be read, or tells two scores of one id.
    """
    check_given(file, name, least, most, missing)
    if not {"id", "meta"} <= set(table.column_names):
        raise ConfigError(f"given_scores: needs the columns id and meta; the table has {table.column_names}.")
    known = _read(file, name)
    usable = flat.open_rows(table)
    scores = [
        known.get(id_) if is_open else None for id_, is_open in zip(table["id"].to_pylist(), usable, strict=True)
    ]
    rows = np.array([row for row, score in enumerate(scores) if score is not None], dtype=np.int64)
    if counts is not None:
        counts["scored"] += len(rows)
        counts["missing"] += int(usable.sum()) - len(rows)
    table = noted(table, rows, name, [scores[row] for row in rows.tolist()])
    why = [
        _why(score, name, least, most, missing) if is_open else None
        for score, is_open in zip(scores, usable, strict=True)
    ]
    bad = np.array([detail is not None for detail in why], dtype=bool)
    return flat.reject(table, bad, "score_out_of_range", "meta", [detail for detail in why if detail])


def check_given(file, name="ifd", least=None, most=None, missing="keep") -> None:
    """Raises a [`ConfigError`] for parameters that can't be right, before a row is read."""
    if not file or not os.path.isfile(file):
        raise ConfigError(f"given_scores: file={file!r} is not there: give JSON lines with id and {name}.")
    if missing not in MISSING:
        known = "; ".join(f"{key!r}: {value}" for key, value in MISSING.items())
        raise ConfigError(f"given_scores: missing={missing!r}; {known}.{did_you_mean(str(missing), MISSING)}")
    if least is not None and most is not None and least > most:
        raise ConfigError(f"given_scores: least={least} lies above most={most}: no score is right.")


def _read(file: str, name: str) -> dict[str, float | None]:
    scores: dict[str, float | None] = {}
    for number, line in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            id_, score = entry["id"], entry[name]
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(
                f"given_scores: {file}, line {number}: no object with id and {name}: {error}."
            ) from error
        right = isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
        if not isinstance(id_, str) or (score is not None and not right):
            raise SourceError(
                f"given_scores: {file}, line {number}: id={id_!r}, {name}={score!r}: a string and a number."
            )
        if scores.setdefault(id_, score) != score:
            raise SourceError(
                f"given_scores: {file}, line {number}: a second score for {id_}: {scores[id_]} and {score}."
            )
    return scores


def _why(score: float | None, name: str, least: float | None, most: float | None, missing: str) -> str | None:
    if score is None:
        return f"no {name} is known" if missing == "reject" else None
    if least is not None and score < least:
        return f"{name} {score:g} below {least:g}"
    return f"{name} {score:g} above {most:g}" if most is not None and score > most else None
