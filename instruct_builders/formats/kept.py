"""What a native format says and a record does not: kept in the JSON column `meta`, taken out again on writing back.

A record's `meta` gets one entry per source format, such as `{"sharegpt": {"roles": ["user", "assistant"]}}`, and only
in rows that the format's default spelling would not restore.
"""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.formats.turns import Batch


def dumps(value) -> str:
    """JSON as readable as Arrow allows: escapes only where the text holds half of a UTF-16 pair."""
    written = json.dumps(value, ensure_ascii=False)
    return written if written.isprintable() or _encodes(written) else json.dumps(value)


def _encodes(written: str) -> bool:
    try:
        written.encode()
    except UnicodeEncodeError:
        return False
    return True


def loads(written: str):
    """Strict JSON: NaN and Infinity, which Python would take, are `ValueError`s."""
    try:
        return json.loads(written, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not JSON")


def keep(batch: Batch, source: str, pieces: dict[str, pa.Array]) -> None:
    """Add `{source: {key: piece, ...}}` to the batch's `meta` where any piece is not null.

    Args:
        pieces (`dict[str, pa.Array]`): JSON texts, one per row, null where there is nothing to keep.
    """
    _refuse_own(batch, source)
    pieces = {key: piece for key, piece in pieces.items() if piece.null_count < len(piece)}
    if not pieces:
        return
    texts = [pc.binary_join_element_wise(f', "{key}": ', piece, "") for key, piece in pieces.items()]
    # Not null_handling="skip": pyarrow 26 drops the rows in which everything is null.
    inner = pc.binary_join_element_wise(*texts, "", null_handling="replace", null_replacement="")
    entry = pc.binary_join_element_wise(f'"{source}": {{', pc.utf8_slice_codeunits(inner, 2), "}", "")
    entry = pc.if_else(pc.equal(inner, ""), pa.scalar(None, pa.string()), entry)
    kept = pc.binary_join_element_wise("{", entry, "}", "")
    if batch.meta is not None:
        both = pc.and_(entry.is_valid(), batch.meta.is_valid())
        merged = [
            _insert(m, e) for m, e in zip(*[x.filter(both).to_pylist() for x in (batch.meta, entry)], strict=True)
        ]
        kept = pc.replace_with_mask(pc.coalesce(kept, batch.meta), both, pa.array(merged, pa.string()))
    batch.meta = kept


def _refuse_own(batch: Batch, source: str) -> None:
    """A `meta` that already has an entry of this format would be taken for ours on writing back: a problem."""
    if batch.meta is None:
        return
    for row in np.flatnonzero(pc.match_substring(batch.meta, f'"{source}"').fill_null(False)):
        if _remove(batch.meta[int(row)].as_py(), source)[1] is not None:
            detail = f"has an entry {source!r}, which this package writes for itself; rename it"
            batch.problems.append((int(row), "schema", "meta", detail))


def _insert(meta: str, entry: str) -> str:
    head = meta.rstrip()[:-1].rstrip()  # without the closing brace
    return f"{head}{entry}}}" if head.endswith("{") else f"{head}, {entry}}}"


def restore(batch: Batch, target: str) -> list[tuple[np.ndarray, dict]]:
    """Take `target`'s entries out of the batch's `meta`: `(rows, entry)` for each distinct entry."""
    if batch.meta is None or batch.meta.null_count == len(batch.meta):
        return []
    mask = pc.match_substring(batch.meta, f'"{target}"').fill_null(False)
    rows = np.flatnonzero(mask)
    if not len(rows):
        return []
    encoded = batch.meta.filter(mask).dictionary_encode()
    rests, entries = zip(*[_remove(m, target) for m in encoded.dictionary.to_pylist()], strict=True)
    which = encoded.indices.to_numpy()
    batch.meta = pc.replace_with_mask(batch.meta, mask, pa.array(rests, pa.string()).take(encoded.indices))
    order = np.argsort(which, kind="stable")
    groups = np.split(rows[order], np.flatnonzero(np.diff(which[order])) + 1)
    return [(group, entry) for group, entry in zip(groups, entries, strict=True) if entry]


def _remove(meta: str, target: str) -> tuple[str | None, dict | None]:
    """`(what is left of one meta, its entry)`; what is left keeps its own bytes where `keep` appended the entry."""
    value = json.loads(meta)
    if not isinstance(value, dict) or not isinstance(value.get(target), dict):
        return meta, None
    entry = value.pop(target)
    if not value:
        return None, entry
    head = meta[: meta.rfind(f', "{target}": ')] + "}"
    try:
        appended = json.loads(head) == value
    except ValueError:
        appended = False
    return (head if appended else dumps(value)), entry


def rows_where(batch: Batch, rows: np.ndarray, value: str) -> pa.Array:
    """The same JSON text for some rows, null for the others."""
    mask = np.zeros(len(batch), bool)
    mask[rows] = True
    return pc.if_else(pa.array(mask), value, pa.scalar(None, pa.string()))


def json_lists(offsets: np.ndarray, items: pa.Array, rows: np.ndarray) -> pa.Array:
    """For the rows of a bool mask, the JSON list of their items (JSON texts, none null); null for the others."""
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), items), ", ")
    listed = pc.binary_join_element_wise("[", joined, "]", "")
    return pc.if_else(pa.array(rows), listed, pa.scalar(None, pa.string()))
