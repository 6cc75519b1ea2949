"""Near duplicates over a whole table: by the words they share, exactly. `semantic` goes by embeddings.

Memory, besides the table, at its peak: about 11 bytes per shingle of the texts that are compared, so 1.0 GB for a
million texts of 100 words; benchmarks/results/dedup.json has it measured.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ConfigError, did_you_mean
from . import clusters, flat, shingles, similar_sets

BY = {
    "instruction": "what users say, and `context`",
    "output": "what assistants say",
    "both": "what users and assistants say, and `context`",
}
SPOKEN = {"instruction": (flat.USER,), "output": (flat.ASSISTANT,), "both": (flat.USER, flat.ASSISTANT)}
TEXT_BYTES = 1 << 21  # text in work at a time: a slice of the table
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

    A row goes where its Jaccard similarity with a row that stays is at least `threshold`; all such pairs are found,
    while MinHash-LSH at the same cost misses some. Rows that are rejected already, and those without any text to
    compare, are left alone. `detail` names the row that stays and the similarity.

    Args:
        table (`pa.Table`): Records.
        by (`str`, *optional*, defaults to `"instruction"`): A key of [`BY`]. Shingles don't cross turns.
        threshold (`float`, *optional*, defaults to 0.7): Jaccard similarity of the sets of shingles, above 0, at most
            1.
        shingle (`int`, *optional*, defaults to 3): Tokens in a row that make one shingle; a shorter text is one.
        tokenizer (`str`, *optional*, defaults to `"unicode"`): A key of [`shingles.TOKENIZERS`].
        prefer (`str`, *optional*, defaults to `"score"`): Which row stays: a key of [`clusters.PREFER`], a column of
            numbers, or `meta.<key>` (higher is better). Ties go to the longer answer, then to the earlier row.
        counts (`Counter`, *optional*): Gets `pairs`, `clusters` (rows that hang together, over any number of pairs),
            `largest_cluster`, `not_compared`: rows that met too many others to be compared with all of them, and
            `largest`: the rows that stay for the most others.

    Raises:
        ConfigError: If an argument is out of its range or not known.
    """
    step = "near_duplicates"
    check_by(table, by, prefer, step)
    shingles.check_tokenizer(tokenizer, step)
    if not 0 < threshold <= 1 or not isinstance(shingle, int) or shingle < 1:
        raise ConfigError(
            f"{step}: threshold={threshold}, shingle={shingle}: above 0 up to 1, and 1 or more, are right."
        )
    values, offsets = row_sets(table, by, shingle, tokenizer)
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
        return similar_sets.similar_pairs(values, offsets, threshold, among)

    def similarity(pairs: np.ndarray) -> np.ndarray:
        return similar_sets.jaccards(values, offsets, values, offsets, pairs)

    return reject_worse(table, stays, np.sort(ordered[first]), find, similarity, rank, "Jaccard similarity", counts)


def said(table: pa.Table, by: str) -> tuple[pa.Array, np.ndarray]:
    """Texts that are compared, by row, and the row (int64) of each: turns of the roles asked for, then `context`."""
    offsets, turns = flat.flatten(table)
    used = np.isin(flat.roles(turns), SPOKEN[by])
    texts, owners = flat.text(turns).filter(pa.array(used)), flat.row_of_turn(offsets)[used]
    if flat.USER in SPOKEN[by] and "context" in table.column_names:
        context = flat.one_array(table["context"])
        filled = flat.booleans(pc.is_valid(context))
        if filled.any():
            texts = pa.concat_arrays([texts, context.filter(pa.array(filled)).cast(texts.type)])
            owners = np.concatenate([owners, np.flatnonzero(filled)])
            order = np.argsort(owners, kind="stable")
            texts, owners = texts.take(pa.array(order)), owners[order]
    return texts, owners


def row_sets(table: pa.Table, by: str, shingle: int, tokenizer: str) -> tuple[np.ndarray, np.ndarray]:
    """Each row's set of shingles, as [`similar_sets`] takes them."""
    mean = max(1, table.nbytes // max(1, table.num_rows))
    size = min(similar_sets.OWNERS, max(64, TEXT_BYTES // mean))
    parts, lengths = [], [np.empty(0, np.int64)]
    for start in range(0, table.num_rows, size):
        piece = table.slice(start, size)
        texts, owners = said(piece, by)
        tokens, offsets = shingles.hashed_tokens(texts, tokenizer)
        own, bounds = similar_sets.run_sets(tokens, offsets, owners, shingle, piece.num_rows)
        parts.append(own)
        lengths.append(np.diff(bounds))
    offsets = flat.offsets_of(np.concatenate(lengths))
    values, end = np.empty(offsets[-1], np.uint64), int(offsets[-1])
    while parts:  # from the last to the first, each given back at once: all of them together take no memory twice
        last = parts.pop()
        values[end - len(last) : end] = last
        end -= len(last)
    return values, offsets


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
    for start in range(0, len(moved), similar_sets.OWNERS):
        some = moved[start : start + similar_sets.OWNERS]
        values[some] = similarity(np.stack([some, stays[some]], axis=1))
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


def check_by(table: pa.Table, by: str, prefer: str, step: str) -> None:
    if by not in BY:
        known = "; ".join(f"{key!r}: {value}" for key, value in BY.items())
        raise ConfigError(f"{step}: by={by!r} is not known; {known}.{did_you_mean(str(by), BY)}")
    clusters.check_prefer(table, prefer, step)


def grouped(texts: pa.Array, owners: np.ndarray, count: int) -> tuple[pa.Array, pa.Array]:
    offsets = flat.offsets_of(np.bincount(owners, minlength=count))
    return pa.array(offsets), pc.fill_null(texts, "").cast(pa.large_string())
