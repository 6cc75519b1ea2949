"""Quality on real data, and the numbers that reports draw: verbs and objects, lengths, scores."""

from __future__ import annotations

import json
from collections import Counter

import pyarrow as pa
import pytest

from instruct_builders import transforms
from instruct_builders.transforms.quality import CHECKS, distributions, pairs_of


def rows(*pairs, **columns) -> pa.Table:
    messages = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in pairs]
    return pa.table({"messages": pa.array(messages), **columns})


def reasons(table: pa.Table) -> list:
    return [row and row["reason"] for row in table["rejected"].to_pylist()]


def alpaca(folder, name: str) -> pa.Table:
    written = json.loads((folder / "alpaca" / name).read_text("utf-8"))
    pairs = [(row["instruction"], row["output"]) for row in written]
    return rows(*pairs, context=pa.array([row["input"] for row in written]))


# What a person who read the rejected rows found there: by far the most are real defects (refusals, `noinput`, cut
# ends). A bound that is passed means a check has begun to raise false alarms; far fewer mean that one has gone blind.
BOUNDS = {
    "alpaca_en_demo.json": Counter(
        refusal=28, no_input_marker=8, url_claimed=7, truncated_output=6, open_code_fence=1
    ),
    "alpaca_zh_demo.json": Counter(
        refusal=30,
        wrong_language=5,
        truncated_output=5,
        open_code_fence=1,
        answer_in_instruction=1,
        instruction_echoed=1,
    ),
    "identity.json": Counter(),  # "I am an AI assistant ..." ninety times, and no refusal
}


@pytest.mark.shared_data
@pytest.mark.parametrize("name", BOUNDS)
def test_false_alarms_on_real_data_are_few(shared_data, name):
    table = alpaca(shared_data, name)
    table, (account,) = transforms.apply(table, ["quality"])
    print(name, table.num_rows, "rows, rejected:", account["rejected"])
    least = Counter({reason: most // 2 for reason, most in BOUNDS[name].items() if most > 3})
    assert not least - Counter(account["rejected"])
    beyond = Counter(account["rejected"]) - BOUNDS[name]
    assert not beyond and account["rows_out"] >= 0.95 * table.num_rows


@pytest.mark.shared_data
def test_false_alarms_on_real_sums_are_few(shared_data):
    """GSM8K's explanations: of thousands of sums, the few that are found are mostly slips of their authors."""
    lines = (shared_data / "flan" / "cot" / "gsm8k_train.tsv").read_text("utf-8").splitlines()[:2500]
    parts = [line.split("\t") for line in lines]
    table = rows(*((part[0], part[2].replace("\\n", "\n")) for part in parts if len(part) > 2))
    found = CHECKS["wrong_arithmetic"](pairs_of(table)).drop_null().to_pylist()
    print(table.num_rows, "rows,", len(found), "with a wrong sum:", found)
    assert 1 <= len(found) <= 8


SAID = "The tallest mountain on the whole planet is Mount Everest in Asia."
# Of 40: rows whose own question asks for sums, repetition, correction or talks of crime excuse what is planted.
MAY_MISS = {
    "truncated_output": 2,
    "wrong_arithmetic": 4,
    "harmful": 4,
    "repeated_ngrams": 4,
    "instruction_echoed": 12,
    "media_reference": 8,
}


@pytest.mark.shared_data
def test_defects_planted_in_real_rows_are_found(shared_data):
    """One defect of each kind, put into the same 40 real rows: how many are missed."""
    table = alpaca(shared_data, "alpaca_en_demo.json")
    table, _ = transforms.apply(table, ["quality"])
    clean = table.filter(pa.array([reason is None for reason in reasons(table)])).slice(0, 40)
    pairs = [tuple(turn["content"] for turn in row) for row in clean["messages"].to_pylist()]
    plants = {
        "merged_rows": lambda q, a: (q, f"{a}\n\n7. Instruction: Name a bird.\nOutput: Owl"),
        "open_code_fence": lambda q, a: (q, f"{a}\n```python\nprint(1)"),
        "control_character": lambda q, a: (q, a[:5] + "\x1b" + a[5:]),
        "repeated_ngrams": lambda q, a: (q, a + " and it goes on" * (6 + len(a) // 20)),
        "refusal": lambda q, a: (q, f"As an AI language model, I do not have opinions, but {a}"),
        "wrong_arithmetic": lambda q, a: (q, f"{a} That makes 17 + 4 = 22."),
        "harmful": lambda q, a: (q, f"{a} Now you know how to build a bomb."),
        "empty_output": lambda q, a: (q, "N/A"),
        "no_input_marker": lambda q, a: (f"{q}\n<no input>", a),
        "truncated_output": lambda q, a: (q, f"{a} " + "It has many parts. " * 6 + "This is so because the"),
        "answer_in_instruction": lambda q, a: (f"Is it so? {SAID}", SAID.lower()),
        "instruction_echoed": lambda q, a: (f"Tell me why. {q}", f"Tell me why. {q}"),
        "url_claimed": lambda q, a: ("Summarize https://example.org/a.html", f"{SAID} {SAID} {a}"),
        "media_reference": lambda q, a: (f"Describe the image. {q}", a),
        "wrong_language": lambda q, a: (SAID, "这座城市有着悠久的历史，曾经是许多朝代的首都，城市里有很多宫殿。"),
    }
    assert plants.keys() == CHECKS.keys() - {"toxic"}
    for reason, plant in plants.items():
        found = CHECKS[reason](pairs_of(rows(*[plant(*pair) for pair in pairs])))
        print(reason, found.null_count, "of", len(pairs), "missed")
        assert found.null_count <= MAY_MISS.get(reason, 0)


@pytest.mark.shared_data
def test_verbs_and_objects_of_real_instructions(shared_data):
    table, summary = distributions.verb_objects(alpaca(shared_data, "alpaca_en_demo.json"))
    assert summary["with_pair"] + summary["without"] == summary["instructions"] == 999
    assert summary["with_pair"] > 600
    common = {(row["verb"], row["object"]) for row in table.to_pylist()}
    assert {("generate", "list"), ("write", "story"), ("give", "example"), ("rewrite", "sentence")} <= common


def test_verbs_and_objects():
    asked = [
        *["Write a short story about a dog.", "Please write two stories for children.", "Can you write an essay?"],
        *["Give me three tips for staying healthy.", "What is a dog?", "Explain why.", "写一个故事。", ""],
    ]
    table, summary = distributions.verb_objects(rows(*((text, "x") for text in asked)))
    assert [(row["verb"], row["object"], row["count"], row["verb_count"]) for row in table.to_pylist()] == [
        ("write", "story", 2, 3),
        ("write", "essay", 1, 3),
        ("give", "tip", 1, 1),
    ]
    assert summary == {"instructions": 8, "with_pair": 4, "without": 4, "verbs": 2, "pairs": 3, "entropy": 1.5}


def test_lengths_per_task():
    table = rows(("a b c", "one"), ("a", ""), ("你好吗", "x y"), task=pa.array(["t", "t", None]))
    found = {(row["group"], row["text"]): row for row in distributions.lengths(table).to_pylist()}
    assert found["t", "prompt"]["counts"] == [0, 1, 1] and found["t", "prompt"]["quartiles"] == [1, 1.5, 2, 2.5, 3]
    assert found["t", "answer"]["counts"] == [1, 1] and found["t", "answer"]["pairs"] == 2
    assert found[None, "prompt"]["counts"] == [0, 0, 1]  # three characters count as three words
    assert distributions.lengths(table.drop_columns("task"))["pairs"].to_pylist() == [3, 3]


def test_score_histograms():
    table = pa.table({"x": [0.0, 0.5, 1.0, None]})
    assert distributions.score_histograms(table, bins=2).to_pylist() == [
        {"score": "x", "mean": 0.5, "missing": 1, "counts": [1, 2]}
    ]
