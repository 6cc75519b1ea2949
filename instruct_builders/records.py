"""The record: the one row type that crosses every border of this package.

A record keeps what was said; a template decides how it is printed. It is an Arrow struct, handled a table at a time;
there is no Python class for a single row.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

JSON = pa.json_()  # `datasets` reads this extension type as `Json()`: decoded on access, a string in Parquet

# One turn. Only `role` and `content` are always there; the others are null where a turn has none.
MESSAGE_FIELDS: dict[str, pa.DataType] = {
    "role": pa.string(),  # one of ROLES
    "content": pa.string(),  # never null; empty only where `tool_calls` says something
    "reasoning_content": pa.string(),
    "tool_calls": JSON,  # [{"type": "function", "function": {"name": str, "arguments": dict}}]
    "tool_call_id": pa.string(),
    "name": pa.string(),  # of the tool that answers
    "train": pa.bool_(),  # False: this assistant turn is not trained on
}
ROLES = ("system", "user", "assistant", "tool")

MESSAGES = pa.list_(pa.struct(list(MESSAGE_FIELDS.items())))

RECORD = pa.schema(
    {
        "id": pa.string(),  # content hash of messages, context and tools: 32 hex digits
        "messages": MESSAGES,
        "context": pa.string(),  # Alpaca's `input`, kept apart from the instruction; null where there is none
        "tools": JSON,  # list of JSON schemas; null where there are none
        "source": pa.string(),  # `org/name@revision` or `file.json sha256:...`
        "task": pa.string(),
        "template": pa.string(),
        "license": pa.string(),
        "parent": pa.string(),  # id of the record this one was split or evolved from; of FLAN rows the question's
        "meta": JSON,  # what the source said beyond these columns: an object, or null
    }
)

# Rides along in a table as the column `rejected`: null where the row is fine; once set it stays.
REJECTED = pa.struct({"reason": pa.string(), "field": pa.string(), "detail": pa.string()})

# Why a row can be rejected: the fixed vocabulary of `rejected.jsonl`, `build.json` and the dataset card.
REASONS: dict[str, str] = {
    "null_field": "a required field is missing or null",
    "non_string": "a number, list or object where text belongs",
    "empty_output": "an answer without text",
    "answer_not_in_options": "an answer that is none of the task's options",
    "over_budget": "a prompt longer than its budget, even without exemplars",
    "no_turns": "a conversation without turns, or without an answer",
    "bad_role": "a role that is not known",
    "role_order": "turns that do not alternate as a conversation does",
    "ends_with_user": "the last turn is not an answer",
    "dup_id": "an id of the source seen before",
    "dup_content": "the same conversation, or the same first question and answer, seen before",
    "near_duplicate": "a row that says almost the same, and is the better one, stays",
    "contaminated": "text of an evaluation set",
    "control_token": "a control character or a template's special token inside the text",
    "lone_surrogate": "half of a UTF-16 pair, which is not text",
    "nul": "a NUL character",
    "too_long": "longer than the limit that was set",
    "too_short": "shorter than the limit that was set",
    "wrong_language": "not in a language that was asked for",
    "blocked_word": "a word that was asked to be kept out",
    "error_page": "an answer that is an error message of the site it was exported from",
    "no_input_marker": "`<noinput>` or a variant of it where text belongs",
    "merged_rows": "an answer in which a further task begins",
    "control_character": "a control character other than tab and line end inside the text",
    "open_code_fence": "a code fence that is never closed",
    "truncated_output": "an answer that stops in the middle",
    "answer_in_instruction": "an instruction that already holds the whole answer",
    "instruction_echoed": "an answer that gives the question back",
    "repeated_ngrams": "an answer that falls into a loop",
    "refusal": "an answer that refuses, or excuses itself with being a machine",
    "url_claimed": "an answer about a page behind an address, which nothing had read",
    "media_reference": "a picture or a recording that is not there",
    "wrong_arithmetic": "a sum that does not add up",
    "harmful": "harm by category: weapons, drugs, hacking, self-harm, violence, minors, hate",
    "toxic": "toxic by the classifier that was handed in",
    "pii": "personal data that was asked to be dropped",
    "no_verdict": "a row that the judge gave no score, or none that could be read",
    "score_out_of_range": "a score that was handed in, outside the limits that were set, or none",
    "low_score": "a quality score below the limit that was set",
    "check_failed": "a check that raised an error on this row",
    "bad_utf8": "bytes that are not UTF-8",
    "bad_json": "not valid JSON",
    "schema": "fields other than the format's",
}


def empty_table(schema: pa.Schema) -> pa.Table:
    """A table without rows; `Schema.empty_table` fails on JSON inside a list or struct (pyarrow 26)."""
    return pa.table([pa.nulls(0, field.type) for field in schema], schema=schema)


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column's values in one array: copied only where there are several chunks."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)


def flat_turns(column: pa.Array) -> pa.Array:
    """The values of a list array, without those of null rows; `flatten` alone fails where all rows are null and the
    turns hold JSON (pyarrow 26)."""
    return pa.nulls(0, column.type.value_type) if column.null_count == len(column) else column.flatten()


_ID_ROWS = 1_000  # rows hashed at a time: few enough that the allocator uses the same memory again


def content_ids(table: pa.Table) -> pa.Array:
    """The id of each record: BLAKE2b-128 of its messages, context and tools, as 32 hex digits.

    Hashed are, as little-endian 32-bit integers, the number of turns and the length of every text (-1 for null), then
    the texts themselves: no two contents share a serialisation, and null is not the empty string. JSON counts by what
    it says, not by its white space. Other columns, slicing and chunking do not change an id; a message field that the
    table lacks counts as null.

    Args:
        table (`pa.Table`): With `messages`; `context` and `tools` where there are any.
    """
    ids: list[str] = []
    for start in range(0, len(table), _ID_ROWS):
        ids += _hash_slice(table.slice(start, _ID_ROWS))
    return pa.array(ids, pa.string())


def _hash_slice(table: pa.Table) -> list[str]:
    messages = one_array(table["messages"])
    counts = pc.list_value_length(messages).fill_null(-1).to_numpy().astype("<i4")
    offsets = np.concatenate([[0], np.cumsum(np.maximum(counts, 0))])
    turns = flat_turns(messages)
    flat = dict(zip(turns.type.names, turns.flatten(), strict=True))
    columns = [_hashed_text(flat[name]) if name in flat and name != "train" else None for name in MESSAGE_FIELDS]
    lengths = [_lengths(column, len(turns)) for column in columns[:-1]]
    lengths.append(_lengths(None, len(turns)) if "train" not in flat else flat["train"].cast(pa.int8()).fill_null(-1))
    extra = [
        _hashed_text(one_array(table[name])) if name in table.column_names else None for name in ("context", "tools")
    ]
    # Per row: number of turns, lengths of context and tools, then the lengths of each turn's fields.
    width = len(MESSAGE_FIELDS)
    starts = 3 * np.arange(len(counts) + 1) + width * offsets
    numbers, is_turn = np.empty(starts[-1], "<i4"), np.ones(starts[-1], bool)
    for position, values in enumerate([counts, *[_lengths(column, len(counts)) for column in extra]]):
        numbers[starts[:-1] + position] = values
        is_turn[starts[:-1] + position] = False
    numbers[is_turn] = np.stack([np.asarray(values) for values in lengths], axis=1).ravel()
    used = [column for column in columns if column is not None] or [pa.nulls(len(turns), pa.string())]
    joined = pc.binary_join_element_wise(*used, "", null_handling="replace", null_replacement="")
    ends = _ends(joined)[offsets]
    if any(column is not None for column in extra):
        rows = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), joined), "")
        parts = [rows, *[column for column in extra if column is not None]]
        joined = pc.binary_join_element_wise(*parts, "", null_handling="replace", null_replacement="")
        ends = _ends(joined)
    structure, text = memoryview(numbers).cast("B"), memoryview(joined.buffers()[2] or b"")
    bounds = zip(*[edges.tolist() for edges in (4 * starts[:-1], 4 * starts[1:], ends[:-1], ends[1:])], strict=True)
    ids = []
    for first, last, begin, end in bounds:
        digest = hashlib.blake2b(structure[first:last], digest_size=16)
        digest.update(text[begin:end])
        ids.append(digest.hexdigest())
    return ids


def _hashed_text(column: pa.Array) -> pa.Array | None:
    """The texts of a column, JSON in one spelling; None where all are null."""
    if column.null_count == len(column):
        return None
    if not isinstance(column, pa.ExtensionArray):
        return column.cast(pa.string())
    encoded = column.storage.cast(pa.string()).dictionary_encode()
    return pa.array([_one_spelling(text) for text in encoded.dictionary.to_pylist()]).take(encoded.indices)


def _one_spelling(text: str) -> str:
    try:
        return json.dumps(json.loads(text), separators=(",", ":"))
    except (ValueError, RecursionError):  # not JSON, so it can't be mistaken for what JSON is spelled as
        return text


def _lengths(column: pa.Array | None, size: int) -> np.ndarray:
    return np.full(size, -1) if column is None else pc.binary_length(column).fill_null(-1).to_numpy()


def _ends(array: pa.Array) -> np.ndarray:
    return np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
