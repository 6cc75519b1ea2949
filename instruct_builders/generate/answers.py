"""Raw reply of a chat-completions server -> text, or the name of what is wrong with it. Pure: no I/O, no clock."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

# Why a request ended without a usable answer: the fixed vocabulary of the account, beside what a `check` returns.
DEFECTS: dict[str, str] = {
    "empty_body": "status 200 without a body",
    "bad_utf8": "bytes that are not UTF-8",
    "html": "a web page where JSON belongs",
    "bad_json": "not valid JSON, such as a body that was cut",
    "error_object": "an error object under status 200",
    "no_choices": "no `choices`, or an empty list",
    "missing_key": "a choice without `message`, or a message without `content`",
    "wrong_type": "a list, number or object where text or an object belongs",
    "null_content": "null where the text belongs",
    "empty_text": "a text without a visible character",
    "lone_surrogate": "half of a UTF-16 pair, which is not text",
    "length": "cut off at the token limit (finish_reason length)",
    "content_filter": "held back by the server's content filter",
    "refusal": "the model's own field `refusal` instead of an answer",
    "prompt_too_long": "more tokens than the model's context holds (status 400, 413 or 422)",
    # Nothing was received that could be kept:
    "rate_limited": "status 429",
    "overloaded": "status 503 or 529",
    "server_error": "another status of 500 and above, 408 or 409",
    "connection": "the connection was refused, reset or cut",
    "timeout": "no complete reply before the deadline",
}
SURROGATE = re.compile("[\ud800-\udfff]")
FINISH_DEFECTS = {
    "length": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
    "error": "error_object",
}
# Codes of an error object that say more than "try again".
QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
TOO_LONG = {"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"}
FILTERED = {"content_filter", "content_policy_violation", "invalid_prompt", "ResponsibleAIPolicyViolation"}
BUSY = {"rate_limit_exceeded", "rate_limit_error", "overloaded_error", "server_overloaded", "429", "503", "529"}


@dataclass(frozen=True)
class Reading:
    """What a reply says.

    Args:
        text (`str`, *optional*): The answer; `None` with a `defect`, except that a truncated text is kept.
        defect (`str`, *optional*): A key of [`DEFECTS`].
        finish_reason (`str`, *optional*): As the server gave it.
        usage (`dict`): `prompt_tokens` and `completion_tokens` where the server stated both, else empty.
        detail (`str`): The server's own words about an error.
        codes (`frozenset[str]`): `code`, `type` and `status` of an error object.
    """

    text: str | None
    defect: str | None
    finish_reason: str | None = None
    usage: dict = field(default_factory=dict)
    detail: str = ""
    codes: frozenset[str] = frozenset()


def read(body: bytes) -> Reading:
    """Reads the body of a reply with status 200; every deviation from a text answer has its name."""
    if not body.strip():
        return Reading(None, "empty_body")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Reading(None, "bad_utf8", detail=str(error))
    try:
        reply = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Reading(None, "html" if text.lstrip().startswith("<") else "bad_json", detail=str(error)[:200])
    if not isinstance(reply, dict):
        return Reading(None, "wrong_type", detail=f"the reply is a {type(reply).__name__}")
    if reply.get("error"):
        return Reading(None, "error_object", detail=error_text(reply), codes=error_codes(reply))
    choices = reply.get("choices")
    if choices is None or choices == []:
        return Reading(None, "no_choices", usage=usage_of(reply))
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        return Reading(None, "wrong_type", usage=usage_of(reply), detail="choices is no list of objects")
    return _choice(choices[0], usage_of(reply))


def _choice(choice: dict, usage: dict) -> Reading:
    finish = choice.get("finish_reason")
    finish = finish if isinstance(finish, str) else None
    message = choice.get("message")
    if message is None:
        return Reading(None, "missing_key", finish, usage, "no message")
    if not isinstance(message, dict):
        return Reading(None, "wrong_type", finish, usage, f"message is a {type(message).__name__}")
    content, cut = message.get("content"), FINISH_DEFECTS.get(finish or "")
    if message.get("refusal"):
        return Reading(None, "refusal", finish, usage, str(message["refusal"])[:200])
    if content is None:
        # A reasoning model that ran out of tokens has no content yet: that is a truncation.
        absent = "null_content" if "content" in message else "missing_key"
        return Reading(None, cut or absent, finish, usage, "no content")
    if not isinstance(content, str):
        return Reading(None, "wrong_type", finish, usage, f"content is a {type(content).__name__}")
    if SURROGATE.search(content):
        return Reading(None, "lone_surrogate", finish, usage)
    if cut:
        return Reading(content if cut == "length" and content.strip() else None, cut, finish, usage)
    if not content.strip():
        return Reading(None, "empty_text", finish, usage)
    return Reading(content, None, finish, usage)


def usage_of(reply: dict) -> dict:
    """Prompt and completion tokens where both are stated as sane numbers, else an empty dict."""
    usage = reply.get("usage")
    if not isinstance(usage, dict):
        return {}
    counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
    sane = all(type(count) is int and 0 <= count < 10**9 for count in counts.values())
    return counts if sane else {}


def error_codes(reply: object) -> frozenset[str]:
    """`code`, `type` and `status` of an error object, as strings; empty where there is none."""
    error = reply.get("error") if isinstance(reply, dict) else None
    if not isinstance(error, dict):
        return frozenset()
    return frozenset(str(error[name]) for name in ("code", "type", "status") if error.get(name) is not None)


def error_text(reply: object) -> str:
    """The one line of an error reply that a person should see."""
    error = reply.get("error", reply) if isinstance(reply, dict) else reply
    message = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(message).split())[:300]
