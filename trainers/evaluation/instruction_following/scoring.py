"""Answers to prompts with constraints -> shares of constraints and of prompts that were met, strictly and loosely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from instruct_builders.errors import ConfigError

from .. import results
from . import languages
from .checkers import check, loosely
from .prompts import Prompts

SAMPLES = 6
UNCHECKED = "constraints_that_cannot_be_checked"


def score(row: Mapping, answer: str | None) -> dict[str, list[bool | None]]:
    """Which constraints of one prompt an answer meets.

    Args:
        row (`Mapping`): One of `Prompts.rows`.
        answer (`str`, *optional*): `None`, where there is no usable answer, meets none.

    Returns:
        `dict`: `strict` and `loose`, each with `True`, `False` or `None` (can't be checked) per constraint. What is
            met strictly is met loosely.
    """
    strict, loose = [], []
    for identifier, arguments in zip(row["instruction_id_list"], row["kwargs"], strict=True):
        strict.append(check(answer or "", identifier, arguments, f"prompt {row['key']}"))
        loose.append(loosely(strict[-1], answer or "", identifier, arguments))
    return {"strict": strict, "loose": loose}


def met(constraints: Sequence[bool | None]) -> bool | None:
    """Whether all constraints of a prompt are met; one that can't be checked leaves it open unless another fails."""
    return False if False in constraints else None if None in constraints else True


def evaluate(
    prompts: Prompts, answered: Sequence[Mapping], *, model: dict, settings: dict, seed: int = 42
) -> tuple[dict, list[dict]]:
    """The result of a model's answers to prompts.

    Args:
        prompts (`Prompts`): From [`load`].
        answered (`Sequence[Mapping]`): From [`answers.answer`], one per prompt and in their order.
        model (`dict`): Its facts, see [`results.result`].
        settings (`dict`): What the answers were asked with.
        seed (`int`, *optional*, defaults to 42): Of the bootstrap.

    Returns:
        `tuple`: The result, and per prompt its answer with what [`before_after`] compares.

    Raises:
        ConfigError: If the answers are not those to the prompts.
    """
    if [row["key"] for row in prompts.rows] != [row["id"] for row in answered]:
        raise ConfigError(
            f"{len(answered)} answers were given, which are not those to the {len(prompts.rows)} prompts."
        )
    texts = [row["turns"][0] for row in answered]
    scores = [score(row, text) for row, text in zip(prompts.rows, texts, strict=True)]
    unchecked = sum(one is None for found in scores for one in found["strict"])
    open_prompts = sum(met(found["strict"]) is None for found in scores)
    counts = {
        "prompts": len(scores),
        "constraints": sum(len(found["strict"]) for found in scores),
        "answered": sum(text is not None for text in texts),
        "cut_at_max_new_tokens": sum(row["truncated"][0] for row in answered),
        UNCHECKED: unchecked,
        "prompts_not_scored": open_prompts,
    }
    counts |= Counter(f"no_answer_{row['problems'][0]}" for row in answered if row["problems"][0])
    notes = ["An answer that is missing or blank meets no constraint."]
    if unchecked:
        cure = "" if languages.available() else ' Run: pip install "instruct-builders[lang]"'
        notes.append(
            f"{unchecked} constraints on the language of an answer could not be checked; they and the {open_prompts} "
            f"prompts whose other constraints are met are in no average.{cure}"
        )
    found = results.result(
        "instruction_following",
        "Instruction following",
        model=model,
        data=prompts.data,
        settings=settings,
        seed=seed,
        counts=counts,
        metrics=_metrics(scores, seed),
        groups=_groups(prompts.rows, scores, seed),
        samples=[_line(*entry) for entry in list(zip(prompts.rows, texts, scores, strict=True))[:SAMPLES]],
        notes=notes,
    )
    lines = zip(prompts.rows, answered, texts, scores, strict=True)
    return found, [_comparable(row, said, text, one) for row, said, text, one in lines]


def _metrics(scores: list[dict], seed: int) -> dict[str, dict]:
    """Prompt-level and constraint-level shares; the interval of both is over prompts. What none tells is left out."""
    made = {}
    for way in ("strict", "loose"):
        whole = [float(one) for found in scores if (one := met(found[way])) is not None]
        made |= {f"prompt_{way}": results.metric(whole, seed=seed)} if whole else {}
    for way in ("strict", "loose"):
        each = [(place, one) for place, found in enumerate(scores) for one in found[way] if one is not None]
        places, values = [place for place, _ in each], [float(one) for _, one in each]
        made |= {f"instruction_{way}": results.metric(values, seed=seed, groups=places)} if values else {}
    return made


def _groups(rows: list[dict], scores: list[dict], seed: int) -> dict[str, dict]:
    """Per instruction id: the shares of its constraints; an id of which none could be checked is left out."""
    values: dict[str, dict[str, list]] = {}
    for place, (row, found) in enumerate(zip(rows, scores, strict=True)):
        for number, identifier in enumerate(row["instruction_id_list"]):
            for way in ("strict", "loose"):
                if found[way][number] is not None:
                    of_id = values.setdefault(identifier, {}).setdefault(f"instruction_{way}", [])
                    of_id.append((place, float(found[way][number])))
    return {
        identifier: {
            name: results.metric([value for _, value in some], seed=seed, groups=[place for place, _ in some])
            for name, some in of_id.items()
        }
        for identifier, of_id in sorted(values.items())
    }


def _line(row: dict, text: str | None, found: dict) -> dict:
    unmet = [one for one, ok in zip(row["instruction_id_list"], found["strict"], strict=True) if ok is False]
    return {"prompt": row["prompt"], "answer": text or "", "unmet": unmet}


def _comparable(row: dict, said: Mapping, text: str | None, found: dict) -> dict:
    """One row for [`before_after`]: per figure a sum and what it is divided by."""
    figures = {}
    for way in ("strict", "loose"):
        whole = met(found[way])
        figures[f"prompt_{way}"] = [int(whole is True), int(whole is not None)]
        known = [one for one in found[way] if one is not None]
        figures[f"instruction_{way}"] = [sum(known), len(known)]
    line = {"id": str(row["key"]), **_line(row, text, found), "problem": said["problems"][0]}
    return line | {"answer": text, "figures": figures}
