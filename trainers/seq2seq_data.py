"""The rows of an encoder-decoder's run: loaded once, for the report and for training alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from instruct_builders.errors import RowError

from . import conversations, outcomes, reading, seq2seq_rows
from .evaluation import task_metrics

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

    from .seq2seq_models import Seq2SeqArguments


FREE_TEXT = "rouge"  # the metric of rows whose answer is another one than their task's


class Part(NamedTuple):
    """The rows of one split as they were read, with a column `messages`, and with ids and labels."""

    raw: datasets.Dataset
    rows: datasets.Dataset
    labelled: datasets.Dataset


class Loaded(NamedTuple):
    """All rows of a run. `test` is `train` where no split is there to test on."""

    policy: seq2seq_rows.Policy
    train: Part
    test: Part
    data: dict


def load(args: Seq2SeqArguments, tokenizer: PreTrainedTokenizerBase) -> Loaded:
    """Reads and labels every row; raises for none of them.

    Raises:
        SourceError: If there is nothing to read, or rows without answers.
        ConfigError: For a policy that does not exist.
    """
    policy = policy_of(args)
    train = _part(args, args.dataset_train_split, tokenizer, policy)
    test = _part(args, args.dataset_test_split, tokenizer, policy) if args.dataset_test_split else train
    data = reading.describe(train.raw, args.dataset_name, args.dataset_train_split, args.dataset_license)
    return Loaded(policy, train, test, data)


def policy_of(args: Seq2SeqArguments) -> seq2seq_rows.Policy:
    """The policy that a recipe's arguments ask for, checked."""
    policy = seq2seq_rows.Policy(
        args.max_source_length, args.max_target_length, args.overlength, args.special_tokens, args.unknown_answers
    )
    policy.check()
    return policy


def _part(args: Seq2SeqArguments, split: str, tokenizer, policy: seq2seq_rows.Policy) -> Part:
    place = (args.dataset_name, args.dataset_config, args.dataset_revision)
    raw = reading.load_rows(*place, split, args.dataset_format)
    rows = seq2seq_rows.messages_of(raw, args.dataset_format)
    return Part(raw, rows, seq2seq_rows.label_all(rows, tokenizer, policy))


def split(loaded: Loaded, args: Seq2SeqArguments) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """Rows to train on, and rows held out: a test split, a seeded share of the used rows, or none."""
    train = outcomes.used(loaded.train.labelled)
    if loaded.test is not loaded.train:
        return train, outcomes.used(loaded.test.labelled)
    size = args.test_size if len(train) > 1 else None
    return conversations.hold_out(train, size, args.split_seed, conversations.families(loaded.train.raw))


def settle(loaded: Loaded) -> None:
    """Raises where training should not start; see [`seq2seq_rows.settle`]."""
    seq2seq_rows.settle(loaded.train.labelled, loaded.policy)
    if loaded.test is not loaded.train:
        seq2seq_rows.settle(loaded.test.labelled, loaded.policy)


def references(test: datasets.Dataset, part: Part, metric: str) -> task_metrics.References:
    """What written answers are compared with.

    A row may say its `task` in a column of that name or in `meta`, its metric in `meta.metric`, and all accepted
    answers in `meta.answers`; otherwise its own answer is the one. Where a FLAN template asks for a chain of thought,
    or for the question, what is written is not the task's answer, and its metric and answers don't hold.

    Args:
        test (`datasets.Dataset`): Rows held out.
        part (`Part`): What they are taken from.
        metric (`str`): Of rows that name none.

    Raises:
        RowError: For a metric that does not exist.
    """
    chosen = part.rows.select(np.asarray(test["row"][:], int))
    metas = chosen["meta"][:] if "meta" in chosen.column_names else [None] * len(chosen)
    tasks = chosen["task"][:] if "task" in chosen.column_names else [None] * len(chosen)
    found = task_metrics.References([], [], [])
    for place, (messages, meta, task) in enumerate(zip(chosen["messages"], metas, tasks, strict=True)):
        meta = meta if isinstance(meta, Mapping) else {}
        rewritten = meta.get("inverted") or meta.get("cot")
        named = FREE_TEXT if rewritten else meta.get("metric") or metric
        if named not in task_metrics.METRICS:
            raise RowError(
                f"{named!r} is no metric; allowed are {', '.join(task_metrics.METRICS)}.",
                reason="schema",
                row=int(test["row"][place]),
                field="meta.metric",
            )
        answers = meta.get("answers")
        is_list = isinstance(answers, list) and answers and all(isinstance(one, str) for one in answers)
        is_list = is_list and not rewritten
        found.answers.append(list(answers) if is_list else [seq2seq_rows.pair(messages)[1]])
        found.metrics.append(named)
        found.tasks.append(str(task or meta.get("task") or task_metrics.NO_TASK))
    return found
