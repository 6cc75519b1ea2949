"""Sets that share a shingle of their prefixes meet in a group; those that met are compared in another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from ..transforms import flat, similar_sets
from . import cluster, duplicates, work

LEVEL_BITS, ELEMENT_BITS = 6, 46  # beside 12 bits of the owner in one integer: how frequent, and the hash
TILE_PAIRS = 1 << 18  # pairs compared in one group, about


def similar_pairs(
    rows: work.Rows, sets: Callable, number: int, levels: np.ndarray, threshold: float, gone: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """All pairs of rows with different sets whose parts have a Jaccard similarity of at least `threshold`, as places.

    Returns:
        `tuple[np.ndarray, np.ndarray, int]`: As [`similar_sets.similar_pairs`] does: the pairs, their similarities,
        and how many sets were not compared with all that they met.
    """
    count = max(2 * cluster.cores(), -(-len(rows) // (duplicates.GROUP_ROWS // 32)))
    entries = cluster.tables(rows.blocks, _prefixes, sets, number, levels, threshold, np.sort(gone), count)
    met = cluster.run(cluster.together(entries, "bucket", _met, threshold, parts=duplicates.parts(count)))
    first, second = (met.get(name, np.empty(0, np.int64)) for name in ("a", "b"))
    not_compared = int(second[first < 0].sum())
    candidates = _unique(np.stack([first, second], axis=1)[first >= 0])
    return *compared(rows, sets, candidates, threshold), not_compared


def _prefixes(
    block: int, sets: Callable, number: int, levels: np.ndarray, threshold: float, gone: np.ndarray, buckets: int
) -> pa.Table:
    """The rarest shingles of each set that no equal set stands for: one row each."""
    path = work.place(sets.keywords["folder"], "light", number, block)
    some = np.empty(0, np.int64)
    if path.is_file():
        light = work.load(path).filter(~pa.compute.field("short")).select(["position", "stays"])
        some = light["position"].to_numpy()[light["position"].to_numpy() == light["stays"].to_numpy()]
        some = some[~np.isin(some, gone)]
    _, positions, values, offsets, _ = sets(block, some=some)
    elements, owners = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for start in range(0, len(positions), similar_sets.OWNERS):
        bounds = offsets[start : start + similar_sets.OWNERS + 1]
        own, sizes = values[bounds[0] : bounds[-1]], np.diff(bounds)
        keys = np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes) << np.uint64(LEVEL_BITS + ELEMENT_BITS)
        frequent = levels[(own & np.uint64(len(levels) - 1)).astype(np.int64)].astype(np.uint64)
        keys |= frequent << np.uint64(ELEMENT_BITS)
        keys |= own >> np.uint64(LEVEL_BITS)  # 46 of its 52 bits
        keys.sort()
        wanted = similar_sets.prefix_lengths(sizes, threshold) * (sizes > 0)
        taken = similar_sets.places(bounds[:-1] - bounds[0], wanted)
        elements.append(keys[taken] & np.uint64((1 << ELEMENT_BITS) - 1))
        owners.append(start + np.repeat(np.arange(len(sizes)), wanted))
    element, owner = np.concatenate(elements), np.concatenate(owners)
    bucket = (element % np.uint64(buckets)).astype(np.int64)
    sizes = np.diff(offsets)[owner]
    return pa.table({"bucket": bucket, "element": element, "position": positions[owner], "size": sizes})


def _met(group: pa.Table, threshold: float) -> pa.Table:
    """Pairs that share an element and are alike in size; -1 and their number for sets that met too many."""
    position, size = group["position"].to_numpy(), group["size"].to_numpy()
    _, numbers, counts = np.unique(group["element"].to_numpy(), return_inverse=True, return_counts=True)
    shared = counts[numbers] > 1
    position, size, numbers = position[shared], size[shared], numbers[shared]
    if not len(position):
        return pa.table({"a": np.array([-1]), "b": np.array([0])})
    sets, first, of_set = np.unique(position, return_index=True, return_inverse=True)
    by_size = np.argsort(size[first], kind="stable")
    place = np.empty(len(sets), np.int64)
    place[by_size] = np.arange(len(sets))
    shift = np.uint64(max(1, (len(sets) - 1).bit_length()))
    entries = (numbers.astype(np.uint64) << shift) | place[of_set].astype(np.uint64)
    entries.sort()
    offsets = flat.offsets_of(size[first])
    pairs, left_out = similar_sets.meetings_of(entries, by_size, offsets, threshold)
    a, b = sets[by_size[pairs >> 32]], sets[by_size[pairs & 0xFFFFFFFF]]
    return pa.table({"a": np.append(np.minimum(a, b), -1), "b": np.append(np.maximum(a, b), left_out)})


def _unique(pairs: np.ndarray) -> np.ndarray:
    pairs = pairs[np.lexsort([pairs[:, 1], pairs[:, 0]])]
    first = np.ones(len(pairs), dtype=bool)
    first[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return pairs[first]


def compared(rows: work.Rows, sets: Callable, pairs: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Those of the pairs (places of rows) that are at least so alike, and how much.

    Pairs are laid out in tiles, by their two rows: a set is sent to as many groups as there are tiles in a row and a
    column of that square, whatever number of pairs it is in.
    """
    if not len(pairs):
        return np.empty((0, 2), np.int64), np.empty(0)
    side = int(np.ceil(np.sqrt(max(2 * cluster.cores(), -(-len(pairs) // TILE_PAIRS)))))
    tile = (pairs[:, 0] % side) * side + pairs[:, 1] % side
    order = np.argsort(tile, kind="stable")
    pairs, tile = pairs[order], tile[order]
    wanted = _unique(np.concatenate([np.stack([pairs[:, column], tile], axis=1) for column in (0, 1)]))
    starts = rows.starts()
    edges = np.searchsorted(wanted[:, 0], [starts[block] for block in rows.blocks] + [len(rows)])
    filled = [block for block, size in zip(rows.blocks, np.diff(edges), strict=True) if size]
    sent = cluster.tables(filled, _sent, sets, wanted)
    found = cluster.run(
        cluster.together(sent, "tile", _alike, pairs, tile, threshold, parts=duplicates.parts(side * side))
    )
    if not found:
        return np.empty((0, 2), np.int64), np.empty(0)
    order = np.lexsort([found["b"], found["a"]])
    return np.stack([found["a"], found["b"]], axis=1)[order], found["score"][order]


def _sent(block: int, sets: Callable, wanted: np.ndarray) -> pa.Table:
    """Each set of the block that is in a pair, once for each of its tiles."""
    _, positions, values, offsets, bounds = sets(block, some=np.unique(wanted[:, 0]))
    own = wanted[np.searchsorted(wanted[:, 0], positions[0]) :]
    own = own[: np.searchsorted(own[:, 0], positions[-1], side="right")]
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
    kinds = (len(bounds) - 1) // max(1, len(offsets) - 1)
    sizes = pa.FixedSizeListArray.from_arrays(pa.array(np.diff(bounds)), max(1, kinds))
    at = pa.array(np.searchsorted(positions, own[:, 0]))
    return pa.table({"tile": own[:, 1], "position": own[:, 0], "values": lists.take(at), "sizes": sizes.take(at)})


def _alike(group: pa.Table, pairs: np.ndarray, tile: np.ndarray, threshold: float) -> pa.Table:
    group = group.sort_by("position")
    number, positions = group["tile"][0].as_py(), group["position"].to_numpy()
    values, sizes = flat.one_array(group["values"]).flatten().to_numpy(), flat.one_array(group["sizes"])
    bounds, kinds = flat.offsets_of(sizes.flatten().to_numpy()), sizes.type.list_size
    own = pairs[np.searchsorted(tile, number) : np.searchsorted(tile, number, side="right")]
    score = similar_sets.part_jaccards(values, bounds, kinds, np.searchsorted(positions, own))
    close = score >= threshold
    return pa.table({"a": own[close, 0], "b": own[close, 1], "score": score[close]})
