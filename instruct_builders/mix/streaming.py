"""The mixture as a stream: whole blocks of rows, read where they lie, and shuffled in a window.

It gives what [`draw`] gives, the same rows in the same counts, in another order. Each source is read in blocks, in the
order of a permutation of its blocks; so many rows as the window holds come from all sources at once and are permuted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import datasets
import numpy as np
import pyarrow as pa
from datasets.formatting import PythonFormatter
from datasets.iterable_dataset import ArrowExamplesIterable

from ..errors import BuildError, ConfigError
from .drawing import check_seed, checked, generator, passes_of, source_array
from .table import Plan
from .writing import RowReader, in_order

BUFFER_BYTES = 128 << 20  # of a window, however many rows it is asked to hold
BLOCKS = 16  # of a source in a window: neighbours in a source are spread over this many places
ROWS_AS_PYTHON = 1000  # made at a time


def stream(
    plan: Plan,
    sources: Mapping[str, datasets.Dataset | datasets.IterableDataset],
    *,
    seed: int = 42,
    buffer_size: int = 65_536,
    num_shards: int | None = None,
    source_column: str | None = None,
) -> datasets.IterableDataset:
    """Streams the mixture that [`draw`] would draw: with the same seed and epoch the same rows, in another order.

    `set_epoch`, which trainers call, draws anew as `draw(..., epoch=)` does. `DataLoader` workers and processes share
    the stream by its shards, each of which holds every source in its proportion; `state_dict` resumes it.

    Args:
        plan ([`Plan`]): What to draw.
        sources (`Mapping`): Name in the plan's table -> `Dataset`, or `IterableDataset` with known features, which is
            read in its order, from its start in every pass.
        seed (`int`, *optional*, defaults to 42): 0 or more.
        buffer_size (`int`, *optional*, defaults to 65536): Rows of all sources together that are shuffled among each
            other; fewer where they take more than 128 MiB.
        num_shards (`int`, *optional*): Largest number of workers; 16 by default, and 1 with an `IterableDataset`.
        source_column (`str`, *optional*): Name of a column to add that holds each row's source.

    Raises:
        ConfigError: For sources that the plan does not have or that can't be mixed.
        BuildError: For a dataset with other rows than planned; an `IterableDataset` is counted while it is read.
    """
    check_seed(seed, 0)
    parts = checked(plan, sources, source_column)
    unstored = [name for name, part in parts.items() if not isinstance(part, datasets.Dataset)]
    shards = num_shards or (1 if unstored else min(16, plan.total_size))
    if buffer_size < 1 or shards < 1 or (unstored and shards > 1):
        raise ConfigError(
            f"buffer_size={buffer_size}, num_shards={num_shards}: 1 or more are allowed"
            + (f", and one shard only, since {unstored[0]!r} is an IterableDataset." if unstored else ".")
        )
    features = datasets.Features(next(iter(parts.values())).features)
    mixer = _Mixer(plan, parts, seed, buffer_size, shards, source_column, features.arrow_schema.remove_metadata())
    if source_column is not None:
        features[source_column] = datasets.Value("string")
    blocks = _Windows(_windows, {"shards": list(range(shards)), "mixer": mixer, "epoch": 0}, features)
    return datasets.IterableDataset(blocks, info=datasets.DatasetInfo(features=features))


class _Windows(ArrowExamplesIterable):
    """What `Dataset.to_iterable_dataset` stands on; besides, it knows the epoch, and makes Python rows quickly."""

    def __init__(self, generate, kwargs, features: datasets.Features):
        super().__init__(generate, kwargs)
        self._features = features

    @property
    def features(self) -> datasets.Features:
        return self._features

    def shuffle_data_sources(self, generator: np.random.Generator) -> _Windows:
        # `datasets` calls this with default_rng(epoch): the only way it tells an iterable of the epoch.
        entropy = generator.bit_generator.seed_seq.entropy
        epoch = entropy if isinstance(entropy, int) else int(generator.integers(2**32))
        return _Windows(self.generate_tables_fn, {**self.kwargs, "epoch": epoch}, self._features)

    def shard_data_sources(self, num_shards: int, index: int, contiguous: bool = True) -> _Windows:
        shards = [self.kwargs["shards"][i] for i in self.split_shard_indices_by_worker(num_shards, index, contiguous)]
        return _Windows(self.generate_tables_fn, {**self.kwargs, "shards": shards}, self._features)

    def __iter__(self) -> Iterator[tuple[str, dict]]:
        formatter = PythonFormatter(features=self._features)
        state = self._state_dict or {"shard_idx": 0, "shard_example_idx": 0}
        for shard in self.kwargs["shards"][state["shard_idx"] :]:
            skip = state["shard_example_idx"]
            for key, table in self.generate_tables_fn(**{**self.kwargs, "shards": [shard]}):
                skipped = min(skip, len(table))
                skip -= skipped
                for start in range(skipped, len(table), ROWS_AS_PYTHON):
                    batch = formatter.format_batch(table.slice(start, ROWS_AS_PYTHON))
                    names, done = tuple(batch), state["shard_example_idx"]
                    for values in zip(*batch.values(), strict=True):
                        done += 1
                        state["shard_example_idx"] = done
                        yield key, dict(zip(names, values, strict=True))
            state["shard_idx"] += 1
            state["shard_example_idx"] = 0


def _windows(shards: list[int], mixer: _Mixer, epoch: int) -> Iterator[tuple[str, pa.Table]]:
    for shard in shards:
        for number, table in enumerate(mixer.tables(shard, epoch)):
            yield f"{epoch}_{shard}_{number}", table


class _Mixer:
    """The sources, and what of each comes when; sent to workers as it is, without what it has worked out."""

    def __init__(self, plan, parts, seed, buffer_size, shards, source_column, schema):
        self.rows = [row for row in sorted(plan.table, key=lambda row: row["name"]) if row["name"] in parts]
        self.total, self.parts, self.seed, self.shards = plan.total_size, parts, seed, shards
        self.source_column, self.schema, self.buffer_size = source_column, schema, buffer_size
        self.sequences: tuple[int, list] = (-1, [])

    def __getstate__(self) -> dict:
        return {**self.__dict__, "sequences": (-1, [])}

    def of_epoch(self, epoch: int) -> list[_Blocks | _InOrder]:
        if self.sequences[0] != epoch or any(isinstance(one, _InOrder) for one in self.sequences[1]):
            window = min(self.buffer_size, self.total)
            made: list[_Blocks | _InOrder] = []
            for row in self.rows:
                part, of_window = self.parts[row["name"]], row["draws"] * window / self.total
                if isinstance(part, datasets.Dataset):
                    made.append(_Blocks(row, RowReader(part), max(1, round(of_window / BLOCKS)), self.seed, epoch))
                else:
                    made.append(_InOrder(row, part, self.schema, self.seed, epoch))
            self.sequences = (epoch, made)
        return self.sequences[1]

    def tables(self, shard: int, epoch: int) -> Iterator[pa.Table]:
        """The windows of one shard."""
        sequences = self.of_epoch(epoch)
        draws = np.array([row["draws"] for row in self.rows])
        # Rows first..last of every source; the products are far below 2^63.
        first, last = draws * shard // self.shards, draws * (shard + 1) // self.shards
        labels = np.repeat(np.arange(len(draws), dtype=np.int32), last - first)
        order = generator(self.seed, "stream", epoch, shard)
        labels = order.permutation(labels)  # which source each place is of; a window needs only their counts
        # Bytes of a row in the mean; those of an IterableDataset are not known.
        read = [(count, one.reader.row_bytes) for count, one in zip(draws, sequences, strict=True) if one.reader]
        row_bytes = sum(count * size for count, size in read) / max(1, sum(count for count, _ in read))
        size = max(1, min(self.buffer_size, int(BUFFER_BYTES / max(1.0, row_bytes))))
        position = first.copy()
        for start in range(0, len(labels), size):
            counts = np.bincount(labels[start : start + size], minlength=len(draws))
            parts, names = [], []
            for number in np.flatnonzero(counts):
                found = sequences[number].take(int(position[number]), int(position[number] + counts[number]))
                parts += found
                names.append(source_array(self.rows[number]["name"], int(counts[number])))
            position += counts
            table = pa.Table.from_batches(parts, self.schema)
            if self.source_column is not None:
                chunks = [chunk for name in names for chunk in name.chunks]
                table = table.append_column(self.source_column, pa.chunked_array(chunks))
            yield in_order(table, order.permutation(len(table)))


class _Blocks:
    """The rows drawn from a stored source in the order of the stream: per pass, its blocks permuted."""

    def __init__(self, row: dict, reader: RowReader, block: int, seed: int, epoch: int):
        self.reader, self.block = reader, block
        self.passes = []  # of each: its rows ascending (None: all), its blocks, and the rows before each of them
        for number, kept in enumerate(passes_of(row, seed, epoch)):
            length = row["rows"] if kept is None else len(kept)
            blocks = generator(seed, row["name"], "blocks", epoch, number).permutation(-(-length // block))
            sizes = np.minimum(block, length - blocks * block)
            self.passes.append((kept, blocks, np.concatenate([[0], np.cumsum(sizes)])))
        self.starts = np.cumsum([0] + [before[-1] for _, _, before in self.passes])

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Numbers of the rows that come from `start` to before `stop`."""
        found = []
        first = np.searchsorted(self.starts, start, side="right") - 1
        for number in range(first, np.searchsorted(self.starts, stop)):
            kept, blocks, before = self.passes[number]
            low, high = max(0, start - self.starts[number]), min(before[-1], stop - self.starts[number])
            left = np.searchsorted(before, low, side="right") - 1
            right = np.searchsorted(before, high)
            places = (blocks[left:right, None] * self.block + np.arange(self.block)).ravel()
            places = places[places < before[-1]][low - before[left] : high - before[left]]
            found.append(places if kept is None else kept[places])
        return np.concatenate(found)

    def take(self, start: int, stop: int) -> list[pa.RecordBatch]:
        return self.reader.sorted_rows(self.rows(start, stop))[0]


class _InOrder:
    """The rows drawn from a source that can only be read from its start, in its order."""

    reader = None

    def __init__(self, row: dict, part: datasets.IterableDataset, schema: pa.Schema, seed: int, epoch: int):
        self.row, self.part, self.schema = row, part, schema
        self.passes = passes_of(row, seed, epoch)
        self.batches = self._read()
        self.waiting: list[pa.RecordBatch] = []

    def _read(self) -> Iterator[pa.RecordBatch]:
        for kept in self.passes:
            seen = 0
            for table in self.part.with_format("arrow").iter(batch_size=ROWS_AS_PYTHON):
                table = table.select(self.schema.names).replace_schema_metadata(None).cast(self.schema)
                seen += len(table)
                if seen > self.row["rows"]:
                    break
                if kept is not None:
                    before = seen - len(table)
                    low, high = np.searchsorted(kept, (before, seen))
                    table = table.take(pa.array(kept[low:high] - before))
                yield from table.combine_chunks().to_batches()
            if seen != self.row["rows"]:
                found = "more" if seen > self.row["rows"] else f"only {seen:,}"
                raise BuildError(
                    f"source {self.row['name']!r} was planned with {self.row['rows']:,} rows, but gives {found}: plan "
                    "again with the rows that it has."
                )

    def take(self, start: int, stop: int) -> list[pa.RecordBatch]:
        """The next rows; the stream asks for them one after the other."""
        found, missing = [], stop - start
        while missing:
            batch = self.waiting.pop() if self.waiting else next(self.batches)
            if len(batch) > missing:
                self.waiting.append(batch.slice(missing))
                batch = batch.slice(0, missing)
            found.append(batch)
            missing -= len(batch)
        if stop == self.row["draws"]:
            list(self.batches)  # read to the end, so that its rows are counted
        return found
