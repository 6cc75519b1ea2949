"""lm-evaluation-harness itself on a task of our own, and what it returned once, as a result."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest

from instruct_builders.errors import ConfigError
from trainers import scores
from trainers.evaluation import harness, results

FACTS = {"name": "tiny", "local": True}
TASK = """
task: tiny_words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
SAMPLE = {"doc_id": 0, "target": 1, "arguments": [["Q?", " a"]], "filtered_resps": ["b"], "doc_hash": "0a"}
RETURNED = {
    "results": {
        "sums": {
            "alias": "sums",
            "sample_len": 2,
            "exact_match,strict": 0.5,
            "exact_match_stderr,strict": 0.25,
            "exact_match,flexible": 1.0,
            "exact_match_stderr,flexible": "N/A",
        },
        "all": {"alias": "all"},  # a group without a figure of its own
    },
    "versions": {"sums": 2.0},
    "n-shot": {"sums": 5},
    "n-samples": {"sums": {"original": 9, "effective": 2}},
    "samples": {
        "sums": [
            SAMPLE | {"filter": "strict", "metrics": ["exact_match"], "exact_match": 0.0},
            SAMPLE | {"filter": "strict", "metrics": ["exact_match"], "exact_match": 1.0, "doc_id": 1},
            SAMPLE | {"filter": "flexible", "metrics": ["exact_match"], "exact_match": 1.0},
            SAMPLE | {"filter": "flexible", "metrics": ["exact_match"], "exact_match": 1.0, "doc_id": 1},
        ]
    },
}


def test_what_the_harness_returned_becomes_a_result(tmp_path):
    found, rows = harness.of_results(RETURNED, facts=FACTS, settings={"limit": 2}, seed=1)
    assert found["metrics"] == {
        "sums: exact_match (strict)": {"value": 0.5, "low": 0.01, "high": 0.99, "n": 2},
        "sums: exact_match (flexible)": {"value": 1.0, "low": None, "high": None, "n": 2},
    }
    assert found["counts"] == {"questions": 2, "questions_sums": 2}
    assert "sums version 2.0, 5-shot" in found["notes"] and "no benchmark result" in found["notes"][-1]
    assert [row["figures"] for row in rows[:2]] == [{"sums: exact_match (strict)": [value, 1]} for value in (0.0, 1.0)]
    assert results.read(results.write(found, tmp_path / "result.json")) == found


def test_a_score_goes_to_the_leaderboard_of_the_dataset_that_it_was_measured_on(tmp_path):
    """GSM8K as the harness names it, beside a task on a file; and MT-Bench, read file by file from the Hub."""
    import yaml

    sha = "a" * 40
    returned = RETURNED | {"configs": {"sums": {"dataset_path": "org/sums"}, "words": {"dataset_path": "json"}}}
    arguments = {"facts": FACTS, "seed": 1}
    found, _ = harness.of_results(returned, settings={}, revisions={"sums": sha}, **arguments)
    (path,) = scores.write(tmp_path, [found], {FACTS["name"]})
    (entry,) = yaml.safe_load((tmp_path / path).read_text(encoding="utf-8"))
    assert entry["dataset"] == {"id": "org/sums", "task_id": "sums", "revision": sha}
    assert entry["value"] == 0.5 and "exact_match (strict)" in entry["notes"]
    for settings, revisions in (({"limit": 2}, {"sums": sha}), ({}, {"sums": None}), ({}, None)):
        found, _ = harness.of_results(returned, settings=settings, revisions=revisions, **arguments)
        assert scores.write(tmp_path / "none", [found], {FACTS["name"]}) == []

    def judged(name):
        data = {"name": name, "revision": sha, "digest": "sha256:0", "rows": 2}
        options = {"settings": {}, "seed": 1, "counts": {}, "metrics": {"score": results.metric([3, 4])}}
        return results.result("mt_bench", "MT-Bench", model=FACTS, data=data, **options)

    (path,) = scores.write(tmp_path, [judged(f"org/mt_bench@{sha}")], {FACTS["name"]})
    (entry,) = yaml.safe_load((tmp_path / path).read_text(encoding="utf-8"))
    assert entry["dataset"] == {"id": "org/mt_bench", "task_id": "default", "revision": sha}
    assert not scores.write(tmp_path, [judged(f"org/mt_bench@{sha} (2 of 80 questions)")], {FACTS["name"]})


def test_only_means_of_which_more_is_better_are_compared_question_by_question():
    """LAMBADA's questions hold a log-likelihood under the name of the perplexity that is made of all of them."""
    lines = [SAMPLE | {"doc_id": place, "metrics": ["acc", "perplexity", "loss_"]} for place in range(2)]
    lines = [line | {"acc": place, "perplexity": -1.0, "loss_": 1.0} for place, line in enumerate(lines)]
    figures = {"sample_len": 2, "acc,none": 0.5, "perplexity,none": 2.718282, "loss_,none": 1.0}
    returned = RETURNED | {"results": {"words": figures}, "samples": {"words": lines}}
    returned |= {"higher_is_better": {"words": {"acc": True, "perplexity": False, "loss_": False}}}
    returned |= {"versions": {}, "n-shot": {"words": 0}, "n-samples": {"words": {"effective": 2}}}
    found, rows = harness.of_results(returned, facts=FACTS, settings={}, seed=1)
    assert found["metrics"]["words: perplexity"]["value"] == 2.718282  # told, and compared by nobody
    assert [row["figures"] for row in rows] == [{"words: acc": [0.0, 1]}, {"words: acc": [1.0, 1]}]
    del returned["higher_is_better"]
    assert "words: perplexity" not in harness.of_results(returned, facts=FACTS, settings={}, seed=1)[1][0]["figures"]


def test_a_missing_extra_names_its_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match=r'pip install "instruct-builders\[harness\]"'):
        harness.evaluate(None, None, tasks=["gsm8k"], facts=FACTS)
    with pytest.raises(ConfigError, match="benchmarks: none given"):
        harness.evaluate(None, None, tasks=[], facts=FACTS)


def test_a_task_that_needs_a_package_of_its_own_names_it(tmp_path, monkeypatch, tiny_llama):
    lm_eval = pytest.importorskip("lm_eval", reason="the extra 'harness' is not installed")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def stop(**settings):
        raise ModuleNotFoundError("No module named 'langdetect'", name="langdetect")

    monkeypatch.setattr(lm_eval, "simple_evaluate", stop)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "Q", "choices": ["a", "b"], "label": 0}) + "\n")
    (tmp_path / "tiny.yaml").write_text(TASK.format(rows=tmp_path / "rows.jsonl"), encoding="utf-8")
    model, tokenizer = (kind.from_pretrained(tiny_llama()) for kind in (AutoModelForCausalLM, AutoTokenizer))
    with pytest.raises(ConfigError, match=r"benchmarks: .*'langdetect'\. Install langdetect\."):
        harness.evaluate(model, tokenizer, tasks=[str(tmp_path / "tiny.yaml")], facts=FACTS)


def test_the_extra_brings_what_the_shipped_benchmarks_need():
    pytest.importorskip("lm_eval", reason="the extra 'harness' is not installed")
    assert all(map(importlib.util.find_spec, ("langdetect", "immutabledict", "nltk")))  # of ifeval


def test_the_harness_runs_tasks_of_our_own_on_a_file_and_on_a_dataset_of_the_hub(hub, tmp_path, tiny_llama):
    pytest.importorskip("lm_eval", reason="the extra 'harness' is not installed")
    import datasets
    import yaml
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_llama()
    lines = [
        {"question": f"Name colour {place}", "choices": ["blue", "red"], "label": place % 2} for place in range(8)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text(TASK.format(rows=tmp_path / "rows.jsonl"), encoding="utf-8")
    datasets.Dataset.from_list(lines).push_to_hub("me/colours", split="test")
    lines_of_hub = [line for line in TASK.format(rows="").splitlines() if "dataset_" not in line]
    of_hub = "\n".join([*lines_of_hub, "dataset_path: me/colours"]).replace("tiny_words", "colours")
    (tmp_path / "colours.yaml").write_text(of_hub, encoding="utf-8")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    options = {"facts": FACTS, "chat": False, "batch_size": 4}
    tasks = [str(tmp_path / name) for name in ("tiny.yaml", "colours.yaml")]
    found, rows = harness.evaluate(model, tokenizer, tasks=tasks, **options)
    metric, own = found["metrics"]["tiny_words: acc"], [row for row in rows if row["id"].startswith("tiny_words/")]
    assert metric["n"] == len(own) == found["counts"]["questions_tiny_words"] == 8
    assert metric["value"] == sum(row["figures"]["tiny_words: acc"][0] for row in own) / 8
    assert metric["low"] < metric["value"] < metric["high"]
    assert str(tmp_path) not in json.dumps(found)  # a result is published: no path of this machine
    sha = hub.store.resolve("dataset", "me/colours", "main")
    assert found["data"]["tasks"] == {"colours": {"id": "me/colours", "revision": sha, "metrics": ["colours: acc"]}}
    (path,) = scores.write(tmp_path / "model", [found], {FACTS["name"]})
    (entry,) = yaml.safe_load((tmp_path / "model" / path).read_text(encoding="utf-8"))
    assert entry["dataset"] == {"id": "me/colours", "task_id": "colours", "revision": sha}
    assert entry["value"] == found["metrics"]["colours: acc"]["value"]
