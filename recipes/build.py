"""Raw instruction data -> a built dataset directory, and on request the Hub.

python recipes/build.py --config recipes/alpaca/data.yaml --data_files FILE_OR_HUB_ID --output_dir OUT
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import arguments
import output
from build_arguments import BuildArguments, builder_options, check, format_options, steps

from instruct_builders import InstructBuilder, mix, mixture_build, on_ray, pipeline, plots, summary
from instruct_builders.loading import BUILDERS

MOST = 200  # lines of a plan that are printed, largest sources first; build.json has them all


def main(argv: list[str] | None = None) -> int:
    args = read_arguments(argv)
    check(args)
    if args.engine == "ray":
        built = on_many_machines(args)
        target = built.target
    else:
        built = mixed(args) if args.mixture else single(args)
        if built is None:
            return 0
        target = output.write(args, built, pictures(built))
    print(summary.text(built, Path(args.output_dir)))
    output.push(args, target)
    return 0


def read_arguments(argv: list[str] | None) -> BuildArguments:
    return arguments.parse((BuildArguments,), argv)[0]


def single(args: BuildArguments) -> pipeline.Built:
    builder, options = prepared(args)
    return pipeline.build(builder, **options)


def on_many_machines(args: BuildArguments) -> on_ray.Written:
    builder, options = prepared(args)
    shown = {"repo_id": args.repo_id, "title": args.title, "languages": args.language}
    shards = {"max_shard_size": args.max_shard_size, "overwrite": args.overwrite}
    return on_ray.build(builder, args.output_dir, **options, **shards, **shown)


def prepared(args: BuildArguments) -> tuple[InstructBuilder, dict]:
    """The builder, and what becomes of its records."""
    own, test_size = builder_options(args), args.test_size
    cls = BUILDERS[args.builder]
    if "test_size" in {field.name for field in dataclasses.fields(cls.BUILDER_CONFIG_CLASS)}:
        # It shows rows in the prompts of others, so it holds out test rows itself, before it chooses them.
        own, test_size = {"test_size": test_size, "seed": args.seed} | own, 0
    builder = cls(args.data_files, config_name=args.data_config, format="record", **own)
    return builder, {
        "steps": steps(args),
        "format": args.format,
        "test_size": test_size,
        "seed": args.seed,
        "num_proc": args.num_proc,
        "config_name": args.config_name,
        "strict": args.strict,
        "format_options": format_options(args),
    }


def mixed(args: BuildArguments) -> pipeline.Built | None:
    """Plan first, in a table; then the draw."""
    sources = mixture_build.prepare(
        args.mixture,
        steps=steps(args),
        test_size=args.test_size,
        seed=args.seed,
        num_proc=args.num_proc,
        cache_dir=args.cache_dir,
        strict=args.strict,
        count_tokens=token_counter(args.mixture.get("tokenizer")),
    )
    print(f"tokens: {sources.account['tokens']}\n{sources.plan.text(most=MOST)}")
    if args.plan_only:
        return None
    options = {"format": args.format, "config_name": args.config_name, "format_options": format_options(args)}
    built = mixture_build.draw(sources, **options)
    plan = sources.plan
    print(f"drawn:\n{mix.Plan(built.build['mixture']['table'], plan.total_size, plan.weights_by).text(most=MOST)}")
    return built


def token_counter(name: str | None):
    """What counts a mixture's tokens where its YAML names a tokenizer."""
    if name is None:
        return None
    from trainers.counting import token_counter

    return token_counter(name)


def pictures(built: pipeline.Built) -> dict[str, bytes]:
    if "mixture" not in built.build:
        return {}
    if not plots.available():
        print("no picture of the mixture in the card: pip install instruct-builders[report] brings matplotlib")
        return {}
    return {"Share of each source, there and drawn": plots.mixture_picture(built.build["mixture"]["table"])}


if __name__ == "__main__":
    arguments.run(main)
