"""Prompts with their constraints: the bundled ones, a file, or a dataset on the Hub such as google/IFEval."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from instruct_builders.errors import ConfigError, SourceError

from . import checkers

BUNDLED = Path(__file__).with_name("prompts.jsonl")
COLUMNS = ("key", "prompt", "instruction_id_list", "kwargs")


class Prompts(NamedTuple):
    """Prompts and where they came from.

    Attributes:
        rows (`list[dict]`): `key`, `prompt`, `instruction_id_list` and `kwargs`, checked.
        data (`dict`): The facts for a result: `name`, `revision`, `digest`, `rows`, `license`.
    """

    rows: list[dict]
    data: dict


def load(name: str | None = None, revision: str | None = None, split: str = "train") -> Prompts:
    """Reads prompts and checks every constraint of each.

    Args:
        name (`str`, *optional*): A .jsonl file in IFEval's columns, or a Hub dataset; the bundled prompts by default.
        revision (`str`, *optional*): Of a Hub dataset.
        split (`str`, *optional*, defaults to `"train"`): Of a Hub dataset.

    Raises:
        SourceError: If there is nothing to read, or a line is no JSON.
        ConfigError: For a constraint that is not known or has wrong arguments, with the key of its row.
    """
    path = BUNDLED if name is None else Path(name)
    if path.is_file():
        rows = _read(path)
        digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        own = path.resolve() == BUNDLED.resolve()
        data = {"name": "bundled prompts" if own else path.name, "revision": None, "digest": digest}
        data |= {"rows": len(rows), "license": "apache-2.0" if own else None}
    else:
        from trainers import reading

        found = reading.load_rows(name, None, revision, split)
        described = reading.describe(found, name, split)
        data = {key: described[key] for key in ("name", "revision", "rows", "license")} | {"digest": None}
        rows = found.to_list()
    return Prompts([_checked(row, place) for place, row in enumerate(rows)], data)


def _read(path: Path) -> list[dict]:
    rows = []
    for place, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise SourceError(f"{path.name}:{place} is not JSON: {error}") from error
    if not rows:
        raise SourceError(f"{path.name} has no prompts.")
    return rows


def _checked(row: object, place: int) -> dict:
    if not isinstance(row, Mapping) or any(column not in row for column in COLUMNS):
        raise ConfigError(
            f"row {place}: prompts have the columns {', '.join(COLUMNS)}; this row is {str(row)[:80]!r}."
        )
    where = f"prompt {row['key']}"
    identifiers, kwargs = row["instruction_id_list"], row["kwargs"]
    if not isinstance(row["prompt"], str) or not row["prompt"].strip():
        raise ConfigError(f"{where}: the prompt is {row['prompt']!r}; a text is wanted.")
    if not isinstance(identifiers, list) or not identifiers or not isinstance(kwargs, list):
        raise ConfigError(f"{where}: instruction_id_list and kwargs must be lists, the first with one id or more.")
    if len(identifiers) != len(kwargs):
        raise ConfigError(f"{where}: {len(identifiers)} instruction ids and {len(kwargs)} kwargs; as many are wanted.")
    pairs = zip(identifiers, kwargs, strict=True)
    checked = [checkers.read(identifier, arguments, where) for identifier, arguments in pairs]
    return {"key": row["key"], "prompt": row["prompt"], "instruction_id_list": identifiers, "kwargs": checked}
