"""Seeds -> data written by a language model -> a built dataset directory, and on request the Hub.

python recipes/generate.py --config recipes/self_instruct/generate.yaml --base_url URL --model NAME --output_dir OUT
python recipes/generate.py --config recipes/self_instruct/generate.yaml --demo --output_dir OUT
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import arguments

from instruct_builders import directory, formats, plots, publish, quarantine, transforms
from instruct_builders.errors import ConfigError, Stopped, own_error
from instruct_builders.generate import alpaca_generate, answering, evol_instruct, results, seeds, self_instruct, yields
from instruct_builders.generate.engine import Engine


@dataclass
class GenerateArguments:
    """Keys of a generation YAML that hold for every method; the method's own stand beside them."""

    method: str
    output_dir: str
    data_files: str | list | dict | None = None  # seeds; the 175 that ship with the package by default
    max_bad_fraction: float = 0.01  # of seed rows
    model: str | None = None
    base_url: str | None = None
    local_model: str | None = None  # a model in this process instead of a server: a name or folder for transformers
    transport: str | None = None  # "batch" for the Batch API
    demo: bool = False  # the scripted server, which is no language model
    replay: bool = False  # answer from the journal alone
    journal: str | None = None
    work_dir: str | None = None  # pool, dropped candidates, journal; beside output_dir by default
    review_file: str | None = None
    seed: int = 42
    max_concurrency: int = 64
    max_requests: int | None = None
    max_tokens_total: int | None = None
    max_cost: float | None = None
    prices: dict | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float = 600.0
    max_retries: int = 5
    max_retries_total: int | None = None
    max_wait: float = 1800.0
    progress: bool = True
    transforms: list | None = None
    format: str = "messages"
    test_size: float | int = 0
    license: str | None = None  # the strictest that a seed states by default
    cache_dir: str | None = None
    config_name: str = "default"
    title: str | None = None
    language: list[str] | None = None
    max_shard_size: str = "500MB"
    overwrite: bool = False
    push_to_hub: bool = False
    repo_id: str | None = None
    tag: str | None = None
    private: bool = True
    replace: bool = False
    allow_demo_data: bool = False


# The keys of each method, as keys of this recipe: --help lists them.
class SelfInstructArguments(self_instruct.SelfInstructOptions):
    """method: self_instruct"""


class AlpacaArguments(alpaca_generate.AlpacaOptions):
    """method: alpaca"""


class EvolInstructArguments(evol_instruct.EvolInstructOptions):
    """method: evol_instruct"""


class AnswerArguments(answering.AnswerOptions):
    """method: answer"""


METHODS = {
    "self_instruct": SelfInstructArguments,
    "alpaca": AlpacaArguments,
    "evol_instruct": EvolInstructArguments,
    "answer": AnswerArguments,
}
ENGINE = (
    *("model", "base_url", "demo", "replay", "seed", "prices", "timeout", "max_concurrency", "max_requests"),
    *("max_tokens_total", "max_cost", "requests_per_minute", "tokens_per_minute", "max_retries"),
    *("max_retries_total", "max_wait"),
)


def main(argv: list[str] | None = None) -> int:
    try:
        return run(*parse(argv))
    except KeyboardInterrupt:  # before the engine listens for it, after it, or a second time
        print("interrupted: the same command goes on from what is in the journal.", file=sys.stderr)
        return 130


def run(args: GenerateArguments, options) -> int:
    check(args)
    given = seeds.read(args.data_files, args.max_bad_fraction)
    show_seeds(given)
    engine = make_engine(args, options)
    try:
        generated = results.generate(
            engine,
            args.method,
            given,
            options,
            seed=args.seed,
            folder=work_dir(args),
            review_file=Path(args.review_file) if args.review_file else None,
        )
    except Stopped as stopped:
        note_run(engine, args)
        print(f"not complete, and nothing is written to {args.output_dir}: {stopped}", file=sys.stderr)
        return stopped.exit_code
    note_run(engine, args)
    built = results.build(
        generated,
        license=args.license or results.license_of(given),
        cache_dir=args.cache_dir,
        steps=args.transforms or [],
        format=args.format,
        test_size=args.test_size,
        seed=args.seed,
        config_name=args.config_name,
    )
    target = directory.write(
        args.output_dir,
        built.splits,
        built.build,
        built.rejected,
        max_shard_size=args.max_shard_size,
        overwrite=args.overwrite,
        repo_id=args.repo_id,
        title=args.title or title(args, engine),
        languages=args.language,
        pictures=pictures(generated),
    )
    show(generated, built, target)
    if args.push_to_hub:
        result = publish.publish(
            target,
            args.repo_id,
            private=args.private,
            tag=args.tag,
            replace=args.replace,
            allow_demo_data=args.allow_demo_data,
        )
        print(f"{'published' if result.committed else 'already published'}: {result.url} at {result.commit}")
    return 0


def parse(argv: list[str] | None) -> tuple[GenerateArguments, object]:
    """The keys for every method, and the options of the chosen one; a key of another method is an error."""
    args, *all_options = arguments.parse((GenerateArguments, *METHODS.values()), argv)
    results.check_method(args.method)
    options = dict(zip(METHODS, all_options, strict=True))
    chosen = options[args.method]
    own = {field.name for field in (*dataclasses.fields(chosen), *dataclasses.fields(args))}
    for method, other in options.items():
        for field in dataclasses.fields(other):
            if field.name not in own and getattr(other, field.name) != field.default:
                raise ConfigError(f"{field.name} goes with method: {method}, not with {args.method}.")
    return args, chosen


def check(args: GenerateArguments) -> None:
    """What can be known to fail before anything is asked."""
    formats.check_format(args.format, "format")
    transforms.check(args.transforms or [])
    if args.push_to_hub and not args.repo_id:
        raise ConfigError("push_to_hub needs repo_id: org/name.")
    if args.push_to_hub and args.demo and not args.allow_demo_data:
        raise ConfigError("push_to_hub with demo: no language model writes these rows; say allow_demo_data: true.")
    if args.push_to_hub:
        publish.check_before(args.repo_id, tag=args.tag)
    if args.local_model and (args.base_url or args.transport or args.demo):
        raise ConfigError("local_model needs no server: leave out base_url, transport and demo.")
    directory.check_target(args.output_dir, args.config_name, args.max_shard_size, args.overwrite)


def work_dir(args: GenerateArguments) -> Path:
    return Path(args.work_dir or f"{args.output_dir.rstrip('/')}.work")


def make_engine(args: GenerateArguments, options) -> Engine:
    settings = {name: getattr(args, name) for name in ENGINE}
    transport = args.transport
    if args.local_model:
        transport, settings["model"] = local_model(args.local_model), args.model or args.local_model
        # Those who wait together are one batch if they ask for the same: a seed for each would leave batches of one.
        unknown = {"seed": None, "presence_penalty": None}
        given = options.parameters or {}
        options.parameters = {
            stage: unknown | (given.get(stage) or {}) for stage in results.METHODS[args.method].parameters
        }
    journal = Path(args.journal or work_dir(args) / "journal.sqlite")
    directory.check_writable(journal.parent)
    return Engine(journal=journal, transport=transport, progress=args.progress, **settings)


def local_model(name: str):
    """The engine's transport for a model in this process, on a GPU where there is one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trainers.local_generation import LocalModel

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")
    except (OSError, ValueError) as error:
        raise ConfigError(f"local_model={name!r} can't be loaded: {error}") from error
    return LocalModel(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer)


def show_seeds(given: seeds.Seeds) -> None:
    rows = sum(entry["rows_in"] for entry in given.files)
    print(f"seeds: {rows:,} rows = {rows - len(given.rejected):,} used + {len(given.rejected):,} rejected")
    if given.rejected:
        print(quarantine.describe(given.rejected))


def note_run(engine: Engine, args: GenerateArguments) -> None:
    """What this run did goes to `runs.jsonl`, and to the screen; the dataset holds only what all runs agree on."""
    run = engine.account["run"]
    print(
        f"this run: {run['requests']:,} requests in {run['seconds']:.1f} s, {run['from_journal']:,} answers from the "
        f"journal, {run['spent']['tokens']:,} tokens, cost {run['spent']['cost']:.4f}"
    )
    try:
        with open(work_dir(args) / "runs.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(run) + "\n")
    except OSError as error:
        raise own_error(error, work_dir(args) / "runs.jsonl") from error


def title(args: GenerateArguments, engine: Engine) -> str:
    if args.demo:
        return "Demo rows of a script: no language model wrote this"
    return f"Instruction data written by {engine.model} ({args.method})"


def pictures(generated: results.Generated) -> dict[str, bytes]:
    novelty = generated.account["yield"]["novelty"]
    if novelty is None:
        return {}
    if not plots.available():
        print("no picture of the novelty in the card: pip install instruct-builders[report] brings matplotlib")
        return {}
    picture = plots.novelty_histogram(generated.scores, novelty["threshold"], novelty["measure"])
    return {"How much each generated instruction is like the nearest one before it": picture}


def show(generated: results.Generated, built, target: Path) -> None:
    account = generated.account
    print(yields.table(account["yield"]))
    if "review" in account["yield"]:
        print(f"review: {account['yield']['review']}")
    for purpose, counts in account["purposes"].items():
        tokens = counts["prompt_tokens"] + counts["completion_tokens"]
        print(f"{purpose}: {counts['asked']:,} asked, {counts['replies']:,} replies, {tokens:,} tokens")
    if account["cost"] is not None:
        print(f"cost: {account['cost']:.4f}")
    splits = ", ".join(f"{name} {len(split):,}" for name, split in built.splits.items())
    print(f"rows out: {splits}; rejected at building: {len(built.rejected):,}")
    print(f'wrote {target}: load_dataset("{target}")')


if __name__ == "__main__":
    arguments.run(main)
