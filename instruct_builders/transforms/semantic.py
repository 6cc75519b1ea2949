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
from .near_duplicates import check_by, reject_worse
from .parts import PARTS, row_sets, said, short_answers, tool_marks
from .spread import SAMPLE, drawn, of_vectors

BLOCK = 1024  # rows compared with all later ones at a time
NEVER = -2.0  # below every cosine: one of two rows lacks the part, or they may not be duplicates at all


def semantic_duplicates(
    table: pa.Table,
    embed: Callable[[list[str]], np.ndarray] | str | None = None,
    by: str = "instruction",
    threshold: float = 0.95,
    prefer: str = "score",
    batch_size: int = 1024,
    counts: Counter | None = None,
) -> pa.Table:
    """Rejects rows whose embeddings are close to a better row's, as `near_duplicate`. For whole tables.

    As in [`near_duplicates`], each part is compared with the same part, the smallest similarity counts, and rows with
    other `tools` or calls are no duplicates. With `by="both"` rows of short answers are left to the other steps. All
    pairs are compared: rows squared times dimensions. Run it on what exact and near duplicates have left.

    Args:
        table (`pa.Table`): Records.
        embed (`Callable` or `str`): List of texts -> float array of shape (texts, dimensions). In YAML: where to
            import it from, `module:function`; or a model for sentence-transformers (the extra `embed`), a folder or
            its name on the Hub, best with a commit: `org/name@commit`.
        by (`str`, *optional*, defaults to `"instruction"`): A key of [`parts.BY`].
        threshold (`float`, *optional*, defaults to 0.95): Cosine similarity of every part from which two rows
            are alike.
        prefer (`str`, *optional*, defaults to `"score"`): As for [`near_duplicates`].
        batch_size (`int`, *optional*, defaults to 1024): Texts handed to `embed` at a time.
        counts (`Counter`, *optional*): As for [`near_duplicates`], and `spread` (see there) of a sample.

    Raises:
        ConfigError: If an argument is out of its range, or `embed` can't be imported or gives no such array.
    """
    step = "semantic_duplicates"
    check_by(table, by, prefer, step)
    check_embed(embed)
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (threshold, batch_size))
    if not numbers or not -1 <= threshold <= 1 or batch_size < 1:
        raise ConfigError(
            f"{step}: threshold={threshold!r}, batch_size={batch_size!r}: -1 to 1, and 1 or more, are right."
        )
    function = embedder(embed) if isinstance(embed, str) else embed
    texts, rows, places = _texts(table, by)
    vectors = [embedded(function, texts.slice(start, batch_size)) for start in range(0, len(texts), batch_size)]
    vectors = np.concatenate([*vectors, np.zeros((1, vectors[0].shape[1] if vectors else 1), np.float32)])
    if counts is not None and len(rows):
        some = places[drawn(np.arange(len(rows)), SAMPLE, seed=42)].max(axis=1)  # the answer, where that is a part
        counts["spread"] = {"of": "embeddings", **of_vectors(vectors[some])}
    rank, number = np.zeros(table.num_rows, np.int64), np.zeros(table.num_rows, np.int64)
    rank[rows], number[rows] = clusters.ranks(table, rows, prefer, step), np.arange(len(rows))
    marks = tool_marks(table)[rows]

    def find(some: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        pairs, scores = [np.empty((0, 2), np.int64)], [np.empty(0)]
        for start in range(0, len(rows), BLOCK):
            cosine = _smallest(vectors, places[start : start + BLOCK], places[start:])
            cosine[marks[start : start + BLOCK, None] != marks[None, start:]] = NEVER
            found = np.argwhere(np.triu(cosine >= threshold, 1))
            pairs.append(found + start)
            scores.append(cosine[found[:, 0], found[:, 1]].astype(float))
        return some[np.concatenate(pairs)], np.concatenate(scores), 0

    def similarity(pairs: np.ndarray) -> np.ndarray:
        ones, others = places[number[pairs[:, 0]]], places[number[pairs[:, 1]]]
        products = np.einsum("pkd,pkd->pk", vectors[ones], vectors[others]).astype(float)
        return np.where((ones < 0) & (others < 0), 1.0, products).min(axis=1, initial=1.0)

    stays = np.arange(table.num_rows)
    return reject_worse(table, stays, rows, find, similarity, rank, "cosine similarity", counts)


def _texts(table: pa.Table, by: str) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """What is embedded, the rows (int64) that are compared, and which text (int64, shape (rows, parts)) each part of
    theirs is, -1 where there is none."""
    texts, owners = said(table, by)
    kinds = len(PARTS[by])
    offsets = flat.offsets_of(np.bincount(owners, minlength=table.num_rows * kinds))
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pc.fill_null(texts, "").cast(pa.large_string()))
    joined = pc.binary_join(lists, pa.scalar("\n", pa.large_string()))
    filled = pc.not_equal(pc.utf8_trim_whitespace(joined), pa.scalar("", pa.large_string()))
    filled = flat.booleans(filled).reshape(-1, kinds)
    compared = flat.open_rows(table) & filled.any(axis=1)
    if by == "both":
        compared &= ~short_answers(row_sets(table, by, 3, "unicode")[2], by)
    filled &= compared[:, None]
    places = np.where(filled, np.cumsum(filled).reshape(filled.shape) - 1, -1)
    return joined.take(pa.array(np.flatnonzero(filled))), np.flatnonzero(compared), places[compared]


def _smallest(vectors: np.ndarray, places: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The smallest cosine among the parts of every two rows: float32, shape (rows, others)."""
    smallest = np.ones((len(places), len(others)), np.float32)
    for part in range(places.shape[1]):
        ours, theirs = places[:, part], others[:, part]
        if (ours < 0).all() and (theirs < 0).all():
            continue
        cosine = vectors[ours] @ vectors[theirs].T  # place -1 is the zeros at the end
        cosine[(ours < 0)[:, None] & (theirs < 0)] = 1
        cosine[(ours < 0)[:, None] != (theirs < 0)] = NEVER
        np.minimum(smallest, cosine, out=smallest)
    return smallest
