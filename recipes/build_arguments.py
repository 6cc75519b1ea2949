"""The keys of recipes/build.py, and what can be known of them before a row is read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import output

import trainers
from instruct_builders import on_ray, records, transforms
from instruct_builders.errors import ConfigError, did_you_mean
from instruct_builders.loading import check_name


@dataclass(kw_only=True)
class BuildArguments(output.OutputArguments):
    """Keys of a data YAML. Those from `columns` to `control_tokens` are the builder's own.

    Args:
        builder (`str`, *optional*): alpaca, vicuna, flan or self_instruct; needed, or mixture.
        data_files (`str` or `list` or `dict`, *optional*): A file, folder, glob or Hub id, or these per split; bundled
            for the sample that ships with the package.
        options (`dict`, *optional*): Further fields of the builder's configuration, such as FLAN's tasks.
        mixture (`dict`, *optional*): Several builders in one dataset, instead of builder.
        plan_only (`bool`, *optional*, defaults to `False`): Print the mixture's plan and stop.
        data_config (`str`, *optional*): The configuration of a Hub dataset.
        revision (`str`, *optional*): Branch, tag or commit of a Hub dataset.
        columns (`dict`, *optional*): What our columns are called there, such as {output: response}.
        field (`str`, *optional*): Where in a JSON file the list of rows is.
        strict (`bool`, *optional*, defaults to `False`): Stop at the first row that can't be used.
        max_bad_fraction (`float`, *optional*, defaults to 0.01): Share of rows that may be rejected.
        max_chars (`int`, *optional*): Of a row; a longer one is rejected.
        control_tokens (`str`, *optional*, defaults to `"reject"`): Of rows that hold a chat format's tokens: or allow.
        transforms (`list`, *optional*): Steps, each a name or {name: {parameter: value}}.
        quality (`str`, *optional*, defaults to `"none"`): none, classic, default, or a preset's YAML file; runs after
            the transforms.
        dedup (`str` or `dict`, *optional*, defaults to `"none"`): none, exact, near, semantic; or
            {near: {by: instruction, threshold: 0.8}}.
        dedup_embed (`str`, *optional*): For dedup: semantic: a sentence-transformers model, or module:function.
        decontaminate (`list` or `dict` or `str`, *optional*): Evaluation sets: names, files, Hub ids, {name: FILE},
            {name: {file: FILE, columns: [...]}}; none; by default all at hand.
        template (`str`, *optional*): A Jinja chat template's file, for format: text.
        num_proc (`int`, *optional*): Processes.
        engine (`str`, *optional*, defaults to `"local"`): local, or ray: on the machines that RAY_ADDRESS names.
    """

    builder: str | None = None
    data_files: str | list | dict | None = None
    options: dict | None = None
    mixture: dict | None = None
    plan_only: bool = False
    data_config: str | None = None
    revision: str | None = None
    columns: dict | None = None
    field: str | None = None
    strict: bool = False
    max_bad_fraction: float = 0.01
    max_chars: int | None = None
    control_tokens: str = "reject"
    transforms: list | None = None
    quality: str = "none"
    dedup: str | dict = "none"
    dedup_embed: str | None = None
    decontaminate: list[str | dict] | dict | str | None = None
    template: str | None = None
    num_proc: int | None = None
    engine: str = "local"


ENGINES = ("local", "ray")
# Each kind runs those before it first: they are quicker, and leave it fewer rows.
DEDUP = {"exact": "exact_duplicates", "near": "near_duplicates", "semantic": "semantic_duplicates"}
# Rows that a template has made differ in a few words of the question: they stay unless the answers are alike as well.
SAFE = {"exact": {}, "near": {"by": "both"}, "semantic": {"by": "both"}}
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
    for step in dedup_steps(args):  # with no row: what is out of its range is said before any is read
        ((name, parameters),) = transforms.check([step])
        if name != DEDUP["semantic"]:
            transforms.TRANSFORMS[name](records.empty_table(records.RECORD), **parameters)
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
    chosen += dedup_steps(args)
    if args.decontaminate not in ("none", []):
        chosen.append({"decontaminate": {"against": args.decontaminate or AT_HAND}})
    return chosen


def dedup_steps(args: BuildArguments) -> list[dict]:
    """The steps that the key `dedup` stands for, with their parameters."""
    given = args.dedup if isinstance(args.dedup, dict) else {} if args.dedup == "none" else {args.dedup: None}
    if args.dedup != "none" and not given:
        raise ConfigError(f"dedup: {args.dedup!r} names no kind; they are none, {', '.join(DEDUP)}.")
    for kind, parameters in given.items():
        if kind not in DEDUP:
            hint = did_you_mean(str(kind), ["none", *DEDUP])
            raise ConfigError(f"dedup: {kind!r} is none of none, {', '.join(DEDUP)}.{hint}")
        if not isinstance(parameters, dict | None):
            raise ConfigError(
                f"dedup: {kind}: {parameters!r} is no mapping of parameters, such as {{near: {{threshold: 0.8}}}}."
            )
    kinds = list(DEDUP)[: max((list(DEDUP).index(kind) + 1 for kind in given), default=0)]
    chosen = {kind: {**SAFE[kind], **(given.get(kind) or {})} for kind in kinds}
    if "embed" in chosen.get("semantic", {}) and args.dedup_embed is not None:
        raise ConfigError("dedup: semantic: embed and dedup_embed are the same: give one of them.")
    if args.dedup_embed is not None and "semantic" in chosen:
        chosen["semantic"]["embed"] = args.dedup_embed
    if ("semantic" in chosen) != (args.dedup_embed is not None or "embed" in chosen.get("semantic", {})):
        raise ConfigError(
            "dedup: semantic and dedup_embed go together; dedup_embed is a sentence-transformers model, such as "
            "sentence-transformers/all-MiniLM-L6-v2, or module:function."
        )
    return [{DEDUP[kind]: parameters} for kind, parameters in chosen.items()]


def builder_options(args: BuildArguments) -> dict:
    """The builder's own fields."""
    shared = ("revision", "cache_dir", "columns", "field", "license", "strict", "max_bad_fraction", "max_chars")
    return {name: getattr(args, name) for name in (*shared, "control_tokens")} | (args.options or {})


def format_options(args: BuildArguments) -> dict | None:
    return {"template": Path(args.template).read_text(encoding="utf-8")} if args.template else None
