"""What a format can't hold is an error that names the row and the field; and how formats are told apart."""

from __future__ import annotations

import datasets
import pyarrow as pa
import pytest

from instruct_builders import formats, records
from instruct_builders.errors import ConfigError, RowError, TemplateError


def chat(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


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


def test_an_entry_in_meta_that_would_be_taken_for_ours():
    meta = pa.array(['{"sharegpt": {}}', '{"x": "sharegpt"}', None]).cast(records.JSON)
    table = pa.table({"conversations": [[{"from": "human", "value": "a"}]] * 3, "meta": meta})
    rejected = formats.to_record(table, "sharegpt")["rejected"].to_pylist()
    assert rejected[0]["field"] == "meta" and rejected[1:] == [None, None]


def test_unknown_options():
    with pytest.raises(ConfigError, match=r"Did you mean 'context'\?"):
        formats.convert(pa.table({"text": ["a"]}), "text", "messages", columns=["contxt"])
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
