"""What can go wrong with a reply, on demand: each fault makes of a good reply what servers were seen to send."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Plan:
    """How to answer: status, body, headers, and the manner: `whole`, `reset`, `cut`, `hang` or `drip`."""

    status: int
    body: bytes
    headers: dict = field(default_factory=dict)
    manner: str = "whole"
    seconds: float = 0.0
    content_type: str = "application/json"


def error(message: str, code: str = "server_error") -> bytes:
    return json.dumps({"error": {"message": message, "type": code, "code": code}}).encode()


def edited(change: Callable[[dict], object]) -> Callable[[dict, bytes], Plan]:
    """A fault that changes the reply's JSON; `change` gets the reply and may return another one."""

    def make(request: dict, good: bytes) -> Plan:
        reply = json.loads(good)
        changed = change(reply)
        return Plan(200, json.dumps(reply if changed is None else changed).encode())

    return make


def message(**values) -> Callable[[dict, bytes], Plan]:
    return edited(lambda reply: reply["choices"][0]["message"].update(values))


def finish(reason: str, text: Callable[[str], str | None]) -> Callable[[dict, bytes], Plan]:
    def change(reply: dict) -> None:
        choice = reply["choices"][0]
        choice["finish_reason"] = reason
        choice["message"]["content"] = text(choice["message"]["content"])

    return edited(change)


def status(code: int, body: bytes | None = None, **headers) -> Callable[[dict, bytes], Plan]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request, good: Plan(code, error(f"status {code}") if body is None else body, named)


def surrogate(request: dict, good: bytes) -> Plan:
    return Plan(200, good.replace(b'"content": "', b'"content": "\\ud83d', 1))


HTML = b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>"
FAULTS: dict[str, Callable[[dict, bytes], Plan]] = {
    "429": status(429, retry_after="1"),
    "429_plain": status(429),
    "429_date": status(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
    "429_zero": status(429, retry_after="0"),
    "429_day": status(429, retry_after="86400"),
    "429_garbage": status(429, retry_after="soon; maybe"),
    "500": status(500),
    "502": status(502, HTML),
    "503": status(503),
    "529": status(529),
    "reset": lambda request, good: Plan(200, good, manner="reset"),
    "cut": lambda request, good: Plan(200, good, manner="cut"),
    "hang": lambda request, good: Plan(200, good, manner="hang"),
    "drip": lambda request, good: Plan(200, good, manner="drip"),
    "bad_json": lambda request, good: Plan(200, good[: len(good) // 2]),
    "html": lambda request, good: Plan(200, HTML, content_type="text/html"),
    "empty_body": lambda request, good: Plan(200, b""),
    "bad_utf8": lambda request, good: Plan(200, good.replace(b'"content": "', b'"content": "\xff\xfe', 1)),
    "surrogate": surrogate,
    "no_choices": edited(lambda reply: reply.update(choices=[])),
    "choices_missing": edited(lambda reply: reply.pop("choices") and None),
    "message_missing": edited(lambda reply: reply["choices"][0].pop("message") and None),
    "error_200": lambda request, good: Plan(200, error("the engine is not ready")),
    "busy_200": lambda request, good: Plan(200, error("slow down", "rate_limit_exceeded")),
    "null_content": message(content=None),
    "empty_text": message(content=" \n"),
    "content_list": message(content=[{"type": "text", "text": "hello"}]),
    "content_number": message(content=7),
    "reply_list": edited(lambda reply: [reply]),
    "refusal": message(content=None, refusal="I can't do that."),
    "length": finish("length", lambda text: text[: len(text) // 2]),
    "content_filter": finish("content_filter", lambda text: ""),
    "no_usage": edited(lambda reply: reply.pop("usage") and None),  # a good reply: it must not be bought again
    "too_long": status(400, error("This model's maximum context length is 4096 tokens, you asked for 9000", "400")),
    "too_long_code": status(400, error("Your input is too large", "context_length_exceeded")),
    "too_long_422": status(
        422, error("`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 9000", "validation")
    ),
    "filtered_400": status(400, error("The response was filtered", "content_filter")),
    "401": status(401),
    "400": status(400),
    "404": status(404),
    "quota": status(429, error("You exceeded your current quota", "insufficient_quota"), retry_after="1"),
}


def plan(name: str, request: dict, good: bytes, seconds: float) -> Plan:
    """The fault of that name, for a request and the reply it would have got."""
    made = FAULTS[name](request, good)
    made.seconds = seconds
    return made
