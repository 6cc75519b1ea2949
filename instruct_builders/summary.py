"""The account of a build in a few lines of text: every row in is a row out, a rejected one, or one that has a name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from . import quarantine, report
from .pipeline import Built

# What leaves more rows, where a step that looks for duplicates has taken much of a task.
LEAVES_MORE = {
    "exact_duplicates": "dedup: none leaves equal rows in",
    "duplicate_ids": "another column, or none, leaves more",
    "near_duplicates": "dedup: {near: {by: both, threshold: 0.9}} leaves more, dedup: exact all but equal ones",
    "semantic_duplicates": "dedup: {semantic: {by: both, threshold: 0.98}} leaves more, dedup: near goes by words",
}


def text(built: Built, target: Path) -> str:
    """What became of the rows: per step, in all, and the first rejected ones per reason.

    Args:
        built ([`pipeline.Built`]): The rows and their account.
        target (`Path`): The directory they were written to.
    """
    lines = [step(entry) for entry in built.build["steps"]]
    lines += [f"{entry['name']}: {entry['note']}" for entry in built.build["steps"] if "note" in entry]
    lines += [lost(entry) for entry in built.build["steps"] if entry.get("lost")]
    lines.append(balance(built))
    lines += [f"left out: {entry['task']}: {entry['reason']}" for entry in built.build.get("left_out", [])]
    empty = built.build.get("empty_splits", [])
    lines += [f"no {entry['split']} row: {entry['task']}: {entry['reason']}" for entry in empty]
    if built.rejected:
        reasons = quarantine.reasons(built.rejected)
        lines.append(f"rejected per reason: {reasons}; each in {target / 'rejected.jsonl'}")
        lines.append(quarantine.describe(_every_reason_first(built.rejected)))
    lines.append(f'wrote {target}: load_dataset("{target}")')
    return "\n".join([*lines, f"report: {target / report.NAME}"])


def _every_reason_first(rejected: list[dict]) -> list[dict]:
    """The lines with the first of every reason in front: a common reason must not hide the rare ones."""
    seen: Counter = Counter()
    ranks = []
    for line in rejected:
        ranks.append(seen[line["reason"]])
        seen[line["reason"]] += 1
    return [line for _, line in sorted(zip(ranks, rejected, strict=True), key=lambda pair: pair[0])]


def step(entry: dict) -> str:
    """One transform's counts."""
    rejected = ", ".join(f"{reason} {count}" for reason, count in entry["rejected"].items()) or "none"
    ignored = (entry.get("ignored") or {}).get("runs", 0)  # of tokens, in templates
    short = sum(told.get("too_short", 0) for told in entry.get("evaluation_sets", {}).values())
    against = ", ".join(f"{name} {told['texts']:,}" for name, told in entry.get("evaluation_sets", {}).items())
    return (
        f"{entry['name']}: changed {entry['changed']:,}, rejected {rejected}, added {entry['added']:,}"
        + (f"; against {against} texts" if against else "")
        + (f", {short:,} of them too short to look for" if short else "")
        + (f"; {ignored:,} runs of tokens that very many hold not gone by" if ignored else "")
        + (f"; not at hand: {', '.join(entry['not_at_hand'])}" if entry.get("not_at_hand") else "")
    )


def lost(entry: dict) -> str:
    """A warning where duplicates were much of a source or a task: rows of a template may look like them."""
    first, others = entry["lost"][0], len(entry["lost"]) - 1
    name = first["task"] or (first["source"] or "all").split()[0]
    return (
        f"warning: {entry['name']} rejected {first['rejected']:,} of {first['rows']:,} rows of {name}"
        + (f", and over 30% of {others} more" if others else "")
        + f": look at them in rejected.jsonl; {LEAVES_MORE[entry['name']]}"
    )


def balance(built: Built) -> str:
    """Rows in, and what was added, on one side; rows out, rejected and not drawn on the other."""
    rows_in = sum(file["rows_in"] for file in built.build["sources"])
    rows_out = {name: len(split) for name, split in built.splits.items()}
    entries = [*built.build["sources"], *built.build["steps"]]
    mixture = built.build.get("mixture", {"repeated": 0, "not_drawn": 0})
    more = {
        "added by splitting or rendering": sum(entry.get("added", 0) for entry in entries),
        "repeated by the draw": mixture["repeated"],
    }
    added = "".join(f" + {count:,} {what}" for what, count in more.items() if count)
    splits = ", ".join(f"{name} {count:,}" for name, count in rows_out.items())
    undrawn = f" + not drawn {mixture['not_drawn']:,}" if mixture["not_drawn"] else ""
    out = f"rows out {sum(rows_out.values()):,} ({splits}) + rejected {len(built.rejected):,}{undrawn}"
    return f"rows in {rows_in:,}{added} = {out}"
