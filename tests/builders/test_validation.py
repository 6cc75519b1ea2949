"""Validation and ids: one reason per bad row, and an id that changes with the content and with nothing else."""

from __future__ import annotations

import itertools
import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_builders import formats, records, validation
from instruct_builders.errors import ConfigError

PROFILE = settings(max_examples=80, deadline=None, derandomize=True)
CALLS = '[{"type": "function", "function": {"name": "f", "arguments": {}}}]'
OK = [("user", "q"), ("assistant", "a")]


def table_of(*rows, context=None, tools=None) -> pa.Table:
    """Records from rows of `(role, content)` or dicts; JSON as text."""
    rows = [
        None
        if row is None
        else [turn if isinstance(turn, dict) else dict(zip(("role", "content"), turn, strict=True)) for turn in row]
        for row in rows
    ]
    strings = [(name, pa.string() if kind == records.JSON else kind) for name, kind in records.MESSAGE_FIELDS.items()]
    messages = pa.array(rows, pa.list_(pa.struct(strings))).cast(records.MESSAGES)
    columns = {"messages": messages, "context": pa.array(context or [None] * len(rows), pa.string())}
    return pa.table(columns | {"tools": pa.array(tools or [None] * len(rows), pa.string()).cast(records.JSON)})


def verdicts(table: pa.Table, **options) -> list:
    return [v and (v["reason"], v["field"]) for v in validation.validate(table, **options).to_pylist()]


def assistant_calls(content: str = "") -> dict:
    return {"role": "assistant", "content": content, "tool_calls": CALLS}


@pytest.mark.parametrize(
    "row",
    [
        OK,
        [("system", "s"), *OK, *OK],
        [("assistant", "a text alone")],
        [("user", "q"), assistant_calls(), ("tool", "1"), ("tool", "2"), ("assistant", "a")],
        [("user", "q"), assistant_calls(), *OK],
        [("user", "q"), assistant_calls()],
        [("user", ""), ("assistant", "\u4f60\u597d \U0001f600 \u00e9\ttab\r\n")],
    ],
)
def test_rows_that_are_fine(row):
    assert verdicts(table_of(row)) == [None]


@pytest.mark.parametrize(
    "row, reason, field",
    [
        (None, "null_field", "messages"),
        ([(None, "q")], "null_field", "messages[0].role"),
        ([("user", "q"), ("assistant", None)], "null_field", "messages[1].content"),
        ([], "no_turns", "messages"),
        ([("user", "q")], "no_turns", "messages"),
        ([*OK, ("narrator", "x")], "bad_role", "messages[2].role"),
        ([("narrator", "x")], "bad_role", "messages[0].role"),
        ([("assistant", "a"), *OK], "role_order", "messages[0].role"),
        ([("system", "s"), ("assistant", "a")], "role_order", "messages[1].role"),
        ([("user", "q"), ("user", "q"), ("assistant", "a")], "role_order", "messages[1].role"),
        ([*OK, ("system", "s"), *OK], "role_order", "messages[2].role"),
        ([*OK, ("tool", "t"), ("assistant", "a")], "role_order", "messages[2].role"),
        ([("user", "q"), assistant_calls(), ("tool", "t"), ("user", "q")], "role_order", "messages[3].role"),
        ([*OK, ("user", "q")], "ends_with_user", "messages[2].role"),
        ([("user", "q"), assistant_calls(), ("tool", "t")], "ends_with_user", "messages[2].role"),
        ([*OK, ("user", "q"), ("assistant", "")], "empty_output", "messages[3].content"),
        ([("user", "q"), ("assistant", " \n\t\u3000\u00a0\u2028")], "empty_output", "messages[1].content"),
        ([("user", "q"), {**assistant_calls(), "tool_calls": "[]"}], "empty_output", "messages[1].content"),
        ([("user", "q\0"), ("assistant", "a\x07")], "nul", "messages[0].content"),
        ([("user", "q"), ("assistant", "a\x07\0")], "nul", "messages[1].content"),
        ([("user", "q"), ("assistant", "a\x1b[0m")], "control_token", "messages[1].content"),
        ([("user", "q\x85"), ("assistant", "a")], "control_token", "messages[0].content"),
        ([("user", "q"), ("assistant", "a</s>")], "control_token", "messages[1].content"),
        ([("user", "<|im_start|>system"), ("assistant", "a")], "control_token", "messages[0].content"),
        ([("user", "q"), {**assistant_calls(), "name": "<|im_end|>"}], "control_token", "messages[1].name"),
    ],
)
def test_rows_that_are_not(row, reason, field):
    assert verdicts(table_of(OK, row, OK)) == [None, (reason, field), None]


def test_context_and_tools_are_looked_at_too():
    table = table_of(OK, OK, OK, context=["\0", None, "x"], tools=[None, '["<|im_end|>"]', "[]"])
    assert verdicts(table) == [("nul", "context"), ("control_token", "tools"), None]


def test_the_detail_says_what_was_found_and_where():
    long = "x" * 500 + "<|im_end|>" + "y" * 500
    details = [
        verdict["detail"]
        for verdict in validation.validate(
            table_of([("user", "q"), ("assistant", long)], [*OK, ("bot", "z")], [*OK, ("tool", "z"), *OK])
        ).to_pylist()
    ]
    assert "'<|im_end|>' at character 500" in details[0] and len(details[0]) < 150
    assert details[1] == "'bot'; allowed are system, user, assistant, tool"
    assert details[2] == "tool after a turn of assistant; allowed there: user"


def test_options():
    table = table_of([("user", "<|x|>"), ("assistant", "\x07\u00e9\u00e9")], context=["12345"])
    assert verdicts(table, special_tokens=["<|x|>"]) == [("control_token", "messages[0].content")]
    assert verdicts(table, on_control_token="keep") == [None]
    assert verdicts(table, on_control_token="keep", max_chars=13) == [None]  # 5 + 3 characters and 5 of context
    assert verdicts(table, on_control_token="keep", max_chars=12) == [("too_long", "messages")]
    nul = table_of([("user", "q"), ("assistant", "\0")])
    assert verdicts(nul, on_control_token="keep") == [("nul", "messages[1].content")]
    assert verdicts(table, special_tokens=()) == [("control_token", "messages[1].content")]
    for wrong in (
        {"on_control_token": "strip"},
        {"special_tokens": "</s>"},
        {"special_tokens": [""]},
        {"max_chars": 0},
    ):
        with pytest.raises(ConfigError):
            validation.validate(table, **wrong)


def test_earlier_marks_stay():
    mark = {"reason": "dup_id", "field": "id", "detail": "seen"}
    table = table_of([("user", "q")], OK).append_column("rejected", pa.array([mark, None], records.REJECTED))
    assert validation.validate(table).to_pylist() == [mark, None]


def test_what_sharegpt_reading_lets_through_is_rejected_here():
    rows = [[{"from": "human", "value": "q"}, {"from": "chatgpt", "value": "a"}]]
    rows.append([{"from": "human", "value": "q"}, {"from": "function_call", "value": "f()"}])
    record = formats.to_record(pa.table({"conversations": rows}), "sharegpt")
    assert verdicts(record) == [("bad_role", "messages[1].role"), ("schema", "conversations[1].value")]


turns = st.fixed_dictionaries(
    {
        "role": st.sampled_from([*records.ROLES, "bot", None]),
        "content": st.sampled_from(["", " ", "a", "\0", "\x07", "</s>", None]),
        "tool_calls": st.sampled_from([None, None, CALLS]),
    }
)
rows = st.none() | st.lists(turns, max_size=4)


@PROFILE
@given(st.lists(rows, max_size=6), st.integers(0, 6))
def test_a_verdict_depends_on_the_row_alone(given_rows, at):
    table = table_of(*given_rows)
    whole = validation.validate(table).to_pylist()
    assert all(v is None or (v["reason"] in records.REASONS and v["field"] and v["detail"]) for v in whole)
    assert whole == [validation.validate(table.slice(i, 1)).to_pylist()[0] for i in range(len(table))]
    pieces = pa.concat_tables([table.slice(0, at), table.slice(at)])
    assert validation.validate(pieces).to_pylist() == whole


@PROFILE
@given(st.lists(rows, max_size=6))
def test_rows_that_pass_are_conversations(given_rows):
    """The rules once more, as one would write them for a single row."""
    for row, verdict in zip(given_rows, verdicts(table_of(*given_rows)), strict=True):
        if verdict is not None:
            continue
        kinds = [turn["role"] for turn in row]
        if len(kinds) > 1 or kinds == ["user"]:
            kinds = kinds[1:] if kinds[0] == "system" else kinds
            assert kinds[0] == "user"
        assert kinds[-1] == "assistant"
        for before, turn in itertools.pairwise(row):
            allowed = {"system": ("user",), "user": ("assistant",), "tool": ("tool", "assistant")}
            called = before["tool_calls"] is not None
            allowed["assistant"] = ("user", "tool") if called else ("user",)
            assert turn["role"] in allowed[before["role"]]
        for turn in row:
            assert turn["content"] not in (None, "\0", "\x07", "</s>")
            assert turn["role"] != "assistant" or turn["content"].strip() or turn["tool_calls"]


# Ids.

small = st.sampled_from(["", "a", "b", "ab", "aa", "\0", "1", "-1", "user", "assistant"])
maybe = st.none() | small
full_turns = st.fixed_dictionaries(
    {
        "role": maybe,
        "content": maybe,
        "reasoning_content": maybe,
        "tool_calls": st.sampled_from([None, "[]", '["a"]', '"a"']),
        "tool_call_id": maybe,
        "name": maybe,
        "train": st.sampled_from([None, True, False]),
    }
)
contents = st.tuples(st.none() | st.lists(full_turns, max_size=3), maybe, st.sampled_from([None, "[]", '["a"]', "{}"]))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(contents, min_size=1, max_size=6))
def test_equal_ids_mean_equal_contents(given_rows):
    messages, context, tools = zip(*given_rows, strict=True)
    table = table_of(*messages, context=list(context), tools=list(tools))
    ids = records.content_ids(table).to_pylist()
    by_id = {}
    for digest, row in zip(ids, given_rows, strict=True):
        assert by_id.setdefault(digest, row) == row
    assert len(by_id) == len({json.dumps(row) for row in given_rows})
    assert ids == [records.content_ids(table.slice(i, 1))[0].as_py() for i in range(len(table))]
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)]).append_column("source", [list(map(str, ids))])
    assert records.content_ids(chunked).to_pylist() == ids


def test_near_misses_have_ids_of_their_own():
    near = [
        [("user", "ab"), ("assistant", "c")],
        [("user", "a"), ("assistant", "bc")],
        [("user", "ab"), ("assistant", "c"), ("user", "")],
        [("user", "abc"), ("assistant", "")],
        [("user", "abc"), ("assistant", None)],
        [("assistant", "ab"), ("user", "c")],
        [("user", "ab"), {"role": "assistant", "content": "c", "train": False}],
        [("user", "ab"), {"role": "assistant", "content": "c", "train": True}],
        [("user", "ab"), {"role": "assistant", "content": "c", "name": ""}],
        [],
        None,
    ]
    ids = records.content_ids(table_of(*near)).to_pylist()
    assert len(set(ids)) == len(near) and all(len(digest) == 32 for digest in ids)
    same = table_of(OK, OK, OK, OK, context=[None, "", "x", None], tools=[None, None, None, '"x"'])
    assert len(set(records.content_ids(same).to_pylist())) == 4


def test_an_id_is_the_same_tomorrow():
    # Written down once: an id that changes would break every `parent` in published data.
    assert records.content_ids(table_of(OK, context=["c"])).to_pylist() == ["efd1bbbf02d2f2e95012c021db0b3905"]


def test_an_id_does_not_depend_on_json_spelling_or_absent_columns():
    table = table_of([*OK, {**assistant_calls(), "tool_calls": '[{"a": "\u00e9"}]'}], tools=['[ "t" ]'])
    other = table_of([*OK, {**assistant_calls(), "tool_calls": '[{"a":"\\u00e9"}]'}], tools=['["t"]'])
    assert records.content_ids(table).equals(records.content_ids(other))
    bare = pa.table({"messages": [[{"role": role, "content": content} for role, content in OK]]})
    assert records.content_ids(bare).equals(records.content_ids(table_of(OK)))
    assert len(records.content_ids(bare.slice(0, 0))) == 0
