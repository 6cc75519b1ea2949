"""Self-Instruct: instructions grown from seeds, each then with instances, as published (Wang et al., 2022).

A question shows the model some tasks, human and machine-written, and gets more of them. What passes the filters and is
unlike everything before it joins the pool. Every task of the pool is then told to be a classification or not, and gets
its instances: label first for a classification, input first for anything else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial

from ..errors import ConfigError
from . import examples, filters, likeness, parse, replies
from .asking import Answer, Request
from .drawing import Urn, shuffled
from .growing import Growth, abandon
from .likeness import Likeness
from .rendering import check_parameters, messages, one_line, sampling
from .seeds import Seed
from .yields import Yield

# What the presets ask for: demonstrations by people and by the model, and tasks in the list that is continued.
PRESETS = {
    "published": {"human_demonstrations": 6, "machine_demonstrations": 2, "last_number": 16},
    "simple": {"human_demonstrations": 2, "machine_demonstrations": 1, "last_number": 4},
}
# As published, but for stop words that would cut a chat model's answer, and room to think where one word is wanted:
# only what is written is paid for. A null in the configuration removes one.
PARAMETERS = {
    "bootstrap": {"temperature": 0.7, "top_p": 0.5, "presence_penalty": 2.0, "max_tokens": 1024},
    "classify": {"temperature": 0.0, "max_tokens": 1024},
    "instances": {"temperature": 0.0, "presence_penalty": 1.5, "max_tokens": 350},
}


@dataclass
class SelfInstructOptions:
    """What Self-Instruct can be told; `None` is the preset's value.

    Args:
        target (`int`): Fewest tasks wanted, each with an instance; an answer's last ones may be more.
        preset (`str`): `"published"`, or `"simple"`: three demonstrations, one instruction per question, one
            instance, and of the filters only those of length and similarity (with a `blacklist` if one is given).
        window (`int`): Questions that may be under way at a time, or a third of those answered where that is more;
            what a question shows is that much older than the pool.
        human_demonstrations (`int`), machine_demonstrations (`int`): Seeds and pool tasks shown in a question.
        last_number (`int`): Of the numbered list that a question asks to go on to.
        min_words (`int`), max_words (`int`): Of an instruction.
        blacklist (`list[str]`): Words that no instruction may hold; the published ones by default.
        max_instances (`int`): Kept of a task, at most.
        threshold (`float`), tokenizer (`str`), embed (`str`): How much like an earlier one a task may be: of
            [`Likeness`]. The tokenizer `"rouge"`, the published one, sees a to z and 0 to 9 alone: take `"unicode"`
            for tasks in other scripts, or `embed` to compare what they mean.
        capitalize (`bool`), ascii_first (`bool`), drop_truncated (`bool`):
            What the original does and here has to be asked for: lower-case all but the first letter; keep only what
            begins with an ASCII character; throw away whole answers that were cut at the token limit.
        classification_only (`bool`): Grow classification tasks, from those among the seeds.
        parameters (`dict`): Stage (bootstrap, classify, instances) -> request parameters.
        barren (`int`): Answers in a row without anything new after which the run stops.
    """

    target: int = 100
    preset: str = "published"
    window: int = 64
    human_demonstrations: int | None = None
    machine_demonstrations: int | None = None
    last_number: int | None = None
    threshold: float | None = None
    tokenizer: str = "rouge"
    embed: str | None = None
    min_words: int = 4
    max_words: int = 150
    blacklist: list[str] | None = None
    ascii_first: bool = False
    capitalize: bool = False
    drop_truncated: bool = False
    classification_only: bool = False
    max_instances: int = 5
    parameters: dict | None = None
    barren: int = 200

    def check(self) -> None:
        """Raises a `ConfigError` for a value that can't be right."""
        self.resolved()

    def resolved(self) -> SelfInstructOptions:
        """With the preset's values put in.

        Raises:
            ConfigError: For a value that can't be right.
        """
        if self.preset not in PRESETS:
            raise ConfigError(f"preset={self.preset!r}: there are {', '.join(PRESETS)}.")
        values = {name: value for name, value in PRESETS[self.preset].items() if getattr(self, name) is None}
        chosen = replace(self, **values)
        for name in ("target", "window", "max_instances", "barren", "min_words"):
            if getattr(chosen, name) < 1:
                raise ConfigError(f"{name}={getattr(chosen, name)}: a number of 1 or more is allowed.")
        shown = chosen.human_demonstrations + chosen.machine_demonstrations
        if min(chosen.human_demonstrations, chosen.machine_demonstrations) < 0 or not 0 < shown < chosen.last_number:
            raise ConfigError(
                f"{chosen.human_demonstrations} human and {chosen.machine_demonstrations} machine demonstrations, and "
                f"last_number={chosen.last_number}: the list must go on behind the demonstrations."
            )
        likeness.check(chosen.threshold, chosen.tokenizer, chosen.embed)
        check_parameters(PARAMETERS, chosen.parameters)
        return chosen


@dataclass
class Task:
    """One task of the pool that the model wrote."""

    number: int
    instruction: str
    question: int  # number of the question that gave it
    score: float | None  # as [`Likeness.admit`] gives it
    is_classification: bool | None = None
    instances: list[tuple[str, str]] = field(default_factory=list)
    lost: list[dict] = field(default_factory=list)  # instances that were not kept, with their reasons

    def line(self) -> dict:
        """As a line of `pool.jsonl`, which has the form of a seed task and can be one of another run."""
        return {
            "id": f"machine_{self.number}",
            "instruction": self.instruction,
            "is_classification": self.is_classification,
            "instances": [{"input": given, "output": output} for given, output in self.instances],
            "nearest": self.score,
        }


def select(given: Iterable[Seed], options: SelfInstructOptions) -> tuple[list[Seed], list[tuple[Seed, str]]]:
    """The seeds that a run can use, and the others, each with its reason."""
    used, left, rows = [], [], {}
    for entry in given:
        if options.classification_only and not entry.is_classification:
            left.append((entry, "not_classification"))
        elif rows.setdefault(one_line(entry.instruction), entry.place) != entry.place:
            left.append((entry, "duplicate_seed"))
        else:
            used.append(entry)  # a row's further instances among them
    return used, left


class SelfInstruct:
    """One run: the pool, the questions and the counts.

    Args:
        engine (`Engine`): Asks.
        given (`list[Seed]`): Tasks by people.
        options ([`SelfInstructOptions`]): What is wanted.
        seed (`int`): Of every draw.
        counts ([`Yield`]): Counts and writes down.
    """

    def __init__(self, engine, given: list[Seed], options: SelfInstructOptions, seed: int, counts: Yield):
        self.engine, self.options, self.seed, self.counts = engine, options.resolved(), seed, counts
        used, _ = select(given, options)
        self.human = Urn(dict.fromkeys(one_line(entry.instruction) for entry in used))
        if not len(self.human):
            raise ConfigError("classification_only: no seed says is_classification: true.")
        options = self.options
        self.simple = options.preset == "simple"
        usual = () if self.simple else filters.SELF_INSTRUCT_WORDS
        words = usual if options.blacklist is None else tuple(options.blacklist)
        limits = (options.min_words, options.max_words, words, options.ascii_first, options.tokenizer)
        self.filters = filters.Filters(*limits, form=not self.simple)
        texts = dict.fromkeys(entry.instruction for entry in given)
        self.likeness = Likeness(texts, options.threshold, options.tokenizer, options.embed)
        self.pool: list[Task] = []
        self.machine = Urn()  # the pool's instructions, to draw from
        self.finished = 0  # tasks of the pool that are written down, with or without instances
        self.finishing: list[asyncio.Task] = []

    async def run(self) -> list[Task]:
        """Grows the pool until `target` tasks have an instance; gives these tasks, in order."""
        growth = Growth(self._ask, self.options.window, self.options.barren)
        options = self.options
        shown = options.human_demonstrations + options.machine_demonstrations
        per_question = 0.8 * (options.last_number - min(shown, len(self.human)))
        self.engine.goal = self.options.target
        self.engine.tally(count=0)  # from the beginning, what counts is what is accepted
        complete, done = [], False
        try:
            while len(complete) < self.options.target:
                missing = self.options.target - len(complete)
                await growth.until(len(self.pool) + missing, self._take, per_question)
                for finishing in self.finishing[self.finished :]:
                    await finishing
                    self._write_down()
                complete = [task for task in self.pool if task.instances]
            done = True
        finally:
            await growth.close(done)
            await abandon(self.finishing)
        return complete

    async def _ask(self, number: int, known: int) -> tuple[Answer, int]:
        """Asks question `number`, which may show `known` tasks of the pool; the answer and its first number."""
        options, question = self.options, (self.seed, "bootstrap", number)
        machine = self.machine.draw(options.machine_demonstrations, *question, among=known)
        human = options.human_demonstrations + options.machine_demonstrations - len(machine)
        chosen = [self.machine.texts[place] for place in machine]
        chosen += [self.human.texts[place] for place in self.human.draw(human, *question)]
        chosen = shuffled(chosen, *question)
        first = len(chosen) + 1
        listed = "\n".join(f"{place}. {one_line(text)}" for place, text in enumerate(chosen, 1))
        name = "bootstrap_classification" if options.classification_only else "bootstrap"
        values = {"examples": listed, "next": str(first), "last": str(options.last_number)}
        if self.simple:
            name, values = "simple_instruction", {"examples": listed}
        request = Request(
            messages(name, **values),
            sampling(PARAMETERS, options.parameters, "bootstrap", self.seed, number),
            purpose="bootstrap",
            check=lambda text: None if parse.numbered(text, first) else "unparsable",
            keep_truncated=options.drop_truncated or not self.simple,  # a list loses its last item alone
        )
        return await replies.ask(self.engine, request, self.counts), first

    def _take(self, number: int, result: tuple[Answer, int]) -> int:
        """Sorts out the instructions of an answer; each one kept is sent on to get its instances."""
        answer, first = result
        count = partial(self.counts.drop, round=number // self.options.window + 1)
        cut = answer.finish_reason == "length"
        if answer.text is None:
            count("no_answer", {"question": number, "detail": replies.why(answer)})
            return len(self.pool)
        items = parse.numbered(answer.text, first, truncated=cut and not self.options.drop_truncated)
        for text in items:
            text = text.capitalize() if self.options.capitalize else text
            reason = "truncated" if cut and self.options.drop_truncated else self.filters.instruction(text)
            score = None
            if reason is None:
                new, score = self.likeness.admit(text)
                reason = None if new else "similar"
            if reason:
                count(reason, {"instruction": text, "question": number, "nearest": score})
                continue
            task = Task(len(self.pool), text, number, score)
            self.pool.append(task)
            self.machine.add(text)
            finish = self._simple_instance if self.simple else self._instances
            self.finishing.append(asyncio.create_task(finish(task)))
        self._write_down()
        return len(self.pool)

    def _write_down(self) -> None:
        """Counts and writes the tasks that are finished, in the order of the pool."""
        while self.finished < len(self.pool) and self.finishing[self.finished].done():
            self.finishing[self.finished].result()
            task = self.pool[self.finished]
            round = task.question // self.options.window + 1
            for line in task.lost:
                self.counts.drop(line["reason"], {"instruction": task.instruction, **line}, round, "instances")
            if task.instances:
                self.counts.accept(task.line(), round)
            else:
                self.counts.drop("no_instance", task.line(), round)
            self.finished += 1

    async def _instances(self, task: Task) -> None:
        """Asks what kind of task it is, then for its instances."""
        ask = partial(self._about, task)
        decided = await ask(
            "classify", messages("classify", examples=examples.decided(), task=examples.shown(task.instruction))
        )
        if decided.text is None:
            task.lost.append({"reason": "no_answer", "detail": f"classify: {replies.why(decided)}"})
            return
        task.is_classification = parse.classification(decided.text)
        kind = "output_first" if task.is_classification else "input_first"
        values = {"examples": examples.worked(kind), "task": examples.shown(task.instruction)}
        values["most"] = str(self.options.max_instances)
        answer = await ask(f"instances/{kind}", messages(f"instances_{kind}", **values))
        if answer.text is None:
            task.lost.append({"reason": "no_answer", "detail": f"instances: {replies.why(answer)}"})
            return
        read = parse.output_first if task.is_classification else parse.input_first
        self._keep(task, read(answer.text))

    async def _simple_instance(self, task: Task) -> None:
        """Asks for the one instance of the short loop."""
        answer = await self._about(
            task, "instances/simple", messages("simple_instance", task=examples.shown(task.instruction))
        )
        if answer.text is None:
            task.lost.append({"reason": "no_answer", "detail": f"instances: {replies.why(answer)}"})
            return
        self._keep(task, [parse.simple_instance(answer.text)])

    async def _about(self, task: Task, purpose: str, asked: tuple[dict, ...]) -> Answer:
        """Asks something about a task; answers that can't be read are asked for again."""
        parameters = sampling(PARAMETERS, self.options.parameters, purpose.partition("/")[0], self.seed)
        request = Request(asked, parameters, purpose=purpose, check=partial(parse.problem, purpose))
        return await replies.ask(self.engine, request, self.counts)

    def _keep(self, task: Task, found: list[tuple[str, str]]) -> None:
        """Filters instances, drops those that contradict each other, and draws `max_instances` of them."""
        kept: list[tuple[str, str]] = []
        for given, output in found:
            given = filters.without_marker(given)
            reason = filters.instance(given, output, form=not self.simple)
            if reason is None and (given, output) in kept:
                reason = "repeated"
            if reason:
                task.lost.append({"reason": reason, "input": given, "output": output})
            else:
                kept.append((given, output))
        inputs = [given for given, _ in kept if given]
        if len(set(inputs)) < len(inputs):
            task.lost += [{"reason": "conflict", "input": given, "output": output} for given, output in kept]
            kept = []
        if len(kept) > self.options.max_instances:
            draw = random.Random(f"{self.seed} instances {task.instruction}")
            chosen = sorted(draw.sample(range(len(kept)), self.options.max_instances))
            left = [pair for place, pair in enumerate(kept) if place not in chosen]
            task.lost += [{"reason": "surplus", "input": given, "output": output} for given, output in left]
            kept = [kept[place] for place in chosen]
        task.instances = kept
