"""What a parameter of a check or score may be: read from its function's annotations, before a row is read.

`Annotated[int, (1, None)]` is an integer of at least 1. Keyword-only parameters are the step's own and stand in no
preset.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated

from ...errors import ConfigError, did_you_mean

Count = Annotated[int, (0, None)]
Positive = Annotated[int, (1, None)]
Period = Annotated[int, (1, 1000)]
Repeats = Annotated[int, (2, None)]
Share = Annotated[float, (0, 1)]
PLAIN = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null"}


@cache
def parameters_of(function: Callable) -> dict[str, inspect.Parameter]:
    """The parameters that a preset can set."""
    entries = inspect.signature(function).parameters
    return {name: entry for name, entry in entries.items() if name != "pairs" and entry.kind is not entry.KEYWORD_ONLY}


@cache
def _hints(function: Callable) -> dict:
    return typing.get_type_hints(function, include_extras=True)


def check_parameters(name: str, function: Callable, given: Mapping, added: Mapping[str, object] | None = None) -> None:
    """Raises where a parameter is not known, or is not what its annotation says.

    Args:
        name (`str`): Of the check or score, for the message.
        function (`Callable`): The check or score.
        given (`dict`): Parameter -> value.
        added (`dict`, *optional*): Further parameters that the step knows -> their annotations.

    Raises:
        ConfigError: It names the check, the parameter, what was given and what is allowed.
    """
    allowed = {key: _hints(function).get(key, typing.Any) for key in parameters_of(function)} | dict(added or {})
    for key, value in given.items():
        if key not in allowed:
            has = f"its parameters are {', '.join(allowed)}" if allowed else "it has none"
            raise ConfigError(f"quality: {name}: {key!r} is no parameter; {has}.{did_you_mean(str(key), allowed)}")
        if not fits(value, allowed[key]):
            hint = did_you_mean(value, _choices(allowed[key])) if isinstance(value, str) else ""
            raise ConfigError(
                f"quality: {name}: {key}: {value!r} is given, and it must be {spell(allowed[key])}.{hint}"
            )


def fits(value: object, hint: object) -> bool:
    """Whether a value is what an annotation says; `true` is no number, and an integer is one."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is typing.Any:
        return True
    if origin is Annotated:
        low, high = parts[1]
        return fits(value, parts[0]) and (low is None or value >= low) and (high is None or value <= high)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is typing.Literal:
        return any(type(value) is type(choice) and value == choice for choice in parts)
    if origin is Sequence:
        return isinstance(value, list | tuple) and all(fits(entry, parts[0]) for entry in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            fits(key, parts[0]) and fits(entry, parts[1]) for key, entry in value.items()
        )
    if origin is Callable or hint is Callable:
        return callable(value)
    return type(value) is hint or (hint is float and type(value) is int)


def spell(hint: object) -> str:
    """An annotation in words."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        low, high = parts[1]
        bounds = f" of at least {low}" if high is None else f" from {low} to {high}"
        return spell(parts[0]) + bounds
    if origin in (typing.Union, types.UnionType):
        return " or ".join(spell(part) for part in parts)
    if origin is typing.Literal:
        return " or ".join(repr(choice) for choice in parts)
    if origin is Sequence:
        return f"a list, each entry {spell(parts[0])}"
    if origin is Mapping:
        return f"a mapping, each value {spell(parts[1])}"
    if origin is Callable or hint is Callable:
        return "a function"
    return PLAIN.get(hint, str(hint))


def _choices(hint: object) -> list[str]:
    """The names that a [`typing.Literal`] allows."""
    return [str(choice) for choice in typing.get_args(hint)] if typing.get_origin(hint) is typing.Literal else []
