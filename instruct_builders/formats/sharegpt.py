"""ShareGPT: conversations of {from, value}, with LLaMA-Factory's system and tools columns and function calls."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.formats import function_calls, kept
from instruct_builders.formats.layout import Layout, refuse_fields
from instruct_builders.formats.turns import (
    Batch,
    constant_roles,
    first_true,
    interleave,
    join_context,
    nest,
    read_turns,
    select,
    split_context,
    text,
)

NAMES = {"from": "role", "value": "content"}
# Spelling -> role. The first five are how roles are written unless the row's `meta` says otherwise.
SPELLINGS = {
    "human": "user",
    "gpt": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
KNOWN = pa.array(SPELLINGS)
ROLE_OF = pa.array(SPELLINGS.values())
DEFAULTS = 5
CALL = list(SPELLINGS).index("function_call")
WRITTEN = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}
CALLS = len(WRITTEN)  # the kind of a turn that calls functions; the other kinds are positions in WRITTEN
KINDS = {name: CALLS if name == "function_call" else list(WRITTEN).index(role) for name, role in SPELLINGS.items()}


def read(columns: dict[str, pa.Array], *, turns: str = "conversations") -> Batch:
    offsets, fields, null_rows = read_turns(columns[turns], turns, NAMES)
    batch = Batch(offsets, fields, null_rows, names=(turns, "from", "value"))
    batch.meta = text(columns["meta"], "meta") if "meta" in columns else None
    pieces = _read_roles(batch)
    if "tools" in columns:
        pieces["tools"] = _read_tools(batch, text(columns["tools"], "tools"))
    if "system" in columns:
        pieces["system"] = _read_system(batch, text(columns["system"], "system"))
    kept.keep(batch, "sharegpt", pieces)
    if "context" in columns:
        batch.context = text(columns["context"], "context")
        split_context(batch)
    return batch


def _read_roles(batch: Batch) -> dict[str, pa.Array]:
    """Map the roles and the function calls in place; returns what the default spelling would not restore."""
    spelled = batch.fields["role"]
    code = pc.index_in(spelled, value_set=KNOWN)
    role = ROLE_OF.take(code)
    # A role that is not known stays as it is: validation rejects it by its name.
    batch.fields["role"] = pc.coalesce(role, spelled) if code.null_count else role
    code = code.fill_null(-1).to_numpy()
    pieces = {}
    if (code >= DEFAULTS).any():
        unusual = np.zeros(len(batch), bool)
        unusual[np.searchsorted(batch.offsets, np.flatnonzero(code >= DEFAULTS), side="right") - 1] = True
        names = pa.array([f'"{name}"' for name in SPELLINGS] + ["null"])
        items = names.take(pa.array(np.where(code < 0, len(SPELLINGS), code)))
        pieces["roles"] = kept.json_lists(batch.offsets, items, unusual)
    calls = np.flatnonzero(code == CALL)
    if len(calls):
        pieces["values"] = _read_calls(batch, calls)
    return pieces


def _read_calls(batch: Batch, calls: np.ndarray) -> pa.Array:
    """Turn the values of function_call turns into tool calls; returns those whose bytes must be kept aside."""
    content = batch.fields["content"]
    encoded = content.take(pa.array(calls)).dictionary_encode()
    stored = [function_calls.stored_calls(value) for value in encoded.dictionary.to_pylist()]
    which = encoded.indices.fill_null(-1).to_numpy()
    good = np.array([value is not None for value, _ in stored] + [False])[which]
    for turn in calls[~good]:
        row, place = batch.place(int(turn), "content")
        given = content[int(turn)].as_py()
        detail = "is null" if given is None else f"{given[:80]!r} is not a JSON object with 'name' and 'arguments'"
        batch.problems.append((row, "schema", place, detail))
    index = np.full(batch.turns, -1)
    index[calls[good]] = which[good]
    picks = pa.array(index, mask=index < 0)
    batch.fields["tool_calls"] = pa.array([value for value, _ in stored], pa.string()).take(picks)
    batch.fields["content"] = pc.if_else(picks.is_valid(), "", content)
    rows: dict[int, dict[str, str]] = {}
    for turn, entry in zip(calls[good], which[good], strict=True):
        if not stored[entry][1]:
            row = int(np.searchsorted(batch.offsets, turn, side="right")) - 1
            raw = encoded.dictionary[int(entry)].as_py()
            rows.setdefault(row, {})[str(int(turn - batch.offsets[row]))] = raw
    return pa.array([kept.dumps(rows[row]) if row in rows else None for row in range(len(batch))], pa.string())


def _read_tools(batch: Batch, tools: pa.StringArray) -> pa.Array:
    """Fill `batch.tools`; returns what brings the source's own text back where the default does not."""
    encoded = tools.dictionary_encode()
    read = [function_calls.stored_tools(value) for value in encoded.dictionary.to_pylist()]
    broken = pa.array([position for position, entry in enumerate(read) if entry is None], encoded.indices.type)
    for row in np.flatnonzero(pc.is_in(encoded.indices, value_set=broken)):
        detail = f"{tools[int(row)].as_py()[:80]!r} is not a JSON list of tools with a 'name' each"
        batch.problems.append((int(row), "schema", "tools", detail))
    stored, marks = zip(*[entry or (None, None) for entry in read], strict=True) if read else ((), ())
    batch.tools = pa.array(stored, pa.string()).take(encoded.indices)
    return pa.array(marks, pa.string()).take(encoded.indices)


def _read_system(batch: Batch, system: pa.StringArray) -> pa.Array:
    """Put the system column's text before the turns; returns how each row said it."""
    said = pc.greater(pc.binary_length(system), 0).fill_null(False)
    if pc.any(said).as_py():
        offsets = np.concatenate([[0], np.cumsum(said.to_numpy(zero_copy_only=False))]).astype(np.int32)
        turns = {"role": constant_roles(("system",), int(offsets[-1])), "content": system.filter(said)}
        batch.offsets, batch.fields = interleave([(offsets, turns), (batch.offsets, batch.fields)])
        batch.names = ("messages", "role", "content")  # positions are no longer the source's
    none = pa.scalar(None, pa.string())
    return pc.if_else(said, "true", pc.if_else(system.is_valid(), '""', none))


def write(batch: Batch, layout: Layout) -> dict[str, pa.Array]:
    refuse_fields(batch, batch.fields, ("role", "content", "tool_calls"), "has no place in sharegpt")
    content = join_context(batch)
    entries = kept.restore(batch, "sharegpt")
    system = _write_system(batch, layout, entries)
    if system is not None:  # the turns that moved to the column are left out below
        moved = system[1].astype(np.int32)
        full = Batch(batch.offsets, {**batch.fields, "content": content})
        starts, counts = batch.offsets[:-1] + moved, np.diff(batch.offsets) - moved
        offsets, fields = select(full, starts, counts)
    else:
        offsets, fields = batch.offsets, {**batch.fields, "content": content}
    body = Batch(offsets, fields, names=batch.names, first_row=batch.first_row)
    value = _write_calls(body, entries)
    spelled = _write_roles(body, entries)
    struct = {"from": spelled, "value": value}
    out = {layout.turns or "conversations": nest(offsets, struct, batch.null_rows)}
    if system is not None or (layout.columns is not None and "system" in layout.columns):
        layout.add(batch, out, "system", system[0] if system is not None else None)
    tools = _write_tools(batch, entries)
    if (tools is not None and tools.null_count < len(tools)) or (layout.columns and "tools" in layout.columns):
        if not layout.wants("tools"):
            layout.add(batch, out, "tools", tools)
        out["tools"] = pa.nulls(len(batch), pa.string()) if tools is None else tools
    layout.add(batch, out, "context", batch.context)
    layout.add(batch, out, "meta", batch.meta)
    return out


def _write_system(batch: Batch, layout: Layout, entries: list) -> tuple[pa.Array, np.ndarray] | None:
    """`(the system column, the rows whose first turn moves there)`; None where no row had such a column."""
    rows = [(rows, entry["system"]) for rows, entry in entries if entry.get("system") in (True, "")]
    if not rows or not layout.wants("system"):
        return None
    first = pa.array(batch.offsets[:-1], mask=np.diff(batch.offsets) == 0)
    leads = pc.equal(batch.fields["role"].take(first), "system").fill_null(False).to_numpy(zero_copy_only=False)
    moved, empty = np.zeros(len(batch), bool), np.zeros(len(batch), bool)
    for group, said in rows:
        (moved if said is True else empty)[group] = True
    moved &= leads
    column = batch.fields["content"].take(pa.array(batch.offsets[:-1], mask=~moved))
    return pc.if_else(pa.array(empty), "", column), moved


def _write_calls(body: Batch, entries: list) -> pa.Array:
    """The values: contents, and the text of its calls where a turn calls functions."""
    content, calls = body.fields["content"], body.fields.get("tool_calls")
    if calls is None or calls.null_count == len(calls):
        return content
    encoded = calls.dictionary_encode()
    written = [function_calls.written_calls(stored) for stored in encoded.dictionary.to_pylist()]
    values = pa.array(written, pa.string()).take(encoded.indices)
    lost = pc.and_(calls.is_valid(), pc.or_(values.is_null(), pc.not_equal(content, "")))
    if pc.any(lost).as_py():
        row, place = body.place(first_true(lost), "tool_calls")
        shape = '[{"type": "function", "function": {"name": ..., "arguments": {...}}}] beside an empty content'
        body.fail(row, place, f"sharegpt has no place for these calls; it holds {shape}")
    for rows, entry in entries:
        values_kept = entry.get("values")
        for position, raw in values_kept.items() if isinstance(values_kept, dict) else ():
            turns = body.offsets[rows] + int(position)
            turns = turns[turns < body.offsets[rows + 1]]
            stored = function_calls.stored_calls(raw)[0]
            same = pc.equal(calls.take(pa.array(turns)), stored).fill_null(False).to_numpy(zero_copy_only=False)
            mask = np.zeros(body.turns, bool)
            mask[turns[same]] = True
            values = pc.if_else(pa.array(mask), raw, values)
    return pc.coalesce(values, content)


def _write_roles(body: Batch, entries: list) -> pa.Array:
    """The roles in the default spelling, or as the row's entry spells them where its turns are still the same."""
    code = pc.index_in(body.fields["role"], value_set=pa.array(WRITTEN)).to_numpy(zero_copy_only=False)
    calls = body.fields.get("tool_calls")
    kind = code if calls is None else np.where(calls.is_valid().to_numpy(zero_copy_only=False), CALLS, code)
    names, kind_of = list(SPELLINGS), np.array([KINDS[name] for name in SPELLINGS])
    spelled = np.array([names.index(name) for name in (*WRITTEN.values(), "function_call")])[kind]
    counts = np.diff(body.offsets)
    for rows, entry in entries:
        given = entry.get("roles")
        if not isinstance(given, list) or not given or not all(name in names for name in given):
            continue
        given = np.array([names.index(name) for name in given])
        rows = rows[counts[rows] == len(given)]
        turns = body.offsets[rows][:, None] + np.arange(len(given))
        turns = turns[(kind[turns] == kind_of[given]).all(axis=1)]
        spelled[turns] = given
    return KNOWN.take(pa.array(spelled))


def _write_tools(batch: Batch, entries: list) -> pa.Array | None:
    """The tools column: a plain list, or the source's own text where an entry keeps it and the tools are the same."""
    marked = [(rows, entry["tools"]) for rows, entry in entries if "tools" in entry]
    if batch.tools is None and not marked:
        return None
    tools = pa.nulls(len(batch), pa.string()) if batch.tools is None else batch.tools
    encoded = tools.dictionary_encode()
    stored = encoded.dictionary.to_pylist()
    texts = [function_calls.written_tools(text) for text in stored] + stored
    which = encoded.indices.fill_null(-1).to_numpy().copy()
    for rows, mark in marked:
        if mark is True:
            which[rows] += np.where(which[rows] >= 0, len(stored), 0)
            continue
        meant = (function_calls.stored_tools(mark) or (None,))[0]
        position = stored.index(meant) if meant in stored else -1
        if meant is None or position >= 0:
            which[rows[which[rows] == position]] = len(texts)
            texts.append(mark)
    values = pa.array(texts, pa.string()).take(pa.array(which, mask=which < 0))
    lost = pc.and_(values.is_null(), tools.is_valid())
    if pc.any(lost).as_py():
        shape = '[{"type": "function", "function": {...}}, ...]'
        batch.fail(first_true(lost), "tools", f"sharegpt has no place for these tools; it holds {shape}")
    return values
