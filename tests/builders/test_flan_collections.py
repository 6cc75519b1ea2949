"""Existing collections become the same records: Super-NaturalInstructions, P3 / T0, CoT files, rendered FLAN."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from instruct_builders import Flan
from instruct_builders.errors import ConfigError, SourceError

NIV2 = {
    "Contributors": ["A. Person"],
    "Categories": ["Question Answering"],
    "Domains": ["Nature"],
    "Definition": ["Answer the question about animals."],
    "Positive Examples": [
        {"input": f"What says sound {n}?", "output": f"animal {n}", "explanation": f"It says {n}."} for n in range(3)
    ],
    "Negative Examples": [{"input": "What barks?", "output": "a cat", "explanation": "A cat does not bark."}],
    "Instances": [
        {"id": "a", "input": "What says sound 1?", "output": ["animal 1"]},  # also a positive example
        {"id": "b", "input": "What lays eggs?", "output": ["a hen", "an owl"]},
        {"id": "c", "input": "What is it?", "output": []},
        {"id": "d", "output": ["x"]},
        {"id": "e", "input": "What has a shell?", "output": "a snail"},
    ],
    "Instance License": ["Apache 2.0", "CC BY-NC 4.0"],
}


@pytest.fixture
def flan(tmp_path):
    def run(data_files, collection, num_proc=None, **options):
        options = {"max_bad_fraction": 1, **options}
        builder = Flan(str(data_files), collection=collection, cache_dir=str(tmp_path / "cache"), **options)
        builder.download_and_prepare(num_proc=num_proc)
        return builder

    return run


def texts(builder, split="train") -> list[tuple[str, str]]:
    return [tuple(turn["content"] for turn in row["messages"]) for row in builder.as_dataset(split=split)]


def test_niv2_gives_definition_and_positive_examples(flan, tmp_path):
    path = tmp_path / "task900_animals.json"
    path.write_text(json.dumps(NIV2))
    builder = flan(path, "niv2")
    data = builder.as_dataset(split="train")
    assert texts(builder)[1] == ("Answer the question about animals.\n\nInput: What lays eggs?\nOutput:", "a hen")
    assert data[1]["template"] == "niv2/definition" and data[1]["task"] == "task900_animals"
    assert data[1]["meta"]["answers"] == ["a hen", "an owl"] and data[1]["meta"]["category"] == "Question Answering"
    assert data[1]["license"] == "cc-by-nc-4.0"
    assert texts(builder)[2][1] == "a snail"
    assert [(line["row"], line["reason"]) for line in builder.rejected] == [(2, "null_field"), (3, "null_field")]

    few = flan(path, "niv2", shots=2)
    own, other, _ = texts(few)
    assert other[0] == (
        "Answer the question about animals.\n\n"
        "Input: What says sound 0?\nOutput: animal 0\n\n"
        "Input: What says sound 1?\nOutput: animal 1\n\n"
        "Input: What lays eggs?\nOutput:"
    )
    assert "animal 1" not in own[0] and "animal 0" in own[0] and "animal 2" in own[0]
    assert few.as_dataset(split="train")[0]["template"] == "niv2/definition+2"

    full = flan(path, "niv2", shots=1, explanations=True, negatives=1)
    prompt = texts(full)[1][0]
    assert "Output: a cat\nWhy not: A cat does not bark." in prompt
    assert "Output: animal 0\nExplanation: It says 0.\n\nInput: What lays eggs?\nOutput:" in prompt
    assert full.as_dataset(split="train")[1]["template"] == "niv2/definition-1+1+explanations"


def test_a_niv2_test_row_is_no_exemplar(flan, tmp_path):
    instances = [{"id": str(n), "input": f"What says sound {n}?", "output": [f"animal {n}"]} for n in range(3)]
    (tmp_path / "t.json").write_text(json.dumps({**NIV2, "Instances": instances}))
    builder = flan(tmp_path / "t.json", "niv2", shots=3, test_size=1)
    ((held, answer),) = texts(builder, "test")
    assert answer not in held
    assert all(answer not in prompt for prompt, _ in texts(builder))


def test_a_positive_example_is_told_by_what_it_asks(flan, tmp_path):
    asked = "  Two lines:\nWhat says sound 1?\n"  # an input of several lines keeps the blanks of its first
    entry = {**NIV2, "Positive Examples": [{"input": asked, "output": "animal 1"}, *NIV2["Positive Examples"]]}
    (tmp_path / "t.json").write_text(json.dumps({**entry, "Instances": [{"input": asked, "output": ["animal 1"]}]}))
    ((prompt, _),) = texts(flan(tmp_path / "t.json", "niv2", shots=1))
    assert prompt.count("Two lines") == 1 and "animal 0" in prompt


def test_a_niv2_file_that_has_changed_is_read_anew(flan, tmp_path):
    for word in ("owl", "eel"):
        text = json.dumps({**NIV2, "Instances": [{"input": f"What is an {word}?", "output": [word]}]})
        (tmp_path / "t.json").write_text(text)
        assert [answer for _, answer in texts(flan(tmp_path / "t.json", "niv2"))] == [word]


def test_tasks_in_one_niv2_file_hold_out_rows_of_their_own(flan, tmp_path):
    """Row 3 of one task is not row 3 of another, though the file is the same."""
    tasks = {
        f"task{n}": {
            "Definition": ["Name it."],
            "Positive Examples": [],
            "Instances": [{"input": f"Input {row} of {n}", "output": ["x"]} for row in range(40)],
        }
        for n in range(2)
    }
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    test = flan(tmp_path / "tasks.json", "niv2", test_size=0.4).as_dataset(split="test")
    held = [{row["messages"][0]["content"].split()[-4] for row in test if row["task"] == name} for name in tasks]
    assert all(8 <= len(found) <= 24 for found in held) and held[0] != held[1]


@pytest.mark.parametrize("options", [{}, {"setting": "fs_noopt", "shots": 4}], ids=["zero-shot", "few-shot"])
def test_chains_of_one_question_are_on_one_side(flan, tmp_path, options):
    lines = [f"Is question{n}x so?\t{n % 5}\tReason {chain}.\n" for n in range(300) for chain in range(3)]
    (tmp_path / "sums.tsv").write_text("".join(lines))
    splits = flan(tmp_path / "sums.tsv", "cot", cot=False, test_size=0.2, **options).as_dataset()
    asked = {
        name: [re.findall(r"question\d+x", " ".join(turn["content"] for turn in row["messages"])) for row in split]
        for name, split in splits.items()
    }
    held = {found[-1] for found in asked["test"]}
    assert 40 <= len(held) <= 80 and len(splits["test"]) == 3 * len(held) == 3 * len(set(splits["test"]["parent"]))
    assert not held & {text for found in asked["train"] for text in found}
    for *shots, own in [*asked["train"], *asked["test"]]:
        assert own not in shots and not held & set(shots) and len(set(shots)) == options.get("shots", 0)


def test_p3_rows_lose_what_belongs_to_a_training_script(flan, tmp_path):
    rows = [
        {"prompt": "Is it?\n", "completion": "yes<|endoftext|>"},
        {"prompt": "Is it\nnot?\n", "completion": "no<|endoftext|>"},
        {"prompt": "Well?\n", "completion": "<|endoftext|>"},
    ]
    (tmp_path / "some_template.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    builder = flan(tmp_path / "some_template.jsonl", "p3")
    assert texts(builder) == [("Is it?", "yes"), ("Is it\nnot?", "no")]
    assert [(line["row"], line["reason"]) for line in builder.rejected] == [(2, "empty_output")]
    row = builder.as_dataset(split="train")[0]
    assert (row["task"], row["template"], row["meta"]) == ("some_template", "p3/some_template", {"shots": 0})

    table = {
        "inputs": [[1, 2]],
        "inputs_pretokenized": [" Is it? "],
        "targets": [[3]],
        "targets_pretokenized": ["\nyes"],
    }
    pq.write_table(pa.table(table), tmp_path / "super_glue_x.parquet")
    assert texts(flan(tmp_path / "super_glue_x.parquet", "p3")) == [("Is it?", "yes")]


def test_cot_files_have_no_header_and_their_line_breaks_are_literal(flan, tmp_path):
    (tmp_path / "sums_train.tsv").write_text('One?\\nOr "two\t1\tBecause.\\nSo.\nTwo?\t2\tSince.\nThree?\t3\n')
    builder = flan(tmp_path / "sums_train.tsv", "cot", cot=True)
    data = builder.as_dataset(split="train")
    prompt, answer = texts(builder)[0]
    assert 'One?\nOr "two' in prompt and answer.startswith("Because.\nSo.") and answer.endswith("1")
    assert data[0]["template"] == "sums_train/cot-0" and data[0]["meta"]["cot"] is True
    assert [(line["row"], line["line"]) for line in builder.rejected] == [(2, 3)]
    plain = flan(tmp_path / "sums_train.tsv", "cot", inverted=0.0)
    assert texts(plain)[1][1] == "2" and "Since" not in str(texts(plain))


def test_rendered_flan_keeps_its_task_and_template_type(flan, tmp_path):
    table = {
        "inputs": ["Is it so?", "And so?"],
        "targets": ["yes", "no"],
        "task_source": ["Flan2021", "CoT"],
        "task_name": ["glue/rte:2.0.0", "cot_gsm8k"],
        "template_type": ["zs_opt", "fs_noopt"],
    }
    pq.write_table(pa.table(table), tmp_path / "train-00000-of-00002.parquet")
    (tmp_path / "train-00001-of-00002.jsonl").write_text(json.dumps({key: value[0] for key, value in table.items()}))
    builder = flan(tmp_path, "flan")
    data = builder.as_dataset(split="train")
    assert data["task"] == ["glue/rte:2.0.0", "cot_gsm8k", "glue/rte:2.0.0"]
    assert data["template"] == ["flan/zs_opt", "flan/fs_noopt", "flan/zs_opt"]
    assert data[1]["meta"] == {"setting": "fs_noopt", "task_source": "CoT", "template_type": "fs_noopt"}
    assert texts(builder)[1] == ("And so?", "no")
    assert len(builder.account["files"]) == 2
    with pytest.raises(ConfigError, match="have theirs in their text"):
        flan(tmp_path, "flan", shots=2)


def test_a_file_of_another_collection_is_left_out_by_name(flan, tmp_path):
    folder = tmp_path / "niv2"
    folder.mkdir()
    (folder / "good.json").write_text(json.dumps(NIV2))
    (folder / "list.json").write_text("[1]")
    (folder / "cut.json").write_text('{"Definition": ["x"')
    (folder / "bare.json").write_text('{"Definition": ["x"], "Instances": []}')
    builder = flan(folder, "niv2")
    assert {entry["task"] for entry in builder.left_out} == {"list", "cut", "bare"}
    assert set(builder.as_dataset(split="train")["task"]) == {"good"}
    with pytest.raises(SourceError, match="strict=True, and the task"):
        flan(folder, "niv2", strict=True)
    with pytest.raises(SourceError, match="has no column 'prompt'"):
        flan(folder / "bare.json", "p3")


# The real files.


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "options", [{"cot": True}, {"shots": 2, "cot": 0.5, "test_size": 0.1}], ids=["chains", "shots"]
)
def test_real_cot_files(flan, shared_data: Path, options):
    found, data = {}, flan(shared_data / "flan/cot", "cot", max_bad_fraction=0, num_proc=2, **options)
    assert {entry["file"].rsplit("/")[-1]: 0 for entry in data.account["files"]}.keys() == {
        *("gsm8k_train.tsv", "qasc_train.tsv", "strategyqa_train.tsv")
    }
    for path in (shared_data / "flan/cot").glob("*.tsv"):
        with open(path, encoding="utf-8", newline="") as file:
            found[path.stem] = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    splits = data.as_dataset()
    assert sum(splits.num_rows.values()) == sum(map(len, found.values())) == 10_618
    if "test" in splits:
        for name, rows in found.items():
            held = sum(row["task"] == name for row in splits["test"])
            assert abs(held / len(rows) - 0.1) < 0.03
        assert not set(splits["test"]["parent"]) & set(splits["train"]["parent"])
        return
    for name, rows in found.items():
        built = [row for row in splits["train"] if row["task"] == name]
        for (question, answer, chain), row in zip(rows, built, strict=True):
            prompt, target = (turn["content"] for turn in row["messages"])
            assert question.replace("\\n", "\n").strip() in prompt
            assert chain.replace("\\n", "\n").strip() in target and target.endswith(answer.strip())


@pytest.mark.shared_data
def test_real_p3_files(flan, shared_data: Path):
    builder = flan(shared_data / "flan/t0", "p3", max_bad_fraction=0.01, num_proc=2)
    data = builder.as_dataset(split="train")
    assert len(builder.account["files"]) == len(list((shared_data / "flan/t0").glob("*.jsonl"))) == 106
    assert len(set(data["task"])) == 103  # three files have no answer in any row
    assert [entry["reason"] for entry in builder.left_out] == [
        "none of its 200 rows can be used: empty_output 200"
    ] * 3
    assert sum(entry["rows_in"] for entry in builder.account["files"]) == 21_142
    rejected = [line["reason"] for line in builder.rejected]
    assert rejected.count("empty_output") == 600 and set(rejected) == {"empty_output", "control_token"}
    path = shared_data / "flan/t0/glue_mrpc_equivalent.jsonl"
    source = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    built = [row["messages"] for row in data if row["task"] == path.stem]
    assert [(turns[0]["content"], turns[1]["content"]) for turns in built] == [
        (row["prompt"].rstrip(), row["completion"].removesuffix("<|endoftext|>")) for row in source
    ]


@pytest.mark.shared_data
def test_real_niv2_definitions(flan, shared_data: Path):
    path = shared_data / "flan/niv2_definitions.json"
    source = json.loads(path.read_text(encoding="utf-8"))
    data = flan(path, "niv2", shots=2, max_bad_fraction=0.01).as_dataset(split="train")
    assert data["task"] == list(source) and len(data) == 414
    for row in data:
        entry, (prompt, answer) = source[row["task"]], (turn["content"] for turn in row["messages"])
        example = entry["positive_examples"]
        assert prompt.startswith(entry["definition"].strip()) and example["input"].strip() in prompt
        assert answer == example["output"].strip() and row["template"] == "niv2/definition"
