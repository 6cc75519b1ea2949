"""Conversations -> encoder ids and decoder labels: the layout, what is left out and why, what the vocabulary lacks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_builders.errors import ConfigError, RowError, SourceError
from trainers import outcomes, seq2seq_data, seq2seq_preflight, seq2seq_rows
from trainers.seq2seq_models import Seq2SeqArguments
from trainers.seq2seq_rows import Policy

sys.path.append(str(Path(__file__).resolve().parents[2] / "recipes" / "quickstart"))
WORDS = "red green blue black white grey pink gold cyan lime teal plum Say loudly User: Assistant: ! .".split()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    import tiny_t5
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tiny") / "t5"
    tiny_t5.make(folder, WORDS * 3, vocab_size=200, d_model=16, layers=1)
    return AutoTokenizer.from_pretrained(folder)


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


LONG = [user("Say red"), assistant("red !"), user("Say blue"), assistant("blue !")]


def label(tokenizer, *conversations, **policy):
    rows = Dataset.from_list([{"messages": messages} for messages in conversations])
    return seq2seq_rows.label_all(rows, tokenizer, Policy(**policy))


def texts(tokenizer, entry):
    return tuple(tokenizer.decode(entry[name], skip_special_tokens=True) for name in ("input_ids", "labels"))


def test_one_question_is_read_as_it_is():
    assert seq2seq_rows.pair([user("Say\n red"), assistant("red !")]) == ("Say\n red", "red !")
    assert seq2seq_rows.source_text([{"role": "system", "content": "Be brief."}, user("Hi")]) == "Be brief.\n\nHi"


def test_longer_conversations_have_the_documented_layout():
    source, target = seq2seq_rows.pair([{"role": "system", "content": "Be brief."}, *LONG])
    assert source == "Be brief.\n\nUser: Say red\nAssistant: red !\nUser: Say blue\nAssistant:"
    assert target == "blue !"


def test_the_last_answer_that_is_to_be_learned_counts():
    messages = [user("a"), assistant("b"), user("c"), assistant("d", train=False)]
    assert seq2seq_rows.pair(messages) == ("a", "b")


@pytest.mark.parametrize(
    "messages, reason",
    [
        ([user("a")], "no_turns"),
        ([], "no_turns"),
        ([user("a"), assistant("b", train=False)], "no_turns"),
        ([user("a"), assistant("  ")], "empty_output"),
        ([user("a"), assistant("b"), user("c")], "ends_with_user"),
        ([user("a"), {"role": "tool", "content": "4"}, assistant("b")], "schema"),
        ([user("a"), assistant("b", tool_calls=[{"type": "function"}])], "schema"),
    ],
)
def test_every_row_without_an_answer_has_its_reason(messages, reason):
    with pytest.raises(RowError) as error:
        seq2seq_rows.pair(messages)
    assert error.value.reason == reason


def test_ids_end_with_eos_and_counts_add_up(tokenizer):
    labelled = label(tokenizer, LONG[:2], LONG, [user("Say teal")])
    assert labelled["outcome"][:] == ["whole", "whole", "no_turns"]
    for entry in labelled.select([0, 1]):
        assert entry["input_ids"][-1] == entry["labels"][-1] == tokenizer.eos_token_id
        assert entry["length"] == len(entry["input_ids"]) + len(entry["labels"]) == entry["tokens"]
    assert texts(tokenizer, labelled[0]) == ("Say red", "red !")
    assert outcomes.counts(labelled) == {"rows_in": 3, "rows_out": 2, "no_turns": 1, "whole": 2}


def test_too_long_is_an_error_a_drop_or_a_cut(tokenizer):
    short, long = [user("Say red"), assistant("red !")], [user("Say red"), assistant("red ! blue ! teal !")]
    labelled = label(tokenizer, short, long, target=4, overlength="drop")
    assert labelled["outcome"][:] == ["whole", "too_long"]
    assert labelled[1]["detail"].startswith("target ") and labelled[1]["detail"].endswith("4 allowed")
    with pytest.raises(ConfigError, match="1 of 2 rows: too_long; the first, row 1: target"):
        seq2seq_rows.settle(label(tokenizer, short, long, target=4), Policy(target=4))
    cut = label(tokenizer, long, target=4, source=2, overlength="truncate_tokens")[0]
    assert cut["outcome"] == "tokens_cut" and len(cut["labels"]) == 4 and len(cut["input_ids"]) == 2
    assert cut["input_ids"][-1] == tokenizer.eos_token_id  # the encoder's text is ended
    assert tokenizer.eos_token_id not in cut["labels"]  # the answer is not


def test_truncate_turns_goes_back_to_an_answer_that_fits(tokenizer):
    limit = len(tokenizer("Say red")["input_ids"])
    cut = label(tokenizer, LONG, source=limit, overlength="truncate_turns")[0]
    assert cut["outcome"] == "turns_cut" and texts(tokenizer, cut) == ("Say red", "red !")
    gone = label(tokenizer, LONG, source=2, overlength="truncate_turns")[0]
    assert gone["outcome"] == "too_long" and gone["input_ids"] == []


@pytest.mark.parametrize(
    "policy, message",
    [
        ({"overlength": "split"}, "not for encoder-decoders.*Allowed: error, drop, truncate_turns, truncate_tokens"),
        ({"overlength": "dorp"}, "Did you mean 'drop'"),
        ({"unknown_answers": "kep"}, "Did you mean 'keep'"),
        ({"special_tokens": "escap"}, "Did you mean 'escape'"),
        ({"target": 1}, "max_target_length: 1 given"),
    ],
)
def test_unknown_policies_are_named(policy, message):
    with pytest.raises(ConfigError, match=message):
        Policy(**policy).check()


def test_typed_special_tokens_are_rejected_or_text(tokenizer):
    messages = [user("Say </s> red <extra_id_0>"), assistant("red !")]
    rejected = label(tokenizer, messages)[0]
    assert rejected["outcome"] == "control_token" and "'</s>' 1x" in rejected["detail"]
    escaped = label(tokenizer, messages, special_tokens="escape")[0]
    special = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<extra_id_0>")}
    assert special & set(escaped["input_ids"][:-1]) == set() and escaped["input_ids"][-1] == tokenizer.eos_token_id
    allowed = label(tokenizer, messages, special_tokens="allow")[0]
    assert special <= set(allowed["input_ids"][:-1])


def test_answers_that_can_not_be_expressed_stop_are_dropped_or_kept(tokenizer):
    messages = [user("Say red"), assistant("{red}")]
    labelled = label(tokenizer, messages)
    assert labelled[0]["outcome"] == "unknown_token" and "2 of the answer's" in labelled[0]["detail"]
    with pytest.raises(ConfigError, match=r"unknown_token; the first, row 0.*unknown_answers to drop or keep"):
        seq2seq_rows.settle(labelled, Policy())
    kept = label(tokenizer, messages, unknown_answers="keep")[0]
    assert kept["outcome"] == "whole" and kept["labels"].count(tokenizer.unk_token_id) == 2


def test_what_the_vocabulary_loses_is_counted(tokenizer):
    rows = [
        [user("Say\nred"), assistant("red !")],
        [user("Say [red]"), assistant("blue\n!")],
        [user("Say red"), assistant("{red} {")],
    ]
    data = Dataset.from_list([{"messages": messages} for messages in rows])
    part = seq2seq_data.Part(data, data, seq2seq_rows.label_all(data, tokenizer, Policy()))
    lost = seq2seq_preflight.lost(part, tokenizer)
    assert lost["source"]["line breaks"] == lost["target"]["line breaks"] == 1
    assert (lost["source"]["rows"], lost["source"]["tokens"]) == (1, 2)
    assert (lost["target"]["rows"], lost["target"]["tokens"]) == (1, 3)
    assert lost["source"]["changed"] == lost["target"]["changed"] == 0
    assert sorted(map(tuple, lost["characters"])) == [("[", 1), ("]", 1), ("{", 2), ("}", 1)]


@pytest.mark.parametrize(
    "row, kind",
    [
        ({"messages": [user("Say\n\nred"), assistant("red !")]}, "messages"),
        ({"instruction": "Say", "input": "red", "output": "red !"}, "alpaca"),
        ({"prompt": "Say\n\nred", "completion": "red !"}, "prompt_completion"),
        ({"conversations": [{"from": "human", "value": "Say\n\nred"}, {"from": "gpt", "value": "red !"}]}, "sharegpt"),
    ],
)
def test_every_format_gives_the_same_pair(row, kind):
    for name in ("auto", kind):
        rows = seq2seq_rows.messages_of(Dataset.from_list([row]), name)
        assert seq2seq_rows.pair(rows[0]["messages"]) == ("Say\n\nred", "red !")


def test_rows_without_answers_are_refused_before_anything_else():
    with pytest.raises(SourceError, match="plain text have no question and no answer"):
        seq2seq_rows.messages_of(Dataset.from_list([{"text": "a"}]), "auto")
    with pytest.raises(SourceError, match="columns a, b are in no format"):
        seq2seq_rows.messages_of(Dataset.from_list([{"a": "1", "b": "2"}]), "auto")
    with pytest.raises(SourceError, match="no rows"):
        seq2seq_rows.messages_of(Dataset.from_list([{"text": "a"}]).select([]), "auto")


def test_rows_say_their_task_metric_and_all_accepted_answers(tmp_path, tokenizer):
    rows = [
        {"messages": LONG[:2], "task": "nli", "meta": {"metric": "accuracy", "answers": ["red !", "red"]}},
        {"messages": LONG[:2], "task": None, "meta": {"by": "us"}},
        {"messages": LONG[:2], "task": "nli", "meta": {"metric": "accuracy", "answers": ["no"], "inverted": True}},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = seq2seq_data.load(Seq2SeqArguments(dataset_name=str(path), metric="bleu"), tokenizer)
    held = seq2seq_data.references(loaded.train.labelled, loaded.train, "bleu")
    assert held.answers == [["red !", "red"], ["red !"], ["red !"]]
    assert held.metrics == ["accuracy", "bleu", "rouge"] and held.tasks[0] == "nli"
    rows[1]["meta"] = {"metric": "acuracy"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = seq2seq_data.load(Seq2SeqArguments(dataset_name=str(path)), tokenizer)
    with pytest.raises(RowError, match=r"row 1, field 'meta\.metric': 'acuracy' is no metric"):
        seq2seq_data.references(loaded.train.labelled, loaded.train, "rouge")


words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=3))
def test_what_is_in_the_vocabulary_comes_back(tokenizer, said):
    messages = [turn for question, answer in said for turn in (user(question), assistant(answer))]
    job = seq2seq_rows._Job(tokenizer, Policy(None, None))
    ((source, target),) = job.encode([job.pair(messages)])
    read = tokenizer.batch_decode([source, target], skip_special_tokens=True)
    assert [text.split() for text in read] == [text.split() for text in seq2seq_rows.pair(messages)]
