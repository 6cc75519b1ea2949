"""Presets of quality checks: what there is, and a YAML file or a dict read into right names and parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml

from ...errors import ConfigError, did_you_mean
from ...unique_keys import UniqueKeys
from .arithmetic import wrong_arithmetic
from .claims import media_reference, url_claimed
from .classic import format, length, relevance, safety
from .difficulty import difficulty
from .echoes import answer_in_instruction, instruction_echoed, repeated_ngrams
from .endings import open_code_fence, truncated_output
from .harm import harm_patterns, harmful
from .leftovers import control_character, empty_output, merged_rows, no_input_marker
from .parameters import Share, check_parameters, fits, parameters_of
from .pii import check_actions
from .refusals import refusal
from .scored import category_safety, fair_length, fair_relevance, sound_format
from .toxicity import classifier, toxic
from .wrong_language import wrong_language

# A check's name is the reason that it gives.
CHECKS: dict[str, Callable[..., pa.Array]] = {
    "empty_output": empty_output,
    "no_input_marker": no_input_marker,
    "merged_rows": merged_rows,
    "control_character": control_character,
    "open_code_fence": open_code_fence,
    "truncated_output": truncated_output,
    "answer_in_instruction": answer_in_instruction,
    "instruction_echoed": instruction_echoed,
    "repeated_ngrams": repeated_ngrams,
    "refusal": refusal,
    "url_claimed": url_claimed,
    "media_reference": media_reference,
    "wrong_language": wrong_language,
    "wrong_arithmetic": wrong_arithmetic,
    "harmful": harmful,
    "toxic": toxic,
}
SCORES: dict[str, Callable[..., np.ndarray]] = {
    "length": length,
    "format": format,
    "relevance": relevance,
    "safety": safety,
    "fair_length": fair_length,
    "sound_format": sound_format,
    "fair_relevance": fair_relevance,
    "category_safety": category_safety,
    "difficulty": difficulty,
}
PRESETS = ("classic", "default")
SECTIONS = ("checks", "scores", "keep_at", "pii")


def load(preset: str | Mapping) -> dict:
    """A preset with all its names and values checked: `checks`, `scores`, `keep_at` and `pii`.

    Raises:
        ConfigError: If the file can't be read or has a key twice, a section, check, score, kind or parameter is not
            known, or a value is not what its check takes.
    """
    given = preset if isinstance(preset, Mapping) else _read(preset)
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(f"quality: {preset!r} holds no preset; it has the keys {', '.join(SECTIONS)}.")
    for name in given:
        if name not in SECTIONS:
            hint = did_you_mean(str(name), SECTIONS)
            raise ConfigError(f"quality: {name!r} is no key of a preset; they are {', '.join(SECTIONS)}.{hint}")
    plan = {
        "checks": _named(given, "checks", CHECKS),
        "scores": _named(given, "scores", SCORES, added={"min_score": Share}),
        "keep_at": given.get("keep_at", 0.0),
        "pii": given.get("pii") or {},
    }
    if not fits(plan["keep_at"], Share):
        raise ConfigError(f"quality: keep_at: {plan['keep_at']!r} is given, and it must be a number from 0 to 1.")
    if "keep_at" in given and not plan["scores"]:
        raise ConfigError(
            f"quality: keep_at: {plan['keep_at']!r} is a bound for the mean of the scores, and the preset has none: "
            "name some under `scores`, or take keep_at out."
        )
    if not isinstance(plan["pii"], Mapping):
        raise ConfigError(f"quality: pii: give {{kind: mask}}, such as {{email: mask}}, not {plan['pii']!r}.")
    check_actions(plan["pii"])
    if "classify" in plan["checks"].get("toxic", {}):
        classifier(plan["checks"]["toxic"]["classify"])
    for entries, name in (("checks", "harmful"), ("scores", "category_safety")):
        own = plan[entries].get(name, {})
        harm_patterns(own.get("categories"), own.get("extra"))
    return {**plan, "pii": dict(plan["pii"])}


def resolved(plan: Mapping) -> dict:
    """What [`load`] gave, with the thresholds that it leaves to the checks' own defaults: what is in force."""
    return {
        "checks": {name: settings(CHECKS[name], own) for name, own in plan["checks"].items()},
        "scores": {name: settings(SCORES[name], own) for name, own in plan["scores"].items()},
        "keep_at": plan["keep_at"],
        "pii": {name: getattr(value, "__qualname__", value) for name, value in plan["pii"].items()},
    }


def settings(function: Callable, given: Mapping) -> dict:
    """The parameters of a check or score: what was given, and else its defaults; a function by its name."""
    defaults = {name: entry.default for name, entry in parameters_of(function).items()}
    return {name: getattr(value, "__qualname__", value) for name, value in {**defaults, **given}.items()}


def _read(preset: str) -> object:
    path = Path(__file__).with_name(f"{preset}.yaml") if preset in PRESETS else Path(str(preset))
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeys)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"quality: {preset!r} is neither {' nor '.join(PRESETS)} nor a YAML file that can be read ({error})."
            + did_you_mean(str(preset), PRESETS)
        ) from error


def _named(given: Mapping, section: str, known: Mapping, added: Mapping | None = None) -> dict[str, dict]:
    """A section's entries, each with a dict of parameters that its function takes."""
    entries = given.get(section) or {}
    if isinstance(entries, list) and all(isinstance(name, str) for name in entries):
        if twice := sorted({name for name in entries if entries.count(name) > 1}):
            raise ConfigError(f"quality: {section}: {', '.join(twice)} stands there twice; name each once.")
        entries = dict.fromkeys(entries)
    if not isinstance(entries, Mapping):
        raise ConfigError(f"quality: {section}: give {{name: {{parameter: value}}}}, not {entries!r}.")
    for name, parameters in entries.items():
        if name not in known:
            hint = did_you_mean(str(name), known)
            raise ConfigError(f"quality: {section}: {name!r} is not known; they are {', '.join(known)}.{hint}")
        if not isinstance(parameters, Mapping | None):
            raise ConfigError(f"quality: {name}: give {{parameter: value}}, not {parameters!r}.")
        check_parameters(name, known[name], parameters or {}, added)
    return {name: dict(parameters or {}) for name, parameters in entries.items()}
