"""Answering alone: instructions in, one or several answers each out, such as an old dataset with a better model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import ConfigError
from . import replies, seeds
from .asking import Answer, Request
from .growing import in_order
from .rendering import check_parameters, sampling
from .seeds import Seed
from .yields import Yield

PARAMETERS = {"answer": {"temperature": 0.7, "max_tokens": 2048}}


@dataclass
class AnswerOptions:
    """What answering can be told.

    Args:
        answers (`int`): Answers per question; equal ones are kept.
        system_prompt (`str`): Sent before each question that has no system turn; not part of the rows.
        max_failed (`float`): Share of the answers that may be missing, after all attempts, in a complete dataset.
        parameters (`dict`): Stage (answer) -> request parameters.
    """

    answers: int = 1
    system_prompt: str | None = None
    max_failed: float = 0.0
    parameters: dict | None = None

    def check(self) -> None:
        """Raises a `ConfigError` for a value that can't be right."""
        if self.answers < 1:
            raise ConfigError(f"answers={self.answers}: a number of 1 or more is allowed.")
        if not 0 <= self.max_failed < 1:
            raise ConfigError(f"max_failed={self.max_failed}: a share from 0 to below 1 is allowed.")
        check_parameters(PARAMETERS, self.parameters)


@dataclass(frozen=True)
class Answered:
    """A question with one answer."""

    entry: Seed
    sample: int
    text: str


def select(given: Iterable[Seed], options: AnswerOptions) -> tuple[list[Seed], list[tuple[Seed, str]]]:
    """Every seed can be answered."""
    return list(given), []


class Answering:
    """One run. Arguments as in [`SelfInstruct`]."""

    def __init__(self, engine, given: list[Seed], options: AnswerOptions, seed: int, counts: Yield):
        options.check()
        self.engine, self.options, self.seed, self.counts, self.given = engine, options, seed, counts, given
        self.missing: Counter[str] = Counter()  # reasons of answers that are not there

    async def run(self) -> list[Answered]:
        """Asks every question `answers` times; gives the answers, in order."""
        self.engine.tries = len(self.given) * self.options.answers
        samples = [(entry, sample) for entry in self.given for sample in range(self.options.answers)]
        kept = []
        async for entry, sample, answer in in_order(self._ask, samples):
            line = {"parent": entry.id, "instruction": entry.instruction, "input": entry.input, "sample": sample}
            if answer.text is None:
                self.missing[answer.reason] += 1
                self.counts.drop("no_answer", {**line, "detail": replies.why(answer)})
            else:
                self.counts.accept({**line, "output": answer.text})
                kept.append(Answered(entry, sample, answer.text))
        return kept

    async def _ask(self, wanted: tuple[Seed, int]) -> tuple[Seed, int, Answer]:
        entry, sample = wanted
        turns = seeds.with_input(seeds.turns_of(entry.earlier, entry.instruction, None), entry.input)
        if self.options.system_prompt and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": self.options.system_prompt}, *turns]
        parameters = sampling(PARAMETERS, self.options.parameters, "answer", self.seed, sample)
        request = Request(tuple(turns), parameters, sample=sample, purpose="answer")
        return entry, sample, await replies.ask(self.engine, request, self.counts)
