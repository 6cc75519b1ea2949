"""Columns of a source, by dotted paths through its objects and lists, and their values as texts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.errors import SourceError, did_you_mean
from instruct_builders.records import one_array


def check_columns(schema: pa.Schema, paths: list[str], where: str) -> None:
    """Raises a `SourceError` for the first path that the source does not have."""
    for path in paths:
        kind, names, missing = None, schema.names, None
        for step in [path] if path in schema.names else path.split("."):
            if step not in names:
                missing = step
                break
            kind = schema.field(step).type if kind is None else kind.field(step).type
            while pa.types.is_list(kind) or pa.types.is_large_list(kind):
                kind = kind.value_type
            names = [part.name for part in kind] if pa.types.is_struct(kind) else []
        if missing is not None:
            have = ", ".join(names) or "nothing inside"
            raise SourceError(f"{where} has no column {path!r}; it has {have}.{did_you_mean(missing, names)}")


def pick(table: pa.Table, path: str) -> pa.Array:
    """A column, or what lies inside it: `choices.text`, through objects and lists of objects."""
    name, *inside = [path] if path in table.column_names else path.split(".")
    array = one_array(table[name])
    for key in inside:
        if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            values, counts, _ = flat_list(array)
            array = lists(pc.struct_field(values, key), counts, array.is_null())
        else:
            array = pc.struct_field(array, key)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def flat_list(array: pa.Array) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """`(values, counts, starts)` of a list array of any kind; a null list counts as empty."""
    if pa.types.is_null(array.type):
        array = array.cast(pa.list_(pa.string()))
    counts = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    values = array.flatten()
    return values, counts, np.cumsum(counts) - counts


def lists(values: pa.Array, counts: np.ndarray, null: pa.Array | None = None) -> pa.ListArray:
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, values, mask=null if null is not None and pc.any(null).as_py() else None)


def text_of(array: pa.Array, where: str) -> pa.Array:
    """A column of texts, numbers or booleans as trimmed texts; numbers are written as JSON writes them."""
    kind = array.type
    if pa.types.is_nested(kind):
        raise SourceError(f"{where} is {kind}: a list needs join or index, an object the name of what is inside.")
    try:
        text = array.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SourceError(f"{where} is {kind}, and not text in UTF-8: {error}") from error
    if pa.types.is_floating(kind):
        whole = pc.match_substring_regex(text, r"^-?\d+$")
        return pc.if_else(whole, pc.binary_join_element_wise(text, ".0", ""), text)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return text
    text = pc.ascii_ltrim(pc.utf8_rtrim_whitespace(text), "\r\n")
    return pc.if_else(pc.match_substring(text, "\n"), text, pc.utf8_ltrim_whitespace(text))


def is_list(array: pa.Array) -> bool:
    kind = array.type
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
