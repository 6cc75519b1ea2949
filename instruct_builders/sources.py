"""`data_files` as users write it -> the files to read, each with the digest and the name that provenance needs."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec
import httpx2  # huggingface_hub's own transport: the errors of a network that is not there
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from . import licenses
from .errors import ConfigError, SourceError

BUNDLED = Path(__file__).parent / "data"
EXTENSIONS = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
COMPRESSIONS = (".gz", ".xz", ".zst")
# What a built directory holds beside its data.
NOT_DATA = {"build.json", "rejected.jsonl", "dataset_infos.json", "dataset_info.json"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")


@dataclass(frozen=True)
class SourceFile:
    """One file to read.

    Args:
        path (`str`): Local path, or an `hf://` URL where the file is streamed.
        name (`str`): How reports call it: the path as given, or `org/name@sha/path`.
        split (`str`): The split its rows go to.
        digest (`str`): sha256 of the bytes in hex, or `org/name@sha/path`, which names the bytes as well.
        source (`str`): The record's `source`: `file.json sha256:...` or `org/name@sha`.
        license (`str`, *optional*): The Hub repository's license identifier.
    """

    path: str
    name: str
    split: str
    digest: str
    source: str
    license: str | None = None


def resolve(
    data_files: str | os.PathLike | Sequence | Mapping | None,
    *,
    config: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
) -> list[SourceFile]:
    """Finds the files behind `data_files`, in a stable order.

    Args:
        data_files (`str` or `list` or `dict`):
            A file, a folder, a glob, a Hub dataset id (`org/name` or `org/name@revision`), a list of these, or a
            mapping from split to these. Without a mapping everything goes to `train`, and a Hub dataset or a built
            directory keeps its own splits.
        config (`str`, *optional*): The configuration of a Hub dataset.
        revision (`str`, *optional*): Branch, tag or commit of a Hub dataset; resolved to a commit.
        streaming (`bool`, *optional*, defaults to `False`): Leave Hub files on the Hub.

    Raises:
        ConfigError: If `data_files` is missing or names a file twice.
        SourceError: If a path or a repository is not there, or holds no file that can be read.
    """
    if data_files is None:
        raise ConfigError(
            "data_files is required: a file, a folder, a glob, a Hub dataset id (org/name), a list of these, or a "
            "mapping from split to these. data_files='bundled' takes the small sample that ships with the package."
        )
    if isinstance(data_files, Mapping):
        wanted = [(str(split), entry) for split, entries in data_files.items() for entry in _as_list(entries)]
        for split in data_files:
            if not re.fullmatch(r"\w+(\.\w+)*", str(split)):
                raise ConfigError(f"data_files: {split!r} can't name a split: letters, digits and '_' are allowed.")
    else:
        wanted = [(None, entry) for entry in _as_list(data_files)]
    if not wanted:
        raise ConfigError("data_files is empty: name at least one file, folder, glob or Hub dataset.")
    files = [file for split, entry in wanted for file in _resolve_one(entry, split, config, revision, streaming)]
    seen: set[tuple[str, str]] = set()
    for file in files:
        place = (file.split, file.path if "://" in file.path else os.path.realpath(file.path))
        if place in seen:
            raise ConfigError(
                f"data_files names {file.name} twice in split {file.split!r}: its rows would be doubled."
            )
        seen.add(place)
    return files


def _as_list(entries: object) -> list[str]:
    items = [entries] if isinstance(entries, (str, os.PathLike)) else entries
    if not isinstance(items, Sequence):
        raise ConfigError(f"data_files: {items!r} is {type(items).__name__}; a path, a Hub id or a list is allowed.")
    for item in items:
        if not isinstance(item, (str, os.PathLike)) or not os.fspath(item):
            raise ConfigError(f"data_files: {item!r} is {type(item).__name__}, but a path or a Hub id is allowed.")
    return [os.fspath(item) for item in items]


def _resolve_one(
    entry: str, split: str | None, config: str | None, revision: str | None, streaming: bool
) -> list[SourceFile]:
    path = Path(entry).expanduser()
    if path.is_file():
        return [_local(path, str(path), split)]
    if path.is_dir():
        return _folder(path, split, config)
    if glob.has_magic(entry) and not entry.startswith("hf://"):
        found = sorted(glob.glob(os.path.expanduser(entry), recursive=True))
        files = [Path(name) for name in found if Path(name).is_file() and is_data_file(name)]
        if not files:
            raise SourceError(f"data_files: no file matches {entry!r} with one of the endings {_endings()}.")
        return [_local(file, str(file), split) for file in files]
    looks_local = entry.startswith((".", "/", "~")) or entry.endswith(EXTENSIONS + COMPRESSIONS)
    if entry.startswith("hf://datasets/") or (_HUB_ID.fullmatch(entry) and not looks_local):
        return _hub(entry, split, config, revision, streaming)
    raise SourceError(f"data_files: {entry!r} is no file, folder or glob here, and no Hub dataset id (org/name).")


def is_data_file(name: str) -> bool:
    """Whether the reader knows the ending, compressed or not."""
    base = os.path.basename(name).lower()
    for compression in COMPRESSIONS:
        base = base.removesuffix(compression)
    return base.endswith(EXTENSIONS) and base not in NOT_DATA and not base.startswith(".")


def mentions(path: str, needles: Sequence[bytes], chunk_bytes: int = 8 << 20) -> bool:
    """Whether any of the byte strings occurs in the file, decompressed; in a Parquet file, in its schema or roles."""
    if path.lower().endswith(".parquet"):
        return any(needle.strip(b'"') in _parquet_words(path) for needle in needles)
    tail = b""
    with fsspec.open(path, "rb", compression="infer") as file:
        while block := file.read(chunk_bytes):
            block = tail + block
            if any(needle in block for needle in needles):
                return True
            tail = block[-64:]  # longer than any needle, so none can hide across two blocks
    return False


def _parquet_words(path: str) -> bytes:
    """Column names of a Parquet file, nested ones too, and the distinct values of its role columns."""
    file = pq.ParquetFile(path)
    leaves = [file.schema.column(position).path for position in range(len(file.schema))]
    words = set(leaves)
    for leaf in leaves:
        if leaf.rsplit(".", 1)[-1] in ("from", "role"):
            for batch in file.iter_batches(columns=[leaf]):
                values = batch.column(0)
                while not pa.types.is_string(values.type) and not pa.types.is_large_string(values.type):
                    values = pc.list_flatten(values) if pa.types.is_list(values.type) else values.field(0)
                words.update(filter(None, pc.unique(values).to_pylist()))
    return " ".join(sorted(words)).encode()


def _endings() -> str:
    return ", ".join(EXTENSIONS) + f" (also with {', '.join(COMPRESSIONS)})"


def _local(path: Path, name: str, split: str | None) -> SourceFile:
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"data_files: {name} can't be read: {error.strerror}.") from error
    return SourceFile(str(path), name, split or "train", digest, f"{path.name} sha256:{digest[:16]}")


def _folder(path: Path, split: str | None, config: str | None) -> list[SourceFile]:
    card = path / "README.md"
    if card.is_file() and "\nconfigs:" in card.read_text(encoding="utf-8"):
        return [_local(Path(url), url, split or own) for own, url, _ in _described(str(path), config, None)]
    files = sorted(file for file in path.rglob("*") if file.is_file() and is_data_file(file.name))
    if not files:
        raise SourceError(f"data_files: the folder {path} holds no file with one of the endings {_endings()}.")
    return [_local(file, str(file), split) for file in files]


def _described(path: str, config: str | None, revision: str | None) -> list[tuple[str, str, object]]:
    """`(split, url, builder)` of every file of a repository, by the rules of `datasets` itself."""
    import datasets

    try:
        builder = datasets.load_dataset_builder(path, config, revision=revision)
    except (FileNotFoundError, ValueError, RuntimeError, ConnectionError) as error:
        at = f"@{revision}" if revision else ""
        raise SourceError(f"data_files: {path}{at} can't be loaded: {error}") from error
    return [
        (str(split), str(url), builder) for split, urls in (builder.config.data_files or {}).items() for url in urls
    ]


def _hub(entry: str, split: str | None, config: str | None, revision: str | None, streaming: bool) -> list[SourceFile]:
    import huggingface_hub

    repo, _, pinned = entry.removeprefix("hf://datasets/").partition("@")
    inside = ""
    if entry.startswith("hf://"):
        head, _, inside = pinned.partition("/")
        pinned = head
        if not _:
            repo, inside = "/".join(repo.split("/")[:2]), "/".join(repo.split("/")[2:])
    if revision and pinned and revision != pinned:
        raise ConfigError(f"data_files: {entry} is pinned to {pinned}, but revision is {revision}: give one of them.")
    try:
        info = huggingface_hub.HfApi().dataset_info(repo, revision=pinned or revision)
    except huggingface_hub.errors.RevisionNotFoundError as error:
        raise SourceError(f"data_files: {repo} has no revision {pinned or revision!r}.") from error
    except huggingface_hub.errors.GatedRepoError as error:
        raise SourceError(f"data_files: {repo} is gated: ask for access on its page, then set HF_TOKEN.") from error
    except huggingface_hub.errors.RepositoryNotFoundError as error:
        raise SourceError(
            f"data_files: {entry!r} is no file or folder here, and no Hub dataset that can be seen "
            "(a private one needs HF_TOKEN or `hf auth login`)."
        ) from error
    except (huggingface_hub.errors.HfHubHTTPError, huggingface_hub.errors.HFValidationError) as error:
        raise SourceError(f"data_files: the Hub could not be asked for {repo}: {error}") from error
    except (httpx2.HTTPError, OSError) as error:
        raise SourceError(
            f"data_files: {entry!r} is no file or folder here, and the Hub can't be reached to look for a dataset of "
            f"that name ({error})."
        ) from error
    if glob.has_magic(inside):
        raise ConfigError(f"data_files: {entry}: globs are for local files; name the repository or one of its files.")
    origin = f"{repo}@{info.sha}"
    prefix = f"hf://datasets/{origin}/"
    if inside:
        urls = [(split or "train", prefix + inside)]
    else:
        urls = [(split or own, url) for own, url, _ in _described(repo, config, info.sha)]
    license_id = info.card_data.get("license") if info.card_data else None
    if isinstance(license_id, list):  # the card of a mixture can name several
        license_id = licenses.strictest(license_id)
    files = []
    for own_split, url in urls:
        inside = url.removeprefix(prefix)
        if not is_data_file(inside):
            raise SourceError(f"data_files: {origin}/{inside} has none of the endings {_endings()}.")
        path = url
        if not streaming:
            path = _download(repo, inside, info.sha)
        name = f"{origin}/{inside}"
        files.append(SourceFile(path, name, own_split, name, origin, license_id and str(license_id)))
    return files


def _download(repo: str, inside: str, sha: str) -> str:
    import huggingface_hub

    try:
        return huggingface_hub.hf_hub_download(repo, inside, repo_type="dataset", revision=sha)
    except huggingface_hub.errors.EntryNotFoundError as error:
        raise SourceError(f"data_files: {repo}@{sha} has no file {inside}.") from error
    except (huggingface_hub.errors.HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise SourceError(f"data_files: {repo}@{sha}/{inside} could not be downloaded: {error}") from error
