"""Which files of a directory may leave this machine: no pickles, nothing hidden, no credentials, no outside links."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import pickletools
import zipfile
from pathlib import Path

from . import assigned_secrets, secret_scan
from .errors import PublishError, SecretFound

# Pickles run code where they are loaded, and training_args.bin can hold a token; then what is half-written; rejected
# rows are raw text that no check has passed: they, and the page that quotes them, stay with whoever built the data.
LEFT_OUT = (
    *("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.joblib", "*.dill", "*.ckpt", "optimizer*", "rng_state*"),
    *("*.incomplete", "*.tmp", "*.lock", "rejected.jsonl", "report.html"),
)
# Kinds of file that builds and releases write. On the Hub such a file that the directory lacks belongs to an older
# version and is deleted; others (LICENSE, notes.md, .gitattributes, ...) stay.
MANAGED = (
    *(*LEFT_OUT, "*.parquet", "*.safetensors", "*.gguf", "*.json", "*.jsonl", "*.jinja", "*.model", "*.html"),
    "instruct-builders-*.yaml",  # a release's scores; others in the same folder were added by other people
)
SCORES = ".eval_results"  # where the Hub looks for a model's scores
_OPCODES = {ord(operation.code) for operation in pickletools.opcodes}
_HEAD = 512  # bytes; numpy's own header is shorter


def list_files(directory: Path) -> tuple[dict[str, Path], list[str]]:
    """The files to publish and the names of those that stay here.

    Args:
        directory (`Path`): What to publish; links inside it are followed to files inside it only.

    Returns:
        `tuple[dict[str, Path], list[str]]`: `{path in the repository: local file}`, sorted, and what is left out.

    Raises:
        [`PublishError`]: If there is nothing to publish, no README.md, a link that leads outside, or a pickle under a
            name that says nothing of it.
    """
    if not directory.is_dir():
        raise PublishError(f"{directory} is no directory: give the directory that a build or a release wrote.")
    files, left_out = {}, []
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            _check_link(path, directory)
        if path.is_dir():
            continue
        if not path.is_file():
            raise PublishError(f"{path} is no ordinary file and can't be published: take it out of the directory.")
        if stays(name):
            left_out.append(name)
        else:
            files[name] = path
    if not files:
        raise PublishError(f"{directory} holds nothing that can be published; left out: {left_out or 'nothing'}.")
    if "README.md" not in files:
        raise PublishError(
            f"{directory} has no README.md: the Hub shows it as the card, and datasets reads the configs from it. "
            "Publish a directory that a build or a release has finished."
        )
    if pickles := [name for name, path in files.items() if is_pickle(path)]:
        raise PublishError(
            f"{directory} was not published, it holds pickles, whatever their names say: {', '.join(pickles)}. A "
            "pickle runs code where it is loaded: save it as safetensors, JSON or Parquet, or take it out."
        )
    return files, left_out


def stays(name: str) -> bool:
    """Whether a file of this name, within its directory, is hidden or of a kind that is never published."""
    *_, last = parts = name.split("/")
    hidden = any(part.startswith(".") and part != SCORES for part in parts)
    return hidden or any(fnmatch.fnmatch(last.lower(), pattern) for pattern in LEFT_OUT)


def is_pickle(path: Path) -> bool:
    """Whether a file's content is a pickle of protocol 2 or later, holds one (torch's zip), or numpy's array of them.

    Protocols 0 and 1 are plain text without a mark; nothing has written them by default since Python 2.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD)
        if (
            path.suffix == ".safetensors" and head[4:9] == b"\0\0\0\0{"
        ):  # the header's size may look like a pickle's mark
            return False
        if not head.startswith(b"PK\x03\x04") or not zipfile.is_zipfile(file):
            return _is_pickled(head)
        with zipfile.ZipFile(file) as packed:
            for member in packed.infolist():
                if member.filename.lower().endswith((".pkl", ".pickle")):
                    return True
                if not member.flag_bits & 1 and _is_pickled(packed.open(member).read(_HEAD)):  # bit 0: encrypted
                    return True
    return False


def _is_pickled(head: bytes) -> bool:
    if head[:6] == b"\x93NUMPY":
        return b"'|O'" in head or b"'O'" in head
    return len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5 and head[2] in _OPCODES


def _check_link(path: Path, directory: Path) -> None:
    target = path.resolve()
    if not target.is_relative_to(directory.resolve()):
        raise PublishError(
            f"{path} is a link to {target}, outside of {directory}: put a copy of the file in its place."
        )
    if target.is_dir():
        raise PublishError(f"{path} is a link to a directory, and would not be followed: put a copy in its place.")


def refuse_secrets(directory: Path, files: dict[str, Path], token: str | None) -> None:
    """Searches every file for credentials, `token` among them, and raises [`SecretFound`] with all places."""
    environ = {**os.environ, **({"HF_TOKEN": token} if token else {})}
    findings = secret_scan.scan(files.values(), environ)
    known = {(finding.path, finding.line) for finding in findings}
    findings += [one for one in assigned_secrets.scan(files.values()) if (one.path, one.line) not in known]
    if findings:
        shown = "\n  ".join(str(finding) for finding in findings[:20])
        more = f"\n  and {len(findings) - 20} more" if len(findings) > 20 else ""
        raise SecretFound(
            f"{directory} was not published, {len(findings)} places look like credentials:\n  {shown}{more}\n"
            "Take them out and build again; a credential that was real should be revoked."
        )


def difference(files: dict[str, Path], remote: dict[str, str]) -> tuple[list[str], list[str]]:
    """What to upload and what to delete, so that `remote` becomes `files`.

    Args:
        files (`dict[str, Path]`): As [`list_files`] returns them.
        remote (`dict[str, str]`): `{path: digest}`: sha256 of an LFS file, git's sha1 of any other.

    Returns:
        `tuple[list[str], list[str]]`: Names to upload and names to delete.
    """
    changed = [name for name, path in files.items() if name not in remote or not _same(path, remote[name])]
    folders = {name.split("/")[0] for name in files if "/" in name} - {SCORES}

    def is_managed(name: str) -> bool:
        in_our_folder = "/" in name and name.split("/")[0] in folders
        return in_our_folder or any(fnmatch.fnmatch(name.split("/")[-1], pattern) for pattern in MANAGED)

    return changed, [name for name in remote if name not in files and is_managed(name)]


def other_folders(files: dict[str, Path], stale: list[str]) -> list[str]:
    """The folders of files to be deleted in which nothing is published: configurations that are not ours."""
    ours = {name.split("/")[0] for name in files if "/" in name}
    return sorted({name.split("/")[0] for name in stale if "/" in name} - ours)


def _same(path: Path, digest: str) -> bool:
    """Whether a local file has the content that the Hub names by `digest`."""
    if len(digest) == 64:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == digest
