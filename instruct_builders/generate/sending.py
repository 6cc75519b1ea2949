"""Getting one reply: waits for turn and budget, sends, tries again what may work then, and journals what came."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable

from ..errors import GenerationError, InstructError, Stopped
from . import answers, pacing, statuses
from .asking import canonical
from .budget import Budget
from .entrance import Entrance
from .journal import GivenUp, Journal

FIRST_CONTACT = 4  # tries to reach a server that never answered
LONE_SECONDS = 60.0  # of failing, for a question that failed where others did not
# A server's wish to wait longer than `max_wait` is believed when it was said so often, for so many seconds, without a
# reply between.
LONG_WAITS, LONG_SECONDS = 3, 3.0
REPLIES_AT_ONCE, PARTS = 2, 16  # replies taken in a turn of the event loop, or one in so many of those that came
PROMPT_BYTES = 4  # a token, in the mean of English text: for tokens_per_minute


class Unreachable(Exception):
    """What a transport raises where the connection failed: refused, reset, cut.

    Args:
        said (`str`): For a person.
        sent (`bool`, *optional*, defaults to `True`): Whether the request may be there, and be paid for.
    """

    def __init__(self, said: str, sent: bool = True):
        super().__init__(said)
        self.sent = sent


class Sender:
    """The one way out. Everything here runs in one event loop.

    Args:
        send (`Callable`): The transport: JSON bytes of a request and its name -> [`statuses.Reply`]; raises
            [`Unreachable`].
        journal ([`Journal`]), budget ([`Budget`]), pacer ([`pacing.Pacer`]): Theirs is what their names say.
        timeout (`float`, *optional*): Seconds a request may take in all.
        max_retries (`int`): Repetitions after errors that only this question meets.
        max_wait (`float`): Seconds without any reply after which the run stops.
        secret (`str`): The key: never journaled, nor shown in an error.
        where (`str`): The server, for errors.
        seed (`int`): Of the jitter.
    """

    def __init__(
        self,
        send: Callable[[bytes, str], Awaitable[statuses.Reply]],
        journal: Journal,
        budget: Budget,
        pacer: pacing.Pacer,
        *,
        timeout: float | None,
        max_retries: int,
        max_wait: float,
        secret: str,
        where: str,
        seed: int,
    ):
        self.send, self.journal, self.budget, self.pacer = send, journal, budget, pacer
        self.timeout, self.max_retries, self.max_wait = timeout, max_retries, max_wait
        self.secret, self.where = secret, where
        self.draw = random.Random(seed)
        self.loop = asyncio.get_running_loop()
        self.stopped: InstructError | None = None  # why nothing more is sent
        self.halted = self.loop.create_future()
        self.counts: Counter[str] = Counter()
        self.in_flight = 0
        self._turns: deque[asyncio.Future] = deque()
        self._pace = asyncio.Lock()
        self._exit = Entrance(REPLIES_AT_ONCE, PARTS)
        self._settled = asyncio.Event()
        self._flushed: asyncio.Future | None = None
        # Loop times; below 0: never. Of the last reply, of the latest sending that was answered, of the first trouble.
        self._last_reply = self._answered_from = self._trouble = -1.0
        self._long_waits, self._long_since = 0, 0.0

    def stop(self, error: InstructError) -> None:
        """Sends nothing more: whoever waits for a turn gets `error`. The first reason given stays."""
        if self.stopped is None:
            self.stopped = error
            self.halted.set_result(None)
            self._settled.set()
            while self._turns:
                turn = self._turns.popleft()
                turn.done() or turn.set_result(None)

    def check_stopped(self) -> None:
        """Raises a copy of the reason, since many tasks may raise it."""
        if isinstance(self.stopped, Stopped):
            raise Stopped(str(self.stopped), self.stopped.exit_code)
        if self.stopped is not None:
            raise type(self.stopped)(*self.stopped.args)

    async def reply(
        self, question: str, attempt: int, purpose: str, body: dict, raised: bool = False
    ) -> answers.Reading | GivenUp:
        """The journaled reply to one attempt of a question, read; or why it was given up.

        `raised` says that this attempt asks for more tokens than the question does, since an answer was cut: a server
        that allows no more speaks of that alone.

        Raises:
            Stopped, GenerationError: If the run stops before.
        """
        amount, asked = self.budget.worst_case(body), canonical(body)
        if getattr(self.send, "is_under_way", None) and self.send.is_under_way(f"{question}-{attempt}"):
            amount = {"requests": 0, "tokens": 0, "cost": 0.0}  # an earlier run has it on its account
        tokens = len(asked) // PROMPT_BYTES + (body.get("max_tokens") or body.get("max_completion_tokens") or 256)
        failures = waits = 0
        first = failed = None  # when it failed the first and the last time
        while True:
            await self._turn(first=attempt + failures + waits > 0)
            verdict, began, again = None, 0.0, 0.0
            try:
                await self._admit(amount, tokens)
                began = self.loop.time()
                verdict, again = await self._try(question, attempt, purpose, asked, amount, tokens, began, raised)
            finally:
                self._give_turn_back()
            if verdict.kind == "reply":
                await self.flush()
                return verdict.reading
            now = self.loop.time()
            if verdict.kind == "refused":
                self._last_reply, self._trouble = now, -1.0  # the server is well
                return self._give_up(question, verdict.reason, verdict.detail)
            self.counts[verdict.reason] += 1
            first, since, failed = first or now, failed or began, now
            own = verdict.kind == "failed" and self._answered_from > since  # others, sent later, were answered
            failures, waits = failures + own, waits + (not own)
            # Among the last questions of a run nobody else is answered: then what it did before decides.
            lone = failures and failures + waits > self.max_retries and now - first > min(LONE_SECONDS, self.max_wait)
            if failures > self.max_retries or (verdict.kind == "failed" and lone):
                return self._give_up(question, verdict.reason, verdict.detail)
            if not own:
                self._check_patience(verdict, waits)
            await self.sleep_until(again or now + pacing.backoff(failures + waits - 1, self.draw))

    async def _turn(self, first: bool) -> None:
        """Waits for one of the places in flight; a repetition goes before new questions, so that rows get finished."""
        self.check_stopped()
        if self.in_flight < self.pacer.allowed and (first or not self._turns):
            self.in_flight += 1
            return
        turn = self.loop.create_future()
        (self._turns.appendleft if first else self._turns.append)(turn)
        await turn
        self.check_stopped()  # woken without a place

    def _give_turn_back(self) -> None:
        self.in_flight -= 1
        while self._turns and self.in_flight < self.pacer.allowed:
            turn = self._turns.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)

    async def _admit(self, amount: dict, tokens: int) -> None:
        """Waits until pace and budget allow a request, and notes in the journal that it may be paid for."""
        async with self._pace:  # one at a time, so that whoever comes next goes by what was learnt meanwhile
            start = self.pacer.slot(self.loop.time(), tokens)
            while start > self.loop.time():
                await self.sleep_until(start)
                start = max(start, self.pacer.closed_until)  # it may have been closed meanwhile
        while (limit := self.budget.lacking(amount)) is not None:
            if not self.budget.in_flight:
                self.stop(Stopped(self.budget.why(limit), 5))
            else:
                self._settled.clear()
                await self._settled.wait()  # a reply in flight may cost less than what is set aside for it
            self.check_stopped()
        self.budget.reserve(amount)
        if self.budget.limits:
            try:
                await self.flush()
                self.check_stopped()
            except BaseException:
                self.budget.settle(amount, {})
                raise

    async def _try(
        self,
        question: str,
        attempt: int,
        purpose: str,
        asked: bytes,
        amount: dict,
        tokens: int,
        began: float,
        raised: bool,
    ) -> tuple[statuses.Verdict, float]:
        """Sends once. Gives the verdict, and the time of the next try where the server named one."""
        self.counts["requests"] += 1
        actual, verdict = {"requests": amount["requests"]}, None
        try:
            async with asyncio.timeout(self.timeout):
                reply = await self.send(asked, f"{question}-{attempt}")
            # Of replies that come all at once, the first makes way for the next request before the last is read.
            await self._exit.pass_through()
            verdict = statuses.judge(reply)
            if raised and reply.status in statuses.REFUSED and verdict.reason != "content_filter":
                verdict = statuses.Verdict("refused", "length", verdict.detail)
        except TimeoutError:
            verdict, actual = statuses.Verdict("failed", "timeout", f"{self.timeout:g} s"), amount
            self.pacer.late(self.loop.time())
        except Unreachable as error:
            # Sent, it may have been answered and paid for all the same.
            verdict = statuses.Verdict("failed", "connection", self.clean(str(error)))
            actual = amount if error.sent else {}
        finally:
            if verdict is None:  # cancelled, or an error of the transport itself: nobody knows what was paid
                self.budget.settle(amount, amount)
                self._settled.set()
        now = self.loop.time()
        if verdict.kind == "reply":
            self._answered(now, began)
            if amount["requests"]:
                actual |= self._cost(verdict.reading, amount)
            if stated := verdict.reading.usage:
                self.pacer.used(tokens, sum(stated.values()))
            self.journal.add(question, attempt, purpose, asked, self._unkeyed(reply.body), now - began)
        self.budget.settle(amount, actual)
        self._settled.set()
        if verdict.kind == "fatal":
            self.stop(GenerationError(f"{self.where}: {self.clean(verdict.detail)}"))
            self.check_stopped()
        elif verdict.kind == "busy":
            return verdict, self._busy(reply, now, began)
        return verdict, 0.0

    def _cost(self, reading: answers.Reading, amount: dict) -> dict:
        """What a reply is charged: its stated usage, or the worst case where it states none."""
        if not reading.usage:
            return {"tokens": amount["tokens"], "cost": amount["cost"]}
        return self.budget.charge(reading.usage["prompt_tokens"], reading.usage["completion_tokens"])

    def _answered(self, now: float, began: float) -> None:
        self.counts["replies"] += 1
        self.pacer.good(now, now - began)
        self._last_reply, self._trouble, self._long_waits = now, -1.0, 0
        self._answered_from = max(self._answered_from, began)

    def _busy(self, reply: statuses.Reply, now: float, began: float) -> float:
        """The time of the next try after 429 or 503."""
        wait = pacing.retry_after(reply.headers.get("retry-after"), time.time())
        if wait is not None and wait > self.max_wait:
            self._long_since = self._long_since if self._long_waits else now
            self._long_waits += 1
            if self._long_waits >= LONG_WAITS and now - self._long_since > LONG_SECONDS:
                asks = f"{self.where} asks to wait {wait:.0f} s, longer than max_wait={self.max_wait:g}"
                self.stop(Stopped(f"{asks}: run the same command again then."))
            wait = None
        return self.pacer.refused(now, began, wait, self.draw)

    def _check_patience(self, verdict: statuses.Verdict, waits: int) -> None:
        """Stops the run where nothing has been answered for too long."""
        now = self.loop.time()
        self._trouble = now if self._trouble < 0 else self._trouble
        said = f"{verdict.reason}: {self.clean(verdict.detail)}".rstrip(": ")
        if verdict.reason == "connection" and self._last_reply < 0 and waits >= FIRST_CONTACT:
            self.stop(GenerationError(f"{self.where} can't be reached ({said}): look at base_url and the server."))
        elif now - self._trouble > self.max_wait:
            self.stop(Stopped(f"{self.where} gave no reply for {self.max_wait:g} s ({said})."))
        self.check_stopped()

    def _give_up(self, question: str, reason: str, detail: str) -> GivenUp:
        self.counts["given_up"] += 1
        given_up = GivenUp(reason, self.clean(detail))
        self.journal.give_up(question, given_up)
        return given_up

    async def sleep_until(self, moment: float) -> None:
        """Sleeps, but not longer than until the run stops; then raises the reason."""
        await asyncio.wait([self.halted], timeout=max(0.0, moment - self.loop.time()))
        self.check_stopped()

    async def flush(self) -> None:
        """Returns when all that was added to the journal so far is in it: one commit per turn of the event loop.

        Raises:
            GenerationError: If the journal can't be written; nothing more is sent then.
        """
        if self._flushed is None:
            self._flushed = self.loop.create_future()
            self.loop.call_soon(self._commit)
        if not await asyncio.shield(self._flushed):
            self.check_stopped()

    def _commit(self) -> None:
        flushed, self._flushed = self._flushed, None
        flushed.set_result(self.commit())

    def commit(self) -> bool:
        """Commits now; a failure stops the run, and what could not be written stays for the next call."""
        try:
            self.journal.commit(self.budget.committed())
        except sqlite3.Error as error:
            self.stop(self.journal.failed(error))
            return False
        return True

    def clean(self, text: str) -> str:
        """The text on one line, without the key, whatever the server echoed."""
        hidden = text.replace(self.secret, "***") if self.secret else text
        return " ".join(hidden.split())[:400]

    def _unkeyed(self, body: bytes) -> bytes:
        return body.replace(self.secret.encode(), b"***") if len(self.secret) >= 8 else body
