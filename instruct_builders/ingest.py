"""Source rows -> valid records with provenance, a chunk at a time; the others become lines of `rejected.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import formats, quarantine, reader, records, sources, validation

# Bytes without which a source can't fill a message field or column; escapes inside strings keep them from hiding.
FIELD_HINTS = {
    "tool_calls": (b"tool_calls", b"function_call"),
    "tool_call_id": (b"tool_call_id",),
    "reasoning_content": (b"reasoning_content",),
    "name": (b'"name"',),
    "train": (b'"train"',),
    "tools": (b'"tools"',),
    "context": (b'"context"',),
}


ROW = pa.field("row", pa.int64())  # rides along with records: the row's place in its source, for later rejections


class ReadOptions(Protocol):
    """The fields of [`InstructConfig`] that reading depends on."""

    columns: dict | None
    license: str | None
    max_chars: int | None
    control_tokens: str


def fields_in_use(
    files: Iterable[sources.SourceFile], source_format: str, streaming: bool, columns: dict[str, str]
) -> set[str]:
    """Message fields and columns that the sources may fill: more than needed is harmless, less would be an error."""
    if source_format == "alpaca":
        return {"role", "content", "context"}
    if streaming:  # the bytes are not at hand
        return {*records.MESSAGE_FIELDS, "tools", "context"}
    found = {"role", "content", *columns}
    for file in files:
        found |= {field for field, hints in FIELD_HINTS.items() if sources.mentions(file.path, hints)}
    return found


def records_of(
    chunk: reader.Chunk, file: sources.SourceFile, source_format: str, options: ReadOptions
) -> tuple[pa.Table, list[dict]]:
    """One chunk of source rows -> the valid records, and the lines of `rejected.jsonl` for the others."""
    ours = {theirs: name for name, theirs in (options.columns or {}).items()}
    native = chunk.table.rename_columns([ours.get(name, name) for name in chunk.table.column_names])
    table = with_provenance(formats.to_record(native, source_format), file, options.license)
    tokens = validation.SPECIAL_TOKENS if options.control_tokens == "reject" else ()
    verdict = validation.validate(table, special_tokens=tokens, max_chars=options.max_chars)
    table = table.select(records.RECORD.names).append_column(ROW, pa.array(chunk.row))
    table = table.append_column("rejected", verdict)
    bad = np.flatnonzero(pc.is_valid(verdict).to_numpy(zero_copy_only=False))
    good, rejected = quarantine.split_rejected(table)
    lines = [{**line.as_dict(), "split": file.split} for line in chunk.rejected]
    lines += quarantine.rejected_rows(
        native.take(bad).append_column("rejected", rejected["rejected"]) if len(bad) else rejected,
        stage="validate",
        split=file.split,
        file=file.name,
        places={"row": chunk.row[bad], "line": chunk.line[bad], "offset": chunk.offset[bad]},
    )
    return good, sorted(lines, key=lambda line: line["row"])


def with_provenance(table: pa.Table, file: sources.SourceFile, license_id: str | None) -> pa.Table:
    """Gives records every column of [`RECORD`]: the file's `source` and `license`, `extra` keys in `meta`, an id."""
    size = len(table)
    filled = {
        "source": pa.repeat(pa.scalar(file.source, pa.string()), size),
        "license": pa.repeat(pa.scalar(license_id or file.license, pa.string()), size),
        "meta": _joined_meta(table),
    }
    for field in records.RECORD:
        if field.name not in table.column_names:
            filled.setdefault(field.name, pa.nulls(size, field.type))
    table = table.drop_columns([name for name in (*filled, "extra") if name in table.column_names])
    for name, column in filled.items():
        table = table.append_column(name, column)
    return table.drop_columns("id").append_column("id", records.content_ids(table))


def _joined_meta(table: pa.Table) -> pa.Array:
    """The JSON objects in `meta` (what a format needs to write its rows back) and `extra` (other keys), in one."""
    columns = [table[name] for name in ("meta", "extra") if name in table.column_names]
    texts = [column.combine_chunks() for column in columns]
    texts = [text.storage if isinstance(text, pa.ExtensionArray) else text for text in texts]
    if not texts:
        return pa.nulls(len(table), records.JSON)
    joined = texts[0]
    if len(texts) == 2:
        joined = pc.coalesce(_both(*texts), *texts)
    return pa.ExtensionArray.from_storage(records.JSON, joined.cast(pa.string()))


def _both(meta: pa.Array, extra: pa.Array) -> pa.Array:
    """One JSON object of two, null where one is null; where both have a key, `extra` goes in whole as `columns`."""
    bodies = [pc.utf8_trim_whitespace(pc.utf8_slice_codeunits(text, 1, -1)) for text in (meta, extra)]
    comma = pc.if_else(pc.or_(*[pc.equal(body, "") for body in bodies]), "", ", ")
    both = pc.binary_join_element_wise("{", bodies[0], comma, bodies[1], "}", "")
    clashes = [
        (row, f'{{{bodies[0][row]}, "columns": {second}}}')
        for row, (first, second, text) in enumerate(
            zip(meta.to_pylist(), extra.to_pylist(), both.to_pylist(), strict=True)
        )
        if text is not None and len(json.loads(text)) < len(json.loads(first)) + len(json.loads(second))
    ]
    if not clashes:
        return both
    mask = np.zeros(len(both), bool)
    mask[[row for row, _ in clashes]] = True
    return pc.replace_with_mask(both, pa.array(mask), pa.array([text for _, text in clashes], pa.string()))
