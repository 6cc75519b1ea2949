"""A built dataset is a directory that is a Hub repository: Parquet, README.md with its pictures, and build.json.

The same directory serves `datasets.load_dataset("./out")`, one upload, and `datasets.load_dataset("org/name")`. Beside
lie `rejected.jsonl` and `report.html`, which quote rows that no check has passed, and stay here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import datasets
import pyarrow as pa
from datasets.utils.py_utils import convert_file_size_to_int
from filelock import FileLock

from . import cards, quarantine, report, report_numbers
from .errors import BuildError, ConfigError, own_error

BUILD_FILE = report.BUILD_FILE


def write(
    output_dir: str | os.PathLike,
    splits: dict[str, datasets.Dataset],
    build: dict,
    rejected: Iterable[dict] = (),
    *,
    max_shard_size: str | int = "500MB",
    overwrite: bool = False,
    repo_id: str | None = None,
    title: str | None = None,
    languages: list[str] | None = None,
    pictures: dict[str, bytes] | None = None,
) -> Path:
    """Writes a built dataset in one step: either the whole directory is there afterwards, or it is as it was.

    Args:
        output_dir (`str`): The directory to make.
        splits (`dict`): Split name -> dataset, all with the same columns. Columns that are null throughout are left
            out.
        build (`dict`):
            What was done: `builder`, `format`, `config_name`, `license`, `sources` (`source`, `license`, `split`,
            `rows_in`, `rows_out` per file), `steps`, `seed`, `versions`. `splits`, `rejected`, `report` (the
            numbers of `report.html`) and `title` are added here.
        rejected (`Iterable[dict]`): The lines of `rejected.jsonl`.
        max_shard_size (`str` or `int`, *optional*, defaults to `"500MB"`): Largest Parquet file, in Arrow bytes.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to replace an earlier build in `output_dir`.
        repo_id (`str`, *optional*), title (`str`, *optional*), languages (`list[str]`, *optional*): For the card.
        pictures (`dict[str, bytes]`, *optional*): Caption -> PNG; shown in the card, before those of the report.

    Raises:
        BuildError: If nothing is left, the directory is taken, the disk is full, or the counts don't add up.
    """
    target = Path(os.path.abspath(output_dir))
    if any(split.features != next(iter(splits.values())).features for split in splits.values()):
        different = {name: split.column_names for name, split in splits.items()}
        raise BuildError(f"{target}: all splits of a configuration need the same columns and types, not {different}.")
    if not sum(len(split) for split in splits.values()):
        raise BuildError(f"{target}: no row is left to write. rejected.jsonl of the builder says why.")
    check_target(target, build["config_name"], max_shard_size, overwrite)
    with FileLock(target.with_name(f".{target.name}.lock")):
        refuse_to_clobber(target, overwrite)  # again: somebody else may have held the lock
        staging = Path(f"{target}.incomplete")
        shutil.rmtree(staging, ignore_errors=True)  # of a build that was killed: we hold its lock
        try:
            shown = {"repo_id": repo_id, "title": title, "languages": languages, "pictures": pictures or {}}
            _fill(staging, splits, build, rejected, max_shard_size, **shown)
            swap(staging, target)
        except BaseException as error:
            # Only under the lock: whoever is interrupted while waiting must not delete another's half-built folder.
            shutil.rmtree(staging, ignore_errors=True)
            raise own_error(error, target) from error
    return target


def check_writable(folder: Path) -> None:
    """Raises a `BuildError` where no file can be made in `folder`: a lock file would be waited for without end."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BuildError(f"{folder} can't be written to: {error.strerror}. Give another folder.") from error


def check_target(
    output_dir: str | os.PathLike, config_name: str = "default", max_shard_size: str | int = "500MB", overwrite=False
) -> None:
    """What can be known to fail before anything is read; [`write`] asks it again.

    Raises:
        ConfigError: For a configuration's name that is no folder's, or a size that is none.
        BuildError: For a directory that is taken or can't be written to.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", config_name) or config_name == "data":
        raise ConfigError(
            f"config_name={config_name!r}: letters, digits, '_', '-' and '.' are allowed, but not 'data'."
        )
    try:
        size = convert_file_size_to_int(max_shard_size)
    except ValueError:
        size = 0
    if size < 1:
        raise ConfigError(f"max_shard_size={max_shard_size!r}: a size such as '500MB' is allowed.")
    target = Path(os.path.abspath(output_dir))
    check_writable(target.parent)
    refuse_to_clobber(target, overwrite)


def refuse_to_clobber(target: Path, overwrite: bool) -> None:
    """Raises unless `target` is free, or an earlier build, and nothing else, that may be replaced."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not target.is_dir() or not (target / BUILD_FILE).is_file():
        raise BuildError(f"{target} exists and was not built by this package: give another output_dir.")
    if not overwrite:
        raise BuildError(
            f"{target} holds an earlier build: overwrite=True (--overwrite) replaces it, or give another output_dir."
        )
    config = json.loads((target / BUILD_FILE).read_text(encoding="utf-8"))["config_name"]
    own = {"README.md", BUILD_FILE, "rejected.jsonl", report.NAME}
    names = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    written = rf"{re.escape(config)}/[^/]+\.parquet|picture-\d+\.png"
    foreign = sorted(name for name in names - own if not re.fullmatch(written, name))
    if foreign:
        raise BuildError(
            f"{target} holds files that the earlier build did not write ({', '.join(foreign[:5])}): overwrite would "
            "delete them. Move them away, or give another output_dir."
        )


def _fill(staging, splits, build, rejected, max_shard_size, *, repo_id, title, languages, pictures) -> None:
    config = build["config_name"]
    folder = staging / config
    folder.mkdir(parents=True)
    empty = all_null_columns(splits.values())
    splits = {name: split.remove_columns(empty) for name, split in splits.items() if len(split)}
    infos = datasets.SplitDict()
    download_size = 0
    for name, split in splits.items():
        size = split.with_format("arrow")[:].nbytes if len(split) else 0
        shards = max(1, -(-size // convert_file_size_to_int(max_shard_size)))
        for index in range(shards):
            path = folder / f"{name}-{index:05d}-of-{shards:05d}.parquet"
            split.shard(shards, index, contiguous=True).to_parquet(path)
            download_size += path.stat().st_size
        infos.add(datasets.SplitInfo(name, num_bytes=size, num_examples=len(split)))
    lines = list(rejected)
    build = {**build, "splits": {name: len(split) for name, split in splits.items()}}
    build["rejected"] = quarantine.reasons(lines)
    build |= {"title": title} if title else {}
    check_account(build)
    build["report"] = report_numbers.measure(build, splits, lines)
    pictures = {**pictures, **report.pictures(build)}
    features = next(iter(splits.values())).features
    total = sum(info.num_bytes for info in infos.values())
    info = datasets.DatasetInfo(
        features=features, splits=infos, download_size=download_size, dataset_size=total, config_name=config
    )
    example = next(iter(splits.values()))[0]
    names = {caption: f"picture-{number}.png" for number, caption in enumerate(pictures, 1)}
    for caption, name in names.items():
        (staging / name).write_bytes(pictures[caption])
    card = cards.dataset_card(
        build, info, example, repo_id=repo_id or f"./{staging.stem}", title=title, languages=languages, pictures=names
    )
    (staging / "README.md").write_text(card, encoding="utf-8")
    (staging / BUILD_FILE).write_text(report.as_json(build), encoding="utf-8")
    (staging / report.NAME).write_text(report.render(build, splits, lines), encoding="utf-8")
    quarantine.write_lines(staging / "rejected.jsonl", lines)


def check_account(build: dict) -> None:
    """Rows in, plus those that splitting added, are rows out plus rejected: over the whole build.

    A mixture also repeats rows and leaves some undrawn.
    """
    mixture = build.get("mixture", {"repeated": 0, "not_drawn": 0})
    added = sum(entry.get("added", 0) for entry in [*build["sources"], *build["steps"]])
    quarantine.check_account(
        {
            "rows_in": sum(file["rows_in"] for file in build["sources"]),
            "added": added + mixture["repeated"] - mixture["not_drawn"],
            "rows_out": sum(build["splits"].values()),
            "rejected": build["rejected"],
        },
        "the whole build",
    )


def all_null_columns(splits: Iterable[datasets.Dataset]) -> list[str]:
    """Columns without a single value in any split."""
    tables = [split.with_format("arrow")[:] for split in splits]

    def is_empty(column: pa.ChunkedArray) -> bool:
        return column.null_count == len(column)

    names = tables[0].column_names
    return [name for name in names if all(is_empty(table[name]) for table in tables)]


def swap(staging: Path, target: Path) -> None:
    """Puts the new directory in place of the old; after a kill between the renames the old one lies in `.old`."""
    old = Path(f"{target}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)
