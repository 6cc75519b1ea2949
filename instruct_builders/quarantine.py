"""Rows that can't be used: written beside the data with their reason and place, and counted so that nothing is lost.

The account of a build is a dict, `{"files": [{"file", "split", "rows_in", "rows_out", "rejected": {reason: n}}]}`.
Rows in = rows out + rejected holds for every file, or the build fails.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .chunks import RAW_LIMIT
from .errors import BuildError
from .records import REASONS


def split_rejected(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """A table with a column `rejected` -> the rows to keep, without that column, and the rejected ones, with it."""
    if "rejected" not in table.column_names:
        return table, table.slice(0, 0)
    fine = pc.is_null(table["rejected"])
    if pc.all(fine).as_py():
        return table.drop_columns("rejected"), table.slice(0, 0)
    return table.filter(fine).drop_columns("rejected"), table.filter(pc.invert(fine))


def rejected_rows(
    table: pa.Table, *, stage: str, split: str | None, file: str, places: dict[str, np.ndarray] | None = None
) -> list[dict]:
    """The lines of `rejected.jsonl` for a table of rejected rows.

    Args:
        table (`pa.Table`): Rows with a column `rejected`; the other columns make up `raw`.
        stage (`str`): `"validate"` or the name of the transform that rejected them.
        split (`str`, *optional*): Their split.
        file (`str`): The source's name.
        places (`dict`, *optional*): `row`, `line` and `offset` arrays with one number per row, -1 where unknown.
    """
    if not len(table):
        return []
    places = places or {}
    names = [name for name in table.column_names if name != "rejected"]
    lines = []
    for position, (why, row) in enumerate(
        zip(table["rejected"].to_pylist(), table.select(names).to_pylist(), strict=True)
    ):
        raw = json.dumps(_without_nulls(row), ensure_ascii=False)
        place = {key: int(places[key][position]) for key in ("row", "line", "offset") if key in places}
        lines.append(
            {
                "file": file,
                **{key: place[key] if place.get(key, -1) >= 0 else None for key in ("row", "line", "offset")},
                "split": split,
                "stage": stage,
                **why,
                "id": row.get("id"),
                **_raw(raw.encode()),
            }
        )
    return lines


def _without_nulls(value):
    if isinstance(value, dict):
        return {key: _without_nulls(entry) for key, entry in value.items() if entry is not None}
    return [_without_nulls(entry) for entry in value] if isinstance(value, list) else value


def _raw(text: bytes) -> dict:
    kept = text[:RAW_LIMIT].decode("utf-8", errors="ignore")  # only the cut may fall inside a character
    return {"raw": kept, "raw_base64": None, "raw_bytes": len(text)}


def write_lines(path: Path, lines: Iterable[dict]) -> int:
    """Appends the lines to a JSONL file; the file is made even for no lines. Returns how many there were."""
    count = 0
    with open(path, "a", encoding="utf-8") as file:
        for line in lines:
            if line["reason"] not in REASONS:
                raise BuildError(f"rejected for {line['reason']!r}, which is none of {', '.join(REASONS)}.")
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_lines(path: Path) -> Iterator[dict]:
    """The lines of a `rejected.jsonl`; nothing where there is no such file."""
    if path.is_file():
        with open(path, encoding="utf-8") as file:
            yield from map(json.loads, file)


def merge_accounts(parts: Iterable[dict]) -> dict:
    """Adds up the accounts of shards per file and split, in the order in which files first appear.

    Raises:
        BuildError: If rows in are not rows out plus rejected; that would be a defect of this package.
    """
    files: dict[tuple[str, str], dict] = {}
    for part in parts:
        key = (part["file"], part["split"])
        total = files.setdefault(
            key, {"file": key[0], "split": key[1], "rows_in": 0, "rows_out": 0, "rejected": Counter()}
        )
        total["rows_in"] += part["rows_in"]
        total["rows_out"] += part["rows_out"]
        total["rejected"].update(part["rejected"])
    for total in files.values():
        check_account(total, total["file"])
        total["rejected"] = dict(sorted(total["rejected"].items()))
    return {"files": list(files.values())}


def check_account(counts: dict, where: str) -> None:
    """Rows in (plus rows that a split added) must be rows out plus rejected."""
    rejected = sum(counts["rejected"].values())
    if counts["rows_in"] + counts.get("added", 0) != counts["rows_out"] + rejected:
        raise BuildError(
            f"{where}: {counts['rows_in']} rows in, but {counts['rows_out']} out and {rejected} rejected."
        )


def reasons(lines: Iterable[dict]) -> dict[str, int]:
    """How many lines there are per reason, by name."""
    return dict(sorted(Counter(line["reason"] for line in lines).items()))


def describe(lines: list[dict], limit: int = 5) -> str:
    """The first few rejected rows in words, for an error message."""
    shown = [
        f"  {line['file']}"
        + "".join(f", {key} {line[key]}" for key in ("line", "row") if line[key] is not None)
        + f": {line['reason']}"
        + (f" in {line['field']}" if line["field"] else "")
        + f" ({line['detail']})"
        for line in lines[:limit]
    ]
    if len(lines) > limit:
        shown.append(f"  and {len(lines) - limit} more")
    return "\n".join(shown)
