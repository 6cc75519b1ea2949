"""The only place that talks to a model: sends, retries, adapts, keeps every reply, and never spends more than allowed.

    async with Engine(model="my-model", base_url="http://localhost:8000/v1", journal="run.sqlite") as engine:
        answer = await engine.ask(Request(({"role": "user", "content": "Name a fruit."},), {"max_tokens": 50}))

`ask` may be called from thousands of tasks at once; it resolves when the reply is in the journal.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from ..errors import InstructError, Stopped
from . import account, answers, interrupts, pacing, settings, statuses
from .asking import Answer, Request, body_of_attempt, estimated_usage, prepare
from .budget import Budget
from .entrance import Entrance
from .journal import GivenUp, Journal
from .openai_transport import OpenAITransport
from .sending import Sender
from .settings import DEMO_MODEL

__all__ = ["Answer", "Engine", "Request"]
ASKED_AT_ONCE = 8  # questions prepared in a turn of the event loop
CLOSED = "the engine is closed"
BAD_IN_A_ROW = 100  # unusable replies without a usable one between: something is wrong with the prompt or the server
SPOILT = {"empty_body", "bad_utf8", "html", "bad_json", "error_object", "no_choices"}  # the server's state, perhaps


class Engine:
    """Asks a model, over any OpenAI-compatible server or another transport.

    Args:
        model (`str`): As the server calls it. `scripted-demo` is refused without `demo`.
        journal (`str`): The SQLite file that keeps every reply: what it holds is never asked again.
        base_url (`str`, *optional*):
            Of the server, such as `http://localhost:8000/v1`. Defaults to OPENAI_BASE_URL, or OpenAI's where
            OPENAI_API_KEY is set. The key is read from the environment only; local servers need none.
        max_concurrency (`int`, *optional*, defaults to 64): Most requests in flight; fewer while the server is slow.
        max_requests (`int`, *optional*), max_tokens_total (`int`, *optional*), max_cost (`float`, *optional*):
            Budgets over all runs on the journal, never overrun; what is unknown counts in full.
        prices (`dict`, *optional*): `input` and `output`: money per million tokens.
        requests_per_minute (`float`, *optional*), tokens_per_minute (`float`, *optional*): Known limits of the server.
        timeout (`float`, *optional*, defaults to 600.0): Seconds from sending to the last byte of a reply.
        max_retries (`int`, *optional*, defaults to 5): Repetitions per question after unusable replies, and as many
            after errors that only this question meets. Rate limits and outages count for neither.
        max_retries_total (`int`, *optional*): Repetitions after unusable replies in the whole run.
        max_wait (`float`, *optional*, defaults to 1800.0): Seconds without any reply after which the run stops.
        replay (`bool`, *optional*, defaults to `False`): Whether to answer from the journal alone.
        transport (`Callable`, *optional*):
            `"batch"` for the Batch API, or an async callable from a request's JSON bytes and its name to a
            [`statuses.Reply`], such as [`trainers.local_generation.LocalModel`].
        progress (`bool`, *optional*, defaults to `False`): Whether to show a live line on standard error.
        demo (`bool`, *optional*, defaults to `False`): Whether the scripted server is meant; started here if no
            `base_url` is given.
        seed (`int`, *optional*, defaults to 42): Of the jitter of waits; it changes no answer.

    Raises:
        ConfigError: For settings that can't be right; nothing was sent.
    """

    def __init__(
        self,
        *,
        model: str | None = None,
        journal: str | os.PathLike,
        base_url: str | None = None,
        max_concurrency: int = 64,
        max_requests: int | None = None,
        max_tokens_total: int | None = None,
        max_cost: float | None = None,
        prices: dict | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        timeout: float = 600.0,
        max_retries: int = 5,
        max_retries_total: int | None = None,
        max_wait: float = 1800.0,
        replay: bool = False,
        transport: str | Callable[[bytes, str], Awaitable[statuses.Reply]] | None = None,
        progress: bool = False,
        demo: bool = False,
        seed: int = 42,
    ):
        self.model = DEMO_MODEL if demo and model is None else model
        self.base_url = base_url or (None if demo else os.environ.get("OPENAI_BASE_URL")) or None
        self.transport, self.replay, self.demo, self.progress = transport, replay, demo, progress
        self.key = "" if demo else os.environ.get("OPENAI_API_KEY", "").strip()
        settings.check_numbers(
            above_0={"max_concurrency": max_concurrency, "timeout": timeout, "max_wait": max_wait},
            above_0_or_none={"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute},
            not_negative={"max_retries": max_retries, "max_retries_total": max_retries_total},
        )
        settings.check_url(self.base_url)
        settings.check_model(self.model, self.base_url, self.key, demo=demo, replay=replay, transport=transport)
        self.journal_path, self.prices = journal, prices
        self.limits = {"requests": max_requests, "tokens": max_tokens_total, "cost": max_cost}
        self.budget = Budget(self.limits, prices, {"requests": 0, "tokens": 0, "cost": 0.0})
        self.timeout, self.max_retries, self.max_wait = timeout, max_retries, max_wait
        self.max_retries_total = max_retries_total
        self.max_concurrency = max_concurrency
        self.pacer = pacing.Pacer(max_concurrency, requests_per_minute, tokens_per_minute)
        self.seed = seed
        self.counts, self.reasons = Counter(), Counter()
        self.purposes: dict[str, Counter] = {}
        self.goal: int | None = None  # set by a method, for the time left: accepted rows wanted
        self.tries: int | None = None  # or candidates that it will decide on
        self.accepted: int | None = None  # `None` until a method decides: kept through `tally`
        self.rejected: Counter[str] = Counter()

    async def __aenter__(self) -> Engine:
        self._flights: dict[str, asyncio.Task] = {}
        self._bad_in_a_row, self._counted = 0, set()
        self._entrance = Entrance(ASKED_AT_ONCE)
        self._sender: Sender | None = None
        self._closing: list[Callable] = []
        self.started, self.ended = time.monotonic(), None
        self.journal = Journal(self.journal_path, replay=self.replay)
        self._closing.append(self._close_journal)
        try:
            self.budget = Budget(self.limits, self.prices, self.journal.spent())
            if not self.replay:
                await self._connect()
            if self.progress:
                from .progress import Line

                line = Line(self)
                self._closing.append(line.close)
        except BaseException:
            await self._close()
            raise
        return self

    async def _connect(self) -> None:
        """Makes the transport and the sender on it."""
        send, pacer, timeout = self.transport, self.pacer, self.timeout
        if not callable(send):
            if self.demo and self.base_url is None:
                from .demo_server import DemoServer, Options

                server = DemoServer(Options(port=0))
                self.base_url = await server.start()
                self._closing.append(server.close)
            send = OpenAITransport(self.base_url, self.key, self.max_concurrency, timeout)
            self._closing.append(send.aclose)
        elif hasattr(send, "aclose"):
            self._closing.append(send.aclose)
        if self.transport == "batch":
            from .batch_api import BatchTransport

            send = BatchTransport(send.client, self.journal, send.errors)
            # The server decides when: all is handed over at once, and may take a day.
            pacer, timeout = pacing.Pacer(10**6), None
            self._closing.append(send.aclose)
        where = settings.shown(self.base_url) if self.base_url else getattr(send, "name", "OpenAI")
        options = {"max_retries": self.max_retries, "max_wait": self.max_wait, "secret": self.key, "seed": self.seed}
        self._sender = Sender(send, self.journal, self.budget, pacer, timeout=timeout, where=where, **options)
        if self.transport == "batch":
            await send.start(self._sender)

    async def __aexit__(self, kind, error, trace) -> None:
        """Lets nothing more be sent, waits for what is in flight (each has its deadline), and closes the journal."""
        if self._sender is not None and self._sender.stopped is None:
            self._sender.stop(Stopped(CLOSED))
        while self._flights:
            await asyncio.wait(list(self._flights.values()))
        self.ended = time.monotonic()
        await self._close()

    async def _close(self) -> None:
        """Closes what was opened, the last first."""
        while self._closing:
            done = self._closing.pop()()
            if done is not None:
                await done

    def _close_journal(self) -> None:
        if self._sender is not None:
            self._sender.commit()
        self.journal.close()

    @property
    def stopped(self) -> InstructError | None:
        """Why the run stopped before its end, or `None`."""
        stopped = self._sender.stopped if self._sender is not None else None
        return None if stopped is not None and str(stopped) == CLOSED else stopped

    @property
    def in_flight(self) -> int:
        """Requests that were sent and have no reply yet."""
        return 0 if self._sender is None else self._sender.in_flight

    def stop(self, error: InstructError) -> None:
        """Sends nothing more: every `ask` that would have to raises `error`; the first reason given stays."""
        if self._sender is not None:
            self._sender.stop(error)

    def run(self, function: Callable[[Engine], Awaitable]):
        """Runs `await function(engine)` from synchronous code; gives its result.

        The first Ctrl-C or SIGTERM stops asking, waits for what is in flight and raises [`Stopped`] with exit code
        130; the second one ends at once. Where a loop runs already, as in a notebook, it has its own thread.
        """
        return interrupts.run(self, function)

    def tally(self, reason: str | None = None, count: int = 1) -> None:
        """Tells the progress line that a method accepted (`None`) or rejected rows."""
        self.accepted = (self.accepted or 0) + (count if reason is None else 0)
        if reason is not None:
            self.rejected[reason] += count

    async def ask(self, request: Request) -> Answer:
        """Gets the answer to a question, from the journal or the server.

        Raises:
            Stopped: If the run stops (budget, interrupt, patience) before there is one.
            GenerationError: If the run can't go on: key, model or request refused, full disk.
            ConfigError: For a request that can't be sent.
        """
        await self._entrance.pass_through()
        key, body = prepare(request, self.model)
        while key in self._flights:  # asked at the same time by somebody else: the journal will have it
            await asyncio.wait([self._flights[key]])
        flight = asyncio.get_running_loop().create_task(self._answer(request, key, body))
        self._flights[key] = flight
        flight.add_done_callback(lambda done: (self._flights.pop(key), done.cancelled() or done.exception()))
        # The caller may be cancelled; what was paid for is not.
        return await asyncio.shield(flight)

    async def _answer(self, request: Request, key: str, body: dict) -> Answer:
        """Reads the replies in the order of their attempts, those in the journal first, up to a usable one."""
        purpose = self.purposes.setdefault(request.purpose, Counter())
        purpose["asked"] += 1
        stored = self.journal.replies(key)
        cached, truncations, problem, usage, reading, detail = True, 0, None, {}, None, ""
        for attempt in range(self.max_retries + 1):
            sent = body_of_attempt(body, attempt, truncations)
            if attempt < len(stored):
                reading = answers.read(stored[attempt])
            else:
                if attempt:
                    await self._before_repeating(problem, attempt)
                cached = False
                reading = await self._fresh(key, attempt, request.purpose, sent, truncations > 0)
            if isinstance(reading, GivenUp):  # without a reply
                problem, detail, reading = reading.reason, reading.detail, None
                if problem not in account.TRANSPORT_REASONS:  # the server's word on this question
                    self.reasons[problem] += 1
                    self._in_a_row(problem, detail)
                break
            usage = {**reading.usage, "estimated": False} if reading.usage else estimated_usage(sent, reading.text)
            problem = self._problem(reading, request)
            if (key, attempt) not in self._counted:  # who asks the same again pays nothing, and gets the same reply
                self._counted.add((key, attempt))
                self._count(purpose, problem, usage, fresh=attempt >= len(stored))
            if problem is None:
                break
            truncations += problem == "length"
        purpose["answered" if problem is None else "failed"] += 1
        self.counts["from_journal"] += cached
        text = reading.text if problem is None else None
        finish = reading.finish_reason if reading else None
        return Answer(text, problem, finish, usage, attempt + 1, key, cached, detail)

    def _problem(self, reading: answers.Reading, request: Request) -> str | None:
        if reading.defect and not (reading.defect == "length" and request.keep_truncated and reading.text):
            return reading.defect
        return request.check(reading.text) if request.check else None

    def _count(self, purpose: Counter, problem: str | None, usage: dict, fresh: bool) -> None:
        purpose["replies"] += 1
        purpose["prompt_tokens"] += usage["prompt_tokens"]
        purpose["completion_tokens"] += usage["completion_tokens"]
        purpose["estimated"] += usage["estimated"]
        if problem:
            self.reasons[problem] += 1
            purpose[f"rejected: {problem}"] += 1
        if fresh:
            self._in_a_row(problem)

    def _in_a_row(self, problem: str | None, detail: str = "") -> None:
        self._bad_in_a_row = self._bad_in_a_row + 1 if problem else 0
        if self._bad_in_a_row >= BAD_IN_A_ROW:
            said = f"{problem} ({detail})" if detail else problem
            room = " Give more room: parameters: {STAGE: {max_tokens: ...}}." if problem == "length" else ""
            self.stop(Stopped(f"the last {BAD_IN_A_ROW} replies were all unusable, the last one: {said}.{room}"))

    async def _fresh(
        self, key: str, attempt: int, purpose: str, body: dict, raised: bool
    ) -> answers.Reading | GivenUp:
        if self._sender is not None:
            return await self._sender.reply(key, attempt, purpose, body, raised)
        if why := self.journal.given_up(key):
            return why
        said = str(body["messages"][-1].get("content"))[:80]
        raise Stopped(f"replay: {self.journal_path} holds no answer to {said!r} ({purpose or 'no purpose'}).")

    async def _before_repeating(self, problem: str, attempt: int) -> None:
        """Counts a paid repetition; waits first where the server seems to be in a bad state."""
        self.counts["retries"] += 1
        if self._sender is None:
            return
        if self.max_retries_total is not None and self.counts["retries"] > self.max_retries_total:
            self.stop(Stopped(f"max_retries_total={self.max_retries_total} is reached; the last reason: {problem}."))
        if problem in SPOILT:
            wait = pacing.backoff(attempt - 1, self._sender.draw)
            await self._sender.sleep_until(asyncio.get_running_loop().time() + wait)

    @property
    def account(self) -> dict:
        """What was asked, received, thrown away and spent.

        `purposes`, `reasons` and `questions` follow from the questions and the journal alone, so a run that was
        interrupted and one that was not agree on them; `run` is about this run only.
        """
        return account.of(self, Counter() if self._sender is None else self._sender.counts)
