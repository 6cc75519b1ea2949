"""Supervised characters -> labels of tokens, checked against the template's own markers.

A token that straddles a boundary is supervised only if each of its characters is (rule 6), and is counted: at
inference the model never continues half a token.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from instruct_builders.errors import ConfigError, RowError

from .rendering import Printer, Unaligned
from .rules import Refusal
from .spans import Turn, turns

IGNORED = -100  # the label that no loss looks at
TRAIN_ON = ("all", "last")
SAID = "supervise"  # what the markers do where they break a rule: this, or "leave out"


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
        disagreements (`list[dict]`): Where the template's own `{% generation %}` markers break a rule: `rule`,
            `message`, `start`, `end`, `text`, `markers` (`"supervise"` or `"leave out"`). The labels follow the rule.
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


def clean(messages: list[dict]) -> list[dict]:
    """Messages without null values, as apply_chat_template drops them: `datasets` puts them where a key is missing."""
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


def label(printer: Printer, messages: list[dict], chosen: list[int]) -> Supervision:
    """The labels of one conversation; `chosen` are the positions of the messages to learn."""
    text, found, left_out = turns(printer, messages, chosen)
    spans, disagreements = [(turn.start, turn.end) for turn in found], []
    if printer.has_markers:
        try:
            marked = merge(printer.marked_spans(messages, text))
        except Unaligned as error:
            raise Refusal(1, str(error)) from error
        silent = {place for place, message in enumerate(messages) if message["role"] == "assistant"} - set(chosen)
        disagreements = disagree(text, found, marked, silent)
        spans = [(turn.own, turn.end) for turn in found]
        for turn in found:  # the template's own characters around the message: as its markers say
            for low, high in ((turn.start, turn.own), (turn.end, turn.free)):
                spans += [(max(a, low), min(b, high)) for a, b in marked if a < high and b > low]
    spans = merge(spans)
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
        add(2, turn, subtract([(turn.own, turn.stop)], marked), "leave out")
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
    """As [`tiled`], for the printer's tokenizer."""
    return tiled(offsets, printer.trims)


def tiled(offsets: list[tuple[int, int]], trims: bool) -> np.ndarray:
    """Offsets (tokens, 2) with which every character belongs to a token.

    Byte-level tokenizers with `trim_offsets` leave the blank in front of a word out of its token's offsets.
    """
    tiled = np.asarray(offsets, np.int64).reshape(-1, 2)
    if trims and len(tiled):
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
