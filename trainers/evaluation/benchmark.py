"""A run of MT-Bench: who answers and who judges, and the files that are left in output_dir.

`args` is everywhere an instance of `MtBenchArguments` (recipes/mt_bench_arguments.py), whose keys are documented in
recipes/mt_bench/README.md.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from instruct_builders.generate.engine import Engine
from instruct_builders.generate.settings import DEMO_MODEL

from .. import run_facts
from . import answer_files, answers, canaries, judging, mt_bench, pairwise, results
from .question_sets import QuestionSet

NO_JUDGE = f"no language model judged: {DEMO_MODEL} is a script, and its scores mean nothing"
NO_CANDIDATE = f"no language model answered: {DEMO_MODEL} is a script"
BUDGET = ("max_requests", "max_tokens_total", "max_cost", "prices")
BOTH = ("replay", "seed", "max_concurrency", "timeout", "max_retries", "max_wait", "progress")
JUDGMENTS, CANARIES = "judgments.jsonl", "canaries.jsonl"
PAIRS, PAIR_JUDGMENTS, PAIR_CANARIES = "pairwise.json", "pairwise_judgments.jsonl", "pairwise_canaries.jsonl"
OPENAI = "https://api.openai.com/v1"


def work_dir(args) -> Path:
    """Where the journals are: beside output_dir by default."""
    return Path(args.work_dir or f"{args.output_dir.rstrip('/')}.work")


def candidate(args) -> tuple[Engine, dict]:
    """The engine of the model that answers, and that model as a result tells it."""
    settings = {name: getattr(args, name) for name in (*BOTH, *BUDGET)}
    settings["journal"] = _journal(args, "answers", args.base_url)
    model = {"name": args.model, "revision": None, "local": False}
    if args.base_url:
        engine = Engine(model=args.model, base_url=args.base_url, **settings)
        if key_is_withheld(args):
            engine.key = ""
        engine.key = os.environ.get("CANDIDATE_API_KEY", "").strip() or engine.key
        return engine, model
    if args.model or args.adapter:
        names = ("adapter", "revision", "adapter_revision", "chat_template", "dtype", "max_batch")
        transport, model = answers.local_model(args.model, **{name: getattr(args, name) for name in names})
        settings |= {"timeout": answers.LONG, "max_wait": answers.LONG, "transport": transport}
        # The journal knows an answer by the model's name: other weights under the same name are another model.
        return Engine(model=f"{results.shown({'model': model})}#{model['fingerprint']}", **settings), model
    return Engine(demo=True, **settings), model | {"name": DEMO_MODEL}


def _journal(args, what: str, base_url: str | None) -> Path:
    """One for each server: its name of a model is its own, and another server's answers are another model's."""
    server = f"-{_digest(base_url)}" if base_url else ""
    return work_dir(args) / f"{what}{server}.sqlite"


def _digest(base_url: str) -> str:
    return hashlib.sha256(base_url.rstrip("/").encode()).hexdigest()[:12]


def key_is_withheld(args) -> bool:
    """Whether OPENAI_API_KEY, which is the judge's, must not go to the candidate's server, which is another one."""
    if not args.base_url or args.judging == "none" or not args.judge_model:
        return False
    return urlsplit(args.base_url)[:2] != urlsplit(_judge_url(args) or OPENAI)[:2]


def _judge_url(args) -> str | None:
    return args.judge_base_url or os.environ.get("OPENAI_BASE_URL")


def answer(args, engine: Engine, asked: QuestionSet, model: Mapping) -> list[dict]:
    """The candidate's answers, written to output_dir; as [`answers.answer`] gives them."""
    how = {"max_tokens": args.max_tokens, "seed": args.seed, "parameters": args.parameters}
    rows = engine.run(lambda engine: answers.answer(engine, asked.questions, **how))
    settings = how | {"temperatures": temperatures(asked)}
    answer_files.write(Path(args.output_dir), asked, rows, model, settings)
    return rows


def temperatures(asked: QuestionSet) -> dict[str, float]:
    return {one["category"]: one["temperature"] for one in asked.questions}


def judge(args) -> tuple[Engine, dict]:
    """The judge's engine, and what a result says of it: `model`, and of local weights their `fingerprint`."""
    settings = {name: getattr(args, name) for name in BOTH} | {name: getattr(args, f"judge_{name}") for name in BUDGET}
    settings["journal"] = work_dir(args) / "judge.sqlite"
    if args.demo:
        return Engine(demo=True, **settings), {"model": DEMO_MODEL}
    if args.judge_local_model:
        how = {"chat_template": args.judge_chat_template, "dtype": args.dtype, "max_batch": args.max_batch}
        transport, facts = answers.local_model(args.judge_local_model, **how)
        settings |= {"timeout": answers.LONG, "max_wait": answers.LONG, "transport": transport}
        engine = Engine(model=f"{facts['name']}#{facts['fingerprint']}", **settings)
        return engine, {"model": facts["name"], "fingerprint": facts["fingerprint"]}
    settings["journal"] = _journal(args, "judge", _judge_url(args))
    return Engine(model=args.judge_model, base_url=args.judge_base_url, **settings), {"model": args.judge_model}


def family_warning(args, name: str, model: Mapping, baseline: Mapping | None) -> str | None:
    """As [`judging.same_family`]; a script has no family."""
    known = [place for place in (args.adapter, args.model) if place and Path(place, run_facts.FILE).is_file()]
    base = run_facts.read(known[0])["base"]["name"] if known else None  # a folder's own name tells nothing
    candidates = (model["name"], model.get("adapter"), base, baseline and baseline["name"])
    return None if args.demo else judging.same_family(name, *candidates)


def judged(
    args,
    judge: tuple[Engine, Mapping],
    asked: QuestionSet,
    rows: Sequence[Mapping],
    model: Mapping,
    baseline: tuple[Sequence[Mapping], Mapping] | None,
    date: str,
) -> dict:
    """The result, written to output_dir with the judgments and canaries behind it.

    Args:
        args (`MtBenchArguments`): Of the recipe.
        judge (`tuple`): From [`judge`].
        asked ([`QuestionSet`]): The questions.
        rows (`Sequence[Mapping]`), model (`Mapping`): The candidate's answers, and its facts.
        baseline (`tuple`, *optional*): The same of the other model, for pairs.
        date (`str`): Of the run.
    """
    engine, who = judge
    how = {"seed": args.seed, "parameters": args.judge_parameters}

    async def work(engine: Engine) -> tuple[list[dict], list[dict]]:
        if baseline:
            tested = await canaries.pairs(engine, **how)
            return tested, await pairwise.compare(engine, asked, rows, baseline[0], **how)
        return await canaries.scores(engine, **how), await mt_bench.grade(engine, asked, rows, **how)

    tested, judgments = engine.run(work)
    out = Path(args.output_dir)
    answer_files.write_rows(out / (PAIR_JUDGMENTS if baseline else JUDGMENTS), judgments)
    answer_files.write_rows(out / (PAIR_CANARIES if baseline else CANARIES), tested)
    sent = {**judging.PARAMETERS, **(args.judge_parameters or {})}
    settings = {
        "judge": {**who, "scripted": args.demo, "parameters": sent},
        # An address may name a private machine; its digest says whether two are the same.
        "judge_server": None if engine.base_url is None or args.demo else _digest(str(engine.base_url)),
        "prompts": judging.prompts_digest("compare" if baseline else "score"),
        "references": asked.references,
        "answers": {"max_tokens": args.max_tokens, "parameters": args.parameters, "temperatures": temperatures(asked)},
    }
    notes = [NO_JUDGE] if args.demo else []
    notes += [NO_CANDIDATE] if model["name"] == DEMO_MODEL else []
    warning = family_warning(args, who["model"], model, baseline and baseline[1])
    notes += [warning] if warning else []
    told = {"model": model, "settings": settings, "seed": args.seed, "notes": notes, "date": date}
    if baseline:
        settings["baseline"] = dict(baseline[1])
        result = pairwise.summary(asked, rows, baseline[0], judgments, tested, **told)
    else:
        result = mt_bench.summary(asked, rows, judgments, tested, **told)
    results.write(result, out / (PAIRS if baseline else results.FILE))
    return result
