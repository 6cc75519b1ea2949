"""What is asked and what comes back: the two types that methods and engine share, and the key of a question."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..errors import ConfigError


@dataclass(frozen=True)
class Request:
    """One question.

    Args:
        messages (`tuple[dict, ...]`): Chat messages with `role` and `content`.
        parameters (`Mapping`, *optional*):
            `temperature`, `max_tokens`, `stop`, `seed` ...: exactly what is sent, but that a repetition after an
            unusable answer sends a larger token limit (after a truncation) and another `seed` (where one is given).
        sample (`int`, *optional*, defaults to 0): Number of the sample where the same is asked several times.
        purpose (`str`, *optional*): Such as `"evolve/deepen"`; for counts only, not part of the key.
        model (`str`, *optional*): Defaults to the engine's.
        check (`Callable`, *optional*): Text -> `None` if usable, else a reason: the answer is counted under it and
            asked again, a bounded number of times.
        keep_truncated (`bool`, *optional*, defaults to `False`): Whether a text that was cut at the token limit is
            an answer (`finish_reason` says `length`), for callers that drop its torn end themselves.
    """

    messages: tuple[dict, ...]
    parameters: Mapping = field(default_factory=dict)
    sample: int = 0
    purpose: str = ""
    model: str | None = None
    check: Callable[[str], str | None] | None = None
    keep_truncated: bool = False


@dataclass(frozen=True)
class Answer:
    """What became of a question.

    Args:
        text (`str`, *optional*): `None` where every attempt failed; then `reason` says why.
        reason (`str`, *optional*): A key of [`answers.DEFECTS`], or what `check` returned.
        finish_reason (`str`, *optional*): As the server gave it.
        usage (`dict`): `prompt_tokens`, `completion_tokens`, `estimated` (`True` where the server stated none).
        attempts (`int`): Replies that were read for it, from the journal or the server.
        key (`str`): Of the question in the journal: 32 hex digits.
        cached (`bool`): Whether nothing was sent.
        detail (`str`): What the server said, where it refused the question or could not be reached.
    """

    text: str | None
    reason: str | None
    finish_reason: str | None
    usage: dict
    attempts: int
    key: str
    cached: bool
    detail: str = ""


RESERVED = {"model", "messages", "stream", "n"}  # parameters that the engine owns
SEED_STEP = 1_000_003  # between repetitions: far from the seeds of neighbouring samples
LIMITS = ("max_tokens", "max_completion_tokens")


def canonical(value) -> bytes:
    """JSON bytes that are equal for equal values, ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def prepare(request: Request, model: str) -> tuple[str, dict]:
    """The question's key in the journal (32 hex digits), and the body that asks it for the first time.

    Raises:
        ConfigError: If a parameter is the engine's own, or not JSON.
    """
    if taken := RESERVED & set(request.parameters):
        raise ConfigError(
            f"parameters {sorted(taken)}: they are set by the engine. Use Request.model, messages, and one Request "
            "per `sample` instead of n."
        )
    body = {"model": request.model or model, "messages": list(request.messages), **request.parameters}
    try:
        asked = canonical([body, request.sample])
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a request must be JSON: {error}. Its parameters: {dict(request.parameters)!r}") from error
    return hashlib.sha256(asked).hexdigest()[:32], body


def body_of_attempt(body: dict, attempt: int, truncations: int) -> dict:
    """What is sent after `attempt` replies: another seed, and twice the token limit per truncation (at most 4x)."""
    if not attempt:
        return body
    changed = dict(body)
    if isinstance(changed.get("seed"), int):
        changed["seed"] = (changed["seed"] + attempt * SEED_STEP) % 2**31
    for name in LIMITS:
        if isinstance(changed.get(name), int):
            changed[name] <<= min(truncations, 2)
    return changed


def most_tokens(body: dict) -> tuple[int, int | None]:
    """Upper bounds of prompt and completion tokens; `None` for the latter where the request sets no limit.

    No tokenizer in use makes more than one token of a byte; 16 per message and 64 in all cover any chat template.
    """
    said = sum(len(str(value).encode("utf-8", "replace")) for turn in body["messages"] for value in turn.values())
    extra = len(canonical(body["tools"])) if "tools" in body else 0
    limits = [body[name] for name in LIMITS if isinstance(body.get(name), int)]
    return said + extra + 16 * len(body["messages"]) + 64, max(limits) if limits else None


def estimated_usage(body: dict, text: str | None) -> dict:
    """Four bytes a token: what English text has in the mean. For replies that state no usage."""
    prompt = sum(len(str(turn.get("content") or "").encode("utf-8", "replace")) for turn in body["messages"])
    size = len((text or "").encode("utf-8", "replace"))
    return {"prompt_tokens": -(-prompt // 4), "completion_tokens": -(-size // 4), "estimated": True}
