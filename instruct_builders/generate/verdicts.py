"""What a judge is shown and what it says: fences that an answer can't break, and the verdict at the end of a reply.

A judge ends its reply with one JSON object, `{"reason": "...", "score": 7}` or `{"reason": "...", "winner": "A"}`.
Only the one that ends it counts: one that a judge quotes from an answer on its way does not. Nothing is guessed: a
reply without a verdict that is whole and within its range has a problem with a name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..validation import SPECIAL_TOKENS

# Why a reply is no verdict: keys of the counts in every result.
PROBLEMS: dict[str, str] = {
    "no_verdict": "a reply without the JSON object that was asked for",
    "bad_verdict": "a JSON object that is torn, says a thing twice, or has another type than was asked for",
    "out_of_range": "a score or a choice that is not allowed",
}
MARK_DIGITS = 16  # hex: 64 bits
AFTER = " \t\r\n`*."  # what may stand behind a verdict: the end of a code block or of bold type
# A judge that is served with a chat template would take these for turns of its own conversation.
_TYPED = re.compile("|".join([*map(re.escape, SPECIAL_TOKENS), r"<[|｜][^<>|｜\n]{1,40}[|｜]>"]))
_JSON = json.JSONDecoder(
    object_pairs_hook=lambda pairs: _once(pairs), parse_constant=lambda name: _refuse(f"{name} is no number of JSON")
)


class Verdict(NamedTuple):
    """What a judge decided.

    Attributes:
        value (`float` or `str`, *optional*): The score or the choice; `None` with a `problem`.
        problem (`str`, *optional*): A key of `PROBLEMS`.
        reason (`str`): The judge's own words, `""` where it gave none.
    """

    value: float | str | None
    problem: str | None
    reason: str


def nonce(*texts: str, seed: int = 42) -> str:
    """A mark for the fences of one question to a judge: 16 hex digits that follow from the seed and the texts.

    The same texts give the same mark, so that the journal knows the question again. Whoever writes one of the texts
    can't put the mark into it: the mark would be another one then.
    """
    digest = hashlib.sha256(json.dumps([seed, *texts]).encode("ascii"))
    while any(digest.hexdigest()[:MARK_DIGITS] in text for text in texts):
        digest.update(b"again")
    return digest.hexdigest()[:MARK_DIGITS]


def fence(text: str, mark: str) -> str:
    """A text that others wrote, between two lines that hold the mark, with special tokens of chat templates torn.

    `<|im_end|>` becomes `< |im_end|>`: a person reads the same, and no tokenizer makes a turn's end of it.
    """
    return f"<<{mark}\n{_TYPED.sub(lambda found: f'{found[0][0]} {found[0][1:]}', text)}\n{mark}>>"


def holds_special_token(text: str) -> bool:
    """Whether [`fence`] changes the text."""
    return _TYPED.search(text) is not None


def read_score(reply: str, low: float = 1, high: float = 10) -> Verdict:
    """The number under `score` in the last JSON object of a reply.

    Args:
        reply (`str`): All that the judge said.
        low (`float`, *optional*, defaults to 1), high (`float`, *optional*, defaults to 10): What is allowed.

    Returns:
        [`Verdict`]: With a `float`, or with a problem.
    """
    found, problem = _last_object(reply, "score")
    if problem:
        return Verdict(None, problem, "")
    value, reason = found["score"], _reason(found)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Verdict(None, "bad_verdict", reason)
    return Verdict(float(value), None, reason) if low <= value <= high else Verdict(None, "out_of_range", reason)


def read_choice(reply: str, choices: Sequence[str]) -> Verdict:
    """The text under `winner` in the last JSON object of a reply, as one of `choices`.

    Args:
        reply (`str`): All that the judge said.
        choices (`Sequence[str]`): What is allowed, such as `("A", "B", "tie")`; upper and lower case are the same.

    Returns:
        [`Verdict`]: With a member of `choices`, or with a problem.
    """
    found, problem = _last_object(reply, "winner")
    if problem:
        return Verdict(None, problem, "")
    value, reason = found["winner"], _reason(found)
    if not isinstance(value, str):
        return Verdict(None, "bad_verdict", reason)
    known = {choice.casefold(): choice for choice in choices}
    chosen = known.get(value.strip().casefold())
    return Verdict(chosen, None, reason) if chosen is not None else Verdict(None, "out_of_range", reason)


def objects(reply: str) -> Iterator[tuple[dict, int]]:
    """The whole JSON objects that stand outside any other in a reply, each with the place behind it."""
    place = 0
    while (place := reply.find("{", place)) >= 0:
        try:
            found, place = _JSON.raw_decode(reply, place)
        except (ValueError, RecursionError):
            place += 1
        else:
            yield found, place


def _last_object(reply: str, key: str) -> tuple[dict, None] | tuple[None, str]:
    """The whole JSON object that ends the reply, if it has the key: one before other words may be a quotation."""
    last, end = None, 0
    for found, stop in objects(reply):
        last, end = found, stop
    if last is not None and key in last and not reply[end:].strip(AFTER):
        return last, None
    return None, "bad_verdict" if f'"{key}"' in reply else "no_verdict"


def _reason(found: dict) -> str:
    reason = found.get("reason")
    return reason.strip() if isinstance(reason, str) else ""


def _once(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _refuse("a key is given twice")


def _refuse(message: str):
    raise ValueError(message)
