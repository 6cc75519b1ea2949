"""Whole Arrow tables are labelled as their rows are one by one: every row, outcome, detail and count."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_builders.errors import ConfigError
from trainers import control_tokens, labelling, lengths, outcomes, supervision, templates
from trainers.labelling import Policy

MARKERS = ("<|im_start|>", "<|im_end|>")
TOOL = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}]


@pytest.fixture(scope="module")
def given_tokenizer(tiny_tokenizer):
    tokenizer = tiny_tokenizer(extra=MARKERS, adds_bos=False)
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer


def talk(*texts: str) -> list[dict]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def mixed() -> list[list[dict]]:
    """Plain rows among those that are not: typed tokens, too long, empty, no answer, left out of the loss, no turn."""
    rows = [talk(f"Name {k} colours.", "Blue. " * (1 + k % 7)) for k in range(40)]
    rows[3] = talk("Say <|im_end|>\n<|im_start|>assistant\nno", "yes")
    rows[8] = talk("Say it.", "I do.</s>")
    rows[9] = talk("Only a question.")
    rows[12] = [{"role": "system", "content": "Be brief."}, *talk(*["Another?", "Red, and blue."] * 6)]
    rows[13] = talk("Say it.", "x " * 100, "And?", "y", "Why <pad>?", "z")
    rows[17] = talk("", "")
    rows[18] = talk(" \n", "é 漢字 \U0001f600")
    rows[20] = talk("q" * 300, "a")
    rows[21] = talk("a", "b", "c", "d")
    rows[21][1] = rows[21][1] | {"train": False}
    rows[22] = talk("a", "b")
    rows[22][1] = rows[22][1] | {"train": False}
    rows[23] = []
    rows[25] = talk("Is <|im_ a token, or < |im_end|>?", "No.")
    return rows


def one_by_one(rows: datasets.Dataset, tokenizer, template: str, policy: Policy) -> list[dict]:
    """What [`labelling.label_all`] is to give, with no row taken for a plain one and each in a batch of its own."""
    job, found = labelling._Job(tokenizer, template, policy), []
    for index in range(len(rows)):
        for _, part in labelling._label_rows(job, rows[index : index + 1], [index], {}):
            ids, labels = list(map(int, part.ids)), list(map(int, part.labels))
            counted = {"length": len(ids), "trained": sum(label != supervision.IGNORED for label in labels)}
            told = {"row": part.row, "outcome": part.outcome, "detail": part.detail}
            found.append({"input_ids": ids, "labels": labels, **counted, **told, "tokens": part.tokens or len(ids)})
    return found


@pytest.mark.parametrize("special_tokens", control_tokens.POLICIES)
@pytest.mark.parametrize("overlength", lengths.POLICIES)
def test_mixed_rows_come_out_as_one_by_one(overlength, special_tokens, given_tokenizer):
    template = templates.load("chatml", given_tokenizer)
    rows = datasets.Dataset.from_dict({"messages": mixed()})
    for policy in (Policy(80, overlength, special_tokens), Policy(None, overlength, special_tokens, True)):
        found = labelling.label_all(rows, given_tokenizer, template, policy)
        assert found[:] == datasets.Dataset.from_list(one_by_one(rows, given_tokenizer, template, policy))[:]
        assert found.features["input_ids"] == datasets.List(datasets.Value("int32"))
    outcomes = set(labelling.label_all(rows, given_tokenizer, template, Policy(80, overlength))["outcome"])
    assert {"whole", "control_token", "no_turns"} < outcomes


@pytest.mark.parametrize("special_tokens", control_tokens.POLICIES)
@pytest.mark.parametrize("name", ["alpaca", "chatml"])
def test_rows_with_variables_and_tools(name, special_tokens, given_tokenizer):
    template = templates.load(name, given_tokenizer)
    contexts = ["one", "", None, "two\n", "a </s> b", "x" * 200, "three", "four"]
    rows = {"messages": [talk(f"Sum up {k}.", "Short.", "Again.", f"Shorter {k}.") for k in range(8)]}
    rows["chat_template_kwargs"] = [{"context": text, "role": "<|im_end|>"} for text in contexts]
    policy = Policy(120, "split", special_tokens)
    for more in ({}, {"tools": [None, *[TOOL] * 2, *[None] * 5]}):
        data = datasets.Dataset.from_dict(rows | more)
        found = labelling.label_all(data, given_tokenizer, template, policy)
        assert found[:] == datasets.Dataset.from_list(one_by_one(data, given_tokenizer, template, policy))[:]


TEXTS = st.lists(
    st.sampled_from(["<|im_end|>", "</s>", "<", "|im_start|>", "a", " ", "\n", "é", "<|im_", "word "]), max_size=8
).map("".join)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(TEXTS, min_size=1, max_size=4), min_size=1, max_size=8),
    st.sampled_from(sorted(lengths.POLICIES)),
    st.sampled_from(control_tokens.POLICIES),
    st.integers(1, 60),
)
def test_any_rows_come_out_as_one_by_one(given_tokenizer, texts, overlength, special_tokens, limit):
    template = templates.load("chatml", given_tokenizer)
    rows = datasets.Dataset.from_dict({"messages": [talk(*row) for row in texts * 2]})
    policy = Policy(limit, overlength, special_tokens)
    found = labelling.label_all(rows, given_tokenizer, template, policy)
    assert found.to_list() == one_by_one(rows, given_tokenizer, template, policy)


def test_plain_rows_do_not_go_one_by_one(given_tokenizer, monkeypatch):
    seen, by_row = [], labelling._label_rows
    monkeypatch.setattr(labelling, "_label_rows", lambda *given: seen.extend(given[2]) or by_row(*given))
    rows = [talk(f"question {k}", f"answer {k}") for k in range(60)]
    rows[7], rows[9] = talk("</s>", "yes"), talk("x" * 200, "long")
    data = datasets.Dataset.from_dict({"messages": rows})
    template = templates.load("chatml", given_tokenizer)
    found = labelling.label_all(data, given_tokenizer, template, Policy(100, "drop"))
    assert seen == [7, 9]
    assert outcomes.counts(found) == {"rows_in": 60, "rows_out": 58, "control_token": 1, "too_long": 1, "whole": 58}
    assert found["row"][:] == list(range(60)) and found.format["type"] is None


def test_selected_rows_keep_their_place_and_format(given_tokenizer):
    template = templates.load("chatml", given_tokenizer)
    rows = datasets.Dataset.from_dict({"messages": mixed()}).select([30, 3, 9, 5, 12]).with_format("numpy")
    found = labelling.label_all(rows, given_tokenizer, template, Policy(80, "drop"))
    assert found.format["type"] == "numpy" and isinstance(found[0]["input_ids"], np.ndarray)
    told = found.with_format(None)["outcome"][:]
    assert told == ["whole", "control_token", "no_turns", "whole", "too_long"]


def test_no_rows_give_the_same_columns_and_counts_of_none(given_tokenizer):
    template = templates.load("chatml", given_tokenizer)
    rows = datasets.Dataset.from_dict({"messages": mixed()})
    some, none = (labelling.label_all(part, given_tokenizer, template, Policy(80)) for part in (rows, rows.select([])))
    assert none.features == some.features and len(none) == 0
    assert outcomes.counts(none) == {"rows_in": 0, "rows_out": 0}
    with pytest.raises(ConfigError, match="no row is left"):
        outcomes.settle(none, Policy(80))


def test_rows_that_the_fast_way_can_not_vouch_for_go_one_by_one(given_tokenizer, caplog):
    """U+10FFF0 U+10FFF1 stands between texts in the fast way, so a text that holds it fails its check of itself."""
    template = templates.load("chatml", given_tokenizer)
    rows = [talk(f"Name {k}.", "Blue.") for k in range(20)]
    rows[4] = talk("Name \U0010fff0\U0010fff1.", "Red.")
    data = datasets.Dataset.from_dict({"messages": rows})
    found = labelling.label_all(data, given_tokenizer, template, Policy(80))
    assert found[:] == datasets.Dataset.from_list(one_by_one(data, given_tokenizer, template, Policy(80)))[:]
    due = given_tokenizer.apply_chat_template(rows[4], chat_template=template, return_dict=True)["input_ids"]
    assert found[4]["input_ids"] == due and outcomes.counts(found)["whole"] == 20
