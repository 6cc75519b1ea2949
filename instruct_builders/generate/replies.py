"""What a method gets from an answer: the text without the model's thoughts, or why there is none and what to do."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from functools import partial

from . import parse
from .account import TRANSPORT_REASONS
from .asking import Answer, Request
from .yields import Yield

ALL_THOUGHT = "unclosed_thought"  # a reason beside the engine's: nothing but thoughts, which do not end
FOR_GOOD = ("content_filter", "prompt_too_long")  # the question itself is refused, whenever it is asked
ADVICE = {
    "for good": f"asking again changes nothing for {' and '.join(FOR_GOOD)}: leave those rows out of the seeds",
    "length": "give answers that were cut more room (parameters: {STAGE: {max_tokens: ...}})",
    "transport": "run the same command again for those that were not received",
    "again": "raise max_retries to ask again for those that could not be used",
}


async def ask(engine, request: Request, counts: Yield | None = None) -> Answer:
    """Asks, and takes the thoughts of a reasoning model off its answer.

    Args:
        engine (`Engine`): Asks. The journal keeps each reply as it came.
        request ([`Request`]): Its `check` sees what follows the thoughts.
        counts ([`Yield`], *optional*): Counts the answers that had thoughts.
    """
    answer = await engine.ask(dataclasses.replace(request, check=partial(_problem, request)))
    said = None if answer.text is None else parse.without_thoughts(answer.text)
    if counts is not None and said != answer.text:
        counts.thoughts += 1
    return dataclasses.replace(answer, text=said)


def _problem(request: Request, text: str) -> str | None:
    said = parse.without_thoughts(text)
    if said is None:
        # Of an answer that may be cut, `length` is what has it asked for again with more room.
        return "length" if request.keep_truncated else ALL_THOUGHT
    if not said.strip():
        return "empty_text"
    return request.check(said) if request.check else None


def why(answer: Answer) -> str:
    """Why there is no text, with the server's own words where it said some."""
    return f"{answer.reason}: {answer.detail}" if answer.detail else str(answer.reason)


def advice(missing: Mapping[str, int]) -> str:
    """The commonest reasons of missing answers, and what can be done about them."""
    named = ", ".join(f"{reason} {count:,}" for reason, count in Counter(missing).most_common(3))
    kinds = {_kind(reason) for reason in missing}
    steps = "; ".join(said for kind, said in ADVICE.items() if kind in kinds)
    return f"({named}; dropped.jsonl has each): {steps}; or set max_failed to go on without them"


def _kind(reason: str) -> str:
    if reason in FOR_GOOD:
        return "for good"
    if reason in TRANSPORT_REASONS:
        return "transport"
    return "length" if reason in ("length", ALL_THOUGHT) else "again"
