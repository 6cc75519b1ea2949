"""Pacing against simulated servers, on a simulated clock: rates kept, requests wasted, rows waited for."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_builders.generate import pacing


def token_bucket(rate: float, burst: float):
    state = {"level": burst, "time": 0.0}

    def allows(now: float, in_flight: int) -> bool:
        state["level"] = min(burst, state["level"] + (now - state["time"]) * rate)
        state["time"] = now
        if state["level"] < 1:
            return False
        state["level"] -= 1
        return True

    return allows


def window(count: int, seconds: float):
    """So many in any window of so many seconds."""
    times: deque[float] = deque()

    def allows(now: float, in_flight: int) -> bool:
        while times and times[0] <= now - seconds:
            times.popleft()
        if len(times) >= count:
            return False
        times.append(now)
        return True

    return allows


def at_once(most: int):
    return lambda now, in_flight: in_flight <= most


def simulate(pacer: pacing.Pacer, rows: int, allows, latency: float, wait: float | None) -> tuple[float, int]:
    """Runs `rows` requests; gives the seconds and the number of refusals. Refused requests come back when told."""
    draw, number = random.Random(1), itertools.count()
    events: list[tuple] = []
    queue, ready, flying, inside, done, refused, now = 0, rows, 0, 0, 0, 0, 0.0
    pacing_one = False  # only the first in the queue waits for its moment, as in the sender

    def push(time: float, what: str, sent: float = 0.0) -> None:
        heapq.heappush(events, (time, next(number), what, sent))

    while done < rows:
        while ready and flying < pacer.allowed:
            ready, flying, queue = ready - 1, flying + 1, queue + 1
        if queue and not pacing_one:
            pacing_one = True
            push(pacer.slot(now, 1), "send")
        now, _, what, sent = heapq.heappop(events)
        if what == "send" and now < pacer.closed_until:
            push(pacer.closed_until, "send")
            continue
        if what == "send":
            queue, pacing_one = queue - 1, False
            allowed = allows(now, inside + 1)
            inside += allowed
            push(now + (latency if allowed else 0.01), "reply" if allowed else "refusal", now)
        elif what == "reply":
            pacer.good(now, now - sent)
            inside, flying, done = inside - 1, flying - 1, done + 1
        elif what == "refusal":
            refused, flying = refused + 1, flying - 1
            push(pacer.refused(now, sent, wait, draw), "again")
        else:
            ready += 1
    return now, refused


@pytest.mark.parametrize("latency", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("wait", [1.0, None], ids=["retry-after", "none said"])
@pytest.mark.parametrize(
    "server",
    [
        lambda: token_bucket(100, 100),
        lambda: token_bucket(100, 10),
        lambda: window(100, 1.0),
        lambda: window(1000, 10.0),
    ],
    ids=["bucket", "small bucket", "window of 1 s", "window of 10 s"],
)
def test_a_limited_rate_is_used_and_little_is_wasted(server, wait, latency):
    # At a latency of a second the limit takes 100 of the 128 in flight, and is found in a tenth as many rounds.
    for rows, used in [(3000, 0.75), (10_000, 0.85)] if latency == 1.0 else [(3000, 0.83), (10_000, 0.93)]:
        seconds, refused = simulate(pacing.Pacer(128), rows, server(), latency, wait)
        assert rows / seconds >= 100 * used
        assert refused / (rows + refused) <= (0.14 if latency == 1.0 else 0.11)
        if wait is None and latency < 1.0:
            assert rows / seconds >= 93


def test_the_goal_of_the_benchmark_in_simulation():
    seconds, refused = simulate(pacing.Pacer(64), 1200, token_bucket(100, 100), 0.05, 1.0)
    assert 1200 / seconds >= 95 and refused / (1200 + refused) <= 0.10


def test_a_server_that_takes_few_at_once_is_kept_busy():
    seconds, refused = simulate(pacing.Pacer(64), 2000, at_once(16), 0.2, None)
    assert 2000 / seconds >= 0.85 * 16 / 0.2 and refused / (2000 + refused) <= 0.10


def test_a_limit_that_is_lifted_is_found_out():
    pacer, strict, free = pacing.Pacer(64), token_bucket(50, 50), window(10**9, 1.0)
    seconds, _ = simulate(pacer, 3000, lambda now, n: (strict if now < 20 else free)(now, n), 0.1, 1.0)
    assert seconds < 45  # at 50 a second it would be 59


def test_without_refusals_nothing_is_held_back():
    seconds, refused = simulate(pacing.Pacer(64), 6400, window(10**9, 1.0), 0.2, None)
    assert refused == 0 and seconds == pytest.approx(20.0)


def test_stray_refusals_do_not_slow_the_others_down():
    draw = random.Random(3)
    seconds, _ = simulate(pacing.Pacer(32), 3000, lambda now, n: draw.random() > 0.03, 0.2, 1.0)
    assert seconds < 2 * 3000 / (32 / 0.2)


def test_tokens_a_minute_are_counted_as_they_were_used():
    """Slots count the most that an answer may take; what it did not take is there for the next ones."""

    def minutes(counted: int, took: int) -> float:
        pacer, now = pacing.Pacer(64, tokens_per_minute=60_000), 0.0
        for _ in range(1000):
            now = pacer.slot(now, counted)
            pacer.used(counted, took)
        return now / 60

    assert minutes(400, 400) == pytest.approx(400 / 60, rel=0.01)
    assert minutes(400, 100) == pytest.approx(100 / 60, rel=0.02)
    assert minutes(100, 400) == pytest.approx(400 / 60, rel=0.02)


def test_an_idle_minute_does_not_save_up_tokens():
    pacer = pacing.Pacer(64, tokens_per_minute=600)
    pacer.slot(0.0, 100)
    assert pacer.slot(1000.0, 100) == 1000.0 and pacer.slot(1000.0, 100) == 1010.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5.0),
        ("0", 0.0),
        ("86400", 86400.0),
        ("0.25", 0.25),
        ("-3", 0.0),
        (formatdate(1_000_030, usegmt=True), 30.0),
        (formatdate(999_000, usegmt=True), 0.0),
        ("soon; maybe", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        (None, None),
    ],
)
def test_retry_after(value, seconds):
    assert pacing.retry_after(value, 1_000_000) == seconds


@given(st.text())
def test_retry_after_of_anything_is_a_wait_or_nothing(value):
    wait = pacing.retry_after(value, 0.0)
    assert wait is None or (wait >= 0 and math.isfinite(wait))


@given(st.integers(0, 10_000), st.integers())
def test_waits_without_retry_after_are_bounded(failures, seed):
    assert 0 < pacing.backoff(failures, random.Random(seed)) <= pacing.BACKOFF[1]
