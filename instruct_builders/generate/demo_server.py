"""A scripted server that speaks the OpenAI protocol, for trying things out without a key and for tests.

    python -m instruct_builders.generate.demo_server --port 8000

Its model is `scripted-demo`: what it says comes from a grammar (demo_answers.py), not from a language model. The first
line of the system message, `task: KIND`, tells it what is wanted; KIND is one of bootstrap, classify,
instances_input_first, instances_output_first, alpaca, evolve/OPERATOR, equal, answer, simple_instruction,
simple_instance (what each one answers: demo_answers.py). Faults can be switched on, seeded: which request meets one
depends on the seed, the messages and how often they arrived, not on timing.

Flags: `--host`, `--port` (0 takes a free one; the address is the first line written), `--seed`, `--latency SECONDS`,
`--latency_sigma S` (log-normal around it), `--fault NAME` (comma-separated, see demo_faults.FAULTS), `--fault_share
0.3`, `--fault_attempts 1` (how many arrivals of a question can meet a fault), `--hang SECONDS`, `--rate N` and
`--burst N` (a token bucket; 429 beyond), `--retry_after VALUE`, `--storm_start SECONDS`, `--storm SECONDS`,
`--storm_status 503`, `--limit_in_flight N`, `--key KEY` (401 without it), `--fixed true` (one answer, precomputed),
`--batch_seconds S`, `--log FILE` (a JSON line per request).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO

from ..errors import ConfigError, did_you_mean
from . import demo_answers, demo_batches, demo_faults

MODEL = "scripted-demo"
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


@dataclass
class Options:
    """The flags of the server; see the module's docstring."""

    host: str = "127.0.0.1"
    port: int = 8000
    seed: int = 0
    latency: float = 0.0
    latency_sigma: float = 0.0
    fault: str = ""
    fault_share: float = 0.3
    fault_attempts: int = 1
    hang: float = 30.0
    rate: float = 0.0
    burst: float = 0.0
    retry_after: str = ""
    storm_start: float = 0.0
    storm: float = 0.0
    storm_status: int = 503
    limit_in_flight: int = 0
    key: str = ""
    fixed: bool = False
    batch_seconds: float = 0.2
    log: str = ""


class DemoServer:
    """The server's state; one protocol object per connection shares it."""

    def __init__(self, options: Options):
        self.options = options
        self.faults = [name for name in options.fault.split(",") if name]
        for name in self.faults:
            if name not in demo_faults.FAULTS:
                close = did_you_mean(name, demo_faults.FAULTS)
                raise ConfigError(f"fault {name!r}: {', '.join(demo_faults.FAULTS)} are allowed.{close}")
        self.arrivals: Counter[str] = Counter()
        self.first: float | None = None
        self.level, self.filled = options.burst or options.rate, time.monotonic()
        self.in_flight = 0
        self.log: IO[str] | None = open(options.log, "a", encoding="utf-8", buffering=1) if options.log else None
        self.draw = random.Random(options.seed)
        self.batches = demo_batches.Batches(self)
        self.connections: set[Connection] = set()
        self.server: asyncio.Server | None = None
        self.fixed = (
            self.completion({"messages": [], "model": MODEL}, " ".join(["fixed"] * 200)) if options.fixed else b""
        )

    async def start(self) -> str:
        """Listens; gives the `base_url` to use."""
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(
            lambda: Connection(self), self.options.host, self.options.port, backlog=2048
        )
        port = self.server.sockets[0].getsockname()[1]
        return f"http://{self.options.host}:{port}/v1"

    async def close(self) -> None:
        self.server.close()
        for connection in list(self.connections):
            connection.transport.close()
        await self.server.wait_closed()
        if self.log is not None:
            self.log.close()

    def completion(self, request: dict, text: str) -> bytes:
        """The body of a good reply. Tokens are counted as four characters each."""
        said = sum(len(str(turn.get("content") or "")) for turn in request["messages"])
        prompt, completion = -(-said // 4), -(-len(text) // 4)
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        message = {"role": "assistant", "content": text}
        reply = {
            "id": "chatcmpl-" + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:24],
            "object": "chat.completion",
            "created": 0,
            "model": request.get("model", MODEL),
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage,
        }
        return json.dumps(reply).encode("ascii")

    def reply(self, request: dict) -> bytes:
        """The good reply to a request: a pure function of the seed and the request."""
        if self.fixed:
            return self.fixed
        return self.completion(
            request, demo_answers.answer(self.options.seed, request["messages"], request.get("seed"))
        )

    def refused(self) -> tuple[int, dict] | None:
        """The status and headers of a refusal where a storm, the rate or the number in flight is the reason."""
        options, now = self.options, time.monotonic()
        self.first = now if self.first is None else self.first
        after = {"retry-after": options.retry_after} if options.retry_after else {}
        if options.storm_start <= now - self.first < options.storm_start + options.storm:
            return options.storm_status, after
        if options.limit_in_flight and self.in_flight >= options.limit_in_flight:
            return 429, after
        if options.rate:
            most = options.burst or options.rate
            self.level = min(most, self.level + (now - self.filled) * options.rate)
            self.filled = now
            if self.level < 1:
                return 429, after
            self.level -= 1
        return None

    def plan(self, body: bytes) -> tuple[demo_faults.Plan, dict]:
        """How to answer a chat request, and the line for the log."""
        entry = {"time": round(time.time(), 3)}
        if refusal := self.refused():
            status, headers = refusal
            return demo_faults.Plan(status, demo_faults.error("slow down", "rate_limit_exceeded"), headers), entry
        if self.fixed and not self.faults:
            return demo_faults.Plan(200, self.fixed), entry
        try:
            request = json.loads(body)
            messages = request["messages"]
        except (ValueError, KeyError, TypeError):
            return demo_faults.Plan(400, demo_faults.error("no messages")), entry
        if request.get("model") != MODEL:
            return demo_faults.Plan(
                404, demo_faults.error(f"no model {request.get('model')}", "model_not_found")
            ), entry
        row = hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:16]
        arrival = self.arrivals[row]
        self.arrivals[row] += 1
        entry |= {"row": row, "arrival": arrival, "body": hashlib.sha256(body).hexdigest()[:16]}
        if self.faults and arrival < self.options.fault_attempts:
            # Which rows are faulty does not depend on the arrival: with enough attempts they never get better.
            if random.Random(f"{self.options.seed} {row}").random() < self.options.fault_share:
                name = random.Random(f"{self.options.seed} {row} {arrival}").choice(self.faults)
                return demo_faults.plan(name, request, self.reply(request), self.options.hang), entry | {"fault": name}
        return demo_faults.Plan(200, self.reply(request)), entry

    def delay(self) -> float:
        options = self.options
        if not options.latency_sigma:
            return options.latency
        return self.draw.lognormvariate(math.log(options.latency), options.latency_sigma)

    def write_log(self, entry: dict) -> None:
        if self.log is not None:
            self.log.write(json.dumps(entry) + "\n")


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, as little of it as clients need."""

    def __init__(self, server: DemoServer):
        self.server, self.buffer, self.transport = server, b"", None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.server.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.server.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].decode("latin-1")
            lines = head.split("\r\n")
            headers = {
                name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
            }
            size = int(headers.get("content-length", 0))
            if len(self.buffer) < end + 4 + size:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + size], self.buffer[end + 4 + size :]
            method, path = lines[0].split(" ")[:2]
            self.handle(method, path, headers, body)

    def handle(self, method: str, path: str, headers: dict, body: bytes) -> None:
        server = self.server
        if server.options.key and headers.get("authorization") != f"Bearer {server.options.key}":
            given = headers.get("authorization", "none")
            self.answer(demo_faults.Plan(401, demo_faults.error(f"Incorrect API key: {given}", "invalid_api_key")), {})
        elif path.endswith("/chat/completions") and method == "POST":
            plan, entry = server.plan(body)
            server.in_flight += 1
            delay = server.delay() if plan.status == 200 else 0.0
            asyncio.get_running_loop().call_later(delay, self.finish, plan, entry)
        elif path.endswith("/models"):
            models = {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "demo"}]}
            self.answer(demo_faults.Plan(200, json.dumps(models).encode()), {})
        elif "/files" in path or "/batches" in path:
            self.answer(server.batches.handle(method, path, headers, body), {"path": f"{method} {path}"})
        else:
            self.answer(demo_faults.Plan(404, demo_faults.error(f"no {path}")), {})

    def finish(self, plan: demo_faults.Plan, entry: dict) -> None:
        self.server.in_flight -= 1
        self.answer(plan, entry)

    def answer(self, plan: demo_faults.Plan, entry: dict) -> None:
        """Writes the log line first: whoever is killed in between has paid all the same."""
        self.server.write_log({**entry, "status": plan.status})
        if self.transport.is_closing():
            return
        head = f"HTTP/1.1 {plan.status} {REASONS.get(plan.status, 'Status')}\r\n"
        fields_ = {"content-type": plan.content_type, "content-length": len(plan.body), **plan.headers}
        raw = (head + "".join(f"{name}: {value}\r\n" for name, value in fields_.items()) + "\r\n").encode("latin-1")
        loop = asyncio.get_running_loop()
        if plan.manner == "reset":
            self.transport.abort()
        elif plan.manner == "cut":
            self.transport.write(raw + plan.body[: len(plan.body) // 2])
            self.transport.close()
        elif plan.manner == "hang":
            loop.call_later(plan.seconds, self.transport.abort)
        elif plan.manner == "drip":
            self.transport.write(raw)
            self._drip(plan.body, plan.seconds / max(1, len(plan.body)))
        else:
            self.transport.write(raw + plan.body)

    def _drip(self, rest: bytes, pause: float) -> None:
        if rest and not self.transport.is_closing():
            self.transport.write(rest[:1])
            asyncio.get_running_loop().call_later(max(0.05, pause), self._drip, rest[1:], pause)


def parse(arguments: list[str]) -> Options:
    """`--name value` pairs -> options. (Parsers of arguments have their home in recipes/.)"""
    kinds = {field.name: type(field.default) for field in fields(Options)}
    given = asdict(Options())
    names = [name.removeprefix("--").replace("-", "_") for name in arguments[::2]]
    if len(arguments) % 2 or not all(name.startswith("--") for name in arguments[::2]):
        raise ConfigError(f"{arguments}: pairs of --name value are allowed.")
    for name, value in zip(names, arguments[1::2], strict=True):
        if name not in kinds:
            raise ConfigError(f"--{name}: {', '.join(kinds)} are allowed.{did_you_mean(name, kinds)}")
        try:
            given[name] = value.lower() in ("1", "true", "yes") if kinds[name] is bool else kinds[name](value)
        except ValueError as error:
            raise ConfigError(f"--{name} {value}: {error}") from error
    return Options(**given)


async def serve(options: Options) -> None:
    """Runs until it is killed; the first line on standard output is the `base_url`."""
    server = DemoServer(options)
    sys.stdout.write(await server.start() + "\n")
    sys.stdout.flush()
    await server.server.serve_forever()


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.exit(sys.stdout.write(f"{__doc__}\n") and None)
    try:
        asyncio.run(serve(parse(sys.argv[1:])))
    except ConfigError as error:
        sys.exit(f"{Path(__file__).stem}: {error}")
    except KeyboardInterrupt:
        pass
