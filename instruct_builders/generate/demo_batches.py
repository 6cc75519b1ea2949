"""The demo server's Batch API: files, batches and their results, in memory."""

from __future__ import annotations

import json
import random
import re
import time
import uuid
from typing import TYPE_CHECKING

from . import demo_faults

if TYPE_CHECKING:
    from .demo_server import DemoServer


class Batches:
    """Uploaded files and batches. A batch is done `batch_seconds` after it was made; faults hit single lines."""

    def __init__(self, server: DemoServer):
        self.server = server
        self.files: dict[str, bytes] = {}
        self.made: dict[str, dict] = {}

    def handle(self, method: str, path: str, headers: dict, body: bytes) -> demo_faults.Plan:
        path = path.partition("?")[0]
        if method == "POST" and path.endswith("/files"):
            return self.upload(headers, body)
        if method == "POST" and path.endswith("/batches"):
            return self.create(json.loads(body))
        if found := re.search(r"/files/([^/]+)/content$", path):
            if found[1] in self.files:
                return demo_faults.Plan(200, self.files[found[1]], content_type="application/octet-stream")
        elif path.endswith("/batches"):
            batches = [self.refreshed(batch) for batch in reversed(self.made.values())]
            page = {"object": "list", "data": batches, "has_more": False}
            return demo_faults.Plan(200, json.dumps(page).encode())
        elif (found := re.search(r"/batches/([^/]+)$", path)) and found[1] in self.made:
            return demo_faults.Plan(200, json.dumps(self.refreshed(self.made[found[1]])).encode())
        return demo_faults.Plan(404, demo_faults.error(f"no {path}"))

    def upload(self, headers: dict, body: bytes) -> demo_faults.Plan:
        boundary = headers["content-type"].partition("boundary=")[2].strip('"').encode()
        parts = [part.partition(b"\r\n\r\n") for part in body.split(b"--" + boundary)]
        content = next(text for head, _, text in parts if b"filename=" in head)
        name = f"file-{uuid.uuid4().hex[:12]}"
        self.files[name] = content.removesuffix(b"\r\n")
        made = {"id": name, "object": "file", "bytes": len(body), "created_at": 0, "filename": "b", "purpose": "batch"}
        return demo_faults.Plan(200, json.dumps({**made, "status": "processed"}).encode())

    def create(self, request: dict) -> demo_faults.Plan:
        batch = {
            "id": f"batch-{uuid.uuid4().hex[:12]}",
            "object": "batch",
            "endpoint": request["endpoint"],
            "input_file_id": request["input_file_id"],
            "completion_window": request["completion_window"],
            "status": "in_progress",
            "created_at": int(time.time()),
            "metadata": request.get("metadata"),
        }
        self.made[batch["id"]] = batch
        batch["ready"] = time.monotonic() + self.server.options.batch_seconds
        return demo_faults.Plan(200, json.dumps(batch).encode())

    def refreshed(self, batch: dict) -> dict:
        """The batch as it is now; answers its lines when its time has come, the last line first."""
        if batch["status"] != "in_progress" or time.monotonic() < batch["ready"]:
            return batch
        good, bad = [], []
        for line in reversed(self.files[batch["input_file_id"]].splitlines()):
            self.answer(json.loads(line), good, bad)
        for name, lines in (("output_file_id", good), ("error_file_id", bad)):
            if lines:
                batch[name] = f"file-{uuid.uuid4().hex[:12]}"
                self.files[batch[name]] = b"\n".join(lines) + b"\n"
        batch["status"] = "completed"
        return batch

    def answer(self, line: dict, good: list[bytes], bad: list[bytes]) -> None:
        server, name = self.server, line["custom_id"]
        arrival = server.arrivals[name]
        server.arrivals[name] += 1
        status, body = 200, json.loads(server.reply(line["body"]))
        draw = random.Random(f"{server.options.seed} {name} {arrival}")
        if server.faults and arrival < server.options.fault_attempts and draw.random() < server.options.fault_share:
            made = demo_faults.plan(draw.choice(server.faults), line["body"], json.dumps(body).encode(), 0)
            status, body = made.status, json.loads(made.body)
        server.write_log({"row": name, "arrival": arrival, "status": status, "batch": True})
        response = {"status_code": status, "request_id": "r", "body": body}
        result = json.dumps({"id": uuid.uuid4().hex, "custom_id": name, "response": response, "error": None}).encode()
        (good if status == 200 else bad).append(result)
