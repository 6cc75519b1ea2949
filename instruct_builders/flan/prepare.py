"""Reading a task whole: its examples, which of them are held out, and what exemplars may be taken from.

The tables go to Arrow files inside the build's folder, which the workers that render map into memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders import quarantine, sources, validation
from instruct_builders.flan import collection_files
from instruct_builders.flan.config import FlanConfig
from instruct_builders.flan.draws import draw
from instruct_builders.flan.examples import examples_of
from instruct_builders.flan.source_rows import Rows, Unit, read_rows
from instruct_builders.flan.task_files import Task
from instruct_builders.records import one_array

POOL_ROWS, POOL_BYTES = 100_000, 512 << 20


@dataclass(frozen=True)
class Shard:
    """Examples of one file that one worker renders: rows `start` to `stop` of the table at `path`.

    Args:
        base (`int`): Number of the file's first row among the task's.
    """

    file: sources.SourceFile
    index: int
    task: Task | None = None
    path: str = ""
    pool: str = ""
    base: int = 0
    start: int = 0
    stop: int = 0


def divided(shards: list[Shard], count: int) -> list[list[Shard]]:
    """The rows of all shards in `count` groups of about the same size, in their order; empty groups are left out."""
    size = max(-(-sum(shard.stop for shard in shards) // count), 1)
    groups: list[list[Shard]] = [[] for _ in range(count)]
    at = 0
    for shard in shards:
        start = 0
        while True:
            group = min((at + start) // size, count - 1)
            stop = min((group + 1) * size - at, shard.stop)
            groups[group].append(replace(shard, start=start, stop=stop))
            start = stop
            if start >= shard.stop:
                break
        at += shard.stop
    return [group for group in groups if group]


@dataclass
class _Read:
    """What was read of one file."""

    file: sources.SourceFile
    examples: pa.Table
    base: int
    rows_in: int = 0
    rejected: list[dict] = field(default_factory=list)


def prepare(unit: Unit, config: FlanConfig, stem: Path) -> tuple[list[Shard], list[list[dict]], list[dict]]:
    """Reads a task's files and writes its examples and its pool of exemplars to `<stem>-*.arrow`.

    Returns:
        `tuple`: One shard per file that spans all its rows; and per file the lines of `rejected.jsonl` and the counts.

    Raises:
        SourceError: If a file as a whole can't be read.
    """
    task, parts, base = unit.task, [], 0
    own_files = [file for file in unit.files if not (unit.held_out and file.split == "test")]
    for file, schema in zip(own_files, unit.schemas, strict=True):
        parts.append(_read(task, file, schema, base, config))
        base += parts[-1].rows_in
    if unit.held_out:
        parts += _hold_out([part for part in parts if part.file.split == "train"], task, config)
    pool = _pool(task, parts, config)
    pool_path = _write(pool, Path(f"{stem}-pool.arrow"))
    key, known = _key(task), one_array(pool[_key(task)])
    shards, lines, counts = [], [], []
    for number, part in enumerate(parts):
        own = pc.index_in(one_array(part.examples[key]), value_set=known).fill_null(-1)
        path = _write(part.examples.append_column("_own", own), Path(f"{stem}-{number}.arrow"))
        shards.append(Shard(part.file, number, task, path, pool_path, part.base, 0, len(part.examples)))
        lines.append(part.rejected)
        rejected = quarantine.reasons(part.rejected)
        count = {"file": part.file.name, "split": part.file.split, "rows_in": part.rows_in, "added": 0}
        quarantine.check_account(count | {"rows_out": len(part.examples), "rejected": rejected}, part.file.name)
        counts.append({**count, "rows_out": 0, "rejected": rejected})
    return shards, lines, counts


def _key(task: Task) -> str:
    """By what a row and an exemplar are the same: niv2's exemplars come with explanations, so the input tells."""
    return "input" if task.shot_template else "_id"


def _rows(task: Task, file: sources.SourceFile, schema: pa.Schema, config: FlanConfig) -> Iterator[Rows]:
    if config.collection == "tasks":
        return read_rows(file, task, schema, config.max_row_bytes, config.field)
    return collection_files.rows(file, task, schema, config)


def _read(task: Task, file: sources.SourceFile, schema: pa.Schema, base: int, config: FlanConfig) -> _Read:
    tables, lines, rows_in = [], [], 0
    for rows in _rows(task, file, schema, config):
        examples, verdict = examples_of(task, rows.table, rows.row + base)
        tables.append(examples)
        bad = np.flatnonzero(pc.is_valid(verdict).to_numpy(zero_copy_only=False))
        lines += rows.rejected
        if len(bad):
            lines += quarantine.rejected_rows(
                rows.table.take(pa.array(bad)).append_column("rejected", verdict.take(pa.array(bad))),
                stage="validate",
                split=file.split,
                file=file.name,
                places={"row": rows.row[bad]},
            )
        rows_in += len(rows.table) + len(rows.rejected)
    if not tables:
        empty = pa.table([pa.nulls(0, kind.type) for kind in schema], schema=schema)
        tables = [examples_of(task, empty, np.zeros(0, np.int64))[0]]
    return _Read(file, pa.concat_tables(tables), base, rows_in, sorted(lines, key=lambda line: line["row"] or 0))


def _hold_out(parts: list[_Read], task: Task, config: FlanConfig) -> list[_Read]:
    """Takes the held-out examples out of the training parts, and returns them as parts of their own."""
    if not parts:
        return []
    table = pa.concat_tables([part.examples for part in parts])
    names = (
        one_array(table["_task"]).fill_null("")
        if "_task" in table.column_names
        else pa.repeat(pa.scalar(""), len(table))
    )
    mask = held_out(one_array(table["_id"]), names, table["_row"].to_numpy(), config.test_size, config.seed, task.name)
    test, start = [], 0
    for part in parts:
        own = mask[start : start + len(part.examples)]
        start += len(part.examples)
        held = part.examples.filter(pa.array(own))
        test.append(_Read(replace(part.file, split="test"), held, part.base, len(held)))
        part.examples, part.rows_in = part.examples.filter(pa.array(~own)), part.rows_in - len(held)
    return test


def held_out(ids: pa.Array, tasks: pa.Array, rows: np.ndarray, size: float | int, seed: int, name: str) -> np.ndarray:
    """Which rows are held out, equal ids together: bool `(n,)`.

    Args:
        tasks (`pa.Array`): `(n,)` the task of each row; the size holds for each.
        rows (`np.ndarray`): int64 `(n,)`, numbers of the rows, which the draw depends on.
        size (`float` or `int`): A share of each task's different examples, at least one, or a number, at most half.
    """
    if not len(ids):
        return np.zeros(0, bool)
    code = ids.dictionary_encode().indices.to_numpy()
    _, first = np.unique(code, return_index=True)
    task = tasks.dictionary_encode().indices.to_numpy()[first]
    order = np.lexsort((draw(seed, name, "held out", rows[first]), task))
    many = np.bincount(task)
    rank = np.empty(len(first), np.int64)
    rank[order] = np.arange(len(first)) - np.repeat(np.cumsum(many) - many, many)
    share = np.maximum(np.round(many * size), size > 0)  # of a small task at least one
    wanted = share.astype(np.int64) if isinstance(size, float) else np.minimum(size, many // 2)
    return (rank < np.minimum(wanted, many - 1)[task])[code]


def _pool(task: Task, parts: list[_Read], config: FlanConfig) -> pa.Table:
    """The examples that exemplars are taken from: different good training rows, none of which is in another split.

    Of a large task some are drawn, so that every worker can hold them.
    """
    empty = parts[0].examples.slice(0, 0)
    train = pa.concat_tables([empty, *(part.examples for part in parts if part.file.split == "train")])
    others = [one_array(part.examples[_key(task)]) for part in parts if part.file.split != "train"]
    if task.shot_template:
        names = ("input", "answer", "explanation")
        shots = pa.Table.from_pylist(task.exemplars, pa.schema([(name, pa.string()) for name in names]))
        train = shots.append_column("_options", pa.nulls(len(shots), pa.list_(pa.string())))
        train = train.append_column("_position", pa.array(np.full(len(shots), -1), pa.int32()))
    if config.shot_range == (0, 0):
        return train.slice(0, 0)
    keys = one_array(train[_key(task)])
    _, first = np.unique(keys.dictionary_encode().indices.to_numpy(), return_index=True)
    kept = np.zeros(len(train), bool)
    kept[first] = True
    if config.control_tokens == "reject":  # such a row is rejected, and must not take others with it as exemplar
        finder = "|".join([r"\x00", validation.CONTROL, *map(re.escape, validation.SPECIAL_TOKENS)])
        for name in train.column_names:
            if pa.types.is_string(train.schema.field(name).type):
                found = pc.match_substring_regex(train[name], finder)  # in its chunks: a column may exceed 2 GiB
                kept &= ~found.fill_null(False).to_numpy()
    if others:
        kept &= ~pc.is_in(keys, value_set=pa.concat_arrays(others)).to_numpy(zero_copy_only=False)
    size = min(POOL_ROWS, POOL_BYTES // max(train.nbytes // max(len(train), 1), 1))
    if kept.sum() > size and not task.shot_template:
        places = np.flatnonzero(kept)
        drawn = draw(config.seed, task.name, "pool", train["_row"].to_numpy()[places])
        kept[places[np.argsort(drawn, kind="stable")[size:]]] = False
    return train.filter(pa.array(kept)).combine_chunks()


def _write(table: pa.Table, path: Path) -> str:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return str(path)


def open_table(path: str, start: int = 0, stop: int | None = None) -> pa.Table:
    """Some rows of a table that [`prepare`] wrote, mapped into memory."""
    with pa.memory_map(path) as source:
        table = pa.ipc.open_file(source).read_all()
    return table.slice(start, None if stop is None else stop - start)
