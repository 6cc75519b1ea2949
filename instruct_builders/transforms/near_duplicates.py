"""Near duplicates over a whole table: by the words they share, exactly, or by embeddings.

Memory, besides the table, at its peak: about 13 bytes per shingle of the texts that are compared, so 1.3 GB for a
million texts of 100 words; benchmarks/results/dedup.json has it measured.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable

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
BLOCK = 1024  # rows compared with all later ones at a time, for embeddings


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
            `largest_cluster`, and `not_compared`: rows that met too many others to be compared with all of them.

    Raises:
        ConfigError: If an argument is out of its range or not known.
    """
    step = "near_duplicates"
    _check(table, by, prefer, step)
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

    return _rejected(table, stays, np.sort(ordered[first]), find, similarity, rank, "Jaccard similarity", counts)


def semantic_duplicates(
    table: pa.Table,
    embed: Callable[[list[str]], np.ndarray] | str | None = None,
    by: str = "instruction",
    threshold: float = 0.95,
    prefer: str = "score",
    batch_size: int = 1024,
    counts: Counter | None = None,
) -> pa.Table:
    """Rejects rows whose embedding is close to a better row's, as `near_duplicate`. For whole tables.

    All pairs are compared: rows squared times dimensions. Run it on what exact and near duplicates have left.

    Args:
        table (`pa.Table`): Records.
        embed (`Callable` or `str`): List of texts -> float array of shape (texts, dimensions), such as the `encode` of
            a `sentence_transformers.SentenceTransformer`; in YAML, where to import it from: `module:function`.
        by (`str`, *optional*, defaults to `"instruction"`): A key of [`BY`].
        threshold (`float`, *optional*, defaults to 0.95): Cosine similarity from which two rows are alike.
        prefer (`str`, *optional*, defaults to `"score"`): As for [`near_duplicates`].
        batch_size (`int`, *optional*, defaults to 1024): Texts handed to `embed` at a time.
        counts (`Counter`, *optional*): As for [`near_duplicates`].

    Raises:
        ConfigError: If an argument is out of its range, or `embed` can't be imported or gives no such array.
    """
    step = "semantic_duplicates"
    _check(table, by, prefer, step)
    if embed is None:
        raise ConfigError(f"{step}: give embed: a function from texts to vectors, or where it is, as module:function.")
    if not -1 <= threshold <= 1 or batch_size < 1:
        raise ConfigError(
            f"{step}: threshold={threshold}, batch_size={batch_size}: -1 to 1, and 1 or more, are right."
        )
    function = _imported(embed) if isinstance(embed, str) else embed
    texts, owners = said(table, by)
    lists = pa.LargeListArray.from_arrays(*_grouped(texts, owners, table.num_rows))
    joined = pc.binary_join(lists, pa.scalar("\n", pa.large_string()))
    filled = pc.not_equal(pc.utf8_trim_whitespace(joined), pa.scalar("", pa.large_string()))
    rows = np.flatnonzero(flat.open_rows(table) & flat.booleans(filled))
    chosen = joined.take(pa.array(rows))
    vectors = [_embedded(function, chosen.slice(start, batch_size)) for start in range(0, len(rows), batch_size)]
    vectors = np.concatenate(vectors) if vectors else np.empty((0, 1), np.float32)
    rank, number = np.zeros(table.num_rows, np.int64), np.zeros(table.num_rows, np.int64)
    rank[rows], number[rows] = clusters.ranks(table, rows, prefer, step), np.arange(len(rows))

    def find(some: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        pairs, scores = [np.empty((0, 2), np.int64)], [np.empty(0)]
        for start in range(0, len(vectors), BLOCK):
            cosine = vectors[start : start + BLOCK] @ vectors[start:].T
            found = np.argwhere(np.triu(cosine >= threshold, 1))
            pairs.append(found + start)
            scores.append(cosine[found[:, 0], found[:, 1]].astype(float))
        return some[np.concatenate(pairs)], np.concatenate(scores), 0

    def similarity(pairs: np.ndarray) -> np.ndarray:
        return np.einsum("ij,ij->i", vectors[number[pairs[:, 0]]], vectors[number[pairs[:, 1]]]).astype(float)

    stays = np.arange(table.num_rows)
    return _rejected(table, stays, rows, find, similarity, rank, "cosine similarity", counts)


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
    values, lengths = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for start in range(0, table.num_rows, size):
        piece = table.slice(start, size)
        texts, owners = said(piece, by)
        tokens, offsets = shingles.hashed_tokens(texts, tokenizer)
        own, bounds = similar_sets.run_sets(tokens, offsets, owners, shingle, piece.num_rows)
        values.append(own)
        lengths.append(np.diff(bounds))
    return np.concatenate(values), flat.offsets_of(np.concatenate(lengths))


def _rejected(table, stays, distinct, find, similarity, rank, measure: str, counts: Counter | None) -> pa.Table:
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


def _check(table: pa.Table, by: str, prefer: str, step: str) -> None:
    if by not in BY:
        known = "; ".join(f"{key!r}: {value}" for key, value in BY.items())
        raise ConfigError(f"{step}: by={by!r} is not known; {known}.{did_you_mean(str(by), BY)}")
    clusters.check_prefer(table, prefer, step)


def _grouped(texts: pa.Array, owners: np.ndarray, count: int) -> tuple[pa.Array, pa.Array]:
    offsets = flat.offsets_of(np.bincount(owners, minlength=count))
    return pa.array(offsets), pc.fill_null(texts, "").cast(pa.large_string())


def _embedded(embed: Callable, texts: pa.Array) -> np.ndarray:
    vectors = np.asarray(embed(texts.to_pylist()), np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all() or not vectors.any(1).all():
        raise ConfigError(
            f"semantic_duplicates: embed gave an array of shape {vectors.shape} for {len(texts)} texts: one finite, "
            "non-zero row per text is needed."
        )
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _imported(place: str) -> Callable:
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"semantic_duplicates: embed={place!r} can't be imported ({error}): give module:function, of a module "
            "that Python finds, such as a file in a folder of PYTHONPATH."
        ) from error
