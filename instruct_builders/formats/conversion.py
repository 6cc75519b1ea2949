"""convert: a dataset of one format into another, of the same kind: Dataset, DatasetDict, IterableDataset or table."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.errors import ConfigError
from instruct_builders.formats import sharegpt
from instruct_builders.formats.layout import Layout, check_message_fields
from instruct_builders.formats.native import OPTIONAL, REQUIRED, check_format, shape, turn_fields, understand
from instruct_builders.formats.tables import check_options, pieces, read_batch, unify, write_batch
from instruct_builders.formats.turns import flatten
from instruct_builders.records import MESSAGE_FIELDS, empty_table

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
        options: `conversational=True` (prompt_completion); `template=`, `bos_token=`, `eos_token=` (text).

    Returns:
        The same kind as `dataset`, in the same format (`with_format`). Columns that are not the source format's own
        ride along untouched.

    Raises:
        [`ConfigError`]: An unknown format or option, a missing column, or a column that bears a name of the target.
        [`RowError`]: A row that can't be read as `source` or written as `target`, by row and field.
    """
    check_format(source, "source")
    check_format(target, "target")
    check_options(target, options)
    asked = {
        "message_fields": check_message_fields(message_fields),
        "columns": None if columns is None else tuple(columns),
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
    plan = _plan(shape(table.schema), source, target, asked)
    plan = _decide(plan, lambda names: pieces(table.select(names)))
    return unify([convert_batch(piece, [start], **plan) for start, piece in pieces(table)])


def _convert_splits(splits: dict, source: str, target: str, asked: dict):
    """All splits get the same columns, as one repository needs."""
    import datasets

    if not splits:
        return splits
    if any(isinstance(dataset, datasets.IterableDataset) for dataset in splits.values()):
        return type(splits)({name: _convert_stream(part, source, target, asked) for name, part in splits.items()})
    plans = {name: _plan(shape(part.features), source, target, asked) for name, part in splits.items()}
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

    plan = _decide(first, batches)
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
    plan = _plan(shape(columns), source, target, asked)
    plan["layout"] = _stream_layout(plan, shape(columns))
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


def _plan(columns: dict[str, pa.DataType], source: str, target: str, asked: dict) -> dict:
    """The keyword arguments of [`convert_batch`], the layout still as asked for."""
    native, turns = understand(columns, source)
    strangers = [name for name in columns if name not in native]
    if source != target:
        taken = [name for name in strangers if name in (*REQUIRED[target], *OPTIONAL[target]) and name != "meta"]
        if taken:
            raise ConfigError(
                f"the column {taken[0]!r} is not part of {source} as it is here, and {target} has one of that name; "
                "rename or remove it first"
            )
    layout = dict(asked, turns=turns if source == target else "")
    if target == source == "prompt_completion" and "conversational" not in layout["options"]:
        conversational = turn_fields(columns["prompt"]) != set()
        layout["options"] = {**layout["options"], "conversational": conversational}
    types = {name: columns[name] for name in native} if source == target else {}
    return {"source": source, "target": target, "native": native, "turns": turns, "layout": layout, "types": types}


def _mirrored(plan: dict) -> set[str]:
    """The target's optional columns that the source has as well, whatever they hold."""
    source, target, native = plan["source"], plan["target"], set(plan["native"])
    if source == "record":  # has them all, always
        return set()
    if "input" in native and target != "alpaca":
        native = native - {"input"} | {"context"}
    if "context" in native and target == "alpaca":
        native = native - {"context"} | {"input"}
    own = set() if source == target else {"meta", "system"}
    return {name for name in OPTIONAL[target] if name in native - own} - ({"context"} if target == "text" else set())


def _decide(plan: dict, batches) -> dict:
    """The plan with its layout settled for all rows: by a look at the roles, or by a conversion that is thrown away.

    Args:
        batches (`Callable`): Column names -> `(first row, table)` of the whole dataset.
    """
    layout = dict(plan["layout"])
    mirrored = _mirrored(plan)
    if layout["columns"] is not None and layout["message_fields"] is not None:
        return plan
    if _is_plain(plan, batches):
        columns, fields = mirrored, {"role", "content"}
    else:
        columns, fields = set(mirrored), {"role", "content"}
        trial = {**plan, "layout": {**layout, "columns": _trial_columns(plan)}}
        for start, table in batches(plan["native"]):
            out = convert_batch(table, [start], **trial)
            columns |= {name for name in out.column_names if name in OPTIONAL[plan["target"]]}
            for name in out.column_names:
                fields |= (turn_fields(out.schema.field(name).type) or set()) & MESSAGE_FIELDS.keys()
    if layout["columns"] is None:
        layout["columns"] = tuple(name for name in OPTIONAL[plan["target"]] if name in columns)
    if layout["message_fields"] is None:
        layout["message_fields"] = tuple(name for name in MESSAGE_FIELDS if name in fields)
    return {**plan, "layout": layout}


def _trial_columns(plan: dict) -> tuple[str, ...] | None:
    """Columns of the trial: what the rows need, except where the target has columns that must be asked for."""
    if plan["layout"]["columns"] is not None:
        return plan["layout"]["columns"]
    return tuple(_mirrored(plan)) if plan["source"] == plan["target"] == "alpaca" else None


def _is_plain(plan: dict, batches) -> bool:
    """Whether every row is in its format's default spelling, told without converting: then nothing goes to `meta`."""
    native, turns = set(plan["native"]), plan["turns"]
    if plan["source"] == "alpaca":
        return not native & {"system", "history", "meta"}
    if plan["source"] == "text":
        return "meta" not in native
    if plan["source"] == "sharegpt" and native == {turns}:
        plain = pa.array([name for name in sharegpt.WRITTEN.values() if name != "observation"])
        for _, table in batches([turns]):
            for chunk in table[turns].chunks:
                values = flatten(chunk)[1]
                if not pa.types.is_struct(values.type) or "from" not in values.type.names:
                    return False
                spelled = pc.struct_field(values, "from")
                if not pc.all(pc.is_in(spelled, value_set=plain.cast(spelled.type))).as_py():
                    return False
        return True
    return False


def _stream_layout(plan: dict, columns: dict[str, pa.DataType]) -> dict:
    """A stream's layout, from its columns alone."""
    layout, fields = dict(plan["layout"]), {"role", "content"}
    if plan["source"] in ("messages", "record"):
        fields |= turn_fields(columns[plan["turns"]]) or set()
    elif plan["source"] == "prompt_completion":
        fields |= turn_fields(columns["prompt"]) or set()
    elif plan["source"] == "sharegpt" and "tools" in plan["native"]:
        fields.add("tool_calls")
    if layout["message_fields"] is None:
        layout["message_fields"] = tuple(name for name in MESSAGE_FIELDS if name in fields)
    if layout["columns"] is None:
        found = _mirrored(plan) | (
            {"meta"} if plan["source"] == "sharegpt" and plan["target"] != "sharegpt" else set()
        )
        if plan["source"] == "record":
            found = {"input" if n == "context" and plan["target"] == "alpaca" else n for n in plan["native"]}
        layout["columns"] = tuple(name for name in OPTIONAL[plan["target"]] if name in found)
    return layout


def convert_batch(
    table: pa.Table,
    indices: list[int],
    *,
    source: str,
    target: str,
    native: list[str],
    turns: str,
    layout: dict,
    types: dict[str, pa.DataType],
    code: str = "",
) -> pa.Table:
    """One Arrow table of any format to another: what `map` calls. `code` only makes new code a new fingerprint."""
    strangers = [name for name in table.column_names if name not in native]
    batch = read_batch(table, source, native, turns, indices[0] if len(indices) else 0)
    if source != target:
        batch.names = batch.names
    out = write_batch(batch, target, Layout(**layout), strangers if source != target else [])
    for name, kind in types.items():
        if name in out.column_names and out.schema.field(name).type != kind and not pa.types.is_null(kind):
            out = out.set_column(out.column_names.index(name), name, out[name].cast(kind))
    for name in strangers:
        out = out.append_column(table.schema.field(name), table[name])
    if set(out.column_names) == set(table.column_names):
        out = out.select(table.column_names)
    return out


def _features(schema: pa.Schema, given, plan: dict):
    """The output's features: strangers keep theirs, which Arrow types alone would not tell (class labels, images)."""
    import datasets

    features = datasets.Features.from_arrow_schema(schema)
    for name in features:
        if name in given and name not in plan["native"]:
            features[name] = given[name]
        elif name in given and given[name] != features[name] and plan["source"] == plan["target"]:
            features[name] = given[name]
    return features


@functools.cache
def code_digest() -> str:
    """Of this package's own source: `map` tells importable functions apart by name only, and would serve old rows."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
