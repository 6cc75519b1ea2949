"""The Batch API as a transport: the same journal, the same answers, nothing handed over twice."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections import Counter

import pytest

from instruct_builders.errors import Stopped
from instruct_builders.generate import batch_api, demo_answers
from instruct_builders.generate.demo_faults import Plan
from instruct_builders.generate.demo_server import DemoServer, Options
from instruct_builders.generate.engine import Engine

from .conftest import questions


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(batch_api, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(batch_api, "POLL_SECONDS", (0.05, 0.1))
    monkeypatch.setattr(batch_api, "MAKING_SECONDS", (0.05, 0.1))


def ask_in_batches(journal, server: DemoServer, count: int, stop_after: float | None = None, **settings):
    """The answers (or errors) to `count` questions, and the account."""

    async def main(base: str):
        async with Engine(demo=True, base_url=base, journal=journal, transport="batch", **settings) as engine:
            if stop_after is not None:
                asyncio.get_running_loop().call_later(stop_after, engine.stop, Stopped("enough", 130))
            answers = await asyncio.gather(*map(engine.ask, questions(count)), return_exceptions=True)
        return answers, engine.account

    return main


def run(tmp_path, *runs: dict, **flags):
    """Several runs on one journal and one server, which lives on between them; gives their results and the server."""

    async def main():
        server = DemoServer(Options(port=0, **flags))
        base = await server.start()
        results = []
        for settings in runs:
            results.append(await ask_in_batches(tmp_path / "run.sqlite", server, **settings)(base))
            await asyncio.sleep(settings.get("stop_after") or 0)
        await server.close()
        return results, server

    return asyncio.run(main())


def texts(count: int) -> list[str]:
    return [demo_answers.answer(0, list(one.messages)) for one in questions(count)]


def test_batches_give_the_same_answers_and_a_rerun_makes_none(tmp_path):
    (first, second), server = run(tmp_path, {"count": 30}, {"count": 30})
    assert [answer.text for answer in first[0]] == [answer.text for answer in second[0]] == texts(30)
    assert len(server.batches.made) == 1 and all(answer.cached for answer in second[0])
    assert first[1]["usage"] == second[1]["usage"] and set(server.arrivals.values()) == {1}


@pytest.mark.parametrize("fault", ["500", "503", "429", "refusal", "content_list", "length"])
def test_failed_lines_are_asked_again_in_a_further_batch(fault, tmp_path):
    ((answers, account),), server = run(tmp_path, {"count": 30}, fault=fault)
    assert [answer.text for answer in answers] == texts(30)
    asked = Counter(name.rpartition("-")[0] for name in server.arrivals.elements())
    again = sum(count - 1 for count in asked.values())
    assert 3 <= again <= 16 and 2 <= len(server.batches.made) <= 4
    # A bad reply counts under its reason; a line that failed was not paid.
    assert sum(account["reasons"].values()) == (0 if fault.isdigit() else again)


def test_a_run_that_stops_while_a_batch_is_under_way_fetches_it_the_next_time(tmp_path):
    runs = ({"count": 20, "stop_after": 0.6}, {"count": 20, "max_requests": 20})
    (first, second), server = run(tmp_path, *runs, batch_seconds=1.0)
    assert all(isinstance(answer, Stopped) for answer in first[0])
    assert [answer.text for answer in second[0]] == texts(20)
    assert len(server.batches.made) == 1 and set(server.arrivals.values()) == {1}
    assert second[1]["run"]["spent_before"]["requests"] + second[1]["run"]["spent"]["requests"] == 20


def test_a_batch_whose_making_was_not_noted_is_found_by_its_token(tmp_path):
    async def main():
        server = DemoServer(Options(port=0, batch_seconds=0.5))
        base = await server.start()
        await ask_in_batches(tmp_path / "run.sqlite", server, 10, stop_after=0.4)(base)
        with sqlite3.connect(tmp_path / "run.sqlite") as db:  # as a kill between the two leaves it
            assert db.execute("UPDATE batches SET batch = NULL").rowcount == 1
        db.close()
        answers, _ = await ask_in_batches(tmp_path / "run.sqlite", server, 10)(base)
        await server.close()
        return answers, server

    answers, server = asyncio.run(main())
    assert [answer.text for answer in answers] == texts(10)
    assert len(server.batches.made) == 1


def test_a_torn_result_file_costs_only_the_torn_line():
    good = b'{"custom_id":"a-0","response":{"status_code":200,"body":{"x":1}}}\n'
    torn = good.replace(b"a-0", b"b-0")[:40] + b"\n"
    replies = batch_api.parse_results(good + torn + b"7\n[]\n")
    assert list(replies) == ["a-0"] and replies["a-0"].status == 200


def lose(server: DemoServer, request: str, times: int, status: int | None) -> None:
    """What the server does for such a request is done, but its reply is lost: by an error, or with the connection."""
    whole, left = server.batches.handle, [times]

    def handle(method, path, headers, body):
        plan = whole(method, path, headers, body)
        if left[0] and re.search(request, f"{method} {path}"):
            left[0] -= 1
            return Plan(status or 200, b"{}", manner="whole" if status else "reset")
        return plan

    server.batches.handle = handle


def asked_with_losses(tmp_path, losses: list[tuple], runs: int = 1, **flags) -> tuple[list, DemoServer]:
    """Runs of 20 questions each on one journal; the replies in `losses` are lost while the first one runs."""

    async def main():
        server = DemoServer(Options(port=0, **flags))
        base, whole, results = await server.start(), server.batches.handle, []
        for loss in losses:
            lose(server, *loss)
        for _ in range(runs):
            results.append(await ask_in_batches(tmp_path / "run.sqlite", server, 20)(base))
            server.batches.handle = whole
        await server.close()
        return results, server

    return asyncio.run(main())


def check_paid_once(answers: list, server: DemoServer) -> None:
    assert [answer.text for answer in answers] == texts(20)
    assert len(server.batches.made) == 1 and set(server.arrivals.values()) == {1}


@pytest.mark.parametrize("status", [None, 502])
def test_a_batch_whose_making_was_answered_by_nobody_is_made_once(status, tmp_path):
    ((answers, _),), server = asked_with_losses(tmp_path, [(r"POST .*/batches", 1, status)])
    check_paid_once(answers, server)


def test_where_nobody_says_whether_a_batch_was_made_the_next_run_finds_it(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_api, "REPETITIONS", 0)
    losses = [(r"POST .*/batches", 1, 502), (r"GET .*/batches\?", 99, 503)]
    ((stopped, account), (answers, _)), server = asked_with_losses(tmp_path, losses, runs=2)
    assert all(isinstance(answer, Stopped) for answer in stopped) and "run the same" in account["run"]["stopped"]
    check_paid_once(answers, server)


@pytest.mark.parametrize("status", [None, 503])
@pytest.mark.parametrize("request_", [r"GET .*/batches/", r"GET .*/content"])
def test_a_server_that_fails_while_a_batch_is_under_way_costs_nothing(request_, status, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_api, "REPETITIONS", 0)
    ((answers, _),), server = asked_with_losses(tmp_path, [(request_, 4, status)], batch_seconds=0.2)
    check_paid_once(answers, server)


def test_a_batch_of_more_than_may_wait_at_once_is_handed_over_in_parts(tmp_path):
    async def main():
        server = DemoServer(Options(port=0))
        base, refreshed = await server.start(), server.batches.refreshed

        def refused(batch):
            lines = server.batches.files[batch["input_file_id"]].count(b"\n") + 1
            if lines <= 6:
                return refreshed(batch)
            said = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached", "object": "error"}
            return {**batch, "status": "failed", "errors": {"object": "list", "data": [said]}}

        server.batches.refreshed = refused
        answers, account = await ask_in_batches(tmp_path / "run.sqlite", server, 20)(base)
        await server.close()
        return answers, account, server

    answers, account, server = asyncio.run(main())
    assert [answer.text for answer in answers] == texts(20)
    assert set(server.arrivals.values()) == {1} and account["run"]["given_up"] == 0
