"""Whether a directory holds rows of the scripted demo server, which no language model wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

DEMO_MODEL = "scripted-demo"
MARK = f'"{DEMO_MODEL}"'


def find(files: Mapping[str, Path]) -> str | None:
    """The name of the first file with demo data: `build.json` says so, or a row's `meta.generator`.

    Args:
        files (`Mapping[str, Path]`): Name -> local file, as they would be published.
    """
    for name, path in files.items():
        if name == "build.json" and MARK in path.read_text(encoding="utf-8"):
            return name
        if name.endswith(".parquet") and _holds_demo_rows(path):
            return name
    return None


def _holds_demo_rows(path: Path) -> bool:
    with pq.ParquetFile(path) as file:
        if "meta" not in file.schema_arrow.names:
            return False
        for batch in file.iter_batches(columns=["meta"]):
            column = batch.column(0)
            column = column.storage if isinstance(column, pa.ExtensionArray) else column
            texts = column if pa.types.is_string(column.type) else pa.array(map(repr, column.to_pylist()), pa.string())
            if pc.any(pc.match_substring(texts, DEMO_MODEL)).as_py():
                return True
    return False
