"""Alpaca's way: one answer writes a list of tasks with instruction, input and output (Taori et al., 2023).

Demonstrations come from the seeds alone, so no question waits for another one's answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from ..errors import ConfigError
from . import filters, likeness, parse, replies
from .asking import Answer, Request
from .drawing import Urn
from .growing import Growth
from .likeness import Likeness
from .rendering import check_parameters, messages, one_line, sampling
from .seeds import Seed
from .yields import Yield

ROUND = 64  # questions, in the report of the yield
PARAMETERS = {"alpaca": {"temperature": 1.0, "top_p": 1.0, "max_tokens": 3072}}


@dataclass
class AlpacaOptions:
    """What Alpaca's generation can be told.

    Args:
        target (`int`): Fewest rows wanted; an answer's last ones may be more.
        demonstrations (`int`): Seeds shown in a question.
        list_length (`int`): Tasks in the list that is continued, the shown ones included.
        task_language (`str`): What the prompt asks the tasks to be in.
        window (`int`): Questions that may be under way at a time. They build on no answer, so that it changes no row.
        barren (`int`), threshold (`float`), tokenizer (`str`), embed (`str`), min_words (`int`),
            max_words (`int`), blacklist (`list[str]`), ascii_first (`bool`), drop_truncated (`bool`):
            As in [`SelfInstructOptions`].
        parameters (`dict`): Stage (alpaca) -> request parameters.
    """

    target: int = 100
    demonstrations: int = 3
    list_length: int = 20
    task_language: str = "English"
    window: int = 512
    threshold: float | None = None
    tokenizer: str = "rouge"
    embed: str | None = None
    min_words: int = 4
    max_words: int = 150
    blacklist: list[str] | None = None
    ascii_first: bool = False
    drop_truncated: bool = False
    parameters: dict | None = None
    barren: int = 200

    def check(self) -> None:
        """Raises a `ConfigError` for a value that can't be right."""
        for name in ("target", "window", "barren", "min_words"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: a number of 1 or more is allowed.")
        if not 0 < self.demonstrations < self.list_length:
            raise ConfigError(
                f"demonstrations={self.demonstrations}, list_length={self.list_length}: the list must go on behind at "
                "least one demonstration."
            )
        likeness.check(self.threshold, self.tokenizer, self.embed)
        check_parameters(PARAMETERS, self.parameters)


@dataclass(frozen=True)
class Row:
    """A row that is kept."""

    instruction: str
    input: str
    output: str
    question: int


def select(given: Iterable[Seed], options: AlpacaOptions) -> tuple[list[Seed], list[tuple[Seed, str]]]:
    """The seeds that a run can show, and the others, each with its reason."""
    used, left = {}, []
    for entry in given:
        if entry.output is None or entry.earlier or entry.id in used:
            reason = "no_output" if entry.output is None else "earlier_turns" if entry.earlier else "duplicate_seed"
            left.append((entry, reason))
        else:
            used[entry.id] = entry
    return list(used.values()), left


class AlpacaGenerate:
    """One run: the rows, the questions and the counts. Arguments as in [`SelfInstruct`]."""

    def __init__(self, engine, given: list[Seed], options: AlpacaOptions, seed: int, counts: Yield):
        options.check()
        self.engine, self.options, self.seed, self.counts = engine, options, seed, counts
        self.given, _ = select(given, options)
        if len(self.given) < options.demonstrations:
            raise ConfigError(
                f"{len(self.given)} of the seeds have an answer and no earlier turns, and {options.demonstrations} "
                "demonstrations need as many: give more seeds, or lower demonstrations."
            )
        words = filters.ALPACA_WORDS if options.blacklist is None else tuple(options.blacklist)
        limits = (options.min_words, options.max_words, words, options.ascii_first, options.tokenizer)
        self.filters = filters.Filters(*limits)
        texts = dict.fromkeys(entry.instruction for entry in given)
        self.likeness = Likeness(texts, options.threshold, options.tokenizer, options.embed)
        self.urn = Urn(entry.id for entry in self.given)
        self.rows: list[Row] = []

    async def run(self) -> list[Row]:
        """Asks until there are `target` rows; gives all rows, in order."""
        growth, done = Growth(self._ask, self.options.window, self.options.barren), False
        self.engine.goal = self.options.target
        self.engine.tally(count=0)  # from the beginning, what counts is what is accepted
        try:
            per_question = 0.8 * (self.options.list_length - self.options.demonstrations)
            await growth.until(self.options.target, self._take, per_question)
            done = True
        finally:
            await growth.close(done)
        return self.rows

    async def _ask(self, number: int, known: int) -> Answer:
        options, blocks = self.options, []
        drawn = self.urn.draw(options.demonstrations, self.seed, "alpaca", number)
        for place, entry in enumerate((self.given[one] for one in drawn), 1):
            given = entry.input or "<noinput>"
            told = f"{place}. Instruction: {one_line(entry.instruction)}"
            blocks.append(f"{told}\n{place}. Input:\n{given}\n{place}. Output:\n{entry.output}")
        values = {"examples": "\n###\n".join(blocks), "language": options.task_language}
        values |= {"count": str(options.list_length), "next": str(options.demonstrations + 1)}
        parameters = sampling(PARAMETERS, options.parameters, "alpaca", self.seed, number)
        check = partial(parse.problem, "alpaca")
        asked = messages("alpaca", **values)
        request = Request(asked, parameters, purpose="alpaca", check=check, keep_truncated=True)
        return await replies.ask(self.engine, request, self.counts)

    def _take(self, number: int, answer: Answer) -> int:
        """Sorts out the rows of an answer."""
        wave = number // ROUND + 1
        if answer.text is None:
            self.counts.drop("no_answer", {"question": number, "detail": replies.why(answer)}, wave)
            return len(self.rows)
        cut = answer.finish_reason == "length"
        blocks, torn = parse.alpaca_blocks(answer.text, truncated=cut and not self.options.drop_truncated)
        for _ in range(torn):
            self.counts.drop("torn", {"question": number}, wave)
        for block in blocks:
            given, score = filters.without_marker(block.input), None
            line = {"instruction": block.instruction, "input": given, "output": block.output, "question": number}
            reason = "truncated" if cut and self.options.drop_truncated else None
            reason = reason or self.filters.instruction(block.instruction)
            reason = reason or filters.row(block.instruction, given, block.output)
            if reason is None:
                new, score = self.likeness.admit(block.instruction)
                reason = None if new else "similar"
            line["nearest"] = score
            if reason:
                self.counts.drop(reason, line, wave)
                continue
            self.rows.append(Row(block.instruction, given, block.output, number))
            self.counts.accept(line, wave)
        return len(self.rows)
