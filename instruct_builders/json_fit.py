"""One JSON row against a schema. This is the specification: the fast path of `json_rows.py` must agree with it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from json.encoder import encode_basestring
from typing import Any

import pyarrow as pa

from .chunks import Unfit
from .errors import ConfigError
from .records import JSON

WHITESPACE = b" \t\n\r"  # JSON's four; bytes.strip() alone would also take form feeds
_ESCAPED_FAULT = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")  # may stand for a NUL or for half of a UTF-16 pair
_INTEGER = re.compile(r"-?\d+")


class _Number(str):
    """A number as it is written in the file, so that `1.10` stays `1.10`."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        names = [name for name, _ in pairs]
        name = next(name for name in names if names.count(name) > 1)
        raise Unfit("bad_json", f"the key {name!r} is given twice in one object")
    return keys


def _no_constant(name: str) -> None:
    raise Unfit("bad_json", f"{name} is not JSON: a number is finite")


_scan = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_Number, parse_float=_Number, parse_constant=_no_constant
).scan_once


def _decode(text: str) -> Any:
    """`json.loads` without its layers: `text` has no white space around the value."""
    try:
        value, end = _scan(text, 0)
    except StopIteration as error:
        raise json.JSONDecodeError("Expecting value", text, error.value) from None
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def row_parser(schema: pa.Schema, extra: str) -> Callable[[bytes], list]:
    """A function from the bytes of one row to its values: the schema's in order, then `extra`.

    Args:
        schema (`pa.Schema`): Fields of string, int64, float64, bool, list, struct and `pa.json_()`. A field that is
            not nullable must be there and not be null. A nested struct takes its own keys only.
        extra (`str`): `keep` puts the keys outside `schema` in `extra` as the JSON text of one object, sorted unless
            the schema is empty; `reject` rejects the row.

    The function raises [`Unfit`] for a row that can't be used. Of several faults it names the first of: a NUL byte,
    bytes that are not UTF-8, syntax, no object, faults of characters, faults of fields in the order of the schema,
    keys outside the schema.
    """
    fields = [(part.name, _fitter(part.type, part.name), part.nullable) for part in schema]
    known = frozenset(schema.names)

    def parse(raw: bytes) -> list:
        try:
            row = _parse_object(raw)
            values = [_member(row, *part) for part in fields]
            if row.keys() <= known:
                values.append(None)
            elif extra == "keep":
                others = [key for key in row if key not in known]
                values.append(canonical({key: row[key] for key in (sorted(others) if fields else others)}))
            else:
                raise _unknown(row, known)
        except RecursionError:
            raise Unfit("bad_json", "lists and objects nested too deeply to be read") from None
        return values

    return parse


def _parse_object(raw: bytes) -> dict[str, Any]:
    nul = raw.find(b"\0")
    if nul >= 0:
        raise Unfit("nul", f"a NUL byte at byte {nul} of the row")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise Unfit("bad_utf8", f"byte 0x{raw[error.start]:02x} at byte {error.start} of the row") from None
    try:
        row = _decode(text)
    except json.JSONDecodeError as error:
        raise Unfit("bad_json", f"{error.msg} (character {error.pos} of the row)") from None
    if type(row) is not dict:
        raise Unfit("schema", f"the row is {_kind(row)}, allowed: an object")
    if "\\u" in text and _ESCAPED_FAULT.search(text):
        _check_text(row)
    return row


def _check_text(value: Any) -> None:
    """Raises for the first string, keys included, that holds a NUL or half of a UTF-16 pair."""
    if type(value) is str:
        if "\0" in value:
            raise Unfit("nul", f"a NUL character at character {value.index(chr(0))} of the text")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(value[error.start]):04x}"
            raise Unfit("lone_surrogate", f"{half} at character {error.start} of the text") from None
    elif type(value) is dict or type(value) is list:
        for key, item in value.items() if type(value) is dict else enumerate(value):
            if type(key) is str:
                _check_text(key)
            try:
                _check_text(item)
            except Unfit as why:
                why.path.append(key)
                raise


def canonical(value: Any) -> str:
    """JSON text without spaces: keys in the order of the file, numbers as written there, characters unescaped."""
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    if kind is _Number:
        return value
    if kind is dict:
        return "{" + ",".join([f"{encode_basestring(key)}:{canonical(item)}" for key, item in value.items()]) + "}"
    if kind is list:
        return "[" + ",".join([canonical(item) for item in value]) + "]"
    return {True: "true", False: "false", None: "null"}[value]


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value)) or f"the number {value[:40]}"


def _unknown(row: dict, known: frozenset) -> Unfit:
    name = next(key for key in row if key not in known)
    return Unfit("schema", f"the key {name!r} is not one of {', '.join(sorted(known))}", name)


def _member(row: dict, name: str, fit: Callable, nullable: bool) -> Any:
    value = row.get(name)
    if value is None:
        if nullable:
            return None
        raise Unfit("null_field", "null, where a value is required" if name in row else "the key is missing", name)
    try:
        return fit(value)
    except Unfit as why:
        why.path.append(name)
        raise


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    raise Unfit("non_string", f"{_kind(value)}, allowed: text")


def _integer(value: Any) -> int:
    if type(value) is _Number and len(value) < 25 and _INTEGER.fullmatch(value) and -(2**63) <= int(value) < 2**63:
        return int(value)
    raise Unfit("schema", f"{_kind(value)}, allowed: a whole number of 64 bits")


def _float(value: Any) -> float:
    if type(value) is _Number and math.isfinite(float(value)):
        return float(value)
    raise Unfit("schema", f"{_kind(value)}, allowed: a number of 64 bits")


def _bool(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise Unfit("schema", f"{_kind(value)}, allowed: true or false")


_SCALARS = {pa.string(): _text, pa.int64(): _integer, pa.float64(): _float, pa.bool_(): _bool, JSON: canonical}


def _fitter(kind: pa.DataType, name: str) -> Callable[[Any], Any]:
    """A function that returns a value as Arrow takes it for the type `kind`, or raises [`Unfit`]."""
    if kind in _SCALARS:
        return _SCALARS[kind]
    if pa.types.is_list(kind):
        return _list_fitter(_fitter(kind.value_type, name), kind.value_field.nullable)
    if pa.types.is_struct(kind):
        fields = [(part.name, _fitter(part.type, part.name), part.nullable) for part in kind]
        return _struct_fitter(fields, frozenset(part.name for part in kind))
    allowed = "string, int64, float64, bool, pa.json_(), and lists and structs of them"
    raise ConfigError(f"schema: field {name!r} has the type {kind}, allowed: {allowed}")


def _list_fitter(fit: Callable, nullable: bool) -> Callable:
    def fit_list(value: Any) -> list:
        if type(value) is not list:
            raise Unfit("schema", f"{_kind(value)}, allowed: a list")
        items = []
        try:
            for item in value:
                if item is None and not nullable:
                    raise Unfit("null_field", "null, where a value is required")
                items.append(None if item is None else fit(item))
        except Unfit as why:
            why.path.append(len(items))
            raise
        return items

    return fit_list


def _struct_fitter(fields: list[tuple], known: frozenset) -> Callable:
    def fit_struct(value: Any) -> dict:
        if type(value) is not dict:
            raise Unfit("schema", f"{_kind(value)}, allowed: an object")
        members = {name: _member(value, name, fit, nullable) for name, fit, nullable in fields}
        if not value.keys() <= known:
            raise _unknown(value, known)
        return members

    return fit_struct


def json_text(text: str) -> str:
    """`text`, which must be JSON, in the form of [`canonical`]. Raises [`Unfit`] where it is not JSON."""
    try:
        value = _decode(text.strip(WHITESPACE.decode()))
        if "\\u" in text and _ESCAPED_FAULT.search(text):
            _check_text(value)
        return canonical(value)
    except json.JSONDecodeError as error:
        raise Unfit("bad_json", f"{error.msg} (character {error.pos} of the text)") from None
    except RecursionError:
        raise Unfit("bad_json", "lists and objects nested too deeply to be read") from None
