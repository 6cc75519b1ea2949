"""convert on what `datasets` gives: features, formats, splits, streams and real rows."""

from __future__ import annotations

import json

import datasets
import pyarrow as pa
import pytest

from instruct_builders import formats, records
from instruct_builders.errors import RowError


def chat(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture
def alpaca():
    rows = [{"instruction": f"{n}?", "input": "" if n % 2 else "x", "output": "y", "label": n % 2} for n in range(7)]
    features = datasets.Features({name: datasets.Value("string") for name in ("instruction", "input", "output")})
    features["label"] = datasets.ClassLabel(names=["even", "odd"])
    return datasets.Dataset.from_list(rows, features=features)


def test_dataset_in_dataset_out(alpaca, tmp_path):
    alpaca.save_to_disk(str(tmp_path / "data"))
    dataset = datasets.load_from_disk(str(tmp_path / "data")).with_format("numpy", columns=["output", "label"])
    there = formats.convert(dataset, "alpaca", "messages")
    assert there.features["label"] == alpaca.features["label"]
    assert there.format["type"] == "numpy" and set(there.format["columns"]) == {"messages", "context", "label"}
    assert there.with_format(None)[0] == {"messages": chat("0?\n\nx", "y"), "context": "x", "label": 0}
    again = formats.convert(dataset, "alpaca", "messages")
    assert again._fingerprint == there._fingerprint and again.cache_files == there.cache_files
    back = formats.convert(there, "messages", "alpaca").with_format(None)
    assert back.select_columns(alpaca.column_names).to_list() == alpaca.to_list()


def test_rows_are_counted_in_the_dataset_as_it_is_given(alpaca):
    bad = alpaca.add_column("system", [None] * 6 + ["s"])
    with pytest.raises(RowError) as caught:
        formats.convert(bad.select([6, 0, 1]), "alpaca", "prompt_completion")
    assert caught.value.row == 0


def test_splits_get_the_same_features():
    calls = '[{"type": "function", "function": {"name": "f", "arguments": {}}}]'
    columns = {"messages": records.MESSAGES, "tools": records.JSON, "context": pa.string()}
    features = datasets.Features.from_arrow_schema(pa.schema(columns))
    train = [{"messages": chat("a", "b"), "tools": None, "context": None}]
    turns = [*chat("a", "b"), {"role": "user", "content": "c"}]
    turns.append({"role": "assistant", "content": "", "tool_calls": json.loads(calls)})
    full = [dict.fromkeys(records.MESSAGE_FIELDS) | turn for turn in turns]
    test = [{"messages": full, "tools": None, "context": None}]
    train[0]["messages"] = [dict.fromkeys(records.MESSAGE_FIELDS) | turn for turn in train[0]["messages"]]
    splits = datasets.DatasetDict(
        {
            "train": datasets.Dataset.from_list(train, features=features),
            "test": datasets.Dataset.from_list(test, features=features),
        }
    )
    there = formats.convert(splits, "messages", "record")
    assert isinstance(there, datasets.DatasetDict)
    assert there["train"].features == there["test"].features
    assert set(there["train"].features["messages"].feature) == {"role", "content", "tool_calls"}
    assert there["test"][0]["messages"][3]["tool_calls"] == json.loads(calls)


def test_an_empty_dataset_gets_the_new_columns(alpaca):
    there = formats.convert(alpaca.select([]), "alpaca", "messages")
    assert len(there) == 0 and there.features == formats.convert(alpaca, "alpaca", "messages").features


@pytest.mark.parametrize("typed", [True, False])
def test_streams(alpaca, tmp_path, typed):
    alpaca.to_json(tmp_path / "rows.jsonl")
    files = str(tmp_path / "rows.jsonl")
    stream = datasets.load_dataset("json", data_files=files, split="train", streaming=True)
    stream = alpaca.to_iterable_dataset() if typed else stream
    there = formats.convert(stream, "alpaca", "messages")
    assert isinstance(there, datasets.IterableDataset)
    assert list(there) == formats.convert(alpaca, "alpaca", "messages").to_list()
    assert there.features["context"] == datasets.Value("string")
    back = formats.convert(there, "messages", "alpaca")
    assert list(back.select_columns(alpaca.column_names)) == alpaca.to_list()


def test_stream_of_sharegpt_with_tools():
    call = '{"name": "f", "arguments": {"a": [1, "x"]}}'
    turns = [{"from": "human", "value": "q"}, {"from": "function_call", "value": call}]
    rows = [{"conversations": turns, "tools": '[{"name": "f"}]'}] * 3
    stream = datasets.Dataset.from_list(rows).to_iterable_dataset()
    there = formats.convert(stream, "sharegpt", "messages")
    first = next(iter(there))
    assert first["messages"][1]["tool_calls"] == [{"type": "function", "function": json.loads(call)}]
    assert first["tools"] == [{"type": "function", "function": {"name": "f"}}]
    assert list(formats.convert(there, "messages", "sharegpt").select_columns(["conversations", "tools"])) == rows


@pytest.mark.shared_data
def test_real_rows_come_back(shared_data):
    for name, path in (
        ("alpaca", "alpaca/alpaca_en_demo.json"),
        ("alpaca", "alpaca/alpaca_zh_demo.json"),
        ("sharegpt", "sharegpt/glaive_toolcall_en_demo.json"),
    ):
        rows = json.loads((shared_data / path).read_text(encoding="utf-8"))
        dataset = datasets.Dataset.from_list(rows)
        there = formats.convert(dataset, name, "messages")
        assert formats.convert(there, "messages", name).to_list() == dataset.to_list()
