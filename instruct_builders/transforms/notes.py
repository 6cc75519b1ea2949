"""What a step notes about a row: a key of the JSON object in the column `meta`."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import flat


def noted(table: pa.Table, rows: np.ndarray, key: str, values: Sequence) -> pa.Table:
    """The table with `{key: value}` in the `meta` of each of `rows` (int64, ascending), beside what is there.

    Args:
        table (`pa.Table`): With a column `meta` of JSON objects, or null.
        rows (`np.ndarray`): Which rows.
        key (`str`): Replaces what stood under it.
        values (`Sequence`): JSON, one for each row.
    """
    column = flat.one_array(table["meta"])
    texts = flat.storage(column)
    old = texts.take(pa.array(rows)).to_pylist()
    new = [
        json.dumps({**json.loads(text or "{}"), key: value}, ensure_ascii=False)
        for text, value in zip(old, values, strict=True)
    ]
    mask = np.zeros(table.num_rows, dtype=bool)
    mask[rows] = True
    texts = pc.replace_with_mask(texts, pa.array(mask), pa.array(new, texts.type))
    if isinstance(column, pa.ExtensionArray):
        texts = pa.ExtensionArray.from_storage(column.type, texts)
    return table.set_column(table.column_names.index("meta"), table.schema.field("meta"), texts)
