"""When the next request may be sent: how many at once, how many a second, and when not at all. Pure: the clock is
passed in.

The number of requests in flight follows additive increase and multiplicative decrease. A server that counts requests a
second can't be met by that number alone, so after the first status 429 the rate is paced too. A little more is sent
than the server was seen to let through: a small share of refusals says that nothing of what it allows is left unused.
"""

from __future__ import annotations

import math
import random
from collections import deque
from email.utils import parsedate_to_datetime

BACKOFF = (0.5, 30.0)  # seconds: the first wait, and the longest, without a Retry-After
WINDOW = 20  # outcomes that tell a limit from a stray refusal
CLOSING_SHARE = 0.25  # of refusals in the window: the first time, closes the gate for all
SHUT_SHARE = 0.75  # of refusals in an interval: closes it later
BUSY_SHARE, QUIET_SHARE = 0.06, 0.015  # of refusals in an interval: above, less is sent; below, more
PUSH = 1.03  # sent of what is let through: as long as a little is refused, nothing is left unused
INTERVAL = 1.0  # seconds, and the latency of replies
MEMORY = 30.0  # seconds over which the rate that was let through is averaged
DECREASE = 0.7  # of the requests in flight
IN_FLIGHT = 1.5  # of the requests in flight that the rate needs (Little's law)
IN_VAIN = 10  # decreases in a row that changed nothing: then the refusals have another cause than our rate
CREDIT = 0.5  # seconds of the learnt rate that may be made up for after a pause
GROWTH = (0.03, 0.25)  # of the rate, an interval, while hardly anything is refused: the first, and the most
PROBE = (0.15, 0.25)  # of the time that a gate has been closed: when to look again, where the server does not say
FEWEST = 5  # replies that allow a guess of the rate


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait from a Retry-After header, in seconds or as a date; `None` where it is absent or garbage.

    Args:
        now (`float`): Unix time, for dates.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def backoff(failures: int, draw: random.Random) -> float:
    """Seconds before the next try after so many failures: exponential, with full jitter."""
    return draw.uniform(0.05, min(BACKOFF[1], BACKOFF[0] * 2 ** min(failures, 16)))


class Pacer:
    """Decides how many requests may be in flight and when the next one may go.

    Args:
        most (`int`): Never more in flight than this; it also starts there.
        requests_per_minute (`float`, *optional*), tokens_per_minute (`float`, *optional*): Known limits of the server.
    """

    def __init__(self, most: int, requests_per_minute: float | None = None, tokens_per_minute: float | None = None):
        self.most, self.limit = most, float(most)
        self.fixed = requests_per_minute / 60 if requests_per_minute else None
        self.tokens = tokens_per_minute / 60 if tokens_per_minute else None
        self.rate: float | None = None  # learnt, requests a second; None as long as nothing was refused
        self.closed_until = 0.0
        self.next_request = self.next_paced = self.next_token = 0.0
        self.unused = 0.0  # tokens that replies did not take of what their slots had counted
        self.recent: deque[bool] = deque(maxlen=WINDOW)  # True: refused
        self.since: float | None = None  # when the interval began
        self.sent = self.goods = self.bads = 0  # in it, and what became of these
        self.lates = 0  # of the bad ones, those that met their deadline
        self.replies = 0  # that came in it
        self.let_through = self.over = 0.0  # replies and seconds of the last intervals, the older the less
        self.ceiling = 0.0  # what was let through when last more was sent
        self.guessed = False  # whether the rate is a guess that was never refused yet
        self.latency = 0.0  # of good replies, exponential mean
        self.stray = 0.0  # share of refusals that sending less did not help against
        self.decreases: list[tuple] = []  # rate and limit before each of those in a row
        self.calm = 0  # intervals in a row without trouble
        self.closed_since = 0.0
        self.probing = False  # from a closed gate to the next reply

    @property
    def allowed(self) -> int:
        """How many may be in flight: one, after a pause for all, until it is answered."""
        return 1 if self.probing else int(self.limit)

    def slot(self, now: float, tokens: int) -> float:
        """When a request of so many tokens may be sent, at or after `now`; the slot is taken."""
        if self.since is None:
            self.since = now
        self.sent += 1
        start = max(now, self.closed_until)
        if self.rate:
            start = max(start, self.next_paced)
            # What was not sent during a pause may follow faster, within bounds: the server has counted it as unused.
            self.next_paced = max(self.next_paced, start - CREDIT) + 1 / self.rate
        if self.fixed:
            start = max(start, self.next_request)
            self.next_request = start + 1 / self.fixed
        if self.tokens:
            start = max(start, self.next_token)
            given = min(self.unused, tokens)
            self.unused -= given
            self.next_token = start + (tokens - given) / self.tokens
        return start

    def used(self, counted: int, tokens: int) -> None:
        """A reply took so many tokens where its slot had counted others: the next slots make up for it."""
        if self.tokens and tokens > counted:
            self.next_token += (tokens - counted) / self.tokens
        elif self.tokens:
            self.unused = min(self.unused + counted - tokens, 60 * self.tokens)

    def good(self, now: float, seconds: float) -> None:
        """A reply came, whatever is in it, after so many seconds."""
        self.replies += 1
        if self.rate is None or now - seconds >= self.since:
            self.recent.append(False)
            self.goods += 1
        self.latency = seconds if not self.latency else 0.9 * self.latency + 0.1 * seconds
        self.limit = min(self.most, self.limit + 1 / self.limit)
        if self.probing and now - seconds >= self.closed_until:
            self._open(now)
        self._judge(now)

    def late(self, now: float) -> None:
        """A request met its deadline."""
        self.bads, self.lates = self.bads + 1, self.lates + 1
        self._judge(now)

    def refused(self, now: float, sent: float, wait: float | None, draw: random.Random) -> float:
        """The server said 429 or 503 to a request of the time `sent`; gives the time before which not to ask it again.

        Args:
            wait (`float`, *optional*): Seconds from Retry-After.
        """
        if sent >= self.since:  # those sent before the last decision say nothing about it
            self.recent.append(True)
            self.bads += 1
        pause = self._until_next_look(now, draw) if wait is None else wait
        if self.probing and sent >= self.closed_until:
            self._close(now, pause)
        elif not self.probing and sum(self.recent) >= (CLOSING_SHARE + self.stray) * WINDOW:
            if self.rate is None:
                self._close(now, pause)
            elif self.sent >= WINDOW and self.bads >= SHUT_SHARE * self.sent:
                self._close(now, pause)
            elif self.sent >= WINDOW and self.goods and now - self.since > 1.5 * self.latency:
                self._measure(now)  # the good ones have had their time
        self._judge(now)
        # Spread behind the wait: they would all come at once.
        return now + pause + draw.uniform(0, 0.1)

    def _until_next_look(self, now: float, draw: random.Random) -> float:
        """Longer the longer the gate is closed, so that looking costs little and coming late costs a share."""
        closed = now - self.closed_since if self.probing else 0.0
        return min(BACKOFF[1], max(BACKOFF[0] / 2, closed * draw.uniform(*PROBE)))

    def _close(self, now: float, pause: float) -> None:
        """Nobody sends until the pause is over; then one does, and the others when it is answered."""
        if not self.probing:
            self.closed_since = now
            self.limit = max(1.0, self.limit * DECREASE)
        self.closed_until, self.probing = max(self.closed_until, now + pause), True

    def _open(self, now: float) -> None:
        """The probe was answered. What was let through before the pause is what the server allows until now."""
        self.probing = False
        self._note(now)
        if self.rate is not None or self.goods >= FEWEST:
            self.guessed = self.rate is None
            self._set_rate(self.let_through / self.over)
            self._widen()
            self.next_paced = now
        self._restart(now)

    def _note(self, now: float) -> None:
        """Takes the interval into the mean rate that was let through."""
        kept = math.exp(-(now - self.since) / MEMORY)
        self.let_through = kept * self.let_through + self.replies
        self.over = kept * self.over + max(now - self.since, 1e-3)

    def _set_rate(self, rate: float) -> None:
        most = 2 * self.most / self.latency if self.latency else rate  # that the requests in flight could ever use
        self.rate = max(0.1, min(rate, most))

    def _widen(self) -> None:
        """Lets as many be in flight as the rate needs."""
        self.limit = min(self.most, max(self.limit, self.rate * self.latency * IN_FLIGHT))

    def _good_rate(self, now: float) -> float:
        """Let through a second: what was sent during the last latency has not been answered yet."""
        return self.goods / max(now - self.since - self.latency, 1e-3)

    def _restart(self, now: float) -> None:
        self.since, self.sent, self.goods, self.bads, self.lates, self.replies = now, 0, 0, 0, 0, 0
        self.recent.clear()

    def _judge(self, now: float) -> None:
        """At the end of an interval: fewer at once and a slower rate, or more."""
        enough = FEWEST if self.guessed else WINDOW
        if self.probing or self.since is None or self.sent < enough:
            return
        if now - self.since < (INTERVAL / 2 if self.guessed else INTERVAL) + self.latency:
            return
        share = self.bads / self.sent
        if share > self.stray + BUSY_SHARE and self.goods:
            self._measure(now)
            return
        self.stray, self.decreases = min(self.stray, share), []
        self._note(now)
        self.calm = 0 if share > self.stray + QUIET_SHARE else self.calm + 1
        if self.calm and self.rate is not None:
            # Doubled until it is refused, and then further the longer it is calm.
            growth = 1.0 if self.guessed else min(GROWTH[1], GROWTH[0] * 2 ** ((self.calm - 1) / 4))
            self._set_rate(max(self.rate * (1 + growth), (self.rate + self.ceiling) / 2))
            self._widen()
        self._restart(now)

    def _measure(self, now: float) -> None:
        """More is refused than we can afford: what is let through meanwhile is what the server allows.

        Where some decreases in a row don't help, the refusals come from elsewhere, and all is undone.
        """
        self.calm, self.guessed = 0, False
        if len(self.decreases) == IN_VAIN:
            self.stray = self.bads / self.sent
            self.rate, self.limit = self.decreases[0]
            self.decreases = []
        else:
            if now - self.since >= INTERVAL or not self.decreases:
                self.decreases.append((self.rate, self.limit))
            self._note(now)
            self.limit = max(1.0, self.limit * DECREASE)
            measured = PUSH * self._good_rate(now)
            self._set_rate(measured if self.rate is None else min(self.rate, measured))
            self.ceiling = self.rate
            if not self.lates:  # a server that is only asked too often may have as many at once as before
                self._widen()
        self._restart(now)
