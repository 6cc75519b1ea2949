"""What happens to a conversation that is too long: whole turns go, an answer is never cut in the middle unless asked.

Pure functions over messages. How long a conversation is, only its template and tokenizer know, so every function takes
`fits(messages, opening)`: whether these messages, printed, are within the limit. `opening` is false for a part that
does not begin where the conversation began: what belongs to its first question, such as Alpaca's input, is not in it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from instruct_builders.errors import ConfigError, did_you_mean

POLICIES = {
    "error": "training stops before it starts",
    "drop": "the row is left out",
    "truncate_turns": "turns are left out from the end, back to an answer that fits",
    "split": "the rows become several, each of whole rounds with the system message in front",
    "truncate_tokens": "the row is cut at the limit, in the middle of an answer if that is where it falls",
}
SYSTEM = ("system", "developer")

Messages = list[dict]
Fits = Callable[[Messages, bool], bool]


def check(policy: str) -> str:
    """The policy, or a `ConfigError` that names the allowed ones."""
    if policy not in POLICIES:
        hint = did_you_mean(policy, POLICIES)
        raise ConfigError(f"overlength: {policy!r} is not allowed. Allowed: {', '.join(POLICIES)}.{hint}")
    return policy


def rounds(messages: Messages) -> tuple[Messages, list[Messages]]:
    """The leading system messages, and the rounds: a question with all that follows it up to the next question.

    Put together again they are the conversation. A conversation that an assistant opens has a first round without
    question; several user messages in a row open one round.
    """
    start = next((place for place, turn in enumerate(messages) if turn["role"] not in SYSTEM), len(messages))
    found: list[Messages] = []
    for place in range(start, len(messages)):
        asks = messages[place]["role"] == "user" and place > start and messages[place - 1]["role"] != "user"
        if asks or not found:
            found.append([])
        found[-1].append(messages[place])
    return messages[:start], found


def truncate_turns(messages: Messages, fits: Fits) -> Messages | None:
    """The longest beginning that ends with an answer to learn and fits; `None` where there is none."""
    ends = [
        place + 1
        for place, turn in enumerate(messages)
        if learned(turn) and (place + 1 == len(messages) or messages[place + 1]["role"] != "assistant")
    ]
    # From the longest down: with templates that drop earlier reasoning a longer conversation may print shorter.
    return next((messages[:end] for end in reversed(ends) if fits(messages[:end], True)), None)


def split(messages: Messages, fits: Fits) -> tuple[list[tuple[Messages, bool]], int]:
    """Parts of consecutive whole rounds, each as long as it can be, with the system messages in front of each.

    Returns:
        `tuple`: `(messages, opening)` per part, in order, and how many rounds are in none: too long by themselves, or
        without an answer to learn.
    """
    system, queue = rounds(messages)
    parts: list[tuple[Messages, bool]] = []
    left_out = place = 0
    while place < len(queue):
        end = place
        while end < len(queue) and fits([*system, *chain(*queue[place : end + 1])], place == 0):
            end += 1
        part = [*chain(*queue[place:end])]
        if any(map(learned, part)):
            parts.append(([*system, *part], place == 0))
        else:
            left_out += max(end - place, 1)
        place = max(end, place + 1)
    return parts, left_out


def learned(turn: dict) -> bool:
    """Whether a message is an answer that is trained on."""
    return turn["role"] == "assistant" and turn.get("train") is not False and turn.get("weight") != 0
