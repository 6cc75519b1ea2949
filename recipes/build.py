"""Raw instruction data -> a built dataset directory, and on request the Hub.

python recipes/build.py --config recipes/alpaca/data.yaml --data_files FILE_OR_HUB_ID --output_dir OUT
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import arguments

from instruct_builders import directory, pipeline, publish, quarantine
from instruct_builders.errors import ConfigError, did_you_mean
from instruct_builders.loading import BUILDERS


@dataclass
class BuildArguments:
    """Keys of a data YAML. Those from `columns` to `control_tokens` are the builder's own."""

    builder: str
    output_dir: str
    data_files: str | list | dict
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
    if args.builder not in BUILDERS:
        hint = did_you_mean(args.builder, BUILDERS)
        raise ConfigError(f"builder: no builder {args.builder!r}; there are {', '.join(BUILDERS)}.{hint}")
    if args.push_to_hub and not args.repo_id:
        raise ConfigError("push_to_hub needs repo_id: org/name.")
    if args.push_to_hub:
        publish.check_before(args.repo_id, tag=args.tag)
    directory.check_target(args.output_dir, args.config_name, args.max_shard_size, args.overwrite)
    if args.template and args.format != "text":
        raise ConfigError(f"template goes with format: text, not {args.format}.")
    options = {name: getattr(args, name) for name in OPTIONS}
    builder = BUILDERS[args.builder](args.data_files, config_name=args.data_config, format="record", **options)
    built = pipeline.build(
        builder,
        steps=args.transforms or [],
        format=args.format,
        test_size=args.test_size,
        seed=args.seed,
        num_proc=args.num_proc,
        config_name=args.config_name,
        strict=args.strict,
        format_options={"template": Path(args.template).read_text(encoding="utf-8")} if args.template else None,
    )
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
    )
    show(built, target)
    if args.push_to_hub:
        result = publish.publish(target, args.repo_id, private=args.private, tag=args.tag, replace=args.replace)
        done = "published" if result.committed else "already published"
        print(f"{done}: {result.url} at {result.commit}, {len(result.files)} files, private: {result.private}")
        print(f"deleted there: {result.deleted or 'nothing'}; left here: {result.left_out or 'nothing'}")
    return 0


def show(built: pipeline.Built, target) -> None:
    rows_in = sum(file["rows_in"] for file in built.build["sources"])
    rows_out = {name: len(split) for name, split in built.splits.items()}
    for step in built.build["steps"]:
        rejected = ", ".join(f"{reason} {count}" for reason, count in step["rejected"].items()) or "none"
        print(f"{step['name']}: changed {step['changed']:,}, rejected {rejected}, added {step['added']:,}")
    added = sum(step["added"] for step in built.build["steps"])
    print(
        f"rows in {rows_in:,}" + (f" + {added:,} added by splitting" if added else "") + " = "
        f"rows out {sum(rows_out.values()):,} ({', '.join(f'{name} {n:,}' for name, n in rows_out.items())})"
        f" + rejected {len(built.rejected):,}"
    )
    if built.rejected:
        print(f"rejected per reason: {quarantine.reasons(built.rejected)}; each in {target / 'rejected.jsonl'}")
        print(quarantine.describe(built.rejected))
    print(f'wrote {target}: load_dataset("{target}")')


if __name__ == "__main__":
    arguments.run(main)
