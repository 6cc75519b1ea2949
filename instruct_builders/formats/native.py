"""Each format's own columns: what they are called and hold, which format columns are in, and the schema to read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from instruct_builders.errors import ConfigError, did_you_mean
from instruct_builders.formats.turns import is_list, is_text
from instruct_builders.records import JSON, MESSAGE_FIELDS

FORMATS = ("alpaca", "sharegpt", "messages", "prompt_completion", "text")
REQUIRED = {
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "text": ("text",),
    "record": ("messages",),
}
OPTIONAL = {
    "alpaca": ("input", "system", "history", "meta"),
    "sharegpt": ("system", "tools", "context", "meta"),
    "messages": ("context", "tools", "meta"),
    "prompt_completion": ("context", "tools", "meta"),
    "text": ("meta",),
    "record": ("context", "tools", "meta"),
}
TURNS = ("messages", "conversations")  # either name is understood for a column of turns, whatever its fields are
TURN_FIELDS = {"sharegpt": {"from", "value"}, "messages": {"role", "content"}, "record": {"role", "content"}}


def check_format(name: str, argument: str) -> None:
    if name not in REQUIRED:
        allowed = ", ".join(REQUIRED)
        raise ConfigError(f"{argument}={name!r}: allowed are {allowed}.{did_you_mean(str(name), REQUIRED)}")


def shape(columns) -> dict[str, pa.DataType | None]:
    """Column -> Arrow type, from `datasets.Features`, an Arrow schema, one row, or names alone (types unknown)."""
    if hasattr(columns, "arrow_schema"):
        columns = columns.arrow_schema
    if isinstance(columns, pa.Schema):
        return {field.name: field.type for field in columns}
    if isinstance(columns, Mapping):
        return {name: _type_of(value) for name, value in columns.items()}
    if isinstance(columns, str) or not isinstance(columns, Iterable):
        raise ConfigError(f"{columns!r} is no row, no Features, no schema and no list of column names")
    return dict.fromkeys(columns)


def _type_of(value) -> pa.DataType:
    if value is None:
        return pa.null()
    if isinstance(value, str):
        return pa.string()
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return pa.list_(pa.struct({key: _type_of(item[key]) for item in value for key in item}))
    if isinstance(value, list):
        return pa.list_(_type_of(value[0]) if value else pa.null())
    return JSON  # objects, numbers: nothing that a native column holds as it is


def turn_fields(kind: pa.DataType | None) -> set[str] | None:
    """The fields of a column of turns; None where the type does not say; empty where it is something else."""
    if kind is None or pa.types.is_null(kind):
        return None
    if not is_list(kind):
        return set()
    if pa.types.is_null(kind.value_type):
        return None
    return {field.name for field in kind.value_type} if pa.types.is_struct(kind.value_type) else set()


def detect(columns) -> str | None:
    """The format that columns are in.

    Args:
        columns: `datasets.Features`, a `pa.Schema`, a row (`dict`) or column names. With names alone, `messages` is
            taken for the format of that name and `conversations` for sharegpt.

    Returns:
        `str` or `None`: A name in `FORMATS`; None where no format fits. Conversations win over alpaca, alpaca over
        prompt_completion, and text comes last, since many alpaca datasets carry a rendered `text` as well.
    """
    found = shape(columns)
    for name in TURNS:
        if name in found:
            fields = turn_fields(found[name])
            for format in ("messages", "sharegpt"):
                if fields is not None and TURN_FIELDS[format] & fields == TURN_FIELDS[format]:
                    return format
            if fields is None:
                return "messages" if name == "messages" else "sharegpt"
    for format in ("alpaca", "prompt_completion", "text"):
        if all(name in found for name in REQUIRED[format]):
            return format
    return None


def understand(columns: Mapping[str, pa.DataType], format: str) -> tuple[list[str], str]:
    """`(the format's own columns among these, the name of the column of turns or "")`.

    Raises:
        [`ConfigError`]: Where a required column is missing.
    """
    turns = ""
    required = list(REQUIRED[format])
    if format in TURN_FIELDS:
        turns = _turns_column(columns, format)
        required = [turns]
    if missing := [name for name in required if name not in columns]:
        found = detect(dict.fromkeys(columns) if None in columns.values() else pa.schema(columns))
        hint = f" These columns look like {found!r}." if found and found != format else ""
        raise ConfigError(f"{format} needs the column {missing[0]!r}; there are {', '.join(columns) or 'none'}.{hint}")
    optional = [name for name in OPTIONAL[format] if name in columns and _holds(name, columns[name])]
    return [name for name in columns if name in (*required, *optional)], turns


def _turns_column(columns: Mapping[str, pa.DataType], format: str) -> str:
    names = [name for name in TURNS if name in columns]
    fitting = [name for name in names if TURN_FIELDS[format] <= (turn_fields(columns[name]) or set())]
    default = REQUIRED[format][0]
    candidates = fitting or names
    return default if default in candidates or not candidates else candidates[0]


def _holds(name: str, kind: pa.DataType) -> bool:
    """Whether an optional column's type is the one the format means; another one rides along as a stranger."""
    if name == "meta":
        return isinstance(kind, pa.JsonType)
    if name == "tools":
        return is_text(kind) or isinstance(kind, pa.JsonType)
    if name == "input":  # alpaca's own: of another type it is an error, and never goes lost as a stranger
        return True
    if isinstance(kind, pa.JsonType):  # texts and something else: the rows with something else are named
        return True
    if name == "history":
        inner = kind.value_type if is_list(kind) else None
        if inner is not None and is_list(inner):
            return is_text(inner.value_type) or isinstance(inner.value_type, pa.JsonType)
        return inner is not None and (pa.types.is_null(inner) or isinstance(inner, pa.JsonType))
    return is_text(kind)


def native_schema(format: str, columns=None) -> pa.Schema:
    """The Arrow schema to read raw rows of a format with; required fields are not nullable.

    Args:
        format (`str`): A name in `FORMATS`.
        columns (*optional*): A row, `datasets.Features` or a schema, as for [`detect`]: tells the dialect (the name of
            the column of turns, prompts that are lists, tools that are lists) and which rare columns are there.
    """
    check_format(format, "format")
    found = shape(columns) if columns is not None else {}
    fields = {"role": False, "content": True} | dict.fromkeys(list(MESSAGE_FIELDS)[2:], True)
    message = pa.list_(pa.struct([pa.field(n, MESSAGE_FIELDS[n], nullable=null) for n, null in fields.items()]))
    said = pa.list_(pa.struct([pa.field(name, pa.string(), nullable=False) for name in ("from", "value")]))
    turns = _turns_column(found, format) if format in TURN_FIELDS else ""
    prompt = message if is_list(found.get("prompt") or pa.null()) else pa.string()
    required = {
        "alpaca": {"instruction": pa.string(), "output": pa.string()},
        "sharegpt": {turns: said},
        "messages": {turns: message},
        "record": {turns: message},
        "prompt_completion": {"prompt": prompt, "completion": prompt},
        "text": {"text": pa.string()},
    }[format]
    tools = pa.string() if format == "sharegpt" and is_text(found.get("tools") or pa.null()) else JSON
    optional = {
        "alpaca": {"input": pa.string()},
        "sharegpt": {"system": pa.string(), "tools": tools},
        "messages": {"tools": JSON, "context": pa.string()},
        "record": {"tools": JSON, "context": pa.string(), "meta": JSON},
        "prompt_completion": {"tools": JSON, "context": pa.string()}
        if prompt == message
        else {"context": pa.string()},
        "text": {},
    }[format]
    rare = {"system": pa.string(), "context": pa.string(), "history": pa.list_(pa.list_(pa.string())), "meta": JSON}
    for name in [name for name in OPTIONAL[format] if name in found and name != "tools"]:
        kind = optional.get(name, rare.get(name))
        told = found[name] is not None and not pa.types.is_null(found[name])  # a name alone or a null says no type
        # JSON in one row is an object or a number, so not the format's; `input` is alpaca's own, whatever it holds.
        other = name in ("system", "context", "history") and isinstance(found[name], pa.JsonType)
        if kind is not None and (not told or (_holds(name, found[name]) and not other)):
            optional[name] = kind
        elif kind is not None:
            optional.pop(name, None)  # something else of that name: not the format's
    schema = [pa.field(name, kind, nullable=False) for name, kind in required.items()]
    schema += [pa.field(name, kind) for name, kind in optional.items()]
    order = ["instruction", "input", "output"]
    return pa.schema(sorted(schema, key=lambda field: order.index(field.name) if field.name in order else len(order)))
