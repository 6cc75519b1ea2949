"""Which files of a directory may leave this machine: no pickles, nothing hidden, no credentials, no outside links."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from pathlib import Path

from . import secret_scan
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


def list_files(directory: Path) -> tuple[dict[str, Path], list[str]]:
    """The files to publish and the names of those that stay here.

    Args:
        directory (`Path`): What to publish; links inside it are followed to files inside it only.

    Returns:
        `tuple[dict[str, Path], list[str]]`: `{path in the repository: local file}`, sorted, and what is left out.

    Raises:
        [`PublishError`]: If there is nothing to publish, no README.md, or a link that leads outside.
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
        hidden = any(part.startswith(".") and part != SCORES for part in name.split("/"))
        if hidden or any(fnmatch.fnmatch(path.name.lower(), pattern) for pattern in LEFT_OUT):
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
    return files, left_out


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
