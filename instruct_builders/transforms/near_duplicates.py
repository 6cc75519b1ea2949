"""Near duplicates over a whole table: by the words they share, exactly. `semantic` goes by embeddings.

Memory, besides the table, at its peak: about 11 bytes per shingle of the texts that are compared, so 1.0 GB for a
million texts of 100 words; benchmarks/results/dedup.json has it measured.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa

from ..errors import ConfigError, did_you_mean
from . import clusters, flat, shingles, similar_sets
from .parts import BY, PARTS, row_sets, short_answers

LARGEST = 20  # rows that stay for the most others, told in the account


def near_duplicates(
    table: pa.Table,
    by: str = "instruction",
    threshold: float = 0.7,
    shingle: int = 3,
    tokenizer: str = "unicode",
    prefer: str = "score",
    counts: Counter | None = None,
) -> pa.Table:
    """Rejects rows that share most of their shingles with a better row, as `near_duplicate`. For whole tables.

    A row goes where each of its parts (see [`parts.PARTS`]) is alike to the same part of one row that stays: of the
    Jaccard similarities of their sets of shingles the smallest counts, and it has to be at least `threshold`. So a
    long `context` that two rows share makes no duplicates of two questions. All such pairs are found, while
    MinHash-LSH at the same cost misses some. Rows that offer other `tools`, or call other functions, are never near
    duplicates. Rows that are rejected already, and those without any text to compare, are left alone. `detail` names
    the row that stays and the similarity.

    With `by="both"`, an answer of fewer than [`parts.SHORT`] shingles says nothing of its own ("Yes", "cup B"): there
    only rows that have the same shingles in every part are near duplicates. Rows that were rendered from a template
    differ in a few words only, so for those take `"both"`; with `"instruction"` most rows of a template go.

    Args:
        table (`pa.Table`): Records.
        by (`str`, *optional*, defaults to `"instruction"`): A key of [`parts.BY`]. Shingles don't cross turns.
        threshold (`float`, *optional*, defaults to 0.7): Smallest Jaccard similarity of a part, above 0, at most 1.
        shingle (`int`, *optional*, defaults to 3): Tokens in a row that make one shingle; a shorter text is one.
        tokenizer (`str`, *optional*, defaults to `"unicode"`): A key of [`shingles.TOKENIZERS`].
        prefer (`str`, *optional*, defaults to `"score"`): Which row stays: a key of [`clusters.PREFER`], a column of
            numbers, or `meta.<key>` (higher is better). Ties go to the longer answer, then to the earlier row.
        counts (`Counter`, *optional*): Gets `short_answers` (rows), `pairs`, `clusters` (rows that hang together, over
            any number of pairs), `largest_cluster`, `not_compared`: rows that met too many others to be compared with
            all of them, and `largest`: the rows that stay for the most others.

    Raises:
        ConfigError: If an argument is out of its range or not known.
    """
    step = "near_duplicates"
    check_by(table, by, prefer, step)
    check_numbers(threshold, shingle, tokenizer, step)
    values, offsets, bounds = row_sets(table, by, shingle, tokenizer)
    short, kinds = short_answers(bounds, by), len(PARTS[by])
    group = similar_sets.same_sets(values, offsets)
    rows = np.flatnonzero(flat.open_rows(table) & (group >= 0))
    rank = np.zeros(table.num_rows, np.int64)
    rank[rows] = clusters.ranks(table, rows, prefer, step)
    ordered = np.empty_like(rows)
    ordered[rank[rows]] = rows  # from best to worst
    _, first, inverse = np.unique(group[ordered], return_index=True, return_inverse=True)
    stays = np.arange(table.num_rows)
    stays[ordered] = ordered[first[inverse]]  # of equal sets the best, which stands for all of them from here on

    def find(some: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        among = np.zeros(table.num_rows, dtype=bool)
        among[some] = True
        return candidates(values, offsets, bounds, threshold, among & ~short)

    def similarity(pairs: np.ndarray) -> np.ndarray:
        return similar_sets.part_jaccards(values, bounds, kinds, pairs)

    if counts is not None:
        counts["short_answers"] += int((short & flat.open_rows(table)).sum())
    return reject_worse(table, stays, np.sort(ordered[first]), find, similarity, rank, "Jaccard similarity", counts)


def candidates(
    values: np.ndarray, offsets: np.ndarray, bounds: np.ndarray, threshold: float, among: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Pairs of rows whose parts are alike, their similarities, and how many rows met too many others.

    All rows of one template meet as wholes. Where these are too many, those are looked for that are alike in one part,
    the last one (the answer) first, if every row has it.
    """
    pairs, scores, left_out = similar_sets.similar_pairs(values, offsets, threshold, among)
    kinds, sizes = (len(bounds) - 1) // max(1, len(offsets) - 1), np.diff(bounds)
    filled = [part for part in range(kinds) if sizes[part::kinds].any()]
    if len(filled) < 2:  # then the part is the whole
        return pairs, scores, left_out
    for part in reversed(filled):
        if left_out and sizes[part::kinds][among].all():
            own = np.repeat(np.arange(len(sizes)) % kinds == part, sizes)
            found = similar_sets.similar_pairs(values[own], flat.offsets_of(sizes[part::kinds]), threshold, among)
            if found[2] < left_out:
                pairs, _, left_out = found
    scores = similar_sets.part_jaccards(values, bounds, kinds, pairs)
    return pairs[scores >= threshold], scores[scores >= threshold], left_out


def reject_worse(table, stays, distinct, find, similarity, rank, measure: str, counts: Counter | None) -> pa.Table:
    """Keeps the best of what is alike. Where rows met too many others, those that are left meet again."""
    edges = [np.stack([np.flatnonzero(stays != np.arange(len(stays))), stays[stays != np.arange(len(stays))]], axis=1)]
    values = np.ones(len(stays))  # similarity of each row to the one that stays for it
    while True:
        pairs, scores, not_compared = find(distinct)
        kept = clusters.keep_best(len(stays), pairs, rank)
        gone = distinct[~kept[distinct]]
        nearest, likeness = clusters.nearest_kept(len(stays), pairs, scores, kept, rank)
        stays[gone], values[gone] = nearest[gone], likeness[gone]
        edges.append(pairs)
        if not not_compared or not len(gone):
            break
        distinct = distinct[kept[distinct]]
    direct = stays
    while not np.array_equal(stays[stays], stays):
        stays = stays[stays]
    rows, moved = np.flatnonzero(stays != np.arange(len(stays))), np.flatnonzero(stays != direct)
    values[moved] = similarity(np.stack([moved, stays[moved]], axis=1))
    if counts is not None:
        edges = np.concatenate(edges)
        sizes = np.bincount(clusters.components(len(stays), edges)) if len(edges) else np.empty(0, int)
        counts["pairs"] += len(edges)
        counts["clusters"] += int((sizes > 1).sum())
        counts["largest_cluster"] = int(sizes.max(initial=0)) if len(edges) else 0
        counts["not_compared"] += not_compared
        counts["largest"] = _largest(table, stays[rows])
    where = [str(row) for row in stays[rows].tolist()]
    if "id" in table.column_names:
        ids = table["id"].take(pa.array(stays[rows])).to_pylist()
        where = [f"{row} (id {name})" for row, name in zip(where, ids, strict=True)]
    details = [
        f"{measure} {value:.3f} with row {place}" for value, place in zip(values[rows].tolist(), where, strict=True)
    ]
    mask = np.zeros(table.num_rows, dtype=bool)
    mask[rows] = True
    return flat.reject(table, mask, "near_duplicate", "messages", details)


def _largest(table: pa.Table, stays: np.ndarray) -> list[dict]:
    """The rows that stay for the most others: `row`, `id`, and `rows`, how many each stands for, itself included."""
    kept, counts = np.unique(stays, return_counts=True)
    first = np.argsort(-counts, kind="stable")[:LARGEST]
    ids = table["id"].take(pa.array(kept[first])).to_pylist() if "id" in table.column_names else [None] * len(first)
    entries = zip(kept[first].tolist(), ids, (counts[first] + 1).tolist(), strict=True)
    return [{"row": row, "id": name, "rows": rows} for row, name, rows in entries]


def check_numbers(threshold: float, shingle: int, tokenizer: str, step: str) -> None:
    shingles.check_tokenizer(tokenizer, step)
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (threshold, shingle))
    if not numbers or not 0 < threshold <= 1 or not isinstance(shingle, int) or shingle < 1:
        raise ConfigError(
            f"{step}: threshold={threshold!r}, shingle={shingle!r}: above 0 up to 1, and 1 or more, are right."
        )


def check_by(table: pa.Table, by: str, prefer: str, step: str) -> None:
    if not isinstance(by, str) or by not in BY:
        known = "; ".join(f"{key!r}: {value}" for key, value in BY.items())
        raise ConfigError(f"{step}: by={by!r} is not known; {known}.{did_you_mean(str(by), BY)}")
    clusters.check_prefer(table, prefer, step)
