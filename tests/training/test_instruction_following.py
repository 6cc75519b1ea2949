"""The 25 checkers on answers at their edges, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_builders.errors import ConfigError, SourceError
from trainers.evaluation.instruction_following import CHECKERS, check, languages, lengths, load, variants
from trainers.evaluation.instruction_following.checkers import loosely

LESS, LEAST = {"relation": "less than"}, {"relation": "at least"}
GERMAN = "Der Herbst ist meine liebste Jahreszeit, weil die Luft klar ist und die Wälder leuchten."
CASES = [
    ("keywords:existence", {"keywords": ["river", "rock"]}, "Rivers carry ROCK salt.", "A river carries salt."),
    ("keywords:existence", {"keywords": ["c++", "a.b"]}, "Use C++ and a.b here.", "Use ccc and axb here."),
    ("keywords:frequency", {"keyword": "tea", "frequency": 2, **LEAST}, "Tea and teapots.", "One tea."),
    ("keywords:frequency", {"keyword": "tea", "frequency": 2, **LESS}, "One tea.", "Tea and teapots."),
    ("keywords:forbidden_words", {"forbidden_words": ["art"]}, "A party starts.", "Modern Art, mostly."),
    ("keywords:forbidden_words", {"forbidden_words": ["苹果"]}, "我喜欢梨。", "我喜欢苹果和梨。"),
    ("keywords:forbidden_words", {"forbidden_words": ["c++", "art"]}, "C, smart.", "I use C++."),
    ("keywords:forbidden_words", {"forbidden_words": ["art"]}, "这是party。", "这是art。"),
    ("keywords:letter_frequency", {"letter": "Z", "let_frequency": 2, "let_relation": "at least"}, "Zz", "z"),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 1, "let_relation": "less than"}, "a", "#a"),
    ("language:response_language", {"language": "de"}, GERMAN, "It is a fine and quiet day in the old town."),
    ("language:response_language", {"language": "kn"}, "ಮಾವಿನ ಹಣ್ಣು ಸಿಹಿಯಾಗಿದೆ", "यह एक मीठा फल है"),
    ("language:response_language", {"language": "ja"}, "これはおいしいりんごです。", "这是一个很好吃的苹果。"),
    ("language:response_language", {"language": "zh"}, "这是一个很好吃的苹果。", "これはおいしいりんごです。"),
    ("language:response_language", {"language": "en"}, "It is a fine and quiet day in town.", "12345"),
    ("length_constraints:number_words", {"num_words": 3, **LEAST}, "one two three", "one two"),
    ("length_constraints:number_words", {"num_words": 4, **LESS}, "it's two!", "one two three four"),
    ("length_constraints:number_words", {"num_words": 4, **LEAST}, "我爱你们", "我爱你"),
    ("length_constraints:number_words", {"num_words": 3, **LESS}, "हिन्दी भाषा", "हिन्दी मेरी भाषा"),
    ("length_constraints:number_sentences", {"num_sentences": 2, **LEAST}, "Mr. Roe left. I stay.", "Mr. Roe left."),
    ("length_constraints:number_sentences", {"num_sentences": 2, **LESS}, "It costs $3.50 e.g. here.", "No. Yes."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n\n***\n\ntwo", "one\n\ntwo"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***\none\n***\ntwo\n***", "one *** *** two"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "However"},
        'One.\n\n"however, two',
        "One.\n\nTwo however.",
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "time"},
        "Time's up.",
        "Time's up.\n\nMore.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] and [b]", "[a] and (b)"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\np. s. one more", "Bye. PS one more"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\nP.P.S one more", "Bye.\nP.S. one"),
    ("detectable_content:postscript", {"postscript_marker": "N.B."}, "Bye.\nn.b. more", "Bye.\nnxbx more"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n  - two", "* one\n** two"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "* one\n** bold **", "* one\n* two"),
    ("detectable_format:constrained_response", {}, "Well. My answer is maybe.", "My answer is perhaps."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* and ** **"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Day", "num_sections": 2},
        "Day 1\nx\nDay 2\ny",
        "Day 1\nx",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', "{'a': 1}"),
    ("detectable_format:json_format", {}, "[]", "[" * 100_000),
    ("detectable_format:title", {}, "<<Joy>>\nText", "<< >>\nText <joy>"),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("combination:two_responses", {}, "******one******two******", "one****** ******two"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, " say HI. Hi!", "Hi! Say hi."),
    ("startend:end_checker", {"end_phrase": "Bye."}, 'So it ends. bye."', "Bye. Or not"),
    ("startend:quotation", {}, ' "quoted" ', '"'),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, "DON'T GO", "NO"),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "less than"}, "Go TO", "A B"),
    ("change_case:english_capital", {}, "KEEP OUT OF THE WATER, PLEASE.", "KEEP OUT OF THE WATER, please."),
    ("change_case:english_lowercase", {}, "the garden is quiet in the evening.", "The garden is quiet."),
    (
        "change_case:english_lowercase",
        {},
        "the garden is quiet in the evening.",
        GERMAN.lower() + " " + GERMAN.lower(),
    ),
    ("punctuation:no_comma", {}, "one; two、three", "one, two"),
]


@pytest.mark.parametrize(("identifier", "arguments", "met", "unmet"), CASES, ids=lambda value: str(value)[:40])
def test_checker(identifier, arguments, met, unmet):
    if identifier.startswith(("language", "change_case:english")):
        pytest.importorskip("lingua", reason="the extra 'lang' is not installed")
    assert check(met, identifier, arguments) is True
    assert check(unmet, identifier, arguments) is False
    absent = dict.fromkeys(("keywords", "num_words", "relation", "letter", "language")) | arguments
    assert check(met, identifier, absent) is True  # the Hub's rows have every argument, most of them null
    assert check(" \n", identifier, arguments) is False


def test_every_id_has_a_case():
    assert {case[0] for case in CASES} == set(CHECKERS)
    assert len(CHECKERS) == 25


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Dr. A. B. Cole of the U.S. army spoke. Nobody slept!", 2),
        ("1. Boil it.\n2. Eat it.", 2),
        ('He said "Stop." Then he left', 2),
        ("你好。我们走吧！好吗？", 3),
        ("यह एक वाक्य है। यह दूसरा है।", 2),
        ("Wait... what?!", 2),
        ("Bring tea, milk, etc. and sit. Version 2.5 is out.", 2),
        ("***\n---", 0),
    ],
)
def test_sentences(text, number):
    assert len(lengths.sentences(text)) == number


@given(st.text("aB.!? \n。\"'1", max_size=60))
def test_sentences_lose_no_letter(text):
    joined = "".join(lengths.sentences(text))
    assert [char for char in joined if char.isalnum()] == [char for char in text if char.isalnum()]


def test_a_language_that_cannot_be_checked_is_nobodys_success(monkeypatch):
    nepali = "बिरालो घर भित्र छ र कुकुर बाहिर छ"
    assert check(nepali, "language:response_language", {"language": "ne"}) is None  # lingua does not know it
    assert check("The cat is in.", "language:response_language", {"language": "ne"}) is False
    assert check("yes", "change_case:english_lowercase") is None  # too little to tell by
    monkeypatch.setattr(languages, "_detector", lambda: (None, frozenset()))
    assert check(GERMAN, "language:response_language", {"language": "de"}) is None
    assert check("THE CAT IS IN", "change_case:english_capital") is None
    assert check("The cat is in", "change_case:english_capital") is False
    assert check("ಮಾವಿನ ಹಣ್ಣು", "language:response_language", {"language": "kn"}) is True  # its script says so
    assert check("Привет, мир", "language:response_language", {"language": "de"}) is False


def test_variants_are_the_published_eight():
    found = variants("Sure:\n*body*\nBye")
    assert found == [
        *("Sure:\n*body*\nBye", "*body*\nBye", "Sure:\n*body*", "*body*"),
        *("Sure:\nbody\nBye", "body\nBye", "Sure:\nbody", "body"),
    ]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"instruction_id_list": ["keyword:existence"]}, ["prompt 7", "no instruction id", "keywords:existence"]),
        ({"kwargs": [{}]}, ["prompt 7", "needs the argument 'num_words', a number"]),
        ({"kwargs": [{"num_words": 3, "relation": "at lest"}]}, ["'at lest' given", "Did you mean 'at least'"]),
        ({"kwargs": [{"num_words": 3.0, "relation": "at least"}]}, ["num_words: 3.0 given", "whole number"]),
        ({"kwargs": [{"num_word": 3, "relation": "at least"}]}, ["no argument 'num_word'", "mean 'num_words'"]),
        ({"kwargs": []}, ["1 instruction ids and 0 kwargs"]),
        ({"prompt": " "}, ["prompt 7", "a text is wanted"]),
        (
            {"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "xx"}]},
            ["'xx' given", "codes af, ar"],
        ),
        (
            {
                "instruction_id_list": ["length_constraints:nth_paragraph_first_word"],
                "kwargs": [{"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"}],
            },
            ["nth_paragraph: 3 given of 2"],
        ),
    ],
)
def test_bad_prompts_are_refused(tmp_path, row, words):
    identifiers = ["length_constraints:number_words"]
    whole = {"key": 7, "prompt": "Say it.", "instruction_id_list": identifiers, "kwargs": [{"num_words": 1} | LESS]}
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(whole), encoding="utf-8")
    assert len(load(str(path)).rows) == 1
    path.write_text(json.dumps(whole | row), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load(str(path))
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(("text", "words"), [("", "has no prompts"), ("{", "prompts.jsonl:1 is not JSON")])
def test_a_file_without_prompts_is_refused(tmp_path, text, words):
    path = tmp_path / "prompts.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=words):
        load(str(path))


def test_line_ends_of_windows_are_line_ends():
    two = {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "However"}
    assert check("One.\r\n\r\nHowever, two.\r\n", "length_constraints:nth_paragraph_first_word", two)
    assert variants("Sure:\r\nyes\r\nBye.")[3] == "yes"


def test_a_clear_miss_is_one_loosely_too_where_a_line_alone_tells_no_language():
    answer = "This whole answer is in English, plainly.\nYes"
    assert check("Yes", "language:response_language", {"language": "de"}) is None or not languages.available()
    assert loosely(False, answer, "language:response_language", {"language": "de"}) is False
