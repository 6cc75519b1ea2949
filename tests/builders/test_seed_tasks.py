"""The seed tasks that ship with the package: well formed, varied, and none of them close to another."""

from __future__ import annotations

import ast
import itertools
import json
import random
import re
import unicodedata
from importlib import resources

import pytest
from rapidfuzz.distance import LCSseq

# Tasks that are not in English bear the language as the prefix of their name. A script of None stands for Latin.
SCRIPTS = {"zh": "CJK", "ja": "HIRAGANA", "ar": "ARABIC", "hi": "DEVANAGARI", "ru": "CYRILLIC", "ko": "HANGUL"}
SCRIPTS |= {"el": "GREEK"} | dict.fromkeys(["es", "de", "fr", "pt", "sw", "it", "tr", "pl"])
# Every English instruction has one of these, no other has: a check on the prefixes, not a language detector.
ENGLISH_WORDS = {"the", "of", "and", "that", "with", "to", "by", "or", "from"}
NOT_VERBS = {"a", "an", "as", "from", "i", "it", "my", "the", "this", "we"}  # openers that say nothing about the task


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    text = resources.files("instruct_builders").joinpath("data/seed_tasks.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def rouge_tokens(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def unicode_tokens(text: str) -> list[str]:
    """Words in any script; one token per character where words are not set apart (Han, kana)."""
    return re.findall(r"[\u3040-\u30ff\u4e00-\u9fff]|[^\W\u3040-\u30ff\u4e00-\u9fff]+", text.lower())


def rouge_l(first: list[str], second: list[str]) -> float:
    """F measure of ROUGE-L: 2 · LCS / (len + len), 0 where one side has no tokens."""
    return 2 * LCSseq.similarity(first, second) / (len(first) + len(second)) if first and second else 0.0


def language(row: dict) -> str:
    prefix = row["name"].split("_")[0]
    return prefix if prefix in SCRIPTS else "en"


def scripts_of(text: str) -> set[str]:
    return {unicodedata.name(letter).split()[0] for letter in text if letter.isalpha()}


def test_every_row_has_exactly_the_self_instruct_fields(rows):
    for number, row in enumerate(rows):
        assert list(row) == ["id", "name", "instruction", "instances", "is_classification"]
        assert row["id"] == f"seed_task_{number}"
        assert re.fullmatch(r"[a-z][a-z0-9_]*", row["name"])
        assert type(row["is_classification"]) is bool and row["instances"]
        for instance in row["instances"]:
            assert list(instance) == ["input", "output"] and instance["output"]
            for text in (row["instruction"], *instance.values()):
                assert type(text) is str and text == text.strip() and text == unicodedata.normalize("NFC", text)
                assert "\r" not in text and "\t" not in text


def test_counts_and_shares(rows):
    assert len(rows) == len({row["id"] for row in rows}) == len({row["name"] for row in rows}) == 175
    assert 24 <= sum(row["is_classification"] for row in rows) <= 30
    assert 48 <= sum(not any(instance["input"] for instance in row["instances"]) for row in rows) <= 58
    for row in rows:  # one task is with input or without, never both
        assert len({bool(instance["input"]) for instance in row["instances"]}) == 1
        inputs = [instance["input"] for instance in row["instances"]]
        assert len(set(inputs)) == len(inputs)


def test_lengths(rows):
    for row in rows:
        tokens = unicode_tokens(row["instruction"])
        assert 5 <= len(tokens) <= 60, row["name"]
        assert all(len(instance["output"].split()) <= 150 for instance in row["instances"]), row["name"]


def test_classification_tasks_name_their_labels(rows):
    for row in rows:
        if row["is_classification"]:
            assert all(instance["output"] in row["instruction"] for instance in row["instances"]), row["name"]


@pytest.mark.parametrize("tokenize", [rouge_tokens, unicode_tokens])
def test_no_two_instructions_are_close(rows, tokenize):
    tokens = [(row["name"], tokenize(row["instruction"])) for row in rows]
    close = [(a, b) for (a, x), (b, y) in itertools.combinations(tokens, 2) if rouge_l(x, y) >= 0.7]
    assert not close


def test_fast_score_is_the_one_of_rouge_score(rows):
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    texts = [row["instruction"] for row in rows]
    pairs = random.Random(0).sample(list(itertools.combinations(texts, 2)), 500)
    for first, second in [*pairs, (texts[0], texts[0]), (texts[0], texts[0] + " and why")]:
        expected = scorer.score(first, second)["rougeL"].fmeasure
        assert rouge_l(rouge_tokens(first), rouge_tokens(second)) == pytest.approx(expected, abs=1e-12)


def test_languages_and_scripts(rows):
    foreign = [row for row in rows if language(row) != "en"]
    assert len(foreign) >= 15 and {language(row) for row in foreign} == set(SCRIPTS)
    for row in rows:
        scripts, words = scripts_of(row["instruction"]), set(rouge_tokens(row["instruction"]))
        expected = SCRIPTS.get(language(row)) or "LATIN"
        assert expected in scripts and (expected == "LATIN" or "LATIN" not in scripts), row["name"]
        if expected == "LATIN":
            assert bool(words & ENGLISH_WORDS) == (language(row) == "en"), row["name"]
        if language(row) == "zh":
            assert scripts == {"CJK"}, row["name"]


def test_english_tasks_open_in_many_ways(rows):
    openers = {rouge_tokens(row["instruction"])[0] for row in rows if language(row) == "en"}
    assert len(openers - NOT_VERBS) >= 80


def test_code_and_json_in_the_outputs_can_be_read(rows):
    checked = 0
    for row in rows:
        for instance in row["instances"]:
            for block in re.findall(r"```python\n(.*?)```", instance["output"], re.DOTALL):
                ast.parse(block)
                checked += 1
            if re.search(r"JSON (array|object)", row["instruction"]):
                json.loads(instance["output"])
                checked += 1
    assert checked >= 8
