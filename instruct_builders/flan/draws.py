"""Random numbers that belong to a row: the same for any number of processes, any sharding and any numpy.

A draw is a hash of (seed, task, purpose, counter), so nothing depends on what was drawn before. The mixing function is
splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
"""

from __future__ import annotations

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def draw(seed: int, task: str, purpose: str, counters: np.ndarray) -> np.ndarray:
    """One uint64 per counter, uniform over all 64-bit numbers; the shape is that of `counters`."""
    key = hashlib.blake2b(f"{seed}\0{task}\0{purpose}".encode(), digest_size=8).digest()
    mixed = (counters.astype(np.uint64) + np.uint64(1)) * _GOLDEN + np.uint64(int.from_bytes(key, "little"))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    return mixed ^ (mixed >> np.uint64(31))


def below(limit: int | np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Draws -> whole numbers from 0 to `limit` - 1. The bias is below limit / 2**64."""
    return (drawn % np.asarray(limit, np.uint64)).astype(np.int64)


def chosen(share: float, drawn: np.ndarray) -> np.ndarray:
    """Draws -> whether each is among the given share of all."""
    return uniform(drawn) < share


def uniform(drawn: np.ndarray) -> np.ndarray:
    """Draws -> float64 from 0 to below 1."""
    return (drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53
