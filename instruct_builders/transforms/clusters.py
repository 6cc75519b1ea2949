"""Pairs of rows that are alike -> which rows stay, and which of those each other row is a duplicate of."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ConfigError, did_you_mean
from . import flat

PREFER = {
    "score": "the higher score (column `score`, which the steps `quality` and `judge` set; else what a judge said in "
    "`meta`; else `meta.score`), where there is one; then the longer answer",
    "longer": "the longer answer",
    "earlier": "the row that comes first",
}


MUCH, FEWEST = 0.3, 20  # a task of at least so many rows that loses more than this share is named in the account
NAMED = 20  # such tasks, at most


def keep_best(count: int, pairs: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Which rows stay (bool): those that are not alike to a better one that stays.

    So every row that goes is itself alike to a row that stays; none goes for being at the far end of a chain.

    Args:
        count (`int`): Rows.
        pairs (`np.ndarray`): Rows that are alike: int64, shape (pairs, 2).
        rank (`np.ndarray`): Place of each row in the order from best to worst; no two are the same.
    """
    better = np.where(rank[pairs[:, 0]] < rank[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
    worse = pairs.sum(axis=1) - better
    kept, decided = np.ones(count, dtype=bool), np.ones(count, dtype=bool)
    decided[worse] = False
    while len(worse):  # each time around at least the best row that is open gets decided
        fallen = decided[better] & kept[better] & ~decided[worse]
        kept[worse[fallen]], decided[worse[fallen]] = False, True
        left = ~decided[worse] & ~(decided[better] & ~kept[better])
        waits = np.zeros(count, dtype=bool)
        waits[worse[left]] = True
        decided[worse[~waits[worse]]] = True  # all better rows like it are gone
        worse, better = worse[left], better[left]
    return kept


def nearest_kept(
    count: int, pairs: np.ndarray, scores: np.ndarray, kept: np.ndarray, rank: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each row the kept one that is most alike (int64; itself where it is kept), and how much (float64)."""
    both, twice = np.concatenate([pairs, pairs[:, ::-1]]), np.concatenate([scores, scores])
    useful = ~kept[both[:, 0]] & kept[both[:, 1]]
    both, twice = both[useful], twice[useful]
    order = np.lexsort([-rank[both[:, 1]], twice])  # the last one written stays: highest score, then better rank
    place, score = np.arange(count), np.ones(count)
    place[both[order, 0]], score[both[order, 0]] = both[order, 1], twice[order]
    return place, score


def components(count: int, pairs: np.ndarray) -> np.ndarray:
    """The smallest row (int64) that each row hangs together with, over any number of pairs."""
    labels = np.arange(count)
    while True:
        low = np.minimum(labels[pairs[:, 0]], labels[pairs[:, 1]])
        before = labels.copy()
        for side in (0, 1):
            np.minimum.at(labels, before[pairs[:, side]], low)  # the whole tree moves, and not the leaf alone
            np.minimum.at(labels, pairs[:, side], low)
        labels = labels[labels]
        if np.array_equal(labels, before):
            return labels


def ranks(table: pa.Table, rows: np.ndarray, prefer: str, step: str) -> np.ndarray:
    """Place of each of `rows` (int64) in the order from best to worst; ties go to the earlier row.

    Raises:
        ConfigError: If `prefer` is neither in [`PREFER`] nor a column or `meta.<key>`, or a score is no number.
    """
    keys = [rows]  # np.lexsort: the last key counts first
    if prefer != "earlier":
        keys.append(-answer_lengths(table)[rows])
    if prefer not in ("earlier", "longer"):
        keys.append(-scores_of(table, rows, prefer, step))
    rank = np.empty(len(rows), np.int64)
    rank[np.lexsort(keys)] = np.arange(len(rows))
    return rank


def check_prefer(table: pa.Table, prefer: str, step: str) -> None:
    name, _, key = str(prefer).partition(".")
    if (prefer not in PREFER and name not in table.column_names) or (key and name != "meta"):
        known = "; ".join(f"{word!r}: {value}" for word, value in PREFER.items())
        raise ConfigError(
            f"{step}: prefer={prefer!r} is neither known nor a column; {known}; or the name of a column of numbers, "
            f"or meta.<key>.{did_you_mean(str(prefer), [*PREFER, *table.column_names])}"
        )


def answer_lengths(table: pa.Table) -> np.ndarray:
    """Bytes of all answers of each row (int64)."""
    offsets, turns = flat.flatten(table)
    lengths = pc.fill_null(pc.binary_length(flat.text(turns)), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return flat.sum_per_row(lengths * (flat.roles(turns) == flat.ASSISTANT), offsets)


def scores_of(table: pa.Table, rows: np.ndarray, prefer: str, step: str) -> np.ndarray:
    """Score of each row (float64); -inf where it has none, or NaN."""
    name, _, key = prefer.partition(".")
    if prefer == "score" and "score" not in table.column_names:
        name, key = "meta", "score"
    if name not in table.column_names:
        return np.full(len(rows), -np.inf)
    column = flat.storage(flat.one_array(table[name])).take(pa.array(rows))
    values = column.to_pylist()
    if key:
        metas = [json.loads(text) if text and (f'"{key}"' in text or '"judge"' in text) else {} for text in values]
        values = [meta.get(key) for meta in metas]
        judged = [meta["judge"].get("mean") if isinstance(meta.get("judge"), dict) else None for meta in metas]
        if prefer == "score" and any(mean is not None for mean in judged):
            values = judged  # of all rows alike: a judge's 1 to 10 and a source's own scores can't be compared
    for row, value in zip(rows.tolist(), values, strict=True):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ConfigError(f"{step}: {prefer} of row {row} is {value!r}: a number is needed to compare rows by it.")
    scores = np.array([-np.inf if value is None else value for value in values], float)
    return np.where(np.isnan(scores), -np.inf, scores)


def per_task(table: pa.Table, rows: np.ndarray) -> Counter:
    """How many of the chosen rows (bool) each source and task has; `None` where the table has no such column."""
    names = [name for name in ("source", "task") if name in table.column_names]
    if not names:
        return Counter({(None, None): int(rows.sum())})
    chosen = pa.table({name: flat.one_array(table[name]).filter(pa.array(rows)) for name in names})
    found = chosen.group_by(names).aggregate([([], "count_all")]).to_pylist()
    return Counter({(entry.get("source"), entry.get("task")): entry["count_all"] for entry in found})


def much_lost(before: Counter, gone: Counter) -> list[dict]:
    """Sources and tasks that lost more than [`MUCH`] of their rows, as [`per_task`] counts them, the most first."""
    found = [
        {"source": source, "task": task, "rows": before[source, task], "rejected": count}
        for (source, task), count in gone.items()
        if before[source, task] >= FEWEST and count > MUCH * before[source, task]
    ]
    order = sorted(found, key=lambda entry: (-entry["rejected"], str(entry["source"]), str(entry["task"])))
    return order[:NAMED]
