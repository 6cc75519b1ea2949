"""What the loopback Hub answers about files: listings, uploads, commits, downloads. `h` is the request at hand."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from urllib.parse import parse_qs

from hub_store import LFS_SIZE, LFS_SUFFIXES, Refused, lfs_pointer

PAGE = 100  # entries of a listing per answer: small, so that tests meet paging


def _entry(path: str, file: dict) -> dict:
    entry = {"type": "file", "path": path, "size": file["size"], "oid": file["oid"]}
    if file["lfs"]:
        pointer_size = len(lfs_pointer(file["sha256"], file["size"]))
        entry["lfs"] = {"oid": file["sha256"], "size": file["size"], "pointerSize": pointer_size}
    return entry


def _folder(path: str) -> dict:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}


def _folders(files: dict[str, dict]) -> set[str]:
    """Every folder above a file."""
    parts = [path.split("/")[:-1] for path in files]
    return {"/".join(part[: depth + 1]) for part in parts for depth in range(len(part))}


def tree(h, kind, repo, rev, path):
    h.repo(kind, repo)
    files = h.hub.store.files(kind, repo, rev)
    entries = {p: _entry(p, f) for p, f in files.items()} | {p: _folder(p) for p in _folders(files)}
    prefix = f"{path}/" if path else ""
    if path and path not in _folders(files):
        raise Refused(404, f"{path} does not exist", "EntryNotFound")
    recursive = h.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    shown = [
        entry
        for name, entry in sorted(entries.items())
        if name.startswith(prefix) and (recursive or "/" not in name.removeprefix(prefix))
    ]
    start = int(h.query.get("cursor", ["0"])[0])
    headers = {}
    if start + PAGE < len(shown):
        url = f"{h.hub.url}{h.path.split('?')[0]}?recursive={str(recursive).lower()}&cursor={start + PAGE}"
        headers["Link"] = f'<{url}>; rel="next"'
    h.json(shown[start : start + PAGE], headers=headers)


def paths_info(h, kind, repo, rev):
    h.repo(kind, repo)
    files = h.hub.store.files(kind, repo, rev)
    if h.headers.get("content-type", "").startswith("application/json"):
        asked = json.loads(h.body)["paths"]
    else:
        asked = parse_qs(h.body.decode()).get("paths", [])
    found = [_entry(p, files[p]) for p in asked if p in files]
    h.json(found + [_folder(p) for p in asked if p in _folders(files)])


def preupload(h, kind, repo, rev):
    h.repo(kind, repo, write=True)
    files, answer = h.hub.store.files(kind, repo, rev), []
    for asked in json.loads(h.body)["files"]:
        path, old = asked["path"], files.get(asked["path"])
        lfs = path.endswith(LFS_SUFFIXES) or asked["size"] > LFS_SIZE
        # `oid` lets the client see that a file has not changed: sha256 for LFS, git's sha1 for the others.
        oid = {"oid": old["sha256"] if old["lfs"] else old["oid"]} if old else {}
        answer.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, **oid})
    h.json({"files": answer})


def commit(h, kind, repo, rev):
    found, store = h.repo(kind, repo, write=True), h.hub.store
    header, operations = {}, []
    for line in h.body.splitlines():
        item = json.loads(line)
        key, value = item["key"], item["value"]
        if key == "header":
            header = value
        elif key == "file":
            entry = store.put_bytes(base64.b64decode(value["content"]))
            operations.append({"key": "add", "path": value["path"], "entry": entry})
        elif key == "lfsFile":
            operations.append({"key": "add", "path": value["path"], "entry": store.lfs_entry(value["oid"])})
        else:
            operations.append({"deletedFile": "delete", "deletedFolder": "delete_folder"}[key])
            operations[-1] = {"key": operations[-1], "path": value["path"]}
    pr = sum(ref.startswith("refs/pr/") for ref in found["refs"]) + 1 if "create_pr" in h.query else None
    title, parent = header["summary"], header.get("parentCommit")
    sha = store.commit(kind, repo, rev, operations, title, h.user, parent, onto=f"refs/pr/{pr}" if pr else None)
    url = f"{h.hub.url}/{'datasets/' if kind == 'dataset' else ''}{repo}"
    extra = {"pullRequestUrl": f"{url}/discussions/{pr}"} if pr else {}
    h.json({"success": True, "commitOid": sha, "commitUrl": f"{url}/commit/{sha}", **extra})


def lfs_batch(h, kind, repo):
    h.repo(kind, repo, write=True)
    objects = []
    for asked in json.loads(h.body)["objects"]:
        item = {"oid": asked["oid"], "size": asked["size"]}
        if not h.hub.store.blob(asked["oid"]).is_file():  # what is there need not be sent again
            item["actions"] = {"upload": {"href": f"{h.hub.url}/lfs/{asked['oid']}"}}
        objects.append(item)
    h.json({"transfer": "basic", "objects": objects})


def lfs_put(h, sha256):
    if hashlib.sha256(h.body).hexdigest() != sha256:
        raise Refused(400, "The content has another sha256 than its name says")
    blob = h.hub.store.blob(sha256)
    part = blob.with_name(f"{sha256}.{threading.get_ident()}.part")
    part.write_bytes(h.body)
    os.replace(part, blob)
    h.json({})


def lfs_get(h, sha256):
    """Signed addresses need no token: whoever got one from `resolve` may read."""
    blob = h.hub.store.blob(sha256)
    if not blob.is_file():
        raise Refused(404, "no such object", "EntryNotFound")
    _send_range(h, blob.read_bytes(), {"ETag": f'"{sha256}"'})


def resolve(h, kind, repo, rev, path):
    h.repo(kind, repo, gate=True)
    sha = h.hub.store.resolve(kind, repo, rev)
    file = h.hub.store.files(kind, repo, sha).get(path)
    if file is None:
        raise Refused(404, f"{path} does not exist", "EntryNotFound", {"X-Repo-Commit": sha})
    headers = {"X-Repo-Commit": sha, "ETag": f'"{file["sha256"] if file["lfs"] else file["oid"]}"'}
    if file["lfs"]:
        # As on the Hub, large files are at another host, which clients must not send their token to.
        linked = {"X-Linked-Size": str(file["size"]), "X-Linked-Etag": headers["ETag"]}
        return h.send(b"", 302, {**headers, **linked, "Location": f"{h.hub.cdn}/lfs/{file['sha256']}"})
    _send_range(h, h.hub.store.blob(file["sha256"]).read_bytes(), headers)


def _send_range(h, content: bytes, headers: dict[str, str]):
    headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", h.headers.get("range", ""))
    if not asked:
        return h.send(content, 200, headers)
    first, last = asked.groups()
    start = int(first) if first else max(len(content) - int(last), 0)
    stop = min(int(last) + 1, len(content)) if first and last else len(content)
    if start >= len(content):
        raise Refused(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{len(content)}"})
    span = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
    h.send(content[start:stop], 206, {**headers, **span})
