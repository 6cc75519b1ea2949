"""The work folder beside the output: what tasks leave for one another, a file per stage and block.

Every machine of the cluster must see it. A block is what came of one shard of the sources, in their order, from the
first stage to the last; a file is written under another name and renamed, so that a task may run twice.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from .. import quarantine


@dataclass
class Rows:
    """The rows as they are between two stages.

    Args:
        folder (`str`): The work folder.
        stage (`int`): The stage that wrote them: 0 is reading, then the steps.
        splits (`dict[int, str]`): The split of each block that has rows, by number of the block.
        counts (`dict[int, int]`): How many rows each has.
    """

    folder: str
    stage: int
    splits: dict[int, str] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    @property
    def blocks(self) -> list[int]:
        return sorted(block for block, count in self.counts.items() if count)

    def starts(self) -> dict[int, int]:
        """Place of each block's first row among all rows, as in the one table of the local engine."""
        places, total = {}, 0
        for block in self.blocks:
            places[block] = total
            total += self.counts[block]
        return places

    def after(self, stage: int, counts: Sequence[int]) -> Rows:
        """The rows that a stage has left of each block."""
        return Rows(self.folder, stage, self.splits, dict(zip(self.blocks, counts, strict=True)))

    def drop(self) -> None:
        """Deletes the files, once the next stage has written its own."""
        for block in self.blocks:
            place(self.folder, "rows", self.stage, block).unlink(missing_ok=True)

    def __len__(self) -> int:
        return sum(self.counts.values())


def place(folder: str, kind: str, stage: int, block: int) -> Path:
    suffix = "jsonl" if kind == "lines" else "arrow"
    return Path(folder) / f"{kind}-{stage:03d}-{block:09d}.{suffix}"


def save(path: Path, table: pa.Table) -> None:
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    os.replace(part, path)


def load(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def save_lines(folder: str, stage: int, block: int, lines: Iterable[dict]) -> None:
    """Keeps lines of `rejected.jsonl`; no file for none."""
    if not lines:
        return
    path = place(folder, "lines", stage, block)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    quarantine.write_lines(part, lines)
    os.replace(part, path)


def line_files(folder: str, first: int = 0) -> list[Path]:
    """The files of lines in the order of the local engine: by stage, then by place; from stage `first` on."""
    return [path for path in sorted(Path(folder).glob("lines-*.jsonl")) if int(path.name.split("-")[1]) >= first]


def first_lines(paths: Iterable[Path], limit: int) -> list[dict]:
    lines: list[dict] = []
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for line in file:
                if len(lines) == limit:
                    return lines
                lines.append(json.loads(line))
    return lines
