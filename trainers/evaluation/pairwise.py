"""MT-Bench, pairs: the candidate's answers against another model's, each pair shown in both orders.

A pair is won where the candidate wins in both orders, lost where the other does, and a tie where both say so or the
orders disagree, as published. How often they disagree, and towards which place, is part of the result. A pair without
a verdict in one of its orders is missing: counted under its reason, left out of `win_rate`, and inside its bounds
`win_rate_if_missing_were_lost` and `..._won`. The figures on orders and lengths are about pairs that a judge saw: an
answer without text loses unasked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from . import canaries, judging, length_bias, mt_bench, results
from .question_sets import QuestionSet

if TYPE_CHECKING:
    from instruct_builders.generate.engine import Engine

WON, TIE, LOST = 1.0, 0.5, 0.0
CONTROLLED = "length_controlled_win_rate"
ALL_ONE_WAY = "no win rate at equal length: nearly all answers of one model are longer, so length and worth are one"


async def compare(
    engine: Engine,
    asked: QuestionSet,
    ours: Sequence[Mapping],
    theirs: Sequence[Mapping],
    *,
    seed: int = 42,
    parameters: Mapping | None = None,
) -> list[dict]:
    """Has every turn of both models compared, in both orders.

    Args:
        engine ([`Engine`]): Of the judge.
        asked ([`QuestionSet`]): The questions.
        ours (`Sequence[Mapping]`), theirs (`Sequence[Mapping]`):
            Answers of the candidate and of the other model, from [`answers.answer`], in the order of the questions.
        seed (`int`, *optional*, defaults to 42), parameters (`Mapping`, *optional*): As in [`mt_bench.grade`].

    Returns:
        `list[dict]`: Per turn: `id`, `category`, `turn`, `verdicts` (with the candidate as A, then as B: `"A"`,
            `"B"`, `"tie"` or `None`), `outcome` (1, 0.5, 0 or `None`), `asked`, `problem`, `reasons`, `attempts`, and
            `difference` (characters of the candidate's answer less those of the other).
    """

    async def one(wanted: tuple[dict, Mapping, Mapping, int]) -> dict:
        question, own, other, turn = wanted
        told = {"id": question["id"], "category": question["category"], "turn": turn + 1}
        told |= {"difference": len(own["turns"][turn] or "") - len(other["turns"][turn] or "")}
        told |= {"verdicts": [None, None], "reasons": ["", ""], "attempts": 0, "asked": False, "problem": None}
        states = [mt_bench.answered(row, turn) for row in (own, other)]
        if failed := next((state for state in states if state not in (None, "no_text")), None):
            return told | {"outcome": None, "problem": f"answer_{failed}"}
        if "no_text" in states:  # who says nothing loses, unasked
            return told | {"outcome": {None: WON, "no_text": LOST}[states[0]] if states[0] != states[1] else TIE}
        said = []
        for first, second in ((own, other), (other, own)):
            said.append(
                await judging.compare(
                    engine,
                    question["turns"][: turn + 1],
                    first["turns"][: turn + 1],
                    second["turns"][: turn + 1],
                    question["reference"],
                    seed=seed,
                    parameters=parameters,
                )
            )
        problem = next((one.problem for one in said if one.problem), None)
        found = {"verdicts": [one.value for one in said], "reasons": [one.reason for one in said], "asked": True}
        found |= {"attempts": sum(one.attempts for one in said), "problem": problem and f"judge_{problem}"}
        return told | found | {"outcome": outcome(*found["verdicts"])}

    return await mt_bench.every_turn(engine, one, asked, ours, theirs)


def outcome(as_a: str | None, as_b: str | None) -> float | None:
    """The verdicts with the candidate shown first, and second -> won, tie or lost; `None` if one is missing."""
    if as_a is None or as_b is None:
        return None
    return {("A", "B"): WON, ("B", "A"): LOST}.get((as_a, as_b), TIE)


def summary(
    asked: QuestionSet,
    ours: Sequence[Mapping],
    theirs: Sequence[Mapping],
    judgments: Sequence[Mapping],
    tested: Sequence[Mapping],
    *,
    model: Mapping,
    settings: Mapping,
    seed: int,
    notes: Sequence[str] = (),
    date: str | None = None,
) -> dict:
    """The result of a comparison; `settings["baseline"]` is the other model's facts. Else as [`mt_bench.summary`]."""
    metrics = _rates(judgments, seed) | _orders(judgments, seed) | _lengths(judgments, seed)
    one_way = [ALL_ONE_WAY] if "characters_more" in metrics and CONTROLLED not in metrics else []
    if rate := canaries.hit_rate(tested):
        metrics["canary_hit_rate"] = rate
    groups = mt_bench.by_category(judgments, lambda some: _rates(some, seed))
    counts = _counted(asked, ours, theirs, judgments, tested)
    return results.result(
        "mt_bench_pairwise",
        f"MT-Bench, pairs against {settings['baseline']['name']}",
        model=model,
        data=asked.data,
        settings=settings,
        seed=seed,
        counts=counts,
        metrics=metrics,
        groups=groups,
        samples=_samples(asked, ours, theirs, judgments),
        notes=[*notes, *one_way, *mt_bench.remarks(asked, counts, tested)],
        date=date,
    )


def _rates(judgments: Sequence[Mapping], seed: int) -> dict[str, dict]:
    there = [one for one in judgments if one["outcome"] is not None]
    if not there:
        return {}
    groups = [one["id"] for one in there]
    found = {"win_rate": results.metric([one["outcome"] for one in there], seed=seed, groups=groups)}
    for name, value in (("won", WON), ("tie", TIE), ("lost", LOST)):
        shares = [float(one["outcome"] == value) for one in there]
        found[name] = results.metric(shares, seed=seed, groups=groups)
    if len(there) < len(judgments):
        for name, bound in (("lost", LOST), ("won", WON)):
            values = [bound if one["outcome"] is None else one["outcome"] for one in judgments]
            rate = sum(values) / len(values)
            found[f"win_rate_if_missing_were_{name}"] = results.plain_metric(rate, len(values))
    return found


def _orders(judgments: Sequence[Mapping], seed: int) -> dict[str, dict]:
    """How often both orders say the same, and how often the place decided."""
    both = [one for one in judgments if None not in one["verdicts"]]
    found = {}
    if both:
        same = [float(consistent(*one["verdicts"])) for one in both]
        found["orders_agree"] = results.metric(same, seed=seed, groups=[one["id"] for one in both])
    chosen = [
        (float(verdict == "A"), one["id"]) for one in judgments for verdict in one["verdicts"] if verdict in ("A", "B")
    ]
    if chosen:
        values, groups = [value for value, _ in chosen], [group for _, group in chosen]
        found["first_place_wins"] = results.metric(values, seed=seed, groups=groups)
    return found


def consistent(as_a: str, as_b: str) -> bool:
    """Whether both orders name the same answer, or both say tie."""
    return {"A": "B", "B": "A", "tie": "tie"}[as_a] == as_b


def _lengths(judgments: Sequence[Mapping], seed: int) -> dict[str, dict]:
    there = [one for one in judgments if one["asked"] and one["outcome"] is not None]
    if not there:
        return {}
    outcomes, groups = [one["outcome"] for one in there], [one["id"] for one in there]
    gaps = [one["difference"] for one in there]
    controlled = length_bias.controlled_win_rate(outcomes, gaps, groups, seed)
    return {
        **({CONTROLLED: controlled} if controlled else {}),
        "characters_more": results.metric(gaps, seed=seed, groups=groups),
        **length_bias.by_length(outcomes, gaps, groups, seed),
    }


def _counted(asked: QuestionSet, ours, theirs, judgments: Sequence[Mapping], tested) -> dict[str, int]:
    """pairs = won + tie + lost + missing, and missing = the sum of the reasons."""
    missing = Counter(one["problem"] for one in judgments if one["problem"])
    outcomes = Counter(one["outcome"] for one in judgments)
    orders = Counter(tuple(one["verdicts"]) for one in judgments)
    rows = [*ours, *theirs]
    disagree = {pair: count for pair, count in orders.items() if None not in pair and not consistent(*pair)}
    return {
        "questions": len(asked.questions),
        "turns": len(judgments),
        "won": outcomes[WON],
        "tie": outcomes[TIE],
        "lost": outcomes[LOST],
        "missing": sum(missing.values()),
        **{f"missing: {reason}": missing[reason] for reason in sorted(missing)},
        "decided_unasked": sum(not one["asked"] and one["outcome"] is not None for one in judgments),
        "orders_disagree": sum(disagree.values()),
        "first_shown_won_both_orders": orders["A", "A"],
        "second_shown_won_both_orders": orders["B", "B"],
        "tie_in_one_order_only": sum(count for pair, count in disagree.items() if "tie" in pair),
        "judge_asked_again": sum(max(one["attempts"] - 2, 0) for one in judgments),
        **mt_bench.counted_answers(rows, [text for row in rows for text in row["turns"] if text is not None]),
        **mt_bench.counted_canaries(tested),
    }


def _samples(asked: QuestionSet, ours, theirs, judgments: Sequence[Mapping]) -> list[dict]:
    """The first question of each category, with both answers."""
    verdict = {(one["id"], one["turn"]): one for one in judgments}
    found, seen = [], set()
    for question, own, other in zip(asked.questions, ours, theirs, strict=True):
        texts = [row["turns"][0] for row in (own, other)]
        if question["category"] in seen or None in texts:
            continue
        seen.add(question["category"])
        cut = [
            text if len(text) <= mt_bench.SAMPLE_CHARS else text[: mt_bench.SAMPLE_CHARS] + " […]" for text in texts
        ]
        told = {"id": question["id"], "category": question["category"], "prompt": question["turns"][0]}
        judged = verdict[question["id"], 1]
        told |= {"answer": cut[0], "baseline_answer": cut[1]}
        found.append(told | {"outcome": judged["outcome"], "reasons": judged["reasons"]})
    return found
