"""FLAN rows, tasks and options that can't be used: each is said, with its reason and place."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from flan_tasks import rows, task, templates, texts, write_jsonl

from instruct_builders import Flan
from instruct_builders.errors import ConfigError, SourceError, TooManyRejected


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
