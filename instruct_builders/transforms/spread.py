"""How different the questions of a dataset are from one another: two numbers, on a seeded sample.

Of unit vectors x: the mean distance is the mean of 1 - x·y over all pairs of different rows. The Vendi score
(Friedman, Dieng 2023) is exp(-sum(l * ln l)) over the eigenvalues l of K / n, with K the n x n products x·y: n for
rows that have nothing in common, 1 for n times the same. It grows with the sample: compare samples of one size.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from . import flat, shingles
from .parts import PARTS, said

SAMPLE = 1000  # rows: their products take 8 MB, the eigenvalues a second
BUCKETS = 4096  # of hashed words


def spread(table: pa.Table, sample: int = SAMPLE, seed: int = 42) -> dict:
    """The spread of what users say, by the words they use: TF-IDF over hashed words, without a model.

    Args:
        table (`pa.Table`): Records; rows that are rejected do not count.
        sample (`int`, *optional*, defaults to 1000): Most rows that are looked at.
        seed (`int`, *optional*, defaults to 42): Of the draw.

    Returns:
        `dict`: `of` (`"words"`), `rows`, `mean_distance` and `vendi`; the last two null where there are fewer than two
        rows.
    """
    rows = drawn(np.flatnonzero(flat.open_rows(table)), sample, seed)
    texts, owners = said(table.take(pa.array(rows)), "instruction")
    tokens, offsets = shingles.hashed_tokens(texts)
    owner = np.repeat(owners // len(PARTS["instruction"]), np.diff(offsets))
    counts = np.zeros((len(rows), BUCKETS))
    np.add.at(counts, (owner, (tokens % np.uint64(BUCKETS)).astype(np.int64)), 1.0)
    counts *= np.log((1 + len(rows)) / (1 + (counts > 0).sum(axis=0))) + 1  # a word that all rows have says little
    norms = np.linalg.norm(counts, axis=1)
    return {"of": "words", **of_vectors(counts[norms > 0] / norms[norms > 0, None])}


def drawn(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many of the rows, drawn with a seed, in ascending order."""
    return np.sort(np.random.Generator(np.random.PCG64(seed)).permutation(rows)[:most])


def of_vectors(vectors: np.ndarray) -> dict:
    """`rows`, `mean_distance` and `vendi` of unit vectors: float array of shape (rows, dimensions)."""
    count = len(vectors)
    if count < 2:
        return {"rows": count, "mean_distance": None, "vendi": None}
    products = np.asarray(vectors, float) @ np.asarray(vectors, float).T
    shares = np.linalg.eigvalsh(products / count)
    shares = shares[shares > 1e-12]
    mean = (products.sum() - np.trace(products)) / (count * (count - 1))
    entropy = -(shares * np.log(shares)).sum()
    # Rounded so far that the order in which a library adds up makes no difference.
    return {"rows": count, "mean_distance": round(1 - float(mean), 4), "vendi": round(float(np.exp(entropy)), 2)}
