"""Every filter and every elimination, with a text that passes and one that does not."""

from __future__ import annotations

import pytest

from instruct_builders.generate import filters, yields
from instruct_builders.generate.filters import Filters
from instruct_builders.generate.likeness import Likeness

FINE = "Name three fruits that grow in the north."


@pytest.mark.parametrize(
    ("reason", "passes", "fails"),
    [
        ("too_short", "Name two ripe fruits.", "Name two fruits."),
        ("too_long", " ".join(["word"] * 150), " ".join(["word"] * 151)),
        ("blocked_word", "Describe the photographs of a mapmaker.", "Describe the Picture in words."),
        ("blocked_word", "Say who goes to school in May.", "Say why people go to school."),
        ("writes_program", "Please write a program for a concert.", "Write a program that sorts names."),
        ("first_punctuation", "“Rain” is what kind of word?", '"Rain" is what kind of word?'),
        ("control_character", "Name a fruit\nand a river too.", "Name a fruit\x07 and a river."),
    ],
)
def test_instruction_filters(reason, passes, fails):
    assert Filters().instruction(passes) is None
    assert Filters().instruction(fails) == reason


def test_the_originals_defects_are_switched_off():
    umlaut = "Übersetze den Satz bitte ins Englische."
    assert Filters().instruction(umlaut) is None
    assert Filters(ascii_first=True).instruction(umlaut) == "first_not_ascii"


def test_scripts_without_blanks_have_words_for_the_unicode_tokenizer():
    chinese = "请写一首关于秋天的短诗"
    assert Filters().instruction(chinese) == "too_short"
    assert Filters(tokenizer="unicode").instruction(chinese) is None


def test_alpacas_words_are_more():
    assert Filters().instruction("Suggest some music for a party.") is None
    assert Filters(blacklist=filters.ALPACA_WORDS).instruction("Suggest some music for a party.") == "blocked_word"


@pytest.mark.parametrize("marker", ["<noinput>", "<No Input>", "No input required.", "N/A", "(none)", "noinput"])
def test_no_input_markers(marker):
    assert filters.without_marker(marker) == ""
    assert filters.without_marker(f"{marker} of these") == f"{marker} of these"


@pytest.mark.parametrize(
    ("reason", "passes", "fails"),
    [
        ("empty_output", ("a", "Not applicable to plants."), ("a", "N/A")),
        ("empty_output", ("a", "0"), ("a", " \n")),
        ("empty_output", ("a", "None of them."), ("a", "None.")),
        ("same_input_output", ("rain", "Rain"), ("rain", "rain")),
        ("ends_with_colon", ("Text: a", "b"), ("Text:", "b")),
        ("ends_with_colon", ("a", "ratio 1:2"), ("a", "The answer is: ")),
        ("control_character", ("a\tb", "c"), ("a", "c\x00")),
    ],
)
def test_instance_filters(reason, passes, fails):
    assert filters.instance(*passes) is None
    assert filters.instance(*fails) == reason


@pytest.mark.parametrize(
    ("reason", "passes", "fails"),
    [
        ("merged_rows", ("", "1. Input the coin."), ("", "A pear.\n5. Instruction: Name a river.")),
        ("media_link", ("see Fig. 2", "x"), ("![a cat](cat.png)", "x")),
        ("media_link", ("the file ends in .png", "x"), ("https://example.org/cat.jpg", "x")),
        ("needs_internet", ("https://example.org sells tea", "x"), ("https://example.org/news", "x")),
        (
            "made_up_url",
            ("https://example.org sells tea", "Order at https://example.org today."),
            ("", "See https://example.org/a."),
        ),
        ("empty_output", ("", "No."), ("", "<nooutput>")),
    ],
)
def test_known_defects_of_rows(reason, passes, fails):
    assert filters.row(FINE, *passes) is None
    assert filters.row(FINE, *fails) == reason


GIVEN = "Explain why leaves turn red."


@pytest.mark.parametrize(
    ("reason", "fails"),
    [
        ("leaked_words", "Make this given prompt harder: explain red leaves."),
        ("leaked_words", "#Rewritten Prompt#: Explain why leaves turn red in May."),
        ("leaked_words", "This is the created prompt about leaves."),
        ("unchanged", "explain  WHY leaves turn red."),
        ("no_evolution", " \n"),
    ],
)
def test_eliminations_of_evolved_prompts(reason, fails):
    assert filters.evolution(GIVEN, fails) == reason
    assert filters.evolution(GIVEN, "Explain why leaves turn red, and name two that do not.") is None


def test_a_prompt_about_prompts_may_be_evolved():
    given = "Say what a rewritten prompt is."
    assert filters.evolution(given, "Say in five steps what a rewritten prompt is.") is None


def test_eliminations_by_answer():
    assert filters.answer("I am sorry, but I can't.") == "sorry"
    assert filters.answer("Sorry! " + "word " * 79) is None  # 80 words are no longer a short apology
    assert filters.answer("She wrote that she was apologetic.") is None
    assert filters.answer("?! ...") == filters.answer("It is what it is, and so on.") == "only_stop_words"
    assert filters.answer("它是红色的。") is None
    assert filters.answer("42") is None


def test_every_reason_says_what_it_means_and_an_unknown_one_is_refused(tmp_path):
    assert all(filters.REASONS.values())
    with yields.Yield(folder=tmp_path) as counts, pytest.raises(KeyError, match="no reason"):
        counts.drop("because", {})


def test_the_yield_adds_up():
    counts = yields.Yield()
    counts.accept({}, round=1, operator="deepening")
    counts.accept({}, round=2, operator="mutation")
    counts.drop("equal", {}, round=2, operator="mutation")
    texts = Likeness(["name a tall green tree"], 0.7)
    admitted = [texts.admit(text) for text in ("name a tall green tree", "name a tall tree", "say why rain falls")]
    assert admitted == [(False, 1.0), (False, 0.8889), (True, 0.0)]
    report = counts.report(texts)
    assert (report["candidates"], report["accepted"], report["dropped"]) == (3, 2, {"equal": 1})
    assert [entry["accepted"] for entry in report["rounds"]] == [1, 1]
    assert report["operators"]["mutation"] == {"candidates": 2, "accepted": 1, "dropped": {"equal": 1}}
    assert sum(report["novelty"]["counts"]) == 3 and report["novelty"]["threshold"] == 0.7
    assert "mutation: 2 candidates, 1 kept (50%); dropped: equal 1" in yields.table(report)
