"""Near duplicates among all blocks: prefix filtering as a group-by on shingles, then the same keep rule.

The same exact pairs as `similar_sets.similar_pairs` finds in one table: any order of the shingles that is the same for
all rows will do for prefix filtering, and here it is how often a sample of the rows has them, then their hash. A set
goes through a shuffle twice: its prefix to where others with the same shingle are, and, where it met any, itself to
where they are compared. Pairs, 16 bytes each and with their rows' scores, are decided on by the driver.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..transforms import clusters, flat
from ..transforms.near_duplicates import LARGEST
from ..transforms.parts import row_sets, short_answers
from . import cluster, duplicates, meetings, work

SAMPLE_ROWS = 1_000_000  # whose shingles say which are frequent
SHINGLES = 128  # per row, for the size of the table of frequencies
LEVEL_BITS = 26  # at most, of that table: 64 MB for every machine; what shares a place seems less rare
NUMBERS = ("digest", "position", "block", "row", "score", "length")


def find(rows: work.Rows, number: int, given: dict) -> tuple[Callable, dict]:
    """Rows that are near duplicates of a better one, and the account; see [`near_duplicates.near_duplicates`]."""
    starts, blocks = rows.starts(), rows.blocks
    sets = functools.partial(_sets, folder=rows.folder, stage=rows.stage, starts=starts, given=given)
    count = duplicates.buckets(len(rows))
    rank = duplicates.ranking(rows, given["prefer"], "near_duplicates")
    light = cluster.tables(blocks, _light, sets, rank, count)
    best = cluster.together(light, "bucket", _best, parts=duplicates.parts(count))
    saved = cluster.together(best, "block", _saved, rows.folder, number, parts=duplicates.parts(len(blocks)))
    told = cluster.run(saved)
    levels = _levels(sets, blocks, len(rows))
    pairs, decided, not_compared = _decided(rows, number, sets, levels, given)
    counts = _counts(told, pairs, decided, not_compared)
    largest = cluster.each(blocks, _largest, rows.folder, number, decided["position"])
    nodes = _standing(decided)
    best_first = sorted([*nodes, *(entry for some in largest for entry in some)], key=lambda e: (-e[2], e[0]))
    counts["largest"] = [{"row": row, "id": name, "rows": size} for row, name, size in best_first[:LARGEST]]
    return functools.partial(_verdicts, decided=decided), counts


def _sets(block: int, folder: str, stage: int, starts: dict, given: dict, some: np.ndarray | None = None):
    """A block's rows (those at `some` places, where given), their places among all, and their sets of shingles, as
    [`parts.row_sets`] gives them."""
    table = work.load(work.place(folder, "rows", stage, block))
    positions = starts[block] + np.arange(len(table))
    if some is not None:
        inside = some[np.searchsorted(some, positions[0]) : np.searchsorted(some, positions[-1], side="right")]
        table, positions = table.take(pa.array(inside - starts[block])), inside
    return table, positions, *row_sets(table, given["by"], given["shingle"], given["tokenizer"])


def _light(block: int, sets: Callable, rank: Callable, buckets: int) -> pa.Table:
    """What is to be known of each row that has any text, without the text."""
    table, positions, values, offsets, bounds = sets(block)
    rows = np.flatnonzero(np.diff(offsets))
    digests = np.add.reduceat(values, offsets[rows]) if len(rows) else np.empty(0, np.uint64)
    bucket = (digests % np.uint64(buckets)).astype(np.int64)
    short = short_answers(bounds, sets.keywords["given"]["by"])[rows]
    known = {"short": short, **duplicates.standing(table, block, rows, positions[rows], rank)}
    return pa.table({"bucket": bucket, "digest": digests, **known})


def _best(group: pa.Table) -> pa.Table:
    """Rows with the best of those that have the same set (`stays`, `stays_id`), and how many these are (`copies`)."""
    digest, position, block, row, score, length = (group[name].to_numpy() for name in NUMBERS)
    order = np.lexsort([position, -length, -score, digest])
    first = np.ones(len(order), dtype=bool)
    first[1:] = digest[order][1:] != digest[order][:-1]
    leaders = np.flatnonzero(first)
    sizes = np.diff(np.append(leaders, len(order)))
    best = np.repeat(order[leaders], sizes)
    ids = flat.one_array(group["id"])
    columns = {
        "short": group["short"].take(pa.array(order)),
        "block": block[order],
        "row": row[order],
        "position": position[order],
        "stays": position[best],
        "stays_id": ids.take(pa.array(best)),
        "id": ids.take(pa.array(order)),
        "copies": np.repeat(sizes, sizes),
        "score": score[order],
        "length": length[order],
    }
    return pa.table(columns)


def _saved(group: pa.Table, folder: str, number: int) -> pa.Table:
    block, group = group["block"][0].as_py(), group.sort_by("row").combine_chunks()
    work.save(work.place(folder, "light", number, block), group)
    repeated = pc.not_equal(group["position"], group["stays"])
    leading = group.filter(pc.and_(pc.invert(repeated), pc.greater(group["copies"], 1)))
    largest = pc.max(leading["copies"]).as_py() or 0
    told = {"short": [pc.sum(group["short"]).as_py() or 0], "later": [pc.sum(repeated).as_py() or 0]}
    return pa.table({**told, "groups": [len(leading)], "largest": [largest]})


def _levels(sets: Callable, blocks: list[int], rows: int) -> np.ndarray:
    """How frequent shingles are in a sample, as a power of two: uint8, by the low bits of their hash."""
    bits = min(LEVEL_BITS, (min(rows, SAMPLE_ROWS) * SHINGLES).bit_length())
    counts = np.zeros(1 << bits, np.float32)
    for places, found in cluster.each(blocks, _sampled, sets, -(-rows // SAMPLE_ROWS), bits):
        counts[places] += found
    return np.frexp(counts)[1].astype(np.uint8)


def _sampled(block: int, sets: Callable, stride: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    start = sets.keywords["starts"][block]
    size = work.load(work.place(sets.keywords["folder"], "rows", sets.keywords["stage"], block)).num_rows
    some = np.arange(-(-start // stride) * stride, start + size, stride)
    if not len(some):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    _, _, values, _, _ = sets(block, some=some)
    return np.unique((values & np.uint64((1 << bits) - 1)).astype(np.int64), return_counts=True)


def _decided(rows: work.Rows, number: int, sets: Callable, levels: np.ndarray, given: dict):
    """All pairs, and which row stays for each row in them. Where rows met too many, those left meet again."""
    pairs, scores = np.empty((0, 2), np.int64), np.empty(0)
    gone, keeper, value = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    while True:
        args = (sets, number, levels, given["threshold"], gone)
        found, likeness, not_compared = meetings.similar_pairs(rows, *args)
        pairs, scores = np.concatenate([pairs, found]), np.concatenate([scores, likeness])
        nodes, inverse = np.unique(found, return_inverse=True)
        known = _of_nodes(rows, number, nodes)
        numbered = inverse.reshape(found.shape)
        rank = _rank(known)
        kept = clusters.keep_best(len(nodes), numbered, rank)
        nearest, close = clusters.nearest_kept(len(nodes), numbered, likeness, kept, rank)
        fallen = np.flatnonzero(~kept)
        gone = np.concatenate([gone, nodes[fallen]])
        keeper, value = np.concatenate([keeper, nodes[nearest[fallen]]]), np.concatenate([value, close[fallen]])
        if not not_compared or not len(fallen):
            break
    known = _of_nodes(rows, number, np.unique(pairs))
    place = np.arange(len(known["position"]))
    place[np.searchsorted(known["position"], gone)] = np.searchsorted(known["position"], keeper)
    direct, alike = place, np.ones(len(place))
    alike[np.searchsorted(known["position"], gone)] = value
    while not np.array_equal(place[place], place):
        place = place[place]
    if len(moved := np.flatnonzero(place != direct)):
        wanted = known["position"][np.stack([moved, place[moved]], axis=1)]
        compared, likeness = meetings.compared(rows, sets, wanted, -1.0)
        order = np.searchsorted(known["position"], compared)
        low = np.where(place[order[:, 0]] == order[:, 1], order[:, 0], order[:, 1])
        alike[low] = likeness
    decided = {**known, "stays": known["position"][place], "stays_id": known["id"][place], "value": alike}
    return pairs, decided, not_compared


def _rank(known: dict[str, np.ndarray]) -> np.ndarray:
    rank = np.empty(len(known["position"]), np.int64)
    order = np.lexsort([known["position"], -known["length"], -known["score"]])
    rank[order] = np.arange(len(rank))
    return rank


def _of_nodes(rows: work.Rows, number: int, nodes: np.ndarray) -> dict[str, np.ndarray]:
    """What the light tables say about rows, by place."""
    starts = rows.starts()
    edges = np.searchsorted(nodes, [starts[block] for block in rows.blocks] + [len(rows)])
    filled = [block for block, size in zip(rows.blocks, np.diff(edges), strict=True) if size]
    names = ["position", "score", "length", "copies", "id"]
    found = cluster.each(filled, _selected, rows.folder, number, nodes, names)
    columns = {name: [part[name] for part in found] for name in names}
    kinds = dict(zip(names, (np.int64, float, np.int64, np.int64, object), strict=True))
    return {name: np.concatenate([np.empty(0, kinds[name]), *parts]) for name, parts in columns.items()}


def _selected(block: int, folder: str, number: int, nodes: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    light = work.load(work.place(folder, "light", number, block)).select(names)
    light = light.filter(pa.array(np.isin(light["position"].to_numpy(), nodes)))
    return {name: light[name].to_numpy() for name in names}


def _counts(told: dict, pairs: np.ndarray, decided: dict, not_compared: int) -> dict:
    """Pairs and clusters over both kinds: rows with the same set, and sets that are alike."""
    sizes = np.empty(0, np.int64)
    if len(pairs):
        numbered = np.searchsorted(decided["position"], pairs)
        labels = clusters.components(len(decided["position"]), numbered)
        sizes = np.bincount(labels, weights=decided["copies"]).astype(np.int64)
        sizes = sizes[sizes > 0]
    apart = int(np.sum(told.get("groups", 0))) - int((decided["copies"] > 1).sum())
    largest = max([0, *sizes.tolist(), *np.atleast_1d(told.get("largest", 0)).tolist()])
    return {
        "short_answers": int(np.sum(told.get("short", 0))),
        "pairs": int(np.sum(told.get("later", 0))) + len(pairs),
        "clusters": len(sizes) + apart,
        "largest_cluster": largest,
        "not_compared": not_compared,
    }


def _standing(decided: dict) -> list[tuple[int, str, int]]:
    """Rows in pairs that stay for others: place, id, and how many they stand for, themselves included."""
    stand = np.zeros(len(decided["position"]), np.int64)
    np.add.at(stand, np.searchsorted(decided["position"], decided["stays"]), decided["copies"])
    some = np.flatnonzero(stand > 1)
    return list(
        zip(decided["position"][some].tolist(), decided["id"][some].tolist(), stand[some].tolist(), strict=True)
    )


def _largest(block: int, folder: str, number: int, nodes: np.ndarray) -> list[tuple[int, str, int]]:
    """The same for rows that are in no pair, but have copies: the first few."""
    path = work.place(folder, "light", number, block)
    if not path.is_file():
        return []
    light = work.load(path)
    leads = pc.and_(pc.equal(light["position"], light["stays"]), pc.greater(light["copies"], 1))
    light = light.filter(pc.and_(leads, pa.array(~np.isin(light["position"].to_numpy(), nodes))))
    light = light.sort_by([("copies", "descending"), ("position", "ascending")]).slice(0, LARGEST)
    return list(zip(*(light[name].to_pylist() for name in ("position", "id", "copies")), strict=True))


def _verdicts(folder: str, number: int, block: int, decided: dict) -> pa.Table:
    """The rows of a block that go, and for which better row: of equal sets the best may itself have gone."""
    path = work.place(folder, "light", number, block)
    if not path.is_file():
        return duplicates.VERDICT.empty_table()
    light = work.load(path)
    stays, ids, value = light["stays"].to_numpy().copy(), light["stays_id"].to_numpy(), np.ones(len(light))
    ids = ids.astype(object)
    if len(decided["position"]):
        at = np.minimum(np.searchsorted(decided["position"], stays), len(decided["position"]) - 1)
        moved = (decided["position"][at] == stays) & (decided["stays"][at] != stays)
        stays[moved], ids[moved] = decided["stays"][at[moved]], decided["stays_id"][at[moved]]
        value[moved] = decided["value"][at[moved]]
    gone = np.flatnonzero(light["position"].to_numpy() != stays)
    entries = zip(value[gone].tolist(), stays[gone].tolist(), ids[gone].tolist(), strict=True)
    details = [f"Jaccard similarity {score:.3f} with row {row} (id {name})" for score, row, name in entries]
    rows = light["row"].take(pa.array(gone))
    return pa.table({"row": rows, "detail": pa.array(details, pa.string())})
