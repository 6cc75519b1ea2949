"""The same build on many machines: `engine: ray` in recipes/build.py.

The rows, the splits, the account and the rejected rows are those of [`pipeline.build`] and [`directory.write`], in the
same order; tests/builders/test_on_ray.py compares them. Sources are cut into blocks, Ray Data runs the builder's own
reader and the transforms on them, and brings rows together that have to be compared, by its group-by. Only hashes,
sets of hashes and places travel; the rows stay in their block's file in the work folder beside the output.

What the driver holds: an id per evaluation question and held-out row, 16 bytes per pair of near duplicates with what
is known of their rows, and for `test_size` about 100 bytes per conversation.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from .. import __version__, cards, directory, formats, pipeline, quarantine, report, report_numbers
from ..builder import InstructBuilder, code_digest
from ..errors import BuildError, ConfigError, own_error
from . import cluster, reading, splitting, work, writing
from . import steps as stepping

REPORTED = 2_000_000  # rows and rejected rows, at most, of which the driver makes report.html: it has to hold them


class Lines(Sequence):
    """The lines of a `rejected.jsonl`, read when they are asked for: they may be more than fit memory."""

    def __init__(self, path: Path, count: int):
        self.path, self.count = path, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict]:
        return quarantine.read_lines(self.path)

    def __getitem__(self, index):
        if isinstance(index, slice) and not index.start and index.step in (None, 1) and (index.stop or -1) >= 0:
            return work.first_lines([self.path], index.stop)
        return list(self)[index]


@dataclass(frozen=True)
class Written:
    """A directory that is finished, and what there is to say about it.

    Args:
        target (`Path`): The directory.
        splits (`dict[str, range]`): Split name -> the numbers of its rows.
        build (`dict`): What `build.json` holds.
        rejected (`Lines`): The lines of `rejected.jsonl`.
    """

    target: Path
    splits: dict[str, range]
    build: dict
    rejected: Lines


def check(steps: Sequence[str | dict] = (), *, mixture: dict | None = None) -> None:
    """What Ray can't do, said before anything is read.

    Raises:
        ConfigError: If the steps are wrong, or one is not to be had here; if there is a mixture; or without Ray.
    """
    if mixture:
        raise ConfigError(
            "engine: ray has no mixture, whose draw needs all rows on one machine: build each source with engine: "
            "ray, and mix what they leave with engine: local."
        )
    cluster.check_installed()
    stepping.check(steps)


def build(
    builder: InstructBuilder,
    output_dir: str | os.PathLike,
    *,
    steps: Sequence[str | dict] = (),
    format: str = "messages",
    test_size: float | int = 0,
    seed: int = 42,
    num_proc: int | None = None,
    config_name: str = "default",
    strict: bool = False,
    format_options: dict | None = None,
    max_shard_size: str | int = "500MB",
    overwrite: bool = False,
    repo_id: str | None = None,
    title: str | None = None,
    languages: list[str] | None = None,
) -> Written:
    """[`pipeline.build`] and [`directory.write`] in one, on the Ray cluster that `RAY_ADDRESS` names.

    Args:
        builder ([`InstructBuilder`]): Constructed with `format="record"`.
        output_dir (`str`): The directory to make; every machine must see it, and the sources.
        num_proc (`int`, *optional*): Cores, where no cluster is named and one is started on this machine.
        kwargs: All others as for [`pipeline.build`] and [`directory.write`].

    Raises:
        ConfigError: For what can't be done, before anything is read; see [`check`].
        BuildError: As [`directory.write`] and [`pipeline.build`] do. `output_dir` is as it was then.
    """
    formats.check_format(format, "format")
    check(steps)
    if (num_proc is not None and num_proc < 1) or seed < 0:
        raise ConfigError(
            f"num_proc={num_proc}, seed={seed}: 1 or more processes, and a seed of 0 or more are allowed."
        )
    target = Path(os.path.abspath(output_dir))
    directory.check_target(target, config_name, max_shard_size, overwrite)
    folder, staging = Path(f"{target}.ray-work"), Path(f"{target}.incomplete")
    with cluster.session(num_proc), FileLock(target.with_name(f".{target.name}.lock")):
        directory.refuse_to_clobber(target, overwrite)  # again: somebody else may have held the lock
        for leftover in (folder, staging):  # of a build that was killed: we hold its lock
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            folder.mkdir(parents=True)
            (staging / config_name).mkdir(parents=True)
            rows, tests, names, account = _made(builder, str(folder), steps, test_size, seed, num_proc, strict)
            converted = writing.convert(rows, tests, names, format, format_options or {})
            infos = writing.write(converted, rows, staging / config_name, max_shard_size)
            own = {"format": format, "config_name": config_name, "seed": seed, "test_size": test_size}
            told = _account(builder, account, converted, own)
            shown = {"repo_id": repo_id or f"./{target.name}", "title": title, "languages": languages}
            told = _finish(staging, told, converted, infos, folder, shown)
            directory.swap(staging, target)
        except BaseException as error:
            shutil.rmtree(staging, ignore_errors=True)
            raise own_error(error, target) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    splits = {name: range(count) for name, count in told["splits"].items()}
    return Written(target, splits, told, Lines(target / "rejected.jsonl", sum(told["rejected"].values())))


def _made(builder, folder: str, steps, test_size, seed, num_proc, strict) -> tuple:
    """Reads, transforms and splits: rows, places of the test rows, names of splits, and what was counted."""
    rows, account = reading.read(builder, folder, num_proc)
    names = list(dict.fromkeys(rows.splits[block] for block in rows.blocks))
    rows, counts = stepping.run(rows, steps)
    dropped = sum(sum(step["rejected"].values()) for step in counts)
    if strict and dropped:
        first = work.first_lines(work.line_files(folder, 1), 5)
        shown = quarantine.describe(first) + (f"\n  and {dropped - 5} more" if dropped > 5 else "")
        raise BuildError(f"strict: transforms rejected {dropped} rows, the first:\n{shown}")
    rows, leaked = splitting.without_leaks(rows, len(steps) + 1)
    rejected = Counter(leaked)
    for entry in [*account["files"], *counts]:
        rejected.update(entry["rejected"])
    if not len(rows):
        lines = quarantine.describe(work.first_lines(work.line_files(folder), rejected.total()))
        raise BuildError(f"no row is left after {rejected.total()} were rejected, the first:\n{lines}")
    tests = np.empty(0, np.int64)
    if test_size:
        if "test" in names or "train" not in names:
            pipeline.with_test(dict.fromkeys(names), test_size, seed)  # says what is wrong
        tests = splitting.test_rows(rows, test_size, seed)
        names.append("test")
    return rows, tests, names, {**account, "steps": counts, "rejected": dict(sorted(rejected.items()))}


def _account(builder: InstructBuilder, account: dict, converted: writing.Converted, own: dict) -> dict:
    """The account of the build, as [`pipeline.build`] and [`directory.write`] make it, and the engine's name."""
    read = SimpleNamespace(files=builder.files, config=builder.config, account=account)
    told = {
        "builder": builder.NAME,
        "format": own["format"],
        "config_name": own["config_name"],
        "license": pipeline.license_of([pa.table({"license": pa.array(list(converted.licenses), pa.string())})]),
        "sources": pipeline.sources_of(read),
        "options": {name: getattr(builder.config, name) for name in pipeline.OPTIONS},
        **{key: account[key] for key in ("left_out", "empty_splits", "settings") if key in account},
        "steps": account["steps"],
        "seed": own["seed"],
        "test_size": own["test_size"],
        "versions": {"instruct_builders": __version__, "datasets": datasets.__version__, "pyarrow": pa.__version__},
        "code": code_digest(),
        "engine": "ray",
        "splits": {name: sum(size for _, size in parts) for name, parts in converted.parts.items()},
        "rejected": account["rejected"],
    }
    directory.check_account(told)
    return told


def _finish(staging: Path, told: dict, converted: writing.Converted, infos, folder: Path, shown: dict) -> dict:
    """Everything in the directory but the shards; the account as it is in `build.json`."""
    config = told["config_name"]
    rejected = staging / "rejected.jsonl"
    writing.join_lines(work.line_files(str(folder)), rejected)
    files = {name: sorted((staging / config).glob(f"{name}-*-of-*.parquet")) for name in told["splits"]}
    info = datasets.DatasetInfo(
        features=converted.features,
        splits=infos,
        download_size=sum(path.stat().st_size for paths in files.values() for path in paths),
        dataset_size=sum(split.num_bytes for split in infos.values()),
        config_name=config,
    )
    told |= {"title": shown["title"]} if shown["title"] else {}
    pictures = {}
    if sum(told["splits"].values()) + sum(told["rejected"].values()) <= REPORTED:
        splits = {name: datasets.Dataset(_table(paths, info), info=info) for name, paths in files.items()}
        lines = list(quarantine.read_lines(rejected))
        told["report"] = report_numbers.measure(told, splits, lines)
        pictures = report.pictures(told)
        (staging / report.NAME).write_text(report.render(told, splits, lines), encoding="utf-8")
    names = {caption: f"picture-{number}.png" for number, caption in enumerate(pictures, 1)}
    for caption, name in names.items():
        (staging / name).write_bytes(pictures[caption])
    first = pq.ParquetFile(next(iter(files.values()))[0])
    row = pa.Table.from_batches([next(first.iter_batches(1))]).cast(info.features.arrow_schema)
    card = cards.dataset_card(told, info, datasets.Dataset(row, info=info)[0], **shown, pictures=names)
    (staging / "README.md").write_text(card, encoding="utf-8")
    (staging / directory.BUILD_FILE).write_text(report.as_json(told), encoding="utf-8")
    return told


def _table(paths: list[Path], info: datasets.DatasetInfo) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in paths]).cast(info.features.arrow_schema)
