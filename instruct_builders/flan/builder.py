"""Flan: tasks, or files of an existing collection, as a `datasets` builder."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from datasets.builder import Key

from instruct_builders import ingest, quarantine, records, sources, validation
from instruct_builders.builder import COUNTS_FILE, InstructBuilder
from instruct_builders.errors import ConfigError, SourceError
from instruct_builders.flan import account, collection_files
from instruct_builders.flan.config import SETTINGS, FlanConfig
from instruct_builders.flan.prepare import Shard, divided, hold_out, open_table, read, together, with_tests, write
from instruct_builders.flan.render import render
from instruct_builders.flan.source_rows import Unit, columns_of, task_files
from instruct_builders.flan.task_files import find_tasks

logger = logging.getLogger(__name__)

EXAMPLES = "examples"  # folder of the tables between reading and rendering, inside the build's own
CHUNK_BYTES = 32 << 20  # of rendered text at a time, about
CHUNK_ROWS = 10_000


class Flan(InstructBuilder):
    """FLAN tasks from YAML files, or rows of an existing collection, rendered zero-shot or few-shot.

    Every record names its `task`, its `template` (`rte/3`, `gsm8k/cot-3`, `niv2/definition+2`, `p3/...`), in `parent`
    the question it asks, and in `meta` the settings: `category`, `kind`, `metric`, `setting`, `shots`,
    `option_style`, `inverted`, `cot`, and `answers` where several are accepted. The rows depend on the sources, the
    configuration and the seed, not on the number of processes.

    All renderings and variants of a question, such as other chains of thought or another order of its options, have
    one `parent`, so that a later split by it keeps them together.

    A task whose dataset is missing, has lost a column or has no row that can be used is left out and named in
    `left_out`, in the account as well; with `strict=True` it is an error. The account's `empty_splits` names the tasks
    that have no row in a split, with the reason; there is no split in which none has any.
    `max_bad_fraction` is about the other tasks' rows, and not about those that a budget filters out.

    Args:
        data_files (`str` or `list` or `dict`, *optional*): `"bundled"` for the sample rows of each task; the files
            of a collection; or files for one task instead of its own source, and for several `{task: files}`.
        config_name (`str`, *optional*), revision (`str`, *optional*): Of a collection on the Hub.
        cache_dir (`str`, *optional*): Where builds are kept.
        kwargs: Fields of [`FlanConfig`].

    Example:

    ```python
    >>> from instruct_builders import Flan
    >>> builder = Flan("bundled", tasks=["rte"], setting="fs_opt", seed=1)
    >>> builder.download_and_prepare()
    >>> builder.as_dataset(split="train")[0]["messages"]
    ```
    """

    BUILDER_CONFIG_CLASS = FlanConfig
    NAME = "flan"

    @classmethod
    def bundled(cls) -> str:
        return "bundled"

    def _find_sources(self, data_files, config_name, revision, options) -> None:
        if self.streaming:
            raise ConfigError(
                "flan: streaming=True is refused, since exemplars and held-out rows need whole tasks. Build it, and "
                "take dataset.to_iterable_dataset(): a built dataset is memory-mapped."
            )
        config = FlanConfig(**options)
        self._left_out: list[dict] = []
        if config.collection == "tasks":
            if config_name or revision:
                raise ConfigError("flan: config and revision of a task's dataset are in its file, under source.")
            units = [unit for task in self._tasks(config, data_files) for unit in self._task_unit(config, *task)]
        else:
            if data_files in (None, "bundled"):
                raise ConfigError(f"flan: collection={config.collection!r} needs data_files: its files or Hub id.")
            files = sources.resolve(data_files, config=config_name, revision=revision)
            units = [unit for file in files for unit in self._collection_units(config, file)]
        if not units:
            reasons = "\n".join(f"  {entry['task']}: {entry['reason']}" for entry in self._left_out[:5])
            raise SourceError(f"flan: none of {len(self._left_out)} tasks can be read. The first:\n{reasons}")
        units = collection_files.merged(units)
        if config.test_size:
            units = with_tests(units)
        self.units = units
        self.files = [file for unit in self.units for file in unit.files]
        self._task_of = {file.name: unit.task.name for unit in self.units for file in unit.files}
        self.fields = {"role", "content"}

    @staticmethod
    def _tasks(config: FlanConfig, data_files) -> list[tuple]:
        """`(task, its data_files)` of every task."""
        tasks = find_tasks(config.tasks)
        if data_files is None or data_files == "bundled":
            return [(task, data_files) for task in tasks]
        names = {task.name for task in tasks}
        if isinstance(data_files, Mapping) and set(data_files) <= names:
            return [(task, data_files.get(task.name)) for task in tasks]
        if len(tasks) > 1:
            raise ConfigError(
                f"flan: data_files replaces the source of one task, and there are {len(tasks)}; give {{task: files}}."
            )
        return [(tasks[0], data_files)]

    def _task_unit(self, config: FlanConfig, task, data_files) -> list[Unit]:
        try:
            files = task_files(task, data_files)
            return [Unit(task, tuple(files), tuple(columns_of(file, task, config.field) for file in files))]
        except SourceError as error:
            self._leave_out(config, task.name, error)
            return []

    def _collection_units(self, config: FlanConfig, file: sources.SourceFile) -> list[Unit]:
        try:
            return collection_files.units(file, config)
        except SourceError as error:
            self._leave_out(config, Path(file.name).name.split(".")[0], error)
            return []

    def _leave_out(self, config: FlanConfig, task: str, error: SourceError) -> None:
        if config.strict:
            raise SourceError(f"flan: strict=True, and the task {task} can't be read: {error}") from error
        self._left_out.append({"task": task, "reason": str(error)})

    @property
    def left_out(self) -> list[dict]:
        """`{"task", "reason"}` of every task that could not be read."""
        counts = Path(self._cache_dir) / COUNTS_FILE
        return self.account["left_out"] if counts.is_file() else self._left_out

    def _digest(self) -> str:
        digest = hashlib.sha256(super()._digest().encode())
        tasks = [[unit.task.name, unit.task.digest] for unit in self.units]
        digest.update(json.dumps([tasks, [entry["task"] for entry in self._left_out]]).encode())
        return digest.hexdigest()[:32]

    # What `datasets` calls.

    def _split_generators(self, dl_manager, num_proc: int = 1):
        folder = Path(self._output_dir) / EXAMPLES
        folder.mkdir()
        tables = self._examples(folder)
        known = sum(len(unit.files) for unit in self.units)
        generators = []
        for split in self._filled_splits(tables):
            groups = divided([table for table in tables if table.file.split == split], num_proc)
            for group in groups:
                for place, shard in enumerate(group):
                    group[place] = replace(shard, index=known)
                    known += 1
            generators.append(datasets.SplitGenerator(name=split, gen_kwargs={"shards": groups}))
        return generators

    def _examples(self, folder: Path) -> list[Shard]:
        """Reads every task and writes its examples to the folder; one shard per file, in the order of `units`."""
        tables: dict[int, list[Shard]] = {}
        self._without_rows: set[str] = set()
        indices = np.cumsum([0, *(len(unit.files) for unit in self.units)]).tolist()
        for group in together(self.units, self.config):
            found = {}
            for number in group:
                try:
                    found[number] = read(self.units[number], self.config)
                except SourceError as error:
                    self._leave_out(self.config, self.units[number].task.name, error)
            hold_out([(self.units[number], parts) for number, parts in found.items()], self.config)
            for number, parts in found.items():
                unit = self.units[number]
                tables[number], lines, counts = write(unit, parts, self.config, folder / f"{number:06d}")
                for index, (file, count, rejected) in enumerate(zip(unit.files, counts, lines, strict=True)):
                    self._quarantine(Shard(file, indices[number] + index), rejected)
                    self._write_counts(count, indices[number] + index)
                if not any(table.stop for table in tables[number]):
                    self._left_out.append({"task": unit.task.name, "reason": account.nothing_left(counts)})
                    self._without_rows.add(unit.task.name)
        return [table for number in sorted(tables) for table in tables[number]]

    def _filled_splits(self, tables: list[Shard]) -> list[str]:
        """The splits in which a task has a row; another one is left out with a warning, but for `train`.

        Raises:
            SourceError: If there is a training file, or nothing else, and no row to train on.
        """
        filled = dict.fromkeys(table.file.split for table in tables if table.stop)
        asked = any(file.split == "train" for file in self.files)
        if "train" not in filled and (asked or not filled):
            reasons = "\n".join(f"  {entry['task']}: {entry['reason']}" for entry in self._left_out[:5])
            raise SourceError(f"flan: no task has a row to train on. Left out are {len(self._left_out)}:\n{reasons}")
        for split in dict.fromkeys(table.file.split for table in tables):
            if split not in filled:
                logger.warning("flan: no task has a row for the split %r, so there is no such split.", split)
        return list(dict.fromkeys(table.file.split for table in tables if table.file.split in filled))

    def _generate_tables(self, shards: list[list[Shard]]) -> Iterator[tuple[Key, pa.Table]]:
        for position, shard in enumerate(shard for group in shards for shard in group):
            counts = {"rows_in": 0, "added": 0, "rows_out": 0}
            rejected: Counter[str] = Counter()
            examples, pool = open_table(shard.path, shard.start, shard.stop), open_table(shard.pool)
            per_row = self.config.templates_per_row
            many = len(shard.task.templates) if per_row == "all" else per_row
            weight = examples.nbytes // max(len(examples), 1) * (1 + self.config.shot_range[1]) * many
            size = min(max(CHUNK_BYTES // max(weight, 1), 1), CHUNK_ROWS)
            for number, start in enumerate(range(0, max(len(examples), 1), size)):
                table, lines, added = self._rendered(shard, examples.slice(start, size), pool)
                counts["rows_out"] += len(table)
                counts["added"] += added
                rejected.update(line["reason"] for line in lines)
                self._quarantine(shard, lines)
                yield Key(position, number), self._output(table)
            count = {"file": shard.file.name, "split": shard.file.split, **counts, "rejected": dict(rejected)}
            quarantine.check_account(count | {"rows_in": len(examples)}, shard.file.name)
            self._write_counts(count, shard.index)

    def _rendered(self, shard: Shard, examples: pa.Table, pool: pa.Table) -> tuple[pa.Table, list[dict], int]:
        """Records of some examples, the lines of `rejected.jsonl`, and how many more renderings there were."""
        examples = examples.combine_chunks()
        table, verdict, example = render(shard.task, examples, pool, self.config)
        table = ingest.with_provenance(table, shard.file, self.config.license).append_column("rejected", verdict)
        tokens = validation.SPECIAL_TOKENS if self.config.control_tokens == "reject" else ()
        verdict = validation.validate(table, special_tokens=tokens, max_chars=self.config.max_chars)
        rows = examples["_row"].to_numpy()[example] - shard.base
        table = table.select(records.RECORD.names).append_column(ingest.ROW, pa.array(rows))
        good, bad = quarantine.split_rejected(table.append_column("rejected", verdict))
        lines = quarantine.rejected_rows(
            bad.drop_columns("row"),
            stage="validate",
            split=shard.file.split,
            file=shard.file.name,
            places={"row": bad["row"].to_numpy()},
        )
        return good, lines, len(example) - len(examples)

    def _write_counts(self, counts: dict, index: int) -> None:
        part = Path(self._output_dir) / f"counts-{counts['split']}-{index:09d}.json"
        part.write_text(json.dumps(counts), encoding="utf-8")

    def _merged(self, parts: list[dict]) -> dict:
        files = account.merged(parts, self._task_of)
        return {
            "files": files,
            "left_out": self._left_out,
            "empty_splits": account.empty_splits(files, self._without_rows),
            "settings": {name: getattr(self.config, name) for name in SETTINGS},
        }

    def _check_fraction(self, read: dict, lines: list[dict]) -> None:
        """As the base does, but a budget is a filter, and a task that is left out has its reason said already."""
        files = [entry for entry in read["files"] if entry["task"] not in self._without_rows]
        if any(entry["rows_out"] for entry in files):
            wanted = {entry["file"] for entry in files}
            lines = [line for line in lines if line["file"] in wanted and line["reason"] != "over_budget"]
        super()._check_fraction(read | {"files": files}, lines)

    def _download_and_prepare(self, dl_manager, verification_mode, **prepare_split_kwargs):
        super()._download_and_prepare(dl_manager, verification_mode, **prepare_split_kwargs)
        shutil.rmtree(Path(self._output_dir) / EXAMPLES)
        for name in [name for name, split in self.info.splits.items() if not split.num_examples]:
            if name == "train":
                raise SourceError(
                    "flan: no row to train on is left once prompts are held to their budget and checked."
                )
            logger.warning("flan: no row of the split %r is left, so there is no such split.", name)
            del self.info.splits[name]  # `datasets` can't open a split without rows
