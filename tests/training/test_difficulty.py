"""Instruction-following difficulty against a plain loop, and its way into a build."""

from __future__ import annotations

import json

import datasets
import pyarrow as pa
import pytest
import torch

from instruct_builders import records, transforms
from instruct_builders.errors import ConfigError
from trainers import supervision, templates
from trainers.evaluation import difficulty

TALKS = [
    ("Name a colour.", "Blue."),
    ("Say the word.", "The sky, of course, is blue; say it loudly and clearly."),
    ("Another?", "Red it is."),
    ("Say the word. " * 200, "Too long."),
]


@pytest.fixture(scope="module")
def subject(tiny_llama):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_llama()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder), tokenizer, templates.load("vicuna", tokenizer)


def rows(**columns) -> datasets.Dataset:
    talks = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in TALKS]
    return datasets.Dataset.from_dict({"messages": talks, **columns})


def mean_loss(model, ids: list[int], answer: list[int]) -> float:
    """Of the last tokens of a row, one by one."""
    with torch.no_grad():
        chances = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
    first = len(ids) - len(answer)
    return -sum(float(chances[first + at - 1, token]) for at, token in enumerate(answer)) / len(answer)


def test_it_is_the_ratio_of_both_losses_over_the_same_tokens(subject, tmp_path):
    model, tokenizer, template = subject
    found, counts = difficulty.ifd(
        model, tokenizer, rows(id=list("abcd")), template=template, max_length=300, batch_size=2
    )
    assert [(entry["row"], entry["id"]) for entry in found] == [(0, "a"), (1, "b"), (2, "c")]
    assert counts["rows_in"] == 4 and counts["too_long"] == 1
    for entry, (question, answer) in zip(found, TALKS[:3], strict=True):
        talk = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        made = supervision.supervise(tokenizer, talk, template)
        said = [token for token in made["labels"] if token != supervision.IGNORED]
        end = max(at for at, label in enumerate(made["labels"]) if label != supervision.IGNORED) + 1
        told = mean_loss(model, list(made["input_ids"][:end]), said)
        alone = mean_loss(model, [made["input_ids"][0], *said], said)
        assert entry["tokens"] == len(said)
        assert entry["loss"] == pytest.approx(told, rel=1e-4) and entry["loss_alone"] == pytest.approx(alone, rel=1e-4)
        assert entry["ifd"] == pytest.approx(told / alone, rel=1e-4)
    difficulty.write(found, tmp_path / "ifd.jsonl")
    table = pa.table(
        {
            "id": list("abcd"),
            "messages": [[{"role": "user", "content": q}] for q, _ in TALKS],
            "meta": pa.array([None] * 4, records.JSON),
        }
    )
    most = sorted(entry["ifd"] for entry in found)[1]
    step = {"given_scores": {"file": str(tmp_path / "ifd.jsonl"), "most": most}}
    result, (account,) = transforms.apply(table, [step])
    assert account["scored"] == 3 and account["missing"] == 1 and account["rejected"] == {"score_out_of_range": 1}
    noted = [json.loads(text)["ifd"] if text else None for text in result["meta"].combine_chunks().storage.to_pylist()]
    assert noted == [*(entry["ifd"] for entry in found), None]


def test_where_no_row_fits_it_says_so(subject):
    model, tokenizer, template = subject
    with pytest.raises(ConfigError, match="no row is left"):
        difficulty.ifd(model, tokenizer, rows(), template=template, max_length=3)
