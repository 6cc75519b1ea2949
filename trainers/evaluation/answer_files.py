"""Answers on disk, to be judged later or against another model's: answers.jsonl, and what they answer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from instruct_builders.errors import BuildError, ConfigError

from .question_sets import QuestionSet

ROWS, ABOUT = "answers.jsonl", "answers.json"


def write_rows(path: Path, rows: Iterable[Mapping]) -> None:
    """Writes JSON Lines in one step.

    Raises:
        BuildError: If the disk is full or the folder can't be written; the file is as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise BuildError(f"{path} could not be written: {error.strerror or error}.") from error


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write(folder: Path, asked: QuestionSet, rows: Iterable[Mapping], model: Mapping, settings: Mapping) -> None:
    """Writes the answers of a model, and beside them the model, the questions' digest and how they were asked."""
    write_rows(folder / ROWS, rows)
    write_rows(folder / ABOUT, [{"model": dict(model), "data": asked.data, "settings": dict(settings)}])


def read(folder: str | os.PathLike, asked: QuestionSet, how: Mapping | None = None) -> tuple[list[dict], dict]:
    """The answers of another model to the same questions, in their order, and that model's facts.

    Args:
        folder (`str` or `os.PathLike`): Where [`write`] wrote them.
        asked ([`QuestionSet`]): The questions.
        how (`Mapping`, *optional*): Settings that they must have been answered with: else they decide who wins.

    Raises:
        ConfigError: If there are none, or they answer other questions, or were made in another way.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        rows = read_rows(folder / ROWS)
        known, data, model = {row["id"]: row for row in rows}, about["data"], about["model"]
        other, settings = data["digest"] != asked.data["digest"], about["settings"]
        differ = [name for name in how or {} if settings.get(name) != how[name]]
    except OSError as error:
        raise ConfigError(
            f"baseline: {folder} holds no answers ({error.strerror}): give the output_dir of a finished run of the "
            "other model."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"baseline: the answers in {folder} can't be read: {error!r}.") from error
    if other:
        raise ConfigError(
            f"baseline: {folder} answers another question set ({data['name']}, {data['rows']} "
            f"questions) than this run ({asked.data['name']}, {asked.data['rows']} questions). Run both models on the "
            "same one."
        )
    if differ:
        name = differ[0]
        raise ConfigError(
            f"baseline: {folder} was answered with {name} {settings.get(name)}, and this run has {how[name]}: that "
            "may decide who wins. Give this run the same, or let the other model answer again."
        )
    if missing := [one["id"] for one in asked.questions if one["id"] not in known]:
        raise ConfigError(f"baseline: {folder} has no answer to question {missing[0]}, and {len(missing)} in all.")
    return [known[one["id"]] for one in asked.questions], model
