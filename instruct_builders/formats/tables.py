"""Tables of native columns <-> tables of records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.errors import ConfigError, did_you_mean
from instruct_builders.formats import alpaca, messages, prompt_completion, sharegpt, text
from instruct_builders.formats.json_texts import decode
from instruct_builders.formats.layout import Layout, check_message_fields
from instruct_builders.formats.native import OPTIONAL, REQUIRED, TURNS, check_format, shape, understand
from instruct_builders.formats.turns import Batch, as_json, nest
from instruct_builders.records import JSON, MESSAGE_FIELDS, REJECTED, one_array

READ = {
    "alpaca": alpaca.read,
    "sharegpt": sharegpt.read,
    "messages": messages.read,
    "prompt_completion": prompt_completion.read,
    "text": text.read,
    "record": messages.read_record,
}
WRITE = {
    "alpaca": alpaca.write,
    "sharegpt": sharegpt.write,
    "messages": messages.write,
    "prompt_completion": prompt_completion.write,
    "text": text.write,
    "record": messages.write_record,
}
OPTIONS = {
    "messages": ("turns",),
    "sharegpt": ("turns",),
    "prompt_completion": ("conversational",),
    "text": ("template", "bos_token", "eos_token"),
}
ROWS = 50_000  # rows handled at once: keeps 32-bit string offsets far from their 2 GiB


def pieces(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """`(first row, slice)`: at least one, so that an empty table gives its schema."""
    for start in range(0, max(len(table), 1), ROWS):
        yield start, table.slice(start, ROWS)


def read_batch(table: pa.Table, source: str, native: list[str], turns: str, first_row: int = 0) -> Batch:
    """One slice of native columns, read into flat turns."""
    columns, problems = {}, []
    for name in native:
        columns[name], found = decode(one_array(table[name]), name)
        problems += found
    batch = READ[source](columns, turns=turns) if turns else READ[source](columns)
    batch.problems += problems
    batch.first_row = first_row
    return batch


def check_options(target: str, columns: Iterable[str] | None, options: dict) -> None:
    for name in columns or ():
        if name not in OPTIONAL[target]:
            allowed = ", ".join(OPTIONAL[target])
            hint = did_you_mean(name, OPTIONAL[target])
            raise ConfigError(f"columns has {name!r}; the optional columns of {target} are {allowed}.{hint}")
    for name in options:
        if name not in OPTIONS.get(target, ()):
            allowed = ("columns", "message_fields", *OPTIONS.get(target, ()))
            raise ConfigError(f"writing {target} has no option {name!r}; allowed are {', '.join(allowed)}")
    if options.get("turns", TURNS[0]) not in TURNS:
        raise ConfigError(f"turns={options['turns']!r}: a column of turns is called {' or '.join(TURNS)}")


def refuse_collisions(strangers: Iterable[str], target: str, own: Iterable[str]) -> None:
    if taken := [name for name in strangers if name in own]:
        raise ConfigError(
            f"the column {taken[0]!r} is not part of the source's format, and {target} has one of that name; "
            "rename or remove it first"
        )


def to_record(table: pa.Table, source: str) -> pa.Table:
    """Native columns -> a record's `messages`, `context`, `tools` and `meta`; other columns ride along.

    Args:
        table (`pa.Table`): With the columns of `source`.
        source (`str`): A name in `FORMATS`.

    Returns:
        `pa.Table`: With a column `rejected` (see `records.REJECTED`) where a row can't be read as that format, such as
        a function call that is no JSON: such a row stays in its place, for the caller to set aside. Nulls and unknown
        roles stay as they are, for [`instruct_builders.validation.validate`] to name.
    """
    check_format(source, "source")
    native, turns = understand(shape(table.schema), source)
    strangers = [name for name in table.column_names if name not in native]
    refuse_collisions(strangers, "a record", ("messages", "context", "tools", "meta"))
    tables, rejected = [], []
    for start, piece in pieces(table):
        batch = read_batch(piece, source, native, turns, start)
        tables.append(_record_columns(batch))
        rejected.append(_rejections(batch))
    record = pa.concat_tables(tables)
    for name in strangers:
        record = record.append_column(table.schema.field(name), table[name])
    if any(column.null_count < len(column) for column in rejected):
        found = pa.chunked_array(rejected)
        if "rejected" in strangers:  # once set it stays
            found = pa.chunked_array([_first_set(one_array(table["rejected"]), one_array(found))])
            record = record.drop_columns("rejected")
        record = record.append_column("rejected", found)
    return record


def _record_columns(batch: Batch) -> pa.Table:
    string = {name: pa.string() if kind == JSON else kind for name, kind in MESSAGE_FIELDS.items()}
    fields = {n: batch.fields[n] if n in batch.fields else pa.nulls(batch.turns, kind) for n, kind in string.items()}
    nulls = pa.nulls(len(batch), pa.string())
    return pa.table(
        {
            "messages": nest(batch.offsets, fields, batch.null_rows),
            "context": nulls if batch.context is None else batch.context,
            "tools": as_json(nulls if batch.tools is None else batch.tools),
            "meta": as_json(nulls if batch.meta is None else batch.meta),
        }
    )


def _rejections(batch: Batch) -> pa.Array:
    first: dict[int, tuple] = {}
    for row, *what in sorted(batch.problems):
        first.setdefault(row, tuple(what))
    if not first:
        return pa.nulls(len(batch), REJECTED)
    names = REJECTED.names
    rows = [dict(zip(names, first[row], strict=True)) if row in first else None for row in range(len(batch))]
    return pa.array(rows, REJECTED)


def _first_set(kept: pa.Array, found: pa.Array) -> pa.Array:
    return pc.if_else(kept.is_valid(), kept, found)


def from_record(
    table: pa.Table,
    target: str,
    message_fields: Iterable[str] | None = None,
    columns: Iterable[str] | None = None,
    **options,
) -> pa.Table:
    """A table of records -> native columns; columns other than `messages`, `context`, `tools`, `meta` ride along.

    Args:
        table (`pa.Table`): Records, all of them valid.
        target (`str`): A name in `FORMATS`.
        message_fields (`Iterable[str]`, *optional*): Message fields to write. Defaults to those with a value in this
            table. Given, the layout does not depend on the rows: every optional column that the table has is written.
        columns (`Iterable[str]`, *optional*): Optional columns to write, such as `("context", "tools")`.
        options: `turns="conversations"` or `"messages"`, the name of the column of turns (messages, sharegpt);
            `conversational=True` (prompt_completion); `template=`, `bos_token=`, `eos_token=` (text).

    Raises:
        [`RowError`]: A row that the format can't hold, by row and field.
    """
    check_format(target, "target")
    columns = None if columns is None else tuple(columns)
    check_options(target, columns, options)
    native, turns = understand(shape(table.schema), "record")
    strangers = [name for name in table.column_names if name not in native]
    fields = check_message_fields(message_fields)
    if columns is None and fields is not None:
        columns = ["input" if name == "context" and target == "alpaca" else name for name in native if name != turns]
        columns = [name for name in columns if name in OPTIONAL[target]]
    named = options.pop("turns", "")
    layout = Layout(None if columns is None else tuple(columns), fields, named, options)
    tables = []
    for start, piece in pieces(table):
        batch = read_batch(piece, "record", native, turns, start)
        tables.append(write_batch(batch, target, layout, strangers))
    out = unify(tables)
    for name in strangers:
        out = out.append_column(table.schema.field(name), table[name])
    return out


def write_batch(batch: Batch, target: str, layout: Layout, strangers: Iterable[str]) -> pa.Table:
    """One batch in the target's columns; raises the `RowError` of its first bad row."""
    batch.check()
    out = WRITE[target](batch, layout)
    refuse_collisions(strangers, target, (*REQUIRED[target], *(set(OPTIONAL[target]) - {"meta"}), *out))
    return pa.table(out)


def unify(tables: list[pa.Table]) -> pa.Table:
    """Slices whose layout came from their own rows, as one table: a column or field that one lacks is null there."""
    if len({table.schema for table in tables}) == 1:
        return pa.concat_tables(tables)
    schema = pa.unify_schemas([table.schema for table in tables], promote_options="permissive")
    order = list(dict.fromkeys(name for table in tables for name in table.column_names))
    return pa.concat_tables(tables, promote_options="permissive").cast(schema).select(order)


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
    out = write_batch(batch, target, Layout(**layout), strangers if source != target else [])
    for name, kind in types.items():
        if name in out.column_names and out.schema.field(name).type != kind and not pa.types.is_null(kind):
            out = out.set_column(out.column_names.index(name), name, out[name].cast(kind))
    for name in strangers:
        out = out.append_column(table.schema.field(name), table[name])
    if set(out.column_names) == set(table.column_names):
        out = out.select(table.column_names)
    return out
