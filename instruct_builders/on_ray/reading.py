"""Sources -> blocks of records, each read where Ray puts it, by the builder's own reader."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pyarrow as pa

from .. import pipeline, quarantine
from ..builder import REJECTED_FILE, InstructBuilder, Shard
from ..errors import ConfigError, TooManyRejected
from . import cluster, work

PIECE_BYTES = 64 << 20  # of JSON Lines per task, about; any other file is one task
LARGE_PIECE_BYTES, BLOCKS = 256 << 20, 4_000  # instead, where there would be more blocks than these
MOST_BYTES = 1 << 30  # of a file that can't be divided: its text has to fit Arrow's 2 GiB of text per block
PREPARED_ROWS = 50_000  # rows per block of what a builder has prepared by itself


def read(builder: InstructBuilder, folder: str, num_proc: int | None) -> tuple[work.Rows, dict]:
    """Runs a builder of records on Ray: its rows, and its account of files.

    FLAN, whose exemplars and held-out rows need whole tasks, is prepared by the driver, in the cache of `datasets`.
    """
    if type(builder)._generate_tables is not InstructBuilder._generate_tables:
        return _prepared(builder, folder, num_proc)
    shards = _shards(builder)
    told = cluster.each(list(enumerate(shards)), _read_shard, builder, folder)
    account = builder._merged([counts for _, counts in told])
    rows = work.Rows(folder, 0, dict(enumerate(shard.file.split for shard in shards)))
    rows.counts = dict(enumerate(count for count, _ in told))
    _check_rejected(builder, account, folder)
    return rows, account


def _shards(builder: InstructBuilder) -> list[Shard]:
    sizes = {file.path: Path(file.path).stat().st_size for file in builder.files}
    pieces = max(-(-sum(sizes.values()) // LARGE_PIECE_BYTES), min(BLOCKS, -(-sum(sizes.values()) // PIECE_BYTES)))
    pieces = max(2 * cluster.cores(), pieces)
    generators = builder._split_generators(None, num_proc=pieces)
    shards = [shard for generator in generators for shard in generator.gen_kwargs["shards"]]
    for shard in shards:
        if (size := sizes[shard.file.path]) > MOST_BYTES and (shard.start, shard.stop) == (0, None):
            raise ConfigError(
                f"engine: ray reads {shard.file.name}, {size / 2**30:.1f} GiB, in one task, which takes 1 GiB at "
                "most: write it as several files, or as JSON Lines, which is divided by itself."
            )
    return shards


def _read_shard(numbered: tuple[int, Shard], builder: InstructBuilder, folder: str) -> tuple[int, dict]:
    """Writes a shard's records and rejected rows to the work folder: how many records, and the shard's account."""
    block, shard = numbered
    with tempfile.TemporaryDirectory() as own:
        builder._output_dir = own  # where the builder leaves its lines and counts
        builder.config.strict = False  # the driver knows which rejected row is the first
        tables = [table for _, table in builder._generate_tables([shard])]
        name = f"{shard.file.split}-{shard.index:09d}"
        counts = json.loads((Path(own) / f"counts-{name}.json").read_text(encoding="utf-8"))
        lines = list(quarantine.read_lines(Path(own) / f"rejected-{name}.jsonl"))
    table = pa.concat_tables(tables) if tables else None
    if table is not None and len(table):
        _save(folder, block, table.cast(builder.info.features.arrow_schema), shard.file.split)
    work.save_lines(folder, 0, block, lines)
    return counts["rows_out"], counts


def _save(folder: str, block: int, table: pa.Table, split: str) -> None:
    table = table.append_column("split", pa.repeat(pa.scalar(split, pa.string()), len(table)))
    work.save(work.place(folder, "rows", 0, block), table.combine_chunks())


def _check_rejected(builder: InstructBuilder, account: dict, folder: str) -> None:
    """As at the end of a local build: `strict`, and the share of bad rows."""
    rows_in = sum(file["rows_in"] for file in account["files"])
    bad = sum(sum(file["rejected"].values()) for file in account["files"])
    files = work.line_files(folder)
    if bad and builder.config.strict:
        first = quarantine.describe(work.first_lines(files, 1)).strip() + f"\n  and {bad - 1} more" * (bad > 1)
        raise TooManyRejected(f"{builder.NAME}: strict=True, and a row was rejected: {first}")
    if bad == rows_in or bad > builder.config.max_bad_fraction * rows_in:
        Path(builder._cache_dir).parent.mkdir(parents=True, exist_ok=True)  # keeps the lines there
        builder._check_fraction(account, work.first_lines(files, bad))


def _prepared(builder: InstructBuilder, folder: str, num_proc: int | None) -> tuple[work.Rows, dict]:
    builder.download_and_prepare(num_proc=num_proc)
    ranges = [
        (name, start, min(start + PREPARED_ROWS, len(split)))
        for name, split in builder.as_dataset().items()
        for start in range(0, len(split), PREPARED_ROWS)
    ]
    cluster.each(list(enumerate(ranges)), _take_range, builder, folder)
    work.save_lines(folder, 0, 0, list(quarantine.read_lines(Path(builder._cache_dir) / REJECTED_FILE)))
    rows = work.Rows(folder, 0, {block: split for block, (split, _, _) in enumerate(ranges)})
    rows.counts = {block: stop - start for block, (_, start, stop) in enumerate(ranges)}
    return rows, builder.account


def _take_range(numbered: tuple[int, tuple[str, int, int]], builder: InstructBuilder, folder: str) -> None:
    block, (split, start, stop) = numbered
    part = builder.as_dataset(split=split).select(range(start, stop))
    table = pipeline.with_split(part, split)
    work.save(work.place(folder, "rows", 0, block), table.combine_chunks())
