"""Text columns that `datasets` types as Json, since one row of the file holds something else."""

from __future__ import annotations

import json

import datasets
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_builders import formats, records
from instruct_builders.errors import ConfigError, RowError

TEXT = 'Making "crepes"\nis é 🙂 \\n easy'


def turns(*texts: str) -> list[dict]:
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def chat(*texts: str) -> list[dict]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


# format, a good row, where a bad value is put, the name of that field
PLACES = [
    ("alpaca", {"instruction": TEXT, "input": "i", "output": "o"}, ("instruction",), "instruction"),
    ("alpaca", {"instruction": "q", "input": TEXT, "output": "o"}, ("input",), "input"),
    ("alpaca", {"instruction": "q", "input": "i", "output": TEXT}, ("output",), "output"),
    ("alpaca", {"instruction": "q", "output": "o", "system": TEXT}, ("system",), "system"),
    ("alpaca", {"instruction": "q", "output": "o", "history": [["x", TEXT]]}, ("history", 0, 1), "history[0][1]"),
    ("sharegpt", {"conversations": turns("q", TEXT)}, ("conversations", 1, "value"), "conversations[1].value"),
    ("sharegpt", {"conversations": turns(TEXT, "a")}, ("conversations", 0, "from"), "conversations[0].from"),
    ("sharegpt", {"conversations": turns("q", "a"), "system": TEXT}, ("system",), "system"),
    ("messages", {"messages": chat("q", TEXT)}, ("messages", 1, "content"), "messages[1].content"),
    ("messages", {"messages": chat("q", TEXT)}, ("messages", 0, "role"), "messages[0].role"),
    ("messages", {"conversations": chat("q", TEXT)}, ("conversations", 1, "content"), "conversations[1].content"),
    ("messages", {"messages": chat("q\n\nc", TEXT), "context": "c"}, ("context",), "context"),
    ("prompt_completion", {"prompt": TEXT, "completion": "c"}, ("prompt",), "prompt"),
    ("prompt_completion", {"prompt": "p", "completion": TEXT}, ("completion",), "completion"),
    (
        "prompt_completion",
        {"prompt": chat("q"), "completion": [{"role": "assistant", "content": TEXT}]},
        ("completion", 0, "content"),
        "completion[0].content",
    ),
    ("text", {"text": TEXT}, ("text",), "text"),
]
BAD = [42, 1.5, True, ["x"], {"x": 1}]


def loaded(rows: list[dict], folder) -> datasets.Dataset:
    """As `datasets` reads a JSON file."""
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return datasets.load_dataset(
        "json", data_files=str(folder / "rows.json"), split="train", cache_dir=str(folder / "cache")
    )


def spoilt(row: dict, path: tuple, value) -> dict:
    row = json.loads(json.dumps(row))
    inner = row
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return row


def has_json(features: datasets.Features) -> bool:
    return "Json" in repr(features)


@pytest.mark.parametrize(("name", "row", "path", "field"), PLACES)
@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_a_value_that_is_no_text_is_named_and_the_texts_are_decoded(tmp_path, name, row, path, field, bad):
    dataset = loaded([row, row, spoilt(row, path, bad)], tmp_path)
    assert has_json(dataset.features)
    other = "prompt_completion" if name == "messages" else "messages"
    options = {"conversational": True} if name == "messages" else {}
    with pytest.raises(RowError, match="text belongs here") as caught:
        formats.convert(dataset, name, other, **options)
    assert (caught.value.reason, caught.value.row, caught.value.field) == ("non_string", 2, field)
    record = formats.to_record(dataset.data.table, name)
    marks = record["rejected"].to_pylist()
    assert marks[:2] == [None, None]
    assert (marks[2]["reason"], marks[2]["field"]) == ("non_string", field)
    # The rows beside it are what they would have been without it.
    clean = pa.Table.from_pylist([row, row])
    expected = formats.to_record(clean, name)
    assert record.slice(0, 2).select(["messages", "context"]).to_pylist() == (
        expected.select(["messages", "context"]).to_pylist()
    )
    good = dataset.select(range(2))
    same = formats.convert(good, name, name)
    assert same.to_list() == good.to_list() and not has_json(same.features)
    there = formats.convert(good, name, other, **options)
    assert there.to_list() == formats.convert(datasets.Dataset(clean), name, other, **options).to_list()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.none() | st.text(max_size=8), max_size=6), st.booleans(), st.booleans())
def test_strings_are_decoded_exactly(texts, ascii_only, cut):
    written = [None if text is None else json.dumps(text, ensure_ascii=ascii_only) for text in texts]
    column = pa.ExtensionArray.from_storage(records.JSON, pa.array(["1", *written], pa.string()))
    table = pa.table({"instruction": ["q"] * (len(texts) + 1), "input": column, "output": ["a"] * (len(texts) + 1)})
    table = pa.concat_tables([table.slice(1, 2), table.slice(3)]) if cut else table.slice(1)
    assert formats.to_record(table, "alpaca")["context"].to_pylist() == texts


def test_json_null_is_null_and_half_a_pair_is_no_text():
    storage = pa.array(["null", '"\\ud800"', '"\\ud83d\\ude42"'], pa.large_string()).cast(pa.string())
    table = pa.table({"text": pa.ExtensionArray.from_storage(records.JSON, storage)})
    record = formats.to_record(table, "text")
    assert [row[0]["content"] for row in record["messages"].to_pylist()] == [None, None, "🙂"]
    assert [mark and mark["reason"] for mark in record["rejected"].to_pylist()] == [None, "non_string", None]


def test_a_train_flag_that_is_no_boolean_is_named(tmp_path):
    rows = [[turn | {"train": flag} for turn in chat("q", "a")] for flag in (True, False, "no")]
    dataset = loaded([{"messages": row} for row in rows], tmp_path)
    record = formats.to_record(dataset.data.table, "messages")
    assert [row[1]["train"] for row in record["messages"].to_pylist()] == [True, False, None]
    assert record["rejected"][2].as_py()["field"] == "messages[0].train"
    with pytest.raises(RowError, match='is text, "no"; true or false belongs here'):
        formats.convert(dataset, "messages", "alpaca")


def test_streams_name_the_row_too(tmp_path):
    rows = [{"instruction": "q", "output": TEXT}] * 3 + [{"instruction": "q", "output": 7}]
    stream = loaded(rows, tmp_path).to_iterable_dataset()
    with pytest.raises(RowError) as caught:
        list(formats.convert(stream, "alpaca", "messages"))
    assert (caught.value.row, caught.value.field) == (3, "output")
    first = next(iter(formats.convert(stream.take(3), "alpaca", "messages")))
    assert first["messages"][1]["content"] == TEXT


@pytest.mark.parametrize(
    "rows",
    [
        [{"conversations": turns("q", "a")}, {"conversations": "text"}],
        [{"conversations": turns("q", "a")}, {"conversations": [*turns("q"), "text"]}],
        [
            {"instruction": "q", "output": "a", "history": [["x", "y"]]},
            {"instruction": "q", "output": "a", "history": 1},
        ],
    ],
)
def test_json_where_a_list_belongs_is_an_error(tmp_path, rows):
    name = "alpaca" if "output" in rows[0] else "sharegpt"
    with pytest.raises(ConfigError, match="belongs in every row"):
        formats.convert(loaded(rows, tmp_path), name, "messages")


def test_an_input_of_another_type_does_not_go_lost():
    with pytest.raises(ConfigError, match="'input' holds int64, not text"):
        formats.convert(pa.table({"instruction": ["q"], "input": [4], "output": ["a"]}), "alpaca", "messages")
    assert "input" in formats.native_schema("alpaca", {"instruction": "q", "input": 4, "output": "a"}).names


# The name of the column of turns.


@pytest.mark.parametrize("way", [["record"], ["messages"], ["sharegpt"], ["record", "sharegpt", "messages"]])
@pytest.mark.parametrize("name", ["messages", "sharegpt"])
@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_turns_come_back_under_their_own_name(name, column, way):
    said = chat("q", "a") if name == "messages" else turns("q", "a")
    table = pa.table({column: [said, said[:1]], "k": [1, 2]})
    for given_rows in (table, datasets.Dataset(table)):
        there, at = given_rows, name
        for step in way:
            there, at = formats.convert(there, at, step), step
        back = formats.convert(there, at, name, turns=column)
        assert back.column_names == table.column_names
        rows = back.to_pylist() if isinstance(back, pa.Table) else back.to_list()
        assert rows == table.to_pylist()
    record = formats.to_record(table, name)
    assert formats.from_record(record, name, turns=column).equals(table)


def test_a_name_of_turns_that_can_not_be_had():
    table = pa.table({"messages": [chat("q", "a")], "conversations": [1]})
    with pytest.raises(ConfigError, match="turns='dialog'"):
        formats.convert(table, "messages", "sharegpt", turns="dialog")
    with pytest.raises(ConfigError, match="there is a column of that name"):
        formats.convert(table, "messages", "messages", turns="conversations")
    with pytest.raises(ConfigError, match="alpaca has no option 'turns'"):
        formats.convert(table, "messages", "alpaca", turns="messages")
