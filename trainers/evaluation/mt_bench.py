"""MT-Bench, single answers: each turn of each question graded from 1 to 10, and what the grades are worth.

How answers and verdicts that are missing enter the score:

- an answer without text (empty, refused, or nothing within the token limit) is an answer: it scores 1, unasked, and so
  does the turn after it;
- a turn without an answer for another reason (a server that failed), or without a verdict after all attempts, is
  missing: it is counted under its reason, `score` is the mean of the others, and `score_if_missing_were_1` and
  `score_if_missing_were_10` say between what the score must lie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from instruct_builders.generate import verdicts
from instruct_builders.generate.growing import in_order

from . import canaries, judging, length_bias, results
from .answers import NO_FIRST, NO_TEXT
from .question_sets import QuestionSet

if TYPE_CHECKING:
    from instruct_builders.generate.engine import Engine

SAMPLE_CHARS = 2000  # of an answer in a result; answers.jsonl has it whole
FEW = 200  # questions below which a difference of a few points says little
ODD_MANY = 0.05  # share of missing verdicts above which a note says so


def answered(row: Mapping, turn: int) -> str | None:
    """What became of a turn: `None` if there is an answer, `"no_text"` if the model gave none, else the reason."""
    problem = row["problems"][turn]
    if problem == NO_FIRST:
        return answered(row, turn - 1)
    return "no_text" if problem in NO_TEXT else problem


async def grade(
    engine: Engine, asked: QuestionSet, rows: Sequence[Mapping], *, seed: int = 42, parameters: Mapping | None = None
) -> list[dict]:
    """Has every turn graded in the conversation up to it.

    Args:
        engine ([`Engine`]): Of the judge.
        asked ([`QuestionSet`]): The questions.
        rows (`Sequence[Mapping]`): From [`answers.answer`], in the order of the questions.
        seed (`int`, *optional*, defaults to 42): Of the marks around what the judge is shown.
        parameters (`Mapping`, *optional*): As in [`judging.score`].

    Returns:
        `list[dict]`: Per turn: `id`, `category`, `turn` (from 1), `score` (`None` where it is missing), `problem`,
            `asked` (whether the judge was), `reason`, `attempts` and `characters` of the answer.
    """

    async def one(wanted: tuple[dict, Mapping, int]) -> dict:
        question, row, turn = wanted
        text = row["turns"][turn]
        told = {"id": question["id"], "category": question["category"], "turn": turn + 1}
        told |= {"characters": len(text or ""), "reason": "", "attempts": 0, "asked": False}
        problem = answered(row, turn)
        if problem == "no_text":
            return told | {"score": float(judging.LOWEST), "problem": None}
        if problem:
            return told | {"score": None, "problem": f"answer_{problem}"}
        said = await judging.score(
            engine,
            question["turns"][: turn + 1],
            row["turns"][: turn + 1],
            question["reference"],
            seed=seed,
            parameters=parameters,
        )
        problem = said.problem and f"judge_{said.problem}"
        verdict = {"score": said.value, "problem": problem, "asked": True}
        return told | verdict | {"reason": said.reason, "attempts": said.attempts}

    return await every_turn(engine, one, asked, rows)


async def every_turn(
    engine: Engine, judge: Callable[[tuple], Awaitable[dict]], asked: QuestionSet, *answered: Sequence[Mapping]
) -> list[dict]:
    """`judge((question, answers of each model, turn))` for every turn of every question, in order."""
    wanted = [
        (*one, turn) for one in zip(asked.questions, *answered, strict=True) for turn in range(len(one[0]["turns"]))
    ]
    engine.goal, judgments = len(wanted), []
    async for judgment in in_order(judge, wanted):
        engine.tally(judgment["problem"])
        judgments.append(judgment)
    return judgments


def summary(
    asked: QuestionSet,
    rows: Sequence[Mapping],
    judgments: Sequence[Mapping],
    tested: Sequence[Mapping],
    *,
    model: Mapping,
    settings: Mapping,
    seed: int,
    notes: Sequence[str] = (),
    date: str | None = None,
) -> dict:
    """The result of single-answer grading.

    Args:
        asked ([`QuestionSet`]): The questions.
        rows (`Sequence[Mapping]`), judgments (`Sequence[Mapping]`): Answers, and what [`grade`] made of them.
        tested (`Sequence[Mapping]`): From [`canaries.scores`].
        model (`Mapping`), settings (`Mapping`), seed (`int`), notes (`Sequence[str]`), date (`str`, *optional*):
            As in [`results.result`].
    """
    metrics = _scores(judgments, seed)
    graded = [one for one in judgments if one["asked"] and one["score"] is not None]
    rho = length_bias.correlation([one["score"] for one in graded], [one["characters"] for one in graded])
    if rho is not None:
        metrics["length_correlation"] = results.plain_metric(rho, len(graded))
    if rate := canaries.hit_rate(tested):
        metrics["canary_hit_rate"] = rate
    groups = by_category(judgments, lambda some: _scores(some, seed))
    counts = counted(asked, rows, judgments, tested)
    return results.result(
        "mt_bench",
        "MT-Bench, single answers",
        model=model,
        data=asked.data,
        settings=settings,
        seed=seed,
        counts=counts,
        metrics=metrics,
        groups=groups,
        samples=_samples(asked, rows, judgments),
        notes=[*notes, *remarks(asked, counts, tested)],
        date=date,
    )


def by_category(judgments: Sequence[Mapping], measure: Callable[[list], dict]) -> dict[str, dict]:
    """Category -> what `measure` finds in its judgments, where it finds anything."""
    parts: dict[str, list] = {}
    for one in judgments:
        parts.setdefault(one["category"], []).append(one)
    return {category: found for category, part in parts.items() if (found := measure(part))}


def _scores(judgments: Sequence[Mapping], seed: int) -> dict[str, dict]:
    """Mean scores of all turns, of each turn, and the bounds that the missing ones leave."""
    found = {}
    parts = {"score": judgments}
    for turn in sorted({one["turn"] for one in judgments}):
        parts[f"turn_{turn}"] = [one for one in judgments if one["turn"] == turn]
    for name, part in parts.items():
        there = [one for one in part if one["score"] is not None]
        if there:
            groups = [one["id"] for one in there]
            found[name] = results.metric([one["score"] for one in there], seed=seed, groups=groups)
    if any(one["score"] is None for one in judgments):
        for bound in (judging.LOWEST, judging.HIGHEST):
            values = [bound if one["score"] is None else one["score"] for one in judgments]
            found[f"score_if_missing_were_{bound}"] = results.plain_metric(sum(values) / len(values), len(values))
    return found


def counted(
    asked: QuestionSet, rows: Sequence[Mapping], judgments: Sequence[Mapping], tested: Sequence[Mapping]
) -> dict[str, int]:
    """turns = scored + no_text + missing, and missing = the sum of the reasons."""
    missing = Counter(one["problem"] for one in judgments if one["problem"])
    texts = [text for row in rows for text in row["turns"] if text is not None]
    return {
        "questions": len(asked.questions),
        "turns": len(judgments),
        "scored": sum(one["asked"] and one["score"] is not None for one in judgments),
        "no_text_scored_1": sum(not one["asked"] and one["score"] is not None for one in judgments),
        "missing": sum(missing.values()),
        **{f"missing: {reason}": missing[reason] for reason in sorted(missing)},
        "judge_asked_again": sum(max(one["attempts"] - 1, 0) for one in judgments),
        **counted_answers(rows, texts),
        **counted_canaries(tested),
    }


def counted_answers(rows: Sequence[Mapping], texts: Sequence[str]) -> dict[str, int]:
    return {
        "answers_cut_at_the_limit": sum(sum(row["truncated"]) for row in rows),
        "answers_with_special_tokens": sum(map(verdicts.holds_special_token, texts)),
    }


def counted_canaries(tested: Sequence[Mapping]) -> dict[str, int]:
    return {
        "canaries": len(tested),
        "canaries_hit": sum(row["hit"] is True for row in tested),
        "canaries_without_verdict": sum(row["hit"] is None for row in tested),
    }


def remarks(asked: QuestionSet, counts: Mapping[str, int], tested: Sequence[Mapping]) -> list[str]:
    """What a reader of the numbers must know."""
    found = [references_in_words(asked.references)]
    if not asked.data.get("published"):
        found.append(
            "the questions are not the 80 of MT-Bench as published: scores do not compare with other people's"
        )
    if counts["questions"] < FEW:
        found.append(
            f"{counts['questions']} questions: the interval is about which questions were asked; a difference of two "
            "models inside it is no finding"
        )
    if counts["missing"] > ODD_MANY * counts["turns"]:
        found.append(f"{counts['missing']} of {counts['turns']} verdicts are missing: read the score with its bounds")
    if hit := [row["style"] for row in tested if row["hit"]]:
        found.append(
            f"worthless answers that ask for a 10 got their way with this judge in {len(hit)} of {len(tested)} "
            f"styles: {', '.join(hit)}"
        )
    return found


def answers_in_words(rows: Sequence[Mapping]) -> str:
    """How many turns were answered, and why others were not; the parts add up."""
    problems = [problem for row in rows for problem in row["problems"]]
    bad = Counter(filter(None, problems))
    told = "".join(f", {reason} {bad[reason]}" for reason in sorted(bad))
    return f"turns: {len(problems)} = {problems.count(None)} answered{told}"


def references_in_words(references: Mapping) -> str:
    used = {kind: count for kind, count in references["used"].items() if count}
    said = ", ".join(f"{count} {kind}" for kind, count in used.items())
    text = f"references of math, reasoning and coding: {said or 'no such questions'}"
    if used.get("published"):
        text += " (13 of the 30 published ones are reported wrong: FastChat pull request 3158)"
    return text


def _samples(asked: QuestionSet, rows: Sequence[Mapping], judgments: Sequence[Mapping]) -> list[dict]:
    """The first question of each category, its first turn."""
    verdict = {(one["id"], one["turn"]): one for one in judgments}
    found, seen = [], set()
    for question, row in zip(asked.questions, rows, strict=True):
        if question["category"] in seen or row["turns"][0] is None:
            continue
        seen.add(question["category"])
        own = verdict[question["id"], 1]
        text = row["turns"][0]
        found.append(
            {
                "id": question["id"],
                "category": question["category"],
                "prompt": question["turns"][0],
                "answer": text if len(text) <= SAMPLE_CHARS else text[:SAMPLE_CHARS] + " […]",
                "score": own["score"],
                "reason": own["reason"],
            }
        )
    return found
