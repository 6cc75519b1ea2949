"""What the loopback Hub keeps: blobs by sha256, one JSON index per commit, one JSON file per repository.

Commits never change once written; branches, tags and pull requests are names that point at them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from pathlib import Path

LFS_SUFFIXES = (".parquet", ".arrow", ".safetensors", ".bin", ".pt", ".gz", ".zip", ".npy")
LFS_SIZE = 10 * 2**20  # bytes; text files above it are stored as LFS too
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()


class Refused(Exception):
    """An answer other than 200: HTTP status, text, and the `X-Error-Code` that clients read."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


class HubStore:
    """Repositories of one Hub under one folder. `repo_type` is "model" or "dataset", `repo_id` is "namespace/name"."""

    def __init__(self, root: Path):
        self.root, self.lock = root, threading.RLock()
        self.clear()

    def clear(self) -> None:
        with self.lock:
            shutil.rmtree(self.root, ignore_errors=True)
            for folder in ("blobs", "commits", "repos"):
                (self.root / folder).mkdir(parents=True)

    # ---- blobs ----
    def blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256

    def put_bytes(self, content: bytes) -> dict:
        """Keeps `content` as an ordinary git file and returns its index entry."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.blob(sha256).write_bytes(content)
        return {"sha256": sha256, "size": len(content), "oid": git_oid(content), "lfs": False}

    def lfs_entry(self, sha256: str) -> dict:
        """Index entry of a blob that was uploaded before; refused where it was not."""
        if not self.blob(sha256).is_file():
            raise Refused(400, f"LFS object {sha256} was never uploaded")
        size = self.blob(sha256).stat().st_size
        return {"sha256": sha256, "size": size, "oid": git_oid(lfs_pointer(sha256, size)), "lfs": True}

    # ---- repositories and refs ----
    def _repo_file(self, repo_type: str, repo_id: str) -> Path:
        return self.root / "repos" / f"{repo_type}--{repo_id.replace('/', '--')}.json"

    def repo(self, repo_type: str, repo_id: str) -> dict | None:
        """`{"id", "type", "private", "gated", "refs": {"refs/heads/main": sha}}`, or None where there is none."""
        path = self._repo_file(repo_type, repo_id)
        with self.lock:
            return json.loads(path.read_text()) if path.is_file() else None

    def repos(self, repo_type: str) -> list[dict]:
        with self.lock:
            return [json.loads(p.read_text()) for p in sorted((self.root / "repos").glob(f"{repo_type}--*.json"))]

    def save_repo(self, repo: dict) -> None:
        with self.lock:
            self._repo_file(repo["type"], repo["id"]).write_text(json.dumps(repo))

    def create_repo(self, repo_type: str, repo_id: str, private: bool = False) -> dict:
        with self.lock:
            if self.repo(repo_type, repo_id):
                raise ValueError(f"{repo_type} {repo_id} exists")
            repo = {"id": repo_id, "type": repo_type, "private": private, "gated": False, "refs": {}}
            self.save_repo(repo)
            operations = [{"key": "add", "path": ".gitattributes", "entry": self.put_bytes(GITATTRIBUTES)}]
            self.commit(repo_type, repo_id, "main", operations, "initial commit", repo_id.split("/")[0])
            return self.repo(repo_type, repo_id)

    def delete_repo(self, repo_type: str, repo_id: str) -> None:
        with self.lock:
            self._repo_file(repo_type, repo_id).unlink()

    def resolve(self, repo_type: str, repo_id: str, revision: str) -> str:
        """Commit sha of a branch, tag, full ref or sha."""
        repo = self.repo(repo_type, repo_id)
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in repo["refs"]:
                return repo["refs"][ref]
        if len(revision) == 40 and (self.root / "commits" / f"{revision}.json").is_file():
            return revision
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def set_ref(self, repo_type: str, repo_id: str, ref: str, sha: str) -> None:
        with self.lock:
            repo = self.repo(repo_type, repo_id)
            if ref in repo["refs"]:
                raise Refused(409, f"Reference {ref} already exists")
            repo["refs"][ref] = sha
            self.save_repo(repo)

    def delete_ref(self, repo_type: str, repo_id: str, ref: str) -> None:
        with self.lock:
            repo = self.repo(repo_type, repo_id)
            if repo["refs"].pop(ref, None) is None:
                raise Refused(404, f"Reference {ref} does not exist", "RevisionNotFound")
            self.save_repo(repo)

    def tags(self, repo_type: str, repo_id: str) -> dict[str, str]:
        refs = self.repo(repo_type, repo_id)["refs"]
        return {ref.removeprefix("refs/tags/"): sha for ref, sha in refs.items() if ref.startswith("refs/tags/")}

    # ---- commits ----
    def read_commit(self, sha: str) -> dict:
        return json.loads((self.root / "commits" / f"{sha}.json").read_text())

    def commits(self, repo_type: str, repo_id: str, revision: str = "main") -> list[dict]:
        """Newest first."""
        history, sha = [], self.resolve(repo_type, repo_id, revision)
        while sha:
            history.append(self.read_commit(sha))
            sha = history[-1]["parent"]
        return history

    def files(self, repo_type: str, repo_id: str, revision: str = "main") -> dict[str, dict]:
        """`{path: {"sha256", "size", "oid", "lfs"}}` at one revision."""
        return self.read_commit(self.resolve(repo_type, repo_id, revision))["files"]

    def read(self, repo_type: str, repo_id: str, path: str, revision: str = "main") -> bytes:
        return self.blob(self.files(repo_type, repo_id, revision)[path]["sha256"]).read_bytes()

    def commit(self, repo_type, repo_id, branch, operations, title, author, parent=None, onto=None) -> str:
        """Writes one commit and moves `branch` (or the full ref `onto`) to it; all or nothing.

        Args:
            operations (`list[dict]`): `{"key": "add", "path", "entry"}`, `{"key": "delete", "path"}` or
                `{"key": "delete_folder", "path"}`.
            parent (`str`, *optional*): The commit that the client believes to be the head; another one is a 412.
        """
        with self.lock:
            repo = self.repo(repo_type, repo_id)
            ref = branch if branch.startswith("refs/") else f"refs/heads/{branch}"
            head = repo["refs"].get(ref)
            if head is None and repo["refs"]:
                raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            if parent is not None and parent != head:
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            files = dict(self.read_commit(head)["files"]) if head else {}
            for operation in operations:
                path = operation["path"]
                if operation["key"] == "add":
                    files[path] = operation["entry"]
                elif operation["key"] == "delete" and path in files:
                    del files[path]
                elif operation["key"] == "delete_folder" and any(p.startswith(path.rstrip("/") + "/") for p in files):
                    files = {p: e for p, e in files.items() if not p.startswith(path.rstrip("/") + "/")}
                else:
                    raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            number = len(list((self.root / "commits").iterdir()))
            body = {"parent": head, "title": title, "author": author, "number": number, "files": files}
            sha = hashlib.sha1(json.dumps([repo_type, repo_id, body], sort_keys=True).encode()).hexdigest()
            # One minute per commit: dates that grow and are the same in every run.
            date = f"2030-01-{1 + number // 1440:02d}T{number // 60 % 24:02d}:{number % 60:02d}:00.000Z"
            (self.root / "commits" / f"{sha}.json").write_text(json.dumps({"id": sha, "date": date, **body}))
            repo["refs"][onto or ref] = sha
            self.save_repo(repo)
            return sha
