"""Flan as a user sees it: records, settings, splits, accounts, and bad rows and sources that are said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from instruct_builders import Flan, load_dataset, pipeline
from instruct_builders.errors import ConfigError, SourceError, TooManyRejected

ANIMALS = ("dog", "cat", "owl", "eel", "ant", "bee", "cow", "fox", "hen", "jay")


def templates(prompt: str = "Case {n}.\n{{text}}\n\n{{options_}}") -> list[dict]:
    asked = [{"input": prompt.format(n=n), "target": "{answer}"} for n in range(8)]
    return [
        *asked,
        {"input": "Give a text that is {answer}.", "target": "{text}", "inverted": True},
        {"input": "{answer}\nWhat text may that be said of?", "target": "{text}", "inverted": True},
    ]


def task(**changes) -> dict:
    found = {
        "category": "sentiment",
        "kind": "NLU",
        "metric": "accuracy",
        "license": "cc-by-4.0",
        "source": {"path": "rows.jsonl"},
        "columns": {"text": "text"},
        "answer": {"column": "label", "as": "index"},
        "options": {"texts": ["good", "bad"]},
        "templates": templates(),
        **changes,
    }
    return {key: value for key, value in found.items() if value is not None}


def rows(count: int, start: int = 0) -> list[dict]:
    return [{"text": f"Text {n} of a {ANIMALS[n % 10]}.", "label": n % 2} for n in range(start, start + count)]


def write_jsonl(path: Path, found: list) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in found))
    return path


@pytest.fixture
def flan(tmp_path):
    """Builds a task of the given rows, or the given ones; returns the builder."""

    def run(found=None, spec=None, num_proc=None, **options):
        if "tasks" not in options and "collection" not in options:
            (tmp_path / "mood.yaml").write_text(yaml.safe_dump(spec or task(), sort_keys=False))
            if found is not None:
                write_jsonl(tmp_path / "rows.jsonl", found)
            options["tasks"] = str(tmp_path / "mood.yaml")
        builder = Flan(cache_dir=str(tmp_path / "cache"), **options)
        builder.download_and_prepare(num_proc=num_proc)
        return builder

    return run


def texts(builder, split="train") -> list[tuple[str, str]]:
    return [tuple(turn["content"] for turn in row["messages"]) for row in builder.as_dataset(split=split)]


def test_a_row_is_rendered_with_its_provenance(flan):
    builder = flan(rows(12), option_style="plain")
    data = builder.as_dataset(split="train")
    assert texts(builder)[0] == ("Case 0.\nText 0 of a dog.\n\nOptions:\n- good\n- bad", "good")
    assert texts(builder)[8] == ("Give a text that is good.", "Text 8 of a hen.")
    assert [row["template"] for row in data] == [f"mood/{n % 10}" for n in range(12)]
    assert data[0]["task"] == "mood" and data[0]["license"] == "cc-by-4.0"
    assert data[0]["source"].startswith("rows.jsonl sha256:")
    assert data[0]["meta"] == {
        **{"category": "sentiment", "kind": "NLU", "metric": "accuracy", "setting": "zs_opt", "shots": 0},
        **{"option_style": "-", "inverted": False, "cot": False},
    }
    assert data[8]["meta"]["inverted"] is True and data[8]["meta"]["setting"] == "zs_noopt"
    assert len(data[0]["parent"]) == 32 and data[0]["parent"] != data[0]["id"]


def test_without_options_the_block_goes_with_its_line_breaks(flan):
    builder = flan(rows(4), setting="zs_noopt")
    assert texts(builder)[1] == ("Case 1.\nText 1 of a cat.", "bad")
    assert builder.as_dataset(split="train")[1]["meta"]["setting"] == "zs_noopt"


def test_labels_are_the_target_where_they_are_shown(flan):
    seen = set()
    for row in flan(rows(200)).as_dataset(split="train"):
        (prompt, answer), style = (turn["content"] for turn in row["messages"]), row["meta"].get("option_style")
        if row["meta"]["inverted"]:
            assert style is None
            continue
        wanted = ("good", "bad")[int(prompt.split("Text ")[1].split()[0]) % 2]
        line = next(line for line in prompt.split("\n") if line.endswith(f" {wanted}"))
        seen.add(style)
        assert answer == wanted if style in ("-", "*", "•") else line.startswith(answer) and answer != wanted
    assert len(seen) > 8
    texts_only = flan(rows(200), option_target="text")
    assert {answer for prompt, answer in texts(texts_only) if "Case" in prompt} == {"good", "bad"}


@pytest.mark.parametrize("format", ["alpaca", "sharegpt", "prompt_completion", "record"])
def test_every_format_comes_out(flan, format):
    builder = flan(rows(4), format=format, setting="zs_noopt")
    row = builder.as_dataset(split="train")[0]
    assert "Text 0 of a dog." in json.dumps(row) and row["task"] == "mood" and row["template"] == "mood/0"


def test_load_dataset_knows_flan(tmp_path):
    data = load_dataset("flan", tasks=["rte", "gsm8k"], data_files="bundled", cache_dir=str(tmp_path), seed=3)
    assert data["train"].num_rows == 8
    assert set(data["train"]["task"]) == {"rte", "gsm8k"} and set(data["train"]["license"]) == {"apache-2.0"}


@pytest.mark.parametrize("options", [{}, {"shots": [1, 3], "templates_per_row": 2}], ids=["zero-shot", "few-shot"])
def test_the_rows_are_the_same_on_any_number_of_processes(flan, options, tmp_path):
    options = {"tasks": ["rte", "snli", "gsm8k", "mbpp"], "data_files": "bundled", **options}
    alone = flan(**options)
    data, account = alone.as_dataset(split="train").to_list(), alone.account
    for many in (2, 3):
        other = Flan(cache_dir=str(tmp_path / f"cache{many}"), **options)
        other.download_and_prepare(num_proc=many)
        assert other.as_dataset(split="train").to_list() == data
        assert other.account == account


def test_another_seed_is_another_cache_and_other_rows(flan):
    one, other = flan(rows(40), assignment="random", seed=1), flan(rows(40), assignment="random", seed=2)
    assert one._cache_dir != other._cache_dir
    assert texts(one) != texts(other)


def test_an_edited_task_file_is_not_served_from_the_cache(flan, tmp_path):
    before = flan(rows(4), option_style="plain")
    after = flan(rows(4), task(options={"texts": ["fine", "poor"]}), option_style="plain")
    assert before._cache_dir != after._cache_dir
    assert texts(after)[0][1] == "fine"


def test_templates_per_row_and_the_account(flan):
    builder = flan(rows(5), templates_per_row="all")
    data = builder.as_dataset(split="train")
    assert len(data) == 50 and len(set(data["parent"])) == 5
    assert {row["template"] for row in data} == {f"mood/{n}" for n in range(10)}
    (entry,) = builder.account["files"]
    assert {key: entry[key] for key in ("rows_in", "added", "rows_out", "rejected", "task")} == {
        **{"rows_in": 5, "added": 45, "rows_out": 50, "rejected": {}, "task": "mood"},
    }


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_inverted_templates_is_as_asked(flan, share):
    data = flan(rows(600), inverted=share).as_dataset(split="train")
    assert abs(sum(meta["inverted"] for meta in data["meta"]) / 600 - share) < 0.06


def test_chains_of_thought_are_asked_for_or_not(flan):
    cot = [{"input": f"Think, {n}.\n{{text}}", "target": "{chain}\nSo: {answer}"} for n in range(10)]
    spec = task(chain={"column": "why"}, cot_templates=cot)
    found = [{**row, "why": f"Reason {n}."} for n, row in enumerate(rows(400))]
    none, every, some = (flan(found, spec, cot=share).as_dataset(split="train") for share in (False, True, 0.25))
    assert not any(meta["cot"] for meta in none["meta"]) and all(meta["cot"] for meta in every["meta"])
    assert abs(sum(meta["cot"] for meta in some["meta"]) / 400 - 0.25) < 0.08
    assert every[3]["template"] == "mood/cot-3"
    assert every[3]["messages"][1]["content"] == "Reason 3.\nSo: bad"


# Splits.


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


# What goes wrong.


def test_bad_rows_are_rejected_with_their_reason_and_place(flan):
    found = [
        *rows(2),
        {"text": "hidden", "label": -1},
        {"text": "none", "label": None},
        {"text": None, "label": 0},
        {"text": "out of range", "label": 2},
        {"label": 1},
        '{"text": broken',
    ]
    builder = flan(found, max_bad_fraction=1)
    assert [(line["row"], line["reason"], line["field"]) for line in builder.rejected] == [
        (2, "null_field", "label"),
        (3, "null_field", "label"),
        (4, "null_field", "text"),
        (5, "answer_not_in_options", "label"),
        (6, "null_field", "text"),
        (7, "bad_json", None),
    ]
    (entry,) = builder.account["files"]
    assert (entry["rows_in"], entry["rows_out"]) == (8, 2)
    with pytest.raises(TooManyRejected, match="6 of 8 rows were rejected"):
        flan(found)
    with pytest.raises(TooManyRejected, match=r"strict=True, .*null_field in label"):
        flan(found, strict=True)


def test_an_answer_that_is_none_of_the_options(flan):
    spec = task(answer={"column": "mood"}, options={"column": "moods"})
    found = [{**row, "moods": ["good", "bad", "so so"], "mood": "so so"} for row in rows(3)]
    found.append({"text": "x", "moods": ["good", "bad"], "mood": "great"})
    found.append({"text": "x", "moods": [], "mood": "great"})
    builder = flan(found, spec, max_bad_fraction=1, option_style="plain")
    assert texts(builder)[0] == ("Case 0.\nText 0 of a dog.\n\nOptions:\n- good\n- bad\n- so so", "so so")
    assert [line["reason"] for line in builder.rejected] == ["answer_not_in_options", "null_field"]


def test_a_budget_smaller_than_the_row_is_a_counted_reason(flan):
    found = [*rows(20), {"text": "long " * 100, "label": 0}]
    builder = flan(found, setting="fs_noopt", shots=4, max_input_chars=90, max_bad_fraction=1)
    data = builder.as_dataset(split="train")
    assert [(line["row"], line["reason"]) for line in builder.rejected] == [(20, "over_budget")]
    for row in data:
        prompt = row["messages"][0]["content"]
        assert len(prompt) <= 90
        assert row["meta"]["shots"] == prompt.count("\n\n")
    assert 0 < sum(meta["shots"] for meta in data["meta"]) / len(data) < 4
    words = flan(found, setting="fs_noopt", shots=4, max_input_tokens=20, count_tokens=count_words, max_bad_fraction=1)
    assert all(len(prompt.split()) <= 20 for prompt, _ in texts(words))


def test_only_bad_rows_of_tasks_that_are_used_count_as_bad(flan, tmp_path):
    """A budget is a filter, and a task that is left out has its reason said."""
    flan([*rows(20), *[{"text": "long " * 100, "label": 0}] * 3], setting="fs_noopt", max_input_chars=90)
    with pytest.raises(TooManyRejected, match="3 of 3 rows"):
        flan([{"text": "long " * 100, "label": 0}] * 3, setting="zs_noopt", max_input_chars=90)
    write_jsonl(tmp_path / "rows.jsonl", rows(9))
    write_jsonl(tmp_path / "hidden.jsonl", [{"text": "x", "label": -1}] * 50)
    (tmp_path / "hidden.yaml").write_text(yaml.safe_dump(task(source={"path": "hidden.jsonl"})))
    builder = flan(tasks=str(tmp_path))
    assert [entry["reason"] for entry in builder.left_out] == ["none of its 50 rows can be used: null_field 50"]
    assert sum(entry["rows_in"] for entry in builder.account["files"]) == 59 and len(builder.rejected) == 50


def count_words(given: list[str]) -> list[int]:
    return [len(text.split()) for text in given]


def test_a_task_that_can_not_be_read_is_left_out(flan, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", rows(4))
    write_jsonl(tmp_path / "other.jsonl", [{"txt": "a", "label": 1}])
    pq.write_table(pa.table({"text": [1.5], "label": [{"a": 1}]}), tmp_path / "odd.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"text": [b"\xff\xfe"], "label": [1]}), tmp_path / "binary.parquet")
    pq.write_table(pa.table({"text": ["a b c"] * 99, "label": [1] * 99}), tmp_path / "torn.parquet")
    torn = bytearray((tmp_path / "torn.parquet").read_bytes())
    torn[4:60] = b"\xff" * 56  # the pages; the footer with the schema is whole
    (tmp_path / "torn.parquet").write_bytes(torn)
    sources = {"good": "rows.jsonl", "gone": "gone.jsonl", "column": "other.jsonl", "damaged": "broken.parquet"}
    sources |= {name: f"{name}.parquet" for name in ("odd", "binary", "torn")}
    for name, path in sources.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(task(source={"path": path})))
    builder = flan(tasks=str(tmp_path))
    assert builder.as_dataset(split="train").num_rows == 4
    reasons = {entry["task"]: entry["reason"] for entry in builder.left_out}
    assert reasons.keys() == {"gone", "column", "damaged", "odd", "binary", "torn"}
    assert "gone.jsonl" in reasons["gone"]
    assert "has no column 'text'; it has txt, label. Did you mean 'txt'?" in reasons["column"]
    assert "Parquet" in reasons["damaged"] and "struct" in reasons["odd"]
    assert "text is binary, and not text in UTF-8" in reasons["binary"] and "torn.parquet" in reasons["torn"]
    assert builder.account["left_out"] == builder.left_out
    again = Flan(tasks=str(tmp_path), cache_dir=str(tmp_path / "cache"))  # served from the cache
    assert [entry["task"] for entry in again.left_out] == [entry["task"] for entry in builder.left_out]
    with pytest.raises(SourceError, match="strict=True, and the task"):
        flan(tasks=str(tmp_path), strict=True)
    with pytest.raises(SourceError, match=r"none of 1 tasks can be read"):
        flan(tasks=str(tmp_path / "gone.yaml"))


def test_a_dataset_on_the_hub_is_read_or_left_out(flan, hub, tmp_path):
    from huggingface_hub import HfApi

    pq.write_table(pa.table({"text": ["a b", "c d"], "label": [0, 1], "other": [[1], [2]]}), tmp_path / "t.parquet")
    HfApi().create_repo("org/mood", repo_type="dataset")
    for split in ("train", "validation"):
        HfApi().upload_file(
            path_or_fileobj=str(tmp_path / "t.parquet"),
            path_in_repo=f"data/{split}-00000-of-00001.parquet",
            repo_id="org/mood",
            repo_type="dataset",
        )
    (tmp_path / "t.parquet").unlink()
    for name, repo in (("here", "org/mood"), ("gone", "org/no-such-dataset")):
        spec = task(source={"path": repo, "splits": {"train": "train", "test": "validation"}}, license="unknown")
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(spec))
    builder = flan(tasks=[str(tmp_path / "here.yaml"), str(tmp_path / "gone.yaml")])
    assert builder.as_dataset().num_rows == {"train": 2, "test": 2}
    assert builder.files[0].source.startswith("org/mood@") and builder.files[0].license == "unknown"
    assert [entry["task"] for entry in builder.left_out] == ["gone"]


OPTIONS = {
    "collection": ({"collection": "niv3"}, "collection='niv3': allowed are .*Did you mean 'niv2'"),
    "setting": ({"setting": "few"}, "setting='few': allowed are zs_opt"),
    "setting and shots": ({"setting": "zs_opt", "shots": 3}, "is without shots, but shots=3"),
    "shots": ({"shots": -1}, r"shots=-1: a number from 0 to 64 or \[fewest, most\]"),
    "shots turned": ({"shots": [3, 1]}, r"shots=\[3, 1\]"),
    "share": ({"inverted": 1.5}, "inverted=1.5: true, false or a share between 0 and 1"),
    "share of text": ({"cot": "yes"}, "cot='yes'"),
    "templates_per_row": ({"templates_per_row": 0}, "templates_per_row=0: 1 or more, or 'all'"),
    "test_size": ({"test_size": 1.0}, r"test_size=1\.0: a share below 1"),
    "budget": ({"max_input_chars": 0}, "max_input_chars=0: a whole number of 1 or more"),
    "tokens": ({"max_input_tokens": 9}, "max_input_tokens and count_tokens go together"),
    "columns": ({"columns": {"a": "b"}}, "a task's file says how its columns map"),
    "unknown": ({"shot": 3}, "unknown option 'shot'. Did you mean 'shots'"),
    "streaming": ({"streaming": True}, "streaming=True is refused"),
    "seed": ({"seed": -1}, "seed=-1"),
    "collection without files": ({"collection": "p3", "tasks": None}, "collection='p3' needs data_files"),
    "collection and tasks": ({"collection": "p3"}, "goes with collection='tasks'"),
    "explanations": ({"explanations": True}, "explanations and negatives are niv2's"),
    "files for two": ({"tasks": ["rte", "snli"], "data_files": "x.jsonl"}, "replaces the source of one task"),
}


@pytest.mark.parametrize("case", OPTIONS, ids=OPTIONS.keys())
def test_an_option_that_can_not_be_is_refused(case, tmp_path):
    options, message = OPTIONS[case]
    with pytest.raises(ConfigError, match=message):
        Flan(cache_dir=str(tmp_path), **{"tasks": ["rte"], "data_files": "bundled", **options})


def test_every_kind_of_column_and_answer(flan, tmp_path):
    """Lists, objects, keys, numbers and accepted answers, from Parquet and from JSON Lines alike."""
    found = [
        {
            "q": {"stem": f"  Number {n}?\n"},
            "words": ["a", "b"],
            "choices": {"text": [f"x{n}", f"y{n}"], "label": ["A", "B"]},
            "key": "AB"[n % 2],
            "said": {"text": [f"s{n}", f"t{n}"] if n else []},
            "score": n + 0.0,
        }
        for n in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(found), tmp_path / "rows.parquet")
    shared = {"columns": {"text": "q.stem", "words": {"column": "words", "join": ", "}, "one": "score"}}
    shared["columns"]["second"] = {"column": "choices.text", "index": 1}
    shared["templates"] = templates("{{text}} {{words}} {{one}} {{second}} " + "{n}")
    keyed = task(
        **shared, answer={"column": "key", "as": "key", "keys": "choices.label"}, options={"column": "choices.text"}
    )
    shown = [{"input": shared["templates"][0]["input"] + "\n{options_}", "target": "{answer}"}]
    keyed["templates"] = shown + shared["templates"][1:]
    first = task(**shared, answer={"column": "said.text", "as": "first", "empty": "nothing"}, options=None)
    for path in ("rows.jsonl", "rows.parquet"):
        source = {"source": {"path": path}}
        builder = flan(found, keyed | source, option_style="plain")
        assert texts(builder)[0] == ("Number 0? a, b 0.0 y0 0\nOptions:\n- x0\n- y0", "x0")
        assert texts(builder)[1] == ("Number 1? a, b 1.0 y1 1", "y1")
        builder = flan(found, first | source)
        assert [answer for _, answer in texts(builder)] == ["nothing", "s1", "s2"]
        metas = builder.as_dataset(split="train")["meta"]
        assert [meta.get("answers") for meta in metas] == [None, ["s1", "t1"], ["s2", "t2"]]


def test_marks_are_cut_out_of_a_text(flan):
    spec = task(columns={"text": {"column": "text", "cut": "<<[^>]*>>"}})
    built = flan([{"text": f"<<{n}>>Text {n} of 6*7=<<6*7=42>>42.", "label": 0} for n in range(4)], spec=spec)
    assert len(texts(built)) == 4
    assert all("<<" not in prompt and "42." in prompt for prompt, _ in texts(built))
    with pytest.raises(ConfigError, match="regular expression"):
        flan([{"text": "a", "label": 0}], spec=task(columns={"text": {"column": "text", "cut": "<<["}}))
