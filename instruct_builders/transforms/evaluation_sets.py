"""Evaluation sets -> their questions, one text each: what training data must not hold."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from .. import reader, sources
from ..errors import ConfigError, SourceError, did_you_mean

# Short name -> where the set lies on the Hub, and its configuration there.
KNOWN: dict[str, tuple[str, str | None]] = {
    "mt_bench": ("HuggingFaceH4/mt_bench_prompts", None),
    "gsm8k": ("openai/gsm8k", "main"),
    "ifeval": ("google/IFEval", None),
}
# Where questions stand, in the order in which a row is searched. A list holds one text per turn.
COLUMNS = ("question", "prompt", "turns", "instruction", "inputs", "messages", "conversations")
BESIDE = ("input", "context")  # belong to an `instruction`
ASKING = ("user", "human")


@dataclass(frozen=True)
class Questions:
    """All texts of all evaluation sets.

    Args:
        texts (`list[str]`): The texts.
        places (`list[tuple[str, int]]`): Set and row of each.
        sets (`dict[str, int]`): How many texts each set has.
    """

    texts: list[str] = field(default_factory=list)
    places: list[tuple[str, int]] = field(default_factory=list)
    sets: dict[str, int] = field(default_factory=dict)


def named(against: str | os.PathLike | Sequence | Mapping) -> dict[str, str]:
    """Evaluation sets as users write them -> name -> file, folder or Hub id. Reads nothing.

    Args:
        against (`str` or `list` or `dict`): Short names of [`KNOWN`], files, folders or Hub ids; or a mapping from a
            name to one of them.

    Raises:
        ConfigError: If there is none, or one is neither a known name, nor a path here, nor can be a Hub id.
    """
    entries = [against] if isinstance(against, str | os.PathLike) else against
    if not isinstance(entries, Mapping | Sequence) or not entries:
        raise ConfigError(
            f"decontaminate: against={against!r}: give evaluation sets: {', '.join(KNOWN)}, files, folders or Hub ids."
        )
    found = {}
    pairs = entries.items() if isinstance(entries, Mapping) else [(None, entry) for entry in entries]
    for name, entry in pairs:
        if not isinstance(entry, str | os.PathLike) or not os.fspath(entry):
            raise ConfigError(f"decontaminate: {entry!r} is no evaluation set: a short name, a path or a Hub id is.")
        place = os.fspath(entry)
        if place not in KNOWN and "/" not in place and not _here(place):
            raise ConfigError(
                f"decontaminate: {place!r} is no file or folder here, and no evaluation set that is known by name; "
                f"those are {', '.join(KNOWN)}, and any dataset goes by its Hub id (org/name)."
                f"{did_you_mean(place, KNOWN)}"
            )
        name = str(name) if name is not None else os.path.basename(os.path.normpath(place)) if _here(place) else place
        if name in found:
            raise ConfigError(
                f"decontaminate: two evaluation sets are called {name!r}: {found[name]} and {place}. Give a mapping "
                "from names of your own to the files."
            )
        found[name] = place
    return found


def read(against: str | os.PathLike | Sequence | Mapping, columns: str | Sequence[str] | None = None) -> Questions:
    """Reads the questions of evaluation sets. Of a set with several splits, `train` is left out.

    Args:
        against (`str` or `list` or `dict`): As for [`named`].
        columns (`str` or `list`, *optional*): Columns that hold texts, all of which count; otherwise the first of
            [`COLUMNS`] that a row fills.

    Raises:
        ConfigError: If a set has none of the columns.
        SourceError: If a set can't be found or read.
    """
    wanted = [columns] if isinstance(columns, str) else list(columns or [])
    questions = Questions()
    for name, place in named(against).items():
        before = len(questions.texts)
        for file in _files(name, place):
            _read_file(name, file, wanted, questions)
        questions.sets[name] = len(questions.texts) - before
        if not questions.sets[name]:
            raise SourceError(f"decontaminate: {name} ({place}) holds no question with any text.")
    return questions


def at_hand(against: Sequence[str] = tuple(KNOWN)) -> tuple[list[str], dict[str, str]]:
    """Which evaluation sets can be had here and now, and why the others can't: name -> reason."""
    there, missing = [], {}
    for name, place in named(against).items():
        try:
            _files(name, place)
            there.append(name)
        except SourceError as error:
            missing[name] = str(error)
    return there, missing


def _files(name: str, place: str) -> list[sources.SourceFile]:
    hub_id, config = KNOWN[place] if place in KNOWN and not _here(place) else (place, None)
    try:
        files = sources.resolve(hub_id, config=config)
    except SourceError as error:
        if hub_id == place:
            raise
        raise SourceError(
            f"decontaminate: {name} is {hub_id} on the Hub, which can't be had now: {error} Give a file that you "
            f"have, as `{name}: FILE`, or leave {name} out."
        ) from error
    held_out = [file for file in files if file.split != "train"]
    return held_out or files


def _here(place: str) -> bool:
    return os.path.exists(os.path.expanduser(place))


def _read_file(name: str, file: sources.SourceFile, wanted: list[str], questions: Questions) -> None:
    seen, found = set(), False
    for chunk in reader.read(file.path, pa.schema([]), name=file.name):  # any columns, as JSON
        if chunk.rejected:
            bad = chunk.rejected[0]
            raise SourceError(f"decontaminate: {file.name}, row {bad.row} can't be read: {bad.reason} ({bad.detail}).")
        for row, values in zip(chunk.row.tolist(), chunk.table["extra"].to_pylist(), strict=True):
            values = json.loads(values or "{}")
            seen |= values.keys()
            for text in _texts(values, wanted):
                found = True
                questions.texts.append(text)
                questions.places.append((name, row))
    if not found:
        given = f"columns={wanted}" if wanted else f"the columns {', '.join(COLUMNS)}"
        raise ConfigError(
            f"decontaminate: {file.name} has no text in {given}; it has {', '.join(sorted(seen)) or 'no row'}: name "
            f"the right ones in columns.{did_you_mean(wanted[0] if wanted else 'question', seen)}"
        )


def _texts(values: dict, wanted: list[str]) -> list[str]:
    """The texts of one row."""
    filled = [column for column in wanted or COLUMNS if values.get(column) not in (None, "", [])]
    chosen = filled if wanted else filled[:1]
    texts = [text for column in chosen for text in _flat(values[column])]
    if not wanted and chosen == ["instruction"]:
        texts = ["\n".join([*texts, *(text for column in BESIDE for text in _flat(values.get(column)))])]
    return [text for text in texts if text.strip()]


def _flat(value) -> list[str]:
    """The texts in a value: itself, or those of a list; of turns, those of users."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        role = value.get("role", value.get("from"))
        content = value.get("content", value.get("value"))
        return [content] if isinstance(content, str) and role in (None, *ASKING) else []
    return [text for entry in value for text in _flat(entry)] if isinstance(value, list) else []
