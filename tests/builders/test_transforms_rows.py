"""Duplicates, languages and the splitting of long conversations."""

from __future__ import annotations

import builtins
import json
import random
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_builders import records, transforms
from instruct_builders.errors import ConfigError

S, U, A, T = "system", "user", "assistant", "tool"
FULL = pa.list_(pa.struct({"role": pa.string(), "content": pa.string(), "tool_calls": pa.string()}))


def conversations(*turns, **columns) -> pa.Table:
    names = [field.name for field in FULL.value_type]
    rows = [[dict(zip(names, turn, strict=False)) for turn in row] for row in turns]
    return pa.table({"messages": pa.array(rows, FULL), **columns})


def turns(table: pa.Table) -> list:
    return [[(turn["role"], turn["content"]) for turn in row] for row in table["messages"].to_pylist()]


def details(table: pa.Table) -> list:
    return [row and row["detail"] for row in table["rejected"].to_pylist()]


def test_duplicates_of_conversations_keep_the_first():
    table = conversations(
        [(U, "Hi  there"), (A, "caf\u00e9")],
        [(U, "hi there "), (A, "CAFE\u0301")],
        [(U, "hi there"), (A, "caf\u00e9"), (U, "more"), (A, "x")],
        [(U, "hi there caf\u00e9"), (A, "")],
        [(U, "hi there"), (A, "caf\u00e9", "[1]")],
        [(S, "s"), (U, "hi there"), (A, "caf\u00e9")],
        [],
        [],
        id=pa.array(list("abcdefgh")),
    )
    same = "same conversation as row 0 (id a)"
    assert details(transforms.exact_duplicates(table)) == [None, same] + [None] * 6
    assert details(transforms.exact_duplicates(table, normalize=False)) == [None] * 8
    assert [d is not None for d in details(transforms.exact_duplicates(table, by="first_round"))] == [
        *[False, True, True, False, False, True, False, False]
    ]
    assert [d is not None for d in details(transforms.exact_duplicates(table, by="prompt"))] == [
        *[False, True, True, False, True, True, False, False]
    ]
    with pytest.raises(ConfigError, match="Did you mean 'first_round'"):
        transforms.exact_duplicates(table, by="first_rounds")


def test_context_and_tools_tell_conversations_apart():
    row = [(U, "q"), (A, "a")]
    table = conversations(row, row, row, row, context=pa.array([None, "x", "x", ""]), tools=pa.array(["[]"] * 4))
    assert [d is not None for d in details(transforms.exact_duplicates(table))] == [False, False, True, True]
    tools = conversations(row, row, tools=pa.array(["[1]", "[2]"]))
    assert details(transforms.exact_duplicates(tools)) == [None, None]
    assert (
        details(transforms.exact_duplicates(tools, by="first_round"))[1]
        == "same first question and its answer as row 0"
    )


def test_rejected_rows_are_not_what_later_ones_repeat():
    why = pa.array([{"reason": "nul", "field": None, "detail": None}, None, None], records.REJECTED)
    table = conversations(*[[(U, "q"), (A, "a")]] * 3, rejected=why)
    assert details(transforms.exact_duplicates(table)) == [None, None, "same conversation as row 1"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.sampled_from([U, A]), st.sampled_from(["a", "A", "1:a", "a ", "é"])), max_size=3))
)
def test_duplicates_are_what_a_plain_loop_finds(rows):
    def key(row):
        return [(role, " ".join(content.lower().split())) for role, content in row]

    found = transforms.exact_duplicates(conversations(*rows))
    expected = [bool(row) and key(row) in [key(other) for other in rows[:n]] for n, row in enumerate(rows)]
    assert [d is not None for d in details(found)] == expected
    assert transforms.exact_duplicates(found).equals(found)


def test_of_rows_with_one_question_the_better_answer_can_stay():
    answers = ["one", "three three", "two"]
    table = pa.table(
        {
            "messages": [
                [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": text}] for text in answers
            ],
            "score": [1.0, None, 3.0],
            "id": list("abc"),
        }
    )
    same = "same first question as row"
    stays = {"earlier": 0, "longer": 1, "score": 2}
    for prefer, row in stays.items():
        found = details(transforms.exact_duplicates(table, by="prompt", prefer=prefer))
        assert found == [None if at == row else f"{same} {row} (id {'abc'[row]})" for at in range(3)]
    with pytest.raises(ConfigError, match="Did you mean 'longer'"):
        transforms.exact_duplicates(table, prefer="longr")


def test_duplicate_ids():
    rows = [[(U, "q"), (A, "a")]] * 4
    table = conversations(*rows, id=pa.array(["1", "2", "1", None]), n=pa.array([7, 7, 8, None]))
    assert details(transforms.duplicate_ids(table)) == [None, None, "same id as row 0 (id 1)", None]
    assert details(transforms.duplicate_ids(table, column="n"))[1] == "same id as row 0 (id 1)"
    meta = conversations(*rows, meta=pa.array(['{"id": "x"}', '{"id": 1}', '{"no": 1, "id": "x"}', None]))
    assert details(transforms.duplicate_ids(meta, column="meta.id")) == [None, None, "same id as row 0", None]
    with pytest.raises(ConfigError, match="Did you mean 'id'"):
        transforms.duplicate_ids(table, column="idd")


LANGUAGES = ["en", "de", "fr", "zh", "ko"]
SPOKEN = {
    "en": [(U, "What time is it over there right now?"), (A, "It is shortly after eight o'clock in the evening.")],
    "de": [(U, "Wie spät ist es denn gerade bei euch?"), (A, "Es ist kurz nach acht Uhr am Abend.")],
    "zh": [(U, "你好，请问现在几点了？"), (A, "现在是晚上八点钟。")],
    "none": [(U, "42?"), (A, "```python\nfor every_word in this_english_looking_code:\n    print(every_word)\n```")],
}


def test_language_keeps_and_skips_and_counts_what_can_not_be_told():
    pytest.importorskip("lingua", reason="the extra 'lang' is not installed")
    table = conversations(*SPOKEN.values())
    counts = Counter()
    kept = transforms.language(table, keep=["en"], languages=LANGUAGES, counts=counts)
    assert [row and row["reason"] for row in kept["rejected"].to_pylist()] == [
        *[None, "wrong_language", "wrong_language", None]
    ]
    assert [detail and detail.split(",")[0] for detail in details(kept)] == [None, "de", "zh", None]
    assert details(kept)[1].startswith("de, confidence 0.9") or details(kept)[1] == "de, confidence 1.00"
    assert counts == {"undetermined": 1}
    skipped = transforms.language(table, skip="zh", languages=LANGUAGES)
    assert [detail is not None for detail in details(skipped)] == [False, False, True, False]
    strict = transforms.language(table, keep="en", languages=LANGUAGES, undetermined="reject")
    assert details(strict)[3] == "can't be told"
    assert transforms.language(strict, keep="en", languages=LANGUAGES).equals(strict)


def test_language_refuses_what_it_does_not_know(monkeypatch):
    table = conversations(SPOKEN["en"])
    for parameters in ({}, {"keep": "en", "skip": "de"}):
        with pytest.raises(ConfigError, match="either keep or skip"):
            transforms.language(table, **parameters)
    real = builtins.__import__

    def without_lingua(name, *args, **kwargs):
        if name == "lingua":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_lingua)
    with pytest.raises(ConfigError, match=r'pip install "instruct-builders\[lang\]"'):
        transforms.language(table, keep=["it"])


def test_language_codes_are_checked():
    pytest.importorskip("lingua", reason="the extra 'lang' is not installed")
    with pytest.raises(ConfigError, match="'english' is no code"):
        transforms.language(conversations(SPOKEN["en"]), keep="english")


def split(rows, **parameters) -> pa.Table:
    table = conversations(*rows)
    return transforms.split_long(table.append_column("id", records.content_ids(table)), **parameters)


def test_the_last_round_is_not_lost():
    # Turns of 20 tokens and a limit of 100: the original kept two of three rounds.
    row = [(U, "u" * 14), (A, "a" * 14), (U, "v" * 14), (A, "b" * 14), (U, "w" * 14), (A, "c" * 14)]
    table = split([row], max_tokens=100, count=lambda texts: [len(text) for text in texts])
    assert turns(table) == [row[:4], row[4:]]
    assert turns(split([row[:4]], max_tokens=80, count=lambda texts: [len(text) for text in texts])) == [row[:4]]
    whole = records.content_ids(conversations(row))[0].as_py()
    assert table["parent"].to_pylist() == [whole, whole]
    assert [json.loads(text) for text in table["meta"].to_pylist()] == [
        {"part": 1, "parts": 2},
        {"part": 2, "parts": 2},
    ]
    assert table["id"].to_pylist() == records.content_ids(table).to_pylist()


def test_parts_keep_system_turn_tools_and_meta_and_only_the_first_keeps_context():
    row = [(S, "be brief"), (U, "u" * 10), (A, "a" * 10), (U, "v" * 10), (A, "", "[call]"), (T, "t" * 4), (A, "b")]
    table = conversations(
        row,
        row[1:3],
        context=pa.array(["c" * 5, "d"]),
        tools=pa.array(["[]", None]),
        meta=pa.array(['{"x": "\\ud800"}', None]),
    )
    parts = transforms.split_long(table, max_chars=36)
    assert turns(parts) == [
        [(S, "be brief"), (U, "u" * 10), (A, "a" * 10)],
        [(S, "be brief"), (U, "v" * 10), (A, ""), (T, "t" * 4), (A, "b")],
        [(U, "u" * 10), (A, "a" * 10)],
    ]
    assert parts["context"].to_pylist() == ["c" * 5, None, "d"]
    assert parts["tools"].to_pylist() == ["[]", "[]", None]
    assert parts["meta"].to_pylist() == [
        '{"x": "\\ud800", "part": 1, "parts": 2}',
        '{"x": "\\ud800", "part": 2, "parts": 2}',
        None,
    ]
    assert parts["messages"][1][2]["tool_calls"].as_py() == "[call]"
    assert details(parts) == [None, None, None]  # 35 and 31 characters: "[call]" and "[]" count
    assert details(transforms.split_long(table, max_chars=34))[0] == "35 characters, the limit is 34"


def test_a_round_too_long_by_itself_is_rejected_whole_and_its_neighbours_stay():
    rows = [
        [(U, "a"), (A, "b"), (U, "x" * 50), (A, "y"), (U, "c"), (A, "d"), (U, "e"), (A, "f")],
        [(U, "x" * 50), (A, "y")],
    ]
    table = split(rows, max_chars=10)
    assert turns(table) == [rows[0][:2], rows[0][2:4], rows[0][4:], rows[1]]
    long = "51 characters, the limit is 10"
    assert details(table) == [None, long, None, long]
    assert table["parent"].to_pylist()[3] is None  # not split, so no part of anything


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.sampled_from([S, U, A, T]), st.text("ab", max_size=12)), max_size=9), max_size=5),
    st.integers(1, 40),
    st.integers(0, 3),
)
def test_nothing_is_lost_and_every_part_fits(rows, limit, overhead):
    given_ids = [str(number) for number in range(len(rows))]
    table = conversations(*rows, id=pa.array(given_ids, pa.string()))
    counts = Counter()
    parts = transforms.split_long(table, max_chars=limit, overhead_per_turn=overhead, counts=counts)
    back: dict[str, list] = {}
    for row, messages in zip(parts.to_pylist(), turns(parts), strict=True):
        whole = row["parent"] if row["parent"] is not None else row["id"]
        again = bool(back.get(whole)) and messages[:1] == back[whole][:1] and messages[0][0] == S
        back.setdefault(whole, []).extend(messages[again:])
        size = sum(len(content) + overhead for _, content in messages)
        assert (size > limit) == (row["rejected"] is not None)
        if row["rejected"]:
            assert row["rejected"]["reason"] == "too_long" and row["rejected"]["detail"].startswith(f"{size} ")
            body = [role for role, _ in messages[messages[0][0] == S :]]
            starts = [n for n, role in enumerate(body) if role == U and (n == 0 or body[n - 1] != U)]
            assert len(starts) <= 1  # one round that can't be split further
    assert [back.get(name, []) for name in given_ids] == rows
    assert counts["split"] == len({row["parent"] for row in parts.to_pylist()} - {None})
    assert transforms.split_long(parts, max_chars=limit, overhead_per_turn=overhead).to_pylist() == parts.to_pylist()


def test_splitting_by_a_tokenizers_own_count(tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="comes with the extra 'train'")
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    model.enable_truncation(3)  # must not make long texts look short
    model.save(str(tmp_path / "tokenizer.json"))
    rng = random.Random(0)
    row = [(role, " ".join("w" for _ in range(rng.randint(1, 9)))) for _ in range(20) for role in (U, A)]
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        parts = split([row], max_tokens=60, tokenizer=path)
        sizes = [sum(len(content.split()) + 6 for _, content in part) for part in turns(parts)]
        assert [turn for part in turns(parts) for turn in part] == row and max(sizes) <= 60 and len(sizes) > 3
    with pytest.raises(ConfigError, match="there is no file"):
        split([row], max_tokens=60, tokenizer=tmp_path / "missing.json")


LIMITS = [
    {},
    {"max_tokens": 5},
    {"max_tokens": 5, "max_chars": 5},
    {"max_chars": 5, "count": len},
    {"max_chars": 0},
    {"max_chars": "5"},
    {"max_tokens": 5, "count": len, "tokenizer": "x"},
]


@pytest.mark.parametrize("parameters", LIMITS)
def test_limits_that_do_not_fit_together(parameters):
    with pytest.raises(ConfigError, match="split_long"):
        split([[(U, "a"), (A, "b")]], **parameters)


def test_a_count_of_the_wrong_length_is_refused():
    with pytest.raises(ConfigError, match="one each"):
        split([[(U, "a"), (A, "b")]], max_tokens=5, count=lambda texts: [1])
