"""FLAN's splits: a question is on one side, whatever task, answer, order of options or build it is asked in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from flan_tasks import rows, task, texts, write_jsonl

from instruct_builders import Flan, pipeline
from instruct_builders.errors import SourceError


def test_whole_examples_are_held_out_and_never_exemplars(flan):
    found = [*rows(60), *rows(60)]  # each example twice
    builder = flan(found, test_size=0.25, shots=4, templates_per_row=2, setting="fs_noopt")
    train, test = builder.as_dataset(split="train"), builder.as_dataset(split="test")
    assert not set(train["parent"]) & set(test["parent"])
    questions = len(set(test["parent"]))
    assert 5 <= questions <= 25 and len(test) == questions * 2 * 2
    held = {row["messages"][0]["content"].split("\n\n")[-1] for row in test if not row["meta"]["inverted"]}
    held = {prompt.split("Text ")[1].split()[0] for prompt in held}
    for row in [*train, *test]:
        shots = row["messages"][0]["content"].split("\n\n")[:-1]
        assert not {shot.split("Text ")[1].split()[0] for shot in shots} & held
    entries = {entry["split"]: entry for entry in builder.account["files"]}
    assert entries["test"]["rows_in"] == 2 * questions and entries["train"]["rows_in"] == 120 - 2 * questions


def test_a_question_is_on_one_side_whatever_its_answer_or_the_order_of_its_options(flan):
    spec = task(answer={"column": "mood"}, options={"column": "moods"})
    moods = ["good", "bad", "so so"]
    found = [
        {"text": row["text"], "mood": moods[turn], "moods": moods[turn:] + moods[:turn]}
        for row in rows(80)
        for turn in range(3)
    ]
    builder = flan(found, spec, test_size=0.3, shots=4, setting="fs_noopt", inverted=0.0)
    splits = builder.as_dataset()
    assert len(splits["test"]) % 3 == 0 and len({*splits["test"]["parent"], *splits["train"]["parent"]}) == 80
    asked = {
        name: [re.findall(r"Text \d+ ", row["messages"][0]["content"]) for row in splits[name]] for name in splits
    }
    held = {texts[-1] for texts in asked["test"]}
    assert len(held) == len(splits["test"]) / 3
    assert not held & {text for texts in asked["train"] for text in texts}
    for *shots, own in [*asked["train"], *asked["test"]]:
        assert own not in shots and len(set(shots)) == len(shots) == 4 and not held & set(shots)


@pytest.fixture
def passages(tmp_path) -> Path:
    """120 rows as SQuAD has them. Every third shares context and answer with the next: one question to generate."""
    found = []
    for n in range(120):
        place = n - n % 3 + min(n % 3, 1)
        context = f"Town{place}. It has key{place} and more."
        found.append(
            {
                "id": str(n),
                "title": f"Town{place}",
                "context": context,
                "question": f"What is there, asks asker{n}x?",
                "answers": {"text": [f"key{place}"], "answer_start": [context.index("key")]},
            }
        )
    return write_jsonl(tmp_path / "passages.jsonl", found)


@pytest.mark.parametrize("size", [0.2, 20])
def test_tasks_over_the_same_file_hold_out_the_same_rows(flan, passages, size):
    tasks = ["squad", "squad_question_generation"]
    files = {name: str(passages) for name in tasks}
    options = {"test_size": size, "shots": 3, "templates_per_row": "all"}
    splits = flan(tasks=tasks, data_files=files, **options).as_dataset()
    asked = {name: [re.findall(r"asker(\d+)x", str(row["messages"])) for row in splits[name]] for name in splits}
    # Every template of both tasks says the question, except those that ask for a key or text from elsewhere.
    held = {texts[-1] for texts in asked["test"] if texts}
    assert 10 <= len(held) <= 50
    for name in tasks:
        test = [row for row in splits["test"] if row["task"] == name]
        assert {asker for row in test for asker in re.findall(r"asker(\d+)x", row["messages"][-1]["content"])} <= held
        assert len(test) == 10 * len(held)
    assert not held & {text for texts in asked["train"] for text in texts}
    assert not held & {text for texts in asked["test"] for text in texts[:-1] if texts[-1] != text}


def test_tasks_hold_out_the_same_rows_in_builds_of_their_own(flan, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [*rows(100), {"text": "hidden", "label": -1}])
    held = []
    for name, changes in {"one": {}, "other": {"columns": {"line": "text"}, "answer": {"column": "text"}}}.items():
        spec = task(**changes) if name == "one" else task(**changes, options=None, templates=asked_of_line())
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(spec))
        builder = flan(tasks=str(tmp_path / f"{name}.yaml"), test_size=0.3, inverted=0.0, setting="zs_noopt")
        test = [prompt for prompt, _ in texts(builder, "test")]
        held.append({re.search(r"Text \d+ of", prompt)[0] for prompt in test if "hidden" not in prompt})
    assert held[0] == held[1] and 15 <= len(held[0]) <= 45


def test_a_task_with_a_test_split_does_not_train_on_what_another_holds_out(flan, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", rows(60))
    write_jsonl(folder / "dev.jsonl", rows(5, start=60))
    for name, splits in {"one": {"train": "train", "test": "dev"}, "two": {"train": "train", "dev": "dev"}}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(task(source={"path": "data", "splits": splits})))
    splits = flan(tasks=str(tmp_path), test_size=0.3).as_dataset()
    asked = {name: [re.search(r"Text \d+ ", str(row["messages"]))[0] for row in splits[name]] for name in splits}
    assert not set(asked["train"]) & set(asked["test"])
    assert len(asked["train"]) + len(asked["test"]) == 60 + 60 + 5 and len(asked["test"]) > 15


def asked_of_line() -> list[dict]:
    asked = [{"input": f"Line {n}: {{line}}", "target": "{answer}"} for n in range(8)]
    return asked + [{"input": f"{n} {{answer}}", "target": "{line}", "inverted": True} for n in range(2)]


def test_a_task_without_a_test_row_has_none_and_says_so(flan, tmp_path, caplog):
    same = [{"text": "same", "label": 0}] * 3
    builder = flan(same, test_size=0.2)
    assert builder.as_dataset().num_rows == {"train": 3}
    assert "no task has a row for the split 'test'" in caplog.text
    (entry,) = builder.account["empty_splits"]
    assert (entry["task"], entry["split"]) == ("mood", "test") and "two questions or more" in entry["reason"]
    assert not builder.left_out
    pipeline.build(Flan(tasks=str(tmp_path / "mood.yaml"), test_size=0.2, format="record", cache_dir=str(tmp_path)))

    write_jsonl(tmp_path / "more.jsonl", rows(9))
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(task(source={"path": "more.jsonl"})))
    builder = flan(tasks=str(tmp_path), test_size=2)
    assert builder.as_dataset().num_rows == {"train": 3 + 7, "test": 2}
    assert [entry["task"] for entry in builder.account["empty_splits"]] == ["mood"]


def test_a_split_that_a_budget_empties_is_left_out(flan, tmp_path, caplog):
    folder = tmp_path / "data"
    folder.mkdir()
    long = [{"text": "long " * 100, "label": 0}] * 2
    spec = task(source={"path": "data", "splits": {"train": "train", "test": "dev"}})
    for train, test in ((rows(5), long), (long, rows(5))):
        write_jsonl(folder / "train.jsonl", train)
        write_jsonl(folder / "dev.jsonl", test)
        if train is long:
            with pytest.raises(SourceError, match="no row to train on is left"):
                flan(None, spec, max_input_chars=90, setting="zs_noopt")
            continue
        builder = flan(None, spec, max_input_chars=90, setting="zs_noopt")
        assert builder.as_dataset().num_rows == {"train": 5} and "no row of the split 'test' is left" in caplog.text
        reason = "no test row: none of its 2 rows can be used: over_budget 2"
        assert builder.account["empty_splits"] == [{"task": "mood", "split": "test", "reason": reason}]
        again = Flan(tasks=str(tmp_path), max_input_chars=90, setting="zs_noopt", cache_dir=str(tmp_path / "cache"))
        again.download_and_prepare()
        assert again.as_dataset().num_rows == {"train": 5}


def test_nothing_to_train_on_is_an_error_with_the_reasons(flan):
    with pytest.raises(
        SourceError, match=r"no task has a row to train on.*\n  mood: none of its 4 rows .* null_field 4"
    ):
        flan([{"text": "x", "label": -1}] * 4)


def test_files_for_a_test_split_alone_are_enough(flan, tmp_path):
    path = write_jsonl(tmp_path / "mine.jsonl", rows(4))
    assert flan(data_files={"test": str(path)}, test_size=0.5).as_dataset().num_rows == {"test": 4}


def test_splits_of_a_local_folder_go_by_the_files_names(flan, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", rows(6))
    write_jsonl(folder / "dev.jsonl", rows(4, start=50))
    spec = task(source={"path": "data", "splits": {"train": "train", "test": "dev"}})
    builder = flan(None, spec, test_size=0.5, setting="fs_noopt")
    assert builder.as_dataset().num_rows == {"train": 6, "test": 4}  # test_size is for tasks without a test split
    with pytest.raises(SourceError, match="no split 'validation'; it has dev, train"):
        flan(None, task(source={"path": "data", "splits": {"train": "train", "test": "validation"}}))


def test_an_exemplar_is_never_a_row_of_the_test_split(flan, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", [*rows(6), *rows(2, start=50)])  # the source's own overlap
    write_jsonl(folder / "dev.jsonl", rows(4, start=50))
    spec = task(source={"path": "data", "splits": {"train": "train", "test": "dev"}})
    builder = flan(None, spec, setting="fs_noopt", shots=6, inverted=0.0)
    for split, many in (("train", 5), ("test", 6)):
        for row in builder.as_dataset(split=split).select(range(4)):
            *shots, _ = row["messages"][0]["content"].split("\n\n")
            assert len(shots) == row["meta"]["shots"] == many
            assert "Text 5" not in "".join(shots).replace("Text 5 ", "")


def test_a_pipeline_build_has_licenses_and_counts(tmp_path):
    builder = Flan("bundled", tasks=["rte", "gsm8k"], format="record", cache_dir=str(tmp_path), test_size=1)
    built = pipeline.build(builder)
    assert {split: len(data) for split, data in built.splits.items()} == {"train": 6, "test": 2}
    assert [(entry["rows_in"], entry["rows_out"], entry["license"]) for entry in built.build["sources"]] == [
        *[(3, 3, "apache-2.0")] * 2,
        *[(1, 1, "apache-2.0")] * 2,
    ]
