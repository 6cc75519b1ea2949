"""What an HTTP status other than 200 means for the row, and for the run. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from . import answers

BUSY = {429: "rate_limited", 503: "overloaded", 529: "overloaded"}
# What is wrong, and what to do, for the statuses that end a run at once.
FATAL = {
    400: "the server refused the request as wrong: look at the parameters",
    401: "the key was refused: set OPENAI_API_KEY to a valid one",
    402: "the account has no money left: top it up, and run the same command again",
    403: "this key may not do this: look at the project, the model and the country it may be used for",
    404: "there is no such model or address: look at `model`, and whether base_url ends in /v1",
}
RETRYABLE = (408, 409, 425)  # below 500, but worth another try
REFUSED = (400, 413, 422)  # these may be about this one question
# Servers without a code for it say it in words: vLLM, SGLang, llama.cpp, TGI and transformers among them.
TOO_LONG = re.compile(
    r"context (length|size|window)|max_(model|seq|sequence)_len|inputs` tokens|too many tokens", re.I
)


@dataclass(frozen=True)
class Reply:
    """What a transport gives back: the status, the headers (lower-case names) and the body as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Verdict:
    """What follows from a reply.

    Args:
        kind (`str`): `reply` (read it), `busy` (wait, nobody's fault), `failed` (try again), `refused` (this question
            alone, whenever it is asked) or `fatal` (stop the run).
        reason (`str`, *optional*): A key of [`answers.DEFECTS`].
        detail (`str`): For a person.
        reading ([`answers.Reading`], *optional*): Of a `reply`.
    """

    kind: str
    reason: str | None = None
    detail: str = ""
    reading: answers.Reading | None = None


def judge(reply: Reply) -> Verdict:
    """Decides what a reply is; an error object under status 200 counts as what it says."""
    if reply.status == 200:
        reading = answers.read(reply.body)
        if reading.codes & answers.QUOTA:
            return Verdict("fatal", detail=_line(reply.status, "the quota of this key is used up", reading.detail))
        if reading.codes & answers.BUSY:
            return Verdict("busy", "rate_limited", reading.detail)
        return Verdict("reply", reading=reading)
    error = error_of(reply.body)
    detail = answers.error_text(error) if error is not None else reply.body[:200].decode("utf-8", "replace")
    if answers.error_codes(error) & answers.QUOTA:
        return Verdict("fatal", detail=_line(reply.status, "the quota of this key is used up", detail))
    if reply.status in REFUSED and (reason := _about_the_question(error, detail)):
        return Verdict("refused", reason, detail)
    if reply.status in BUSY:
        return Verdict("busy", BUSY[reply.status], detail)
    if reply.status >= 500 or reply.status in RETRYABLE:
        return Verdict("failed", "server_error", f"status {reply.status}: {detail}")
    if 300 <= reply.status < 400:
        return Verdict("fatal", detail=_line(reply.status, "the server sends us elsewhere: correct base_url", detail))
    what = FATAL.get(reply.status, "the server refused the request")
    return Verdict("fatal", detail=_line(reply.status, what, detail))


def _about_the_question(error: object, detail: str) -> str | None:
    """The reason why a server takes others but not this question, or `None`."""
    codes = answers.error_codes(error)
    if codes & answers.FILTERED:
        return "content_filter"
    return "prompt_too_long" if codes & answers.TOO_LONG or TOO_LONG.search(detail) else None


def error_of(body: bytes) -> object:
    """The error reply as JSON, or `None`."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _line(status: int, what: str, detail: str) -> str:
    said = " ".join(detail.split())[:300]
    return f"status {status}: {what}." + (f" The server said: {said}" if said else "")
