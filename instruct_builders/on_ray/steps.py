"""Transforms over blocks: those that look at rows one by one, and what the others have decided about each row."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from .. import pipeline, quarantine, records, transforms
from ..errors import ConfigError
from ..transforms import clusters, flat
from ..transforms.decontaminate import LISTED, Prepared, prepare, searched, seen, settled
from ..transforms.overlap import Seen
from . import cluster, duplicates, near, work

COMPARING = {  # transforms that compare rows with one another: what finds the duplicates on Ray
    "exact_duplicates": duplicates.exact,
    "duplicate_ids": duplicates.ids,
    "near_duplicates": near.find,
}
REASONS = {"exact_duplicates": "dup_content", "duplicate_ids": "dup_id", "near_duplicates": "near_duplicate"}
ADDED = ("rejected", "evaluation_sets", "matches")  # of a step's account, what is not the same for every block


def check(steps: Sequence[str | dict]) -> None:
    """Names, parameters, and whether the step is to be had here; the ranges as the local engine checks them.

    Raises:
        ConfigError: If one is not.
    """
    empty = records.empty_table(records.RECORD.append(pa.field("row", pa.int64())))
    for name, parameters in transforms.check(steps):
        if name in transforms.WHOLE_TABLE - COMPARING.keys() - {"decontaminate"}:
            raise ConfigError(
                f"engine: ray has no {name}, which needs all rows on one machine: leave it out here, and run it with "
                "engine: local on what this build leaves, or use exact_duplicates and near_duplicates."
            )
        if name in COMPARING or name == "decontaminate":
            transforms.TRANSFORMS[name](empty, **parameters)


def run(rows: work.Rows, steps: Sequence[str | dict]) -> tuple[work.Rows, list[dict]]:
    """Runs all steps; the rows that are left and the counts per step, as [`pipeline.transformed`] gives them."""
    counts, local = [], []
    for number, (step, (name, parameters)) in enumerate(zip(steps, transforms.check(steps), strict=True), 1):
        if name not in {*COMPARING, "decontaminate"}:
            local.append((number, step, None))
            continue
        rows, before = _run_local(rows, local)
        local = []
        if name == "decontaminate":
            counts += before
            local = [(number, step, _questions(rows, parameters))]
            continue
        rows, count = _compared(rows, number, name, parameters)
        counts += [*before, {**count, "parameters": _told(parameters)}]
    rows, before = _run_local(rows, local)
    return rows, [*counts, *before]


def _run_local(rows: work.Rows, local: list[tuple]) -> tuple[work.Rows, list[dict]]:
    """Steps that look at rows one by one: all of them in one task per block."""
    if not local:
        return rows, []
    told = cluster.each(rows.blocks, _local_steps, rows.folder, rows.stage, local)
    accounts = [account for _, account in told] or [[_zero(step) for _, step, _ in local]]
    after = rows.after(local[-1][0], [left for left, _ in told])
    rows.drop()
    return after, [_sum(entries) for entries in zip(*accounts, strict=True)]


def _local_steps(block: int, folder: str, stage: int, local: list[tuple]) -> tuple[int, list[dict]]:
    table, accounts = work.load(work.place(folder, "rows", stage, block)), []
    for number, step, questions in local:
        ((name, parameters),) = transforms.check([step])
        if questions is None:
            table, (account,) = transforms.apply(table, [step])
        else:
            table, account = _decontaminated(table, name, parameters, questions)
        table, bad = quarantine.split_rejected(table)
        work.save_lines(folder, number, block, pipeline.rejected_lines(bad, name) if len(bad) else [])
        accounts.append({**account, "parameters": _told(parameters)})
    work.save(work.place(folder, "rows", local[-1][0], block), table.combine_chunks())
    return len(table), accounts


def _questions(rows: work.Rows, parameters: dict) -> Prepared:
    """What every block is searched for: read once, by the driver, without what too many of all rows have."""
    prepared = prepare(**{name: value for name, value in parameters.items() if name != "action"})
    return settled(prepared, cluster.each(rows.blocks, _seen, rows.folder, rows.stage, prepared))


def _seen(block: int, folder: str, stage: int, prepared: Prepared) -> Seen:
    return seen(work.load(work.place(folder, "rows", stage, block)), prepared)


def _decontaminated(table: pa.Table, name: str, parameters: dict, prepared: Prepared) -> tuple[pa.Table, dict]:
    """As [`transforms.apply`] runs `decontaminate`, with the questions at hand."""
    size, counts = len(table), Counter()
    table = searched(table, prepared, parameters.get("action", "drop"), counts)
    gone = size - int(flat.open_rows(table).sum())
    rejected = {"contaminated": gone} if gone else {}
    account = {"name": name, "rows_in": size, "added": 0, "changed": 0, "rejected": rejected, "rows_out": size - gone}
    return table, {**account, **counts}


def _told(parameters: dict) -> dict:
    return {name: pipeline.told(value) for name, value in parameters.items()}


def _zero(step: str | dict) -> dict:
    """The account of a step that has seen no row."""
    ((name, parameters),) = transforms.check([step])
    empty = {"name": name, "rows_in": 0, "added": 0, "changed": 0, "rejected": {}, "rows_out": 0}
    return {**empty, "parameters": _told(parameters)}


def _sum(entries: Sequence[dict]) -> dict:
    """One step's account from those of all blocks: numbers add up, matches say their place among all rows."""
    total, reasons, more, place = Counter(), Counter(), {}, 0
    for entry in entries:
        total.update({key: value for key, value in entry.items() if isinstance(value, int)})
        reasons.update(entry["rejected"])
        if "evaluation_sets" in entry:
            more.setdefault("evaluation_sets", {})
        for name, found in entry.get("evaluation_sets", {}).items():
            known = more["evaluation_sets"].setdefault(name, {**found, "rows": 0})
            known["rows"] += found["rows"]
        if "matches" in entry:
            matches = more.setdefault("matches", [])
            left = LISTED - len(matches)
            matches += [{**match, "row": match["row"] + place} for match in entry["matches"][:left]]
        place += entry["rows_in"]
        more |= {key: value for key, value in entry.items() if not isinstance(value, int) and key not in ADDED}
    return {**more, **total, "rejected": dict(sorted(reasons.items()))}


def _compared(rows: work.Rows, number: int, name: str, parameters: dict) -> tuple[work.Rows, dict]:
    """A step that compares rows: the duplicates are found among all blocks, then rejected block by block."""
    given = inspect.signature(transforms.TRANSFORMS[name]).bind(None, **parameters)
    given.apply_defaults()
    size = len(rows)
    verdicts, counts = COMPARING[name](rows, number, given.arguments) if size else (None, {})
    field = parameters.get("column", "id") if name == "duplicate_ids" else "messages"
    told = cluster.each(rows.blocks, _reject, rows.folder, rows.stage, number, name, field, verdicts)
    lost = clusters.much_lost(*(sum((part[which] for part in told), Counter()) for which in (1, 2)))
    counts |= {"lost": lost} if lost else {}
    after = rows.after(number, [left for left, _, _ in told])
    rows.drop()
    gone = size - len(after)
    account = {"name": name, "rows_in": size, "added": 0, "changed": 0, "rows_out": len(after), **counts}
    return after, {**account, "rejected": {REASONS[name]: gone} if gone else {}}


def _reject(
    block: int, folder: str, stage: int, number: int, name: str, field: str, verdicts
) -> tuple[int, Counter, Counter]:
    """How many rows are left, and by source and task how many there were and how many went."""
    table = work.load(work.place(folder, "rows", stage, block))
    mask = np.zeros(len(table), dtype=bool)
    found = verdicts(folder, number, block)
    mask[found["row"].to_numpy()] = True  # ascending, as the details are
    before, gone = clusters.per_task(table, np.ones(len(table), dtype=bool)), clusters.per_task(table, mask)
    table = flat.reject(table, mask, REASONS[name], field, found["detail"].combine_chunks())
    table, bad = quarantine.split_rejected(table)
    work.save_lines(folder, number, block, pipeline.rejected_lines(bad, name) if len(bad) else [])
    work.save(work.place(folder, "rows", number, block), table.combine_chunks())
    return len(table), before, gone
