"""Looks for credentials in files that are about to leave the machine. A report never holds the credential itself.

Two searches: the shapes that well-known services give their keys, and the very values of this process's environment
variables that are called like one (`*_KEY`, `*_TOKEN`, `*PASSWORD`, ...). Parquet is decoded first (its pages are
compressed), `.gz`, `.bz2` and `.xz` are unpacked, of safetensors only the header is read (the rest is numbers); all
else is searched as bytes.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .errors import PublishError

# Read alike by `re` and by RE2, the engine inside Arrow, which has no look-around. Where a form has a group, that is
# the credential, and what stands around it only says that it is one.
PATTERNS: dict[str, str] = {
    "Hugging Face token": r"hf_[A-Za-z0-9]{20,}",
    # "task-oriented-dialogue" holds `sk-` too: a key starts a word and has a long run between its dashes.
    "OpenAI-style key": r"\bsk-(?:[A-Za-z0-9]{0,15}[_-]){0,12}[A-Za-z0-9]{16}[A-Za-z0-9_-]*",
    "AWS access key": r"AKIA[0-9A-Z]{16}",
    "AWS temporary key": r"ASIA[0-9A-Z]{16}",
    # Forty letters and digits alone would be half the hashes of this world.
    "AWS secret key": r"(?i:secret_?access_?key)[\"'\\ :=]{1,9}([A-Za-z0-9/+]{40})(?:[^A-Za-z0-9/+=]|$)",
    "Azure storage key": r"AccountKey=([A-Za-z0-9+/]{86}==)",
    "GitHub token": r"gh[pousr]_[A-Za-z0-9]{36,}",
    "GitHub fine-grained token": r"github_pat_[A-Za-z0-9_]{22,}",
    "GitLab token": r"glpat-[A-Za-z0-9_-]{20,}",
    "Google key": r"\bAIza[0-9A-Za-z_-]{35}",
    "Google OAuth token": r"\bya29\.[0-9A-Za-z_-]{30,}",
    "Groq key": r"gsk_[A-Za-z0-9]{20,}",
    "xAI key": r"\bxai-[A-Za-z0-9]{80}",
    "Perplexity key": r"\bpplx-[A-Za-z0-9]{48}",
    "Replicate token": r"\br8_[A-Za-z0-9]{37}",
    "DigitalOcean token": r"\bdo[opr]_v1_[a-f0-9]{64}",
    "npm token": r"\bnpm_[A-Za-z0-9]{36}",
    "PyPI token": r"\bpypi-AgE[A-Za-z0-9_-]{50,}",  # a macaroon, which names its host first
    "Slack token": r"xox[abeoprs]-[A-Za-z0-9-]{10,}",
    "Slack webhook": r"hooks\.slack\.com/services/T[A-Z0-9]{8,12}/B[A-Z0-9]{8,12}/[A-Za-z0-9]{24}",
    "Stripe key": r"\b[sr]k_live_[A-Za-z0-9]{24,}",
    "SendGrid key": r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
    "Telegram bot token": r"\b[0-9]{8,10}:AA[A-Za-z0-9_-]{33}",
    # Header and payload are JSON objects, and `{"` in base64 is `eyJ`.
    "JSON web token": r"\beyJ[A-Za-z0-9_-]{10,200}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}",
    "private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
}
ENV_NAMES = ("_KEY", "_TOKEN", "_SECRET", "PASSWORD", "PASSWD", "_PAT")
ENV_MIN_LENGTH = 8  # characters; a shorter value would be found in ordinary text
CHUNK, OVERLAP = 1 << 24, 1 << 12  # bytes; a credential is shorter than OVERLAP
_OPEN = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_SEALED = (".zip", ".7z", ".zst", ".lz4", ".rar")


@dataclass(frozen=True, order=True)
class Finding:
    """One place that holds something like a credential.

    Args:
        path (`str`): The file.
        line (`int`): 1-based line; in Parquet the 1-based row; 0 for a file's own metadata or the file as a whole.
        kind (`str`): What it looks like, with its first four characters, or which environment variable's value it is.
    """

    path: str
    line: int
    kind: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.kind}"


def scan(paths: Iterable[str | os.PathLike], environ: Mapping[str, str] | None = None) -> list[Finding]:
    """Searches files for credentials.

    Args:
        paths (`Iterable[str | os.PathLike]`): Files. A folder is an error: it would look searched.
        environ (`Mapping[str, str]`, *optional*, defaults to `os.environ`): Where the values to look for come from.

    Returns:
        `list[Finding]`: Sorted by path and line; empty where nothing was found.

    Raises:
        [`PublishError`]: If a file can't be searched, such as a broken Parquet file.
    """
    patterns = _patterns(os.environ if environ is None else environ)
    return sorted({finding for path in paths for finding in _scan_file(Path(path), patterns)})


def _patterns(environ: Mapping[str, str]) -> dict[str, str]:
    """Name to regular expression, understood alike by `re` (on bytes) and by RE2 in Arrow."""
    values = {
        f"value of the environment variable {name}": value
        for name, value in sorted(environ.items())
        if name.upper().endswith(ENV_NAMES) and len(value) >= ENV_MIN_LENGTH
    }
    # Inside JSON a quote, a backslash or a letter beyond ASCII is written in another way.
    written = {kind: {value, json.dumps(value)[1:-1]} for kind, value in values.items()}
    return PATTERNS | {kind: "|".join(map(re.escape, sorted(forms))) for kind, forms in written.items()}


def _scan_file(path: Path, patterns: dict[str, str]) -> Iterator[Finding]:
    if path.suffix in _SEALED:
        yield Finding(str(path), 0, "packed file that can't be searched: unpack it")
        return
    try:
        if path.suffix == ".parquet":
            yield from _scan_parquet(path, patterns)
        elif path.suffix == ".safetensors":
            with open(path, "rb") as file:
                size = int.from_bytes(file.read(8), "little")  # of the JSON header, in bytes
                yield from _scan_bytes(path, file.read(min(size, path.stat().st_size)), 0, patterns)
        else:
            with _OPEN.get(path.suffix, open)(path, "rb") as file:
                yield from _scan_stream(path, file, patterns)
    except (OSError, EOFError, lzma.LZMAError, pa.ArrowException) as error:
        raise PublishError(
            f"{path} can't be searched for credentials ({type(error).__name__}: {error}), so it may not be published: "
            "repair the file or take it out of the directory."
        ) from error


def _scan_stream(path: Path, file, patterns: dict[str, str]) -> Iterator[Finding]:
    tail, line = b"", 1
    while chunk := file.read(CHUNK):
        window = tail + chunk
        yield from _scan_bytes(path, window, line, patterns)  # found twice in the overlap is one finding: same line
        tail = window[-OVERLAP:]
        line += window.count(b"\n") - tail.count(b"\n")


def _scan_bytes(path: Path, data: bytes, line: int, patterns: dict[str, str]) -> Iterator[Finding]:
    """`line` is the number of the first line of `data`; 0 says that lines have no meaning here."""
    # RE2 searches for all patterns in one pass, several times faster than `re` does: most data ends here.
    whole = pa.Array.from_buffers(
        pa.large_binary(), 1, [None, pa.py_buffer(np.array([0, len(data)], np.int64)), pa.py_buffer(data)]
    )
    if not pc.match_substring_regex(whole, _any(patterns))[0].as_py():
        return
    for kind, pattern in patterns.items():
        for match in re.finditer(pattern.encode(), data):
            number = line + data.count(b"\n", 0, match.start()) if line else 0
            yield Finding(str(path), number, _shown(kind, match.group(match.lastindex or 0)))


def _any(patterns: dict[str, str]) -> str:
    return "|".join(f"(?:{pattern})" for pattern in patterns.values())


def _shown(kind: str, secret: bytes) -> str:
    return f"{kind} ({secret[:4].decode()}...)" if kind in PATTERNS else kind


def _scan_parquet(path: Path, patterns: dict[str, str]) -> Iterator[Finding]:
    with pq.ParquetFile(path) as file:
        metadata = {**(file.metadata.metadata or {}), b"names": str(file.schema_arrow.remove_metadata()).encode()}
        for value in metadata.values():
            yield from _scan_bytes(path, value, 0, patterns)
        first = 1
        for batch in file.iter_batches(batch_size=16_384):
            rows = np.arange(first, first + batch.num_rows)
            for leaf, leaf_rows in (pair for column in batch.columns for pair in _text_leaves(column, rows)):
                hits = pc.match_substring_regex(leaf, _any(patterns)).fill_null(False)
                hit_rows = leaf_rows[hits.to_numpy(zero_copy_only=False)]
                for row, value in zip(hit_rows, leaf.filter(hits).to_pylist(), strict=True):
                    data = value.encode() if isinstance(value, str) else value
                    for finding in _scan_bytes(path, data, 0, patterns):
                        yield Finding(finding.path, int(row), finding.kind)
            first += batch.num_rows


def _text_leaves(column: pa.Array, rows: np.ndarray) -> Iterator[tuple[pa.Array, np.ndarray]]:
    """Every string or binary array inside `column`, each with the row of every one of its values."""
    kind, types = column.type, pa.types
    if isinstance(kind, pa.BaseExtensionType):
        yield from _text_leaves(column.storage, rows)
    elif types.is_dictionary(kind):
        yield from _text_leaves(column.dictionary_decode(), rows)
    elif types.is_struct(kind):
        for i in range(kind.num_fields):
            yield from _text_leaves(column.field(i), rows)
    elif types.is_map(kind):
        yield from _text_leaves(column.cast(pa.list_(pa.struct([kind.key_field, kind.item_field]))), rows)
    elif types.is_list_view(kind) or types.is_large_list_view(kind):
        yield from _text_leaves(column.cast(pa.large_list(kind.value_field)), rows)
    elif types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        yield from _text_leaves(column.flatten(), rows[pc.list_parent_indices(column).to_numpy()])
    elif types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        yield column.cast(pa.large_string()), rows
    elif types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        yield column.cast(pa.large_binary()), rows
    elif types.is_fixed_size_binary(kind):
        yield column.cast(pa.binary()), rows
