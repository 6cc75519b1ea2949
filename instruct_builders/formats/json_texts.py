"""Text columns that came as JSON: one number among the texts of a file, and `datasets` types the column as `Json`.

Such a column holds `"a text"` in quotes and with escapes. Its strings are decoded before a format reads them; what is
no string is a problem of its row, never text.
"""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa

from instruct_builders.errors import ConfigError
from instruct_builders.formats.turns import flatten, is_list

IS_JSON = ("tools", "meta", "tool_calls")  # columns and message fields that hold JSON, not text
BOOLEAN = "train"
KINDS = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object", str: "text"}


def decoded_type(kind: pa.DataType, name: str) -> pa.DataType:
    """The type of a column or field once its JSON texts are decoded; the same type where it has none."""
    if name in IS_JSON:
        return kind
    if isinstance(kind, pa.JsonType):
        return pa.bool_() if name == BOOLEAN else pa.string()
    if is_list(kind):
        inner = decoded_type(kind.value_type, "")
        return kind if inner == kind.value_type else pa.list_(inner)
    if pa.types.is_struct(kind):
        fields = [field.with_type(decoded_type(field.type, field.name)) for field in kind]
        return kind if [f.type for f in fields] == [f.type for f in kind] else pa.struct(fields)
    return kind


def decode(column: pa.Array, name: str) -> tuple[pa.Array, list[tuple[int, str, str, str]]]:
    """A native column with its JSON texts decoded, and the problems `(row, reason, field, what is wrong)` of its rows.

    A value that is no text is null in the result; its row has a problem.

    Args:
        column (`pa.Array`): Returned as it is where its type has no JSON that stands for text.
        name (`str`): The column's name.

    Raises:
        [`ConfigError`]: JSON where a list or a turn belongs: its type does not tell what it holds.
    """
    if decoded_type(column.type, name) == column.type:
        return column, []
    _check_lists(column.type, name)
    decoded, problems = _decode(column, name)
    return decoded, [(row, "non_string", name + place, detail) for row, place, detail in problems]


def _check_lists(kind: pa.DataType, name: str) -> None:
    given = kind.value_type if is_list(kind) else kind
    turns, pairs = name in ("conversations", "messages"), name == "history"
    nested = is_list(kind) and name in ("prompt", "completion")
    if isinstance(given, pa.JsonType) and (turns or pairs or nested):
        what = "[question, answer] pairs" if pairs else "turns"
        raise ConfigError(
            f"{name!r} holds {kind}: some of its values are no list, or some of their items are no turn. A list of "
            f"{what} belongs in every row; repair the others, or read the file with [`InstructBuilder`]: it names them"
        )


def _decode(column: pa.Array, name: str) -> tuple[pa.Array, list[tuple[int, str, str]]]:
    """`(decoded, (position, path below the column, what is wrong))`."""
    if decoded_type(column.type, name) == column.type:
        return column, []
    if isinstance(column, pa.JsonArray):
        return _decode_leaf(column.storage, bool if name == BOOLEAN else str)
    if pa.types.is_struct(column.type):
        arrays, problems = [], []
        for field, values in zip(column.type, column.flatten(), strict=True):
            values, found = _decode(values, field.name)
            arrays.append(values)
            problems += [(position, f".{field.name}{place}", detail) for position, place, detail in found]
        return pa.StructArray.from_arrays(arrays, names=column.type.names, mask=column.is_null()), problems
    offsets, values, null_rows = flatten(column)
    values, found = _decode(values, "")
    mask = None if null_rows is None else pa.array(null_rows)
    problems = []
    for position, place, detail in found:
        row = int(np.searchsorted(offsets, position, side="right")) - 1
        problems.append((row, f"[{position - int(offsets[row])}]{place}", detail))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=mask), problems


def _decode_leaf(storage: pa.Array, wanted: type) -> tuple[pa.Array, list[tuple[int, str, str]]]:
    encoded = storage.cast(pa.string()).dictionary_encode()
    values, wrong = [], {}
    for position, written in enumerate(encoded.dictionary.to_pylist()):
        value, detail = _value(written, wanted)
        values.append(value)
        if detail:
            wrong[position] = detail
    decoded = pa.array(values, pa.string() if wanted is str else pa.bool_()).take(encoded.indices)
    which = encoded.indices.fill_null(-1).to_numpy()
    rows = np.flatnonzero(np.isin(which, list(wrong))) if wrong else ()
    return decoded, [(int(row), "", wrong[int(which[row])]) for row in rows]


def _value(written: str, wanted: type) -> tuple[str | bool | None, str]:
    """`(the decoded value or None, what is wrong with it)`."""
    belongs = "text belongs here" if wanted is str else "true or false belongs here"
    try:
        value = json.loads(written)
        if isinstance(value, str):
            value.encode()
    except UnicodeEncodeError:
        return None, f"{written[:80]} holds half of a UTF-16 pair, which is not text; {belongs}"
    except (ValueError, RecursionError):
        return None, f"{written[:80]!r} is not JSON; {belongs}"
    if value is None or isinstance(value, wanted):
        return value, ""
    return None, f"is {KINDS[type(value)]}, {written[:80]}; {belongs}"
