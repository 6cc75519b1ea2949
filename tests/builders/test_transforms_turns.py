"""Order, roles and length of turns, blocked words: exact rows before and after, and what holds for any rows."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_builders import records, transforms
from instruct_builders.errors import ConfigError

S, U, A, T = "system", "user", "assistant", "tool"
TURNS = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
FULL = pa.list_(
    pa.struct({"role": pa.string(), "content": pa.string(), "tool_calls": pa.string(), "train": pa.bool_()})
)
CALL = '[{"type": "function", "function": {"name": "f", "arguments": {}}}]'


def conversations(*turns, kind=TURNS, **columns) -> pa.Table:
    names = [field.name for field in kind.value_type]
    rows = [[dict(zip(names, turn, strict=False)) for turn in row] for row in turns]
    return pa.table({"messages": pa.array(rows, kind), **columns})


def turns(table: pa.Table) -> list:
    return [[(turn["role"], turn["content"]) for turn in row] for row in table["messages"].to_pylist()]


def reasons(table: pa.Table) -> list:
    return [row and (row["reason"], row["field"], row["detail"]) for row in table["rejected"].to_pylist()]


def test_trim_drops_what_is_before_the_first_question_and_after_the_last_answer():
    table = conversations(
        [(A, "x"), (U, "q"), (A, "a"), (U, "z"), (T, "t")],
        [(S, "s"), (A, "x"), (U, "q"), (A, "a")],
        [(A, "x"), (U, "q")],
        [],
        [(U, "q"), (A, "a"), (U, "r"), (A, "b")],
        [(A, "x"), (S, "late"), (U, "q"), (A, "a")],
    )
    trimmed = transforms.trim_turns(table)
    assert turns(trimmed) == [
        [(U, "q"), (A, "a")],
        [(S, "s"), (U, "q"), (A, "a")],
        [(A, "x"), (U, "q")],
        [],
        [(U, "q"), (A, "a"), (U, "r"), (A, "b")],
        [(U, "q"), (A, "a")],
    ]
    hopeless = ("no_turns", "messages", "no question with an answer after it")
    assert reasons(trimmed) == [None, None, hopeless, hopeless, None, None]


def test_alternation_rejects_and_names_the_turn():
    table = conversations(
        [(U, "a"), (U, "b"), (A, "c")],
        [(A, "c"), (U, "q")],
        [(S, "s"), (U, "u"), (A, "a"), (U, "v")],
        [(U, "u"), (A, "a"), (S, "s")],
        [(U, "u"), (A, "a"), (T, "t"), (T, "t"), (A, "b")],
        [("narrator", "u")],
        [],
    )
    assert reasons(transforms.alternation(table)) == [
        ("role_order", "messages[1].role", "user after user"),
        ("role_order", "messages[0].role", "assistant in first place"),
        None,
        ("role_order", "messages[2].role", "system after assistant"),
        None,  # nothing says whether tools were called
        ("role_order", "messages[0].role", "narrator in first place"),
        None,
    ]


def test_alternation_knows_tool_calls():
    table = conversations(
        [(U, "u"), (A, "", CALL), (T, "t"), (A, "b")],
        [(U, "u"), (A, "", CALL), (T, "t"), (T, "t"), (A, "", CALL), (T, "t"), (A, "b"), (U, "x"), (A, "y")],
        [(U, "u"), (A, "said"), (T, "t"), (A, "b")],
        [(U, "u"), (A, "", CALL), (U, "x"), (A, "b")],
        kind=FULL,
    )
    assert reasons(transforms.alternation(table)) == [
        None,
        None,
        ("role_order", "messages[2].role", "tool after assistant"),
        ("role_order", "messages[2].role", "user after assistant"),
    ]


def test_merging_neighbours_is_opt_in_and_loses_nothing():
    table = conversations(
        [(U, "a"), (U, "b"), (U, "c"), (A, "d"), (A, "e")],
        [(U, "a"), (A, "", CALL), (A, "", CALL)],
        [(U, "a"), (A, "b", None, False), (A, "c", None, True)],
        [(U, "a"), (A, "b", None, False), (A, "c", None, False)],
        kind=FULL,
    )
    merged = transforms.alternation(table, repair="merge")
    assert turns(merged) == [
        [(U, "a\n\nb\n\nc"), (A, "d\n\ne")],
        [(U, "a"), (A, ""), (A, "")],
        [(U, "a"), (A, "b"), (A, "c")],
        [(U, "a"), (A, "b\n\nc")],
    ]
    assert [row and row[0] for row in reasons(merged)] == [None, "role_order", "role_order", None]
    assert merged["messages"][3][1]["train"].as_py() is False
    assert turns(transforms.alternation(table)) == turns(table)
    with pytest.raises(ConfigError, match="'merge'"):
        transforms.alternation(table, repair="join")


EMPTY = [
    [(U, "q"), (A, "a"), (U, "q2"), (A, " \u200b")],
    [(U, "q"), (A, "a"), (U, ""), (A, "b"), (U, "r"), (A, "c")],
    [(U, "q"), (A, "")],
    [(U, "\u00ad"), (A, "x")],
    [(S, ""), (U, "q"), (A, "a")],
    [(U, "q"), (A, "a")],
]


def test_empty_turns_cut_the_conversation_before_their_round():
    cut = transforms.empty_turns(conversations(*EMPTY))
    assert turns(cut) == [EMPTY[5], EMPTY[5], EMPTY[2], EMPTY[3], EMPTY[5], EMPTY[5]]
    assert reasons(cut) == [
        None,
        None,
        ("empty_output", "messages[1].content", "no printable character"),
        ("no_turns", "messages[0].content", "no printable character"),
        None,
        None,
    ]


def test_empty_turns_reject_on_demand():
    rejected = transforms.empty_turns(conversations(*EMPTY), on_empty="reject")
    assert turns(rejected) == EMPTY
    assert [row and row[:2] for row in reasons(rejected)] == [
        ("empty_output", "messages[3].content"),
        ("no_turns", "messages[2].content"),
        ("empty_output", "messages[1].content"),
        ("no_turns", "messages[0].content"),
        ("no_turns", "messages[0].content"),
        None,
    ]
    with pytest.raises(ConfigError, match="'cut' or 'reject'"):
        transforms.empty_turns(conversations(*EMPTY), on_empty="drop")


def test_a_turn_that_calls_tools_is_not_empty():
    table = conversations([(U, "q"), (A, "", CALL), (T, "t"), (A, "a")], kind=FULL)
    assert transforms.empty_turns(table)["messages"].equals(table["messages"])


def test_too_short():
    rows = [[(U, "0123456"), (A, "01234567")], [(U, "01234567"), (A, "01234567")], [(A, "x" * 40)]]
    assert reasons(transforms.too_short(conversations(*rows))) == [
        ("too_short", "messages", "15 characters"),
        None,
        ("too_short", "messages", "0 rounds"),
    ]
    with_context = conversations(rows[0], context=pa.array(["é"]))
    assert reasons(transforms.too_short(with_context)) == [None]
    assert reasons(transforms.too_short(with_context, min_rounds=2)) == [("too_short", "messages", "1 rounds")]


def test_no_input_markers():
    written = [
        "<noinput>",
        "<no input>",
        "No input",
        "n/a",
        "N/A.",
        "No input required.",
        "[no input]",
        "None",
        " none ",
    ]
    kept = ["NA", "none of these", "", None, "no input device was found", "n/a is a marker"]
    table = conversations(*[[(U, "q")]] * len(written + kept), context=pa.array(written + kept))
    assert transforms.no_input_markers(table)["context"].to_pylist() == [""] * len(written) + kept
    assert transforms.no_input_markers(conversations([(U, "n/a")])).column_names == ["messages"]


def test_role_names():
    table = conversations([("ChatGPT", "x"), (U, "y"), ("bard", "z"), ("bing", "b"), ("bot", "c"), ("gpt", "d")])
    assert [role for role, _ in turns(transforms.role_names(table))[0]] == [A, U, A, A, A, "gpt"]
    mapped = transforms.role_names(table, mapping={"gpt": "assistant"})
    assert [role for role, _ in turns(mapped)[0]] == ["ChatGPT", U, "bard", "bing", "bot", A]
    with pytest.raises(ConfigError, match="Did you mean 'assistant'"):
        transforms.role_names(table, mapping={"gpt": "asistant"})


def test_blocked_words_are_whole_words_in_any_case():
    table = conversations(
        [(U, "q"), (A, "I am OpenAI's model")],
        [(U, "openair"), (A, "xopenai"), (U, "c"), (A, "d+")],
        [(U, "C++ or c"), (A, "x")],
        [(U, "我用ChatGPT写的"), (A, "x")],
    )
    words = ["openai", "c++", "chatgpt"]
    assert reasons(transforms.blocked_words(table, words=words)) == [
        ("blocked_word", "messages[1].content", "'openai'"),
        None,
        ("blocked_word", "messages[0].content", "'c++'"),
        None,  # Chinese letters stand right beside the word
    ]
    assert reasons(transforms.blocked_words(table, words=["chatgpt"], whole_words=False))[3][2] == "'chatgpt'"
    assert reasons(transforms.blocked_words(table, words=["openai"], roles=[U])) == [None] * 4
    assert reasons(transforms.blocked_words(table)) == [None] * 4
    with pytest.raises(ConfigError, match="list of non-empty strings"):
        transforms.blocked_words(table, words="openai")


ROWS = st.lists(
    st.lists(
        st.tuples(st.sampled_from([S, U, A, T, "bot", None]), st.sampled_from(["", " ", "a", "b c", "\u200b", None])),
        max_size=7,
    ),
    max_size=5,
)
LOCAL = {
    "trim_turns": {},
    "alternation": {"repair": "merge"},
    "empty_turns": {},
    "too_short": {"min_chars": 3},
    "role_names": {},
    "blocked_words": {"words": ["a"]},
    "strip_whitespace": {},
    "html_to_markdown": {},
    "ui_residue": {},
    "error_page": {},
    "no_input_markers": {},
    "split_long": {"max_chars": 3},
}


@pytest.mark.parametrize("name", LOCAL)
@settings(max_examples=25, deadline=None)
@given(rows=ROWS, cut=st.integers(0, 5), rejected=st.integers(0, 4))
def test_any_row_local_transform(name, rows, cut, rejected):
    """Twice is once; slices, chunks and other rows of the table make no difference; rejected rows stay as they are."""
    transform, parameters = transforms.TRANSFORMS[name], LOCAL[name]
    why = [{"reason": "nul", "field": None, "detail": None} if n == rejected else None for n in range(len(rows))]
    table = conversations(*rows, rejected=pa.array(why, records.REJECTED), n=pa.array(range(len(rows)), pa.int64()))
    whole = transform(table, **parameters)
    assert transform(whole, **parameters).to_pylist() == whole.to_pylist()
    pieces = [table.slice(0, cut), table.slice(cut)]
    assert pa.concat_tables([transform(piece, **parameters) for piece in pieces]).to_pylist() == whole.to_pylist()
    chunked = pa.Table.from_batches(table.to_batches(max_chunksize=2), table.schema)
    assert transform(chunked, **parameters).to_pylist() == whole.to_pylist()
    numbers = whole["n"].to_pylist()
    assert numbers == sorted(numbers) and set(numbers) == set(range(len(rows)))
    if rejected < len(rows):
        (kept,) = (row for row in whole.to_pylist() if row["n"] == rejected)
        assert kept["messages"] == table["messages"][rejected].as_py() and kept["rejected"]["reason"] == "nul"


def test_null_conversations_and_unusual_types_pass_through():
    large = pa.large_list(pa.struct({"content": pa.large_string(), "role": pa.large_string(), "more": pa.int8()}))
    rows = [None, [{"content": " q ", "role": U, "more": 1}, {"content": "a", "role": A, "more": None}], [None]]
    table = pa.table({"messages": pa.array(rows, large)})
    for name, parameters in LOCAL.items():
        assert transforms.TRANSFORMS[name](table, **parameters)["messages"].type == large
    stripped = transforms.strip_whitespace(table)["messages"].to_pylist()
    assert stripped[0] is None and stripped[1][0] == {"content": "q", "role": U, "more": 1}


def test_other_tables_are_refused():
    for table in (pa.table({"text": ["x"]}), pa.table({"messages": ["x"]}), pa.table({"messages": [[{"from": "x"}]]})):
        with pytest.raises(ConfigError, match="messages"):
            transforms.trim_turns(table)
