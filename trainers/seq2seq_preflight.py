"""What a training run of an encoder-decoder will do, before it does it: no weights, no GPU.

Reports the rows that recipes/flan_t5.py trains on, loaded and labelled once by seq2seq_data.py.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import (
    census,
    config,
    control_tokens,
    conversations,
    outcomes,
    seq2seq_data,
    seq2seq_findings,
    seq2seq_memory,
    seq2seq_models,
    seq2seq_rows,
)

if TYPE_CHECKING:
    import datasets
    from transformers import PretrainedConfig, PreTrainedTokenizerBase, Seq2SeqTrainingArguments

    from .seq2seq_models import Seq2SeqArguments

SHOWN = 10  # characters that the vocabulary lacks
SIDES = ("source", "target")


class Begun(NamedTuple):
    """A run before its weights: whether it is to be pushed, the tokenizer, the rows, and the report on them."""

    push: bool
    tokenizer: PreTrainedTokenizerBase
    loaded: seq2seq_data.Loaded
    found: dict


def begin(args: Seq2SeqArguments, training: Seq2SeqTrainingArguments) -> Begun:
    """Everything that training and `--check` have in common; on every process, the first one labels.

    Raises:
        InstructError: Where there are no rows to speak of: wrong arguments, no such data, no such model.
    """
    seq2seq_models.check_arguments(args, training)
    push = config.check(args, training)
    decided = conversations.settle_evaluation(args, training)
    settings = seq2seq_models.load_config(args, training)
    seq2seq_models.check_targets(args, settings)
    tokenizer = seq2seq_models.load_tokenizer(args)
    with training.main_process_first(desc="labels"):
        loaded = seq2seq_data.load(args, tokenizer)
    found = report(args, training, loaded, tokenizer, settings, memory=args.check)
    found["short"] = "\n".join([*decided, found["short"]])
    return Begun(push, tokenizer, loaded, found)


def report(
    args: Seq2SeqArguments,
    training: Seq2SeqTrainingArguments,
    loaded: seq2seq_data.Loaded,
    tokenizer: PreTrainedTokenizerBase,
    settings: PretrainedConfig,
    *,
    memory: bool = True,
) -> dict:
    """Everything there is to know about a run before it starts, as JSON types.

    Args:
        args (`Seq2SeqArguments`), training (`Seq2SeqTrainingArguments`): The recipe's arguments.
        loaded (`seq2seq_data.Loaded`): The rows.
        tokenizer (`PreTrainedTokenizerBase`), settings (`PretrainedConfig`): The model's.
        memory (`bool`, *optional*, defaults to `True`): Estimate it, which takes most of the time with few rows.

    Returns:
        `dict`: `problems` (`severity`, `topic`, `what` and `fix`), `short` (text), and what they were found in.
    """
    train, test = seq2seq_data.split(loaded, args)
    labelled, policy = loaded.train.labelled, loaded.policy
    longest = {"source": _largest(train, "input_ids"), "target": _largest(train, "labels")}
    found = {
        "policy": policy._asdict(),
        "data": loaded.data,
        "columns": census.columns(loaded.train.raw, args.dataset_format),
        "rows": outcomes.counts(labelled) | {"train": len(train), "test": len(test or [])},
        "test_rows": {} if loaded.test is loaded.train else outcomes.counts(loaded.test.labelled),
        "left_out": census.left_out(labelled),
        "encoder": census.lengths(np.asarray(labelled["source_tokens"][:]), policy.source),
        "decoder": census.lengths(np.asarray(labelled["target_tokens"][:]), policy.target),
        "special_tokens": typed(loaded.train.rows, tokenizer),
        "text": lost(loaded.train, tokenizer),
        "stop": stops(train, tokenizer),
        "twins": census.twins(
            loaded.train.rows.select_columns(["messages"]), train, loaded.test.rows.select_columns(["messages"]), test
        )
        | {"parts": census.parts(train, loaded.train.raw, test, loaded.test.raw)},
        "steps": steps(train, training, max(args.world_size, training.world_size)),
        "memory": {},
    }
    if len(train) and memory:
        found["memory"] = seq2seq_memory.ways(settings, args, training, longest["source"], longest["target"])
        found["memory"]["device"] = int(args.device_memory_gb * 2**30) if args.device_memory_gb else None
    found["problems"] = seq2seq_findings.findings(found)
    return found | {"short": short(found)}


def _largest(train: datasets.Dataset, column: str) -> int:
    return max(map(len, train[column]), default=0)


def typed(rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Special tokens typed in messages, whatever the policy makes of them."""
    pattern = control_tokens.pattern(tokenizer)
    said = ([turn["content"] or "" for turn in messages or []] for messages in rows["messages"])
    return dict(sum((control_tokens.typed(pattern, texts) for texts in said), Counter()).most_common())


def lost(part: seq2seq_data.Part, tokenizer: PreTrainedTokenizerBase) -> dict:
    """What of the texts the vocabulary can't express: T5's has no line break, no brace and no backslash.

    Returns:
        `dict`: Per side (`"source"`, `"target"`) rows with `unknown` tokens and their number, rows per kind of blank
        that is lost, rows `changed` in other ways (letters that the tokenizer replaces by like ones), and over both
        sides the `characters` that are unknown.
    """
    blanks = {
        name: blank
        for name, blank in seq2seq_findings.BLANKS.items()
        if blank not in tokenizer.decode(tokenizer(f"a{blank}a")["input_ids"], clean_up_tokenization_spaces=False)
    }
    found: dict = {side: Counter(dict.fromkeys(("rows", "tokens", "changed", *blanks), 0)) for side in SIDES}
    characters: Counter = Counter()
    rows = part.labelled.select_columns(["row", "outcome", "source_unknown", "target_unknown"])
    keep = np.isin(np.asarray(rows["outcome"][:]), [*outcomes.USED, seq2seq_rows.UNKNOWN_TOKEN])
    for batch in part.labelled.select(np.flatnonzero(keep)).iter(batch_size=1000):
        pairs = [seq2seq_rows.pair(messages) for messages in part.rows.select(batch["row"])["messages"]]
        for side, place, column in (("source", 0, "input_ids"), ("target", 1, "labels")):
            read = tokenizer.batch_decode(batch[column], skip_special_tokens=True, clean_up_tokenization_spaces=False)
            counted = zip(pairs, read, batch[f"{side}_unknown"], batch["outcome"], strict=True)
            for texts, back, unknown, outcome in counted:
                text = texts[place].strip()
                found[side].update({"rows": bool(unknown), "tokens": unknown})
                found[side].update({name: blank in text for name, blank in blanks.items()})
                if unknown:
                    characters.update(text)
                elif outcome == "whole" and back.split() != text.split():
                    found[side]["changed"] += 1
    unknown = tokenizer.unk_token_id
    known = {one for one in characters if unknown not in tokenizer(one)["input_ids"]}
    shown = [[one, number] for one, number in characters.most_common() if one not in known][:SHOWN]
    return {side: dict(counts) for side, counts in found.items()} | {"characters": shown}


def stops(train: datasets.Dataset, tokenizer: PreTrainedTokenizerBase) -> dict:
    """Answers whose last label is the EOS, which the model must learn to write; those that were cut apart."""
    last = [labels[-1] == tokenizer.eos_token_id for labels in train["labels"]]
    cut = [outcome == "tokens_cut" for outcome in train["outcome"]]
    without = sum(not ends and not is_cut for ends, is_cut in zip(last, cut, strict=True))
    return {"token": tokenizer.eos_token, "answers": len(last), "with": sum(last), "without": without}


def steps(train: datasets.Dataset, training: Seq2SeqTrainingArguments, world_size: int) -> dict:
    """Optimizer steps, and the share of padding in the encoder's and the decoder's batches."""
    batch = training.per_device_train_batch_size
    batches = math.ceil(len(train) / (batch * world_size))
    per_epoch = max(math.ceil(batches / training.gradient_accumulation_steps), 1) if len(train) else 0
    total = training.max_steps if training.max_steps > 0 else math.ceil(per_epoch * training.num_train_epochs)
    sizes = {"encoder": "input_ids", "decoder": "labels"}
    sizes = {side: np.asarray([len(ids) for ids in train[column]], int) for side, column in sizes.items()}
    order = np.arange(len(train))
    if training.train_sampling_strategy == "group_by_length" and len(train):
        order = np.argsort(sizes["encoder"] + sizes["decoder"], kind="stable")
    padding = {}
    for side, size in sizes.items():
        parts = [size[order[start : start + batch]] for start in range(0, len(order), batch)]
        cells = sum(len(part) * int(part.max()) for part in parts)
        padding[side] = round(1 - int(size.sum()) / cells, 3) if cells else 0.0
    return {
        "per_epoch": per_epoch,
        "total": total,
        "epochs": round(total / per_epoch, 2) if per_epoch else 0,
        "tokens_per_epoch": {side: int(size.sum()) for side, size in sizes.items()},
        "padding": padding,
    }


def short(found: dict) -> str:
    """A report in a dozen lines, for a terminal and the model card."""
    rows, steps, stop = found["rows"], found["steps"], found["stop"]
    lines = [f"rows: {_in_and_used(rows)}; {rows['train']:,} to train on, {rows['test']:,} held out"]
    if found["test_rows"]:
        lines.append(f"test rows: {_in_and_used(found['test_rows'])}")
    for side in ("encoder", "decoder"):
        length = found[side]
        if length["rows"]:
            lines.append(
                f"{side} tokens: p50 {length['p50']:,}, p90 {length['p90']:,}, p99 {length['p99']:,}, "
                f"max {length['max']:,}; limit {length['limit'] or 'none'}, {length['over']:,} beyond it; "
                f"padding {steps['padding'][side]:.0%}"
            )
    lines.append(f"end of answer {stop['token']!r}: learned in {stop['with']:,} of {stop['answers']:,} answers")
    unknown = ", ".join(
        f"{found['text'][side]['tokens']:,} in {found['text'][side]['rows']:,} {what}"
        for side, what in (("source", "inputs"), ("target", "answers"))
    )
    lines.append(f"unknown tokens: {unknown}")
    exact, near = found["twins"]["exact"], found["twins"]["normalised"]
    lines.append(
        f"duplicates: {exact['duplicates']:,} exact, {near['duplicates']:,} but for case and blanks; "
        f"test rows in training: {exact['overlap']:,} and {near['overlap']:,}"
    )
    lines.append(
        f"steps: {steps['per_epoch']:,} per epoch, {steps['total']:,} in all; "
        f"{steps['tokens_per_epoch']['encoder']:,} tokens read and {steps['tokens_per_epoch']['decoder']:,} "
        "learned per epoch"
    )
    for name, way in found["memory"].get("ways", {}).items():
        chosen = " (this run)" if name == found["memory"]["chosen"] else ""
        lines.append(f"memory, {name}{chosen}: {way['total'] / 2**30:.2f} GiB")
    lines += [f"{entry['severity']}: {entry['what']} {entry['fix']}" for entry in found["problems"]]
    return "\n".join(lines)


def _in_and_used(rows: dict) -> str:
    others = {name: count for name, count in rows.items() if name not in ("rows_in", "rows_out", "train", "test")}
    told = ", ".join(f"{name} {count:,}" for name, count in others.items())
    return f"{rows['rows_in']:,} in, {rows['rows_out']:,} used ({told})"
