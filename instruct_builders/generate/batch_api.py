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
from .statuses import BUSY, RETRYABLE, Reply

MOST_LINES, MOST_BYTES = 50_000, 190_000_000  # of one batch: OpenAI allows 50,000 lines and 200 MB
LINE_BYTES = 120  # that a line has around the body
QUIET_SECONDS = 1.0  # nothing new was asked for so long: then a batch is handed over
POLL_SECONDS = (5.0, 60.0)  # the first and the longest pause between looks at a batch
MAKING_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # after each of which a batch is looked for that may have been made
REPETITIONS = 8  # by the client, of what may be repeated
LOOKS = 20  # at a batch, in a row, that fail before the run stops
FINAL = ("completed", "expired", "failed", "cancelled")
TOO_MUCH = "token_limit_exceeded"  # more tokens are waiting in batches than the account may have at once


class BatchTransport:
    """Sends questions in batches; each call resolves when its batch is done.

    Args:
        client: The openai client.
        journal ([`Journal`]): Where batches are noted.
        errors (`tuple`): The client's exceptions for statuses and connections.
    """

    name = "the Batch API"

    def __init__(self, client, journal: Journal, errors: tuple):
        self.client, self.once = client.with_options(max_retries=REPETITIONS), client.with_options(max_retries=0)
        self.journal, self.errors = journal, errors
        self.quiet, self.poll, self.most = QUIET_SECONDS, POLL_SECONDS, MOST_LINES
        self.open = 0  # batches under way
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
            try:
                found = await self._made()
            except self.errors as error:
                raise GenerationError(f"the list of batches can't be read: {sender.clean(str(error))}") from error
            rows = [(token, batch or found.get(token), names) for token, batch, names in rows]
        for token, batch, names in rows:
            if batch is None:  # never made: its questions are asked anew
                self._note("UPDATE batches SET state = 'lost' WHERE token = ?", (token,))
                continue
            self.earlier |= set(json.loads(names))
            self._follow(token, batch, json.loads(names))

    async def _made(self) -> dict[str, str]:
        """Token -> id of every batch that the server knows."""
        return {(batch.metadata or {}).get("token"): batch.id async for batch in self.client.batches.list(limit=100)}

    def is_under_way(self, name: str) -> bool:
        """Whether a batch of an earlier run holds this question: it is paid for already."""
        return name in self.earlier

    async def __call__(self, body: bytes, name: str) -> Reply:
        future = self.futures.get(name)
        if future is None:
            future = self.futures[name] = asyncio.get_running_loop().create_future()
            self._collect({name: body})
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

    def _collect(self, bodies: dict[str, bytes]) -> None:
        self.collected |= bodies
        self.size, self.last = self.size + sum(map(_size, bodies.values())), time.monotonic()
        if self.collector is None:
            self.collector = self._spawn(self._hand_over_all())

    async def _hand_over_all(self) -> None:
        """Hands a batch over as soon as it is full, or nothing more comes."""
        while self.collected:
            full = len(self.collected) >= self.most or self.size >= MOST_BYTES
            rest = self.last + self.quiet - time.monotonic()
            if not full and rest > 0:
                await asyncio.sleep(rest)
                continue
            bodies, size = {}, 0
            for name, body in self.collected.items():
                size += _size(body)
                if bodies and (len(bodies) == self.most or size > MOST_BYTES):
                    break
                bodies[name] = body
            for name, body in bodies.items():
                del self.collected[name]
                self.size -= _size(body)
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
            batch = await self._make(token, file.id)
        except self.errors as error:
            self._note("UPDATE batches SET state = 'lost' WHERE token = ?", (token,))
            self._refuse(names, error)
            return
        if batch is None:
            said = "the Batch API did not say whether it has made a batch"
            self.sender.stop(Stopped(f"{said}: run the same command again, which looks for it and takes it up."))
            return
        self._note("UPDATE batches SET batch = ? WHERE token = ?", (batch, token))
        self._follow(token, batch, names, bodies)

    async def _make(self, token: str, file: str) -> str | None:
        """The id of a new batch, or `None` where it stays unknown whether there is one.

        A request to make one is not repeated before it is known that it made none: both would be paid for.
        """
        for pause in MAKING_SECONDS:
            try:
                made = await self.once.batches.create(
                    input_file_id=file,
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                    metadata={"token": token},
                )
                return made.id
            except self.errors as error:
                if _status(error) is not None and _status(error) < 500:
                    raise  # refused, so there is none
            await asyncio.sleep(pause)
            try:
                found = await self._made()
            except self.errors:
                return None
            if token in found:
                return found[token]
        return None

    def _refuse(self, names: list[str], error: Exception) -> None:
        """Gives every question of a batch the error that the whole of it met."""
        response = getattr(error, "response", None)
        for name in names:
            if response is None:
                self._resolve(name, Unreachable(str(error)))
            else:
                self._resolve(name, Reply(response.status_code, response.headers, response.content))

    def _follow(self, token: str, batch: str, names: list[str], bodies: dict[str, bytes] | None = None) -> None:
        loop = asyncio.get_running_loop()
        for name in names:
            self.futures.setdefault(name, loop.create_future())
        self.open += 1
        self._spawn(self._fetch(token, batch, names, bodies or {}))

    async def _fetch(self, token: str, batch: str, names: list[str], bodies: dict[str, bytes]) -> None:
        """Looks at a batch until it is done, journals all its replies, then resolves its questions."""
        began = time.monotonic()
        try:
            state, replies = await self._results(batch)
        except self.errors as error:
            if _passing(error):
                said = f"batch {batch} can't be looked at ({self.sender.clean(str(error))})"
                self.sender.stop(Stopped(f"{said}: the same command fetches it when it can."))
            else:
                self._refuse(names, error)
            return
        finally:
            self.open -= 1
        if state.status == "failed" and bodies and (len(bodies) > 1 or self.open) and _too_much(state):
            self._note("UPDATE batches SET state = 'done' WHERE token = ?", (token,))
            self.most = max(1, len(bodies) // 2)
            await asyncio.sleep(self.poll[1])  # others that are under way may end
            self._collect(bodies)
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

    async def _results(self, batch: str) -> tuple:
        """A batch when it is done, and its replies. Where the server fails it is looked at again: it is paid for."""
        pause, failed = self.poll[0], 0
        while True:
            try:
                state = await self.client.batches.retrieve(batch)
                failed = 0
                if state.status in FINAL:
                    replies: dict[str, Reply] = {}
                    for file in filter(None, (state.output_file_id, state.error_file_id)):
                        replies |= parse_results((await self.client.files.content(file)).content)
                    return state, replies
            except self.errors as error:
                failed += 1
                if failed == LOOKS or not _passing(error):
                    raise
            await asyncio.sleep(pause)
            pause = min(self.poll[1], pause * 1.5)

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


def _size(body: bytes) -> int:
    return len(body) + LINE_BYTES


def _status(error: Exception) -> int | None:
    """Of the reply; `None` where there was none."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _passing(error: Exception) -> bool:
    """Whether an error may pass: no connection, or a server that is busy or out of order."""
    status = _status(error)
    return status is None or status >= 500 or status in (*BUSY, *RETRYABLE)


def _too_much(state) -> bool:
    return any(one.code == TOO_MUCH for one in (state.errors.data if state.errors else None) or [])


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
