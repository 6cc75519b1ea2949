"""From seeds to a built dataset: runs a method, writes its rows down, and has them built like any other source."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .. import pipeline
from ..errors import DISK, ConfigError, GenerationError, Stopped, did_you_mean
from ..licenses import strictest
from ..self_instruct import SelfInstruct as Builder
from . import alpaca_generate, answering, evol_instruct, replies, review, self_instruct
from . import seeds as seed_rows
from .demo_data import DEMO_MODEL
from .seeds import Seed, Seeds, content_ids, turns_of, with_input
from .yields import Yield

GENERATED = "generated.jsonl"


@dataclass(frozen=True)
class Method:
    """What a method is.

    Args:
        run (`type`): A class with `run()`.
        options (`type`): What it can be told.
        parameters (`dict`): Stage -> request parameters, by default.
        rows (`Callable`): How what `run` gives becomes rows.
        select (`Callable`): Seeds and options -> the seeds it uses, and the others, each with its reason.
    """

    run: type
    options: type
    parameters: dict
    rows: Callable[[list], list[dict]]
    select: Callable[[list[Seed], object], tuple[list[Seed], list[tuple[Seed, str]]]]


def rows_of_tasks(tasks: list[self_instruct.Task]) -> list[dict]:
    """A row per instance. Further ones name the first as `parent`, so that no split parts them."""
    firsts = content_ids([((), task.instruction, *task.instances[0]) for task in tasks])
    rows = []
    for task, first in zip(tasks, firsts, strict=True):
        meta = {"question": task.question, "is_classification": task.is_classification}
        for place, (given, output) in enumerate(task.instances):
            rows.append(row((), task.instruction, given, output, meta, first if place else None))
    return rows


def rows_of_alpaca(kept: list[alpaca_generate.Row]) -> list[dict]:
    return [row((), one.instruction, one.input, one.output, {"question": one.question}) for one in kept]


def rows_of_evolution(chains: list[tuple[Seed, list[evol_instruct.Attempt]]]) -> list[dict]:
    """Every successful round of every prompt: `parent` is the record it was evolved from, `meta.root` the seed."""
    return [
        row(
            (),
            one.prompt,
            None,
            one.answer,
            {"round": one.round, "operator": one.operator, "root": entry.id},
            one.parent,
        )
        for entry, attempts in chains
        for one in attempts
    ]


def rows_of_answers(kept: list[answering.Answered]) -> list[dict]:
    return [
        row(one.entry.earlier, one.entry.instruction, one.entry.input, one.text, {"sample": one.sample}, one.entry.id)
        for one in kept
    ]


def row(
    earlier: tuple, instruction: str, given: str | None, output: str, meta: dict, parent: str | None = None
) -> dict:
    """What a record says, as far as a method knows it."""
    return {"messages": turns_of(earlier, instruction, output), "context": given, "parent": parent, "meta": meta}


METHODS = {
    "self_instruct": Method(
        self_instruct.SelfInstruct,
        self_instruct.SelfInstructOptions,
        self_instruct.PARAMETERS,
        rows_of_tasks,
        self_instruct.select,
    ),
    "alpaca": Method(
        alpaca_generate.AlpacaGenerate,
        alpaca_generate.AlpacaOptions,
        alpaca_generate.PARAMETERS,
        rows_of_alpaca,
        alpaca_generate.select,
    ),
    "evol_instruct": Method(
        evol_instruct.EvolInstruct,
        evol_instruct.EvolInstructOptions,
        evol_instruct.PARAMETERS,
        rows_of_evolution,
        evol_instruct.select,
    ),
    "answer": Method(
        answering.Answering,
        answering.AnswerOptions,
        answering.PARAMETERS,
        rows_of_answers,
        answering.select,
    ),
}


@dataclass(frozen=True)
class Generated:
    """What a run gave: the file of its rows, the part of `build.json` about it, and novelty scores for a picture."""

    path: Path
    account: dict
    scores: list[float]


def generate(
    engine, method: str, given: Seeds, options, *, seed: int, folder: Path, review_file: Path | None = None
) -> Generated:
    """Runs a method to its end and writes `generated.jsonl`.

    Args:
        engine (`Engine`): Not yet entered.
        method (`str`): A name in [`METHODS`].
        given ([`Seeds`]): What to start from.
        options: An instance of the method's options.
        seed (`int`): Of every draw; with the same journal and options the same bytes come out.
        folder (`Path`): Where `pool.jsonl`, `dropped.jsonl` and `generated.jsonl` go.
        review_file (`Path`, *optional*): See [`review`]: written where it is missing, obeyed where it is there.

    Raises:
        ConfigError: For options that can't be right; nothing was asked.
        Stopped: If the run stopped before its end; everything answered is in the journal.
        GenerationError: If it can't go on, as with a full disk; everything answered is in the journal.
    """
    chosen = METHODS[method]
    options.check()
    if review_file is not None:
        review.check(review_file)

    async def work(engine):
        # Only now is the journal ours, and with it the files of another run that we replace.
        with Yield(engine, folder) as counts:
            running = chosen.run(engine, given.seeds, options, seed, counts)
            kept = await running.run()
            marks = {"generator": engine.model, "method": method}
            rows = [one | {"meta": marks | one["meta"]} for one in chosen.rows(kept)]
            likeness = getattr(running, "likeness", None)
            report = counts.report(likeness)
            _check_missing(running, report["candidates"], len(rows))
            if review_file is not None:
                rows, report["review"] = review.apply(review_file, rows, counts, seed)
            return rows, running.options, report, likeness.scores if likeness else []

    try:
        rows, options, report, scores = engine.run(work)
        _write(folder / GENERATED, rows)
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise GenerationError(
            f"{folder}: {error.strerror}: the pool and the rows can't be written there. Every reply is in the journal "
            f"({engine.journal_path}): make room and run the same command again."
        ) from error
    # Only what follows from the questions and the journal: an interrupted run and another one write the same bytes.
    shown = usable(method, given, options)
    told = ("model", "demo", "questions", "usage", "cost", "reasons", "purposes")
    account = {
        "method": method,
        "seed": seed,
        "settings": dataclasses.asdict(options),
        "parameters": effective(chosen.parameters, options.parameters),
        "seeds": {
            **row_counts(shown),
            "reasons": dict(sorted(Counter(line["reason"] for line in shown.rejected).items())),
            "files": given.files,
        },
        **{key: engine.account[key] for key in told},
        "prices": engine.prices,
        "yield": report,
    }
    return Generated(folder / GENERATED, account, scores)


def effective(defaults: dict, given: dict | None) -> dict:
    """The request parameters of each stage as they were sent; the seed of each request is drawn from the run's."""
    merged = {stage: {**values, **((given or {}).get(stage) or {})} for stage, values in defaults.items()}
    return {stage: {name: one for name, one in values.items() if one is not None} for stage, values in merged.items()}


def usable(method: str, given: Seeds, options) -> Seeds:
    """The seeds, with a rejected line for each row that this method can't use as well."""
    return seed_rows.without(given, METHODS[method].select(given.seeds, options)[1])


def row_counts(given: Seeds) -> dict[str, int]:
    """`rows` = `used` + `rejected`."""
    rows = sum(entry["rows_in"] for entry in given.files) if given.files else len(given.seeds)
    rejected = len(given.rejected)
    return {"rows": rows, "used": rows - rejected, "rejected": rejected}


def _check_missing(running, candidates: int, rows: int) -> None:
    """A dataset that lacks answers is not called complete."""
    reasons = getattr(running, "missing", None)  # of a method that asks until there is enough, none is missing
    if reasons and reasons.total() > running.options.max_failed * candidates:
        raise Stopped(
            f"{reasons.total()} of {candidates} answers are missing after every attempt {replies.advice(reasons)}."
        )
    if not rows:
        raise Stopped("nothing was kept: dropped.jsonl has every candidate with its reason.")


def _write(path: Path, rows: list[dict]) -> None:
    """All lines or none, in the format `messages`."""
    said = [one | {"messages": with_input(one["messages"], one["context"])} for one in rows]
    half = path.with_name(path.name + ".incomplete")
    with open(half, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in said)
    os.replace(half, path)


def build(generated: Generated, *, license: str | None, cache_dir: str | None, **options) -> pipeline.Built:
    """The generated rows as a built dataset's parts; `options` as in [`pipeline.build`]."""
    builder = Builder(str(generated.path), format="record", license=license, cache_dir=cache_dir, max_bad_fraction=1.0)
    built = pipeline.build(builder, **options)
    account = generated.account
    (source,) = built.build["sources"]
    source["source"] = f"{written_by(account)}: {source['source']}"
    return dataclasses.replace(built, build=built.build | {"generation": account})


def written_by(account: dict) -> str:
    """Who wrote the data and how, in one line for the card."""
    stages = [
        f"{stage} " + " ".join(f"{name}={value}" for name, value in values.items())
        for stage, values in account["parameters"].items()
    ]
    how = f"by {account['method']}, seed {account['seed']}, {'; '.join(stages)}"
    if account["model"] == DEMO_MODEL:
        return f"no language model wrote this: {DEMO_MODEL}, a script for trying things out, {how}"
    return f"written by the model {account['model']} {how}"


def license_of(given: Seeds) -> str | None:
    """The strictest license that a seed states, if any does: what is made from it can't be freer."""
    stated = {entry.license for entry in given.seeds} - {None}
    return strictest(stated) if stated else None


def check_method(name: str) -> None:
    """Raises a `ConfigError` for a method that is none."""
    if name not in METHODS:
        raise ConfigError(f"method={name!r}: there are {', '.join(METHODS)}.{did_you_mean(name, METHODS)}")
