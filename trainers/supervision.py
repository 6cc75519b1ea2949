"""Conversation + chat template + tokenizer -> token ids and labels that are provably right, or a refusal that says why.

The six rules are in spans.RULES; spans.py finds the characters, this file turns them into labels. A token that straddles a
boundary is supervised only if each of its characters is (rule 6): at inference the model never continues half a token.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from instruct_builders.errors import ConfigError, RowError, TemplateError

from .rendering import RAISED, Printer, Unaligned
from .spans import RULES, Refusal, Turn, turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that no loss looks at
TRAIN_ON = ("all", "last")
SAID = "supervise"  # what the markers do where they break a rule: this, or "leave out"

_USER, _ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
_CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "id": "123456789", "function": {"name": "f", "arguments": {"x": "c"}}}],
}
_TOLD = {"role": "tool", "name": "f", "tool_call_id": "123456789", "content": "d"}
# Usual conversations, short ones first: what a template refuses or ends a turn with is shown on these.
PROBES = [
    [_USER, _ANSWER],
    [_USER, _CALL],
    [_USER, _ANSWER, _USER, _ANSWER],
    [_USER, _CALL, _TOLD, _ANSWER],
]


@dataclass
class Supervision:
    """What is supervised in one conversation, and what there is to say about it.

    Attributes:
        text (`str`): What `apply_chat_template` prints.
        input_ids (`list[int]`), labels (`list[int]`): One per token; `-100` where nothing is learned.
        spans (`list[tuple[int, int]]`): The supervised characters of `text`.
        turns (`list[Turn]`): One per trained message.
        stops (`dict[int, int]`): Trained message -> id of the end-of-turn token that follows it.
        straddling (`int`): Tokens left out because only some of their characters are supervised.
        supplied (`int`): Characters of messages left out because the generation prompt supplies them.
        disagreements (`list[dict]`): Where the template's own `{% generation %}` markers break a rule: `rule`, `message`,
            `start`, `end`, `text`, `markers` (`"supervise"` or `"leave out"`). The labels follow the rule.
        left_out (`list[tuple[int, str]]`): Texts that the template does not print, such as earlier reasoning.
    """

    text: str
    input_ids: list[int]
    labels: list[int]
    spans: list[tuple[int, int]]
    turns: list[Turn]
    stops: dict[int, int]
    straddling: int
    supplied: int
    disagreements: list[dict] = field(default_factory=list)
    left_out: list[tuple[int, str]] = field(default_factory=list)


def supervise(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict],
    chat_template: str | None = None,
    tools: list | None = None,
    *,
    train_on: str = "all",
    **variables,
) -> dict[str, list[int]]:
    """Token ids and labels of one conversation, for any chat template that the rules can be met for.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.
        messages (`list[dict]`): `role`, `content`, `reasoning_content`, `tool_calls`. `"train": False` or `"weight": 0`
            keeps an assistant message out of the loss. Null values count as absent.
        chat_template (`str`, *optional*): A template's text, or the name of one that the tokenizer has. Its own if not given.
        tools (`list`, *optional*): Functions or JSON schemas that may be called.
        train_on (`str`, *optional*, defaults to `"all"`): `"all"` assistant messages, or only the `"last"`.
        **variables: Further variables of the template, such as `enable_thinking`.

    Returns:
        `dict`: `input_ids` and `labels`.

    Raises:
        TemplateError: With the rule that can't be met, the template's name and the shortest conversation that shows it
            (also as attributes `rule`, `template`, `messages`); `rule` is None where the template itself raised an error.
        RowError: For a conversation without an answer to learn.
    """
    found = explain(tokenizer, messages, chat_template, tools, train_on=train_on, **variables)
    return {"input_ids": found.input_ids, "labels": found.labels}


def explain(tokenizer, messages, chat_template=None, tools=None, *, train_on="all", **variables) -> Supervision:
    """As [`supervise`], with everything there is to say about it."""
    printer = Printer(tokenizer, chat_template, tools, variables)
    messages = clean(messages)
    chosen = trained(messages, train_on)
    try:
        return _explain(printer, messages, chosen)
    except Refusal as refusal:
        raise refused(printer, messages, refusal) from refusal
    except RAISED as error:
        raise raised(printer, messages, error) from error


def clean(messages: list[dict]) -> list[dict]:
    """Messages without null values, as apply_chat_template drops them: `datasets` fills every missing key with null."""
    return [{key: value for key, value in message.items() if value is not None} for message in messages]


def trained(messages: list[dict], train_on: str = "all") -> list[int]:
    """Positions of the assistant messages that are trained on."""
    if train_on not in TRAIN_ON:
        raise ConfigError(f"train_on: {train_on!r} is not allowed. Allowed: {', '.join(TRAIN_ON)}.")
    chosen = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
    chosen = chosen[-1:] if train_on == "last" else chosen
    for index in chosen:
        weight, train = messages[index].get("weight", 1), messages[index].get("train", True)
        if weight not in (0, 1) or train not in (True, False):
            raise RowError(
                f"train: {train!r}, weight: {weight!r}. Allowed: train true or false, weight 0 or 1.",
                reason="schema",
                field=f"messages[{index}]",
            )
    chosen = [index for index in chosen if messages[index].get("train", True) and messages[index].get("weight", 1)]
    if not chosen:
        roles = [message.get("role") for message in messages]
        raise RowError(
            f"no token to train on: the turns are {roles} and none is an answer to learn. Remove the row.",
            reason="no_turns",
            field="messages",
        )
    return chosen


def _explain(printer: Printer, messages: list[dict], chosen: list[int]) -> Supervision:
    text, found, left_out = turns(printer, messages, chosen)
    spans, disagreements = merge([(turn.start, turn.end) for turn in found]), []
    if printer.has_markers:
        try:
            marked = merge(printer.marked_spans(messages, text))
        except Unaligned as error:
            raise Refusal(1, str(error)) from error
        silent = {place for place, message in enumerate(messages) if message["role"] == "assistant"} - set(chosen)
        disagreements = disagree(text, found, marked, silent)
        extra = [(max(a, turn.end), min(b, turn.free)) for turn in found for a, b in marked]
        spans = merge([*spans, *[(start, end) for start, end in extra if start < end]])
    encoded = printer.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, offsets = encoded["input_ids"], tile(printer, encoded["offset_mapping"])
    inside, straddling = choose(offsets, spans)
    stops = {turn.message: stop_id(ids, offsets, inside, turn, text) for turn in found}
    labels = np.where(inside, ids, IGNORED).tolist()
    supplied = sum(turn.supplied for turn in found)
    return Supervision(text, ids, labels, spans, found, stops, straddling, supplied, disagreements, left_out)


def merge(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted spans that neither overlap nor touch."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def subtract(spans: list[tuple[int, int]], others: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is in `spans` and not in `others`; both as [`merge`] gives them."""
    left = []
    for start, end in spans:
        for a, b in others:
            if b > start and a < end:
                if a > start:
                    left.append((start, a))
                start = max(start, b)
        if start < end:
            left.append((start, end))
    return left


def disagree(text: str, found: list[Turn], marked: list[tuple[int, int]], silent: set[int]) -> list[dict]:
    """Where the template's markers break rules 2 to 5, for the trained messages.

    Markers around the assistant messages in `silent` (`train_on="last"`, `"train": False`) are no disagreement.
    """
    report = []

    def add(rule: int, turn: Turn, pieces: list[tuple[int, int]], markers: str):
        for start, end in pieces:
            entry = {"rule": rule, "message": turn.message, "start": start, "end": end, "text": text[start:end]}
            report.append(entry | {"markers": markers})

    after = 0
    for turn in found:
        header = max(turn.before, after)
        add(2, turn, subtract([(turn.start, turn.stop)], marked), "leave out")
        add(4, turn, subtract([(turn.stop, turn.end)], marked), "leave out")
        if turn.message - 1 not in silent:
            add(
                5,
                turn,
                [(max(a, header), min(b, turn.start)) for a, b in marked if a < turn.start and b > header],
                SAID,
            )
        add(3, turn, [(turn.free, b) for a, b in marked if turn.start <= a < turn.free < b], SAID)
        after = turn.free
    if found and not silent:
        known = [(turn.before, turn.free) for turn in found]
        add(3, found[0], [(a, b) for a, b in marked if not any(a < end and b > start for start, end in known)], SAID)
    return report


def tile(printer: Printer, offsets: list[tuple[int, int]]) -> np.ndarray:
    """Offsets (tokens, 2) with which every character belongs to a token.

    Byte-level tokenizers with `trim_offsets` leave the blank in front of a word out of its token's offsets.
    """
    tiled = np.asarray(offsets, np.int64).reshape(-1, 2)
    if printer.trims and len(tiled):
        tiled[1:, 0] = np.minimum(tiled[1:, 0], np.maximum.accumulate(tiled[:-1, 1]))
    return tiled


def choose(offsets: np.ndarray, spans: list[tuple[int, int]]) -> tuple[np.ndarray, int]:
    """Which tokens lie wholly in the spans, and how many lie there only in part."""
    edges = np.asarray(spans, np.int64).ravel()
    start, end = offsets[:, 0], offsets[:, 1]
    place = np.searchsorted(edges, start, side="right")  # odd: the token starts inside a span
    limit = np.append(edges, edges[-1:] if len(edges) else 0)[np.minimum(place, len(edges))]
    inside = (place % 2 == 1) & (end <= limit) & (end > start)
    touched = (place % 2 == 1) | ((place < len(edges)) & (end > limit))
    return inside, int((touched & ~inside & (end > start)).sum())


def stop_id(ids: list[int], offsets: np.ndarray, inside: np.ndarray, turn: Turn, text: str) -> int:
    """The id of the token that ends a turn, which must be one supervised token."""
    place = int(np.searchsorted(offsets[:, 0], turn.stop, side="left"))
    if place == len(ids) or tuple(offsets[place]) != (turn.stop, turn.end) or not inside[place]:
        raise Refusal(
            4, f"{text[turn.stop : turn.end]!r} after message {turn.message} is not one token of this tokenizer"
        )
    return ids[place]


def refused(printer: Printer, messages: list[dict], refusal: Refusal) -> TemplateError:
    """The error for a rule that can't be met, with the shortest conversation that shows it."""
    name, shown = template_name(printer.source), shortest(printer, messages, refusal.rule)
    error = TemplateError(
        f"chat template {name}, rule {refusal.rule} ({RULES[refusal.rule]}): {refusal.why}. Shortest conversation that "
        f"shows it: {_brief(shown)}. Choose another template, or mark and fix this one in a .jinja file."
    )
    error.rule, error.template, error.messages = refusal.rule, name, shown
    return error


def raised(printer: Printer, messages: list[dict], cause: Exception) -> TemplateError:
    """The error for a conversation that the template itself does not print."""
    name = template_name(printer.source)
    error = TemplateError(
        f"chat template {name} raises an error for this conversation: {cause}. It is {_brief(messages)}."
    )
    error.rule, error.template, error.messages = None, name, messages
    return error


def shortest(printer: Printer, messages: list[dict], rule: int) -> list[dict]:
    """The shortest conversation found that breaks the same rule: a usual one, or what is left after taking turns away."""
    for probe in PROBES:
        if len(probe) < len(messages) and _broken(printer, probe) == rule:
            return probe
    left, place = messages, 0
    while place < len(left) <= 32:  # beyond that, printing all the parts takes longer than reading them
        fewer = left[:place] + left[place + 1 :]
        left, place = (fewer, 0) if _broken(printer, fewer) == rule else (left, place + 1)
    return left


def _broken(printer: Printer, messages: list[dict]) -> int | None:
    try:
        _explain(printer, messages, trained(messages))
    except Refusal as refusal:
        return refusal.rule
    except (RowError, *RAISED):
        return None
    return None


def _brief(messages: list[dict]) -> str:
    text = json.dumps(messages, ensure_ascii=False)
    return text if len(text) <= 600 else f"{text[:600]}... ({len(text)} characters)"


def template_name(source: str) -> str:
    """The name of a template that this package or TRL ships, else a digest of its text."""
    import importlib.util

    folders = [Path(__file__).parent / "chat_templates"]
    trl = importlib.util.find_spec("trl")
    folders += [Path(trl.origin).parent / "chat_templates"] if trl and trl.origin else []
    for folder in folders:
        for file in sorted(folder.glob("*.jinja")):
            if file.read_text(encoding="utf-8") == source:
                return f"{folder.parent.name}/{file.stem}"
    return f"sha256:{hashlib.sha256(source.encode()).hexdigest()[:12]}"
