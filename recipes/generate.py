"""Seeds -> data written by a language model -> a built dataset directory, and on request the Hub.

python recipes/generate.py --config recipes/self_instruct/generate.yaml --base_url URL --model NAME --output_dir OUT
python recipes/generate.py --config recipes/self_instruct/generate.yaml --demo --output_dir OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import arguments
import output
from generate_arguments import GenerateArguments, check, read_arguments

from instruct_builders import directory, plots, quarantine
from instruct_builders.errors import ConfigError, Stopped, own_error
from instruct_builders.generate import account, results, seeds, yields
from instruct_builders.generate.engine import Engine

ENGINE = (
    *("model", "base_url", "demo", "replay", "seed", "prices", "timeout", "max_concurrency", "max_requests"),
    *("max_tokens_total", "max_cost", "requests_per_minute", "tokens_per_minute", "max_retries"),
    *("max_retries_total", "max_wait"),
)


def main(argv: list[str] | None = None) -> int:
    try:
        return run(*read_arguments(argv))
    except KeyboardInterrupt:  # before the engine listens for it, after it, or a second time
        print("interrupted: the same command goes on from what is in the journal.", file=sys.stderr)
        return 130


def run(args: GenerateArguments, options) -> int:
    check(args)
    given = seeds.read(args.data_files, args.max_bad_fraction)
    show_seeds(results.usable(args.method, given, options))
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
    target = output.write(args, built, pictures(generated), title(args, engine))
    show(generated, built, Path(args.output_dir))
    output.push(args, target, allow_demo_data=args.allow_demo_data)
    return 0


def work_dir(args: GenerateArguments) -> Path:
    return Path(args.work_dir or f"{args.output_dir.rstrip('/')}.work")


def make_engine(args: GenerateArguments, options) -> Engine:
    settings = {name: getattr(args, name) for name in ENGINE}
    transport = args.transport
    if args.local_model:
        transport, settings["model"] = local_model(args.local_model), args.model or args.local_model
        given = options.parameters or {}
        options.parameters = {  # what a local model does not know
            stage: {"presence_penalty": None} | (given.get(stage) or {})
            for stage in results.METHODS[args.method].parameters
        }
    journal = Path(args.journal or work_dir(args) / "journal.sqlite")
    directory.check_writable(journal.parent)
    return Engine(journal=journal, transport=transport, progress=args.progress, **settings)


def local_model(name: str):
    """The engine's transport for a model in this process, on a GPU where there is one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trainers import places
    from trainers.local_generation import LocalModel

    places.check(name, "local_model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")
    except (OSError, ValueError) as error:
        raise ConfigError(f"local_model={name!r} can't be loaded: {error}") from error
    return LocalModel(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer)


def show_seeds(given: seeds.Seeds) -> None:
    counts = results.row_counts(given)
    print(f"seeds: {counts['rows']:,} rows = {counts['used']:,} used + {counts['rejected']:,} rejected")
    if given.rejected:
        print(quarantine.describe(given.rejected))


def note_run(engine: Engine, args: GenerateArguments) -> None:
    """What this run did goes to `runs.jsonl`, and to the screen; the dataset holds only what all runs agree on."""
    run = engine.account["run"]
    print(f"this run: {account.in_words(engine)}")
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
