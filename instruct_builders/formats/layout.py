"""Which optional columns and message fields a format is written with: decided once, the same for every batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from instruct_builders.errors import ConfigError
from instruct_builders.formats.turns import Batch, as_json, first_true
from instruct_builders.records import JSON, MESSAGE_FIELDS

OPTIONAL_TYPES = {
    "input": pa.string(),
    "context": pa.string(),
    "system": pa.string(),
    "history": pa.list_(pa.list_(pa.string())),
    "tools": JSON,
    "meta": JSON,
}


@dataclass(frozen=True)
class Layout:
    """`None` means: whatever holds a value in the rows at hand."""

    columns: tuple[str, ...] | None = None  # optional native columns of the target
    message_fields: tuple[str, ...] | None = None
    turns: str = ""  # the name of the column of turns, where the format has one
    options: dict = field(default_factory=dict)  # of the target alone: conversational, template, ...

    def wants(self, column: str) -> bool:
        return self.columns is None or column in self.columns

    def add(self, batch: Batch, out: dict[str, pa.Array], column: str, values: pa.Array | None) -> None:
        """Put an optional column into `out`, or raise where the layout has no place for a value."""
        kind = OPTIONAL_TYPES[column]
        used = values is not None and values.null_count < len(values)
        if used and not self.wants(column):
            row = first_true(values.is_valid())
            batch.fail(row, column, f"has a value, and the column {column!r} is not written; add it to columns=")
        if used or (self.columns is not None and column in self.columns):
            values = pa.nulls(len(batch), kind) if values is None else values
            out[column] = as_json(values) if kind == JSON and not isinstance(values, pa.JsonArray) else values

    def fields(self, batch: Batch, content: pa.Array) -> dict[str, pa.Array]:
        """The message fields to write, in the record's order, with `content` in place of the batch's."""
        flat = {**batch.fields, "content": content}
        used = [name for name, values in flat.items() if values.null_count < len(values)]
        if self.message_fields is None:
            chosen = [name for name in MESSAGE_FIELDS if name in ("role", "content") or name in used]
        else:
            chosen = [n for n in MESSAGE_FIELDS if n in ("role", "content") or n in self.message_fields]
            refuse_fields(batch, used, chosen, "is not written; add it to message_fields=")
        return {name: flat[name] if name in flat else _nulls(batch.turns, name) for name in chosen}


def _nulls(size: int, name: str) -> pa.Array:
    return pa.nulls(size, pa.string() if MESSAGE_FIELDS[name] == JSON else MESSAGE_FIELDS[name])


def refuse_fields(batch: Batch, used: Iterable[str], allowed: Iterable[str], why: str) -> None:
    """Raise for the first turn that has a message field which the target has no place for."""
    for name in used:
        if name not in allowed and batch.fields[name].null_count < batch.turns:
            row, place = batch.place(first_true(batch.fields[name].is_valid()), name)
            batch.fail(row, place, f"has a value, and {name!r} {why}")


def check_message_fields(names: Iterable[str] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    if unknown := [name for name in names if name not in MESSAGE_FIELDS]:
        raise ConfigError(f"message_fields has {unknown[0]!r}; allowed are {', '.join(MESSAGE_FIELDS)}")
    return tuple(names)
