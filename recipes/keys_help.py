"""`--help`: what a recipe is for and every key, with what its class's docstring says of it."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence

WIDTH = 110
LIBRARIES = ("transformers", "trl")  # of whose classes the keys come last: their own documentation explains them
ENTRY = re.compile(r"(\w+ \([^()]*\)(?:, \w+ \([^()]*\))*):(?: (.*))?")  # "name (`type`): text", or several names


def text(config_classes: Sequence[type], spell: Callable[[object], str], hidden: Sequence[str]) -> str:
    """All of it.

    Args:
        config_classes (`Sequence[type]`): Dataclasses whose fields are the keys.
        spell (`Callable`): An annotation in words.
        hidden (`Sequence[str]`): Keys that are refused, and so not shown.
    """
    own = [cls for cls in config_classes if not _of_library(cls)]
    sections = [inspect.cleandoc(sys.modules["__main__"].__doc__ or "")]  # the recipe that was started
    sections.append("--config FILE.yaml sets these keys, --key value overrides them; --key alone is true.")
    needed, shown = [], set()
    for cls in own:
        needed += [line for field, line in _keys(cls, spell, hidden) if _required(field)]
    if needed:
        sections.append("\n".join(["Required:", *dict.fromkeys(needed)]))
    for cls in own:
        told = (cls.__doc__ or "").strip().partition("\n")[0].rstrip(".")
        told = cls.__name__ if told.startswith(f"{cls.__name__}(") else told  # what a dataclass without one gets
        lines = [line for field, line in _keys(cls, spell, hidden) if not _required(field)]
        sections.append("\n".join([f"{told}:", *lines]))
        shown |= {field.name for field in dataclasses.fields(cls)}
    for cls in (cls for cls in config_classes if _of_library(cls)):
        lines = [line for field, line in _keys(cls, spell, hidden) if field.name not in shown]
        place = cls.__module__.partition(".")[0]
        sections.append("\n".join([f"Also every key of {place}'s {cls.__name__}, which its page explains:", *lines]))
    return "\n\n".join(section for section in sections if section)


def documented(cls: type) -> dict[str, str]:
    """Key -> what the docstrings' `Args:` of a class and of those it is made from say of it."""
    found: dict[str, str] = {}
    for part in reversed(cls.__mro__):
        if dataclasses.is_dataclass(part) and part.__dict__.get("__doc__"):
            for names, told in _entries(inspect.cleandoc(part.__doc__)):
                found |= dict.fromkeys(names, told)
    return found


def _entries(doc: str) -> Iterator[tuple[list[str], str]]:
    """`(names, text)` of an `Args:` block; an entry begins at four blanks, and goes on where there are more."""
    block = doc.partition("\nArgs:\n")[2]
    block = re.split(r"\n(?=\S)", block)[0]
    for entry in re.split(r"\n {4}(?=\w)", "\n" + block):
        match = ENTRY.fullmatch(" ".join(entry.split()))
        if match:
            yield re.findall(r"(\w+) \(", match[1]), re.sub(r"\[(`[^`]*`)\]|`\"([^`]*)\"`", r"\1\2", match[2] or "")


def _keys(cls: type, spell: Callable[[object], str], hidden: Sequence[str]) -> Iterator[tuple[dataclasses.Field, str]]:
    hints, told = typing.get_type_hints(cls), {} if _of_library(cls) else documented(cls)
    said: dict[str, str] = {}  # what is said of several keys -> the first of them
    for field in dataclasses.fields(cls):
        if not field.init or field.name in hidden:
            continue
        known = field.default is not dataclasses.MISSING and not _required(field)
        default = f" (default {field.default!r})" if known else ""
        note = told.get(field.name) or field.metadata.get("help", "")
        if (first := said.setdefault(note, field.name)) != field.name and note:
            note = f"See --{first}."
        if allowed := field.metadata.get("allowed"):
            note = f"{note} Allowed: {', '.join(allowed)}.".strip()
        lines = textwrap.wrap(" ".join(note.split()), WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
        yield field, "\n".join([f"  --{field.name}: {spell(hints[field.name])}{default}", *lines])


def _required(field: dataclasses.Field) -> bool:
    nothing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    return nothing or field.metadata.get("required", False)


def _of_library(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in LIBRARIES
