"""The keys of recipes/build.py, and what can be known of them before a row is read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import output

import trainers
from instruct_builders import on_ray
from instruct_builders.errors import ConfigError, did_you_mean
from instruct_builders.loading import check_name


@dataclass(kw_only=True)
class BuildArguments(output.OutputArguments):
    """Keys of a data YAML. Those from `columns` to `control_tokens` are the builder's own."""

    builder: str | None = None
    data_files: str | list | dict | None = None
    options: dict | None = None  # further fields of the builder's configuration, such as FLAN's tasks
    mixture: dict | None = None  # several builders in one dataset, instead of `builder`
    plan_only: bool = False  # print the mixture's plan and stop
    data_config: str | None = None
    revision: str | None = None
    columns: dict | None = None
    field: str | None = None
    strict: bool = False
    max_bad_fraction: float = 0.01
    max_chars: int | None = None
    control_tokens: str = "reject"
    transforms: list | None = None
    quality: str = "none"  # none, classic, default, or a preset's YAML file; runs after the transforms
    dedup: str = "none"  # none, exact, near or semantic
    dedup_embed: str | None = None  # for dedup: semantic: a sentence-transformers model, or module:function
    decontaminate: list[str] | str | None = None  # evaluation sets: names, files, Hub ids; none for none; all at hand
    template: str | None = None  # a Jinja chat template's file, for format: text
    num_proc: int | None = None
    engine: str = "local"  # or ray: on the machines of the cluster that RAY_ADDRESS names


ENGINES = ("local", "ray")
NEAR = ["exact_duplicates", "near_duplicates"]
DEDUP = {"none": [], "exact": NEAR[:1], "near": NEAR, "semantic": NEAR}  # semantic: then by meaning, with a model
OWN = Path(trainers.__file__).parent / "evaluation" / "instruction_following" / "prompts.jsonl"
AT_HAND = ["at_hand", {"instruction_following": str(OWN)}]
# Said per source where there is a mixture.
PER_SOURCE = (
    *("data_files", "data_config", "options", "revision", "columns", "field", "license"),
    *("max_bad_fraction", "max_chars", "control_tokens"),
)


def check(args: BuildArguments) -> None:
    """What can be known to fail before anything is read."""
    if (args.builder is None) == (args.mixture is None):
        raise ConfigError("give either builder (and data_files), or mixture with its sources.")
    if args.builder is not None:
        check_name(args.builder)
    if args.mixture is not None:
        defaults = {field.name: field.default for field in dataclasses.fields(BuildArguments)}
        misplaced = [name for name in PER_SOURCE if getattr(args, name) != defaults[name]]
        if misplaced:
            raise ConfigError(f"{', '.join(misplaced)}: with mixture, this is said per source, in mixture: sources.")
    if args.dedup not in DEDUP:
        hint = did_you_mean(args.dedup, DEDUP)
        raise ConfigError(f"dedup: {args.dedup!r} is none of {', '.join(DEDUP)}.{hint}")
    if (args.dedup == "semantic") != (args.dedup_embed is not None):
        raise ConfigError(
            "dedup: semantic and dedup_embed go together; dedup_embed is a sentence-transformers model, such as "
            "sentence-transformers/all-MiniLM-L6-v2, or module:function."
        )
    if args.template and args.format != "text":
        raise ConfigError(f"template goes with format: text, not {args.format}.")
    if args.engine not in ENGINES:
        hint = did_you_mean(args.engine, ENGINES)
        raise ConfigError(f"engine: {args.engine!r} is none of {', '.join(ENGINES)}.{hint}")
    if args.engine == "ray":
        on_ray.check(steps(args), mixture=args.mixture)
    output.check(args, writes=not args.plan_only)


def steps(args: BuildArguments) -> list[str | dict]:
    """The transforms, then what the three keys stand for: the better rows of a cluster are known after the scores."""
    chosen = [*(args.transforms or [])]
    if args.quality != "none":
        chosen.append({"quality": {"preset": args.quality}})
    chosen += DEDUP[args.dedup]
    if args.dedup == "semantic":
        chosen.append({"semantic_duplicates": {"embed": args.dedup_embed}})
    if args.decontaminate not in ("none", []):
        chosen.append({"decontaminate": {"against": args.decontaminate or AT_HAND}})
    return chosen


def builder_options(args: BuildArguments) -> dict:
    """The builder's own fields."""
    shared = ("revision", "cache_dir", "columns", "field", "license", "strict", "max_bad_fraction", "max_chars")
    return {name: getattr(args, name) for name in (*shared, "control_tokens")} | (args.options or {})


def format_options(args: BuildArguments) -> dict | None:
    return {"template": Path(args.template).read_text(encoding="utf-8")} if args.template else None
