"""The errors for what can't be supervised: the rule, the template's name, the shortest conversation that shows it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from pathlib import Path

from instruct_builders.errors import RowError, TemplateError

from .labels import label, trained
from .rendering import Printer, Raised
from .rules import RULES, Refusal

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


def refused(printer: Printer, messages: list[dict], refusal: Refusal) -> TemplateError:
    """The error for a rule that can't be met, with the shortest conversation that shows it."""
    name, shown = template_name(printer.source), shortest(printer, messages, refusal)
    error = TemplateError(
        f"chat template {name}, rule {refusal.rule} ({RULES[refusal.rule]}): {refusal.why}. Shortest conversation "
        f"that shows it: {_brief(shown)}. Choose another template, or mark and fix this one in a .jinja file."
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


def shortest(printer: Printer, messages: list[dict], refusal: Refusal) -> list[dict]:
    """The shortest conversation found with the same fault: a usual one, or what is left without some turns."""
    fault = _fault(refusal)
    for probe in PROBES:
        if len(probe) < len(messages) and _found(printer, probe) == fault:
            return probe
    left, place = messages, 0
    while place < len(left) <= 32:  # beyond that, printing all the parts takes longer than reading them
        fewer = left[:place] + left[place + 1 :]
        left, place = (fewer, 0) if _found(printer, fewer) == fault else (left, place + 1)
    return left


def _found(printer: Printer, messages: list[dict]) -> str | None:
    try:
        label(printer, messages, trained(messages))
    except Refusal as refusal:
        return _fault(refusal)
    except (RowError, Raised):
        return None
    return None


def _fault(refusal: Refusal) -> str:
    """A refusal without what differs from conversation to conversation: numbers and what is quoted."""
    return re.sub(r"\d+|'.*'|\".*\"", "", f"{RULES[refusal.rule]}: {refusal.why}", flags=re.S)


def _brief(messages: list[dict]) -> str:
    text = json.dumps(messages, ensure_ascii=False)
    return text if len(text) <= 600 else f"{text[:600]}... ({len(text)} characters)"


def template_name(source: str) -> str:
    """The name of a template that this package or TRL ships, else a digest of its text."""
    folders = [Path(__file__).parent / "chat_templates"]
    trl = importlib.util.find_spec("trl")
    folders += [Path(trl.origin).parent / "chat_templates"] if trl and trl.origin else []
    for folder in folders:
        for file in sorted(folder.glob("*.jinja")):
            if file.read_text(encoding="utf-8") == source:
                return f"{folder.parent.name}/{file.stem}"
    return f"sha256:{hashlib.sha256(source.encode()).hexdigest()[:12]}"
