"""A model's judgement of each row, as a step: kept with the row, and a reason to reject it if asked for."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from ..errors import ConfigError, did_you_mean
from . import flat
from .notes import noted

CRITERIA = ("clarity", "correctness", "helpfulness")
UNJUDGED = {"keep": "rows without a verdict stay", "reject": "they go, as `no_verdict`"}
MEAN = "mean"  # may stand beside the criteria in `min_score`
STEP = ("criteria", "min_score", "unjudged", "max_chars", "parameters", "seed")  # not the engine's


def judge(
    table: pa.Table,
    model: str | None = None,
    journal: str | None = None,
    base_url: str | None = None,
    criteria: Sequence[str] | Mapping[str, str] = CRITERIA,
    min_score: float | Mapping[str, float] | None = None,
    unjudged: str = "keep",
    max_chars: int = 20_000,
    parameters: Mapping | None = None,
    max_concurrency: int = 64,
    max_requests: int | None = None,
    max_tokens_total: int | None = None,
    max_cost: float | None = None,
    prices: dict | None = None,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    timeout: float = 600.0,
    max_retries: int = 5,
    replay: bool = False,
    demo: bool = False,
    transport: str | Callable | None = None,
    seed: int = 42,
    counts: Counter | None = None,
) -> pa.Table:
    """Has a model score every row from 1 to 10, with reasons, by one question per row. For whole tables.

    What it says goes into `meta`, under `judge`: `model`, `scores`, `mean` and `reasons`, or `problem` where there is
    no verdict; the mean also into the column `score`, by which [`near_duplicates`] chooses the better row. Rows that
    are rejected already are not sent. Every reply is kept in the journal: after a stop (budget, key, Ctrl-C) the same
    command goes on, and `replay` sends nothing at all.

    What a judge is shown leaves this machine, and its reasons may quote it: put `quality` with `pii` before this step.

    Args:
        table (`pa.Table`): Records.
        model (`str`): The judge, as its server calls it.
        journal (`str`): SQLite file of the replies.
        base_url (`str`, *optional*): Of the server; see [`generate.engine.Engine`], also for `max_concurrency`,
            `max_requests`, `max_tokens_total`, `max_cost`, `prices`, `requests_per_minute`, `tokens_per_minute`,
            `timeout`, `max_retries`, `replay`, `demo` and `transport`.
        criteria (`list` or `dict`, *optional*): Names, or own ones with what each asks.
        min_score (`float` or `dict`, *optional*): Least mean, or criterion -> least score (`mean` may be one); a row
            below it is rejected as `low_score`. Without it nothing is.
        unjudged (`str`, *optional*, defaults to `"keep"`): A key of [`UNJUDGED`]: what becomes of rows whose judge
            failed, spoke of something else or gave no score in range. They have no score, and count in no mean.
        max_chars (`int`, *optional*, defaults to 20000): Longer rows are not sent and have no verdict.
        parameters (`dict`, *optional*): `{judge: {temperature: ..., max_tokens: ...}}`.
        seed (`int`, *optional*, defaults to 42): Of the marks around the row's texts and of the requests.
        counts (`Counter`, *optional*): Gets `model`, `criteria`, `judged`, `unjudged` (problem -> rows), `scores`
            (criterion -> `mean` and `counts` of the scores 1 to 10) and `engine` (questions, usage, cost, reasons).

    Raises:
        ConfigError: For settings that can't be right; nothing was sent.
        Stopped: If the run stops before every row is judged.
        GenerationError: If the judge refuses key, model or requests.
    """
    given = {name: value for name, value in locals().items() if name not in ("table", "counts")}
    named = check(given)
    if "meta" not in table.column_names:
        raise ConfigError("judge: it writes into the column 'meta', which the table lacks.")
    from ..generate import row_judging

    rows = np.flatnonzero(flat.open_rows(table))
    texts = _texts(table)
    engine = _engine(given)
    options = {"max_chars": max_chars, "parameters": parameters, "seed": seed}
    shown = [texts[row] for row in rows.tolist()]
    judged = engine.run(lambda running: row_judging.judge_rows(running, shown, named, **options))
    if counts is not None:
        for name, value in _account(engine, judged, named).items():
            counts[name] = value
    return _settled(table, rows, judged, engine.model, min_score, unjudged)


def check(given: Mapping) -> dict[str, str]:
    """The criteria of a step's parameters, after everything that can be known to be wrong before a row is read.

    Raises:
        ConfigError: If something is.
    """
    if not importlib.util.find_spec("openai") or not importlib.util.find_spec("aiohttp"):
        raise ConfigError("judge: asking a model takes the extra 'generate': pip install instruct-builders[generate]")
    from ..generate import row_judging

    criteria = row_judging.check_criteria(given.get("criteria", CRITERIA))
    row_judging.check_sampling(given.get("parameters"))
    if not given.get("journal"):
        raise ConfigError("judge: give journal, a file in which every reply is kept: what was paid for is asked once.")
    unjudged = given.get("unjudged", "keep")
    if unjudged not in UNJUDGED:
        known = "; ".join(f"{key!r}: {value}" for key, value in UNJUDGED.items())
        raise ConfigError(f"judge: unjudged={unjudged!r}; {known}.{did_you_mean(str(unjudged), UNJUDGED)}")
    for name, least in _bounds(given.get("min_score")).items():
        if name not in (*criteria, MEAN):
            known = ", ".join([*criteria, MEAN])
            raise ConfigError(
                f"judge: min_score: {name!r} is none of {known}.{did_you_mean(str(name), [*criteria, MEAN])}"
            )
        if isinstance(least, bool) or not isinstance(least, int | float) or not 1 <= least <= 10:
            raise ConfigError(f"judge: min_score: {name}: {least!r}; scores go from 1 to 10.")
    if not isinstance(given.get("max_chars", 1), int) or given.get("max_chars", 1) < 1:
        raise ConfigError(f"judge: max_chars={given['max_chars']}: 1 or more characters are right.")
    _engine(given)
    return criteria


def _settled(table: pa.Table, rows: np.ndarray, judged: list, model: str, min_score, unjudged: str) -> pa.Table:
    """The table with what was said of `rows` in `meta` and `score`, and with those rejected that it speaks against."""
    means = [float(np.mean(list(one.scores.values()))) if one.scores else None for one in judged]
    notes = [_note(model, one, mean) for one, mean in zip(judged, means, strict=True)]
    table = with_score(noted(table, rows, "judge", notes), rows, means)
    lacking = np.array([one.problem is not None for one in judged], dtype=bool)
    if unjudged == "reject" and lacking.any():
        problems = [one.problem for one in judged if one.problem]
        table = flat.reject(table, _mask(table, rows[lacking]), "no_verdict", "messages", problems)
    said = zip(rows.tolist(), judged, means, strict=True)
    low = {row: why for row, one, mean in said if (why := _low(one, mean, min_score))}
    return flat.reject(table, _mask(table, list(low)), "low_score", "messages", list(low.values())) if low else table


def with_score(table: pa.Table, rows: np.ndarray, scores: Sequence[float | None]) -> pa.Table:
    """The table with the column `score` (double), null but for `rows`: it stays for the time of a build."""
    values = np.full(table.num_rows, np.nan)
    values[rows] = [np.nan if score is None else score for score in scores]
    column = pa.array(values, pa.float64(), mask=np.isnan(values))
    if "score" in table.column_names:
        return table.set_column(table.column_names.index("score"), "score", column)
    return table.append_column("score", column)


def _engine(given: Mapping):
    from ..generate.engine import Engine

    return Engine(**{name: value for name, value in given.items() if name not in STEP})


def _texts(table: pa.Table) -> list[list[tuple[str, str]]]:
    """The parts of each row that a judge sees: turns, `context` behind the first question, and tools."""
    rows = []
    contexts = table["context"].to_pylist() if "context" in table.column_names else [None] * table.num_rows
    tools = (
        flat.storage(flat.one_array(table["tools"])).to_pylist()
        if "tools" in table.column_names
        else [None] * len(contexts)
    )
    for turns, context, offered in zip(_plain_turns(table), contexts, tools, strict=True):
        parts = [("tools", offered)] if offered else []
        for turn in turns:
            parts.append((turn["role"] or "unknown role", turn["content"] or ""))
            if turn.get("tool_calls"):
                parts.append((f"{turn['role']} calls tools", turn["tool_calls"]))
            if turn["role"] == "user" and context:
                parts.append(("input", context))
                context = None
        rows.append(parts)
    return rows


def _plain_turns(table: pa.Table) -> list[list[dict]]:
    """Role, content and tool calls (as JSON) of every row's turns."""
    offsets, turns = flat.flatten(table)
    wanted = [name for name in ("role", "content", "tool_calls") if turns.type.get_field_index(name) >= 0]
    columns = [flat.storage(turns.field(name)).to_pylist() for name in wanted]
    every = [dict(zip(wanted, values, strict=True)) for values in zip(*columns, strict=True)]
    return [every[begin:end] for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]


def _bounds(min_score: float | Mapping | None) -> dict:
    if min_score is None:
        return {}
    return dict(min_score) if isinstance(min_score, Mapping) else {MEAN: min_score}


def _low(one, mean: float | None, min_score: float | Mapping | None) -> str | None:
    """Why a judged row is below what was asked for; `None` where it is not, or has no verdict."""
    if mean is None:
        return None
    for name, least in _bounds(min_score).items():
        score = mean if name == MEAN else one.scores[name]
        if score < least:
            said = "; ".join(f"{other} {value:g}: {one.reasons[other]}" for other, value in one.scores.items())
            return f"{name} {score:.2f} below {least}: {said}"[:500]
    return None


def _note(model: str, one, mean: float | None) -> dict:
    if mean is None:
        return {"model": model, "problem": one.problem}
    return {"model": model, "scores": one.scores, "mean": round(mean, 4), "reasons": one.reasons}


def _mask(table: pa.Table, rows) -> np.ndarray:
    mask = np.zeros(table.num_rows, dtype=bool)
    mask[rows] = True
    return mask


def _account(engine, judged: list, criteria: Mapping) -> dict:
    scores = {name: [one.scores[name] for one in judged if one.scores] for name in criteria}
    told = engine.account
    return {
        "model": engine.model,
        "criteria": dict(criteria),
        "judged": sum(one.problem is None for one in judged),
        "unjudged": dict(sorted(Counter(one.problem for one in judged if one.problem).items())),
        "scores": {
            name: {
                "mean": round(float(np.mean(values)), 4) if values else None,
                "counts": np.histogram(values, bins=np.arange(0.5, 11))[0].tolist(),
            }
            for name, values in scores.items()
        },
        # Not what concerns one run alone, such as seconds: the same journal gives the same account.
        "engine": {name: told[name] for name in ("questions", "usage", "cost", "reasons")},
    }
