"""Formats: reading one and writing it back gives the same table, for anything that hypothesis can think of."""

from __future__ import annotations

import json

import datasets
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_builders import formats, records

PROFILE = settings(max_examples=60, deadline=None, derandomize=True)
texts = st.text(max_size=12)  # any Unicode but lone surrogates, which Arrow can't hold
optional_texts = st.one_of(st.none(), st.just(""), texts)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def json_texts(draw, value):
    """The same JSON, in any of the spellings that people's tools write."""
    style = draw(st.sampled_from([{}, {"ensure_ascii": False}, {"separators": (",", ":")}, {"indent": 2}]))
    return json.dumps(value, **style)


calls = st.fixed_dictionaries({"name": texts, "arguments": st.dictionaries(texts, json_values, max_size=2)})
call_values = st.one_of(calls, st.lists(calls, min_size=1, max_size=3)).flatmap(json_texts)
tools = st.fixed_dictionaries({"name": texts, "description": texts, "parameters": st.just({"type": "object"})})
wrapped = tools.map(lambda tool: {"type": "function", "function": tool})
tool_texts = st.one_of(
    st.sampled_from([None, "", "[]", " "]),
    st.one_of(st.lists(tools, max_size=2), st.lists(wrapped, max_size=2)).flatmap(json_texts),
)
said = st.tuples(
    st.sampled_from(["human", "gpt", "system", "observation", "user", "assistant", "tool"]), texts
) | st.tuples(st.just("function_call"), call_values)
turns = st.builds(lambda turn: {"from": turn[0], "value": turn[1]}, said)

TURN = pa.struct([("from", pa.string()), ("value", pa.string())])
SHAREGPT = pa.schema(
    [("conversations", pa.list_(TURN)), ("system", pa.string()), ("tools", pa.string()), ("k", pa.int64())]
)
ALPACA = pa.schema([("instruction", pa.string()), ("input", pa.string()), ("output", pa.string()), ("k", pa.int64())])
sharegpt_rows = st.fixed_dictionaries(
    {
        "conversations": st.lists(turns, max_size=5),
        "system": optional_texts,
        "tools": tool_texts,
        "k": st.integers(0, 9),
    }
)
alpaca_rows = st.fixed_dictionaries(
    {"instruction": texts, "input": optional_texts, "output": texts, "k": st.integers(0, 9)}
)


def of_rows(rows: list[dict], schema: pa.Schema) -> pa.Table:
    """A table with JSON extension columns, which `Table.from_pylist` can't make."""
    plain = pa.schema([field.with_type(without_json(field.type)) for field in schema])
    return pa.Table.from_pylist(rows, plain).cast(schema)


def without_json(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.JsonType):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(without_json(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(without_json(field.type)) for field in kind])
    return kind


def cut(table: pa.Table) -> pa.Table:
    """The same rows as slices in several chunks, which start in the middle of their buffers."""
    padded = pa.concat_tables([table, table]).combine_chunks()
    middle = len(table) // 2
    return pa.concat_tables([padded.slice(len(table), middle), padded.slice(middle, len(table) - middle)])


def assert_round_trip(table: pa.Table, name: str, **options):
    assert formats.convert(table, name, name, **options).equals(table)
    assert formats.convert(cut(table), name, name, **options).equals(table)
    record = formats.to_record(table, name)
    assert "rejected" not in record.column_names
    assert record.schema.field("messages").type == records.MESSAGES
    back = formats.from_record(record, name, columns=optional_columns(table, name), **options)
    assert back.select(table.column_names).equals(table)


def optional_columns(table: pa.Table, name: str) -> list[str]:
    own = ("input", "system", "history") if name == "alpaca" else ("system", "tools", "context", "meta")
    return [column for column in table.column_names if column in own]


# Each format, there and back.


@PROFILE
@given(st.lists(alpaca_rows, max_size=5))
def test_alpaca_round_trip(rows):
    assert_round_trip(pa.Table.from_pylist(rows, ALPACA), "alpaca")


@PROFILE
@given(st.lists(alpaca_rows, max_size=5), st.data())
def test_wider_alpaca_round_trip(rows, data):
    histories = st.none() | st.lists(st.lists(texts, min_size=2, max_size=2), max_size=3)
    for row in rows:
        row |= {"system": data.draw(optional_texts), "history": data.draw(histories)}
    schema = ALPACA.append(pa.field("system", pa.string())).append(
        pa.field("history", pa.list_(pa.list_(pa.string())))
    )
    assert_round_trip(pa.Table.from_pylist(rows, schema), "alpaca")


@PROFILE
@given(st.lists(sharegpt_rows, max_size=5))
def test_sharegpt_round_trip(rows):
    assert_round_trip(pa.Table.from_pylist(rows, SHAREGPT), "sharegpt")


@PROFILE
@given(st.lists(sharegpt_rows, max_size=5))
def test_sharegpt_survives_messages(rows):
    table = pa.Table.from_pylist(rows, SHAREGPT)
    back = formats.convert(formats.convert(table, "sharegpt", "messages"), "messages", "sharegpt")
    missing = [name for name in ("system", "tools") if name not in back.column_names]
    assert all(table[name].null_count == len(table) for name in missing)  # nothing was said there
    names = [name for name in table.column_names if name not in missing]
    assert back.select(names).to_pylist() == table.select(names).to_pylist()


MESSAGE = pa.struct(list(records.MESSAGE_FIELDS.items()))
MESSAGES = pa.schema([("messages", pa.list_(MESSAGE)), ("tools", records.JSON), ("context", pa.string())])
tool_calls = calls.map(lambda call: [{"type": "function", "function": call, "id": "call_1"}]).flatmap(json_texts)


@st.composite
def messages_rows(draw):
    context = draw(optional_texts)
    row = {"messages": [], "tools": draw(st.none() | st.lists(tools).flatmap(json_texts)), "context": context}
    joined = not context
    for role in draw(st.lists(st.sampled_from(records.ROLES), max_size=4)) + ([] if joined else ["user"]):
        turn = {"role": role, "content": draw(texts)}
        if role == "user" and not joined:
            turn["content"], joined = turn["content"] + formats.CONTEXT_SEPARATOR + context, True
        if role == "assistant":
            turn |= {"reasoning_content": draw(optional_texts), "train": draw(st.none() | st.booleans())}
            if draw(st.booleans()):
                turn |= {"tool_calls": draw(tool_calls), "content": draw(st.none() | texts)}
        if role == "tool":
            turn |= {"name": draw(optional_texts), "tool_call_id": draw(optional_texts)}
        row["messages"].append(turn)
    return row


@PROFILE
@given(st.lists(messages_rows(), max_size=5))
def test_messages_round_trip(rows):
    table = of_rows(rows, MESSAGES)
    assert_round_trip(table, "messages", message_fields=list(records.MESSAGE_FIELDS))


@PROFILE
@given(st.lists(messages_rows(), max_size=5), st.data())
def test_conversational_prompt_completion_round_trip(rows, data):
    split = []
    for row in rows:
        turns = [*row.pop("messages"), {"role": "assistant", "content": "last"}]
        at = data.draw(st.integers(0, len(turns) - 1))
        split.append({"prompt": turns[:at], "completion": turns[at:], **row})
    schema = pa.schema([("prompt", pa.list_(MESSAGE)), ("completion", pa.list_(MESSAGE)), *list(MESSAGES)[1:]])
    table = of_rows(split, schema)
    fields = list(records.MESSAGE_FIELDS)
    assert_round_trip(table, "prompt_completion", conversational=True, message_fields=fields)


@PROFILE
@given(st.lists(st.tuples(texts, optional_texts, texts), max_size=5))
def test_prompt_completion_round_trip(rows):
    def joined(prompt, context):
        return prompt + formats.CONTEXT_SEPARATOR + context if context else prompt

    table = pa.table(
        {
            "prompt": pa.array([joined(prompt, context) for prompt, context, _ in rows], pa.string()),
            "completion": pa.array([completion for *_, completion in rows], pa.string()),
            "context": pa.array([context for _, context, _ in rows], pa.string()),
        }
    )
    assert_round_trip(table, "prompt_completion")


@PROFILE
@given(st.lists(texts, max_size=5))
def test_text_round_trip(rows):
    assert_round_trip(pa.table({"text": pa.array(rows, pa.string()), "k": pa.array(range(len(rows)))}), "text")


@PROFILE
@given(st.lists(alpaca_rows, min_size=1, max_size=4), st.sampled_from(["sharegpt", "messages", "prompt_completion"]))
def test_alpaca_through_every_format(rows, other):
    table = pa.Table.from_pylist(rows, ALPACA)
    there = formats.convert(table, "alpaca", other)
    assert formats.convert(there, other, "alpaca").select(ALPACA.names).equals(table)


dialogues = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)


@PROFILE
@given(
    st.lists(dialogues, min_size=1, max_size=4),
    st.lists(st.sampled_from(["sharegpt", "messages", "prompt_completion", "record"]), min_size=1, max_size=4),
)
def test_any_way_through_the_formats(rows, way):
    table = of_rows(
        [{"messages": [turn for pair in row for turn in chat(*pair)]} for row in rows],
        pa.schema([("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])))]),
    )
    there, at = table, "messages"
    for step in way:
        options = {"conversational": True} if step == "prompt_completion" else {}
        there, at = formats.convert(there, at, step, **options), step
    assert formats.convert(there, at, "messages").equals(table)


def chat(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


# What the columns look like.


def test_alpaca_becomes_messages_with_the_context_joined():
    table = pa.table({"instruction": ["Sum.", "Hi."], "input": ["1 2", ""], "output": ["3", "Hello."]})
    assert formats.convert(table, "alpaca", "messages").to_pylist() == [
        {"messages": chat("Sum.\n\n1 2", "3"), "context": "1 2"},
        {"messages": chat("Hi.", "Hello."), "context": ""},
    ]
    assert formats.to_record(table, "alpaca")["messages"][0].as_py()[0]["content"] == "Sum."
    strings = formats.convert(table, "alpaca", "prompt_completion").to_pylist()
    assert strings[0] == {"prompt": "Sum.\n\n1 2", "completion": "3", "context": "1 2"}


def test_a_missing_input_is_a_null_context():
    record = formats.to_record(pa.table({"instruction": ["Hi."], "output": ["Hello."]}), "alpaca")
    assert record["context"].to_pylist() == [None]
    assert "input" not in formats.from_record(record, "alpaca").column_names


def test_sharegpt_with_a_function_call():
    call = '{"name": "add", "arguments": {"a":1, "b": "é"}}'  # own white space, own bytes
    turns = [("human", "1+1?"), ("function_call", call), ("observation", "2"), ("gpt", "Two.")]
    row = {
        "conversations": [{"from": name, "value": value} for name, value in turns],
        "tools": '[{"name": "add", "parameters": {}}]',
    }
    table = pa.Table.from_pylist([row])
    there = formats.convert(table, "sharegpt", "messages")
    assert there.column_names == ["messages", "tools"]  # nothing had to be kept aside
    messages = there["messages"][0].as_py()
    assert [turn["role"] for turn in messages] == ["user", "assistant", "tool", "assistant"]
    assert (
        messages[1]["content"] == "" and messages[1]["tool_calls"] == f'[{{"type": "function", "function": {call}}}]'
    )
    assert json.loads(there["tools"][0].as_py()) == [
        {"type": "function", "function": {"name": "add", "parameters": {}}}
    ]
    assert formats.convert(there, "messages", "sharegpt").to_pylist() == [row]
    dataset = datasets.Dataset(there)
    assert dataset[0]["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"a": 1, "b": "é"}


def test_roles_spelled_otherwise_are_kept_in_meta():
    turns = [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]
    usual = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    table = pa.table({"conversations": [turns, usual]})
    there = formats.convert(table, "sharegpt", "messages")
    assert [meta and json.loads(meta) for meta in there["meta"].to_pylist()] == [
        {"sharegpt": {"roles": ["user", "assistant"]}},
        None,
    ]
    assert formats.convert(there, "messages", "sharegpt").equals(table)


def test_meta_of_the_source_stays_beside_what_is_kept():
    schema = pa.schema([("conversations", pa.list_(TURN)), ("meta", records.JSON)])
    rows = [
        {"conversations": [{"from": "user", "value": "a"}, {"from": "gpt", "value": "b"}], "meta": '{ "url":"x" }'},
        {"conversations": [{"from": "tool", "value": "a"}, {"from": "gpt", "value": "b"}], "meta": "{}"},
    ]
    table = of_rows(rows, schema)
    there = formats.convert(table, "sharegpt", "messages")
    assert json.loads(there["meta"][0].as_py()) == {"url": "x", "sharegpt": {"roles": ["user", "gpt"]}}
    back = formats.convert(there, "messages", "sharegpt").to_pylist()
    assert [row["conversations"] for row in back] == [row["conversations"] for row in rows]
    assert json.loads(back[0]["meta"]) == {"url": "x"}


def test_turns_changed_since_are_written_in_the_default_spelling():
    table = pa.table({"conversations": [[{"from": "user", "value": "a"}, {"from": "gpt", "value": "b"}]]})
    record = formats.to_record(table, "sharegpt")
    longer = pa.table({"messages": [chat("a", "b") + chat("c", "d")]}).append_column("meta", record["meta"])
    written = formats.from_record(longer, "sharegpt").to_pylist()[0]
    assert [turn["from"] for turn in written["conversations"]] == ["human", "gpt", "human", "gpt"]
    assert "meta" not in written


@pytest.mark.parametrize("name, column", [("sharegpt", "messages"), ("messages", "conversations")])
def test_both_column_names_of_turns(name, column):
    keys = ("from", "value") if name == "sharegpt" else ("role", "content")
    roles = ("human", "gpt") if name == "sharegpt" else ("user", "assistant")
    turns = [dict(zip(keys, turn, strict=True)) for turn in zip(roles, "ab", strict=True)]
    table = pa.table({column: [turns], "k": [1]})
    assert formats.detect(table.schema) == name
    assert formats.convert(table, name, name).equals(table)
    assert formats.convert(table, name, "alpaca").to_pylist() == [{"instruction": "a", "output": "b", "k": 1}]


def test_wide_and_null_types():
    rows = [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": None}]
    wide = pa.large_list(pa.struct([("from", pa.large_string()), ("value", pa.large_string())]))
    for schema in (
        pa.schema([("conversations", wide), ("system", pa.large_string())]),
        pa.schema([("conversations", pa.list_(TURN)), ("system", pa.null())]),
    ):
        table = pa.Table.from_pylist(rows, schema)
        assert formats.convert(table, "sharegpt", "messages")["messages"].to_pylist() == [chat("a", "b")]
        assert formats.convert(table, "sharegpt", "sharegpt").to_pylist() == rows
