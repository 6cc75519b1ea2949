"""When the next request may be sent: how many at once, how many a second, and when not at all. Pure: the clock is
passed in.

The number of requests in flight follows additive increase and multiplicative decrease. A server that counts requests a
second can't be met by that number alone, so after the first status 429 the rate is paced too, from what the server was
seen to let through.
"""

from __future__ import annotations

import math
import random
from collections import deque
from email.utils import parsedate_to_datetime

BACKOFF = (0.5, 30.0)  # seconds: the first wait, and the longest, without a Retry-After
WINDOW = 20  # outcomes that tell a limit from a stray refusal
CLOSING_SHARE = 0.25  # of refusals in the window: closes the gate for all
BUSY_SHARE, QUIET_SHARE = 0.06, 0.02  # of refusals in an interval: above, fewer are sent; below, more
INTERVAL = 1.0  # seconds, or the latency of replies where that is longer
DECREASE = 0.7  # of the requests in flight
IN_VAIN = 10  # decreases in a row that changed nothing: then the refusals have another cause than our rate
CREDIT = 0.5  # seconds of the learnt rate that may be made up for after a pause
GROWTH = (0.02, 0.2)  # of the rate, a second, while hardly anything is refused: the first, and the most
NARROW = 0.04  # of the rate: closer bounds are not told apart
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
        self.recent: deque[bool] = deque(maxlen=WINDOW)  # True: refused
        self.since: float | None = None  # when the interval began
        self.goods = self.bads = 0  # in it
        self.low, self.high = 0.0, math.inf  # a rate that was let through, and one that was refused
        self.latency = 0.0  # of good replies, exponential mean
        self.stray = 0.0  # share of refusals that sending less did not help against
        self.decreases: list[tuple] = []  # rate and limit before each of those in a row
        self.calm_since = 0.0
        self.refused_at, self.refusals = -math.inf, 0  # of the last wave of refusals, and waves in a row
        self.probing = False  # from a closed gate to the next reply

    @property
    def allowed(self) -> int:
        """How many may be in flight: one, after a pause for all, until it is answered."""
        return 1 if self.probing else int(self.limit)

    def slot(self, now: float, tokens: int) -> float:
        """When a request of so many tokens may be sent, at or after `now`; the slot is taken."""
        if self.since is None:
            self.since = self.calm_since = now
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
            self.next_token = start + tokens / self.tokens
        return start

    def good(self, now: float, seconds: float) -> None:
        """A reply came, whatever is in it, after so many seconds."""
        self.recent.append(False)
        self.goods += 1
        self.refusals = 0
        if now - seconds >= self.closed_until:
            self.probing = False
        self.latency = seconds if not self.latency else 0.9 * self.latency + 0.1 * seconds
        self.limit = min(self.most, self.limit + 1 / self.limit)
        self._judge(now)

    def late(self, now: float) -> None:
        """A request met its deadline."""
        self.bads += 1
        self._judge(now)

    def refused(self, now: float, sent: float, wait: float | None, draw: random.Random) -> float:
        """The server said 429 or 503 to a request of the time `sent`; gives the time before which not to ask it again.

        Args:
            wait (`float`, *optional*): Seconds from Retry-After.
        """
        if self.since is None or sent >= self.since:  # those sent before the last decision say nothing about it
            self.recent.append(True)
            self.bads += 1
        if sent > self.refused_at:  # those sent before the last wave say nothing new
            self.refusals, self.refused_at = self.refusals + 1, now
        pause = backoff(self.refusals - 1, draw) if wait is None else wait
        if self.probing and sent >= self.closed_until:
            self._close(now, pause)
        elif now >= self.closed_until and sum(self.recent) >= (CLOSING_SHARE + self.stray) * WINDOW:
            if self.rate is None or not self.goods:
                self._close(now, pause)
            elif self.goods + self.bads >= WINDOW:
                self._decrease(now)
        self._judge(now)
        # Spread behind the wait: they would all come at once.
        return now + pause + draw.uniform(0, 0.1)

    def _close(self, now: float, pause: float) -> None:
        """Nobody sends until the pause is over; then one does, and the others when it is answered."""
        opens = max(self.closed_until, now + pause)
        if not self.probing:
            self.limit = max(1.0, self.limit * DECREASE)
        if self.rate is None and self.goods >= FEWEST:
            # A server that saves up allowances fills them again by then, so the pause counts. Where it does not, the
            # guess is too low, and the search goes up from it.
            self.rate = self.low = self.goods / (opens - self.since)
            self.high = math.inf
        self.closed_until, self.probing = opens, True
        self._restart(opens)

    def _restart(self, now: float) -> None:
        self.since, self.goods, self.bads = now, 0, 0
        self.recent.clear()

    def _judge(self, now: float) -> None:
        """At the end of an interval: fewer at once and a slower rate, or more."""
        seconds, outcomes = now - (now if self.since is None else self.since), self.goods + self.bads
        if seconds < max(INTERVAL, self.latency) or outcomes < WINDOW:
            return
        share = self.bads / outcomes
        if share > self.stray + BUSY_SHARE and self.goods:
            self._decrease(now)
            return
        self.stray, self.decreases = min(self.stray, share), []
        if share > self.stray + QUIET_SHARE:
            self.calm_since = now
        elif self.rate is not None:
            self._increase(now)
        self._restart(now)

    def _increase(self, now: float) -> None:
        """The rate was let through: doubles it until one is refused, then halves the gap, then probes beyond."""
        self.low = self.rate
        if self.high == math.inf:
            self.rate *= 2
        elif self.high - self.low > NARROW * self.high:
            self.rate = (self.low + self.high) / 2
        else:  # further the longer it is calm: doubled every ten seconds
            self.rate *= 1 + min(GROWTH[1], GROWTH[0] * 2 ** ((now - self.calm_since) / 10))
            self.high = max(self.high, self.rate)
        if self.latency and self.low > 2 * self.most / self.latency:
            self.rate = None  # more than the requests in flight could ever use

    def _decrease(self, now: float) -> None:
        """Sets the rate between the last that was let through and this one, and multiplies the number at once.

        What is left in flight is enough for that rate (Little's law). Where some decreases in a row don't help, the
        refusals come from elsewhere, and all is undone.
        """
        self.calm_since = now
        if len(self.decreases) == IN_VAIN:
            self.stray = self.bads / (self.goods + self.bads)
            self.rate, self.limit = self.decreases[0]
            self.decreases = []
        else:
            self.decreases.append((self.rate, self.limit))
            if self.rate is None:
                self.rate = self.goods / max(now - self.since, 1e-3)
            self.high = self.rate
            # What was let through before may have been savings: the longer refusals go on, the less it says.
            if len(self.decreases) > 1 or self.low > (1 - NARROW) * self.high:
                self.low = DECREASE * min(self.low, self.high)
            self.rate = (self.low + self.high) / 2
            needed = self.rate * self.latency * 1.5
            self.limit = max(1.0, min(self.limit, needed), self.limit * DECREASE)
        self._restart(now)
