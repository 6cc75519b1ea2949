"""The measures that need no judge: which are asked for, on which model and rows, and where their results go."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import datasets

from instruct_builders import directory
from instruct_builders.errors import ConfigError, SourceError, did_you_mean
from instruct_builders.generate.engine import Engine

from .. import reading, templates
from . import answers, before_after, encoder_decoders, harness, held_out, instruction_following, tasks

OF_MODEL, OF_DATA = {"belongs_to": "model"}, {"belongs_to": "data"}


@dataclass(kw_only=True)
class MeasureArguments:
    """Keys of a measure YAML.

    Args:
        model (`str`, *optional*): Hub id or folder; a server's name for it with `base_url`.
        adapter (`str`, *optional*): Hub id or folder of an adapter; its base need not be given.
        revision (`str`, *optional*), adapter_revision (`str`, *optional*): Branch, tag or commit on the Hub.
        base_url (`str`, *optional*): Of an OpenAI-compatible server, which is asked instead of a model here.
        chat_template (`str`, *optional*): As in training; by default that of the adapter or the model.
        dtype (`str`, *optional*, defaults to `"auto"`): Of the weights; `"auto"` is as they are stored.
        measures (`list[str]`): Some of instruction_following, held_out, tasks and harness.
        data (`str`, *optional*): A directory made by recipes/build.py, a Hub dataset or a file, for `held_out` and
            `tasks`.
        data_config (`str`, *optional*), data_revision (`str`, *optional*), data_license (`str`, *optional*): Of it.
        data_split (`str`, *optional*, defaults to `"test"`): Such as test, or train[240:].
        data_format (`str`, *optional*, defaults to `"auto"`): What its columns are; auto goes by their names.
        max_length (`int`, *optional*): Most tokens of a held-out row; the model's positions by default.
        prompts (`str`, *optional*): Prompts with constraints in IFEval's columns, a .jsonl file or a Hub dataset such
            as google/IFEval; the bundled ones by default.
        metric (`str`, *optional*, defaults to `"exact_match"`): Of rows of tasks that name none.
        benchmarks (`list[str]`, *optional*): lm-evaluation-harness's tasks, by name or as paths of YAML files.
        num_fewshot (`int`, *optional*): Their examples; each benchmark's own number by default.
        limit (`int`, *optional*): Rows, prompts and questions per benchmark: the first so many.
        output_dir (`str`, *optional*): Where each measure gets a folder.
        compare (`list[str]`, *optional*): Two such folders: shows their differences instead, and measures nothing.
        samples (`int`, *optional*, defaults to 5): Answers per measure that `compare` shows.
    """

    model: str | None = None
    adapter: str | None = None
    revision: str | None = field(default=None, metadata=OF_MODEL)
    adapter_revision: str | None = field(default=None, metadata={"belongs_to": "adapter"})
    base_url: str | None = None
    chat_template: str | None = None
    dtype: str = "auto"
    measures: list[str] = field(default_factory=lambda: ["instruction_following"])
    data: str | None = None
    data_config: str | None = field(default=None, metadata=OF_DATA)
    data_revision: str | None = field(default=None, metadata=OF_DATA)
    data_split: str = field(default="test", metadata=OF_DATA)
    data_format: str = field(default="auto", metadata=OF_DATA)
    data_license: str | None = field(default=None, metadata=OF_DATA)
    max_length: int | None = None
    max_source_length: int | None = 512  # of an encoder-decoder
    special_tokens: str = "reject"
    prompts: str | None = None
    prompts_revision: str | None = field(default=None, metadata={"belongs_to": "prompts"})
    metric: str = "exact_match"
    benchmarks: list[str] | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    max_new_tokens: int = 1024
    batch_size: int = 8
    max_concurrency: int = 64
    seed: int = 42
    output_dir: str | None = None
    compare: list[str] | None = None
    samples: int = 5


class Subject:
    """The model that is measured: loaded, or connected to, when the first measure needs it."""

    def __init__(self, args: MeasureArguments):
        self.args = args

    @cached_property
    def place(self) -> encoder_decoders.Place:
        args = self.args
        return encoder_decoders.find(args.model, args.adapter, args.revision, args.adapter_revision)

    @cached_property
    def encoder_decoder(self) -> bool:
        return not self.args.base_url and encoder_decoders.is_one(self.place)

    @cached_property
    def local(self) -> tuple:
        args = self.args
        names = {name: getattr(args, name) for name in ("adapter", "revision", "adapter_revision", "chat_template")}
        return answers.local_model(args.model, **names, dtype=args.dtype, max_batch=args.batch_size)

    @property
    def facts(self) -> dict:
        return {"name": self.args.model} if self.args.base_url else self.local[1]

    @cached_property
    def template(self) -> str:
        return templates.load(templates.MODEL, self.local[0].tokenizer)

    @property
    def settings(self) -> dict:
        args = self.args
        made = {"temperature": 0.0, "max_new_tokens": args.max_new_tokens, "limit": args.limit}
        if args.base_url:
            return made | {"endpoint": True}
        return made | {"dtype": args.dtype, "batch_size": args.batch_size, "chat_template": _digest(self.template)}

    def ask(self, questions: list[dict], purpose: str) -> list[dict]:
        """Answers through the engine; its journal holds those of this model with these weights alone."""
        args, transport, identity = self.args, None, [self.args.base_url, self.args.model]
        patience = {}
        if not args.base_url:
            from ..local_generation import LocalModel

            loaded, identity = self.local  # with a fingerprint of the weights and the template
            # The engine ends a transport with itself, so each measure has its own.
            transport = LocalModel(loaded.model, loaded.tokenizer, max_batch=args.batch_size)
            patience = {"timeout": answers.LONG, "max_wait": answers.LONG}
        journal = Path(args.output_dir, "journals", f"{_digest(json.dumps(identity))}.sqlite")
        journal.parent.mkdir(parents=True, exist_ok=True)
        engine = Engine(
            model=self.facts["name"],
            base_url=args.base_url,
            journal=journal,
            transport=transport,
            max_concurrency=args.max_concurrency if args.base_url else 2 * args.batch_size,
            seed=args.seed,
            **patience,
        )
        settings = {"max_tokens": args.max_new_tokens, "seed": args.seed, "purpose": purpose}
        return engine.run(lambda engine: answers.answer(engine, questions, **settings))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check(args: MeasureArguments) -> None:
    """Refuses what can't be measured before anything is loaded.

    Raises:
        ConfigError: With the key at fault.
    """
    if not args.measures:
        raise ConfigError(f"measures: none given. Allowed: {', '.join(MEASURES)}.")
    for name in args.measures:
        if name not in MEASURES:
            hint = did_you_mean(name, MEASURES)
            raise ConfigError(f"measures: {name!r} is not known. Allowed: {', '.join(MEASURES)}.{hint}")
    if not args.output_dir:
        raise ConfigError("output_dir: not given; each measure gets a folder in it.")
    if args.base_url and not args.model:
        raise ConfigError("base_url needs model, the server's name for it.")
    if not (args.model or args.adapter):
        raise ConfigError("no model: give model or adapter, a Hub id or a folder.")
    needs_weights = [name for name in args.measures if name in ("held_out", "harness")]
    if args.base_url and needs_weights:
        raise ConfigError(f"{needs_weights[0]} reads a model's own probabilities, which base_url does not give.")
    needs_data = [name for name in args.measures if name in ("held_out", "tasks")]
    if needs_data and not args.data:
        raise ConfigError(
            f"{needs_data[0]} needs data: a directory made by recipes/build.py, a Hub dataset or a file."
        )
    if "harness" in args.measures and not args.benchmarks:
        raise ConfigError("harness needs benchmarks: names of lm-evaluation-harness's tasks, or paths of YAML files.")
    for name in ("batch_size", "max_new_tokens", "limit", "max_length", "samples"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"{name}: {value} given; 1 or more is allowed.")
    directory.check_writable(Path(args.output_dir))


def run(args: MeasureArguments, date: str, show: Callable[[str], None]) -> list[dict]:
    """All measures one after another; each is on the disk before the next begins.

    Args:
        args (`MeasureArguments`): What is measured.
        date (`str`): Of the results.
        show (`Callable`): Gets a line per measure.

    Returns:
        `list[dict]`: The results.
    """
    check(args)
    subject = Subject(args)
    others = [name for name in args.measures if name != "tasks"]
    if others and subject.encoder_decoder:
        what = args.adapter or args.model
        raise ConfigError(f"{others[0]}: {what} is an encoder-decoder; of it `tasks` can be measured.")
    if {"held_out", "tasks"} & set(args.measures):
        _rows(args)  # what can't be read is told before another measure takes an hour
    made = []
    # Held-out rows come first: what can't be labelled is told before another measure has generated for an hour.
    for name in sorted(dict.fromkeys(args.measures), key=lambda name: name != "held_out"):
        result, rows = MEASURES[name](args, subject)
        result["date"] = date
        show(f"wrote {before_after.write(Path(args.output_dir, name), result, rows)}")
        made.append(result)
    return made


def _instruction_following(args: MeasureArguments, subject: Subject) -> tuple[dict, list[dict]]:
    prompts = instruction_following.load(args.prompts, args.prompts_revision)
    if args.limit:
        rows = prompts.rows[: args.limit]
        prompts = prompts._replace(rows=rows, data=prompts.data | {"rows": len(rows)})
    questions = [answers.question(row["key"], [row["prompt"]]) for row in prompts.rows]
    answered = subject.ask(questions, "instruction_following")
    return instruction_following.evaluate(
        prompts, answered, model=subject.facts, settings=subject.settings, seed=args.seed
    )


def _rows(args: MeasureArguments) -> tuple[datasets.Dataset, dict]:
    try:
        return _read(args)
    except SourceError as error:  # reading.py is the trainers', and says what the key is called there
        raise SourceError(str(error).replace("dataset_name:", "data:")) from error


def _read(args: MeasureArguments) -> tuple[datasets.Dataset, dict]:
    splits = reading.splits(args.data, args.data_config, args.data_revision)
    if args.data_split.partition("[")[0] not in splits:
        raise SourceError(
            f"data_split: {args.data} has no split {args.data_split!r}; it has {', '.join(splits)}. Rows that were "
            "trained on tell nothing: hold some out with test_size when you build the data."
        )
    rows = reading.load_rows(args.data, args.data_config, args.data_revision, args.data_split, args.data_format)
    if args.limit:
        rows = rows.select(range(min(args.limit, len(rows))))
    return rows, reading.describe(rows, args.data, args.data_split, args.data_license)


def _held_out(args: MeasureArguments, subject: Subject) -> tuple[dict, list[dict]]:
    rows, data = _rows(args)
    model, facts = subject.local
    return held_out.evaluate(
        model.model,
        model.tokenizer,
        rows,
        facts=facts,
        data=data,
        template=subject.template,
        max_length=args.max_length,
        batch_size=args.batch_size,
        source=args.data_format,
        special_tokens=args.special_tokens,
        seed=args.seed,
    )


def _tasks(args: MeasureArguments, subject: Subject) -> tuple[dict, list[dict]]:
    rows, data = _rows(args)
    chat, how = not subject.encoder_decoder, {"metric": args.metric, "split": args.data_split}
    found = tasks.load(rows, data, metric=args.metric, source=args.data_format, chat=chat)
    if chat:
        answered = subject.ask(found.questions, "tasks")
        return tasks.evaluate(found, answered, model=subject.facts, settings=subject.settings | how, seed=args.seed)
    settings = how | {"max_new_tokens": args.max_new_tokens, "max_source_length": args.max_source_length}
    settings |= {"num_beams": 1, "dtype": args.dtype, "batch_size": args.batch_size, "limit": args.limit}
    answered, model = encoder_decoders.ask(found, subject.place, settings)
    return tasks.evaluate(found, answered, model=model, settings=settings, seed=args.seed)


def _harness(args: MeasureArguments, subject: Subject) -> tuple[dict, list[dict]]:
    model, facts = subject.local
    return harness.evaluate(
        model.model,
        model.tokenizer,
        tasks=args.benchmarks,
        facts=facts,
        num_fewshot=args.num_fewshot,
        limit=args.limit,
        batch_size=args.batch_size,
        seed=args.seed,
    )


MEASURES = {
    "instruction_following": _instruction_following,
    "held_out": _held_out,
    "tasks": _tasks,
    "harness": _harness,
}
