"""Evaluation sets -> their questions, one text each: what training data must not hold.

The word `at_hand` stands for every set that needs no network: the files that the environment variable
`INSTRUCT_EVALUATION_SETS` names (files and folders, parted as in PATH; a file's name without its endings is the
set's), and those of [`KNOWN`] that lie in the Hub cache of this machine.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

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
COLUMNS = (
    *("question", "prompt", "turns", "instruction", "inputs", "messages", "conversations"),
    *("problem", "query", "goal", "ctx", "premise", "sentence1", "sentence", "input", "text"),
)
AT_HAND, VARIABLE = "at_hand", "INSTRUCT_EVALUATION_SETS"
CACHED = f"{AT_HAND}:"  # before a name of [`KNOWN`]: as it lies in the cache
ENDINGS = re.compile(r"(\.(jsonl|ndjson|json|parquet|csv|tsv|gz|xz|zst))+\Z", re.IGNORECASE)
# What belongs to a text of another column.
BESIDE = {"instruction": ("input", "context"), "premise": ("hypothesis",), "sentence1": ("sentence2",)}
GIVEN = ("file", "columns")  # of a set that is written as a mapping
ASKING = ("user", "human")


@dataclass(frozen=True)
class Questions:
    """All texts of all evaluation sets.

    Args:
        texts (`list[str]`): The texts.
        places (`list[tuple[str, int]]`): Set and row of each.
        sets (`dict[str, int]`): How many texts each set has.
        sources (`dict[str, str]`): What was read for each: files with their digests, or the repository's commit.
    """

    texts: list[str] = field(default_factory=list)
    places: list[tuple[str, int]] = field(default_factory=list)
    sets: dict[str, int] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)


def named(against: str | os.PathLike | Sequence | Mapping) -> dict[str, str]:
    """Evaluation sets as users write them -> name -> file, folder or Hub id. Reads nothing.

    Args:
        against (`str` or `list` or `dict`): Short names of [`KNOWN`], files, folders, Hub ids and `at_hand`; or a
            mapping from a name to one of the first four, or to `{file: ..., columns: [...]}` with the columns that
            hold its texts; a mapping may stand in a list as well. A name of `at_hand` is replaced by the same name.

    Raises:
        ConfigError: If there is none, or one is neither a known name, nor a path here, nor can be a Hub id.
    """
    return {name: place for name, (place, _) in chosen(against).items()}


def chosen(against: str | os.PathLike | Sequence | Mapping) -> dict[str, tuple[str, list[str]]]:
    """As [`named`], and the columns that are given for each."""
    entries = [against] if isinstance(against, str | os.PathLike) else against
    if not isinstance(entries, Mapping | Sequence) or not entries:
        raise ConfigError(
            f"decontaminate: against={against!r}: give evaluation sets: {', '.join(KNOWN)}, files, folders or Hub "
            f"ids, or {{name: FILE}}, or {AT_HAND} for all that need no network."
        )
    found, everything_here = {}, False
    pairs = [
        pair
        for entry in ([entries] if isinstance(entries, Mapping) else entries)
        for pair in (entry.items() if isinstance(entry, Mapping) else [(None, entry)])
    ]
    for name, entry in pairs:
        entry, columns = _file_and_columns(name, entry) if isinstance(entry, Mapping) else (entry, [])
        if not isinstance(entry, str | os.PathLike) or not os.fspath(entry):
            raise ConfigError(
                f"decontaminate: {entry!r} is no evaluation set: a short name, a path or a Hub id is, or a mapping: "
                "{name: FILE} or {name: {file: FILE, columns: [NAME]}}."
            )
        place = os.fspath(entry)
        if place == AT_HAND and name is None:
            everything_here = True
            continue
        if place not in KNOWN and "/" not in place and not _here(place):
            raise ConfigError(
                f"decontaminate: {place!r} is no file or folder here, and no evaluation set that is known by name; "
                f"those are {', '.join(KNOWN)}, and any dataset goes by its Hub id (org/name); {AT_HAND} takes all "
                f"that are here.{did_you_mean(place, [*KNOWN, AT_HAND])}"
            )
        name = str(name) if name is not None else os.path.basename(os.path.normpath(place)) if _here(place) else place
        if name in found:
            raise ConfigError(
                f"decontaminate: two evaluation sets are called {name!r}: {found[name][0]} and {place}. Give a "
                "mapping from names of your own to the files."
            )
        found[name] = (place, columns)
    return {**{name: (place, []) for name, place in at_hand()[0].items()}, **found} if everything_here else found


def _file_and_columns(name: str, entry: Mapping) -> tuple[object, list[str]]:
    wrong = [str(key) for key in entry if key not in GIVEN]
    columns = entry.get("columns") or []
    columns = [columns] if isinstance(columns, str) else columns
    if wrong or "file" not in entry or not isinstance(columns, list) or any(not isinstance(c, str) for c in columns):
        raise ConfigError(
            f"decontaminate: {name}: {dict(entry)!r} must be {{file: FILE, columns: [NAME, ...]}}; columns may be "
            f"left out.{did_you_mean(wrong[0], GIVEN) if wrong else ''}"
        )
    return entry["file"], columns


def read(against: str | os.PathLike | Sequence | Mapping, columns: str | Sequence[str] | None = None) -> Questions:
    """Reads the questions of evaluation sets. Of a set with several splits, `train` is left out.

    Args:
        against (`str` or `list` or `dict`): As for [`named`].
        columns (`str` or `list`, *optional*): Columns that hold texts, all of which count, of the sets that name none
            of their own; otherwise the first of [`COLUMNS`] that a row fills.

    Raises:
        ConfigError: If a set has none of the columns.
        SourceError: If a set can't be found or read.
    """
    wanted = [columns] if isinstance(columns, str) else list(columns or [])
    questions = Questions()
    for name, (place, own) in chosen(against).items():
        before, files = len(questions.texts), _files(name, place)
        for file in files:
            _read_file(name, KNOWN[name][0] if place.startswith(CACHED) else place, file, own or wanted, questions)
        questions.sources[name] = ", ".join(dict.fromkeys(file.source for file in files))
        questions.sets[name] = len(questions.texts) - before
        if not questions.sets[name]:
            raise SourceError(f"decontaminate: {name} ({place}) holds no question with any text.")
    return questions


def at_hand() -> tuple[dict[str, str], dict[str, str]]:
    """Which evaluation sets can be had without any network: name -> place, as in [`named`]; and why the known others
    can't: name -> reason.

    Raises:
        ConfigError: If the environment variable names what is not there.
    """
    there, missing = named_here(), {}
    for name in KNOWN:
        if name in there:
            continue
        try:
            _files(name, CACHED + name)
            there[name] = CACHED + name
        except SourceError as error:
            missing[name] = str(error)
    return there, missing


def named_here() -> dict[str, str]:
    """The sets of the environment variable: name -> file."""
    found = {}
    for place in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        path = Path(place).expanduser()
        if not path.exists():
            raise ConfigError(f"{VARIABLE}: {place!r} is not there; it names files and folders of evaluation sets.")
        inside = (
            sorted(file for file in path.rglob("*") if sources.is_data_file(file.name)) if path.is_dir() else [path]
        )
        if not inside:
            raise ConfigError(f"{VARIABLE}: the folder {place!r} holds no file of an evaluation set.")
        for file in inside:
            name = ENDINGS.sub("", file.name)
            if name in found:
                raise ConfigError(f"{VARIABLE}: two evaluation sets are called {name!r}: {found[name]} and {file}.")
            found[name] = str(file)
    return found


def _files(name: str, place: str) -> list[sources.SourceFile]:
    if place.startswith(CACHED):
        return _cached(*KNOWN[name])
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
    return _held_out(files)


def _cached(hub_id: str, config: str | None) -> list[sources.SourceFile]:
    """The files of a Hub dataset as they lie in the cache; nothing is asked of any server."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(hub_id, repo_type="dataset", local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise SourceError(f"{hub_id} is not in the Hub cache.") from error
    try:
        files = sources.resolve(folder, config=config)
    except SourceError as error:
        raise SourceError(f"{hub_id} is not whole in the Hub cache: {str(error).replace(folder, hub_id)}") from error
    source = f"{hub_id}@{Path(folder).name}"
    inside = [os.path.relpath(file.path, folder) for file in files]
    return _held_out(
        [replace(file, name=f"{source}/{path}", source=source) for file, path in zip(files, inside, strict=True)]
    )


def _held_out(files: list[sources.SourceFile]) -> list[sources.SourceFile]:
    """All but what is trained on: the split `train`; where no card tells splits, files that are called so."""
    held_out = [file for file in files if file.split != "train"]
    held_out = held_out or [file for file in files if not re.search(r"(?:^|[/_.-])train", file.name)]
    return held_out or files


def _here(place: str) -> bool:
    return os.path.exists(os.path.expanduser(place))


def _read_file(name: str, place: str, file: sources.SourceFile, wanted: list[str], questions: Questions) -> None:
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
            f"decontaminate: {file.name} has no text in {given}; it has {', '.join(sorted(seen)) or 'no row'}. Name "
            f"the right ones: decontaminate: [{AT_HAND}, {{{name}: {{file: {place}, columns: [NAME]}}}}], beside "
            f"{AT_HAND} or without it.{did_you_mean(wanted[0] if wanted else 'question', seen)}"
        )


def _texts(values: dict, wanted: list[str]) -> list[str]:
    """The texts of one row."""
    filled = [column for column in wanted or COLUMNS if values.get(column) not in (None, "", [])]
    used = filled if wanted else filled[:1]
    texts = [text for column in used for text in _flat(values[column])]
    if not wanted and (beside := BESIDE.get("".join(used))):
        texts = ["\n".join([*texts, *(text for column in beside for text in _flat(values.get(column)))])]
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
