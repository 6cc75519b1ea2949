"""The file in which people say which generated rows to keep: written by one run, obeyed by the next.

A line holds `id`, the texts, `keep` (null until somebody has decided; then true or false) and `note`. Self-Instruct's
authors looked at 200 rows and asked: is the instruction a task, does the input fit it, is the output right?
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from ..errors import ConfigError, SourceError
from .seeds import content_ids
from .yields import Yield

SAMPLE = 200  # rows


def ids_of(rows: list[dict]) -> list[str]:
    """The content id of each generated row."""
    parts = [(tuple(row["messages"][:-2]), *(turn["content"] for turn in row["messages"][-2:])) for row in rows]
    given = [row["context"] for row in rows]
    return content_ids([(before, asked, text, said) for (before, asked, said), text in zip(parts, given, strict=True)])


def check(path: Path) -> None:
    """Raises a `ConfigError` for a path that can be no file, and a `SourceError` for a line that can't be read."""
    if path.is_dir():
        raise ConfigError(f"review_file={str(path)!r} is a folder: give the file in it that people write into.")
    if path.exists():
        _read(path)


def apply(path: Path, rows: list[dict], counts: Yield, seed: int) -> tuple[list[dict], dict]:
    """Drops the rows that a person said no to; writes the file for the next run where there is none.

    Args:
        path (`Path`): The review file.
        rows (`list[dict]`): Generated rows.
        counts ([`Yield`]): Where rows said no to are written down, with the reason `human_review`.
        seed (`int`): Of the draw of the rows to look at.

    Returns:
        The rows that are left, and `reviewed`, `kept`, `refused`, `open` and `stale` (lines about rows that are not
        there any more).

    Raises:
        SourceError: For a line that can't be read; it is named.
    """
    ids = ids_of(rows)
    if not path.exists():
        chosen = sorted(random.Random(f"{seed} review").sample(range(len(rows)), min(SAMPLE, len(rows))))
        lines = [_line(ids[place], rows[place]) for place in chosen]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        return rows, {"reviewed": 0, "kept": 0, "refused": 0, "open": len(lines), "stale": 0}
    verdicts = _read(path)
    kept, refused = [], 0
    for name, row in zip(ids, rows, strict=True):
        if verdicts.get(name) is False:
            refused += 1
            counts.drop("human_review", _line(name, row), operator="review")
        else:
            kept.append(row)
    there = set(ids)
    told = {name: verdict for name, verdict in verdicts.items() if name in there}
    reviewed = sum(verdict is not None for verdict in told.values())
    return kept, {
        "reviewed": reviewed,
        "kept": sum(verdict is True for verdict in told.values()),
        "refused": refused,
        "open": len(told) - reviewed,
        "stale": len(verdicts) - len(told),
    }


def _line(name: str, row: dict) -> dict:
    asked, said = (turn["content"] for turn in row["messages"][-2:])
    return {"id": name, "instruction": asked, "input": row["context"], "output": said, "keep": None, "note": ""}


def _read(path: Path) -> dict[str, bool | None]:
    verdicts = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            name, keep = entry["id"], entry["keep"]
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(f"{path}, line {number}: an object with id and keep belongs here ({error}).") from error
        if not isinstance(name, str) or not (keep is None or isinstance(keep, bool)):
            raise SourceError(f"{path}, line {number}: keep is {keep!r}; true, false or null is allowed.")
        verdicts[name] = keep
    return verdicts
