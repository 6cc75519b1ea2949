"""Budgets, pace, storms, the journal and the key: what a run may spend, when it waits, and what it never does."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter

import pytest

from instruct_builders.errors import ConfigError, GenerationError, Stopped
from instruct_builders.generate.demo_server import DemoServer, Options
from instruct_builders.generate.engine import Engine, Request

from .conftest import questions

KEY = "sk-test-0123456789abcdef"


def stopped(answers) -> list[Exception]:
    return [answer for answer in answers if isinstance(answer, Exception)]


@pytest.mark.parametrize(
    ("limit", "spent"),
    [
        (
            {"max_requests": 30},
            lambda account: account["run"]["spent"]["requests"] + account["run"]["spent_before"]["requests"],
        ),
        (
            {"max_tokens_total": 4000},
            lambda account: account["run"]["spent"]["tokens"] + account["run"]["spent_before"]["tokens"],
        ),
        ({"max_cost": 0.02}, lambda account: account["run"]["spent"]["cost"] + account["run"]["spent_before"]["cost"]),
    ],
    ids=["requests", "tokens", "cost"],
)
def test_a_budget_is_never_overrun_over_all_runs_and_stops_cleanly(limit, spent, ask_all):
    prices = {"input": 1.0, "output": 10.0}
    (name, most) = next(iter(limit.items()))
    answers, account, log = ask_all(questions(100), prices=prices, server={"latency": 0.02}, **limit)
    errors = stopped(answers)
    assert errors and all(isinstance(error, Stopped) and error.exit_code == 5 for error in errors)
    assert name in str(errors[0]) and 0 < len(log) < 100
    assert 0.5 * most < spent(account) <= most  # what fits is used
    assert len(log) + len(errors) == 100
    # The same command does not go beyond it either; a higher limit goes on from there.
    _, account, more = ask_all(questions(100), prices=prices, **limit)
    assert spent(account) <= most
    answers, account, rest = ask_all(questions(100), prices=prices, **{name: most * 100})
    assert not stopped(answers) and len(log) + len(more) + len(rest) == 100


def test_the_server_never_sees_more_than_the_budget_whatever_it_answers(ask_all):
    _, _, log = ask_all(questions(60), server={"fault": "500,cut,length,refusal"}, max_requests=40)
    assert len(log) == 40


def test_token_budgets_need_a_bound_on_the_answer(ask_all):
    (error,), _, log = ask_all([Request(({"role": "user", "content": "Hello"},))], max_tokens_total=10_000)
    assert isinstance(error, ConfigError) and "max_tokens" in str(error) and not log


def test_a_storm_spends_no_row_and_ends_soon_after_it(ask_all):
    server = {"storm": 3.0, "storm_start": 0.2, "storm_status": 429, "latency": 0.05, "retry_after": "1"}
    began = time.monotonic()
    answers, account, log = ask_all(questions(100), server=server, max_retries=0, max_concurrency=16)
    assert not stopped(answers) and all(answer.text for answer in answers)
    assert time.monotonic() - began < 3.2 + 10  # a second or two on a machine with nothing else to do
    refused = sum(line["status"] == 429 for line in log)
    assert refused == account["run"]["rate_limited"] <= 16 + 10  # those in flight, then one try a second


def test_an_outage_of_the_server_spends_no_row(ask_all):
    server = {"storm": 2.0, "storm_start": 0.1, "storm_status": 500, "latency": 0.02}
    answers, _, _ = ask_all(questions(60), server=server, max_retries=0, max_concurrency=8)
    assert all(answer.text for answer in answers)


def test_a_server_that_refuses_for_too_long_ends_the_run_resumable(ask_all):
    answers, _, _ = ask_all(questions(5), server={"storm": 60.0, "storm_status": 503}, max_wait=1.0)
    assert {error.exit_code for error in stopped(answers)} == {3} and "no reply for 1 s" in str(answers[0])
    answers, _, log = ask_all(questions(40), server={"storm": 60.0, "storm_status": 429, "retry_after": "86400"})
    assert (
        {error.exit_code for error in stopped(answers)} == {3} and "86400" in str(answers[0]) and len(log) <= 40 + 10
    )


def test_an_unreachable_server_is_said_within_seconds(ask_all):
    answers, _, _ = ask_all(questions(3), url="http://127.0.0.1:9/v1")
    assert all(isinstance(answer, GenerationError) for answer in answers)
    assert "http://127.0.0.1:9/v1 can't be reached" in str(answers[0])


@pytest.mark.parametrize(
    "budget",
    [{"max_requests": 9}, {"max_tokens_total": 9000}, {"max_cost": 0.05, "prices": {"input": 1.0, "output": 10.0}}],
)
def test_a_server_that_is_not_there_costs_nothing(budget, ask_all):
    for _ in range(3):
        answers, account, _ = ask_all(questions(3), url="http://127.0.0.1:9/v1", **budget)
        assert "can't be reached" in str(answers[0]) and account["run"]["requests"] >= 4
        assert not any([*account["run"]["spent"].values(), *account["run"]["spent_before"].values()])


def test_who_asks_the_same_pays_once_and_is_told_so(ask_all):
    asked, prices = questions(1) * 10 + questions(2), {"input": 1.0, "output": 2.0}
    for _ in range(2):
        answers, account, _ = ask_all(asked, prices=prices)
        assert len({answer.text for answer in answers}) == 2 and account["questions"]["answered"] == 12
        assert account["questions"]["replies"] == 2
        spent = account["run"]["spent"]["cost"] + account["run"]["spent_before"]["cost"]
        assert account["cost"] == pytest.approx(spent) and spent > 0


def test_addresses_are_checked_and_shown_without_a_password(tmp_path, ask_all):
    for wrong in ("localhost:8000/v1", "http://[::1", "ftp://host/v1", "http://", "http://host:port/v1"):
        with pytest.raises(ConfigError, match="http://localhost:8000/v1 is allowed"):
            Engine(model="m", base_url=wrong, journal=tmp_path / "j.sqlite")
    answers, account, _ = ask_all(questions(1), url="http://alice:s3cret@127.0.0.1:9/v1")
    assert "http://127.0.0.1:9/v1 can't be reached" in str(answers[0])
    assert "s3cret" not in f"{answers} {account}"


def test_requests_per_minute_are_kept(ask_all):
    _, _, log = ask_all(questions(20), requests_per_minute=600)
    times = [line["time"] for line in log]
    assert times[-1] - times[0] >= 19 * 0.1 - 0.05


def test_tokens_per_minute_are_kept(ask_all):
    # Each request counts its prompt and the 400 tokens it may get, about 430, until the reply says what it took.
    _, account, log = ask_all(questions(30), tokens_per_minute=430 * 60 * 4, max_concurrency=4)
    times, used = [line["time"] for line in log], account["run"]["spent"]["tokens"]
    assert (used - 2 * 430) / (430 * 4) - 0.1 <= times[-1] - times[0]
    assert used < 30 * 430 / 3  # counted in full it would take three times as long


def test_one_slow_request_holds_nobody_back(tmp_path):
    finished = {}

    async def main():
        demo = DemoServer(Options(port=0, fault="hang", fault_share=0.05, hang=60.0, latency=0.02))
        settings = {"timeout": 3.0, "max_concurrency": 8}
        engine = Engine(demo=True, base_url=await demo.start(), journal=tmp_path / "run.sqlite", **settings)

        async def one(row: int, request: Request) -> None:
            began = time.monotonic()
            assert (await engine.ask(request)).text
            finished[row] = time.monotonic() - began

        async with engine:
            await asyncio.gather(*(one(row, request) for row, request in enumerate(questions(60))))
        await demo.close()

    asyncio.run(main())
    hung = [row for row, seconds in finished.items() if seconds >= 3.0]
    assert 1 <= len(hung) < 8
    assert max(seconds for row, seconds in finished.items() if row not in hung) < 2.5


def test_a_repeated_question_is_paid_once_and_samples_apart(ask_all):
    (one,) = questions(1)
    samples = [Request(one.messages, {**one.parameters, "seed": sample}, sample=sample) for sample in range(3)]
    answers, _, log = ask_all([one] * 10 + samples)
    assert len(log) == 4 and len({answer.text for answer in answers[:10]}) == 1
    assert len({answer.text for answer in answers[10:]}) == 3


def test_a_check_is_asked_again_under_its_own_reason(ask_all):
    (one,) = questions(1, seed=5)
    seen = []

    def check(text: str) -> str | None:
        seen.append(text)
        return "too_plain" if len(seen) < 3 else None

    (answer,), account, log = ask_all([Request(one.messages, one.parameters, check=check)])
    assert answer.text == seen[-1] and answer.attempts == 3 and account["reasons"] == {"too_plain": 2}
    assert len(set(seen)) == 3 and len({line["body"] for line in log}) == 3  # another seed each time


def test_a_truncated_answer_is_asked_again_with_more_room_unless_it_is_wanted(ask_all):
    (one,) = questions(1)
    server = {"fault": "length", "fault_share": 1.0}
    (answer,), account, log = ask_all([one], server=server)
    assert answer.text and answer.attempts == 2 and account["reasons"] == {"length": 1}
    kept = Request(one.messages, one.parameters, sample=1, keep_truncated=True)
    (answer,), account, log = ask_all([kept], server=server)
    assert answer.text and answer.finish_reason == "length" and len(log) == 1 and account["reasons"] == {}


def test_replay_needs_no_server_and_writes_nothing(ask_all, tmp_path, monkeypatch):
    answers, account, _ = ask_all(questions(20), server={"fault": "html"})
    before = (tmp_path / "run.sqlite").read_bytes()

    async def main():
        async with Engine(model="scripted-demo", demo=True, journal=tmp_path / "run.sqlite", replay=True) as engine:
            replayed = await asyncio.gather(*(engine.ask(one) for one in questions(20)))
            with pytest.raises(Stopped, match="holds no answer to 'What is there to say about the number 20"):
                await engine.ask(questions(21)[20])
        return replayed, engine.account

    replayed, second = asyncio.run(main())
    assert [answer.text for answer in replayed] == [answer.text for answer in answers]
    assert second["reasons"] == account["reasons"] and second["usage"] == account["usage"]
    assert (tmp_path / "run.sqlite").read_bytes() == before
    with pytest.raises(GenerationError, match="no such journal"):
        Engine(demo=True, journal=tmp_path / "none.sqlite", replay=True).run(lambda engine: None)


def test_a_journal_of_another_version_or_program_is_refused_and_not_touched(ask_all, tmp_path):
    path = tmp_path / "run.sqlite"
    ask_all(questions(2))
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    for change, words in [(None, "version 99"), (b"id,name\n" * 400, "not a journal")]:
        if change:
            path.write_bytes(change)
        before = path.read_bytes()
        with pytest.raises(GenerationError, match=words):
            ask_all(questions(2))
        assert path.read_bytes() == before
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE other (x)")
    db.close()
    with pytest.raises(GenerationError, match="another program"):
        ask_all(questions(2))


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(tmp_path, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    async def main(wanted: str, journal: str):
        demo = DemoServer(Options(port=0, key=wanted))
        base = await demo.start()
        # The demo's model by its name over a base_url: demo=True would send no key.
        engine = Engine(model="scripted-demo", demo=True, base_url=base, journal=tmp_path / journal)
        engine.key = KEY
        try:
            async with engine:
                return await asyncio.gather(*(engine.ask(one) for one in questions(3)), return_exceptions=True)
        finally:
            await demo.close()

    assert all(answer.text for answer in asyncio.run(main(KEY, "good.sqlite")))
    errors = asyncio.run(main("another", "bad.sqlite"))  # the server's message repeats the key it was given
    assert all(isinstance(error, GenerationError) and "***" in str(error) for error in errors)
    said = caplog.text + "".join(map(str, errors)) + "".join(map(repr, errors))
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert KEY not in said and KEY.encode() not in files
    with sqlite3.connect(tmp_path / "good.sqlite") as db:
        assert KEY.encode() not in db.serialize()
    db.close()


def test_the_demo_is_never_chosen_by_accident(tmp_path, monkeypatch):
    journal = tmp_path / "run.sqlite"
    with pytest.raises(ConfigError, match="no LLM configured: set base_url or use --demo"):
        Engine(model="some-model", journal=journal)
    with pytest.raises(ConfigError, match="--demo"):
        Engine(model="scripted-demo", base_url="http://127.0.0.1:1/v1", journal=journal)
    with pytest.raises(ConfigError, match="demo server has only"):
        Engine(model="gpt-4", demo=True, journal=journal)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert Engine(model="some-model", journal=journal).key == KEY
    assert Engine(demo=True, journal=journal).key == ""

    async def main(engine):
        return await engine.ask(questions(1)[0])

    engine = Engine(demo=True, journal=journal)
    assert engine.run(main).text and engine.account["demo"] is True


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_cost": 1.0},
        {"prices": {"input": 1.0}},
        {"max_requests": -1},
        {"max_concurrency": 0},
        {"requests_per_minute": 0},
        {"transport": "pigeon"},
        {"max_retries": -1},
    ],
    ids=str,
)
def test_settings_that_cannot_be_right_are_refused_before_anything_is_made(wrong, tmp_path):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Engine(demo=True, journal=tmp_path / "run.sqlite", **wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("parameters", [{"n": 2}, {"stream": True}, {"stop": {1, 2}}], ids=str)
def test_parameters_that_cannot_be_sent_are_refused(parameters, ask_all):
    (error,), _, log = ask_all([Request(({"role": "user", "content": "Hello"},), parameters)])
    assert isinstance(error, ConfigError) and not log


def test_callers_that_are_cancelled_do_not_cancel_what_is_paid(tmp_path):
    async def main():
        demo = DemoServer(Options(port=0, latency=0.3))
        async with Engine(demo=True, base_url=await demo.start(), journal=tmp_path / "run.sqlite") as engine:
            asking = asyncio.ensure_future(engine.ask(questions(1)[0]))
            await asyncio.sleep(0.15)
            asking.cancel()
            await asyncio.wait([asking])
        async with Engine(demo=True, base_url=engine.base_url, journal=tmp_path / "run.sqlite") as engine:
            answer = await engine.ask(questions(1)[0])
        await demo.close()
        return asking.cancelled(), answer.cached

    assert asyncio.run(main()) == (True, True)


def test_replies_that_are_all_unusable_stop_the_run(ask_all):
    server = {"fault": "refusal", "fault_share": 1.0, "fault_attempts": 99}
    answers, _, log = ask_all(questions(200), server=server, max_concurrency=4)
    assert {getattr(answer, "exit_code", None) for answer in answers} <= {3, None} and stopped(answers)
    assert len(log) < 120 and "refusal" in str(stopped(answers)[0])


def test_repetitions_are_limited_in_all(ask_all):
    server = {"fault": "refusal", "fault_share": 0.5}
    answers, account, _ = ask_all(questions(60), server=server, max_retries_total=5)
    assert stopped(answers) and "max_retries_total=5" in str(stopped(answers)[0])
    assert Counter(account["reasons"])["refusal"] >= 5
