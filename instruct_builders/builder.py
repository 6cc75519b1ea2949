"""InstructBuilder: a `datasets` builder with an honest cache key, a quarantine, and a build that survives a kill.

`datasets` names its cache after the module and skips a rebuild when code or a local file changed, and the folder of a
killed build leaks its rows into the next one. Here the cache key holds the code, the bytes of the sources and the
configuration, and a leftover is removed before a build starts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import logging
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import datasets
import pyarrow as pa
from datasets.builder import Key
from filelock import FileLock

from . import directory, formats, ingest, quarantine, reader, records, sources
from .builder_config import InstructConfig
from .errors import ConfigError, SourceError, TooManyRejected, did_you_mean, own_error

logger = logging.getLogger(__name__)

REJECTED_FILE = "rejected.jsonl"
COUNTS_FILE = "counts.json"
TAKE = {  # format -> what reads it
    "alpaca": "Take the builder alpaca.",
    "sharegpt": "Take the builder vicuna.",
    "messages": "Take the builder vicuna.",
    "prompt_completion": "Take alpaca with columns={'instruction': 'prompt', 'output': 'completion'}.",
}


@dataclass(frozen=True)
class Shard:
    """A byte range of one source file; what one worker reads."""

    file: sources.SourceFile
    index: int
    start: int = 0
    stop: int | None = None


@lru_cache(maxsize=1)
def code_digest() -> str:
    """sha256 over this package's Python files: an edited reader or format makes a new cache folder."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class InstructBuilder(datasets.ArrowBasedBuilder):
    """Base of [`Alpaca`], [`Vicuna`] and [`Flan`]: sources -> records -> the columns of one format.

    A subclass names what it reads in `SOURCE_FORMATS`. Construction resolves and digests the sources, so that two
    builders share a cache folder only if code, bytes and configuration are the same.

    Args:
        data_files (`str` or `list` or `dict`): As in [`instruct_builders.sources.resolve`].
        config_name (`str`, *optional*): The configuration of a Hub dataset.
        revision (`str`, *optional*): Branch, tag or commit of a Hub dataset.
        cache_dir (`str`, *optional*, defaults to the cache of `datasets`): Where builds are kept.
        streaming (`bool`, *optional*, defaults to `False`): Leave Hub files on the Hub; for `as_streaming_dataset`.
        kwargs: Fields of `BUILDER_CONFIG_CLASS`.

    Raises:
        ConfigError: For an unknown or impossible option.
        SourceError: For a source that is not there or holds rows of another format.
    """

    BUILDER_CONFIG_CLASS = InstructConfig
    SOURCE_FORMATS: tuple[str, ...] = ()
    NAME = ""

    def __init__(self, data_files=None, *, config_name=None, revision=None, cache_dir=None, streaming=False, **kwargs):
        allowed = [field.name for field in dataclasses.fields(self.BUILDER_CONFIG_CLASS)]
        for key in kwargs:
            if key not in allowed:
                raise ConfigError(f"{self.NAME}: unknown option {key!r}.{did_you_mean(key, allowed)}")
        if data_files == "bundled":
            data_files = self.bundled()
        cache = str(cache_dir or datasets.config.HF_DATASETS_CACHE)
        if "://" not in cache:
            directory.check_writable(Path(cache))
        self.streaming = streaming
        self._find_sources(data_files, config_name, revision, kwargs)
        super().__init__(
            cache_dir=cache_dir,
            dataset_name=self.NAME,
            config_name=config_name or "default",
            hash=self._digest(),
            **kwargs,
        )

    @classmethod
    def bundled(cls) -> str:
        """Path of the sample that ships with the package for this builder."""
        raise ConfigError(f"{cls.NAME}: no sample ships with the package; give data_files.")

    def _find_sources(self, data_files, config_name: str | None, revision: str | None, options: dict) -> None:
        """Sets `files`, and what the rows of them look like; `options` are the given fields of the configuration."""
        self.files = sources.resolve(data_files, config=config_name, revision=revision, streaming=self.streaming)
        columns = options.get("columns") or {}
        self.source_format, self.read_schema = self._detect(columns, options.get("field"))
        self.fields = ingest.fields_in_use(self.files, self.source_format, self.streaming, columns)

    def _digest(self) -> str:
        digest = hashlib.sha256(code_digest().encode())
        own_file = inspect.getsourcefile(type(self))  # a subclass outside this package counts as well
        digest.update(Path(own_file).read_bytes() if own_file and Path(own_file).is_file() else b"")
        digest.update(type(self).__qualname__.encode())
        read = [[file.name, file.split, file.digest, file.license] for file in self.files]
        digest.update(json.dumps(read).encode())
        return digest.hexdigest()[:32]

    def _detect(self, columns: dict[str, str], field: str | None) -> tuple[str, pa.Schema]:
        """The format of the sources and the schema to read them with, told by the first good row."""
        theirs = {value: key for key, value in columns.items()}
        for file in self.files:
            row = reader.peek(file.path, name=file.name, field=field)
            if row is None:
                continue
            named = ", ".join(map(str, row)) or "none"
            row = {theirs.get(key, key): value for key, value in row.items()}
            as_text = [name for name in ("conversations", "messages") if isinstance(row.get(name), str)]
            if as_text:
                raise SourceError(
                    f"{file.name}: {as_text[0]} is text, and turns are a list: CSV holds flat formats only (alpaca, "
                    "prompt_completion, text). Use JSON, JSON Lines or Parquet for conversations."
                )
            found = formats.detect(row)
            if found not in self.SOURCE_FORMATS:
                raise SourceError(
                    f"{file.name}: the first row has the columns {named}: that is "
                    f"{found or 'no format known here'}, and {self.NAME} reads {' or '.join(self.SOURCE_FORMATS)}. "
                    + TAKE.get(found, "Map other names with columns={'ours': 'theirs'}.")
                )
            schema = formats.native_schema(found, row)
            for name in set(columns) - set(schema.names):
                raise ConfigError(
                    f"columns: {name} is no column of {found}; there are {', '.join(schema.names)}."
                    f"{did_you_mean(name, schema.names)}"
                )
            return found, pa.schema([column.with_name(columns.get(column.name, column.name)) for column in schema])
        raise SourceError(f"{self.NAME}: no row at all in {', '.join(file.name for file in self.files)}.")

    def _info(self) -> datasets.DatasetInfo:
        empty = self._output(records.empty_table(records.RECORD.append(ingest.ROW)))
        return datasets.DatasetInfo(features=datasets.Features.from_arrow_schema(empty.schema))

    def _output(self, table: pa.Table) -> pa.Table:
        """Records -> the columns of the configured format, provenance kept."""
        if self.config.format == "record":
            return table
        unused = [ingest.ROW.name, *(name for name in ("context", "tools") if name not in self.fields)]
        for name in unused[1:]:  # a key that is spelled with escapes hides from the search that found the fields
            if table[name].null_count < len(table):
                raise SourceError(f"{self.NAME}: {name} has values, but the sources' bytes do not name it as such.")
        table = table.drop_columns(unused)
        fields = [name for name in records.MESSAGE_FIELDS if name in self.fields]
        table = formats.from_record(table, self.config.format, message_fields=fields)
        return table.select(["id", *(name for name in table.column_names if name != "id")])

    # What `datasets` calls.

    def _make_split_generators_kwargs(self, prepare_split_kwargs):
        return {"num_proc": prepare_split_kwargs.get("num_proc") or 1}

    def _split_generators(self, dl_manager, num_proc: int = 1):
        generators = []
        for split in dict.fromkeys(file.split for file in self.files):
            files = [file for file in self.files if file.split == split]
            pieces = 1 if self.streaming else -(-num_proc // len(files))  # one JSONL file still feeds every worker
            ranges = [(file, piece) for file in files for piece in reader.ranges(file.path, pieces)]
            shards = [Shard(file, index, *piece) for index, (file, piece) in enumerate(ranges)]
            generators.append(datasets.SplitGenerator(name=split, gen_kwargs={"shards": shards}))
        return generators

    def _generate_tables(self, shards: list[Shard]) -> Iterator[tuple[Key, pa.Table]]:
        for position, shard in enumerate(shards):
            counts = {"file": shard.file.name, "split": shard.file.split, "rows_in": 0, "rows_out": 0}
            rejected: Counter[str] = Counter()
            for number, chunk in enumerate(self._chunks(shard)):
                table, lines = ingest.records_of(chunk, shard.file, self.source_format, self.config)
                counts["rows_in"] += len(chunk.table) + len(chunk.rejected)
                counts["rows_out"] += len(table)
                rejected.update(line["reason"] for line in lines)
                self._quarantine(shard, lines)
                yield Key(position, number), self._output(table)
            counts["rejected"] = dict(rejected)
            quarantine.check_account(counts, shard.file.name)
            if not self.streaming:
                part = Path(self._output_dir) / f"counts-{shard.file.split}-{shard.index:09d}.json"
                part.write_text(json.dumps(counts), encoding="utf-8")

    def _chunks(self, shard: Shard) -> Iterator[reader.Chunk]:
        return reader.read(
            shard.file.path,
            self.read_schema,
            name=shard.file.name,
            start=shard.start,
            stop=shard.stop,
            max_row_bytes=self.config.max_row_bytes,
            field=self.config.field,
        )

    def _quarantine(self, shard: Shard, lines: list[dict]) -> None:
        if lines and self.config.strict:
            first = quarantine.describe(lines, limit=1).strip()
            raise TooManyRejected(f"{self.NAME}: strict=True, and a row was rejected: {first}")
        if self.streaming:
            for line in lines:
                logger.warning("%s: %s", self.NAME, quarantine.describe([line]).strip())
        else:
            part = Path(self._output_dir) / f"rejected-{shard.file.split}-{shard.index:09d}.jsonl"
            quarantine.write_lines(part, lines)

    def _download_and_prepare(self, dl_manager, verification_mode, **prepare_split_kwargs):
        super()._download_and_prepare(dl_manager, verification_mode, **prepare_split_kwargs)
        folder = Path(self._output_dir)
        order = {split: number for number, split in enumerate(dict.fromkeys(file.split for file in self.files))}

        def parts(pattern: str) -> list[Path]:
            found = folder.glob(pattern)
            return sorted(found, key=lambda path: (order[path.stem.split("-", 1)[1].rsplit("-", 1)[0]], path.name))

        account = self._merged([json.loads(path.read_text()) for path in parts("counts-*.json")])
        lines = [line for path in parts("rejected-*.jsonl") for line in quarantine.read_lines(path)]
        self._check_fraction(account, lines)
        quarantine.write_lines(folder / REJECTED_FILE, lines)
        (folder / COUNTS_FILE).write_text(json.dumps(account, indent=1), encoding="utf-8")
        for path in [*folder.glob("counts-*.json"), *folder.glob("rejected-*.jsonl")]:
            path.unlink()

    def _merged(self, parts: list[dict]) -> dict:
        """The account of the build from those of its shards."""
        return quarantine.merge_accounts(parts)

    def _check_fraction(self, account: dict, lines: list[dict]) -> None:
        rows_in = sum(file["rows_in"] + file.get("added", 0) for file in account["files"])
        rows_out = rows_in - len(lines)
        if rows_out and len(lines) <= self.config.max_bad_fraction * rows_in:
            return
        kept = Path(f"{self._cache_dir}.{REJECTED_FILE}")
        kept.unlink(missing_ok=True)
        quarantine.write_lines(kept, lines)
        allowed = self.config.max_bad_fraction
        limit = f", but max_bad_fraction={allowed:g} allows {allowed * rows_in:.0f}"
        stopped = limit if rows_out else ", so nothing is left"
        enough = math.ceil(1000 * len(lines) / rows_in) / 1000 if rows_in else 0
        cure = f" To go on without them: max_bad_fraction={enough:g} (--max_bad_fraction {enough:g})."
        counted = Counter(line["reason"] for line in lines)
        reasons = ", ".join(f"{reason} {count}" for reason, count in counted.items())
        raise TooManyRejected(
            f"{self.NAME}: {len(lines)} of {rows_in} rows were rejected{stopped} "
            f"({reasons}).{cure if rows_out else ''} All of them are in {kept}; the first:\n"
            f"{quarantine.describe(lines)}"
        )

    def download_and_prepare(self, output_dir=None, **kwargs):
        """As in `datasets`, but a leftover of a killed build can't leak rows, and errors keep their own words."""
        target = str(output_dir or self._cache_dir)
        directory.check_writable(Path(target).parent)
        with FileLock(target + ".build.lock"):
            # Whoever held the lock before is gone, so this folder is of a build that was killed.
            shutil.rmtree(target + ".incomplete", ignore_errors=True)
            try:
                super().download_and_prepare(output_dir, **kwargs)
            except (datasets.exceptions.DatasetGenerationError, OSError) as error:
                raise own_error(error, target) from error

    def as_streaming_dataset(self, *args, **kwargs):
        """As in `datasets`; needs `streaming=True` at construction."""
        if not self.streaming:
            raise ConfigError(f"{self.NAME}: construct the builder with streaming=True to stream from it.")
        return super().as_streaming_dataset(*args, **kwargs)

    @property
    def account(self) -> dict:
        """What was read: rows in, rows out and rejected per file and reason. Built datasets only."""
        return json.loads((Path(self._cache_dir) / COUNTS_FILE).read_text(encoding="utf-8"))

    @property
    def rejected(self) -> list[dict]:
        """The lines of the build's `rejected.jsonl`."""
        return list(quarantine.read_lines(Path(self._cache_dir) / REJECTED_FILE))
