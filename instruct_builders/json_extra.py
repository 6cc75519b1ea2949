"""Keys outside the schema whose values are texts, kept as JSON without touching single rows."""

from __future__ import annotations

import json
from json.encoder import encode_basestring

import pyarrow as pa
import pyarrow.compute as pc

_MOST_ROWS = 200  # rows that are looked at in one file
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\f": "\\f", "\b": "\\b"}
_OTHER_CONTROL = "[\x01-\x07\x0b\x0e-\x1f]"  # these are left to `json_fit.canonical`


class TextKeys:
    """Learns from single rows which other keys there are, so that Arrow can parse them as columns.

    Only a key that is a text in every row of a chunk can be a column: a missing key and a null would look the same.
    """

    def __init__(self):
        self.names: list[str] = []
        self.refused: set[str] = set()
        self.rows_seen = 0

    def learn(self, extra: str) -> None:
        """Takes the `extra` of one row."""
        if self.rows_seen >= _MOST_ROWS:
            return
        self.rows_seen += 1
        row = json.loads(extra)
        self.refused |= {name for name, value in row.items() if type(value) is not str}
        self.names = sorted({*self.names, *row} - self.refused)

    def fields(self) -> list[pa.Field]:
        return [pa.field(name, pa.string()) for name in self.names]

    def refuse_absent(self, table: pa.Table) -> bool:
        """Gives up the keys that are null somewhere in `table`. Returns whether there are any."""
        absent = {name for name in self.names if table[name].null_count}
        self.refused |= absent
        self.names = [name for name in self.names if name not in absent]
        return bool(absent)

    def join(self, table: pa.Table) -> pa.ChunkedArray | None:
        """The column `extra` of `table`, or `None` where a text needs an escape that is not at hand here."""
        pieces: list = []
        for name in self.names:
            text = table[name]
            if pc.any(pc.match_substring_regex(text, _OTHER_CONTROL)).as_py():
                return None
            for character, escape in _ESCAPES.items():
                text = pc.replace_substring(text, character, escape)
            pieces += [("," if pieces else "{") + encode_basestring(name) + ':"', text, '"']
        return pc.binary_join_element_wise(*pieces, "}", "")
