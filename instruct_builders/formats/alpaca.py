"""Alpaca: instruction, input, output; and LLaMA-Factory's optional system and history."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.formats import kept
from instruct_builders.formats.layout import Layout, refuse_fields
from instruct_builders.formats.turns import (
    Batch,
    alternate,
    constant_roles,
    first_true,
    flatten,
    interleave,
    is_list,
    ranges,
    select,
    text,
)


def read(columns: dict[str, pa.Array]) -> Batch:
    instruction, output = text(columns["instruction"], "instruction"), text(columns["output"], "output")
    rows = len(instruction)
    offsets = np.arange(0, 2 * rows + 1, 2, dtype=np.int32)
    fields = {"role": constant_roles(("user", "assistant"), rows), "content": alternate(instruction, output)}
    batch = Batch(offsets, fields)
    if "input" in columns:
        batch.context = text(columns["input"], "input")
    if "meta" in columns:
        batch.meta = text(columns["meta"], "meta")
    pieces = {}
    if "history" in columns:
        pieces["history"] = _add_history(batch, columns["history"])
    if "system" in columns:
        pieces["system"] = _add_system(batch, text(columns["system"], "system"))
    kept.keep(batch, "alpaca", pieces)
    return batch


def _add_history(batch: Batch, history: pa.Array) -> pa.Array:
    """Put the earlier rounds before the row's own; returns where it is empty: null is written for none."""
    pairs, texts, _ = flatten(history)
    sizes = pc.list_value_length(texts).fill_null(0).to_numpy() if is_list(texts.type) else np.empty(0)
    odd = np.flatnonzero(sizes != 2)
    for pair in odd:
        row = int(np.searchsorted(pairs, pair, side="right")) - 1
        detail = f"has {sizes[pair]} texts; a question and its answer belong here"
        batch.problems.append((row, "schema", f"history[{pair - pairs[row]}]", detail))
    if len(odd):  # without these rows' history, the others' is cut at the right places
        fine = np.ones(len(batch), bool)
        fine[[problem[0] for problem in batch.problems]] = False
        pairs, texts, _ = flatten(pc.if_else(pa.array(fine), history, pa.scalar(None, history.type)))
    empty = (np.diff(pairs) == 0) & history.is_valid().to_numpy(zero_copy_only=False)
    if len(texts):
        earlier = {
            "role": constant_roles(("user", "assistant"), len(texts)),
            "content": text(texts.flatten(), "history"),
        }
        batch.offsets, batch.fields = interleave([(2 * pairs, earlier), (batch.offsets, batch.fields)])
    return kept.rows_where(batch, np.flatnonzero(empty), "[]")


def _add_system(batch: Batch, system: pa.StringArray) -> pa.Array:
    """A system turn where the column says something; returns where it is empty: null is written for none."""
    said = pc.greater(pc.binary_length(system), 0).fill_null(False)
    empty = pc.and_(system.is_valid(), pc.invert(said)).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(said.to_numpy(zero_copy_only=False))]).astype(np.int32)
    turns = {"role": constant_roles(("system",), int(offsets[-1])), "content": system.filter(said)}
    batch.offsets, batch.fields = interleave([(offsets, turns), (batch.offsets, batch.fields)])
    return kept.rows_where(batch, np.flatnonzero(empty), '""')


def write(batch: Batch, layout: Layout) -> dict[str, pa.Array]:
    refuse_fields(batch, batch.fields, ("role", "content"), "has no place in alpaca")
    if batch.tools is not None and batch.tools.null_count < len(batch):
        message = "a row with tools can't be written as alpaca; write messages or sharegpt"
        batch.fail(first_true(batch.tools.is_valid()), "tools", message)
    entries = kept.restore(batch, "alpaca")
    wider = layout.columns or ()
    leads = _leading_system(batch) if "system" in wider else np.zeros(len(batch), bool)
    content, rounds = _rounds(batch, leads, "history" in wider)
    ends = np.cumsum(2 * rounds)
    out = {"instruction": content.take(pa.array(ends - 2))}
    layout.add(batch, out, "input", batch.context)
    out["output"] = content.take(pa.array(ends - 1))
    if "system" in wider:
        system = batch.fields["content"].take(pa.array(batch.offsets[:-1], mask=~leads))
        layout.add(batch, out, "system", pc.if_else(_rows_with(batch, entries, "system"), "", system))
    if "history" in wider:
        flat = content.take(pa.array(ranges(ends - 2 * rounds, 2 * (rounds - 1))))
        pairs = pa.ListArray.from_arrays(pa.array(np.arange(0, len(flat) + 1, 2, dtype=np.int32)), flat)
        offsets = pa.array(np.concatenate([[0], np.cumsum(rounds - 1)]), pa.int32())
        none = pa.array((rounds == 1) & ~_rows_with(batch, entries, "history").to_numpy(zero_copy_only=False))
        layout.add(batch, out, "history", pa.ListArray.from_arrays(offsets, pairs, mask=none))
    layout.add(batch, out, "meta", batch.meta)
    return out


def _rows_with(batch: Batch, entries: list, key: str) -> pa.Array:
    mask = np.zeros(len(batch), bool)
    for rows, entry in entries:
        mask[rows] |= key in entry
    return pa.array(mask)


def _leading_system(batch: Batch) -> np.ndarray:
    first = pa.array(batch.offsets[:-1], mask=np.diff(batch.offsets) == 0)
    return pc.equal(batch.fields["role"].take(first), "system").fill_null(False).to_numpy(zero_copy_only=False)


def _rounds(batch: Batch, leads: np.ndarray, many: bool) -> tuple[pa.Array, np.ndarray]:
    """`(contents of user and assistant turns, rounds per row)`; raises where a row is not such rounds."""
    starts, counts = batch.offsets[:-1] + leads, np.diff(batch.offsets) - leads
    rounds, odd = np.divmod(counts, 2)
    bad = np.flatnonzero((odd != 0) | (rounds < 1) | ((rounds > 1) & (not many)))
    if len(bad):
        batch.fail(
            bad[0],
            "messages",
            f"{counts[bad[0]] + leads[bad[0]]} turns; alpaca holds one user turn and one assistant turn. Write "
            "messages or sharegpt, or LLaMA-Factory's wider alpaca with columns=('input', 'system', 'history')",
        )
    if counts.sum() == batch.turns:
        role, content = batch.fields["role"], batch.fields["content"]
    else:
        _, body = select(batch, starts, counts)
        role, content = body["role"], body["content"]
    wrong = pc.not_equal(role, constant_roles(("user", "assistant"), int(rounds.sum())))
    if pc.any(wrong).as_py():
        turn = ranges(starts, counts)[first_true(wrong)]
        row, place = batch.place(int(turn), "role")
        given = batch.fields["role"][int(turn)].as_py()
        batch.fail(row, place, f"is {given!r}; alpaca holds a user turn and then an assistant turn")
    return content, rounds
