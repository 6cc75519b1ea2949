"""What the recipes that make a dataset share: the keys of its directory and of its repository on the Hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from instruct_builders import directory, formats, publish
from instruct_builders.errors import ConfigError
from instruct_builders.pipeline import Built


@dataclass(kw_only=True)
class OutputArguments:
    """How a dataset is split, written and published.

    Args:
        output_dir (`str`): The directory of the dataset.
        format (`str`, *optional*, defaults to `"messages"`): The columns that are written.
        test_size (`float` or `int`, *optional*, defaults to 0): A share or number of rows for the split test.
        seed (`int`, *optional*, defaults to 42): Of every draw.
        config_name (`str`, *optional*, defaults to `"default"`): What `load_dataset` calls this part of a repository.
        title (`str`, *optional*): Of the card.
        language (`list[str]`, *optional*): For the card, such as en de.
        license (`str`, *optional*): For the card, where the data does not say it.
        max_shard_size (`str`, *optional*, defaults to `"500MB"`): Largest Parquet file.
        cache_dir (`str`, *optional*): Where `datasets` keeps what it has read.
        overwrite (`bool`, *optional*, defaults to `False`): Whether an earlier build in output_dir is replaced.
        push_to_hub (`bool`, *optional*, defaults to `False`): Publish it; needs repo_id and HF_TOKEN.
        repo_id (`str`, *optional*): Such as org/name.
        tag (`str`, *optional*): Of the commit.
        private (`bool`, *optional*, defaults to `True`): Whether a new repository is private.
        replace (`bool`, *optional*, defaults to `False`): Whether a push may delete other configurations' data.
    """

    output_dir: str
    format: str = field(default="messages", metadata={"allowed": tuple(formats.FORMATS)})
    test_size: float | int = 0
    seed: int = 42
    config_name: str = "default"
    title: str | None = None
    language: list[str] | None = None
    license: str | None = None
    max_shard_size: str = "500MB"
    cache_dir: str | None = None
    overwrite: bool = False
    push_to_hub: bool = False
    repo_id: str | None = None
    tag: str | None = None
    private: bool = True
    replace: bool = False


def check(args: OutputArguments, writes: bool = True) -> None:
    """What can be known to fail before anything is read or asked; `writes` is false where only a plan is wanted."""
    formats.check_format(args.format, "format")
    if args.push_to_hub and not args.repo_id:
        raise ConfigError("push_to_hub needs repo_id: org/name.")
    if args.push_to_hub:
        publish.check_before(args.repo_id, tag=args.tag)
    if writes:
        directory.check_target(args.output_dir, args.config_name, args.max_shard_size, args.overwrite)


def write(args: OutputArguments, built: Built, pictures: dict[str, bytes], title: str | None = None) -> Path:
    """The built dataset as a directory; `title` where the YAML gives none."""
    return directory.write(
        args.output_dir,
        built.splits,
        built.build,
        built.rejected,
        max_shard_size=args.max_shard_size,
        overwrite=args.overwrite,
        repo_id=args.repo_id,
        title=args.title or title,
        languages=args.language,
        pictures=pictures,
    )


def push(args: OutputArguments, target: Path, **options) -> None:
    """The directory to the Hub, where that was asked for."""
    if not args.push_to_hub:
        return
    settings = {"private": args.private, "tag": args.tag, "replace": args.replace, **options}
    result = publish.publish(target, args.repo_id, **settings)
    done = "published" if result.committed else "already published"
    print(f"{done}: {result.url} at {result.commit}, {len(result.files)} files, private: {result.private}")
    print(f"deleted there: {result.deleted or 'nothing'}; left here: {result.left_out or 'nothing'}")
