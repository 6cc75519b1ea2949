"""Files of rows for the reader, and all that it makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from instruct_builders import reader


def required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


ALPACA = pa.schema(
    [required("instruction", pa.string()), pa.field("input", pa.string()), required("output", pa.string())]
)
TURN = pa.struct(
    [required("from", pa.string()), required("value", pa.string()), pa.field("tool_calls", pa.json_())],
)
SHAREGPT = pa.schema(
    [
        pa.field("id", pa.string()),
        required("conversations", pa.list_(required("item", TURN))),
        pa.field("tools", pa.json_()),
        pa.field("score", pa.float64()),
        pa.field("n", pa.int64()),
        pa.field("ok", pa.bool_()),
    ]
)
GOOD = {"instruction": "Add.", "input": None, "output": "3"}


def write(folder: Path, data: bytes, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def read_all(path: Path, schema: pa.Schema = ALPACA, **options):
    """Rows, their (row, line, offset), and the rejections of a whole file."""
    rows, places, rejected = [], [], []
    for chunk in reader.read(path, schema, name=path.name, **options):
        chunk.table.validate(full=True)
        assert chunk.table.schema == schema.append(pa.field("extra", pa.string()))
        rows += chunk.table.to_pylist()
        places += zip(chunk.row.tolist(), chunk.line.tolist(), chunk.offset.tolist(), strict=True)
        rejected += chunk.rejected
    return rows, places, rejected


def line(row: dict) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def ids(rows: list[dict]) -> list[str]:
    return [row.get("id") or json.loads(row["extra"] or "{}").get("id") for row in rows]


def compact(value: object) -> str | None:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) if value or value == [] else None
