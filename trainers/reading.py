"""What a run is given -> rows in the columns of their format: built directories, the Hub, raw files.

No text is coerced and no row is dropped. The first step of conversations.py; what a model card tells of the data
comes from here as well.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import datasets
import yaml

import instruct_builders
from instruct_builders import formats, reader, sources
from instruct_builders.errors import SourceError, TooManyRejected
from instruct_builders.formats import native

from . import places

PACKAGED = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}
# Raw rows of these formats are read by a builder of ours: `datasets` turns a number among texts into quoted JSON.
READ_BY = {"alpaca": "alpaca", "sharegpt": "vicuna", "messages": "vicuna"}
NOT_TEXT = ("meta", "tools", "history")
KEY = "dataset_name"  # what the recipes that train call it
UNREADABLE = (OSError, ValueError, datasets.exceptions.DatasetsError)
BUILD_FIRST = "Run recipes/build.py first: it leaves such rows out and lists each with its reason."


def splits(name: str, config: str | None = None, revision: str | None = None) -> list[str]:
    """The splits of a built directory, a Hub dataset, a folder or a file; reads no row."""
    return ["train"] if Path(name).is_file() else list(_described(name, config, revision))


def _described(name: str, config: str | None, revision: str | None) -> Mapping:
    """Split -> files, by the rules of `datasets` itself; without the files where only its cache is at hand."""
    places.check(name, KEY, "dataset", revision)
    try:
        builder = datasets.load_dataset_builder(name, config, revision=revision)
    except UNREADABLE as error:
        raise _unreadable(name, error) from error
    found = builder.config.data_files or builder.info.splits or {}
    return {str(split): list(files) if isinstance(files, list) else [] for split, files in found.items()}


def load_rows(
    name: str, config: str | None = None, revision: str | None = None, split: str = "train", source: str = "auto"
) -> datasets.Dataset:
    """The rows of a built directory, a Hub dataset, or raw files, in the columns of their format.

    Raw conversations and Alpaca rows are read by our builders, which keep every text as it is and refuse what is none;
    other raw formats and the Hub's datasets by `datasets`.

    Args:
        name (`str`): What is read.
        config (`str`, *optional*): The configuration of a dataset.
        revision (`str`, *optional*): Of a Hub dataset.
        split (`str`, *optional*, defaults to `"train"`): Such as `"train[:100]"`.
        source (`str`, *optional*, defaults to `"auto"`): The format, where it is known.

    Raises:
        SourceError: If there is nothing to read, a raw row can't be used, or a column of texts holds other things.
    """
    places.check(name, KEY, "dataset", revision)
    path = Path(name)
    if path.is_file() and not sources.is_data_file(path.name):
        raise SourceError(f"dataset_name: {name} is a {path.suffix} file; {', '.join(PACKAGED)} can be read.")
    files = {"train": [str(path)]} if path.is_file() else None
    if path.is_dir() and not (path / "build.json").is_file():
        found = _described(name, config, revision)
        files = {key: [file for file in files if sources.is_data_file(file)] for key, files in found.items()}
        files = {key: some for key, some in files.items() if some} or None
    if files is not None:
        builder = READ_BY.get(_format_of(files) if source == "auto" else source)
        if builder:
            return _read(builder, name, files, split)
    try:
        if path.is_file():
            suffix = next(end for end in path.suffixes[::-1] if end in PACKAGED)  # .jsonl.gz is JSON as well
            options = {"sep": "\t"} if suffix == ".tsv" else {}
            rows = datasets.load_dataset(PACKAGED[suffix], data_files=name, split=split, **options)
        else:
            rows = datasets.load_dataset(name, config, revision=revision, split=split)
    except UNREADABLE as error:
        raise _unreadable(name, error, split) from error
    _check_texts(rows, name, source)
    return rows


def _format_of(files: Mapping[str, list[str]]) -> str | None:
    """The format of raw files, told by the first row that can be read."""
    rows = (reader.peek(file, name=file) for some in files.values() for file in some)
    first = next((row for row in rows if row is not None), None)
    return None if first is None else formats.detect(first)


def format_of(rows: datasets.Dataset) -> str:
    """The format of rows, told by the first.

    Raises:
        SourceError: If it is none of ours.
    """
    found = formats.detect(rows[0])
    if found is None:
        known = ", ".join(f"{name} ({' and '.join(columns)})" for name, columns in native.REQUIRED.items())
        raise SourceError(
            f"dataset_name: the columns {', '.join(rows.column_names)} are none of a format that can be trained on: "
            f"{known}. Rename them, as with the key columns of recipes/build.py."
        )
    return found


def _read(builder: str, name: str, files: Mapping[str, list[str]], split: str) -> datasets.Dataset:
    """Raw files through a builder of ours, without a bad row among them."""
    source = next(kind for kind in (_format_of(files), *READ_BY) if READ_BY.get(kind) == builder)
    try:
        return instruct_builders.load_dataset(
            builder,
            data_files=files,
            format=source,
            split=split,
            strict=True,
            control_tokens="allow",  # special tokens in texts are the business of `special_tokens`
        )
    except TooManyRejected as error:
        raise SourceError(f"dataset_name: {name} has a row that can't be used ({error}). {BUILD_FIRST}") from error
    except UNREADABLE as error:
        raise _unreadable(name, error, split) from error


def _check_texts(rows: datasets.Dataset, name: str, source: str) -> None:
    """Refuses what `datasets` makes of a column with both texts and numbers: texts in quotes, typed `Json`."""
    kind = formats.detect(rows.features) if source == "auto" else source
    wanted = [key for key in (*native.REQUIRED.get(kind, ()), *native.OPTIONAL.get(kind, ())) if key not in NOT_TEXT]
    for column in [key for key in dict.fromkeys((*wanted, *native.TURNS)) if key in rows.features]:
        feature = rows.features[column]
        turn = getattr(feature, "feature", None)
        texts = {f"{column}.{key}": turn[key] for key in ("content", "value") if key in turn} if isinstance(
            turn, Mapping
        ) else {column: feature}  # fmt: skip
        for place, what in texts.items():
            if isinstance(what, datasets.Json):
                raise SourceError(
                    f"dataset_name: the column {place} of {name} holds other things than text, and `datasets` reads "
                    f"all of it as JSON. {BUILD_FIRST}"
                )


def _unreadable(name: str, error: Exception, split: str | None = None) -> SourceError:
    what = f"split {split!r} of {name!r}" if split else repr(name)
    return SourceError(
        f"dataset_name: can't read {what}: {str(error).rstrip('. ')}. Give a directory made by recipes/build.py, a "
        "Hub dataset, or a file. A raw file with bad rows goes through recipes/build.py first."
    )


def describe(rows: datasets.Dataset, name: str, split: str, license: str | None = None) -> dict:
    """Where rows came from, for the model card: name, revision or digest, split, number of rows, license."""
    path = Path(name)
    fact = {"name": name, "revision": None, "split": split, "rows": len(rows), "local": path.exists()}
    if path.exists():
        fact |= {"name": path.resolve().name, "revision": _digest(path)}
        card = path / "README.md"
        front = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8"), re.S) if card.is_file() else None
        stated = (yaml.safe_load(front[1]) or {}).get("license") if front else None
    else:
        # Rows of the Hub lie in a folder of the cache that is named after the commit they come from.
        folders = [Path(file["filename"]).parent.name for file in rows.cache_files]
        fact["revision"] = next((name for name in folders if re.fullmatch(r"[0-9a-f]{40}", name)), None)
        stated = rows.info.license or None
    if stated is None and "license" in rows.column_names:
        stated = sorted({license for license in rows.unique("license") if license})
    fact["license"] = license or stated or None
    return fact


def _digest(path: Path) -> str | None:
    """`sha256:` and 16 hex digits of a file, or of the digests of a folder's data files; `None` without any."""
    files = [path]
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file() and sources.is_data_file(file.name))
        files = [file for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    digests = []
    for file in files:
        with open(file, "rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256"))
    if not digests:
        return None
    whole = digests[0] if path.is_file() else hashlib.sha256(b"".join(digest.digest() for digest in digests))
    return f"sha256:{whole.hexdigest()[:16]}"
