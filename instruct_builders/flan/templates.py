"""One template: text with slots, checked when it is parsed so that rendering can't fail on it."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from instruct_builders.errors import ConfigError, did_you_mean

OPTIONS = "options_"
Pieces = tuple[tuple[str, str | None], ...]  # literal text and the slot behind it; the last slot may be None


@dataclass(frozen=True)
class Template:
    """Parsed input and target of one template.

    Args:
        id (`str`): `task/number`, or `task/cot-number` where the target has a chain of thought.
        input, target (`Pieces`): Literal texts and slots in turn.
        bare (`Pieces`): The input without the options block and the line breaks before it.
        inverted (`bool`): Whether it gives the answer and asks for the input.
        cot (`bool`): Whether the target has a chain of thought.
    """

    id: str
    input: Pieces
    target: Pieces
    bare: Pieces
    inverted: bool = False
    cot: bool = False

    @property
    def has_options(self) -> bool:
        return OPTIONS in slots_of(self.input)


def slots_of(pieces: Pieces) -> list[str]:
    return [slot for _, slot in pieces if slot is not None]


def parse_template(
    identity: str, input: object, target: object, inverted: object, cot: bool, slots: Sequence[str], where: str
) -> Template:
    """Parses and checks one template.

    Args:
        slots (`Sequence[str]`): Names that may stand in braces.
        where (`str`): File and number, for messages.

    Raises:
        ConfigError: For a slot that is not there, a stray brace, a leak of the target into the input, and the like.
    """
    parsed = {}
    for key, text in (("input", input), ("target", target)):
        parsed[key] = _pieces(text, f"{where}: {key}")
        for slot in slots_of(parsed[key]):
            if slot not in slots or (slot == OPTIONS and key == "target"):
                allowed = [name for name in slots if key == "input" or name != OPTIONS]
                raise ConfigError(
                    f"{where}: {key} has the slot {{{slot}}}; the slots are {', '.join(allowed)}."
                    f"{did_you_mean(slot, allowed)}"
                )
        if not slots_of(parsed[key]):
            raise ConfigError(f"{where}: {key} has no slot, so it would be the same text for every row.")
    asked, given = set(slots_of(parsed["target"])), set(slots_of(parsed["input"]))
    if asked & given:
        raise ConfigError(f"{where}: {{{min(asked & given)}}} is in the target and in the input, which gives it away.")
    if not isinstance(inverted, bool) or (inverted and cot):
        raise ConfigError(f"{where}: inverted is {inverted!r}; true or false is allowed, and only true outside CoT.")
    if inverted and ("answer" in asked or "answer" not in given):
        raise ConfigError(
            f"{where}: it is inverted, so {{answer}} belongs in the input and another slot in the target."
        )
    if not inverted and "answer" not in asked:
        raise ConfigError(f"{where}: the target has no {{answer}}; where that is meant, say inverted: true.")
    if cot and "chain" not in asked:
        raise ConfigError(f"{where}: the target has no {{chain}}.")
    bare = parsed["input"]
    if OPTIONS in given:
        if not re.search(r"(^|\n)\{options_\}(\n|$)", input) or input.count("{options_}") > 1:
            raise ConfigError(f"{where}: {{options_}} is printed once, and alone on its line.")
        bare = _pieces(re.sub(r"\n*\{options_\}", "", input).strip("\n"), f"{where}: input")
        if not slots_of(bare):
            raise ConfigError(f"{where}: without its options the input has no slot.")
    return Template(identity, parsed["input"], parsed["target"], bare, inverted, cot)


def _pieces(text: object, where: str) -> Pieces:
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{where} is {text!r}; text belongs there.")
    if text != text.strip() or re.search(r"[ \t]\n", text):
        raise ConfigError(f"{where} begins or ends with white space, or a line of it ends with a blank: {text!r:.200}")
    try:
        found = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ConfigError(f"{where} has a stray brace ({error}); a literal brace is written twice.") from error
    for _, slot, spec, conversion in found:
        if slot is not None and (spec or conversion or not slot.isidentifier()):
            raise ConfigError(f"{where} has {{{slot}}} with a format or no name; only {{slot}} is allowed.")
    return tuple((literal, slot) for literal, slot, _, _ in found)
