"""The conversations of an Arrow table, message by message, grouped by shape: what tables.py labels."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SPEAKERS = ("system", "user", "assistant")
VARIABLES = "chat_template_kwargs"


class Columns:
    """The conversations of a table, message by message; sizes of texts are bytes or characters."""

    def __init__(self, table: pa.Table, column: str, words: re.Pattern, in_bytes: bool):
        lists = pa.concat_arrays(table[column].chunks)
        counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
        self.begin = np.concatenate([[0], np.cumsum(counts)])
        flat = lists.flatten()
        role, content = pc.struct_field(flat, "role"), pc.struct_field(flat, "content")
        speakers = pc.fill_null(pc.index_in(role, pa.array(SPEAKERS)), -1).to_numpy()
        self.texts = pc.fill_null(content, "").to_pylist()
        self.in_bytes, length = in_bytes, pc.binary_length if in_bytes else pc.utf8_length
        self.sizes = pc.fill_null(length(content), 0).to_numpy().astype(np.int64)
        self.codes = (np.maximum(speakers, 0) * 2 + (self.sizes == 0)).astype(np.uint8).tobytes()
        odd = (speakers < 0) | pc.is_null(content).to_numpy(zero_copy_only=False)
        odd |= np.fromiter(map(str.isspace, self.texts), bool, len(self.texts))
        odd |= pc.fill_null(pc.match_substring_regex(content, words.pattern), False).to_numpy(zero_copy_only=False)
        for field in flat.type:
            if field.name not in ("role", "content"):
                odd |= pc.is_valid(pc.struct_field(flat, field.name)).to_numpy(zero_copy_only=False)
        total = np.concatenate([[0], np.cumsum(odd)])
        self.odd = (total[self.begin[1:]] > total[self.begin[:-1]]) | (counts == 0)
        if "tools" in table.column_names:
            self.odd |= pc.is_valid(table["tools"]).to_numpy()
        self.variables = [{}] * len(counts)
        if VARIABLES in table.column_names:
            given = table[VARIABLES].to_pylist()
            self.variables = [{k: v for k, v in (row or {}).items() if v is not None} for row in given]
            for place, row in enumerate(self.variables):
                said = [value for value in row.values() if isinstance(value, str)]
                self.odd[place] |= any(text.isspace() or words.search(text) is not None for text in said)

    def groups(self) -> dict[tuple, list[int]]:
        """Rows by shape, without those that are odd."""
        found: dict[tuple, list[int]] = {}
        begin = self.begin.tolist()
        for row in np.flatnonzero(~self.odd).tolist():
            variables = self.variables[row]
            said = tuple(
                (name, not value if isinstance(value, str) else repr(value)) for name, value in variables.items()
            )
            found.setdefault((self.codes[begin[row] : begin[row + 1]], said), []).append(row)
        return found

    def said(self, rows: np.ndarray, order: tuple[int, ...], count: int) -> list[tuple[list[str], np.ndarray]]:
        """The texts at each place of a layout, and their sizes: of messages, behind them of variables by name."""
        names = sorted(name for name, value in self.variables[rows[0]].items() if isinstance(value, str))
        columns = []
        for place in order:
            if place < count:
                at = self.begin[rows] + place
                columns.append(([self.texts[number] for number in at.tolist()], self.sizes[at]))
            else:
                texts = [self.variables[row][names[place - count]] for row in rows]
                sizes = (size(text, self.in_bytes) for text in texts)
                columns.append((texts, np.fromiter(sizes, np.int64, len(rows))))
        return columns

    def messages(self, row: int) -> list[dict]:
        """One conversation, as the template is given it."""
        start, end = self.begin[row], self.begin[row + 1]
        return [
            {"role": SPEAKERS[code // 2], "content": text}
            for code, text in zip(self.codes[start:end], self.texts[start:end], strict=True)
        ]


def size(text: str, in_bytes: bool) -> int:
    return len(text.encode()) if in_bytes else len(text)


def takes(table: pa.Table, column: str) -> bool:
    """Whether the columns are of types that this way is for."""
    kind = table.schema.field(column).type
    if not pa.types.is_list(kind) or not pa.types.is_struct(kind.value_type):
        return False
    fields = {field.name: field.type for field in kind.value_type}
    simple = all(pa.types.is_string(fields.get(name, pa.null())) for name in ("role", "content"))
    if VARIABLES in table.column_names:
        given = table.schema.field(VARIABLES).type
        plain = (pa.types.is_string, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_null)
        simple &= pa.types.is_struct(given) and all(any(is_one(part.type) for is_one in plain) for part in given)
    return simple
