"""Which rows belong together, which of them leak from what is held out, and which are the test split."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import pipeline, records
from . import cluster, duplicates, work

LEAK = {"reason": "dup_content", "field": None, "detail": "the conversation is in a split that is held out"}
KEYS = pa.schema({"bucket": pa.int64(), "key": pa.string(), "parent": pa.string(), "row": pa.int64()})


def without_leaks(rows: work.Rows, stage: int) -> tuple[work.Rows, dict[str, int]]:
    """As [`pipeline.without_leaks`]; what is held out is sent to every machine.

    Returns:
        The rows that are left, and how many were rejected, by reason.
    """
    held = [block for block in rows.blocks if rows.splits[block] != "train"]
    training = [block for block in rows.blocks if rows.splits[block] == "train"]
    if not held or not training:
        return rows, {}
    origins = _origins(rows, rows.blocks)
    parts = cluster.each(held, _held_out, rows.folder, rows.stage, origins)
    keys = pc.unique(pa.chunked_array(parts, pa.string()))
    left = dict(
        zip(training, cluster.each(training, _kept, rows.folder, rows.stage, stage, origins, keys), strict=True)
    )
    for block in held:  # as they are, under the new stage's name
        os.replace(work.place(rows.folder, "rows", rows.stage, block), work.place(rows.folder, "rows", stage, block))
    gone = sum(rows.counts[block] - left[block] for block in training)
    counts = [left.get(block, rows.counts[block]) for block in rows.blocks]
    after = rows.after(stage, counts)
    rows.drop()
    return after, {"dup_content": gone} if gone else {}


def test_rows(rows: work.Rows, test_size: float | int, seed: int) -> np.ndarray:
    """Places, among all rows, of those training rows that make the test split: as [`pipeline.train_test_masks`] draws
    them, whole conversations at a time.

    The draw is made on the driver: about 100 bytes per conversation there.
    """
    training = [block for block in rows.blocks if rows.splits[block] == "train"]
    origins, size = _origins(rows, training), sum(rows.counts[block] for block in training)
    count = duplicates.buckets(size)
    keyed = cluster.tables(training, _keyed, rows.folder, rows.stage, rows.starts(), origins, count)
    firsts = cluster.together(keyed, "bucket", _firsts, parts=duplicates.parts(count))
    save = (rows.folder, rows.stage)
    saved = cluster.together(firsts, "block", _saved, *save, parts=duplicates.parts(len(training)))
    told = cluster.run(saved)
    leaders = dict(
        zip(told.get("block", np.empty(0)).tolist(), told.get("leaders", np.empty(0)).tolist(), strict=True)
    )
    total = sum(leaders.values())
    chosen = pipeline.train_test_masks(pa.array(np.arange(total)), test_size, seed)
    ends = np.cumsum([leaders[block] for block in training])
    pieces = [
        np.packbits(chosen[end - leaders[block] : end]) for block, end in zip(training, ends.tolist(), strict=True)
    ]
    wanted = cluster.each(list(zip(training, pieces, strict=True)), _chosen, *save)
    firsts = np.sort(np.concatenate([np.empty(0, np.int64), *wanted]))
    found = cluster.each(training, _of_chosen, *save, firsts)
    return np.concatenate([np.empty(0, np.int64), *found])


def _rows(folder: str, stage: int, block: int, names: Iterable[str] = ("id", "parent")) -> pa.Table:
    return work.load(work.place(folder, "rows", stage, block)).select(list(names))


def _origins(rows: work.Rows, blocks: list[int]) -> dict[str, pa.Array]:
    """For ids of rows that others go back to: the key of all that does, as [`pipeline.lineages`] has it.

    Rows without a parent, and those whose parent is no row here, need none: so what comes to the driver is as long as
    there are rows that are somebody's parent.
    """
    none = {"id": pa.nulls(0, pa.string()), "key": pa.nulls(0, pa.string())}
    if not any(cluster.each(blocks, _has_parents, rows.folder, rows.stage)):
        return none
    count = duplicates.buckets(2 * len(rows))
    keyed = cluster.tables(blocks, _parents, rows.folder, rows.stage, rows.starts(), count)
    found = cluster.run(cluster.together(keyed, "bucket", _inner, parts=duplicates.parts(count)))
    if not found:
        return none
    parent_of = dict(zip(found["key"].tolist(), found["parent"].tolist(), strict=True))
    keys = []
    for name in parent_of:
        seen = {name}
        while (parent := parent_of[name]) is not None and parent in parent_of and parent not in seen:
            seen.add(parent)
            name = parent
        keys.append(name if parent is None else parent)
    return {"id": pa.array(list(parent_of), pa.string()), "key": pa.array(keys, pa.string())}


def _has_parents(block: int, folder: str, stage: int) -> bool:
    column = _rows(folder, stage, block)["parent"]
    return column.null_count < len(column)


def _parents(block: int, folder: str, stage: int, starts: dict, buckets: int) -> pa.Table:
    """Every id with its parent and place, and every parent with the place -1."""
    table = _rows(folder, stage, block)
    named = table["parent"].drop_null()
    places = starts[block] + np.arange(len(table))
    keys = pa.chunked_array([*table["id"].chunks, *named.chunks], pa.string())
    parents = pa.chunked_array([*table["parent"].chunks, pa.nulls(len(named), pa.string())], pa.string())
    rows = np.append(places, np.full(len(named), -1))
    return pa.table([pa.array(_buckets(keys, buckets)), keys, parents, pa.array(rows)], schema=KEYS)


def _buckets(keys: pa.ChunkedArray, buckets: int) -> np.ndarray:
    texts = keys.to_pylist()
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return (np.frombuffer(digests, np.uint64) % np.uint64(buckets)).astype(np.int64)


def _inner(group: pa.Table) -> pa.Table:
    """The ids that are some row's parent, each with the parent of the first row that has it."""
    asked = pc.unique(group["key"].filter(pc.less(group["row"], 0)))
    rows = group.filter(pc.and_(pc.greater_equal(group["row"], 0), pc.is_in(group["key"], asked))).sort_by("row")
    _, first = np.unique(records.one_array(rows["key"]).dictionary_encode().indices.to_numpy(), return_index=True)
    return rows.select(["key", "parent"]).take(pa.array(first))


def _lineages(table: pa.Table, origins: dict[str, pa.Array]) -> pa.Array:
    parents = records.one_array(table["parent"])
    known = origins["key"].take(pc.index_in(parents, origins["id"])) if len(origins["id"]) else parents
    return pc.coalesce(known, parents, records.one_array(table["id"]))


def _held_out(block: int, folder: str, stage: int, origins: dict[str, pa.Array]) -> pa.Array:
    table = _rows(folder, stage, block)
    return pc.unique(pa.concat_arrays([_lineages(table, origins), records.one_array(table["id"])]))


def _kept(block: int, folder: str, stage: int, new: int, origins: dict[str, pa.Array], held_out: pa.Array) -> int:
    table = work.load(work.place(folder, "rows", stage, block))
    ids = records.one_array(table["id"])
    leaked = pc.or_(pc.is_in(_lineages(table, origins), held_out), pc.is_in(ids, held_out))
    bad = table.filter(leaked)
    if len(bad):
        bad = bad.append_column("rejected", pa.repeat(pa.scalar(LEAK, records.REJECTED), len(bad)))
        work.save_lines(folder, new, block, pipeline.rejected_lines(bad, "leak"))
    table = table.filter(pc.invert(leaked)).combine_chunks()
    work.save(work.place(folder, "rows", new, block), table)
    return len(table)


def _keyed(block: int, folder: str, stage: int, starts: dict, origins: dict[str, pa.Array], buckets: int) -> pa.Table:
    keys = pa.chunked_array([_lineages(_rows(folder, stage, block), origins)])
    rows = np.arange(len(keys))
    columns = {"bucket": _buckets(keys, buckets), "key": keys, "position": starts[block] + rows}
    return pa.table({**columns, "block": np.full(len(keys), block), "row": rows})


def _firsts(group: pa.Table) -> pa.Table:
    """Each row with the first place of a row that has the same key."""
    group = group.sort_by("position")
    codes = records.one_array(group["key"]).dictionary_encode().indices.to_numpy()
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    places = group["position"].to_numpy()
    return group.select(["block", "row", "position"]).append_column("first", pa.array(places[first[inverse]]))


def _saved(group: pa.Table, folder: str, stage: int) -> pa.Table:
    block = group["block"][0].as_py()
    work.save(work.place(folder, "first", stage, block), group.sort_by("row").combine_chunks())
    leaders = pc.sum(pc.equal(group["first"], group["position"])).as_py()
    return pa.table({"block": [block], "leaders": [leaders]})


def _chosen(numbered: tuple[int, np.ndarray], folder: str, stage: int) -> np.ndarray:
    """First places of the conversations of which this block has the first row, and which were drawn."""
    block, bits = numbered
    table = work.load(work.place(folder, "first", stage, block))
    leaders = table.filter(pc.equal(table["first"], table["position"]))["position"].to_numpy()
    return leaders[np.unpackbits(bits, count=len(leaders)).astype(bool)]


def _of_chosen(block: int, folder: str, stage: int, firsts: np.ndarray) -> np.ndarray:
    table = work.load(work.place(folder, "first", stage, block))
    return table["position"].to_numpy()[np.isin(table["first"].to_numpy(), firsts)]
