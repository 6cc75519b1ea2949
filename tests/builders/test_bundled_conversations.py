"""The bundled conversations, quickstart pairs and bad rows: well formed, varied, and as data/README.md says."""

from __future__ import annotations

import json
import re
import unicodedata
from importlib import resources

import pytest

from instruct_builders.records import REASONS

DATA = resources.files("instruct_builders").joinpath("data")
ROUND = r"human (function_call observation )?gpt "
HELD_OUT = 20  # the last rows of quickstart_pairs.jsonl
SPECIAL = re.compile(r"<\|?/?\w+\|?>|\[/?INST\]|<<SYS>>|[\x00-\x08\x0b-\x1f\x7f]")


def jsonl(name: str) -> list[dict]:
    return [json.loads(line) for line in DATA.joinpath(name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def conversations() -> list[dict]:
    return jsonl("conversations.jsonl")


@pytest.fixture(scope="module")
def pairs() -> list[dict]:
    return jsonl("quickstart_pairs.jsonl")


def answers(row: dict) -> list[str]:
    return [turn["value"] for turn in row["conversations"] if turn["from"] == "gpt"]


def word_count(text: str) -> int:
    """Words; two Han or kana characters count as one."""
    return len(text.split()) + len(re.findall(r"[\u3040-\u30ff\u4e00-\u9fff]", text)) // 2


def words(*texts: str) -> set[str]:
    return set(re.findall(r"\w+", " ".join(texts).lower()))


def test_conversations_have_the_sharegpt_shape(conversations):
    assert [row["id"] for row in conversations] == [f"conversation_{i}" for i in range(len(conversations))]
    for row in conversations:
        assert set(row) - {"tools"} == {"id", "conversations"}
        assert all(set(turn) == {"from", "value"} for turn in row["conversations"])
        assert all(turn["value"] == turn["value"].strip() != "" for turn in row["conversations"])
        order = "".join(turn["from"] + " " for turn in row["conversations"])
        assert re.fullmatch(rf"(system )?({ROUND}){{2,6}}", order), (row["id"], order)


def test_conversations_are_as_many_and_as_long_as_the_readme_says(conversations):
    assert len(conversations) == 52
    rounds = [len(answers(row)) for row in conversations]
    assert 2.7 <= sum(rounds) / len(rounds) <= 3.5
    assert max(rounds) == 6
    for row in conversations:
        for answer in answers(row):
            assert 20 <= word_count(answer) <= 200, (row["id"], answer)


def test_conversations_are_varied(conversations):
    assert sum(row["conversations"][0]["from"] == "system" for row in conversations) == 7
    assert sum("```" in "".join(answers(row)) for row in conversations) >= 6
    # English answers of this length all say "the": a check on the count, not a language detector.
    others = [row for row in conversations if "the" not in words(*answers(row))]
    assert len(others) == 10
    scripts = {unicodedata.name(letter).split()[0] for row in others for letter in answers(row)[0] if letter.isalpha()}
    assert scripts >= {"LATIN", "CYRILLIC", "ARABIC", "DEVANAGARI", "CJK", "HIRAGANA"}


def test_no_turn_is_said_twice_and_none_holds_a_special_token(conversations):
    turns = [turn["value"] for row in conversations for turn in row["conversations"]]
    assert len(turns) == len(set(turns))
    assert not [turn for turn in turns if SPECIAL.search(turn)]


def test_tool_calls_name_declared_tools(conversations):
    with_calls = 0
    for row in conversations:
        calls = [turn["value"] for turn in row["conversations"] if turn["from"] == "function_call"]
        assert bool(calls) == ("tools" in row), row["id"]
        with_calls += bool(calls)
        declared = {tool["name"]: tool for tool in json.loads(row.get("tools", "[]"))}
        for tool in declared.values():
            assert set(tool) == {"name", "description", "parameters"}
        for text in calls:
            call = json.loads(text)
            assert text == json.dumps(call, ensure_ascii=False), row["id"]
            assert set(call) == {"name", "arguments"}
            parameters = declared[call["name"]]["parameters"]
            assert set(parameters["required"]) <= set(call["arguments"]) <= set(parameters["properties"])
        for turn in row["conversations"]:
            if turn["from"] == "observation":
                json.loads(turn["value"])
    assert with_calls == 7


def test_code_in_conversations_parses(conversations):
    for row in conversations:
        for language, code in re.findall(r"```(\w*)\n(.*?)```", "\n".join(answers(row)), re.DOTALL):
            assert language, row["id"]
            if language == "python":
                compile(code, row["id"], "exec")
            elif language == "json":
                json.loads(code)


def test_pairs_are_short_alpaca_rows(pairs):
    assert len(pairs) == 260
    assert len({(row["instruction"], row["input"]) for row in pairs}) == 260
    for row in pairs:
        assert list(row) == ["instruction", "input", "output"]
        assert all(value == value.strip() and not SPECIAL.search(value) for value in row.values())
        assert 4 <= len(row["instruction"].split()) <= 14
        assert 3 <= len(row["output"].split()) <= 12
        assert row["output"][-1] in ".?!"
    assert 0.2 <= sum(row["input"] != "" for row in pairs) / 260 <= 0.3
    assert 6.5 <= sum(len(row["output"].split()) for row in pairs) / 260 <= 8
    assert 35 <= sum(len(row["output"]) for row in pairs) / 260 <= 60


def test_held_out_answers_can_not_be_taken_from_the_other_pairs(pairs):
    known = words(*(text for row in pairs[:-HELD_OUT] for text in row.values()))
    for row in pairs[-HELD_OUT:]:
        asked = words(row["instruction"], row["input"])
        assert words(row["output"]) - known - asked, row


def test_each_bad_row_has_the_defect_that_the_readme_names():
    lines = DATA.joinpath("quickstart_bad_rows.jsonl").read_bytes().splitlines()
    table = re.findall(r"^\| (\d+) \|.*\| `(\w+)` \|$", DATA.joinpath("README.md").read_text("utf-8"), re.MULTILINE)
    assert [int(number) for number, _ in table] == list(range(1, len(lines) + 1)) == list(range(1, 13))
    reasons = [reason for _, reason in table]
    assert set(reasons) <= set(REASONS)
    assert reasons == [defect(line) for line in lines]


def defect(line: bytes) -> str:
    """The reason code of one Alpaca line, found without the package's reader."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return "bad_utf8"
    except json.JSONDecodeError:
        return "bad_json"
    if not isinstance(row, dict):
        return "schema"
    output = row.get("output")
    if output is None or "instruction" not in row:  # comes before `schema` for columns of another format
        return "null_field"
    if not isinstance(output, str):
        return "non_string"
    text = "".join(row.values())
    found = {
        "empty_output": not output,
        "lone_surrogate": any("\ud800" <= letter <= "\udfff" for letter in text),
        "nul": "\0" in text,
        "control_token": "<|im_end|>" in text,
    }
    assert sum(found.values()) == 1, line
    return next(reason for reason, is_it in found.items() if is_it)
