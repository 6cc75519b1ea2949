"""Damage anywhere in one row leaves every other row as it is."""

from __future__ import annotations

import gzip
import json
from itertools import chain

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reader_files import ALPACA, GOOD, SHAREGPT, compact, ids, line, read_all, write

from instruct_builders import json_rows, reader

PIECES = [
    "a",
    "é",
    "中",
    "\U0001f600",
    '"',
    "\\",
    "\n",
    "},{",
    "],[",
    '{"id":',
    "null",
    "} null",
    "\x7f",
    "\x01",
    "x y z",
]
TEXT = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
ALPACA_ROW = st.fixed_dictionaries(
    {"instruction": TEXT, "output": TEXT}, optional={"input": st.none() | TEXT, "k": TEXT}
)
SHAREGPT_ROW = st.fixed_dictionaries(
    {"conversations": st.lists(st.fixed_dictionaries({"from": TEXT, "value": TEXT}), max_size=3)},
    optional={
        "tools": st.none() | st.lists(st.integers()),
        "score": st.integers(-9, 9) | st.floats(-9, 9),
        "n": st.none(),
    },
)
LAYOUTS = {
    "lines": (".jsonl", {}, "", "\n", "\n"),
    "lines, CRLF": (".jsonl", {}, "", "\r\n", ""),
    "array, a row per line": (".json", {}, "[\n", ",\n", "\n]\n"),
    "array, indented": (".json", {"indent": 4}, "[\n    ", ",\n    ", "\n]"),
    "array, not indented": (".json", {"indent": 0}, "[\n", ",\n", "\n]"),
    "array, rows begin behind rows": (".json", {"indent": 2}, "[", ", ", "]\n"),
    "array on one line": (".json", {}, "[", ", ", "]"),
    "array without spaces": (".json", {"separators": (",", ":")}, "[", ",", "]"),
}
JUNK = [
    b"",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"\\",
    b"\n",
    b"\0",
    b"\xff",
    b"null",
    b'{"a":[',
    b"} null {",
    b"}{",
    b"NaN",
]
PROPERTY = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def files(draw, damaged: int):
    """Bytes of a file, its ending, its schema, and the rows with the positions of the `damaged` ones."""
    row, schema = draw(st.sampled_from([(ALPACA_ROW, ALPACA), (SHAREGPT_ROW, SHAREGPT)]))
    rows = draw(st.lists(row, min_size=3, max_size=8))
    rows = [{"id": f"row {n}", **values} for n, values in enumerate(rows)]
    suffix, style, begin, separator, end = LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))]
    ascii_only = draw(st.booleans())
    texts = [json.dumps(values, ensure_ascii=ascii_only, **style) for values in rows]
    if "\n" in begin and "indent" in style:
        texts = [text.replace("\n", "\n" + begin[2:]) for text in texts]
    parts = [text.encode() for text in texts]
    places = draw(st.lists(st.integers(0, len(rows) - 1), min_size=min(damaged, 1), max_size=damaged, unique=True))
    for place in places:
        at = draw(st.integers(0, len(parts[place])))
        cut = draw(st.sampled_from([0, 0, 1, 2, 5, 30]))
        parts[place] = parts[place][:at] + draw(st.sampled_from(JUNK)) + parts[place][at + cut :]
    data = begin.encode() + separator.encode().join(parts) + end.encode()
    return data, "rows" + suffix, schema, rows, places


@PROPERTY
@given(files(damaged=0))
def test_a_sound_file_comes_back_whole(tmp_path, file):
    data, name, schema, rows, _ = file
    found, _, rejected = read_all(write(tmp_path, data, name), schema)
    assert not rejected and ids(found) == ids(rows)
    for row, given_row in zip(found, rows, strict=True):
        wanted = {key: given_row.get(key) for key in schema.names}
        wanted["extra"] = compact({key: value for key, value in given_row.items() if key not in wanted})
        if "tools" in wanted:  # a JSON column: its text
            wanted["tools"] = compact(wanted["tools"])
            wanted["conversations"] = [{**turn, "tool_calls": None} for turn in wanted["conversations"]]
        assert row == wanted


@PROPERTY
@given(files(damaged=1))
def test_damage_in_one_row_leaves_the_others_as_they_are(tmp_path, file):
    data, name, schema, rows, (place,) = file
    found, _, _ = read_all(write(tmp_path, data, name), schema)
    others = [key for key in ids(found) if key != f"row {place}"]
    assert [key for key in others if key in ids(rows)] == ids(rows[:place] + rows[place + 1 :])


@PROPERTY
@given(files(damaged=3), st.sampled_from([1, 7, 64, 500]), st.sampled_from([1, 2, 32]))
def test_the_fast_path_and_the_size_of_chunks_change_nothing(tmp_path, monkeypatch, file, chunk_bytes, few):
    data, name, schema, _, _ = file
    path = write(tmp_path, data, name)
    monkeypatch.setattr(json_rows, "_FEW", few)
    expected = read_all(path, schema, fast=False)
    assert read_all(path, schema) == expected
    assert read_all(path, schema, chunk_bytes=chunk_bytes) == expected
    limit = max(len(data) // 4, 1)  # some rows become too long: then only their neighbours are compared
    assert read_all(path, schema, max_row_bytes=limit) == read_all(path, schema, max_row_bytes=limit, fast=False)


@PROPERTY
@given(
    st.lists(
        st.sampled_from([line(GOOD), b"", b" \r", b"x", line({**GOOD, "output": "é" * 20})]), min_size=1, max_size=30
    ),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.data(),
)
def test_the_parts_of_a_file_add_up_to_it(tmp_path, lines, mark, data):
    content = mark + b"\n".join(lines)
    path = write(tmp_path, content + line(GOOD))
    whole = read_all(path)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=4)))
    for parts in (list(zip([0, *cuts], [*cuts, None], strict=True)), reader.ranges(path, 3)):
        read = [read_all(path, start=start, stop=stop) for start, stop in parts]
        assert tuple(list(chain(*piece)) for piece in zip(*read, strict=True)) == whole


def test_ranges_divide_a_file_at_line_breaks(tmp_path):
    data = b"\n".join(line({**GOOD, "output": str(n)}) for n in range(1000))
    path = write(tmp_path, data)
    parts = reader.ranges(path, 4)
    assert len(parts) == 4 and parts[0][0] == 0 and parts[-1][1] is None
    assert all(data[start - 1 : start] == b"\n" for start, _ in parts[1:])
    assert reader.ranges(write(tmp_path, data, "a.json"), 4) == [(0, None)]
    assert reader.ranges(write(tmp_path, gzip.compress(data), "b.jsonl"), 4) == [(0, None)]
    assert len(reader.ranges(write(tmp_path, b"{}\n{}", "c.jsonl"), 9)) == 2
