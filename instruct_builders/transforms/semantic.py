"""Duplicates by meaning, over a whole table: rows whose embeddings point the same way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ConfigError
from . import clusters, flat
from .embedding import check_embed, embedded, embedder
from .near_duplicates import check_by, grouped, reject_worse, said
from .spread import SAMPLE, drawn, of_vectors

BLOCK = 1024  # rows compared with all later ones at a time


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
        embed (`Callable` or `str`): List of texts -> float array of shape (texts, dimensions). In YAML: where to
            import it from, `module:function`; or a model for sentence-transformers (the extra `embed`), a folder or
            its name on the Hub, best with a commit: `org/name@commit`.
        by (`str`, *optional*, defaults to `"instruction"`): A key of [`near_duplicates.BY`].
        threshold (`float`, *optional*, defaults to 0.95): Cosine similarity from which two rows are alike.
        prefer (`str`, *optional*, defaults to `"score"`): As for [`near_duplicates`].
        batch_size (`int`, *optional*, defaults to 1024): Texts handed to `embed` at a time.
        counts (`Counter`, *optional*): As for [`near_duplicates`], and `spread` (see there) of a sample.

    Raises:
        ConfigError: If an argument is out of its range, or `embed` can't be imported or gives no such array.
    """
    step = "semantic_duplicates"
    check_by(table, by, prefer, step)
    check_embed(embed)
    if not -1 <= threshold <= 1 or batch_size < 1:
        raise ConfigError(
            f"{step}: threshold={threshold}, batch_size={batch_size}: -1 to 1, and 1 or more, are right."
        )
    function = embedder(embed) if isinstance(embed, str) else embed
    texts, owners = said(table, by)
    lists = pa.LargeListArray.from_arrays(*grouped(texts, owners, table.num_rows))
    joined = pc.binary_join(lists, pa.scalar("\n", pa.large_string()))
    filled = pc.not_equal(pc.utf8_trim_whitespace(joined), pa.scalar("", pa.large_string()))
    rows = np.flatnonzero(flat.open_rows(table) & flat.booleans(filled))
    chosen = joined.take(pa.array(rows))
    vectors = [embedded(function, chosen.slice(start, batch_size)) for start in range(0, len(rows), batch_size)]
    vectors = np.concatenate(vectors) if vectors else np.empty((0, 1), np.float32)
    if counts is not None and len(rows):
        counts["spread"] = {"of": "embeddings", **of_vectors(vectors[drawn(np.arange(len(rows)), SAMPLE, seed=42)])}
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
    return reject_worse(table, stays, rows, find, similarity, rank, "cosine similarity", counts)
