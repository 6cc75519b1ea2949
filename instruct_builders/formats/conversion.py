"""convert: a dataset of one format into another, of the same kind: Dataset, DatasetDict, IterableDataset or table."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from instruct_builders.errors import ConfigError
from instruct_builders.formats.json_texts import decoded_type
from instruct_builders.formats.layout import check_message_fields
from instruct_builders.formats.native import check_format, shape
from instruct_builders.formats.plan import decide, first_plan, stream_layout
from instruct_builders.formats.tables import check_options, convert_batch, pieces, unify
from instruct_builders.records import empty_table

BATCH_ROWS = 5_000  # rows per call of Dataset.map: fewer cost more calls, more cost memory


def convert(
    dataset,
    source: str,
    target: str,
    *,
    message_fields: Iterable[str] | None = None,
    columns: Iterable[str] | None = None,
    **options,
):
    """The same rows in another format.

    Args:
        dataset (`Dataset`, `DatasetDict`, `IterableDataset`, `IterableDatasetDict` or `pa.Table`): Rows of `source`.
        source (`str`): A name in `FORMATS`, or "record".
        target (`str`): Likewise.
        message_fields (`Iterable[str]`, *optional*): Message fields to write. Defaults to those that hold a value
            anywhere in the dataset; of a stream, to those that its features name.
        columns (`Iterable[str]`, *optional*): Optional columns to write, such as `("context", "tools", "meta")`.
            Defaults to those that hold a value, and those that the source has.
        options: `turns="conversations"` or `"messages"`, the name of the column of turns (messages, sharegpt), which
            is the source's where both are the same format, else the format's usual one; `conversational=True`
            (prompt_completion); `template=`, `bos_token=`, `eos_token=` (text).

    Returns:
        The same kind as `dataset`, in the same format (`with_format`). Columns that are not the source format's own
        ride along untouched.

    Raises:
        [`ConfigError`]: An unknown format or option, a missing column, or a column that bears a name of the target.
        [`RowError`]: A row that can't be read as `source` or written as `target`, by row and field.
    """
    check_format(source, "source")
    check_format(target, "target")
    columns = None if columns is None else tuple(columns)
    check_options(target, columns, options)
    asked = {
        "message_fields": check_message_fields(message_fields),
        "columns": columns,
        "options": options,
    }
    if isinstance(dataset, pa.Table):
        return _convert_table(dataset, source, target, asked)
    import datasets

    if isinstance(dataset, dict):
        return _convert_splits(dataset, source, target, asked)
    if isinstance(dataset, datasets.Dataset):
        return _convert_splits({"": dataset}, source, target, asked)[""]
    if isinstance(dataset, datasets.IterableDataset):
        return _convert_stream(dataset, source, target, asked)
    raise ConfigError(f"convert takes a Dataset, a DatasetDict, an IterableDataset or a pa.Table, not {type(dataset)}")


def _convert_table(table: pa.Table, source: str, target: str, asked: dict) -> pa.Table:
    plan = first_plan(shape(table.schema), source, target, asked)
    plan = decide(plan, lambda names: pieces(table.select(names)))
    return unify([convert_batch(piece, [start], **plan) for start, piece in pieces(table)])


def _convert_splits(splits: dict, source: str, target: str, asked: dict):
    """All splits get the same columns, as one repository needs."""
    import datasets

    if not splits:
        return splits
    if any(isinstance(dataset, datasets.IterableDataset) for dataset in splits.values()):
        return type(splits)({name: _convert_stream(part, source, target, asked) for name, part in splits.items()})
    plans = {name: first_plan(shape(part.features), source, target, asked) for name, part in splits.items()}
    first = next(iter(plans.values()))
    if different := [name for name, plan in plans.items() if plan["native"] != first["native"]]:
        raise ConfigError(
            f"the split {different[0]!r} has the columns {', '.join(plans[different[0]]['native'])}, the first split "
            f"{', '.join(first['native'])}; convert them one by one"
        )

    def batches(names: list[str]) -> Iterator[tuple[int, pa.Table]]:
        for part in splits.values():
            start = 0
            for table in part.select_columns(names).with_format("arrow").iter(BATCH_ROWS):
                yield start, table
                start += len(table)

    plan = decide(first, batches)
    converted = {name: _map(part, plan) for name, part in splits.items()}
    return type(splits)(converted)


def _map(dataset, plan: dict):
    """`Dataset.map` over Arrow tables, with the output's features and the input's format."""
    import datasets

    was = dataset.format
    empty = convert_batch(dataset.with_format("arrow").select_columns(dataset.column_names)[:0], [0], **plan)
    features = _features(empty.schema, dataset.features, plan)
    if not len(dataset):  # map would return its input
        info = datasets.DatasetInfo(features=features)
        out = datasets.Dataset(empty.cast(features.arrow_schema), info=info, split=dataset.split)
    else:
        out = dataset.with_format("arrow").map(
            convert_batch,
            batched=True,
            batch_size=BATCH_ROWS,
            with_indices=True,
            features=features,
            fn_kwargs={**plan, "code": code_digest()},
            desc=f"{plan['source']} -> {plan['target']}",
        )
    shown = None
    if set(was["columns"]) != set(dataset.column_names):
        new = set(out.column_names) - set(dataset.column_names)
        shown = [name for name in out.column_names if name in was["columns"] or name in new]
    kwargs = {**was["format_kwargs"], "output_all_columns": was["output_all_columns"]}
    return out.with_format(was["type"], columns=shown, **kwargs)


def _convert_stream(dataset, source: str, target: str, asked: dict):
    if dataset.features is None:  # told by the first rows, as `datasets` itself does
        first = next(iter(dataset.with_format("arrow").iter(batch_size=1000)), None)
        if first is None:
            raise ConfigError("the stream has no rows and no features, so its columns can't be told")
        columns, features = first.schema, None
    else:
        columns, features = dataset.features.arrow_schema, dataset.features
    plan = first_plan(shape(columns), source, target, asked)
    plan["layout"] = stream_layout(plan, shape(columns))
    was = getattr(dataset, "_formatting", None)  # IterableDataset has no public property for it
    empty = convert_batch(empty_table(columns), [0], **plan)
    if features is None:
        import datasets

        features = datasets.Features.from_arrow_schema(columns)
    out = dataset.with_format("arrow").map(
        convert_batch,
        batched=True,
        batch_size=1000,  # a stream is read ahead by this many rows
        with_indices=True,
        features=_features(empty.schema, features, plan),
        fn_kwargs=plan,
    )
    return out.with_format(was.format_type if was is not None else None)


def _features(schema: pa.Schema, given, plan: dict):
    """The output's features: strangers keep theirs, which Arrow types alone would not tell (class labels, images)."""
    import datasets

    features = datasets.Features.from_arrow_schema(schema)
    for name in features:
        if name in given and name not in plan["native"]:
            features[name] = given[name]
        elif name in given and given[name] != features[name] and plan["source"] == plan["target"]:
            kind = given.arrow_schema.field(name).type
            if decoded_type(kind, name) == kind:  # else JSON that held texts is text now
                features[name] = given[name]
    return features


@functools.cache
def code_digest() -> str:
    """Of this package's own source: `map` tells importable functions apart by name only, and would serve old rows."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
