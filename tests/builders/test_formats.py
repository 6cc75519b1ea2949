"""Formats: reading one and writing it back gives the same table, for anything that hypothesis can think of."""

from __future__ import annotations

import json

import datasets
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_builders import formats, records
from instruct_builders.errors import ConfigError, RowError, TemplateError

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


# Rows and columns that can't be converted.


def test_unknown_role_survives_reading_and_is_an_error_in_convert():
    turns = [{"from": "human", "value": "a"}, {"from": "narrator", "value": "b"}]
    table = pa.table({"conversations": [turns[:1], turns]})
    assert formats.to_record(table, "sharegpt")["messages"][1].as_py()[1]["role"] == "narrator"
    with pytest.raises(
        RowError, match=r"row 1, field 'conversations\[1\].from': role 'narrator' is none of"
    ) as caught:
        formats.convert(table, "sharegpt", "messages")
    assert (caught.value.reason, caught.value.row) == ("bad_role", 1)


@pytest.mark.parametrize("value", ["not json", "[]", '{"name": "f"}', '{"name": "f", "arguments": NaN}', "[" * 10_000])
def test_a_function_call_that_is_none_is_marked(value):
    table = pa.table({"conversations": [[{"from": "function_call", "value": value}]]})
    record = formats.to_record(table, "sharegpt")
    rejected = record["rejected"][0].as_py()
    assert (rejected["reason"], rejected["field"]) == ("schema", "conversations[0].value")
    assert record["messages"][0].as_py()[0]["content"] == value
    with pytest.raises(RowError, match="is not a JSON object with 'name' and 'arguments'"):
        formats.convert(table, "sharegpt", "messages")


def test_tools_that_are_none_are_marked_and_earlier_marks_stay():
    mark = {"reason": "dup_id", "field": "id", "detail": "seen"}
    turns = [[{"from": "human", "value": "a"}]] * 3
    table = pa.table({"conversations": turns, "tools": ["[]", "{", "{"]})
    table = table.append_column("rejected", pa.array([None, None, mark], records.REJECTED))
    rejected = formats.to_record(table, "sharegpt")["rejected"].to_pylist()
    assert rejected[0] is None and rejected[1]["reason"] == "schema" and rejected[2] == mark


def test_a_context_that_was_not_joined_is_an_error():
    table = pa.table({"messages": [chat("a\n\nb", "c"), chat("a", "c")], "context": ["b", "b"]})
    with pytest.raises(RowError, match=r"row 1, field 'messages\[0\].content': does not end with"):
        formats.convert(table, "messages", "alpaca")
    assert formats.to_record(table, "messages")["rejected"].is_valid().to_pylist() == [False, True]


@pytest.mark.parametrize(
    "turns, target, message",
    [
        ([("user", "a"), ("assistant", "b")] * 2, "alpaca", "row 1, field 'messages': 4 turns"),
        ([("system", "s"), ("user", "a"), ("assistant", "b")], "alpaca", "3 turns"),
        ([("assistant", "a"), ("user", "b")], "alpaca", r"field 'messages\[0\].role': is 'assistant'"),
        ([("system", "s"), ("user", "a"), ("assistant", "b")], "prompt_completion", "Pass conversational=True"),
        ([("user", "a"), ("user", "b")], "prompt_completion", r"field 'messages\[1\].role'"),
        ([("user", "a"), ("assistant", "b")], "text", "pass template="),
    ],
)
def test_rows_that_a_format_can_not_hold(turns, target, message):
    fine = [("assistant", "x")] if target == "text" else [("user", "a"), ("assistant", "b")]
    rows = [[{"role": role, "content": content} for role, content in row] for row in (fine, turns)]
    with pytest.raises(RowError, match=message) as caught:
        formats.convert(pa.table({"messages": rows}), "messages", target)
    assert caught.value.row == 1


def test_message_fields_without_a_place():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": "hm"}]
    table = pa.table({"messages": [turns]})
    with pytest.raises(RowError, match=r"messages\[1\].reasoning_content.*no place in sharegpt"):
        formats.convert(table, "messages", "sharegpt")
    with pytest.raises(RowError, match="add it to message_fields="):
        formats.convert(table, "messages", "messages", message_fields=["role", "content"])
    with pytest.raises(ConfigError, match="message_fields has 'reasoning'"):
        formats.convert(table, "messages", "messages", message_fields=["reasoning"])


@pytest.mark.parametrize(
    "columns, source, target, message",
    [
        ({"text": ["a"]}, "alpacca", "messages", "Did you mean 'alpaca'?"),
        ({"text": ["a"]}, "text", "mesages", "Did you mean 'messages'?"),
        ({"text": ["a"]}, "alpaca", "messages", "needs the column 'instruction'.*look like 'text'"),
        ({"text": ["a"], "messages": ["b"]}, "text", "messages", "rename or remove it first"),
        ({"text": ["a"], "context": ["b"]}, "text", "messages", "the column 'context'"),
        ({"text": [1]}, "text", "messages", "holds int64, not text"),
        ({"messages": [[{"role": "user", "content": "a", "weight": "1"}]]}, "messages", "alpaca", "a field 'weight'"),
        ({"messages": ["a"]}, "messages", "alpaca", "'messages' holds"),
    ],
)
def test_wrong_columns(columns, source, target, message):
    with pytest.raises((ConfigError, RowError), match=message):
        formats.convert(pa.table(columns), source, target)


def test_unknown_options():
    with pytest.raises(ConfigError, match="messages has no option 'template'"):
        formats.convert(pa.table({"text": ["a"]}), "text", "messages", template="x")
    with pytest.raises(ConfigError, match="convert takes"):
        formats.convert([{"text": "a"}], "text", "messages")


# text, through a template.


def test_text_through_a_template():
    template = "{{ bos_token }}{% for m in messages %}\n{{ m.role }}: {{ m.content }}\n{% endfor %}\n{{ eos_token }}"
    table = pa.table({"instruction": ["Sum."], "input": ["1 2"], "output": ["3"], "k": [7]})
    written = formats.convert(table, "alpaca", "text", template=template, bos_token="<b>", eos_token="<e>")
    assert written.to_pylist() == [{"text": "<b>user: Sum.\n\n1 2\nassistant: 3\n<e>", "k": 7}]
    with_context = "{{ context }}|{% generation %}{{ messages[0].content }}{% endgeneration %}"
    assert formats.convert(table, "alpaca", "text", template=with_context)["text"].to_pylist() == ["1 2|Sum."]


def test_template_errors():
    table = pa.table({"messages": [chat("a", "b")]})
    with pytest.raises(TemplateError, match="does not compile"):
        formats.convert(table, "messages", "text", template="{% for %}")
    with pytest.raises(RowError, match="the template refuses this row: no system"):
        formats.convert(table, "messages", "text", template="{{ raise_exception('no system') }}")
    with_tools = table.append_column("tools", pa.array(["[]"], pa.string()).cast(records.JSON))
    with pytest.raises(RowError, match="does not name tools"):
        formats.convert(with_tools, "messages", "text", template="{{ messages }}")


# datasets.


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
    features = datasets.Features.from_arrow_schema(MESSAGES)
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


# Telling formats.


@pytest.mark.parametrize(
    "columns, expected",
    [
        (["instruction", "input", "output", "text"], "alpaca"),
        (["conversations", "id"], "sharegpt"),
        (["messages"], "messages"),
        (["prompt", "prompt_id", "messages"], "messages"),
        (["prompt", "completion"], "prompt_completion"),
        (["text"], "text"),
        (["question", "answer"], None),
        ({"conversations": [{"role": "user", "content": "a"}]}, "messages"),
        ({"messages": [{"from": "human", "value": "a"}]}, "sharegpt"),
        ({"messages": "not turns", "text": "a"}, "text"),
        (datasets.Features({"messages": datasets.List({"from": datasets.Value("string")})}), None),
    ],
)
def test_detect(columns, expected):
    assert formats.detect(columns) == expected


def test_native_schemas():
    schema = formats.native_schema("alpaca")
    assert schema.names == ["instruction", "input", "output"]
    assert [field.nullable for field in schema] == [False, True, False]
    schema = formats.native_schema(
        "sharegpt", {"messages": [{"from": "human", "value": "a"}], "tools": [{"name": "f"}]}
    )
    assert schema.names == ["messages", "system", "tools"] and schema.field("tools").type == records.JSON
    schema = formats.native_schema("messages")
    assert {field.name for field in schema.field("messages").type.value_type} == set(records.MESSAGE_FIELDS)
    assert not schema.field("messages").type.value_type.field("role").nullable
    assert formats.native_schema("prompt_completion").field("prompt").type == pa.string()
    row = {"prompt": [{"role": "user", "content": "a"}], "completion": []}
    assert pa.types.is_list(formats.native_schema("prompt_completion", row).field("prompt").type)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_table_read_with_the_native_schema_converts(name):
    table = records.empty_table(formats.native_schema(name))
    assert formats.detect(table.schema) == name
    assert len(formats.to_record(table, name)) == 0
    assert formats.convert(table, name, name).column_names == table.column_names


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
