"""Flan as a user sees it: records, settings, splits, accounts, and bad rows and sources that are said."""

from __future__ import annotations

import json

import pytest
from flan_tasks import rows, task, texts

from instruct_builders import Flan, load_dataset


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
