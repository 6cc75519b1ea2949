"""The account of a FLAN build: what became of the rows of each task's files, and which tasks have none in a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from instruct_builders import quarantine


def merged(parts: Iterable[dict], task_of: Mapping[str, str]) -> list[dict]:
    """The counts per file and split, from those of reading, holding out and rendering.

    Args:
        parts (`Iterable[dict]`):
            `file`, `split`, `rows_in`, `added`, `rows_out` and `rejected` of each shard and stage.
        task_of (`Mapping`): File name -> task.
    """
    files: dict[tuple[str, str], dict] = {}
    for part in parts:
        file, split = part["file"], part["split"]
        empty = {"file": file, "split": split, "task": task_of[file], "rows_in": 0, "added": 0, "rows_out": 0}
        total = files.setdefault((file, split), empty | {"rejected": Counter()})
        for key in ("rows_in", "added", "rows_out"):
            total[key] += part[key]
        total["rejected"].update(part["rejected"])
    for total in files.values():
        quarantine.check_account(total, total["file"])
        total["rejected"] = dict(sorted(total["rejected"].items()))
    return list(files.values())


def empty_splits(files: Iterable[dict], left_out: Collection[str]) -> list[dict]:
    """`{"task", "split", "reason"}` where a task that is not left out has no row."""
    found: dict[tuple[str, str], list[dict]] = {}
    for entry in files:
        if entry["task"] not in left_out:
            found.setdefault((entry["task"], entry["split"]), []).append(entry)
    return [
        {"task": task, "split": split, "reason": f"no {split} row: {nothing_left(entries)}"}
        for (task, split), entries in found.items()
        if not any(entry["rows_out"] for entry in entries)
    ]


def nothing_left(counts: list[dict]) -> str:
    """Why no row of these files can be used."""
    rows = sum(count["rows_in"] for count in counts)
    if not rows:
        held = "; test_size holds out of two questions or more, of different source rows"
        return "there are none" + held * all(count["split"] == "test" for count in counts)
    reasons = sum((Counter(count["rejected"]) for count in counts), Counter())
    why = ", ".join(f"{reason} {many}" for reason, many in reasons.most_common())
    return f"none of its {rows} rows can be used: {why}"
