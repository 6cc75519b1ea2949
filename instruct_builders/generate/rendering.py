"""Prompts: text files in `prompts/`, filled by plain replacement, with everything that others wrote fenced as data."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ..errors import ConfigError, did_you_mean

FOLDER = Path(__file__).parent / "prompts"
PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
SYSTEM_ENDS = "\n---\n"


@cache
def text(name: str) -> str:
    """The text of `prompts/NAME.txt`."""
    return (FOLDER / f"{name}.txt").read_text(encoding="utf-8").strip()


def messages(name: str, **values: str) -> tuple[dict, dict]:
    """The system and the user message of a prompt.

    Values are put in as they are, all in one pass: nothing in a value is taken for a placeholder.
    """
    system, _, user = text(name).partition(SYSTEM_ENDS)

    def filled(part: str) -> str:
        return PLACEHOLDER.sub(lambda found: values[found[1]], part)

    return {"role": "system", "content": filled(system)}, {"role": "user", "content": filled(user)}


def fenced(content: str, tag: str, lines: bool = True) -> str:
    """Text between tags that it does not contain, so that it can't end its own fence.

    Args:
        content (`str`): What somebody else wrote.
        tag (`str`): Name of the tag; a number is added where the text has that tag itself.
        lines (`bool`, *optional*, defaults to `True`): Whether the tags stand on lines of their own.
    """
    name, number = tag, 1
    while f"<{name}>" in content or f"</{name}>" in content:
        number += 1
        name = f"{tag}-{number}"
    edge = "\n" if lines else ""
    return f"<{name}>{edge}{content}{edge}</{name}>"


def one_line(content: str) -> str:
    """The text with each run of white space as one blank, and without a colon at its end, as in a list of tasks."""
    return " ".join(content.split()).rstrip(":").rstrip()


def sampling(defaults: Mapping[str, dict], given: Mapping | None, stage: str, seed: int, *salt: object) -> dict:
    """The parameters of a request: defaults, what the configuration says of the stage, and a seed.

    Args:
        defaults (`Mapping[str, dict]`): Stage -> parameters.
        given (`Mapping`, *optional*): The same, from the configuration. A null takes a parameter out, for servers
            that refuse it.
        stage (`str`): Such as `"bootstrap"`.
        seed (`int`): Of the run.
        salt: What tells this request from others, such as the number of the sample; never its place in a file.
    """
    digest = hashlib.blake2b(repr((seed, stage, *salt)).encode(), digest_size=4).digest()
    parameters = {"seed": int.from_bytes(digest, "big") >> 1, **defaults[stage], **((given or {}).get(stage) or {})}
    return {name: value for name, value in parameters.items() if value is not None}


def check_parameters(defaults: Mapping[str, dict], given: Mapping | None) -> None:
    """Raises a `ConfigError` where `parameters` names a stage that a method does not have, or is no mapping."""
    for stage, values in (given or {}).items():
        if stage not in defaults:
            raise ConfigError(
                f"parameters: no stage {stage!r}; there are {', '.join(defaults)}.{did_you_mean(str(stage), defaults)}"
            )
        if not isinstance(values, Mapping):
            raise ConfigError(f"parameters: {stage}: {values!r} is no mapping, such as {{temperature: 0.7}}.")
