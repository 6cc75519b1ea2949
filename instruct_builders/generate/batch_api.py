"""OpenAI's Batch API as a transport: questions are collected, handed over as one file, and fetched when they are done.

Which batch holds which question is in the journal before the batch is made, so that a run that was killed finds its
batches again and sends nothing twice.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
import uuid

from ..errors import GenerationError, Stopped
from .journal import Journal
from .sending import Sender, Unreachable
from .statuses import BUSY, Reply

MOST_LINES, MOST_BYTES = 50_000, 190_000_000  # of one batch: OpenAI allows 50,000 lines and 200 MB
QUIET_SECONDS = 1.0  # nothing new was asked for so long: then a batch is handed over
POLL_SECONDS = (5.0, 60.0)  # the first and the longest pause between looks at a batch
FINAL = ("completed", "expired", "failed", "cancelled")


class BatchTransport:
    """Sends questions in batches; each call resolves when its batch is done.

    Args:
        client: The openai client.
        journal ([`Journal`]): Where batches are noted.
        errors (`tuple`): The client's exceptions for statuses and connections.
    """

    name = "the Batch API"

    def __init__(self, client, journal: Journal, errors: tuple):
        self.client, self.journal, self.errors = client.with_options(max_retries=8), journal, errors
        self.quiet, self.poll = QUIET_SECONDS, POLL_SECONDS
        self.sender: Sender | None = None
        self.futures: dict[str, asyncio.Future] = {}
        self.collected: dict[str, bytes] = {}
        self.size, self.last = 0, 0.0
        self.tasks: set[asyncio.Task] = set()
        self.collector: asyncio.Task | None = None
        self.earlier: set[str] = set()

    async def start(self, sender: Sender) -> None:
        """Takes up the batches that an earlier run left, those too whose making it did not live to note.

        Raises:
            GenerationError: If the server can't be asked for them.
        """
        self.sender = sender
        rows = self.journal.db.execute("SELECT token, batch, questions FROM batches WHERE state = 'open'").fetchall()
        if any(batch is None for _, batch, _ in rows):
            found = {}
            try:
                async for batch in self.client.batches.list(limit=100):
                    found[(batch.metadata or {}).get("token")] = batch.id
            except self.errors as error:
                raise GenerationError(f"the list of batches can't be read: {sender.clean(str(error))}") from error
            rows = [(token, batch or found.get(token), names) for token, batch, names in rows]
        for token, batch, names in rows:
            if batch is None:  # never made: its questions are asked anew
                self._note("UPDATE batches SET state = 'lost' WHERE token = ?", (token,))
                continue
            self.earlier |= set(json.loads(names))
            self._follow(token, batch, json.loads(names))

    def is_under_way(self, name: str) -> bool:
        """Whether a batch of an earlier run holds this question: it is paid for already."""
        return name in self.earlier

    async def __call__(self, body: bytes, name: str) -> Reply:
        future = self.futures.get(name)
        if future is None:
            future = self.futures[name] = asyncio.get_running_loop().create_future()
            self.collected[name] = body
            self.size, self.last = self.size + len(body), time.monotonic()
            if self.collector is None:
                self.collector = self._spawn(self._collect())
        await asyncio.wait([future, self.sender.halted], return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            self.futures.pop(name, None)
            self.earlier.discard(name)
            return future.result()
        raise Stopped("stopped while a batch was under way: the same command fetches it when it is done.")

    def _spawn(self, work) -> asyncio.Task:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def _collect(self) -> None:
        """Hands a batch over as soon as it is full, or nothing more comes."""
        while self.collected:
            full = len(self.collected) >= MOST_LINES or self.size >= MOST_BYTES
            rest = self.last + self.quiet - time.monotonic()
            if not full and rest > 0:
                await asyncio.sleep(rest)
                continue
            names = list(self.collected)[:MOST_LINES]
            bodies = {name: self.collected.pop(name) for name in names}
            self.size = sum(map(len, self.collected.values()))
            await self._hand_over(bodies)
        self.collector = None

    async def _hand_over(self, bodies: dict[str, bytes]) -> None:
        token, names = uuid.uuid4().hex, list(bodies)
        try:
            self._note("INSERT INTO batches VALUES (?, NULL, 'open', ?)", (token, json.dumps(names)))
        except sqlite3.Error as error:
            self.sender.stop(self.journal.failed(error))
            return
        lines = b"".join(
            b'{"custom_id":"%s","method":"POST","url":"/v1/chat/completions","body":%s}\n' % (name.encode(), body)
            for name, body in bodies.items()
        )
        try:
            file = await self.client.files.create(file=("batch.jsonl", lines), purpose="batch")
            batch = await self.client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"token": token},
            )
        except self.errors as error:
            self._note("UPDATE batches SET state = 'lost' WHERE token = ?", (token,))
            self._refuse(names, error)
            return
        self._note("UPDATE batches SET batch = ? WHERE token = ?", (batch.id, token))
        self._follow(token, batch.id, names)

    def _refuse(self, names: list[str], error: Exception) -> None:
        """Gives every question of a batch the error that the whole of it met."""
        response = getattr(error, "response", None)
        for name in names:
            if response is None:
                self._resolve(name, Unreachable(str(error)))
            else:
                self._resolve(name, Reply(response.status_code, response.headers, response.content))

    def _follow(self, token: str, batch: str, names: list[str]) -> None:
        loop = asyncio.get_running_loop()
        for name in names:
            self.futures.setdefault(name, loop.create_future())
        self._spawn(self._fetch(token, batch, names))

    async def _fetch(self, token: str, batch: str, names: list[str]) -> None:
        """Looks at a batch until it is done, journals all its replies, then resolves its questions."""
        pause, began = self.poll[0], time.monotonic()
        try:
            while (state := await self.client.batches.retrieve(batch)).status not in FINAL:
                await asyncio.sleep(pause)
                pause = min(self.poll[1], pause * 1.5)
            replies = {}
            for file in (state.output_file_id, state.error_file_id):
                if file:
                    replies |= parse_results((await self.client.files.content(file)).content)
        except self.errors as error:
            self._refuse(names, error)
            return
        gone = Reply(500, {}, f"the batch {state.status} without this line".encode())
        if state.status == "failed":
            said = "; ".join(str(one.message) for one in (state.errors.data if state.errors else None) or [])
            gone = Reply(400, {}, f"batch {batch} was refused: {said or 'no reason given'}".encode())
        for name, reply in replies.items():
            question, _, attempt = name.rpartition("-")
            if reply.status == 200:  # also where nobody asks for it in this run
                self.journal.add(question, int(attempt), "", b"", reply.body, time.monotonic() - began)
        try:
            self.journal.commit()
            self._note("UPDATE batches SET state = 'done' WHERE token = ?", (token,))
        except sqlite3.Error as error:
            self.sender.stop(self.journal.failed(error))
        for name in names:
            self._resolve(name, replies.get(name, gone))

    def _resolve(self, name: str, result: Reply | Exception) -> None:
        future = self.futures.get(name)
        if future is None or future.done():
            return
        if isinstance(result, Reply):
            future.set_result(result)
        else:
            future.set_exception(result)

    def _note(self, statement: str, values: tuple) -> None:
        with self.journal.db:
            self.journal.db.execute(statement, values)

    async def aclose(self) -> None:
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def parse_results(content: bytes) -> dict[str, Reply]:
    """Lines of a result file -> replies by their question's name; a torn line counts as none."""
    replies = {}
    for line in content.splitlines():
        try:
            result = json.loads(line)
            response = result.get("response") or {"status_code": 500, "body": {"error": result.get("error")}}
            body, status = json.dumps(response["body"]).encode("ascii"), int(response["status_code"])
            # Busy or not at that hour: the line goes into the next batch, and nothing else waits for it.
            replies[result["custom_id"]] = Reply(500 if status in BUSY else status, {}, body)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # its question is asked again, and counted then
    return replies
