"""Rows of any of our formats -> encoder ids and decoder labels, every row accounted for before training starts.

The decoder learns the last answer of a conversation; the encoder reads everything before it. A single question is read
as it is, the way FLAN's prompts are. A longer conversation is laid out as

    <system message>

    User: <question>
    Assistant: <answer>
    User: <question>
    Assistant:

and with a system message before a single question there are just the two, with a blank line between.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from instruct_builders import formats
from instruct_builders.errors import ConfigError, RowError, SourceError, did_you_mean

from . import control_tokens, lengths, outcomes

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

NAMES = {"user": "User: ", "assistant": "Assistant: "}
OVERLENGTH = tuple(name for name in lengths.POLICIES if name != "split")
UNKNOWN = ("error", "drop", "keep")  # what becomes of answers with text that the vocabulary can't express
UNKNOWN_TOKEN = "unknown_token"
STOPS = ("no_turns", "schema", "empty_output")  # the data is not what the recipe takes it for
COUNTS = ("length", "trained", "row", "tokens", "source_tokens", "target_tokens", "source_unknown", "target_unknown")
# `datasets` hashes a function of a module by its name alone and would serve labels made by older code.
FILES = [Path(module.__file__) for module in (control_tokens, lengths)] + [Path(__file__)]
CODE = hashlib.sha256(b"".join(file.read_bytes() for file in FILES)).hexdigest()


class Policy(NamedTuple):
    """What is done with rows that can't be trained on as they are.

    Attributes:
        source (`int`, *optional*): Most tokens for the encoder, with the EOS; `None` for no limit.
        target (`int`, *optional*): Most tokens for the decoder, with the EOS.
        overlength (`str`): One of `OVERLENGTH`.
        special_tokens (`str`): One of `control_tokens.POLICIES`.
        unknown_answers (`str`): One of `UNKNOWN`.
    """

    source: int | None = 512
    target: int | None = 256
    overlength: str = "error"
    special_tokens: str = "reject"
    unknown_answers: str = "error"

    def check(self) -> None:
        """Raises a `ConfigError` for a policy that does not exist, or is not for encoder-decoders."""
        if self.overlength == "split":
            raise ConfigError(
                "overlength: 'split' is not for encoder-decoders: a row has one answer, and the parts before the last "
                f"would learn other answers than rows that fit. Allowed: {', '.join(OVERLENGTH)}."
            )
        lengths.check(self.overlength)
        control_tokens.check(self.special_tokens)
        if self.unknown_answers not in UNKNOWN:
            hint = did_you_mean(self.unknown_answers, UNKNOWN)
            raise ConfigError(
                f"unknown_answers: {self.unknown_answers!r} is not allowed. Allowed: {', '.join(UNKNOWN)}.{hint}"
            )
        for name in ("source", "target"):
            limit = getattr(self, name)
            if limit is not None and limit < 2:
                raise ConfigError(f"max_{name}_length: {limit} given; a token and the EOS need 2 or more.")


def messages_of(rows: datasets.Dataset, source: str) -> datasets.Dataset:
    """The rows with a column `messages`, whatever format they are in; other columns stay.

    Raises:
        SourceError: If there are no rows, in no format that is known, or texts without answers.
    """
    if len(rows) == 0:
        raise SourceError("the dataset has no rows.")
    source = formats.detect(rows.features) if source == "auto" else source
    if source is None:
        known = ", ".join(name for name in formats.FORMATS if name != "text")
        raise SourceError(f"the columns {', '.join(rows.column_names)} are in no format that is known: {known}.")
    if source == "text":
        raise SourceError(
            "rows of plain text have no question and no answer, and an encoder-decoder needs both. Give rows with "
            "messages, prompt and completion, or instruction and output."
        )
    return rows if source == "messages" else formats.convert(rows, source, "messages")


def source_text(messages: list[dict]) -> str:
    """What the encoder reads of these messages, all of which come before the answer; see the top of this file.

    Raises:
        RowError: For tools, which the layout has no place for.
    """
    system = [turn["content"] for turn in messages if turn["role"] in lengths.SYSTEM]
    said = [turn for turn in messages if turn["role"] not in lengths.SYSTEM]
    for turn in said:
        if turn["role"] not in NAMES or turn.get("tool_calls"):
            raise RowError(
                "has tools, which the plain layout for encoder-decoders has no place for. Leave such rows out, or "
                "train a decoder-only model with recipes/sft.py.",
                reason="schema",
            )
    if [turn["role"] for turn in said] == ["user"]:
        return "\n\n".join([*system, said[0]["content"]])
    lines = [NAMES[turn["role"]] + turn["content"] for turn in said] + [NAMES["assistant"].rstrip()]
    return "\n\n".join([*system, "\n".join(lines)])


def pair(messages: list[dict]) -> tuple[str, str]:
    """`(source, target)` of a conversation: everything before its last answer to learn, and that answer.

    Raises:
        RowError: With the reason, for a conversation that gives none.
    """
    place = next((place for place in reversed(range(len(messages))) if lengths.learned(messages[place])), None)
    if place is None:
        raise RowError("has no answer to learn.", reason="no_turns")
    if messages[-1]["role"] != "assistant":
        raise RowError("goes on after its last answer.", reason="ends_with_user")
    answer = messages[place]["content"]
    if messages[place].get("tool_calls"):
        raise RowError("its answer is a call of a tool, which is no text.", reason="schema")
    if not (answer or "").strip():
        raise RowError("its answer has no text.", reason="empty_output")
    return source_text(messages[:place]), answer


def label_all(rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, policy: Policy) -> datasets.Dataset:
    """Ids and labels of every row, and what became of it; raises for none.

    Args:
        rows (`datasets.Dataset`): From [`messages_of`].
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.
        policy (`Policy`): What is done with rows that are too long, or can't be expressed.

    Returns:
        `datasets.Dataset`: `input_ids`, `labels`, `outcome` ("whole", "turns_cut", "tokens_cut", or a reason),
        `detail`, and numbers: `length` (tokens of both), `trained` (tokens of the answer), `row` (position in `rows`);
        before any cut `tokens`, `source_tokens`, `target_tokens`, and the unknown ones among them.
    """
    import datasets

    policy.check()
    number, text = datasets.Value("int64"), datasets.Value("string")
    lists = {"input_ids": datasets.List(datasets.Value("int32")), "labels": datasets.List(number)}
    features = datasets.Features(lists | {"outcome": text, "detail": text} | dict.fromkeys(COUNTS, number))
    return rows.select_columns(["messages"]).map(
        _label_batch,
        batched=True,
        with_indices=True,
        remove_columns=["messages"],
        features=features,
        fn_kwargs={"tokenizer": tokenizer, "policy": tuple(policy), "code": CODE},
        desc="Labels",
    )


def _label_batch(batch: dict, indices: list[int], *, tokenizer, policy, code) -> dict:
    job = _Job(tokenizer, Policy(*policy))
    entries: list[dict] = []
    pairs: list[tuple[str, str] | None] = []
    for messages, row in zip(batch["messages"], indices, strict=True):
        entry = {"input_ids": [], "labels": [], "outcome": "whole", "detail": "", **dict.fromkeys(COUNTS, 0)}
        entries.append(entry | {"row": row})
        try:
            pairs.append(job.pair(messages))
        except RowError as error:
            pairs.append(None)
            entries[-1] |= {"outcome": error.reason, "detail": error.message}
    places = [place for place, found in enumerate(pairs) if found is not None]
    made = job.encode([pairs[place] for place in places])
    for place, (source, target) in zip(places, made, strict=True):
        job.settle(entries[place], source, target, batch["messages"][place])
    return {name: [entry[name] for entry in entries] for name in entries[0]} if entries else {}


class _Job:
    """Tokenizer and policy, for the rows of one batch."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, policy: Policy):
        self.tokenizer, self.policy = tokenizer, policy
        self.special = control_tokens.pattern(tokenizer)

    def pair(self, messages: list[dict]) -> tuple[str, str]:
        found = pair(messages or [])
        if self.policy.special_tokens == "reject" and (typed := control_tokens.typed(self.special, list(found))):
            told = ", ".join(f"{token!r} {times}x" for token, times in typed.items())
            raise RowError(f"special tokens typed in a message: {told}", reason="control_token")
        return found

    def encode(self, pairs: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        if not pairs:
            return []
        sources, targets = zip(*pairs, strict=True)
        made = self.tokenizer(list(sources), text_target=list(targets), return_attention_mask=False)
        if self.policy.special_tokens == "escape":
            *begin, end = self.tokenizer("")["input_ids"]  # what is put around a text: an EOS, in some a BOS
            for kind, texts in (("input_ids", sources), ("labels", targets)):
                for place, text in enumerate(texts):
                    if self.special.search(text):
                        made[kind][place] = [*begin, *control_tokens.encode(self.tokenizer, text, [])[0], end]
        return list(zip(made["input_ids"], made["labels"], strict=True))

    def settle(self, entry: dict, source: list[int], target: list[int], messages: list[dict]) -> None:
        """Fills in `entry`: ids, or the reason why there are none."""
        unknown = self.tokenizer.unk_token_id
        entry |= {"source_tokens": len(source), "target_tokens": len(target), "tokens": len(source) + len(target)}
        entry |= {"source_unknown": source.count(unknown), "target_unknown": target.count(unknown)}
        if entry["target_unknown"] and self.policy.unknown_answers != "keep":
            what = f"{entry['target_unknown']} of the answer's {len(target)} tokens are {self.tokenizer.unk_token!r}"
            entry |= {"outcome": UNKNOWN_TOKEN, "detail": what}
            return
        if not self.fits(source, target):
            source, target = self.shorten(entry, source, target, messages)
        entry |= {"input_ids": source, "labels": target, "length": len(source) + len(target), "trained": len(target)}

    def fits(self, source: list[int], target: list[int]) -> bool:
        limits = (self.policy.source or np.inf, self.policy.target or np.inf)
        return len(source) <= limits[0] and len(target) <= limits[1]

    def shorten(self, entry: dict, source: list[int], target: list[int], messages: list[dict]):
        """What the length policy makes of a row that is too long; nothing where it is left out."""
        over = [
            f"{name} {len(ids)} tokens, {limit} allowed"
            for name, ids, limit in (("source", source, self.policy.source), ("target", target, self.policy.target))
            if limit is not None and len(ids) > limit
        ]
        if self.policy.overlength == "truncate_tokens":
            if self.policy.source is not None and len(source) > self.policy.source:
                source = [*source[: self.policy.source - 1], source[-1]]  # every encoder input ends with EOS
            entry |= {"outcome": "tokens_cut", "detail": "; ".join(over)}
            return source, target[: self.policy.target]  # no EOS: the model must not learn to stop in mid-sentence
        found: list[tuple[list[int], list[int]]] = []

        def fits(part: list[dict], opening: bool) -> bool:
            try:
                (ids,) = self.encode([self.pair(part)])
            except RowError:
                return False
            found[:] = [ids]
            return self.fits(*ids)

        if self.policy.overlength == "truncate_turns" and lengths.truncate_turns(messages, fits) is not None:
            entry |= {"outcome": "turns_cut", "detail": "; ".join(over)}
            return found[0]
        entry |= {"outcome": outcomes.TOO_LONG, "detail": "; ".join(over)}
        return [], []


def settle(labelled: datasets.Dataset, policy: Policy) -> tuple[datasets.Dataset, dict[str, int]]:
    """The rows to train on, and how many came to what; raises where training should not start.

    Raises:
        RowError: For the first row that has no answer, or that the layout has no place for.
        ConfigError: For rows that are too long or answers that can't be expressed, where the policy is an error, and
            if no row is left.
    """
    became = np.asarray(labelled["outcome"][:])
    for place in np.flatnonzero(np.isin(became, STOPS))[:1]:
        entry = labelled[int(place)]
        raise RowError(entry["detail"], reason=entry["outcome"], row=entry["row"], field="messages")
    found = outcomes.counts(labelled)
    for reason, setting, cure in (
        (outcomes.TOO_LONG, policy.overlength, f"Raise the limit, or set overlength to one of {OVERLENGTH[1:]}."),
        (UNKNOWN_TOKEN, policy.unknown_answers, "Mend the data, or set unknown_answers to drop or keep."),
    ):
        first = np.flatnonzero(became == reason)[:1]
        if setting == "error" and len(first):
            entry = labelled[int(first[0])]
            raise ConfigError(
                f"{found[reason]} of {found['rows_in']} rows: {reason}; the first, row {entry['row']}: "
                f"{entry['detail']}. {cure}"
            )
    some = outcomes.used(labelled)
    if not len(some):
        raise ConfigError(f"no row is left to train on: {found}. Raise the limits, or mend the data.")
    return some, found
