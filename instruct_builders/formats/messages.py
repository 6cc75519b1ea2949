"""messages: a list of {role, content, ...}, as TRL and transformers read it; and the record's own columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.formats import kept
from instruct_builders.formats.layout import Layout
from instruct_builders.formats.turns import Batch, join_context, nest, read_turns, split_context, text
from instruct_builders.records import MESSAGE_FIELDS

NAMES = {name: name for name in MESSAGE_FIELDS}


def read(columns: dict[str, pa.Array], *, turns: str = "messages") -> Batch:
    batch = _read(columns, turns)
    kept.keep(batch, "messages", fill_called_content(batch))
    split_context(batch)
    return batch


def read_record(columns: dict[str, pa.Array], *, turns: str = "messages") -> Batch:
    """A record's messages, context, tools and meta as they are: nothing is joined in them."""
    batch = _read(columns, turns)
    if pieces := fill_called_content(batch):
        kept.keep(batch, "messages", pieces)
    return batch


def _read(columns: dict[str, pa.Array], turns: str) -> Batch:
    offsets, fields, null_rows = read_turns(columns[turns], turns, NAMES)
    batch = Batch(offsets, fields, null_rows, names=(turns, "role", "content"))
    batch.context = text(columns["context"], "context") if "context" in columns else None
    batch.tools = json_text(batch, columns["tools"], "tools") if "tools" in columns else None
    batch.meta = text(columns["meta"], "meta") if "meta" in columns else None
    return batch


def json_text(batch: Batch, column: pa.Array, name: str) -> pa.StringArray:
    """The texts of a JSON column; in one that is only a string, texts that are no JSON become problems."""
    values = text(column, name)
    if not isinstance(column, pa.JsonArray) and values.null_count < len(values):
        encoded = values.dictionary_encode()
        broken = [position for position, value in enumerate(encoded.dictionary.to_pylist()) if not _is_json(value)]
        for row in np.flatnonzero(pc.is_in(encoded.indices, value_set=pa.array(broken, encoded.indices.type))):
            detail = f"{values[row].as_py()[:80]!r} is not JSON"
            batch.problems.append((int(row), "bad_json", name, detail))
    return values


def _is_json(value: str) -> bool:
    try:
        kept.loads(value)
    except ValueError:
        return False
    return True


def fill_called_content(batch: Batch) -> dict[str, pa.Array]:
    """A null content beside tool calls is how OpenAI spells an empty one; returns which turns said null."""
    content = batch.fields["content"]
    if not content.null_count or "tool_calls" not in batch.fields:
        return {}
    spelled_null = pc.and_(content.is_null(), batch.fields["tool_calls"].is_valid())
    turns = np.flatnonzero(spelled_null)
    if not len(turns):
        return {}
    batch.fields["content"] = pc.if_else(spelled_null, "", content)
    rows = np.searchsorted(batch.offsets, turns, side="right") - 1
    counts = np.bincount(rows, minlength=len(batch))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    items = pa.array(turns - batch.offsets[rows]).cast(pa.string())
    return {"null_content": kept.json_lists(offsets, items, counts > 0)}


def write(batch: Batch, layout: Layout) -> dict[str, pa.Array]:
    entries = kept.restore(batch, "messages")
    return _write(batch, layout, restore_null_content(batch, join_context(batch), entries))


def write_record(batch: Batch, layout: Layout) -> dict[str, pa.Array]:
    return _write(batch, layout, batch.fields["content"])


def _write(batch: Batch, layout: Layout, content: pa.Array) -> dict[str, pa.Array]:
    out = {layout.turns or "messages": nest(batch.offsets, layout.fields(batch, content), batch.null_rows)}
    layout.add(batch, out, "context", batch.context)
    layout.add(batch, out, "tools", batch.tools)
    layout.add(batch, out, "meta", batch.meta)
    return out


def restore_null_content(batch: Batch, content: pa.Array, entries: list) -> pa.Array:
    """Undo [`fill_called_content`], where the turn still calls tools and says nothing else."""
    null = np.zeros(batch.turns, bool)
    for rows, entry in entries:
        positions = entry.get("null_content")
        for position in positions if isinstance(positions, list) else ():
            turns = batch.offsets[rows] + position
            null[turns[turns < batch.offsets[rows + 1]]] = True
    if not null.any() or "tool_calls" not in batch.fields:
        return content
    mask = pc.and_(pa.array(null), pc.and_(pc.equal(content, ""), batch.fields["tool_calls"].is_valid()))
    return pc.if_else(mask, pa.scalar(None, pa.string()), content)
