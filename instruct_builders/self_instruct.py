"""Self-Instruct: generated data, and seed tasks, as a `datasets` builder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from . import reader
from .builder import InstructBuilder
from .sources import BUNDLED

INSTANCES = pa.list_(pa.struct([pa.field(name, pa.string()) for name in ("input", "output")]))
TASKS = pa.schema([pa.field("instruction", pa.string(), nullable=False), pa.field("instances", INSTANCES)])
KEPT = ("parent", "task", "template")  # columns of the record that generated rows state themselves


class SelfInstruct(InstructBuilder):
    """What the methods of `instruct_builders.generate` write, and tasks with instances such as Self-Instruct's seeds.

    Read are `generated.jsonl` (rows with `messages`, `context`, `parent`, `meta`), `pool.jsonl` and seed tasks (an
    `instruction` with several `instances`, each of which becomes a row), and Alpaca rows. A task without instances is
    rejected.

    Example:

    ```python
    >>> from instruct_builders import load_dataset
    >>> load_dataset("self_instruct", data_files="bundled", split="train")[0]["messages"]
    ```
    """

    NAME = "self_instruct"
    SOURCE_FORMATS = ("messages", "alpaca")

    @classmethod
    def bundled(cls) -> str:
        return str(BUNDLED / "seed_tasks.jsonl")

    def _detect(self, columns: dict[str, str], field: str | None) -> tuple[str, pa.Schema]:
        first = next(filter(None, (reader.peek(file.path, name=file.name, field=field) for file in self.files)), {})
        self._tasks = columns.get("instances", "instances") in first
        if self._tasks:
            names = [columns.get(name, name) for name in TASKS.names]
            return "alpaca", pa.schema([kind.with_name(name) for kind, name in zip(TASKS, names, strict=True)])
        found, schema = super()._detect(columns, field)
        for name in KEPT:
            schema = schema.append(pa.field(columns.get(name, name), pa.string()))
        return found, schema

    def _chunks(self, shard) -> Iterator[reader.Chunk]:
        for chunk in super()._chunks(shard):
            yield self._one_per_instance(chunk) if self._tasks else chunk

    def _one_per_instance(self, chunk: reader.Chunk) -> reader.Chunk:
        """Tasks -> rows of instruction, input and output; a task without instances keeps a row with nulls."""
        columns = self.config.columns or {}
        instruction, instances = (columns.get(name, name) for name in TASKS.names)
        lists = chunk.table[instances].to_pylist()
        pairs = [(row, entry or {}) for row, entries in enumerate(lists) for entry in entries or [{}]]
        rows = np.array([row for row, _ in pairs], np.int64)
        more = [json.loads(text) if text else {} for text in chunk.table["extra"].to_pylist()]
        table = {
            "instruction": chunk.table[instruction].take(pa.array(rows)),
            "input": pa.array([entry.get("input") for _, entry in pairs], pa.string()),
            "output": pa.array([entry.get("output") for _, entry in pairs], pa.string()),
            "extra": pa.array([json.dumps(more[row], ensure_ascii=False) for row in rows], pa.string()),
        }
        places = {name: getattr(chunk, name)[rows] for name in ("row", "line", "offset")}
        return dataclasses.replace(chunk, table=pa.table(table), **places)
