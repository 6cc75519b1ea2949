"""Drawing what a plan says: exactly, without replacement until a source is used up, the same for the same seed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import BuildError, ConfigError, did_you_mean
from .table import Plan
from .writing import RowReader

# Names of splits that are kept for testing, with what may follow: "test", "test_sft", "validation[:10%]".
HELD_OUT = re.compile(r"(test|valid|validation|dev|eval)(\W|_|$)", re.IGNORECASE)

SHARED_EPOCHS = 4  # at most, that have no row of a partly drawn source in common


def generator(seed: int, *key: str | int) -> np.random.Generator:
    """A stream of random numbers for each use: of a source's name, so that other sources don't change its rows."""
    parts = [
        int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest()) if isinstance(part, str) else part
        for part in key
    ]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *parts])))


def pool(name: str, rows: int, limit: int | None, seed: int) -> np.ndarray | None:
    """The rows a limited source may give, ascending; `None` for all. The same in every epoch."""
    if limit is None or limit >= rows:
        return None
    return np.sort(generator(seed, name, "limit").choice(rows, limit, replace=False))


def last_pass(name: str, usable: int, rest: int, seed: int, epoch: int) -> np.ndarray:
    """The rows of a pass that is not a whole one, shape (rest,), in random order.

    Consecutive epochs take consecutive pieces of one draw, so that training sees other rows in each of them.
    """
    shared = min(usable // rest, SHARED_EPOCHS)
    start = epoch % shared * rest
    # Not a permutation, which would cost a time that grows with the rows there are, not with those drawn.
    drawn = generator(seed, name, "part", epoch // shared).choice(usable, rest * shared, replace=False)
    return drawn[start : start + rest]


def passes_of(row: dict, seed: int, epoch: int) -> list[np.ndarray | None]:
    """The same rows as [`drawn_rows`], ascending within each pass; `None` is a pass over all rows of the source."""
    name, chosen = row["name"], pool(row["name"], row["rows"], row["limit"], seed)
    usable = row["rows"] if chosen is None else len(chosen)
    whole, rest = divmod(row["draws"], usable)
    passes = [chosen] * whole
    if rest:
        kept = np.sort(last_pass(name, usable, rest, seed, epoch))
        passes.append(kept if chosen is None else chosen[kept])
    return passes


def drawn_rows(row: dict, seed: int, epoch: int) -> np.ndarray:
    """Row numbers drawn from one source, int64 of shape (draws,): reshuffled passes, one after the other."""
    name, chosen = row["name"], pool(row["name"], row["rows"], row["limit"], seed)
    usable = row["rows"] if chosen is None else len(chosen)
    whole, rest = divmod(row["draws"], usable)
    passes = [generator(seed, name, "pass", epoch, number).permutation(usable) for number in range(whole)]
    if rest:
        passes.append(last_pass(name, usable, rest, seed, epoch))
    drawn = np.concatenate(passes) if len(passes) > 1 else passes[0]
    return drawn if chosen is None else chosen[drawn]


def draw_indices(plan: Plan, seed: int = 42, epoch: int = 0) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Which row of which source comes when.

    Args:
        plan ([`Plan`]): What to draw.
        seed (`int`, *optional*, defaults to 42): 0 or more.
        epoch (`int`, *optional*, defaults to 0): 0 or more; each epoch of training draws anew.

    Returns:
        `tuple`: names of the sources with draws, sorted, shape (k,); the source of each drawn row, int32 of shape
        (total_size,); its row number in it, int64 of shape (total_size,).
    """
    check_seed(seed, epoch)
    rows = sorted((row for row in plan.table if row["draws"]), key=lambda row: row["name"])
    counts = np.array([row["draws"] for row in rows])
    labels = generator(seed, "order", epoch).permutation(np.repeat(np.arange(len(rows), dtype=np.int32), counts))
    numbers = np.empty(plan.total_size, dtype=np.int64)
    # Each source's rows, in their order, into its places: its passes don't overlap.
    numbers[np.argsort(labels, kind="stable")] = np.concatenate([drawn_rows(row, seed, epoch) for row in rows])
    return [row["name"] for row in rows], labels, numbers


def draw(
    plan: Plan,
    sources: Mapping[str, datasets.Dataset],
    *,
    seed: int = 42,
    epoch: int = 0,
    source_column: str | None = None,
) -> datasets.Dataset:
    """Draws the mixture: the sources stay where they are (memory-mapped), with one array of row numbers over them.

    Args:
        plan ([`Plan`]): What to draw.
        sources (`Mapping[str, datasets.Dataset]`): Name in the plan's table -> dataset, all with the same features.
            Those that nothing is drawn from may be absent.
        seed (`int`, *optional*, defaults to 42), epoch (`int`, *optional*, defaults to 0): See [`draw_indices`].
        source_column (`str`, *optional*): Name of a column to add that holds each row's source.

    Returns:
        `datasets.Dataset`: `plan.total_size` rows. [`write_arrow`] puts them in order on disk, for faster reading.

    Raises:
        ConfigError: For sources that the plan does not have or that can't be mixed.
        BuildError: For a dataset with other rows than planned.
    """
    names, labels, numbers = draw_indices(plan, seed, epoch)
    parts = checked(plan, sources, source_column)
    for name, part in parts.items():
        if not isinstance(part, datasets.Dataset):
            raise ConfigError(f"source {name!r} is a {type(part).__name__}: draw needs a Dataset; stream takes both.")
    if source_column is not None:
        parts = {name: _with_source(part, name, source_column) for name, part in parts.items()}
    together = datasets.concatenate_datasets([parts[name] for name in names])
    starts = np.cumsum([0] + [len(parts[name]) for name in names[:-1]])
    numbers += starts[labels]
    return together.select(numbers)


def count_sources(dataset: datasets.Dataset, source_column: str) -> dict[str, int]:
    """Rows per source in a drawn dataset, for [`Plan.drawn`]."""
    parts, _ = RowReader(dataset.select_columns(source_column)).sorted_rows(np.arange(len(dataset)))
    column = pa.chunked_array([part.column(0) for part in parts], pa.string())
    return {item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()}


def checked(plan: Plan, sources: Mapping, source_column: str | None = None) -> dict:
    """The datasets that rows are drawn from, by name, all with the columns in the same order.

    Raises:
        ConfigError: For names, features or splits that don't fit.
        BuildError: For a dataset with other rows than planned.
    """
    planned = {row["name"]: row for row in plan.table}
    if unknown := [name for name in sources if name not in planned]:
        raise ConfigError(
            f"source {unknown[0]!r} is not in the plan.{did_you_mean(str(unknown[0]), planned)} Names are those of "
            "plan.table, with '/' between the levels."
        )
    wanted = sorted(name for name, count in plan.draws.items() if count)
    if absent := [name for name in wanted if name not in sources]:
        raise ConfigError(
            f"{len(absent)} planned sources have no dataset: {', '.join(absent[:10])}. Give their datasets, or plan "
            "with Source(0, missing='the reason')."
        )
    parts = {name: sources[name] for name in wanted}
    for name, part in parts.items():
        if isinstance(part, datasets.Dataset) and len(part) != planned[name]["rows"]:
            raise BuildError(
                f"source {name!r} has {len(part):,} rows, but was planned with {planned[name]['rows']:,}: plan again."
            )
        if part.features is None:
            raise ConfigError(f"source {name!r} does not know its features: cast it, or load it with features.")
        if source_column in part.features:
            raise ConfigError(f"source {name!r} has a column {source_column!r} already: give another source_column.")
    _check_splits(parts)
    first = parts[wanted[0]]
    for name, part in parts.items():
        if differences := _differences(first.features, part.features):
            raise ConfigError(
                f"{wanted[0]!r} and {name!r} differ in columns: {'; '.join(differences)}. Convert both to one format."
            )
    columns = list(first.features)
    return {
        name: part if list(part.features) == columns else part.select_columns(columns) for name, part in parts.items()
    }


def _differences(first: datasets.Features, other: datasets.Features) -> list[str]:
    found = []
    for column in [*first, *(name for name in other if name not in first)]:
        here, there = first.get(column), other.get(column)
        # Features compare as dicts do; the Arrow types also know the order of a struct's fields.
        types = [datasets.Features({column: one}).arrow_schema.types for one in (here, there) if one is not None]
        if here != there or types[0] != types[-1]:
            found.append(f"{column} ({'absent' if here is None else here} and {'absent' if there is None else there})")
    return found


def _check_splits(parts: Mapping) -> None:
    """A mixture for training must not take in a test split unnoticed."""
    splits = {name: str(part.split) for name, part in parts.items() if part.split is not None}
    held_out = {name: split for name, split in splits.items() if HELD_OUT.match(split)}
    training = {name: split for name, split in splits.items() if name not in held_out}
    if held_out and training:
        (name, split), (other, its) = next(iter(held_out.items())), next(iter(training.items()))
        raise ConfigError(
            f"source {name!r} is the split {split!r} while {other!r} is {its!r}: a held-out split is not mixed with "
            "training data. Mix the splits each on their own."
        )


def check_seed(seed: int, epoch: int) -> None:
    for name, value in (("seed", seed), ("epoch", epoch)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise ConfigError(f"{name}={value!r}: a whole number of 0 or more is allowed.")


def source_array(name: str, rows: int) -> pa.ChunkedArray:
    """One name for so many rows, in the memory of a few: the chunks are one and the same."""
    size = min(rows, 10_000)
    chunk = pa.repeat(pa.scalar(name, pa.string()), size)
    chunks = [chunk] * (rows // size) + ([chunk.slice(0, rows % size)] if rows % size else [])
    return pa.chunked_array(chunks)


def _with_source(part: datasets.Dataset, name: str, column: str) -> datasets.Dataset:
    names = datasets.Dataset(pa.table({column: source_array(name, len(part))}))
    return datasets.concatenate_datasets([part, names], axis=1)
