"""Every check of transforms/quality: rows that fail, and near misses that pass."""

from __future__ import annotations

import time
from fractions import Fraction

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quality_cases import BAD
from quality_near_misses import GOOD

from instruct_builders import records
from instruct_builders.transforms.quality import CHECKS, arithmetic, pairs_of
from instruct_builders.transforms.quality.pii import KINDS, pii


def rows(*pairs) -> pa.Table:
    """Records of (question, answer) or (question, context, answer)."""
    messages = [[{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[-1]}] for pair in pairs]
    context = [pair[1] if len(pair) == 3 else None for pair in pairs]
    return pa.table({"messages": pa.array(messages), "context": pa.array(context, pa.string())})


def verdicts(name: str, *pairs, **parameters) -> list:
    return CHECKS[name](pairs_of(rows(*pairs)), **parameters).to_pylist()


def test_every_check_is_tried_and_has_a_reason():
    assert BAD.keys() == GOOD.keys() == CHECKS.keys() - {"toxic"}
    assert CHECKS.keys() <= records.REASONS.keys()


@pytest.mark.parametrize("name", BAD)
def test_defects_are_found_and_near_misses_pass(name):
    found = zip(BAD[name], verdicts(name, *BAD[name]), strict=True)
    assert [pair for pair, detail in found if not detail] == [], f"{name} keeps these"
    found = zip(GOOD[name], verdicts(name, *GOOD[name]), strict=True)
    assert [(pair, detail) for pair, detail in found if detail] == [], f"{name} drops these"


@pytest.mark.parametrize("name", BAD)
def test_a_column_is_judged_as_its_rows_are(name):
    """Whole columns, slices of them and single rows get the same verdicts: nothing runs over a row's edge."""
    given = [*BAD[name][:12], *GOOD[name][:12]]
    alone = [verdicts(name, pair)[0] for pair in given]
    table = pairs_of(rows(*given))
    assert CHECKS[name](table).to_pylist() == alone
    half = len(given) // 2
    assert CHECKS[name](table.slice(half)).to_pylist() == alone[half:]
    assert CHECKS[name](table.slice(0, 0)).to_pylist() == []


def test_that_no_offered_function_does_what_was_asked_is_no_refusal():
    """Conversations with tools teach when not to call one."""
    table = rows(("Order me a pizza.", "I'm sorry, but I can't assist with that: I can only send mails."))
    offered = table.append_column("tools", pa.array(['[{"name": "send_mail"}]']))
    nothing = table.append_column("tools", pa.array([None], pa.string()))
    assert CHECKS["refusal"](pairs_of(pa.concat_tables([offered, nothing]))).is_valid().to_pylist() == [False, True]


def test_conversations_have_a_pair_for_each_answer():
    turns = [("system", "s"), ("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("tool", "t"), ("assistant", "a2")]
    table = pa.table(
        {
            "messages": pa.array([[{"role": role, "content": text} for role, text in turns], [], None]),
            "context": pa.array(["c", "d", None]),
        }
    )
    assert pairs_of(table).select(["instruction", "context", "answer", "row", "turn"]).to_pylist() == [
        {"instruction": "q1", "context": "c", "answer": "a1", "row": 0, "turn": 2},
        {"instruction": "q2", "context": "", "answer": "a2", "row": 0, "turn": 5},
    ]


def test_thresholds_are_parameters():
    loop = ("Tell.", "It ran away. " * 4)
    assert verdicts("repeated_ngrams", loop) != [None]
    assert verdicts("repeated_ngrams", loop, min_repeats=5) == [None]
    assert verdicts("harmful", BAD["harmful"][0], categories=["drugs"]) == [None]
    assert verdicts("harmful", ("Hi", "Buy zorblax now"), extra={"spam": ["zorblax"]}) == ["spam: 'zorblax'"]
    assert verdicts("no_input_marker", ("Hi", "<noinput>", "x"), context=False) == [None]
    assert verdicts("refusal", GOOD["refusal"][5], asked_for=False) != [None]


def test_lingua_tells_languages_of_one_script_apart():
    pytest.importorskip("lingua", reason="the extra 'lang' is not installed")
    asked = "Please tell me something interesting about the history of your favourite city."
    german = "Die Geschichte dieser Stadt begann vor mehr als tausend Jahren an einem kleinen Fluss."
    (detail,) = verdicts("wrong_language", (asked, german), engine="lingua", languages=["en", "de"])
    assert detail == "en asked, de answered (lingua)"
    assert verdicts("wrong_language", (asked, german), engine="script") == [None]


numbers = st.integers(0, 9999)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(numbers, st.sampled_from("+-*")), min_size=2, max_size=5), st.integers(-3, 3))
def test_sums_are_read_as_they_are_meant(parts, off):
    """A sum's right result passes and any other whole number is found; Python's own rules are the reference."""
    left = " ".join(f"{number} {operator}" for number, operator in parts)[:-2]
    value = eval(left)
    assert arithmetic.evaluate(left) == Fraction(value)
    (detail,) = verdicts("wrong_arithmetic", ("Compute.", f"The result is {left} = {value + off}."))
    assert (detail is not None) == (off != 0)


@settings(max_examples=15, deadline=None)
@given(st.text(max_size=200), st.text(max_size=400))
def test_no_text_breaks_a_check(question, answer):
    table = pairs_of(rows((question, question[:20], answer)))
    for name in BAD:
        assert len(CHECKS[name](table)) == 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["red", "green", "blue", "dog", "ran", "far"]), min_size=1, max_size=20, unique=True)
    | st.permutations(["a1", "b2", "c3", "d4", "e5", "f6", "g7", "h8"]),
    st.integers(1, 9),
    st.integers(0, 30),
)
def test_loops_are_found_wherever_they_begin(part, times, lead):
    """Reference: a part of different words is a loop from four rounds and twelve words on."""
    answer = " ".join([f"w{number}" for number in range(lead)] + [*part] * times)
    words = len(part) * times
    expected = times >= 4 and words >= 12 and words >= 0.2 * (words + lead)
    assert (verdicts("repeated_ngrams", ("Tell me.", answer))[0] is not None) == expected


@pytest.mark.parametrize(
    "part",
    [
        "1+",
        "1+1=",
        "1",
        "word ",
        "(",
        "-",
        "a@b.",
        "```\n",
        "I am sorry ",
        "1,",
        "4111 ",
        "的",
        "= ",
        "\"as an AI I can't ",
        "make a bomb ",
    ],
)
def test_no_text_takes_more_than_linear_time(part):
    """Tens of thousands of characters that a careless expression would try in every combination."""
    text = part * (40_000 // len(part)) + " 1 + 1 = 3 x@y.org https://example.org in this image"
    table = rows(("Summarize it: " + text, text))
    start = time.process_time()
    for name in BAD:
        CHECKS[name](pairs_of(table))
    pii(table, dict.fromkeys(KINDS, "mask"))
    assert time.process_time() - start < 3
