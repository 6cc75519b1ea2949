"""Raw instruction data -> a built dataset directory, and on request the Hub.

python recipes/build.py --config recipes/alpaca/data.yaml --data_files FILE_OR_HUB_ID --output_dir OUT
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import arguments
import pyarrow as pa

from instruct_builders import directory, mix, mixture_build, pipeline, plots, publish, quarantine
from instruct_builders.errors import ConfigError, SourceError, did_you_mean
from instruct_builders.loading import BUILDERS


@dataclass
class BuildArguments:
    """Keys of a data YAML. Those from `columns` to `control_tokens` are the builder's own."""

    output_dir: str
    builder: str | None = None
    data_files: str | list | dict | None = None
    options: dict | None = None  # further fields of the builder's configuration, such as FLAN's tasks
    mixture: dict | None = None  # several builders in one dataset, instead of `builder`
    plan_only: bool = False  # print the mixture's plan and stop
    data_config: str | None = None
    revision: str | None = None
    columns: dict | None = None
    field: str | None = None
    license: str | None = None
    strict: bool = False
    max_bad_fraction: float = 0.01
    max_chars: int | None = None
    control_tokens: str = "reject"
    transforms: list | None = None
    quality: str = "none"  # none, classic, default, or a preset's YAML file; runs after the transforms
    dedup: str = "none"  # none, exact or near
    decontaminate: list[str] | None = None  # evaluation sets (names, files, Hub ids) that must not be trained on
    format: str = "messages"
    template: str | None = None  # a Jinja chat template's file, for format: text
    test_size: float | int = 0
    seed: int = 42
    num_proc: int | None = None
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
    replace: bool = False  # whether a push may delete other configurations' data


MOST = 200  # lines of a plan that are printed, largest sources first; build.json has them all
DEDUP = {"none": [], "exact": ["exact_duplicates"], "near": ["exact_duplicates", "near_duplicates"]}
# Said per source where there is a mixture.
PER_SOURCE = (
    *("data_files", "data_config", "options", "revision", "columns", "field", "license"),
    *("max_bad_fraction", "max_chars", "control_tokens"),
)
OPTIONS = (
    "revision",
    "cache_dir",
    "columns",
    "field",
    "license",
    "strict",
    "max_bad_fraction",
    "max_chars",
    "control_tokens",
)


def main(argv: list[str] | None = None) -> int:
    (args,) = arguments.parse((BuildArguments,), argv)
    check(args)
    built = mixed(args) if args.mixture else single(args)
    if built is None:
        return 0
    target = directory.write(
        args.output_dir,
        built.splits,
        built.build,
        built.rejected,
        max_shard_size=args.max_shard_size,
        overwrite=args.overwrite,
        repo_id=args.repo_id,
        title=args.title,
        languages=args.language,
        pictures=pictures(built),
    )
    show(built, target)
    if args.push_to_hub:
        result = publish.publish(target, args.repo_id, private=args.private, tag=args.tag, replace=args.replace)
        done = "published" if result.committed else "already published"
        print(f"{done}: {result.url} at {result.commit}, {len(result.files)} files, private: {result.private}")
        print(f"deleted there: {result.deleted or 'nothing'}; left here: {result.left_out or 'nothing'}")
    return 0


def check(args: BuildArguments) -> None:
    """What can be known to fail before anything is read."""
    if (args.builder is None) == (args.mixture is None):
        raise ConfigError("give either builder (and data_files), or mixture with its sources.")
    if args.builder is not None and args.builder not in BUILDERS:
        hint = did_you_mean(args.builder, BUILDERS)
        raise ConfigError(f"builder: no builder {args.builder!r}; there are {', '.join(BUILDERS)}.{hint}")
    if args.mixture is not None:
        defaults = {field.name: field.default for field in dataclasses.fields(BuildArguments)}
        misplaced = [name for name in PER_SOURCE if getattr(args, name) != defaults[name]]
        if misplaced:
            raise ConfigError(f"{', '.join(misplaced)}: with mixture, this is said per source, in mixture: sources.")
    if args.dedup not in DEDUP:
        hint = did_you_mean(args.dedup, DEDUP)
        more = " semantic_duplicates needs embeddings: call it from Python." if args.dedup == "semantic" else hint
        raise ConfigError(f"dedup: {args.dedup!r} is none of {', '.join(DEDUP)}.{more}")
    if args.push_to_hub and not args.repo_id:
        raise ConfigError("push_to_hub needs repo_id: org/name.")
    if args.push_to_hub:
        publish.check_before(args.repo_id, tag=args.tag)
    if args.template and args.format != "text":
        raise ConfigError(f"template goes with format: text, not {args.format}.")
    if not args.plan_only:
        directory.check_target(args.output_dir, args.config_name, args.max_shard_size, args.overwrite)


def steps(args: BuildArguments) -> list[str | dict]:
    """The transforms, then what the three keys stand for: the better rows of a cluster are known after the scores."""
    chosen = [*(args.transforms or [])]
    if args.quality != "none":
        chosen.append({"quality": {"preset": args.quality}})
    chosen += DEDUP[args.dedup]
    if args.decontaminate:
        chosen.append({"decontaminate": {"against": args.decontaminate}})
    return chosen


def single(args: BuildArguments) -> pipeline.Built:
    options = {name: getattr(args, name) for name in OPTIONS} | (args.options or {})
    cls, test_size = BUILDERS[args.builder], args.test_size
    if "test_size" in {field.name for field in dataclasses.fields(cls.BUILDER_CONFIG_CLASS)}:
        # It shows rows in the prompts of others, so it holds out test rows itself, before it chooses them.
        options, test_size = {"test_size": test_size, "seed": args.seed} | options, 0
    builder = cls(args.data_files, config_name=args.data_config, format="record", **options)
    return pipeline.build(
        builder,
        steps=steps(args),
        format=args.format,
        test_size=test_size,
        seed=args.seed,
        num_proc=args.num_proc,
        config_name=args.config_name,
        strict=args.strict,
        format_options=format_options(args),
    )


def mixed(args: BuildArguments) -> pipeline.Built | None:
    """Plan first, in a table; then the draw."""
    tokenizer = args.mixture.get("tokenizer")
    prepared = mixture_build.prepare(
        args.mixture,
        steps=steps(args),
        test_size=args.test_size,
        seed=args.seed,
        num_proc=args.num_proc,
        cache_dir=args.cache_dir,
        strict=args.strict,
        count_tokens=token_counter(tokenizer) if tokenizer else None,
    )
    print(f"tokens: {prepared.account['tokens']}\n{prepared.plan.text(most=MOST)}")
    if args.plan_only:
        return None
    options = {"format": args.format, "config_name": args.config_name, "format_options": format_options(args)}
    built = mixture_build.draw(prepared, **options)
    print("drawn:")
    print(
        mix.Plan(built.build["mixture"]["table"], prepared.plan.total_size, prepared.plan.weights_by).text(most=MOST)
    )
    return built


def token_counter(name: str) -> Callable[[pa.Array], list[int]]:
    """Texts -> how many tokens each is for a tokenizer of that name, without those that a template adds."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise SourceError(f"mixture: tokenizer: {name!r} can't be loaded: {error}") from error

    def count(texts: pa.Array, batch: int = 1000) -> list[int]:
        slices = (texts.slice(start, batch).to_pylist() for start in range(0, len(texts), batch))
        return [len(ids) for some in slices for ids in tokenizer(some, add_special_tokens=False)["input_ids"]]

    return count


def format_options(args: BuildArguments) -> dict | None:
    return {"template": Path(args.template).read_text(encoding="utf-8")} if args.template else None


def pictures(built: pipeline.Built) -> dict[str, bytes]:
    if "mixture" not in built.build:
        return {}
    if not plots.available():
        print("no picture of the mixture in the card: pip install instruct-builders[report] brings matplotlib")
        return {}
    return {"Share of each source, there and drawn": plots.mixture_picture(built.build["mixture"]["table"])}


def show(built: pipeline.Built, target) -> None:
    rows_in = sum(file["rows_in"] for file in built.build["sources"])
    rows_out = {name: len(split) for name, split in built.splits.items()}
    for step in built.build["steps"]:
        rejected = ", ".join(f"{reason} {count}" for reason, count in step["rejected"].items()) or "none"
        print(f"{step['name']}: changed {step['changed']:,}, rejected {rejected}, added {step['added']:,}")
    entries = [*built.build["sources"], *built.build["steps"]]
    more = {"added by splitting or rendering": sum(entry.get("added", 0) for entry in entries)}
    mixture = built.build.get("mixture", {"repeated": 0, "not_drawn": 0})
    more["repeated by the draw"] = mixture["repeated"]
    print(
        f"rows in {rows_in:,}" + "".join(f" + {count:,} {what}" for what, count in more.items() if count) + " = "
        f"rows out {sum(rows_out.values()):,} ({', '.join(f'{name} {n:,}' for name, n in rows_out.items())})"
        f" + rejected {len(built.rejected):,}"
        + (f" + not drawn {mixture['not_drawn']:,}" if mixture["not_drawn"] else "")
    )
    for entry in built.build.get("left_out", []):
        print(f"left out: {entry['task']}: {entry['reason']}")
    for entry in built.build.get("empty_splits", []):
        print(f"no {entry['split']} row: {entry['task']}: {entry['reason']}")
    if built.rejected:
        print(f"rejected per reason: {quarantine.reasons(built.rejected)}; each in {target / 'rejected.jsonl'}")
        print(quarantine.describe(built.rejected))
    print(f'wrote {target}: load_dataset("{target}")')


if __name__ == "__main__":
    arguments.run(main)
