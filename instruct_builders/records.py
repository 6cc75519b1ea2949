"""The record: the one row type that crosses every border of this package.

A record keeps what was said; a template decides how it is printed. It is an Arrow struct, handled a table at a time;
there is no Python class for a single row.
"""

from __future__ import annotations

import pyarrow as pa

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
        "parent": pa.string(),  # id of the record this one was split, evolved or generated from
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
    "no_turns": "a conversation without turns, or without an answer",
    "bad_role": "a role that is not known",
    "role_order": "turns that do not alternate as a conversation does",
    "ends_with_user": "the last turn is not an answer",
    "dup_id": "an id of the source seen before",
    "dup_content": "the same conversation, or the same first question and answer, seen before",
    "control_token": "a control character or a template's special token inside the text",
    "lone_surrogate": "half of a UTF-16 pair, which is not text",
    "nul": "a NUL character",
    "too_long": "longer than the limit that was set",
    "too_short": "shorter than the limit that was set",
    "wrong_language": "not in a language that was asked for",
    "error_page": "an answer that is an error message of the site it was exported from",
    "bad_utf8": "bytes that are not UTF-8",
    "bad_json": "not valid JSON",
    "schema": "fields other than the format's",
}
