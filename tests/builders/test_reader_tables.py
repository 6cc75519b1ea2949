"""CSV, TSV and Parquet: the reader's promise for files that are tables already."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reader_files import GOOD, SHAREGPT, read_all, required, write

from instruct_builders import reader
from instruct_builders.errors import SourceError


def test_csv_quotes_line_breaks_and_bad_rows(tmp_path):
    data = (
        b'\xef\xbb\xbfinstruction,output,lang\r\n"a ""q"",\r\nb",,en\r\n\r\nonly one\r\nc,d,e,f\r\n'
        b'g\xff,h,i\r\nj\0,k,l\r\n"unclosed,m,n\r\no,p,q\r\n"stray"x,r,s\r\n t ,u,v'
    )
    for chunk_bytes in (8, 30, 1 << 20):
        rows, places, rejected = read_all(write(tmp_path, data, "a.csv"), chunk_bytes=chunk_bytes)
        assert [(row["instruction"], row["input"], row["output"], row["extra"]) for row in rows] == [
            ('a "q",\r\nb', None, "", '{"lang":"en"}'),
            ("o", None, "p", '{"lang":"q"}'),
            (" t ", None, "u", '{"lang":"v"}'),
        ]
        assert [(why.reason, why.row, why.line) for why in rejected] == [
            ("schema", 1, 5),
            ("schema", 2, 6),
            ("bad_utf8", 3, 7),
            ("nul", 4, 8),
            ("schema", 5, 9),
            ("schema", 7, 11),
        ]
        assert all(data[why.offset :].startswith(why.raw) for why in rejected)
        assert places[1] == (6, 10, data.index(b"o,p,q"))


def test_tsv_and_a_file_without_header(tmp_path):
    path = write(tmp_path, b"a\tb\nc\td\n", "a.tsv")
    rows, _, _ = read_all(path, header=["instruction", "output"])
    assert [row["output"] for row in rows] == ["b", "d"]
    path.write_bytes(b'instruction\toutput\n"Marco" said\t"b"\n')
    assert read_all(path, quotes=False)[0][0]["instruction"] == '"Marco" said'
    assert "quotes=False" in read_all(path)[2][0].detail
    path.write_bytes(b"a\tb\n")
    with pytest.raises(SourceError, match=r"give the names with header=\[\.\.\.\]"):
        read_all(path)
    with pytest.raises(SourceError, match="'lang' is not one of"):
        read_all(path, header=["instruction", "output", "lang"], extra="reject")
    with pytest.raises(SourceError, match="'conversations' is text"):
        read_all(write(tmp_path, b"conversations\n[]\n", "b.csv"), SHAREGPT)


def test_csv_cells_and_rows_that_are_too_long(tmp_path):
    data = b"instruction,output\na,b\nc," + b"d" * 300_000 + b"\ne,f\n"  # beyond the csv module's own limit
    assert [len(row["output"]) for row in read_all(write(tmp_path, data, "a.csv"))[0]] == [1, 300_000, 1]
    rows, _, (why,) = read_all(write(tmp_path, data, "a.csv"), max_row_bytes=1000, chunk_bytes=500)
    assert len(rows) == 2 and (why.reason, why.row, why.line) == ("too_long", 1, 3)


# Parquet


def write_parquet(folder: Path, rows: list[dict], schema: pa.Schema | None = None) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "a.parquet", row_group_size=3)
    return folder / "a.parquet"


def test_parquet_rows_with_nulls_and_nul_are_rejected(tmp_path):
    rows = [{**GOOD, "n": number, "s": {"a": 1.5}} for number in range(7)]
    rows[2]["output"], rows[4]["instruction"], rows[6]["n"], rows[6]["s"] = None, "a\0", None, None
    found, places, rejected = read_all(write_parquet(tmp_path, rows), chunk_bytes=64)
    assert [row["extra"] for row in found] == [*(f'{{"n":{n},"s":{{"a":1.5}}}}' for n in (0, 1, 3, 5)), None]
    assert places == [(row, -1, -1) for row in (0, 1, 3, 5, 6)]
    assert [(why.reason, why.field, why.row, why.line, why.offset) for why in rejected] == [
        ("null_field", "output", 2, None, None),
        ("nul", "instruction", 4, None, None),
    ]
    assert json.loads(rejected[0].as_dict()["raw"])["n"] == 2


def test_parquet_columns_are_cast_and_other_types_refused(tmp_path):
    kinds = pa.schema(
        {"instruction": pa.large_string(), "input": pa.dictionary(pa.int32(), pa.string()), "output": pa.string()}
    )
    assert read_all(write_parquet(tmp_path, [GOOD], kinds))[0] == [{**GOOD, "extra": None}]
    with pytest.raises(SourceError, match="the column 'output' is int64, and string is needed"):
        read_all(write_parquet(tmp_path, [{**GOOD, "output": 3}]))
    with pytest.raises(SourceError, match="no column 'output', it has instruction"):
        read_all(write_parquet(tmp_path, [{"instruction": "a"}]))
    with pytest.raises(SourceError, match="'n' is not one of"):
        read_all(write_parquet(tmp_path, [{**GOOD, "n": 3}]), extra="reject")


def test_parquet_lists_of_structs_are_cast_field_by_field(tmp_path):
    turn = {"value": "b", "from": "a", "tool_calls": [{"f": 1}], "weight": None}
    rows = [
        {"conversations": [turn, turn], "score": 1, "tools": '[ {"a": 1.10} ]'},
        {"conversations": []},
        {"conversations": [turn, {**turn, "weight": 2}]},
        {"conversations": [turn, {**turn, "value": None}]},
        {"conversations": [None]},
        {"conversations": None},
        {"conversations": [turn], "tools": "no JSON"},
        {"conversations": [{**turn, "from": "\0"}]},
    ]
    found, _, rejected = read_all(write_parquet(tmp_path, rows), SHAREGPT)
    assert [len(row["conversations"]) for row in found] == [2, 0] and found[0]["score"] == 1.0
    table = next(iter(reader.read(tmp_path / "a.parquet", SHAREGPT))).table
    assert table["conversations"].combine_chunks().values.field("tool_calls").storage[0].as_py() == '[{"f":1}]'
    assert table["tools"].combine_chunks().storage[0].as_py() == '[{"a":1.10}]'
    assert [(why.row, why.reason, why.field) for why in rejected] == [
        (2, "schema", "conversations[1].weight"),
        (3, "null_field", "conversations[1].value"),
        (4, "null_field", "conversations[0]"),
        (5, "null_field", "conversations"),
        (6, "bad_json", "tools"),
        (7, "nul", "conversations[0].from"),
    ]


def test_parquet_text_that_is_not_utf8(tmp_path):
    texts = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"a\xff"))
    pq.write_table(pa.table({"instruction": texts, "output": ["b", "c"]}), tmp_path / "a.parquet")
    rows, _, (why,) = read_all(tmp_path / "a.parquet")
    assert len(rows) == 1 and (why.reason, why.field, why.row, why.raw) == ("bad_utf8", "instruction", 1, None)


@pytest.mark.shared_data
def test_real_files_are_read_whole(shared_data):
    rows, _, rejected = read_all(shared_data / "alpaca" / "alpaca_zh_demo.json")
    assert rows and not rejected
    assert [row["output"] for row in rows] == [
        row["output"] for row in json.loads((shared_data / "alpaca" / "alpaca_zh_demo.json").read_bytes())
    ]
    turns = pa.schema(
        [required("conversations", SHAREGPT.field("conversations").type), pa.field("tools", pa.string())]
    )
    rows, _, rejected = read_all(shared_data / "sharegpt" / "glaive_toolcall_en_demo.json", turns)
    assert len(rows) == 300 and not rejected
    for path in sorted((shared_data / "flan" / "cot").glob("*.tsv")):
        rows, _, rejected = read_all(path, pa.schema([]), header=["question", "answer", "reasoning"], quotes=False)
        assert len(rows) == path.read_bytes().count(b"\n") and not rejected
