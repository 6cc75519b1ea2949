"""prompt, completion: two strings, or two lists of messages (conversational); TRL trains on the completion only."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.errors import ConfigError
from instruct_builders.formats import kept, messages
from instruct_builders.formats.layout import Layout, refuse_fields
from instruct_builders.formats.turns import (
    Batch,
    alternate,
    append_context,
    constant_roles,
    first_true,
    interleave,
    is_list,
    is_text,
    join_context,
    nest,
    read_turns,
    select,
    split_context,
    text,
)


def read(columns: dict[str, pa.Array]) -> Batch:
    kinds = columns["prompt"].type, columns["completion"].type
    answers = None
    if is_list(kinds[0]) and is_list(kinds[1]):
        batch, answers = _read_lists(columns)
    elif is_text(kinds[0]) and is_text(kinds[1]):
        batch = _read_strings(columns)
    else:
        raise ConfigError(f"prompt is {kinds[0]}, completion {kinds[1]}; both must be text or both lists of messages")
    batch.context = text(columns["context"], "context") if "context" in columns else None
    batch.tools = messages.json_text(batch, columns["tools"], "tools") if "tools" in columns else None
    batch.meta = text(columns["meta"], "meta") if "meta" in columns else None
    pieces = {}
    if answers is not None:
        counts, none = pa.array(answers).cast(pa.string()), pa.scalar(None, pa.string())
        pieces = {
            "completion": pc.if_else(pa.array(answers != 1), counts, none),
            **messages.fill_called_content(batch),
        }
    kept.keep(batch, "prompt_completion", pieces)
    split_context(batch)
    return batch


def _read_strings(columns: dict[str, pa.Array]) -> Batch:
    prompt, completion = text(columns["prompt"], "prompt"), text(columns["completion"], "completion")
    offsets = np.arange(0, 2 * len(prompt) + 1, 2, dtype=np.int32)
    roles = constant_roles(("user", "assistant"), len(prompt))
    return Batch(offsets, {"role": roles, "content": alternate(prompt, completion)})


def _read_lists(columns: dict[str, pa.Array]) -> tuple[Batch, np.ndarray]:
    """The batch, and how many turns each completion has."""
    prompt = read_turns(columns["prompt"], "prompt", messages.NAMES)
    completion = read_turns(columns["completion"], "completion", messages.NAMES)
    offsets, fields = interleave([prompt[:2], completion[:2]])
    nulls = [null_rows for *_, null_rows in (prompt, completion) if null_rows is not None]
    batch = Batch(offsets, fields, np.logical_or.reduce(nulls) if nulls else None)
    return batch, np.diff(completion[0])


def write(batch: Batch, layout: Layout) -> dict[str, pa.Array]:
    out = (_write_lists if layout.options.get("conversational") else _write_strings)(batch, layout)
    layout.add(batch, out, "context", batch.context)
    layout.add(batch, out, "tools", batch.tools)
    layout.add(batch, out, "meta", batch.meta)
    return out


def _write_strings(batch: Batch, layout: Layout) -> dict[str, pa.Array]:
    refuse_fields(batch, batch.fields, ("role", "content"), "needs conversational=True")
    if batch.tools is not None and batch.tools.null_count < len(batch):
        message = "a prompt that is a string has no place for tools; pass conversational=True"
        batch.fail(first_true(batch.tools.is_valid()), "tools", message)
    counts = np.diff(batch.offsets)
    bad = np.flatnonzero(counts != 2)
    if len(bad):
        message = f"{counts[bad[0]]} turns; strings hold one user turn and one answer. Pass conversational=True"
        batch.fail(bad[0], "messages", message)
    wrong = pc.not_equal(batch.fields["role"], constant_roles(("user", "assistant"), len(batch)))
    if pc.any(wrong).as_py():
        turn = first_true(wrong)
        row, place = batch.place(turn, "role")
        given = batch.fields["role"][turn].as_py()
        batch.fail(row, place, f"is {given!r}; strings hold a user turn and its answer. Pass conversational=True")
    first = np.arange(0, batch.turns, 2)
    prompt, completion = (batch.fields["content"].take(pa.array(turns)) for turns in (first, first + 1))
    if batch.context is not None:
        prompt = append_context(prompt, batch.context)
    kept.restore(batch, "prompt_completion")
    return {"prompt": prompt, "completion": completion}


def _write_lists(batch: Batch, layout: Layout) -> dict[str, pa.Array]:
    entries = kept.restore(batch, "prompt_completion")
    counts = np.diff(batch.offsets)
    answers = np.ones(len(batch), np.int64)
    for rows, entry in entries:
        size = entry.get("completion")
        answers[rows] = size if isinstance(size, int) and size >= 0 else 1
    bad = np.flatnonzero(answers > counts)
    if len(bad):
        message = f"{counts[bad[0]]} turns; the last {answers[bad[0]]} would be the completion"
        batch.fail(bad[0], "messages", message)
    last = batch.fields["role"].take(pa.array(batch.offsets[1:] - 1, mask=answers == 0))
    wrong = pc.not_equal(last, "assistant").fill_null(False)
    if pc.any(wrong).as_py():
        row = first_true(wrong)
        place = f"messages[{counts[row] - 1}].role"
        batch.fail(row, place, f"is {last[row].as_py()!r}; the completion is the last turn, an assistant's")
    content = messages.restore_null_content(batch, join_context(batch), entries)
    whole = Batch(batch.offsets, layout.fields(batch, content))
    ends = batch.offsets[1:]
    prompt = select(whole, batch.offsets[:-1], counts - answers)
    return {"prompt": nest(*prompt), "completion": nest(*select(whole, ends - answers, answers))}
