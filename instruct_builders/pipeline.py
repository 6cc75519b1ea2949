"""One builder's records -> cleaned, split and in their final format, with the account of every row on the way."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import __version__, formats, licenses, quarantine, records, transforms
from .builder import InstructBuilder, code_digest
from .errors import BuildError, ConfigError

# What the builder was told and the account must repeat: it decides which rows there are.
OPTIONS = ("columns", "field", "strict", "max_bad_fraction", "max_chars", "max_row_bytes", "control_tokens")

COPIED = ("task", "split", "rows_in", "added", "rows_out", "rejected")  # from the reader's account of a file


@dataclass(frozen=True)
class Built:
    """What [`directory.write`] takes.

    Args:
        splits (`dict`): Split name -> [`~datasets.Dataset`] in the final format.
        build (`dict`): The account that becomes `build.json`.
        rejected (`list[dict]`): The lines of `rejected.jsonl`.
    """

    splits: dict[str, datasets.Dataset]
    build: dict
    rejected: list[dict]


def build(
    builder: InstructBuilder,
    *,
    steps: Sequence[str | dict] = (),
    format: str = "messages",
    test_size: float | int = 0,
    seed: int = 42,
    num_proc: int | None = None,
    config_name: str = "default",
    strict: bool = False,
    format_options: dict | None = None,
) -> Built:
    """Runs a builder of records, the transforms, and the split, and converts to `format`.

    Args:
        builder ([`InstructBuilder`]): Constructed with `format="record"`.
        steps (`Sequence`, *optional*): Transforms in order, each a name or `{name: parameters}`.
        format (`str`, *optional*, defaults to `"messages"`): Columns of the result.
        test_size (`float` or `int`, *optional*, defaults to 0): Share or number of conversations that make a `test`
            split. Parts of one conversation stay together.
        seed (`int`, *optional*, defaults to 42): For the split.
        num_proc (`int`, *optional*): Worker processes for reading.
        config_name (`str`, *optional*, defaults to `"default"`): Name of the configuration in the result.
        strict (`bool`, *optional*, defaults to `False`): Whether a row rejected by a transform is an error.
        format_options (`dict`, *optional*): Passed on to [`formats.convert`], such as `{"template": ...}` for `text`.

    Raises:
        ConfigError: For an unknown format, transform or parameter; nothing has been read then.
        BuildError: If no row is left, or `strict` and a transform rejected rows.
    """
    formats.check_format(format, "format")
    transforms.check(steps)  # a misspelt last step must not cost the run of the first ones
    if (num_proc is not None and num_proc < 1) or seed < 0:
        raise ConfigError(
            f"num_proc={num_proc}, seed={seed}: 1 or more processes, and a seed of 0 or more are allowed."
        )
    table, lines = collect(builder, num_proc)
    names = pc.unique(table["split"]).to_pylist()
    kept, counts, dropped = transformed(table, steps)
    if strict and dropped:
        first = quarantine.describe(dropped)
        raise BuildError(f"strict: transforms rejected {len(dropped)} rows, the first:\n{first}")
    kept, leaked = without_leaks(kept)
    lines += dropped + leaked
    if not len(kept):
        raise BuildError(f"no row is left after {len(lines)} were rejected, the first:\n{quarantine.describe(lines)}")
    splits = {name: kept.filter(pc.equal(kept["split"], name)).drop_columns(["split", "row"]) for name in names}
    if test_size:
        splits = with_test(splits, test_size, seed)
    converted = formats.convert(
        datasets.DatasetDict({name: datasets.Dataset(part) for name, part in splits.items() if len(part)}),
        "record",
        format,
        **(format_options or {}),
    )
    account = {
        "builder": builder.NAME,
        "format": format,
        "config_name": config_name,
        "license": license_of(splits.values()),
        "sources": sources_of(builder),
        "options": {name: getattr(builder.config, name) for name in OPTIONS},
        **{key: builder.account[key] for key in ("left_out", "empty_splits", "settings") if key in builder.account},
        "steps": counts,
        "seed": seed,
        "test_size": test_size,
        "versions": {"instruct_builders": __version__, "datasets": datasets.__version__, "pyarrow": pa.__version__},
        "code": code_digest(),
    }
    return Built(dict(converted), account, lines)


def collect(builder: InstructBuilder, num_proc: int | None = None) -> tuple[pa.Table, list[dict]]:
    """Runs a builder of records: its rows and the lines of its rejected ones.

    One table for all splits, with the column `split`: duplicates between train and test are leaks, and are found like
    any others.
    """
    builder.download_and_prepare(num_proc=num_proc)
    read = builder.as_dataset()
    return pa.concat_tables([with_split(dataset, name) for name, dataset in read.items()]), builder.rejected


def with_split(dataset: datasets.Dataset, split: str) -> pa.Table:
    """The dataset's Arrow table with a column that says which split a row is of."""
    table = dataset.with_format("arrow")[:]
    return table.append_column("split", pa.repeat(pa.scalar(split, pa.string()), len(table)))


def transformed(table: pa.Table, steps: Sequence[str | dict]) -> tuple[pa.Table, list[dict], list[dict]]:
    """Runs transforms one after the other; a row that one rejects is not seen by the next.

    Returns:
        The rows that are left, the counts per step (see [`transforms.apply`]), and the lines
        of `rejected.jsonl`, in the order of the steps.
    """
    counts, lines, scored = [], [], "score" in table.column_names
    for step, (_, parameters) in zip(steps, transforms.check(steps), strict=True):
        table, (count,) = transforms.apply(table, [step])
        counts.append({**count, "parameters": {name: told(value) for name, value in parameters.items()}})
        table, bad = quarantine.split_rejected(table)
        if not len(bad):
            continue
        lines += rejected_lines(bad, count["name"])
    if not scored and "score" in table.column_names:  # what `quality` and `judge` tell the steps behind them
        table = table.drop_columns("score")
    return table, counts, lines


def told(value):
    """A parameter as `build.json` can hold it: a function that was handed in goes by its name, a file by its last
    part, since where it lies is this machine's business, and the same build elsewhere the same."""
    if isinstance(value, Mapping):
        return {key: told(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [told(entry) for entry in value]
    if callable(value):
        return f"{value.__module__}:{getattr(value, '__qualname__', type(value).__name__)}"
    if isinstance(value, str | os.PathLike) and os.path.isabs(os.path.expanduser(value)):
        return os.path.basename(os.path.normpath(value))
    return re.sub(r"(?<=://)[^/@\s]+@", "", value) if isinstance(value, str) else value  # no password of a server


def rejected_lines(bad: pa.Table, stage: str) -> list[dict]:
    """The lines of `rejected.jsonl` for records with `rejected`, `split` and `row`, rejected after reading."""
    kept = [name for name in records.RECORD.names if name in bad.column_names and name != "source"]
    own, places = bad.select([*kept, "rejected"]), {"row": bad["row"].to_numpy()}
    lines = quarantine.rejected_rows(own, stage=stage, split=None, file="", places=places)
    said = zip(bad["source"].to_pylist(), bad["split"].to_pylist(), strict=True)
    return [{**line, "file": source, "split": split} for line, (source, split) in zip(lines, said, strict=True)]


def train_test_masks(groups: pa.Array | pa.ChunkedArray, test_size: float | int, seed: int) -> np.ndarray:
    """Which rows go to the test split, whole groups at a time: bool array of shape (rows,).

    Args:
        groups (`pa.Array`): One key per row; rows with the same key stay together.
        test_size (`float` or `int`): A share of the groups below 1, or a number of groups.
        seed (`int`): Of the draw. The same groups, size and seed give the same rows, on every machine.

    Raises:
        ConfigError: If the size leaves no row for training, or none for the test.
    """
    codes = groups.combine_chunks() if isinstance(groups, pa.ChunkedArray) else groups
    codes = codes.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    total = int(codes.max()) + 1 if len(codes) else 0
    wanted = round(total * test_size) if isinstance(test_size, float) else test_size
    if not 0 < wanted < total:
        raise ConfigError(
            f"test_size={test_size} makes {wanted} of {total} conversations a test split: both need one."
        )
    chosen = np.zeros(total, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(total)[:wanted]] = True
    return chosen[codes]


def without_leaks(table: pa.Table) -> tuple[pa.Table, list[dict]]:
    """Training rows whose conversation is also in another split are rejected: sources overlap, and bring their own
    test splits.

    Args:
        table (`pa.Table`): Records with `split`.

    Returns:
        The rows that are left, and the lines of `rejected.jsonl`.
    """
    groups, training = lineages(table), records.one_array(pc.equal(table["split"], "train"))
    ids, others = records.one_array(table["id"]), pc.invert(training)
    held_out = pa.concat_arrays([pc.unique(groups.filter(others)), pc.unique(ids.filter(others))])
    leaked = pc.and_(training, pc.or_(pc.is_in(groups, held_out), pc.is_in(ids, held_out)))
    if not pc.any(leaked).as_py():
        return table, []
    bad = table.filter(leaked)
    why = {"reason": "dup_content", "field": None, "detail": "the conversation is in a split that is held out"}
    bad = bad.append_column("rejected", pa.repeat(pa.scalar(why, records.REJECTED), len(bad)))
    return table.filter(pc.invert(leaked)), rejected_lines(bad, "leak")


def lineages(table: pa.Table) -> pa.Array:
    """One key per row, the same for all rows that go back to one record: no split may part them.

    A row's `parent` can itself be a row with a parent, as where a prompt was evolved round after round; what is left
    is the last parent that is not in the table.
    """
    ids, parents = records.one_array(table["id"]), records.one_array(table["parent"])
    found = pc.index_in(parents, ids).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    found[pc.is_null(parents).to_numpy(zero_copy_only=False)] = -1
    roots = np.where(found < 0, np.arange(len(found)), found)
    for _ in range(len(roots).bit_length()):  # each pass doubles the way that is gone; a circle ends it as well
        roots = roots[roots]
    return pc.coalesce(parents, ids).take(pa.array(roots))


def with_test(splits: dict[str, pa.Table], test_size: float | int, seed: int) -> dict[str, pa.Table]:
    if "test" in splits or "train" not in splits:
        raise ConfigError(
            f"test_size={test_size}: the sources have the splits {', '.join(splits)}; a test split is only made from "
            "'train', and only where there is none. Leave test_size out, or name the files to read."
        )
    train = splits["train"]
    mask = train_test_masks(lineages(train), test_size, seed)
    return {**splits, "train": train.filter(pa.array(~mask)), "test": train.filter(pa.array(mask))}


def license_of(tables) -> str | None:
    """The strictest license among the rows; `None` where no row states one."""
    stated = {name for table in tables for name in pc.unique(table["license"]).to_pylist()}
    return licenses.strictest(stated) if stated - {None} else None


def sources_of(builder: InstructBuilder) -> list[dict]:
    """Per file: where it came from, its digest and license, and what became of its rows at reading."""
    files = {(file.name, file.split): file for file in builder.files}
    return [
        {
            "source": files[entry["file"], entry["split"]].source,
            "digest": files[entry["file"], entry["split"]].digest,
            "license": builder.config.license or files[entry["file"], entry["split"]].license,
            **{key: entry[key] for key in COPIED if key in entry},
        }
        for entry in builder.account["files"]
    ]
