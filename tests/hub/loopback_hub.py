"""A Hub on loopback: real HTTP, real clients, no network. What it does is what the clients in use ask for.

`LoopbackHub(folder)` serves at `.url`; `.requests` remembers every request, and `.fail_next` and `.cut_next` break the
next ones. Fixtures: hub_fixtures.py. Answers: hub_routes.py and hub_files.py. Storage: hub_store.py.
What passes here is not thereby proved against the real Hub.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import hub_files
import hub_routes
from hub_store import HubStore, Refused

_API = r"/api/(?P<kind>model|dataset)s/(?P<repo>[^/]+/[^/]+)"
_WEB = r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)"
# HTTP method, path, and who answers; the function's name is what `fail_next` and `.requests` call the route.
ROUTES = [
    ("GET", r"/api/whoami-v2", hub_routes.whoami),
    ("POST", r"/api/repos/create", hub_routes.create_repo),
    ("DELETE", r"/api/repos/delete", hub_routes.delete_repo),
    ("POST", r"/api/validate-yaml", hub_routes.validate_yaml),
    ("GET", r"/api/(?P<kind>model|dataset)s", hub_routes.list_repos),
    ("GET", _API + r"(?:/revision/(?P<rev>[^/]+))?", hub_routes.info),
    ("GET", _API + r"/refs", hub_routes.refs),
    ("GET", _API + r"/commits/(?P<rev>[^/]+)", hub_routes.commits),
    ("POST", _API + r"/branch/(?P<rev>[^/]+)", hub_routes.branch),
    ("DELETE", _API + r"/branch/(?P<rev>[^/]+)", hub_routes.delete_branch),
    ("POST", _API + r"/tag/(?P<rev>[^/]+)", hub_routes.tag),
    ("DELETE", _API + r"/tag/(?P<rev>[^/]+)", hub_routes.delete_tag),
    ("PUT", _API + r"/settings", hub_routes.settings),
    ("GET", _API + r"/tree/(?P<rev>[^/]+)(?:/(?P<path>.+))?", hub_files.tree),
    ("POST", _API + r"/paths-info/(?P<rev>[^/]+)", hub_files.paths_info),
    ("POST", _API + r"/preupload/(?P<rev>[^/]+)", hub_files.preupload),
    ("POST", _API + r"/commit/(?P<rev>[^/]+)", hub_files.commit),
    ("POST", _WEB + r"\.git/info/lfs/objects/batch", hub_files.lfs_batch),
    ("PUT", r"/lfs/(?P<sha256>[0-9a-f]{64})", hub_files.lfs_put),
    ("GET", r"/lfs/(?P<sha256>[0-9a-f]{64})", hub_files.lfs_get),
    ("GET", _WEB + r"/resolve/(?P<rev>[^/]+)/(?P<path>.+)", hub_files.resolve),
]
_ROUTES = [(method, re.compile(path), answer) for method, path, answer in ROUTES]
_UPLOAD_CUT, _ANSWER_CUT = "upload", "answer"


@dataclass(frozen=True)
class Request:
    """One request that was answered, or cut: `status` is 0 for the latter."""

    route: str
    method: str
    path: str
    user: str | None
    status: int
    size: int  # bytes of the request's body that were read


class LoopbackHub:
    """The server, its users, and its faults."""

    def __init__(self, root: Path):
        self.store = HubStore(root / "store")
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.server.hub, self.server.daemon_threads = self, True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.cdn = f"http://localhost:{self.server.server_address[1]}"  # to a client, another host
        self.reset()
        threading.Thread(target=self.server.serve_forever, daemon=True, name="loopback-hub").start()

    def reset(self) -> None:
        """An empty Hub: no repository, user, fault or remembered request."""
        self.store.clear()
        self.tokens: dict[str, str] = {}
        self.orgs: dict[str, set[str]] = {}
        self.requests: list[Request] = []
        self.faults: list[dict] = []

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add_user(self, name: str, orgs: Iterable[str] = ()) -> str:
        """Returns the user's token, which is the same in every run. Members of an organisation may write to it."""
        token = "hf_" + hashlib.sha256(name.encode()).hexdigest()[:34]
        self.tokens[token] = name
        for org in orgs:
            self.orgs.setdefault(org, set()).add(name)
        return token

    def may_write(self, user: str | None, repo_id: str) -> bool:
        namespace = repo_id.split("/")[0]
        return user is not None and (user == namespace or user in self.orgs.get(namespace, ()))

    def fail_next(self, route: str, status: int = 503, times: int = 1, headers: dict[str, str] | None = None) -> None:
        """The next `times` requests to `route` are refused with `status`; nothing is kept."""
        self._add_fault(route, times, {"status": status, "headers": headers})

    def cut_next(self, route: str, times: int = 1, when: str = _UPLOAD_CUT) -> None:
        """The next `times` connections are cut: in mid "upload", or before the "answer" to a done deed."""
        self._add_fault(route, times, {"cut": when})

    def _add_fault(self, route: str, times: int, fault: dict) -> None:
        names = [answer.__name__ for _, _, answer in ROUTES]
        if route not in names or fault.get("cut") not in (None, _UPLOAD_CUT, _ANSWER_CUT):
            raise ValueError(f"no such fault: {route!r}, {fault}; routes are {names}")
        self.faults += [{"route": route, **fault}] * times

    def take_fault(self, route: str) -> dict:
        fault = next((f for f in self.faults if f["route"] == route), {})
        if fault:
            self.faults.remove(fault)
        return fault

    def count(self, route: str, status: int | None = None) -> int:
        """How many requests there were to `route`, with that answer where one is named."""
        return sum(r.route == route and status in (None, r.status) for r in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or every answer waits 40 ms for the client's acknowledgement

    def log_message(self, *args):
        """Silent: tests read `.requests`."""

    def handle_any(self):
        hub, url = self.server.hub, urlsplit(self.path)
        method = "GET" if self.command == "HEAD" else self.command
        matches = ((answer, pattern.fullmatch(url.path)) for m, pattern, answer in _ROUTES if m == method)
        answer, match = next(((answer, found) for answer, found in matches if found), (None, None))
        self.route = answer.__name__ if answer else "unknown"
        self.hub, self.query, self.user, self.read_size, self.mute = hub, parse_qs(url.query), None, 0, False
        with hub.store.lock:
            fault = hub.take_fault(self.route)
        try:
            self._answer(answer, match, fault)
        except Refused as refused:
            headers = {"X-Error-Message": refused.message, **refused.headers}
            if refused.code:
                headers["X-Error-Code"] = refused.code
            self.json({"error": refused.message}, refused.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def _answer(self, answer, match, fault: dict):
        self.body = self._read_body(half=fault.get("cut") == _UPLOAD_CUT)
        if fault.get("cut") == _UPLOAD_CUT:
            return self._hang_up()
        if fault.get("status"):
            raise Refused(fault["status"], "a fault that the test asked for", headers=fault["headers"])
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        self.user = self.hub.tokens.get(token)
        if answer is None:
            raise Refused(404, f"the loopback Hub has no {self.command} {self.path}")
        arguments = {name: unquote(value) if value else value for name, value in match.groupdict().items()}
        if "kind" in arguments:
            arguments["kind"] = "dataset" if (arguments["kind"] or "").startswith("dataset") else "model"
        self.mute = fault.get("cut") == _ANSWER_CUT  # the deed is done, but its answer gets lost
        answer(self, **arguments)

    # ---- reading and answering ----
    def _read_body(self, half: bool) -> bytes:
        if "chunked" in self.headers.get("transfer-encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size // 2 if half else size))
                if half:
                    break
                self.rfile.readline()
            else:
                self.rfile.readline()
            body = b"".join(parts)
        else:
            length = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(length // 2 if half else length)
        self.read_size = len(body)
        return body

    def _remember(self, status: int):
        """Before the client gets its answer, so that a test that counts then finds this request."""
        with self.hub.store.lock:
            request = Request(self.route, self.command, self.path, self.user, status, self.read_size)
            self.hub.requests.append(request)

    def _hang_up(self):
        self._remember(0)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def send(self, body: bytes, status: int, headers: dict[str, str]):
        if self.mute:
            return self._hang_up()
        self._remember(status)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, answer, status: int = 200, headers: dict[str, str] | None = None):
        self.send(json.dumps(answer).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def repo(self, kind: str, repo: str, write: bool = False, gate: bool = False) -> dict:
        """The repository, where this user may see (or write) it; as on the Hub, a hidden one looks like none."""
        hub = self.hub
        found, may_write = hub.store.repo(kind, repo), hub.may_write(self.user, repo)
        if found is None or (found["private"] and not may_write):
            raise Refused(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if write and not may_write:
            raise Refused(403 if self.user else 401, f"You have no write access to {repo}")
        if gate and found["gated"] and not may_write:
            raise Refused(403 if self.user else 401, f"Access to {kind} {repo} is restricted", "GatedRepo")
        return found
