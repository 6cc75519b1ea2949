"""Task files: one YAML file is one task. Loading one checks it, so that a template that loads can be rendered.

The keys are described in `tasks/README.md`. Every fault is a `ConfigError` with the file's name and the template's
number, which is its place in the file, counted from 0, as in the column `template` of a record.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from instruct_builders.errors import ConfigError, did_you_mean
from instruct_builders.flan.templates import Template, parse_template

TASKS = Path(__file__).parent / "tasks"
TEMPLATES = 10  # as many as each of FLAN's template groups has
INVERTED = 2

KINDS = ("NLU", "NLG", "reasoning", "dialog", "program synthesis")
METRICS = ("accuracy", "exact_match", "token_f1", "rouge", "bleu")
ANSWERS = ("text", "index", "key", "first")
_REQUIRED = ("category", "kind", "metric", "license", "source", "columns", "answer", "templates")
_KEYS = (*_REQUIRED, "options", "chain", "cot_templates", "samples")
_NAME = re.compile(r"[a-z0-9_]+")
_SLOT = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED = ("answer", "chain", "options_")


@dataclass(frozen=True)
class Task:
    """One task, checked.

    Args:
        name (`str`): Stem of the file, or what a collection calls it.
        templates (`tuple`): The plain ones, then those with a chain of thought; see [`Template`].
        columns, answer, options, chain, source (`dict`): As in the file.
        samples (`list`): A few rows in the source's own columns.
        path (`str`): The file; local sources are relative to its folder.
        digest (`str`): sha256 of what the task was made from, in hex.
        preamble (`str`): Text before the exemplars of a prompt, such as a definition.
        shot_template (`Template`, *optional*): How exemplars are written, where it is not the row's own template.
        exemplars (`list[dict]`): The ones to use, in this order, where they are not drawn from the training rows.
        answer_separator (`str`): What stands between an exemplar's input and its answer.
    """

    name: str
    templates: tuple[Template, ...]
    columns: dict
    answer: dict
    options: dict | None = None
    chain: dict | None = None
    source: dict = field(default_factory=dict)
    category: str | None = None
    kind: str | None = None
    metric: str | None = None
    license: str = "unknown"
    samples: list = field(default_factory=list)
    path: str = ""
    digest: str = ""
    preamble: str = ""
    shot_template: Template | None = None
    exemplars: list = field(default_factory=list)
    answer_separator: str = "\n"


def shipped_tasks() -> list[str]:
    """Names of the tasks that come with the package, sorted."""
    return sorted(path.stem for path in TASKS.glob("*.yaml"))


def find_tasks(wanted: str | Sequence[str] | None) -> list[Task]:
    """Tasks by name, path, folder or glob; all that ship with the package for `None`.

    Raises:
        ConfigError: For a name or path that is not there, a faulty file, or two tasks of one name.
    """
    entries = shipped_tasks() if wanted is None else [wanted] if isinstance(wanted, (str, os.PathLike)) else wanted
    paths = [path for entry in entries for path in _paths(os.fspath(entry))]
    tasks = [load_task(path) for path in paths]
    seen: dict[str, str] = {}
    for task in tasks:
        if task.name in seen:
            raise ConfigError(f"tasks: {task.path} and {seen[task.name]} are both called {task.name!r}; rename one.")
        seen[task.name] = task.path
    if not tasks:
        raise ConfigError("tasks is empty: name at least one task, or leave it out for all that ship.")
    return tasks


def _paths(entry: str) -> list[Path]:
    if _NAME.fullmatch(entry) and (TASKS / f"{entry}.yaml").is_file():
        return [TASKS / f"{entry}.yaml"]
    path = Path(entry).expanduser()
    if path.is_file():
        return [path]
    found = sorted(path.glob("*.yaml")) if path.is_dir() else sorted(map(Path, glob.glob(str(path), recursive=True)))
    if not found:
        raise ConfigError(
            f"tasks: {entry!r} is no task that ships with the package, and no YAML file, folder or glob here."
            f"{did_you_mean(entry, shipped_tasks())}"
        )
    return found


def load_task(path: str | os.PathLike) -> Task:
    """Reads and checks one task file.

    Raises:
        ConfigError: With the file's name, for whatever is wrong in it.
    """
    path = Path(path)
    where = path.name
    try:
        text = path.read_bytes()
        given = yaml.safe_load(text)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} is no task file that can be read: {error}") from error
    if not _NAME.fullmatch(path.stem):
        raise ConfigError(f"{where}: a task is called after its file; a-z, 0-9 and _ are allowed in the name.")
    _check_keys(given, _KEYS, _REQUIRED, where)
    _check_choice(given["kind"], KINDS, f"{where}: kind")
    _check_choice(given["metric"], METRICS, f"{where}: metric")
    for key in ("category", "license"):
        _check_text(given[key], f"{where}: {key}")
    _check_source(given["source"], where)
    _check_columns(given["columns"], where)
    _check_options(given.get("options"), where)
    _check_answer(given["answer"], given.get("options"), where)
    if ("chain" in given) != ("cot_templates" in given):
        raise ConfigError(f"{where}: chain and cot_templates go together; there is only one of them.")
    if "chain" in given:
        _check_column(given["chain"], f"{where}: chain")
    samples = given.get("samples", [])
    if not isinstance(samples, list) or not all(isinstance(row, dict) for row in samples):
        raise ConfigError(f"{where}: samples is a list of rows, each a mapping from the source's columns to values.")
    task = Task(
        name=path.stem,
        templates=(),
        path=str(path),
        digest=hashlib.sha256(text).hexdigest(),
        samples=samples,
        **{key: given[key] for key in (*_REQUIRED[:-1], "options", "chain") if key in given},
    )
    return replace(task, templates=parse_templates(task, given["templates"], given.get("cot_templates"), where))


def parse_templates(task: Task, plain: object, cot: object, where: str) -> tuple[Template, ...]:
    """All templates of a task, the plain ones first, checked against its slots."""
    slots = [*task.columns, "answer", *(["chain"] if task.chain else []), *(["options_"] if task.options else [])]
    found = []
    for key, entries in (("templates", plain), ("cot_templates", cot)):
        if entries is None:
            continue
        if not isinstance(entries, list) or len(entries) != TEMPLATES:
            count = len(entries) if isinstance(entries, list) else type(entries).__name__
            raise ConfigError(f"{where}: {key} has {count}; exactly {TEMPLATES} are needed.")
        for number, entry in enumerate(entries):
            cot_part = key == "cot_templates"
            place = f"{where}, {'CoT ' if cot_part else ''}template {number}"
            _check_keys(entry, ("input", "target", "inverted"), ("input", "target"), place)
            identity = f"{task.name}/{'cot-' if cot_part else ''}{number}"
            found.append(
                parse_template(
                    identity, entry["input"], entry["target"], entry.get("inverted", False), cot_part, slots, place
                )
            )
    inverted = sum(template.inverted for template in found)
    if inverted < INVERTED:
        raise ConfigError(f"{where}: {inverted} templates are inverted; at least {INVERTED} of {TEMPLATES} must be.")
    if task.options and not any(template.has_options for template in found):
        raise ConfigError(f"{where}: the task has options, but no template prints them with {{options_}}.")
    return tuple(found)


def _check_keys(given: object, allowed: Sequence[str], required: Sequence[str], where: str) -> None:
    if not isinstance(given, dict):
        keys = ", ".join(required) or " or ".join(allowed)
        raise ConfigError(f"{where}: a mapping with the keys {keys} belongs here, not {given!r:.80}.")
    for key in given:
        if key not in allowed:
            raise ConfigError(
                f"{where}: unknown key {key!r}; allowed are {', '.join(allowed)}.{did_you_mean(str(key), allowed)}"
            )
    for key in required:
        if given.get(key) is None:
            raise ConfigError(f"{where}: the key {key!r} is missing.")


def _check_choice(given: object, allowed: Sequence[str], where: str) -> None:
    if given not in allowed:
        raise ConfigError(
            f"{where} is {given!r}; allowed are {', '.join(allowed)}.{did_you_mean(str(given), allowed)}"
        )


def _check_text(given: object, where: str) -> None:
    if not isinstance(given, str) or not given:
        raise ConfigError(f"{where} is {given!r}; text belongs there.")


def _check_source(source: object, where: str) -> None:
    _check_keys(source, ("path", "config", "revision", "splits"), ("path",), f"{where}: source")
    for key in ("path", "config", "revision"):
        if source.get(key) is not None:
            _check_text(source[key], f"{where}: source.{key}")
    splits = source.get("splits", {"train": "train"})
    if not isinstance(splits, dict) or "train" not in splits:
        raise ConfigError(f"{where}: source.splits maps our splits to theirs, and train must be among them.")
    for ours, theirs in splits.items():
        if not re.fullmatch(r"\w+", str(ours)) or not isinstance(theirs, str):
            raise ConfigError(f"{where}: source.splits has {ours!r}: {theirs!r}; a name and a name belong there.")


def _check_column(spec: object, where: str) -> None:
    if isinstance(spec, str) and spec:
        return
    _check_keys(spec, ("column", "join", "index", "cut"), ("column",), where)
    _check_text(spec["column"], f"{where}: column")
    both = "join" in spec and "index" in spec
    if both or not isinstance(spec.get("join", ""), str) or not isinstance(spec.get("index", 0), int):
        raise ConfigError(f"{where}: beside column, there is a text to join with or the index of one element.")
    try:
        pc.replace_substring_regex(pa.array([""]), spec.get("cut", ""), "")
    except (pa.ArrowInvalid, TypeError) as error:
        raise ConfigError(f"{where}: cut is {spec['cut']!r}, and should be a regular expression (RE2).") from error


def _check_columns(columns: object, where: str) -> None:
    if not isinstance(columns, dict) or not columns:
        raise ConfigError(f"{where}: columns maps slots to the source's columns; it is {columns!r:.80}.")
    for slot, spec in columns.items():
        if not isinstance(slot, str) or not _SLOT.fullmatch(slot) or slot in _RESERVED:
            raise ConfigError(
                f"{where}: columns has {slot!r}; a slot is named with a-z, 0-9 and _, and not {', '.join(_RESERVED)}."
            )
        _check_column(spec, f"{where}: columns.{slot}")


def _check_options(options: object, where: str) -> None:
    if options is None:
        return
    _check_keys(options, ("texts", "columns", "column"), (), f"{where}: options")
    if len(options) != 1:
        raise ConfigError(
            f"{where}: options has {len(options)} keys; exactly one of texts, columns, column is needed."
        )
    key, value = next(iter(options.items()))
    if key == "column":
        return _check_column(value, f"{where}: options.column")
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(entry, str) and entry for entry in value):
        raise ConfigError(
            f"{where}: options.{key} is {value!r:.80}; a list of two or more texts belongs there (in YAML, yes and no "
            "are texts only in quotes)."
        )
    if len(set(value)) < len(value):
        raise ConfigError(f"{where}: options.{key} names {max(value, key=value.count)!r} twice.")
    return None


def _check_answer(answer: object, options: object, where: str) -> None:
    _check_keys(answer, ("column", "as", "base", "keys", "empty"), ("column",), f"{where}: answer")
    _check_text(answer["column"], f"{where}: answer.column")
    kind = answer.get("as", "text")
    _check_choice(kind, ANSWERS, f"{where}: answer.as")
    if kind in ("index", "key") and not options:
        raise ConfigError(f"{where}: answer.as is {kind!r}, which points into options, and the task has none.")
    for key, owner in (("base", "index"), ("keys", "key"), ("empty", "first")):
        if key in answer and kind != owner:
            raise ConfigError(f"{where}: answer.{key} goes with as: {owner}, and as is {kind!r}.")
    if kind == "key" and "keys" not in answer:
        raise ConfigError(
            f"{where}: answer.as is 'key', so answer.keys must name the column with the options' labels."
        )
    for label in keys if isinstance(keys := answer.get("keys", "text"), list) else [keys]:
        _check_text(label, f"{where}: answer.keys")
    if not isinstance(answer.get("base", 0), int) or not isinstance(answer.get("empty", ""), str):
        raise ConfigError(f"{where}: answer.base is a whole number, and answer.empty is text.")
