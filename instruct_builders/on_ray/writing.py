"""Blocks of records -> the final format, and from that the shards of a built dataset, each written by one task."""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from datasets.utils.py_utils import convert_file_size_to_int

from .. import formats, records
from ..errors import RowError
from ..formats.native import OPTIONAL, shape
from ..formats.plan import decide, first_plan
from ..formats.tables import pieces
from . import cluster, work


@dataclass
class Converted:
    """The rows in their final format, in the work folder.

    Args:
        parts (`dict`): Split -> (block, rows) of its parts, in order.
        sizes (`dict[str, int]`): Split -> bytes in Arrow.
        features ([`~datasets.Features`]): Of all of them: columns without a single value are left out.
        licenses (`set`): What the rows say.
    """

    parts: dict[str, list[tuple[int, int]]]
    sizes: dict[str, int]
    features: datasets.Features
    licenses: set


def convert(rows: work.Rows, tests: np.ndarray, names: list[str], target: str, options: dict) -> Converted:
    """Converts all blocks alike: which columns and message fields there are is asked of all of them first.

    Args:
        rows ([`work.Rows`]): The records.
        tests (`np.ndarray`): Places of the rows that go from `train` to `test`, ascending.
        names (`list[str]`): The splits in their order.
        target (`str`), options (`dict`): As for [`formats.convert`].
    """
    told = cluster.each(rows.blocks, _layout, rows.folder, rows.stage, target, options)
    columns = {name for layout in told for name in layout["columns"]}
    fields = {name for layout in told for name in layout["message_fields"]}
    layout = {
        "columns": tuple(name for name in OPTIONAL[target] if name in columns),
        "message_fields": tuple(name for name in records.MESSAGE_FIELDS if name in fields),
    }
    starts, seen, items = rows.starts(), dict.fromkeys(names, 0), []
    for block in rows.blocks:
        first, last = np.searchsorted(tests, [starts[block], starts[block] + rows.counts[block]])
        own, split = tests[first:last] - starts[block], rows.splits[block]
        sizes = {split: rows.counts[block] - len(own), **({"test": len(own)} if len(own) else {})}
        items.append((block, own, [(name, size, seen[name]) for name, size in sizes.items() if size]))
        for name, size in sizes.items():
            seen[name] += size
    told = cluster.each(items, _convert, rows.folder, rows.stage, target, layout | options)
    parts, sizes = {name: [] for name in names}, dict.fromkeys(names, 0)
    for (block, _, _), entries in zip(items, told, strict=True):
        for entry in entries:
            parts[entry["split"]].append((block, entry["rows"]))
            sizes[entry["split"]] += entry["bytes"]
    entries = [entry for some in told for entry in some]
    empty = set.intersection(*(entry["empty"] for entry in entries))
    schema = entries[0]["schema"]
    features = datasets.Features.from_arrow_schema(pa.schema([f for f in schema if f.name not in empty]))
    filled = {name: some for name, some in parts.items() if some}
    return Converted(filled, sizes, features, {name for entry in entries for name in entry["licenses"]})


def _records(block: int, folder: str, stage: int) -> pa.Table:
    return work.load(work.place(folder, "rows", stage, block)).select(records.RECORD.names)


def _layout(block: int, folder: str, stage: int, target: str, options: dict) -> dict:
    """Optional columns and message fields that hold a value in this block."""
    table = _records(block, folder, stage)
    asked = {"message_fields": None, "columns": None, "options": options}
    plan = first_plan(shape(table.schema), "record", target, asked)
    return decide(plan, lambda names: pieces(table.select(names)))["layout"]


def _convert(item: tuple, folder: str, stage: int, target: str, options: dict) -> list[dict]:
    block, tests, splits = item
    table = _records(block, folder, stage)
    mask = np.zeros(len(table), dtype=bool)
    mask[tests] = True
    told = []
    for name, size, start in splits:
        part = table.filter(pa.array(mask if len(tests) and name == "test" else ~mask)) if len(tests) else table
        try:
            converted = formats.convert(part, "record", target, **options)
        except RowError as error:  # said as the place in the whole split
            row = None if error.row is None else error.row + start
            raise RowError(error.message, reason=error.reason, row=row, field=error.field) from error
        converted = converted.combine_chunks()
        work.save(work.place(folder, f"out-{name}", stage, block), converted)
        told.append(
            {
                "split": name,
                "rows": size,
                "bytes": converted.nbytes,
                "schema": converted.schema,
                "empty": {column for column in converted.column_names if converted[column].null_count == size},
                "licenses": set(part["license"].unique().to_pylist()),
            }
        )
    return told


def write(converted: Converted, rows: work.Rows, folder: Path, max_shard_size: str | int) -> datasets.SplitDict:
    """Writes `<split>-NNNNN-of-MMMMM.parquet` into the folder: rows in order, shards alike but for a row."""
    limit, items, infos = convert_file_size_to_int(max_shard_size), [], datasets.SplitDict()
    for name, parts in converted.parts.items():
        size = sum(count for _, count in parts)
        shards = min(size, max(1, -(-converted.sizes[name] // limit)))
        ends = np.cumsum([count for _, count in parts])
        for index in range(shards):
            start, stop = (size // shards * at + min(at, size % shards) for at in (index, index + 1))
            first, last = np.searchsorted(ends, [start, stop - 1], side="right")
            skipped = start - (int(ends[first]) - parts[first][1])
            blocks = [block for block, _ in parts[first : last + 1]]
            items.append((name, f"{name}-{index:05d}-of-{shards:05d}.parquet", blocks, skipped, stop - start))
        infos.add(datasets.SplitInfo(name, num_bytes=converted.sizes[name], num_examples=size))
    cluster.each(items, _write_shard, rows.folder, rows.stage, str(folder), converted.features)
    return infos


def _write_shard(item: tuple, folder: str, stage: int, target: str, features: datasets.Features) -> None:
    split, name, blocks, skipped, size = item
    tables = [work.load(work.place(folder, f"out-{split}", stage, block)) for block in blocks]
    table = pa.concat_tables(tables).select(list(features)).slice(skipped, size).cast(features.arrow_schema)
    part = Path(target) / f".{name}.{uuid.uuid4().hex}"
    datasets.Dataset(table, info=datasets.DatasetInfo(features=features)).to_parquet(part)
    os.replace(part, Path(target) / name)


def join_lines(paths: list[Path], target: Path) -> None:
    """One `rejected.jsonl` of the files of lines, in their order."""
    with open(target, "wb") as whole:
        for path in paths:
            with open(path, "rb") as part:
                shutil.copyfileobj(part, whole, 1 << 20)
