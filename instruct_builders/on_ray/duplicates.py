"""Exact duplicates, and duplicate ids: a group-by on the hash of what is compared."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..transforms import clusters, dedup, flat
from . import cluster, work

GROUP_ROWS = 1 << 20  # rows per group of a shuffle, about: a group is one table in one task
PARTS = 1_000  # of a shuffle, at most
VERDICT = pa.schema({"block": pa.int64(), "row": pa.int64(), "detail": pa.string()})


def exact(rows: work.Rows, number: int, given: dict) -> tuple[Callable, dict]:
    """Rows that say what an earlier one says; see [`dedup.exact_duplicates`]."""
    keys = functools.partial(_said, by=given["by"], normalize=given["normalize"])
    return _found(rows, number, keys, f"same {dedup.BY[given['by']]}", given["prefer"])


def ids(rows: work.Rows, number: int, given: dict) -> tuple[Callable, dict]:
    """Rows whose id an earlier row has; see [`dedup.duplicate_ids`]."""
    return _found(rows, number, functools.partial(_ids, column=given["column"]), "same id", "earlier")


def _found(rows: work.Rows, number: int, keys: Callable, same: str, prefer: str) -> tuple[Callable, dict]:
    count, rank = buckets(len(rows)), ranking(rows, prefer, "exact_duplicates")
    keyed = cluster.tables(rows.blocks, _keyed, rows.folder, rows.stage, rows.starts(), keys, rank, count)
    later = cluster.together(keyed, "bucket", _later, same, parts=parts(count))
    saved = cluster.together(later, "block", _saved, rows.folder, number, parts=parts(len(rows.blocks)))
    cluster.run(saved)
    return verdicts, {}


def buckets(rows: int) -> int:
    """Groups of a shuffle for so many rows: enough for every core, and each small enough for one task."""
    return max(2 * cluster.cores(), -(-rows // GROUP_ROWS))


def parts(groups: int) -> int:
    """Partitions of a shuffle: every block sends a piece to each, and Ray keeps book of all pieces."""
    return min(groups, max(2 * cluster.cores(), 8), PARTS)


def verdicts(folder: str, number: int, block: int) -> pa.Table:
    """The rows of a block that a step rejects, and why."""
    path = work.place(folder, "verdict", number, block)
    return work.load(path) if path.is_file() else VERDICT.empty_table()


def _said(table: pa.Table, by: str, normalize: bool) -> list[bytes | None]:
    pieces = [table.slice(start, dedup.SLICE) for start in range(0, len(table), dedup.SLICE)]
    return [key for piece in pieces for key in dedup.digests(piece, by, normalize)]


def _ids(table: pa.Table, column: str) -> list[bytes | None]:
    name, _, key = column.partition(".")
    values = flat.storage(flat.one_array(table[name]))
    if key:
        known = [json.loads(text).get(key) if text else None for text in values.to_pylist()]
        texts = [None if value is None else json.dumps(value) for value in known]
    else:
        texts = pc.cast(values, pa.string()).to_pylist()
    return [None if text is None else hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]


def ranking(rows: work.Rows, prefer: str, step: str) -> Callable:
    """Table, rows -> their scores and lengths of answers, by which the better of two rows is told."""
    judged = False
    if prefer == "score":
        judged = any(cluster.each(rows.blocks, _judged, rows.folder, rows.stage))
    return functools.partial(_ranking, prefer=prefer, step=step, judged=judged)


def _judged(block: int, folder: str, stage: int) -> bool:
    """Whether a judge has said something about a row here: then its word counts for all rows, and no other score."""
    return _has_judge(work.load(work.place(folder, "rows", stage, block)))


def _has_judge(table: pa.Table) -> bool:
    return pc.any(pc.match_substring(flat.storage(flat.one_array(table["meta"])), '"judge"')).as_py() or False


def _ranking(table: pa.Table, rows: np.ndarray, prefer: str, step: str, judged: bool) -> tuple[np.ndarray, np.ndarray]:
    score, length = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
    if prefer != "earlier":
        length = clusters.answer_lengths(table)[rows]
    if prefer not in ("earlier", "longer"):
        score = clusters.scores_of(table, rows, prefer, step)
    if judged and "score" not in table.column_names and not _has_judge(table):
        score = np.full(len(rows), -np.inf)
    return score, length


def _keyed(
    block: int, folder: str, stage: int, starts: dict, keys: Callable, rank: Callable, buckets: int
) -> pa.Table:
    table = work.load(work.place(folder, "rows", stage, block))
    found = pa.array(keys(table), pa.binary(16))
    rows = np.flatnonzero(flat.booleans(found.is_valid()))
    found = found.drop_null()
    words = np.frombuffer(found.buffers()[1] or b"", np.uint64)[: 2 * len(found)]
    bucket = (words[::2] % np.uint64(buckets)).astype(np.int64)
    return pa.table({"bucket": bucket, "key": found, **standing(table, block, rows, rows + starts[block], rank)})


def standing(table: pa.Table, block: int, rows: np.ndarray, positions: np.ndarray, rank: Callable) -> dict:
    """The columns that say which rows of a block these are, and by which the better of two is told."""
    score, length = rank(table, rows)
    names = flat.one_array(table["id"]).take(pa.array(rows))
    where = {"position": positions, "block": np.full(len(rows), block), "row": rows}
    return {**where, "score": score, "length": length, "id": names}


def _later(group: pa.Table, same: str) -> pa.Table:
    """Of the rows that share a key all but the best, and which that is."""
    codes = flat.one_array(group["key"]).dictionary_encode().indices.to_numpy()
    position, score, length = (group[name].to_numpy() for name in ("position", "score", "length"))
    order = np.lexsort([position, -length, -score, codes])
    _, firsts, inverse = np.unique(codes[order], return_index=True, return_inverse=True)
    kept = order[firsts[inverse]]
    others = kept != order
    positions, ids = (group[name].take(pa.array(kept[others])).to_pylist() for name in ("position", "id"))
    details = [f"{same} as row {position} (id {name})" for position, name in zip(positions, ids, strict=True)]
    chosen = group.select(["block", "row"]).take(pa.array(order[others]))
    return pa.table([*chosen.columns, pa.array(details, pa.string())], schema=VERDICT)


def _saved(group: pa.Table, folder: str, number: int) -> pa.Table:
    block = group["block"][0].as_py()
    work.save(work.place(folder, "verdict", number, block), group.sort_by("row").combine_chunks())
    return pa.table({"block": [block]})
