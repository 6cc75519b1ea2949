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
from instruct_builders.flan.draws import draw, uniform
from instruct_builders.flan.examples import examples_of, question_ids
from instruct_builders.flan.hold_out import held_out, linked
from instruct_builders.flan.options import ambiguous
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
class Part:
    """What was read of one file."""

    file: sources.SourceFile
    examples: pa.Table
    base: int
    rows_in: int = 0
    rejected: list[dict] = field(default_factory=list)


def with_tests(units: list[Unit]) -> list[Unit]:
    """Units that hold rows out: those without a test split, and those that train on files of one that holds out."""
    held = [all(file.split != "test" for file in unit.files) for unit in units]
    digests = [{file.digest for file in unit.files if file.split == "train"} for unit in units]
    while True:
        shared = set().union(*(own for own, holds in zip(digests, held, strict=True) if holds))
        before, held = held, [holds or bool(own & shared) for own, holds in zip(digests, held, strict=True)]
        if held == before:
            return [unit.with_test() if holds else unit for unit, holds in zip(units, held, strict=True)]


def together(units: list[Unit], config: FlanConfig) -> list[list[int]]:
    """Places of the units, those in one list that hold out rows of the same files: they do so together."""
    pairs = [
        (number, source)
        for number, unit in enumerate(units)
        for source in ([_source(unit, file, config) for file in unit.files] if unit.held_out else [f"unit {number}"])
    ]
    number = np.array([number for number, _ in pairs])
    source = np.unique([source for _, source in pairs], return_inverse=True)[1]
    groups: dict[int, list[int]] = {}
    for group, place in dict.fromkeys(zip(linked(number, source).tolist(), number.tolist(), strict=True)):
        groups.setdefault(group, []).append(place)
    return list(groups.values())


def _source(unit: Unit, file: sources.SourceFile, config: FlanConfig) -> str:
    """What row numbers count in: a niv2 file has several tasks, each with rows of its own."""
    return f"{file.digest} {unit.task.name}" if config.collection == "niv2" else file.digest


def read(unit: Unit, config: FlanConfig) -> list[Part]:
    """The examples of a task's files, all of them where they are in the source.

    Raises:
        SourceError: If a file as a whole can't be read.
    """
    parts, base = [], 0
    for file, schema in zip(unit.files, unit.schemas, strict=False):  # behind them come the places for held-out rows
        parts.append(_read(unit.task, file, schema, base, config))
        base += parts[-1].rows_in
    return parts


def write(unit: Unit, parts: list[Part], config: FlanConfig, stem: Path):
    """Writes a task's examples and its pool of exemplars to `<stem>-*.arrow`.

    Returns:
        `tuple[list[Shard], list[list[dict]], list[dict]]`: One shard per file that spans all its rows; and per file
        the lines of `rejected.jsonl` and the counts.
    """
    task, pool = unit.task, _pool(unit.task, parts, config)
    pool_path = _write(pool, Path(f"{stem}-pool.arrow"))
    known = one_array(pool["_question"])
    shards, lines, counts = [], [], []
    for number, part in enumerate(parts):
        own = pc.index_in(one_array(part.examples["_question"]), value_set=known).fill_null(-1)
        path = _write(part.examples.append_column("_own", own), Path(f"{stem}-{number}.arrow"))
        shards.append(Shard(part.file, number, task, path, pool_path, part.base, 0, len(part.examples)))
        lines.append(part.rejected)
        rejected = quarantine.reasons(part.rejected)
        count = {"file": part.file.name, "split": part.file.split, "rows_in": part.rows_in, "added": 0}
        quarantine.check_account(count | {"rows_out": len(part.examples), "rejected": rejected}, part.file.name)
        counts.append({**count, "rows_out": 0, "rejected": rejected})
    return shards, lines, counts


def _rows(task: Task, file: sources.SourceFile, schema: pa.Schema, config: FlanConfig) -> Iterator[Rows]:
    if config.collection == "tasks":
        return read_rows(file, task, schema, config.max_row_bytes, config.field)
    return collection_files.rows(file, task, schema, config)


def _read(task: Task, file: sources.SourceFile, schema: pa.Schema, base: int, config: FlanConfig) -> Part:
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
    return Part(file, pa.concat_tables(tables), base, rows_in, sorted(lines, key=lambda line: line["row"] or 0))


def hold_out(read_units: list[tuple[Unit, list[Part]]], config: FlanConfig) -> None:
    """Moves held-out examples from the training parts of units that share files to test parts behind them."""
    found = [
        (number, unit, part)
        for number, (unit, parts) in enumerate(read_units)
        for part in parts
        if unit.held_out and part.file.split == "train"
    ]
    if not found:
        return
    digests = {key: code for code, key in enumerate(sorted({_source(unit, p.file, config) for _, unit, p in found}))}
    rows, tasks, drawn = [], [], []
    for number, unit, part in found:
        digest, row = _source(unit, part.file, config), part.examples["_row"].to_numpy() - part.base
        rows.append((digests[digest] << 40) + row)
        drawn.append(uniform(draw(config.seed, digest, "held out", row)))
        inside = pa.nulls(len(row), pa.string())
        if "_task" in part.examples.column_names:
            inside = one_array(part.examples["_task"])
        tasks.append(pc.binary_join_element_wise(f"{number}", inside.fill_null(""), " "))
    questions = [one_array(part.examples["_question"]) for _, _, part in found]
    row = np.unique(np.concatenate(rows), return_inverse=True)[1]
    mask, start = held_out(row, _codes(questions), _codes(tasks), np.concatenate(drawn), config.test_size), 0
    for number, _, part in found:
        own = mask[start : start + len(part.examples)]
        start += len(part.examples)
        held = part.examples.filter(pa.array(own))
        read_units[number][1].append(Part(replace(part.file, split="test"), held, part.base, len(held)))
        part.examples, part.rows_in = part.examples.filter(pa.array(~own)), part.rows_in - len(held)


def _codes(arrays: list[pa.Array]) -> np.ndarray:
    return pa.concat_arrays(arrays).dictionary_encode().indices.to_numpy().astype(np.int64)


def _pool(task: Task, parts: list[Part], config: FlanConfig) -> pa.Table:
    """The examples that exemplars are taken from: good training rows, one per question, none asked in another split.

    Of a large task some are drawn, so that every worker can hold them.
    """
    empty = parts[0].examples.slice(0, 0)
    train = pa.concat_tables([empty, *(part.examples for part in parts if part.file.split == "train")])
    others = [one_array(part.examples["_question"]) for part in parts if part.file.split != "train"]
    if task.shot_template:
        names = ("input", "answer", "explanation")
        shots = pa.Table.from_pylist(task.exemplars, pa.schema([(name, pa.string()) for name in names]))
        train = shots.append_column("_options", pa.nulls(len(shots), pa.list_(pa.string())))
        train = train.append_column("_position", pa.array(np.full(len(shots), -1), pa.int32()))
        train = train.append_column("_question", question_ids(train.drop_columns("explanation")))
    if config.shot_range == (0, 0):
        return train.slice(0, 0)
    kept = ~ambiguous(train)
    if config.control_tokens == "reject":  # such a row is rejected, and must not take others with it as exemplar
        finder = "|".join([r"\x00", validation.CONTROL, *map(re.escape, validation.SPECIAL_TOKENS)])
        for name in train.column_names:
            if pa.types.is_string(train.schema.field(name).type):
                found = pc.match_substring_regex(train[name], finder)  # in its chunks: a column may exceed 2 GiB
                kept &= ~found.fill_null(False).to_numpy()
    questions = one_array(train["_question"])
    if others:
        kept &= ~pc.is_in(questions, value_set=pa.concat_arrays(others)).to_numpy(zero_copy_only=False)
    places = np.flatnonzero(kept)
    _, first = np.unique(_codes([questions])[places], return_index=True)
    kept = np.zeros(len(train), bool)
    kept[places[first]] = True
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
