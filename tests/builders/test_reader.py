"""The reader's promise: every row of a file comes out once, or is rejected with its reason and place."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reader_files import ALPACA, GOOD, SHAREGPT, line, read_all, write

from instruct_builders import reader
from instruct_builders.errors import ConfigError, SourceError
from instruct_builders.records import REASONS

BAD_LINES = {
    "bad_utf8": (b'{"instruction": "a\xff", "output": "b"}', None),
    "bad_json, no JSON": (b"hello", None),
    "bad_json, cut": (b'{"instruction": "a", "outp', None),
    "bad_json, trailing text": (b'{"instruction": "a", "output": "b"} x', None),
    "bad_json, two rows": (b'{"instruction": "a", "output": "b"}{"instruction": "a", "output": "b"}', None),
    "bad_json, null behind a row": (
        b'{"instruction": "a", "output": "b"} null {"instruction": "", "output": ""}',
        None,
    ),
    "bad_json, trailing comma": (b'{"instruction": "a", "output": "b",}', None),
    "bad_json, doubled key": (b'{"instruction": "a", "output": "b", "output": "b"}', None),
    "bad_json, doubled other key": (b'{"instruction": "a", "output": "b", "x": 1, "x": 1}', None),
    "bad_json, NaN": (b'{"instruction": "a", "output": NaN}', None),
    "bad_json, Infinity": (b'{"instruction": "a", "output": "b", "x": -Infinity}', None),
    "bad_json, tab in text": (b'{"instruction": "a\tb", "output": "b"}', None),
    "bad_json, nested too deeply": (b'{"instruction": ' + b"[" * 100_000, None),
    "schema, a list": (b"[1, 2]", None),
    "schema, null": (b"null", None),
    "schema, a string": (b'"text"', None),
    "null_field, missing": (b'{"instruction": "a"}', "output"),
    "null_field, null": (b'{"instruction": null, "output": "b"}', "instruction"),
    "non_string, number": (b'{"instruction": "a", "output": 3}', "output"),
    "non_string, list": (b'{"instruction": ["a"], "output": "b"}', "instruction"),
    "non_string, object": (b'{"instruction": "a", "input": {}, "output": "b"}', "input"),
    "non_string, truth value": (b'{"instruction": "a", "output": true}', "output"),
    "lone_surrogate, first half": (b'{"instruction": "a", "output": "\\ud83d"}', "output"),
    "lone_surrogate, second half": (b'{"instruction": "\\uDE00", "output": "b"}', "instruction"),
    "lone_surrogate, other key": (b'{"instruction": "a", "output": "b", "x": ["\\ud83d"]}', "x[0]"),
    "nul, escaped": (b'{"instruction": "a", "output": "\\u0000"}', "output"),
    "nul, in a key": (b'{"instruction": "a", "output": "b", "\\u0000": 1}', None),
    "nul, raw": (b'{"instruction": "a\0", "output": "b"}', None),
    "too_long": (b'{"instruction": "' + b"a" * 300_000 + b'", "output": "b"}', None),
}


# In an array no mark says where these begin: they are found, but not as the one row between two others.
ONLY_AS_LINES = {
    "bad_json, no JSON",
    "bad_json, two rows",
    "bad_json, null behind a row",
    "schema, a list",
    "schema, null",
    "schema, a string",
}


@pytest.mark.parametrize(
    "case, suffix",
    [(case, ".jsonl") for case in BAD_LINES] + [(case, ".json") for case in BAD_LINES if case not in ONLY_AS_LINES],
)
def test_a_bad_row_is_rejected_with_its_place_and_takes_no_other_with_it(tmp_path, case, suffix):
    raw, field = BAD_LINES[case]
    good = line(GOOD)
    begin, separator, end = (b"", b"\n", b"\n") if suffix == ".jsonl" else (b"[\n", b",\n", b"\n]\n")
    rows = [good] * 40 + [raw] + [good] * 40
    path = write(tmp_path, begin + separator.join(rows) + end, "rows" + suffix)
    rows, places, rejected = read_all(path, max_row_bytes=200_000)
    (why,) = rejected
    assert (why.reason, why.field) == (case.split(",")[0], field)
    offset = len(begin) + 40 * len(good + separator)
    assert (why.row, why.line, why.offset) == (40, 41 + begin.count(b"\n"), offset)
    assert why.raw == raw[:4096] and why.raw_bytes == len(raw) and why.detail and why.reason in REASONS
    assert rows == [{**GOOD, "extra": None}] * 80
    assert [row for row, _, _ in places] == [*range(40), *range(41, 81)]
    assert places[40] == (41, 42 + begin.count(b"\n"), offset + len(raw + separator))


def test_values_of_an_array_that_are_no_rows(tmp_path):
    good = line(GOOD)
    data = b"[" + b",\n".join([good, b"[1]", b"null", b'"a"', good, b"12", b"hello", good + b" " + good]) + b"]"
    rows, places, rejected = read_all(write(tmp_path, data, "a.json"))
    assert rows == [{**GOOD, "extra": None}] * 4 and [row for row, _, _ in places] == [0, 4, 7, 8]
    assert [(why.row, why.reason, why.raw) for why in rejected] == [
        (1, "schema", b"[1]"),
        (2, "schema", b"null"),
        (3, "schema", b'"a"'),
        (5, "schema", b"12"),
        (6, "bad_json", b"hello"),
    ]


def test_what_a_rejection_looks_like_on_disk(tmp_path):
    text = "é" * 3000  # the limit of 4,096 bytes falls inside a character
    bad = [b"\xff", line({"instruction": 3, "x": text}), line({"instruction": None})]
    _, _, rejected = read_all(write(tmp_path, b"\n".join(bad)))
    utf8, long, short = [json.loads(json.dumps(why.as_dict())) for why in rejected]
    assert (utf8["raw"], utf8["raw_base64"], utf8["raw_bytes"]) == (None, "/w==", 1)
    assert long["raw"] == bad[1].decode()[: len(long["raw"])] and len(long["raw"].encode()) in (4095, 4096)
    assert long["raw_bytes"] == len(bad[1]) and long["raw_base64"] is None
    assert short == {
        "file": "rows.jsonl",
        "row": 2,
        "line": 3,
        "offset": len(bad[0]) + len(bad[1]) + 2,
        "split": None,
        "stage": "read",
        "reason": "null_field",
        "field": "instruction",
        "detail": "null, where a value is required",
        "id": None,
        "raw": '{"instruction": null}',
        "raw_base64": None,
        "raw_bytes": 21,
    }


@pytest.mark.parametrize("fast", [True, False])
def test_faults_in_nested_fields_name_the_place(tmp_path, fast):
    turns = '{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, %s]}'
    cases = {
        '{"from": "gpt", "value": "c", "weight": 1}': ("schema", "conversations[2].weight"),
        '{"from": "gpt"}': ("null_field", "conversations[2].value"),
        '{"from": "gpt", "value": null}': ("null_field", "conversations[2].value"),
        '{"from": "gpt", "value": 4}': ("non_string", "conversations[2].value"),
        '{"from": "gpt", "value": "\\ud83d"}': ("lone_surrogate", "conversations[2].value"),
        '{"from": "gpt", "value": "c", "tool_calls": [{"a": "\\u0000"}]}': ("nul", "conversations[2].tool_calls[0].a"),
        "null": ("null_field", "conversations[2]"),
        '"text"': ("schema", "conversations[2]"),
    }
    data = [turns % case for case in cases] + ['{"conversations": {"from": "a"}}', '{"conversations": [], "n": 1.5}']
    data += ['{"conversations": [], "n": 9223372036854775808}', '{"conversations": [], "score": 1e999}']
    data += ['{"conversations": [], "ok": 1}', '{"conversations": []}']
    rows, _, rejected = read_all(write(tmp_path, "\n".join(data).encode()), SHAREGPT, fast=fast)
    found = [(why.reason, why.field) for why in rejected]
    tail = [("schema", name) for name in ("conversations", "n", "n", "score", "ok")]
    assert found == [*cases.values(), *tail]
    assert [row["conversations"] for row in rows] == [[]]


def test_json_columns_and_other_keys_keep_what_was_written(tmp_path):
    data = b"""{"conversations": [{"from": "a", "value": "b", "tool_calls": [ {"x": 1.10, "y": "\\u00e9"} ]}], "n": -0}
{"k": {"b": [1E5, null], "a": 1}, "a": 100000000000000000000000, "tools": "text", "conversations": [], "ok": true}
"""
    rows, _, rejected = read_all(write(tmp_path, data), SHAREGPT)
    assert not rejected
    table = pa.concat_tables(chunk.table for chunk in reader.read(tmp_path / "rows.jsonl", SHAREGPT))
    calls = table["conversations"].combine_chunks().values.field("tool_calls")
    assert calls.storage.to_pylist() == ['[{"x":1.10,"y":"é"}]']
    assert table["tools"].combine_chunks().storage.to_pylist() == [None, '"text"']
    assert table["extra"].to_pylist() == [None, '{"a":100000000000000000000000,"k":{"b":[1E5,null],"a":1}}']
    assert [row["n"] for row in rows] == [0, None] and [row["ok"] for row in rows] == [None, True]


def test_keys_outside_the_schema_can_be_refused(tmp_path):
    path = write(tmp_path, line(GOOD) + b"\n" + line({**GOOD, "lang": "en"}))
    rows, _, rejected = read_all(path)
    assert [row["extra"] for row in rows] == [None, '{"lang":"en"}'] and not rejected
    rows, _, (why,) = read_all(path, extra="reject")
    assert len(rows) == 1 and (why.reason, why.field, why.row) == ("schema", "lang", 1)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_byte_order_mark_crlf_and_blank_lines(tmp_path, name):
    path = write(tmp_path, b"\xef\xbb\xbf" + line(GOOD) + b"\r\n\r\n  \t\r\n" + line(GOOD) + b"\r\n", name)
    rows, places, rejected = read_all(path)
    size = len(line(GOOD))
    assert rows == [{**GOOD, "extra": None}] * 2 and not rejected
    assert places == [(0, 1, 3), (1, 4, 3 + size + 2 + 2 + 5)]


@pytest.mark.parametrize("suffix, pack", [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)])
def test_compressed_files_are_told_by_their_bytes(tmp_path, suffix, pack):
    data = b"\n".join([line({**GOOD, "output": str(n)}) for n in range(5000)])
    packed = write(tmp_path, pack(data), f"rows.jsonl{suffix}")
    assert read_all(packed) == read_all(write(tmp_path, data))
    assert read_all(write(tmp_path, pack(data), "cached.jsonl"))[0] == read_all(packed)[0]
    half = write(tmp_path, pack(data)[: len(pack(data)) // 2], f"half.jsonl{suffix}")
    with pytest.raises(SourceError, match="can't be read to its end"):
        list(reader.read(half, ALPACA, chunk_bytes=1000))


def test_zstd_is_read_and_damage_in_it_is_an_error(tmp_path):
    data = b"\n".join([line({**GOOD, "output": str(n)}) for n in range(5000)])
    packed = pa.Codec("zstd").compress(data, asbytes=True)
    assert read_all(write(tmp_path, packed, "rows.jsonl.zst")) == read_all(write(tmp_path, data))
    with pytest.raises(SourceError, match="can't be read to its end"):
        list(reader.read(write(tmp_path, packed[: len(packed) // 2], "half.jsonl.zst"), ALPACA))


@pytest.mark.parametrize(
    "data, name, message",
    [
        (b"", "a.jsonl", "is empty"),
        (b"\xef\xbb\xbf", "a.jsonl", "is empty"),
        (b"\n \n", "a.json", "is empty: white space only"),
        (b"", "a.csv", "is empty"),
        ('{"instruction": "é"}'.encode("utf-16"), "a.jsonl", "is UTF-16, allowed: UTF-8"),
        ('{"instruction": "é"}'.encode("utf-16-le"), "a.json", "is UTF-16LE"),
        ('{"instruction": "é"}'.encode("utf-16-be"), "a.jsonl", "is UTF-16BE"),
        ('{"instruction": "é"}'.encode("utf-32"), "a.jsonl", "is UTF-32"),
        (b"x", "a.txt", "allowed: .jsonl"),
        (b'{"data": [{"instruction": "a"}]}', "a.json", "under the key 'data'.*field='data'"),
        (b'{\n "version": 1,\n "data": [\n  {"instruction": "a"}]}', "a.json", "under the key 'data'"),
        (b'[\n{"instruction": "a"}]', "a.jsonl", "is one JSON array.*rename it to end in .json"),
        (b'[{"instruction": "a"}]', "a.jsonl", "is one JSON array"),
        (b"PAR1", "a.parquet", "no Parquet file"),
        (b"a,b\n1,2\n", "a.csv", "no column 'instruction', it has a, b"),
        (b"instruction,output,output\n1,2,3\n", "a.csv", "'output' twice"),
    ],
)
def test_a_file_that_can_not_be_read_says_why(tmp_path, data, name, message):
    with pytest.raises(SourceError, match=message):
        list(reader.read(write(tmp_path, data, name), ALPACA))


def test_a_missing_file_and_wrong_arguments_say_what_is_allowed(tmp_path):
    with pytest.raises(SourceError, match="can't be opened"):
        list(reader.read(tmp_path / "no.jsonl", ALPACA))
    path = write(tmp_path, b"[]", "a.json")
    for options in ({"extra": "drop"}, {"start": 3}, {"header": ["a"]}, {"chunk_bytes": 0}):
        with pytest.raises(ConfigError, match=r"allowed|positive|is for|are for"):
            list(reader.read(path, ALPACA, **options))
    with pytest.raises(ConfigError, match="'when' has the type date32"):
        list(reader.read(path, pa.schema({"when": pa.date32()})))


def test_an_empty_array_has_no_rows_and_a_cut_one_says_so(tmp_path):
    assert read_all(write(tmp_path, b" [ ]\n", "a.json")) == ([], [], [])
    one = line(GOOD)
    # cut in the second row; behind the first; behind the comma; at the very beginning
    for tail, lost in [(b",\n" + one[:20], one[:20]), (b"", b""), (b",\n", b""), (None, b"")]:
        data = b"[" if tail is None else b"[" + one + tail
        rows, _, (why,) = read_all(write(tmp_path, data, "a.json"))
        assert len(rows) == (tail is not None) and (why.reason, why.raw, why.row) == ("bad_json", lost, len(rows))


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_a_row_of_50_mb_is_skipped_and_its_neighbours_stay(tmp_path, suffix):
    huge = b'{"instruction": "' + b"a" * 50_000_000 + b'", "output": "b"}'
    begin, separator, end = (b"", b"\n", b"\n") if suffix == ".jsonl" else (b"[", b", ", b"]")
    first, second = line(GOOD), line({**GOOD, "output": "4"})
    path = write(tmp_path, begin + separator.join([first, huge, second]) + end, "rows" + suffix)
    rows, places, (why,) = read_all(path)
    assert [row["output"] for row in rows] == ["3", "4"]
    assert (why.reason, why.row, why.offset, why.raw) == ("too_long", 1, len(begin + first + separator), huge[:4096])
    assert abs(why.raw_bytes - len(huge)) <= len(separator)
    assert places[1] == (2, places[1][1], len(begin + first + separator + huge + separator))


def test_memory_does_not_grow_with_a_row_that_is_too_long(tmp_path):
    path = write(tmp_path, line(GOOD) + b"\n" + b"a" * 30_000_000 + b"\n" + line(GOOD))
    held = []

    class Watched:
        def __init__(self, path):
            self.file = open(path, "rb")

        def read(self, size):
            held.append(size)
            return self.file.read(size)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

    rows, _, rejected = read_all(path, open=Watched, chunk_bytes=1 << 16, max_row_bytes=1 << 18)
    assert len(rows) == 2 and [why.reason for why in rejected] == ["too_long"]
    assert max(held) <= 1 << 20  # never asks for the whole row


def test_the_list_of_rows_can_be_a_member_of_an_object(tmp_path):
    data = json.dumps({"version": 2, "data": [GOOD, GOOD], "dev": [GOOD]}, indent=1).encode()
    path = write(tmp_path, data, "a.json")
    assert len(read_all(path, field="data")[0]) == 2 and len(read_all(path, field="dev")[0]) == 1
    with pytest.raises(SourceError, match="no key 'train' found; the keys are 'version', 'data', 'dev'"):
        read_all(path, field="train")
    with pytest.raises(SourceError, match="'version' is not a list"):
        read_all(path, field="version")


def test_json_files_that_are_no_array(tmp_path):
    pretty = json.dumps(GOOD, indent=2).encode()
    for data, count in [
        (line(GOOD), 1),
        (line(GOOD) + b"\n" + line(GOOD), 2),
        (pretty, 1),
        (pretty + b"\n" + pretty, 2),
    ]:
        rows, _, rejected = read_all(write(tmp_path, data, "a.json"))
        assert rows == [{**GOOD, "extra": None}] * count and not rejected
    rows, _, rejected = read_all(write(tmp_path, line(GOOD)[:9] + b"\n" + line(GOOD), "a.json"))
    assert len(rows) == len(rejected) == 1
    # One row that itself holds a list of objects is no wrapper.
    one = line({"id": "1", "conversations": [{"from": "human", "value": "a"}]})
    assert len(read_all(write(tmp_path, one, "a.json"), SHAREGPT)[0]) == 1
    assert reader.peek(tmp_path / "a.json")["id"] == "1"


def test_peek_skips_bad_rows(tmp_path):
    row = reader.peek(write(tmp_path, b"\xff\n[]\n" + line({"b": [1.5], "a": 1})))
    assert list(row.items()) == [("b", [1.5]), ("a", 1)]  # in the order of the file
    assert reader.peek(write(tmp_path, b"[]", "a.json")) is None
    assert reader.peek(write(tmp_path, b"x,y\n1,\n", "a.csv")) == {"x": "1", "y": ""}
    pq.write_table(pa.table({"x": [1], "y": [["a"]]}), tmp_path / "a.parquet")
    assert reader.peek(tmp_path / "a.parquet") == {"x": 1, "y": ["a"]}
    with pytest.raises(SourceError, match=r"none of its 2 rows can be read.*line 1 at byte 0: bad_json"):
        reader.peek(write(tmp_path, b"x\ny\n"))


def test_a_url_is_opened_through_fsspec(tmp_path):
    import fsspec

    with fsspec.open("memory://folder/rows.jsonl.gz", "wb") as file:
        file.write(gzip.compress(line(GOOD) + b"\nx\n"))
    (chunk,) = reader.read("memory://folder/rows.jsonl.gz", ALPACA)
    assert len(chunk.table) == 1 and chunk.rejected[0].file == "memory://folder/rows.jsonl.gz"
    assert reader.ranges("memory://folder/rows.jsonl.gz", 4) == [(0, None)]
