"""What a judge is asked, in our own words, and how its reply becomes a verdict or a problem with a name."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from instruct_builders.errors import ConfigError
from instruct_builders.generate import verdicts
from instruct_builders.generate.asking import Request
from instruct_builders.generate.rendering import PLACEHOLDER, SYSTEM_ENDS

if TYPE_CHECKING:
    from instruct_builders.generate.engine import Engine

FOLDER = Path(__file__).parent / "prompts"
PARAMETERS = {"temperature": 0.0, "max_tokens": 2048}  # as published; and a seed, so that a repetition is another draw
LOWEST, HIGHEST = 1, 10
CHOICES = ("A", "B", "tie")
# Pieces of model names -> family. A name is cut at everything but letters; a piece counts from its beginning.
FAMILIES = {
    "gpt": ("gpt", "chatgpt", "davinci", "openai"),
    "claude": ("claude", "anthropic"),
    "gemini": ("gemini", "gemma", "palm", "bard"),
    "llama": ("llama", "vicuna", "alpaca", "tulu", "codellama", "tinyllama", "nemotron", "hermes"),
    "qwen": ("qwen", "qwq", "tongyi"),
    "mistral": ("mistral", "mixtral", "ministral", "codestral", "magistral", "zephyr"),
    "deepseek": ("deepseek",),
    "phi": ("phi",),
    "command": ("command", "cohere", "aya"),
    "glm": ("glm", "chatglm"),
    "yi": ("yi",),
    "olmo": ("olmo",),
    "smollm": ("smollm",),
    "granite": ("granite",),
    "falcon": ("falcon",),
    "grok": ("grok",),
    "kimi": ("kimi", "moonshot"),
    "minimax": ("minimax",),
}


@dataclass(frozen=True)
class Judgment:
    """What became of one question to the judge.

    Args:
        value (`float` or `str`, *optional*): Score or winner; `None` with a problem.
        problem (`str`, *optional*): A key of `verdicts.PROBLEMS` or `generate.answers.DEFECTS`.
        reason (`str`): The judge's sentence.
        attempts (`int`): Replies that were read for it; above 1 where some were no verdict.
    """

    value: float | str | None
    problem: str | None
    reason: str
    attempts: int


async def score(
    engine: Engine,
    questions: Sequence[str],
    answers: Sequence[str],
    reference: Sequence[str | None] | None = None,
    *,
    seed: int = 42,
    parameters: Mapping | None = None,
    purpose: str = "judge",
) -> Judgment:
    """Grades the last of the answers, from 1 to 10, in the whole conversation up to it.

    Args:
        engine ([`Engine`]): Of the judge.
        questions (`Sequence[str]`), answers (`Sequence[str]`): The turns so far, as many of each.
        reference (`Sequence[str]`, *optional*): A reference answer per turn.
        seed (`int`, *optional*, defaults to 42): Of the mark.
        parameters (`Mapping`, *optional*): Sent instead of `PARAMETERS`; a null takes one out.
        purpose (`str`, *optional*, defaults to `"judge"`): Under which the engine counts.
    """
    parts = []
    for number, (asked, said) in enumerate(zip(questions, answers, strict=True), 1):
        parts.append((f"Turn {number}, the user", asked))
        if reference:
            parts.append((f"Turn {number}, the reference answer", reference[number - 1]))
        parts.append((f"Turn {number}, the assistant", said))
    messages = _messages("score", parts, len(questions), bool(reference), seed)

    def read(reply: str) -> verdicts.Verdict:
        return verdicts.read_score(reply, LOWEST, HIGHEST)

    return await _ask(engine, messages, read, parameters, purpose)


async def compare(
    engine: Engine,
    questions: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
    reference: Sequence[str | None] | None = None,
    *,
    seed: int = 42,
    parameters: Mapping | None = None,
    purpose: str = "judge",
) -> Judgment:
    """Which of two assistants, shown as A and B in this order, gave the better last answer; else as [`score`]."""
    parts = []
    for number, (asked, one, other) in enumerate(zip(questions, first, second, strict=True), 1):
        parts.append((f"Turn {number}, the user", asked))
        if reference:
            parts.append((f"Turn {number}, the reference answer", reference[number - 1]))
        parts += [(f"Turn {number}, assistant A", one), (f"Turn {number}, assistant B", other)]
    messages = _messages("compare", parts, len(questions), bool(reference), seed)

    def read(reply: str) -> verdicts.Verdict:
        return verdicts.read_choice(reply, CHOICES)

    return await _ask(engine, messages, read, parameters, purpose)


async def _ask(engine: Engine, messages: tuple[dict, ...], read, parameters, purpose: str) -> Judgment:
    text = messages[1]["content"]
    seed = int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:4], "big") >> 1
    stated = {"seed": seed, **PARAMETERS, **(parameters or {})}
    given = {name: value for name, value in stated.items() if value is not None}
    request = Request(messages, given, purpose=purpose, check=lambda reply: read(reply).problem)
    said = await engine.ask(request)
    if said.text is None:
        return Judgment(None, said.reason, "", said.attempts)
    verdict = read(said.text)
    return Judgment(verdict.value, None, verdict.reason, said.attempts)


def _messages(name: str, parts: Sequence[tuple[str, str]], turn: int, with_reference: bool, seed: int) -> tuple:
    """The system and the user message; every part that others wrote is fenced with the mark of this question."""
    mark = verdicts.nonce(*(text for _, text in parts), seed=seed)
    system, _, user = _prompt(name).partition(SYSTEM_ENDS)
    values = {
        "reference_rule": "\n" + _prompt("reference") + "\n" if with_reference else "",
        "mark": mark,
        "material": "\n\n".join(f"{label}:\n{verdicts.fence(text, mark)}" for label, text in parts),
        "turn": str(turn),
    }

    def filled(part: str) -> str:
        return PLACEHOLDER.sub(lambda found: values[found[1]], part)

    return {"role": "system", "content": filled(system)}, {"role": "user", "content": filled(user)}


@functools.cache
def _prompt(name: str) -> str:
    return (FOLDER / f"{name}.txt").read_text(encoding="utf-8").strip()


def prompts_digest(name: str) -> str:
    """Of the texts that a judge is shown: scores under other prompts are other scores."""
    said = json.dumps([_prompt(name), _prompt("reference")])
    return "sha256:" + hashlib.sha256(said.encode("ascii")).hexdigest()


def families(name: str) -> set[str]:
    """The families that a model's name speaks of: `"org/Qwen2.5-7B"` -> `{"qwen"}`."""
    pieces = [piece for piece in re.split(r"[^a-z]+", name.casefold()) if piece]
    if re.match(r"([\w.-]+/)?o\d\b", name.casefold()):  # o1, o3-mini: OpenAI's without "gpt" in their name
        pieces.append("gpt")
    return {
        family
        for family, starts in FAMILIES.items()
        if any(piece == start or (len(start) > 3 and piece.startswith(start)) for piece in pieces for start in starts)
    }


def same_family(judge: str, *candidates: str | None) -> str | None:
    """A warning where a judge may favour its own kind, or `None`.

    Judges have been measured to prefer texts of their own model (https://huggingface.co/papers/2404.13076).
    """
    for candidate in filter(None, candidates):
        if candidate == judge:
            return f"the judge {judge} is the candidate itself: models favour their own answers"
        if shared := families(judge) & families(candidate):
            return (
                f"the judge {judge} and {candidate} are both of the family {', '.join(sorted(shared))}, by their "
                "names: models favour answers of their own family"
            )
    return None


def check_parameters(parameters: Mapping | None) -> None:
    """Raises a [`ConfigError`] where the judge's parameters are no mapping."""
    if parameters is not None and not isinstance(parameters, Mapping):
        raise ConfigError(f"judge_parameters: {parameters!r} is no mapping, such as {{max_tokens: 4096}}.")
