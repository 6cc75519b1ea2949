"""Held-out loss against a plain loop, its groups and counts, and task metrics in the form of a result."""

from __future__ import annotations

import math

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from instruct_builders.errors import ConfigError
from trainers import supervision, templates
from trainers.evaluation import held_out, ratios, results, task_metrics, tasks

DATA = {"name": "rows", "revision": "sha256:1", "rows": 6, "local": True, "license": None, "split": "test"}
ANSWERS = (
    "Blue.",
    "Red it is, and so be it.",
    "Be brief.",
    "The sky, of course, is blue; say it loudly.",
    "No.",
    "Yes.",
)


def rows(**columns) -> datasets.Dataset:
    talks = [
        [{"role": "user", "content": f"Name colour {place}"}, {"role": "assistant", "content": answer}]
        for place, answer in enumerate(ANSWERS)
    ]
    return datasets.Dataset.from_dict({"messages": talks, **columns})


@pytest.fixture(scope="module")
def subject(tiny_llama):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_llama()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder), tokenizer, templates.load("vicuna", tokenizer)


def measure(subject, dataset, **options):
    model, tokenizer, template = subject
    facts = {"name": "tiny", "local": True}
    return held_out.evaluate(model, tokenizer, dataset, facts=facts, data=DATA, template=template, **options)


def plain_loop(subject) -> list[tuple[float, int]]:
    """Row by row, position by position, without a batch."""
    model, tokenizer, template = subject
    found = []
    for row in rows():
        made = supervision.supervise(tokenizer, row["messages"], template)
        with torch.no_grad():
            logits = model(torch.tensor([made["input_ids"]])).logits[0].double()
        chances = torch.log_softmax(logits, -1)
        kept = [(at, token) for at, token in enumerate(made["labels"]) if token != -100]
        found.append((-sum(float(chances[at - 1, token]) for at, token in kept), len(kept)))
    return found


def test_the_loss_is_that_of_a_plain_loop(subject):
    expected = plain_loop(subject)
    total, tokens = (sum(part) for part in zip(*expected, strict=True))
    for batch_size in (1, 4):
        found, compared = measure(subject, rows(), batch_size=batch_size)
        assert found["metrics"]["loss"]["value"] == pytest.approx(total / tokens, abs=1e-5)
        assert found["metrics"]["perplexity"]["value"] == pytest.approx(math.exp(total / tokens), rel=1e-5)
        assert found["counts"]["tokens_measured"] == found["metrics"]["loss"]["n"] == tokens
        for row, (loss, size) in zip(compared, expected, strict=True):
            assert row["figures"]["loss"] == [pytest.approx(loss, rel=1e-5), size]
    assert found == measure(subject, rows(), batch_size=4)[0]


def test_a_base_without_the_tokens_of_the_template_is_told_what_to_do(subject):
    model, tokenizer, _ = subject
    with pytest.raises(ConfigError, match=r"lacks <\|im_end\|>, <\|im_start\|>.* Leave held_out out, or .* alpaca"):
        measure((model, tokenizer, templates.load("chatml", tokenizer)), rows())


def test_sources_and_tasks_add_up_to_the_whole(subject):
    found, compared = measure(subject, rows(source=list("aabbba"), task=["t"] * 5 + [None], id=list("uvwxyz")))
    assert set(found["groups"]) == {"source: a", "source: b"}  # a single task says no more than the whole
    groups = [group["loss"] for group in found["groups"].values()]
    whole = found["metrics"]["loss"]
    assert sum(group["n"] for group in groups) == whole["n"]
    assert sum(group["value"] * group["n"] for group in groups) == pytest.approx(whole["value"] * whole["n"], rel=1e-5)
    assert [row["id"] for row in compared] == list("uvwxyz")
    for end in ("value", "low", "high"):
        assert found["metrics"]["perplexity"][end] == pytest.approx(math.exp(whole[end]), rel=1e-4)


def test_rows_that_are_too_long_are_counted_and_never_cut(subject):
    tokens = [len(supervision.supervise(subject[1], row["messages"], subject[2])["input_ids"]) for row in rows()]
    limit = sorted(tokens)[3]
    found, compared = measure(subject, rows(), max_length=limit)
    kept = sum(length <= limit for length in tokens)
    assert found["counts"] | {"tokens_measured": 0} == {
        "rows": 6,
        "rows_measured": kept,
        "tokens_measured": 0,
        "too_long": 6 - kept,
    }
    whole = {row["id"]: row["figures"] for row in measure(subject, rows())[1]}
    assert all(row["figures"]["loss"][1] == whole[row["id"]]["loss"][1] for row in compared)
    with pytest.raises(ConfigError, match="no row is left"):
        measure(subject, rows(), max_length=3)


def test_a_loss_that_is_no_number_is_refused(subject):
    from copy import deepcopy

    broken = deepcopy(subject[0])
    with torch.no_grad():
        broken.model.embed_tokens.weight[:] = math.nan
    with pytest.raises(ConfigError, match="loss is nan"):
        measure((broken, *subject[1:]), rows())


SIZES = st.lists(st.tuples(st.floats(0, 50), st.integers(1, 40)), min_size=2, max_size=12)


@given(SIZES)
def test_a_ratio_lies_in_its_interval_and_a_model_equals_itself(pairs):
    both = np.array(pairs, float)
    made = ratios.ratio(both[:, 0], both[:, 1], 3)
    assert made["value"] == pytest.approx(both[:, 0].sum() / both[:, 1].sum(), abs=1e-6)
    assert made["low"] is None or made["low"] - 1e-6 <= made["high"]
    assert ratios.difference(both, both, 3) == {"value": 0.0, "low": None, "high": None, "n": len(pairs)}


def test_a_ratio_of_equal_sizes_is_the_mean_of_metric():
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert ratios.ratio(values, [1] * 5, 7) == results.metric(values, seed=7)


def test_task_metrics_as_a_result():
    metas = [
        {"metric": metric, "answers": None}
        for metric in ("accuracy", "accuracy", "rouge", "rouge", "bleu", "accuracy")
    ]
    dataset = rows(task=["a", "a", "b", "b", "c", "d"], meta=metas)
    long = datasets.Dataset.from_dict({"messages": [rows()[0]["messages"] * 2], "task": ["a"], "meta": [metas[0]]})
    loaded = tasks.load(datasets.concatenate_datasets([dataset, long.cast(dataset.features)]), DATA)
    assert loaded.counts == {"rows": 7, "several_turns": 1}
    said = ["blue", "wrong", *ANSWERS[2:5], None]
    answered = [
        {"id": question["id"], "turns": [text], "problems": [None if text else "empty"], "truncated": [False]}
        for question, text in zip(loaded.questions, said, strict=True)
    ]
    found, compared = tasks.evaluate(loaded, answered, model={"name": "tiny"}, settings={})
    values = {name: metric["value"] for name, metric in found["metrics"].items()}
    assert values == {
        name: pytest.approx(value, abs=1e-5)
        for name, value in task_metrics.by_task([text or "" for text in said], loaded.references).items()
        if "/" not in name
    }
    assert found["groups"]["a"]["accuracy"] == {"value": 50.0, "low": 0.0, "high": 100.0, "n": 2}
    assert found["counts"]["answered"] == 5 and found["counts"]["no_answer_empty"] == 1
    assert found["metrics"]["score"]["low"] is None and "BLEU" in found["notes"][1]  # BLEU is no mean over rows
    weights = [row["figures"]["score"][1] for row in compared if row["figures"]]
    assert weights == [0.5, 0.5, 0.5, 0.5, 1.0]


def test_the_score_of_rows_is_the_mean_over_tasks():
    held = task_metrics.References([["x"]] * 4, ["exact_match"] * 4, ["a", "a", "a", "b"])
    said = ["x", "y", "y", "x"]
    made = [row["score"] for row in task_metrics.by_row(said, held)]
    mean = sum(value for value, _ in made) / sum(weight for _, weight in made)
    assert mean == pytest.approx(task_metrics.by_task(said, held)["score"])
