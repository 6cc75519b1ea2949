"""Evol-Instruct: prompts made harder or varied, round after round (Xu et al., 2023, WizardLM).

In each round a prompt is evolved by one operator, compared with what it was, and answered. If it fails one of the four
eliminations it stays in the pool as it was and is tried again in the next round. A prompt's rounds depend on nothing
but itself, so each goes through its own without waiting for the others. The result holds every successful round,
without the seeds: mixing them in is `mixture`'s.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from functools import partial

from ..errors import ConfigError, did_you_mean
from ..transforms.novelty import TOKENIZERS
from . import filters, parse, replies, seeds
from .asking import Answer, Request
from .growing import in_order
from .likeness import Likeness
from .rendering import check_parameters, fenced, messages, sampling, text
from .seeds import Seed
from .yields import Yield

DEPTH = ("constraints", "deepening", "concretizing", "reasoning", "complicate_input")
BREADTH = ("mutation", "topic_extension", "method_variation")
OPERATORS = (*DEPTH, *BREADTH)
PUBLISHED = (*DEPTH, "mutation")  # the paper's six, each as likely as the others
DATA_FORMATS = {
    "xml": "an XML document",
    "sql": "an SQL schema with a query",
    "code": "a piece of program code",
    "table": "a Markdown table",
    "json": "a JSON document",
}
# The paper's: temperature 1, top_p 0.9, 2,048 tokens. The judge has room to think: only what is written is paid for.
PARAMETERS = {
    "evolve": {"temperature": 1.0, "top_p": 0.9, "max_tokens": 2048},
    "equal": {"temperature": 0.0, "max_tokens": 1024},
    "answer": {"temperature": 1.0, "top_p": 0.9, "max_tokens": 2048},
}
CHOICES = ("uniform", "weighted", "order")


@dataclass
class EvolInstructOptions:
    """What Evol-Instruct can be told.

    Args:
        rounds (`int`): Times that each prompt is tried to be evolved.
        operators (`list[str]`): Those to choose from; by default the paper's six. `topic_extension` and
            `method_variation` are there beside them.
        choice (`str`): `"uniform"`; `"weighted"` with `weights`; or `"order"`: round 1 takes the first of
            `operators`, round 2 the second, and so on from the beginning.
        weights (`dict`): Operator -> weight.
        data_formats (`list[str]`): What `complicate_input` adds: xml, sql, code, table, json.
        judge (`bool`): Whether a model is asked if a prompt is still equal to what it was.
        judge_model (`str`), answer_model (`str`): Other models of the same server for these questions.
        max_failed (`float`): Share of the attempts that may have got no answer (`no_evolution`, `no_verdict`,
            `no_answer`), after all repetitions, in a complete dataset. Eliminated ones are not among them.
        tokenizer (`str`): What the histogram of novelty is computed with, as in [`NoveltyIndex`]; it drops nothing.
        parameters (`dict`): Stage (evolve, equal, answer) -> request parameters.
    """

    rounds: int = 4
    operators: list[str] | None = None
    choice: str = "uniform"
    weights: dict | None = None
    data_formats: list[str] | None = None
    judge: bool = True
    judge_model: str | None = None
    answer_model: str | None = None
    max_failed: float = 0.01
    tokenizer: str = "rouge"
    parameters: dict | None = None

    def check(self) -> None:
        """Raises a `ConfigError` for a value that can't be right."""
        if self.rounds < 1:
            raise ConfigError(f"rounds={self.rounds}: a number of 1 or more is allowed.")
        if not 0 <= self.max_failed < 1:
            raise ConfigError(f"max_failed={self.max_failed}: a share from 0 to below 1 is allowed.")
        if self.tokenizer not in TOKENIZERS:
            raise ConfigError(f"tokenizer={self.tokenizer!r}: there are {', '.join(TOKENIZERS)}.")
        if self.choice not in CHOICES:
            raise ConfigError(f"choice={self.choice!r}: there are {', '.join(CHOICES)}.")
        named = {"operators": (self.operators, OPERATORS), "data_formats": (self.data_formats, DATA_FORMATS)}
        named["weights"] = (self.weights, self.operators or OPERATORS)
        for key, (given, allowed) in named.items():
            if given is not None and not given:
                raise ConfigError(f"{key} is empty: name at least one of {', '.join(allowed)}.")
            for name in given or ():
                if name not in allowed:
                    hint = did_you_mean(str(name), allowed)
                    raise ConfigError(f"{key}: {name!r} is none of {', '.join(allowed)}.{hint}")
        if (self.choice == "weighted") != (self.weights is not None):
            raise ConfigError("choice: weighted and weights go together: give both or neither.")
        values = [] if self.weights is None else list(self.weights.values())
        if not all(isinstance(value, int | float) and value >= 0 for value in values) or (values and not sum(values)):
            raise ConfigError(f"weights={self.weights}: numbers of 0 or more, not all 0, are allowed.")
        check_parameters(PARAMETERS, self.parameters)

    def operator(self, round: int, draw: random.Random) -> str:
        """The operator of a prompt's round (from 1)."""
        if self.choice == "weighted":
            return draw.choices(list(self.weights), list(self.weights.values()))[0]
        names = self.operators or list(PUBLISHED)
        return names[(round - 1) % len(names)] if self.choice == "order" else draw.choice(names)


@dataclass(frozen=True)
class Attempt:
    """One round of one prompt: an evolved row, or the reason why the prompt stays as it was."""

    round: int
    operator: str
    prompt: str
    answer: str | None
    reason: str | None
    detail: str | None = None
    missing: str | None = None  # why there was no answer, where that is the reason
    id: str | None = None  # of its own record, where it is kept
    parent: str | None = None  # id of the record that it was made from

    def line(self, root: str) -> dict:
        """As a line of `pool.jsonl` or `dropped.jsonl`."""
        said = {"id": self.id, "instruction": self.prompt, "output": self.answer, "detail": self.detail}
        return {"root": root, "parent": self.parent} | {key: value for key, value in said.items() if value is not None}


def with_lineage(entry: Seed, attempts: list[Attempt]) -> list[Attempt]:
    """The attempts of one prompt with their ids, each naming as its parent the last record that was kept before."""
    kept = [attempt for attempt in attempts if attempt.reason is None]
    ids = iter(seeds.content_ids([((), attempt.prompt, None, attempt.answer) for attempt in kept]))
    parent, told = entry.id, []
    for attempt in attempts:
        own = next(ids) if attempt.reason is None else None
        told.append(replace(attempt, id=own, parent=parent))
        parent = own or parent
    return told


def select(given: Iterable[Seed], options: EvolInstructOptions) -> tuple[list[Seed], list[tuple[Seed, str]]]:
    """The seeds that a run can use, the first of each prompt, and the others, each with its reason."""
    used, left = {}, []
    for entry in given:
        reason = "earlier_turns" if entry.earlier else "duplicate_seed" if entry.prompt in used else None
        if reason:
            left.append((entry, reason))
        else:
            used[entry.prompt] = entry
    return list(used.values()), left


class EvolInstruct:
    """One run. Arguments as in [`SelfInstruct`]."""

    def __init__(self, engine, given: list[Seed], options: EvolInstructOptions, seed: int, counts: Yield):
        options.check()
        self.engine, self.options, self.seed, self.counts = engine, options, seed, counts
        self.given, _ = select(given, options)
        self.missing: Counter[str] = Counter()  # reasons of attempts that got no answer
        if not self.given:
            raise ConfigError("no seed without earlier turns: Evol-Instruct evolves single prompts.")
        self.likeness = Likeness((entry.prompt for entry in self.given), tokenizer=options.tokenizer, refuse=False)

    async def run(self) -> list[tuple[Seed, list[Attempt]]]:
        """Evolves every prompt; gives each seed with its successful attempts, in order."""
        self.engine.tries = len(self.given) * self.options.rounds
        kept = []
        async for entry, attempts in self._chains():
            for attempt in attempts:
                if attempt.reason is None:
                    self.likeness.admit(attempt.prompt)
                    self.counts.accept(attempt.line(entry.id), attempt.round, attempt.operator)
                else:
                    self.counts.drop(attempt.reason, attempt.line(entry.id), attempt.round, attempt.operator)
                    if attempt.missing:
                        self.missing[attempt.missing] += 1
            kept.append((entry, [attempt for attempt in attempts if attempt.reason is None]))
        return kept

    def _chains(self) -> AsyncIterator[tuple[Seed, list[Attempt]]]:
        return in_order(self._chain, self.given)

    async def _chain(self, entry: Seed) -> tuple[Seed, list[Attempt]]:
        """All rounds of one prompt. A failed one leaves the prompt as it was."""
        prompt, attempts = entry.prompt, []
        for round in range(1, self.options.rounds + 1):
            attempts.append(await self._attempt(prompt, entry.id, round))
            prompt = attempts[-1].prompt if attempts[-1].reason is None else prompt
        return entry, with_lineage(entry, attempts)

    async def _attempt(self, prompt: str, root: str, round: int) -> Attempt:
        """Evolves a prompt once: free eliminations first, then the judge, then the answer and its eliminations."""
        draw = random.Random(f"{self.seed} evolve {root} {round}")
        operator = self.options.operator(round, draw)
        salt = (root, round)  # of the same prompt in a later round another version is wanted

        def failed(reason: str, said: str = "", answer: str | None = None) -> Attempt:
            return Attempt(round, operator, said, answer, reason)

        def missing(reason: str, unanswered: Answer, said: str = "") -> Attempt:
            return Attempt(round, operator, said, None, reason, replies.why(unanswered), unanswered.reason)

        asked = self._evolution(prompt, operator, draw)
        evolved = await self._ask("evolve", asked, f"evolve/{operator}", salt)
        if evolved.text is None:
            return missing("no_evolution", evolved)
        said = parse.evolved(evolved.text)
        if reason := filters.evolution(prompt, said):
            return failed(reason, said)
        if self.options.judge:
            pair = {"first": fenced(prompt, "given_text"), "second": fenced(said, "given_text")}
            verdict = await self._ask("equal", messages("equal", **pair), "equal", salt, self.options.judge_model)
            if verdict.text is None:
                return missing("no_verdict", verdict, said)
            if parse.equal(verdict.text):
                return failed("equal", said)
        turn = ({"role": "user", "content": said},)
        answer = await self._ask("answer", turn, "answer", salt, self.options.answer_model)
        if answer.text is None:
            return missing("no_answer", answer, said)
        if reason := filters.answer(answer.text):
            return failed(reason, said, answer.text)
        return Attempt(round, operator, said, answer.text, None)

    def _evolution(self, prompt: str, operator: str, draw: random.Random) -> tuple[dict, ...]:
        """The messages that ask for an evolved prompt."""
        values = {"operator": operator, "prompt": fenced(prompt, "given_text")}
        if operator == "complicate_input":
            kind = draw.choice(self.options.data_formats or list(DATA_FORMATS))
            return messages("input", **values, format=DATA_FORMATS[kind], example=text(f"data_{kind}"))
        name = "depth" if operator in DEPTH else "breadth"
        return messages(name, **values, method=text(f"method_{operator}"))

    async def _ask(
        self, stage: str, asked: tuple[dict, ...], purpose: str, salt: tuple, model: str | None = None
    ) -> Answer:
        parameters = sampling(PARAMETERS, self.options.parameters, stage, self.seed, *salt)
        check = partial(parse.problem, "equal") if stage == "equal" else None
        request = Request(asked, parameters, purpose=purpose, check=check, model=model)
        return await replies.ask(self.engine, request, self.counts)
