"""A path or URL -> its bytes: opened, decompressed, without byte order mark, and surely UTF-8 by encoding."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import pyarrow as pa

from .errors import SourceError
from .json_fit import WHITESPACE

HEAD_BYTES = 1 << 20  # what is looked at before the first row is read
_BOM = b"\xef\xbb\xbf"
_DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError)
# First bytes of a compressed file -> what opens it. They tell more than an ending, which a cache may have dropped.
COMPRESSIONS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream, mode="rb"),
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
    b"\x28\xb5\x2f\xfd": lambda stream: pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd"),
}


def is_url(path: str) -> bool:
    return "://" in path or "::" in path


def open_file(path: str) -> BinaryIO:
    try:
        if not is_url(path):
            return open(path, "rb")
        from datasets.utils.file_utils import xopen  # brings the token for hf:// and retries

        return xopen(path, "rb")
    except OSError as error:
        raise SourceError(f"{path} can't be opened: {error.strerror or error}") from error


class ByteSource:
    """A stream of bytes with what was already taken from it put back, that may end early behind a line."""

    def __init__(self, stream: Any, name: str, head: bytes = b""):
        self.stream, self.name, self.head = stream, name, head
        self.left: int | None = None
        self.in_line = False
        self.closed, self.mode = False, "rb"  # pa.PythonFile asks

    def read(self, size: int = -1) -> bytes:
        if self.left is None:
            return self._take(size)
        if self.left > 0:
            data = self._take(min(size, self.left))
            self.left -= len(data)
            self.in_line = not data.endswith(b"\n")
            return data
        data = self._take(size) if self.in_line else b""
        end = data.find(b"\n") + 1
        self.in_line = not end
        return data[:end] if end else data

    def stop(self, size: int | None) -> None:
        """Ends the stream behind the line that holds the last of the next `size` bytes."""
        self.left = size

    def put_back(self, data: bytes) -> None:
        self.head = data + self.head

    def _take(self, size: int) -> bytes:
        if self.head:
            data, self.head = self.head[:size], self.head[size:]
            return data
        try:
            return self.stream.read(size)
        except _DAMAGED as error:
            raise SourceError(f"{self.name} can't be read to its end ({error}): fetch or write it again.") from error


def text_source(stream: Any, name: str) -> tuple[ByteSource, bytes, int]:
    """The decompressed file behind its byte order mark, its first bytes (not taken from it), the mark's length."""
    source = ByteSource(stream, name)
    first = _read_fully(source, 6)
    source.put_back(first)
    for magic, decompress in COMPRESSIONS.items():
        if first.startswith(magic):
            source = ByteSource(decompress(source), name)
    head = _read_fully(source, HEAD_BYTES)
    encoding = _wide_encoding(head)
    if encoding:
        raise SourceError(f"{name} is {encoding}, allowed: UTF-8. Convert it: iconv -f {encoding} -t UTF-8.")
    offset = len(_BOM) if head.startswith(_BOM) else 0
    if not head[offset:].strip(WHITESPACE) and len(head) < HEAD_BYTES:
        raise SourceError(f"{name} is empty" + (": white space only." if head else "."))
    source.put_back(head[offset:])
    return source, head[offset:], offset


def _read_fully(source: ByteSource, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := source.read(size - len(data))):
        data += more
    return data


def _wide_encoding(head: bytes) -> str | None:
    for mark, encoding in ((b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32")):
        if head.startswith(mark):
            return encoding
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    first = head[:8]
    if len(first) == 8 and not any(first[1::2]) and any(first):
        return "UTF-32LE" if not any(first[2::4]) else "UTF-16LE"
    if len(first) == 8 and not any(first[0::2]) and any(first):
        return "UTF-32BE" if not any(first[1::4]) else "UTF-16BE"
    return None
