"""Judging rows by a model: does the answer do what was asked, and is it right? What no rule over text can tell.

One question per row. The texts of a row stand between lines with a mark that nobody could know when they were written,
and a verdict counts only with that mark: a row that gives orders, or quotes a verdict, is data like any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import ConfigError, did_you_mean
from . import parse, verdicts
from .asking import Request
from .growing import in_order
from .rendering import check_parameters, messages, sampling

CRITERIA = {
    "clarity": "is it clear what the user wants, with all that is needed to answer?",
    "correctness": "is what the assistant says true, and are its code, sums and steps right?",
    "helpfulness": "does the assistant do what was asked, in the form that was asked for, wholly and without filler?",
}
LOWEST, HIGHEST = 1, 10
PARAMETERS = {"judge": {"temperature": 0.0, "max_tokens": 600}}
TOO_LONG = "too_long_to_judge"  # beside the engine's reasons and those of `verdicts`


@dataclass(frozen=True)
class Judgement:
    """What the judge said of a row.

    Args:
        scores (`dict`): Criterion -> score from 1 to 10; empty where there is no verdict.
        reasons (`dict`): Criterion -> the judge's reason.
        problem (`str`, *optional*): Why there is no verdict; a part of one is none.
    """

    scores: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    problem: str | None = None


def check_criteria(criteria: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Criteria as users write them -> name and what it asks.

    Args:
        criteria (`list` or `dict`): Names of [`CRITERIA`], or own ones with what each asks.

    Raises:
        ConfigError: If there is none, a name without a question is not known, or a name is `mark`.
    """
    given = (
        criteria
        if isinstance(criteria, Mapping)
        else dict.fromkeys([criteria] if isinstance(criteria, str) else criteria)
    )
    for name, asks in given.items():
        known = name in CRITERIA if asks is None else isinstance(asks, str) and asks.strip()
        if not isinstance(name, str) or not known or name == "mark":
            raise ConfigError(
                f"judge: criteria: {name!r} is not known; there are {', '.join(CRITERIA)}, and others are given with "
                f"what they ask, as {{name: question}}.{did_you_mean(str(name), CRITERIA)}"
            )
    if not given:
        raise ConfigError(f"judge: criteria is empty: give some of {', '.join(CRITERIA)}, or your own.")
    return {name: asks or CRITERIA[name] for name, asks in given.items()}


def check_sampling(parameters: Mapping | None) -> None:
    """Raises a [`ConfigError`] where request parameters are no mapping `{judge: {...}}`."""
    check_parameters(PARAMETERS, parameters)


async def judge_rows(
    engine,
    rows: Sequence[Sequence[tuple[str, str]]],
    criteria: Mapping[str, str],
    *,
    max_chars: int = 20_000,
    parameters: Mapping | None = None,
    seed: int = 42,
) -> list[Judgement]:
    """Judges each row; the results are in the order of the rows, and the same for the same journal.

    Args:
        engine ([`engine.Engine`]): Open. Replies that hold no verdict are asked again, as often as it is told to.
        rows (`Sequence`): The texts of each row, in order, each with the name of its part: `("user", "Hello")`.
        criteria (`Mapping`): From [`check_criteria`].
        max_chars (`int`, *optional*, defaults to 20000): Longer rows are not sent: their problem is
            `too_long_to_judge`. A cut row would be judged for what was cut off.
        parameters (`Mapping`, *optional*): `{judge: {...}}`: request parameters instead of [`PARAMETERS`].
        seed (`int`, *optional*, defaults to 42): Of the marks and of the requests' `seed`.
    """

    async def one(parts: Sequence[tuple[str, str]]) -> Judgement:
        if sum(len(text) for _, text in parts) > max_chars:
            return Judgement(problem=TOO_LONG)
        mark = verdicts.nonce(*(text for _, text in parts), seed=seed)
        request = Request(
            _asked(parts, criteria, mark),
            sampling(PARAMETERS, parameters, "judge", seed),
            purpose="judge",
            check=lambda text: read(text, mark, criteria).problem,
        )
        answer = await engine.ask(request)
        return Judgement(problem=answer.reason) if answer.text is None else read(answer.text, mark, criteria)

    engine.tries = len(rows)
    judged = []
    async for judgement in in_order(one, rows):
        engine.tally(judgement.problem)
        judged.append(judgement)
    return judged


def read(reply: str, mark: str, criteria: Mapping[str, str]) -> Judgement:
    """The verdict in a judge's reply: the last JSON object with the mark.

    A score that is missing, no number or not from 1 to 10 spoils the whole verdict: a mean over what is left would be
    of other things than other rows' means are.
    """
    said = parse.without_thoughts(reply) or ""  # thoughts may try out several verdicts
    marked = [entry for entry, _ in verdicts.objects(said) if entry.get("mark") == mark]
    if not marked:
        return Judgement(problem="no_verdict")
    scores, reasons = {}, {}
    for name in criteria:
        if not isinstance(marked[-1].get(name), dict):
            return Judgement(problem="bad_verdict")
        verdict = verdicts.read_score(json.dumps(marked[-1][name]), low=LOWEST, high=HIGHEST)
        if verdict.problem:
            return Judgement(problem=verdict.problem)
        scores[name], reasons[name] = verdict.value, str(marked[-1][name].get("reason") or "")
    return Judgement(scores, reasons)


def _asked(parts: Sequence[tuple[str, str]], criteria: Mapping[str, str], mark: str) -> tuple[dict, dict]:
    row = "\n\n".join(f"{name}:\n{verdicts.fence(text, mark)}" for name, text in parts)
    form = ", ".join(f'"{name}": {{"reason": "...", "score": ...}}' for name in criteria)
    asks = "\n".join(f"- {name}: {question}" for name, question in criteria.items())
    return messages("judge_row", mark=mark, criteria=asks, form=f'{{"mark": "{mark}", {form}}}', row=row)
