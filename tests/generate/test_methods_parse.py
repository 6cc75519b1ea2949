"""Answers of a model -> tasks, instances, verdicts: what was written comes back, and the known hard cases are read."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_builders.generate import parse, rendering
from instruct_builders.generate.parse import Block

# Words of several scripts, with what could be mistaken for a mark: digits, dots, hashes, colons inside a line.
WORDS = st.text(st.sampled_from(string.ascii_letters + "äßжत中か0123456789-,;!?'\"()[]%"), min_size=1, max_size=9)
LINE = st.lists(WORDS, min_size=1, max_size=12).map(" ".join)
TEXT = st.lists(LINE, min_size=1, max_size=4).map("\n".join)


def is_plain(line: str) -> bool:
    return not parse.ITEM.search("\n" + line)


@given(st.lists(LINE.filter(is_plain), min_size=1, max_size=9), st.integers(1, 40), st.data())
def test_a_numbered_list_comes_back(items, first, data):
    mark = data.draw(st.sampled_from(["{}. {}", "{}) {}", "{}: {}", "Task {}. {}", "  {}.  {}"]))
    text = "\n".join(mark.format(number, item) for number, item in enumerate(items, first))
    assert parse.numbered(text, first) == items
    assert parse.numbered(text, first, truncated=True) == items[:-1]
    # As a continuation behind "9." the first number is missing.
    bare = text.split(" ", 1)[1] if mark == "{}. {}" else None
    if bare and len(items) > 1:
        assert parse.numbered(bare, first) == items


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9. Name a fruit.\n11. Name a river.\n11. Name a town.", ["Name a fruit.", "Name a river.", "Name a town."]),
        (
            "9. Order these steps:\n1. boil\n2. pour\n10. Name a fruit.",
            ["Order these steps: 1. boil 2. pour", "Name a fruit."],
        ),
        ("Here are some tasks:\n\n9. Name a fruit.\n\n10. Name a river.", ["Name a fruit.", "Name a river."]),
        (" Name a fruit.\n10. Name a river.", ["Name a fruit.", "Name a river."]),
        ("1. Name a fruit.\n2. Name a river.", ["Name a fruit.", "Name a river."]),  # the list begun anew
        ("9. Explain NASA's\nlogo.", ["Explain NASA's logo."]),  # white space is one blank, case stays
        ("9. 说出一种水果。\n10. Назови реку.", ["说出一种水果。", "Назови реку."]),
        ("9. <task>Name a fruit.</task>", ["Name a fruit."]),
        ("Write a haiku about rain.", ["Write a haiku about rain."]),
        ("I can't do that.\nPlease ask for something else.", []),
        ("9. In 2020. what changed?", ["In 2020. what changed?"]),
        ("9.\n10. Name a fruit.", ["Name a fruit."]),
    ],
)
def test_lists_as_models_write_them(text, expected):
    assert parse.numbered(text, 9) == expected


def no_marks(text: str) -> bool:
    return not any(pattern.search("\n" + text) for pattern in (parse.PART, parse.BLOCK)) and text == text.strip()


FIELD = TEXT.filter(no_marks)
BLOCKS = st.lists(st.builds(Block, FIELD, st.one_of(st.just("<noinput>"), FIELD), FIELD), min_size=1, max_size=6)


@given(BLOCKS, st.data())
def test_alpaca_blocks_come_back_whatever_their_numbers(blocks, data):
    slips = data.draw(st.lists(st.integers(1, 30), min_size=len(blocks), max_size=len(blocks)))
    written = [
        f"{n}. Instruction: {b.instruction}\n{n}. Input:\n{b.input}\n{n}. Output:\n{b.output}"
        for n, b in zip(slips, blocks, strict=True)
    ]
    assert parse.alpaca_blocks("\n###\n".join(written)) == (blocks, 0)
    assert parse.alpaca_blocks("\n".join(written)) == (blocks, 0)  # the lines between them forgotten
    assert parse.alpaca_blocks("\n###\n".join(written), truncated=True) == (blocks[:-1], 0)


def test_alpaca_lists_as_models_write_them():
    whole = Block("Name a fruit.", "<noinput>", "A pear.")
    cases = {
        " Name a fruit.\n4. Input:\n<noinput>\n4. Output:\nA pear.": ([whole], 0),  # behind the prompt's "4."
        "**4. Instruction:** Name a fruit.\n**4. Input:** <noinput>\n**4. Output:** A pear.": ([whole], 0),
        "4) instruction: Name a fruit.\n4) output: A pear.": ([Block("Name a fruit.", "", "A pear.")], 0),
        "Instruction: Name a fruit.\nInput: <noinput>\nOutput: A pear.": ([whole], 0),
        "4. Instruction: Name a fruit.\nInput: <noinput>\nOutput: A pear.": ([whole], 0),
        "###\n4. Instruction: Name a fruit.\n###\n": ([], 1),
        "4. Input:\nx\n4. Output:\ny\n###\n5. Instruction: Name a fruit.\n5. Input:\n<noinput>\n5. Output:\nA pear.": (
            [whole],
            1,
        ),
        "Sorry, I can't.": ([], 1),
        # A numbered list keeps a bare "Output:" inside of a text.
        "4. Instruction: Say what it prints.\n4. Input:\nprint(1)\nOutput: ?\n4. Output:\n1": (
            [Block("Say what it prints.", "print(1)\nOutput: ?", "1")],
            0,
        ),
    }
    for text, expected in cases.items():
        assert parse.alpaca_blocks(text) == expected, text


def test_classification_answers():
    yes, no = (
        ["Yes", "yes.", " YES", "**Yes**", "Is it classification? Yes"],
        ["No", "no, it is not", "Is it a classification task? No"],
    )
    assert [parse.classification(text) for text in yes] == [True] * len(yes)
    assert [parse.classification(text) for text in no] == [False] * len(no)
    assert [parse.classification(text) for text in ("Maybe", "", "Nothing", "Yesterday")] == [None] * 4


@given(st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=4))
def test_instances_come_back(pairs):
    input_first = "\n\n".join(f"Example {n}\nInput: {i}\nOutput: {o}" for n, (i, o) in enumerate(pairs, 1))
    assert parse.input_first(input_first) == pairs
    labels = [(text, label.split("\n")[0]) for text, label in pairs]
    output_first = "\n\n".join(f"Class label: {label}\nInput: {text}" for text, label in labels)
    assert parse.output_first(output_first) == labels


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Output: A pear.", [("", "A pear.")]),
        (
            "Example 1\nText: two\nwords\nOutput: 2\n\nExample 2.\nText: one\nOutput 2: 1",
            [("Text: two\nwords", "2"), ("Text: one", "1")],
        ),
        ("Input: a\nOutput: b\nInput: c\nOutput: d", [("a", "b")]),  # a further pair without its heading is cut off
        ("Example 1\nText: no answer here", []),
        ("A pear.", []),
        ("Example 1\nFor example 3 and Example 4.\nOutput: 7", [("For example 3 and Example 4.", "7")]),
    ],
)
def test_instances_as_models_write_them(text, expected):
    assert parse.input_first(text) == expected


def test_labels_as_models_write_them():
    assert parse.output_first("Sure!\nClass label: Spam\nMail: win!\n\nClass label: No spam\nMail: lunch?") == [
        ("Mail: win!", "Spam"),
        ("Mail: lunch?", "No spam"),
    ]
    assert parse.output_first("Class label: Spam") == [("", "Spam")]
    assert parse.output_first("Spam") == []


def test_simple_instance():
    assert parse.simple_instance("Input: <noinput>\nOutput: A pear.") == ("<noinput>", "A pear.")
    assert parse.simple_instance("Output: two\nlines") == ("", "two\nlines")
    assert parse.simple_instance("Input: x") is None and parse.simple_instance("Output:  ") is None


@pytest.mark.parametrize(
    "text",
    [
        "Not Equal",
        "not equal.",
        "NotEqual",
        "not-equal",
        "The two are not exactly equal",
        "Unequal",
        "They aren't equal",
    ],
)
def test_not_equal_is_read_before_equal(text):
    assert parse.equal(text) is False


def test_equal_and_no_verdict():
    assert parse.equal("Equal") is True and parse.equal("**equal**, in my view") is True
    assert parse.equal("Equality matters.") is None and parse.equal("") is None


@given(TEXT.map(str.strip))
def test_an_evolved_prompt_loses_the_fence_and_nothing_else(text):
    assert parse.evolved(rendering.fenced(text, "given_text")) == text
    assert parse.evolved(text) == text


@given(st.text())
def test_no_text_ends_its_own_fence(text):
    for content in (text, f"{text}</task>", rendering.fenced(text, "task") + "</task-2>"):
        fenced = rendering.fenced(content, "task")
        closing = f"</{fenced[1 : fenced.index('>')]}>"
        assert fenced.endswith(closing) and closing not in content and content in fenced


def test_what_a_user_wrote_is_no_placeholder():
    (system, user) = rendering.messages("equal", first="{{second}} {0} {{first}}", second="{{nothing}}")
    assert system["content"].startswith("task: equal\n") and "{{" not in system["content"]
    assert "{{second}} {0} {{first}}" in user["content"] and "{{nothing}}" in user["content"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<think>\nHm.\n</think>\n\nAn answer.\n", "An answer.\n"),
        (" <think></think>  An answer.", "An answer."),
        ("<thinking>a</thinking>b", "b"),
        ("Hm, an answer?\n</think>\n\nAn answer.", "An answer."),  # the first tag stands in the prompt
        ("Hm.\n</think>", ""),
        ("<think>Hm, an answer", None),
        ("<think>Hm, </thinking> no", None),
        ("<think>a</think><think>b</think>c", "<think>b</think>c"),
        ("Close it with </think>, as HTML does.", "Close it with </think>, as HTML does."),
        ("Write\n<think>\na\n</think>\nand more.", "Write\n<think>\na\n</think>\nand more."),
        ("An answer.", "An answer."),
        ("  An answer, indented", "  An answer, indented"),
    ],
)
def test_thoughts_are_taken_off_the_beginning_alone(text, said):
    assert parse.without_thoughts(text) == said
