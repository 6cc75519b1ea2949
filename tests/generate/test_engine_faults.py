"""Each fault that servers were seen to make, on 30% of the first attempts of 60 questions: no row is lost to any."""

from __future__ import annotations

from collections import Counter

import pytest

from instruct_builders.errors import GenerationError
from instruct_builders.generate import demo_answers, demo_faults
from instruct_builders.generate.answers import DEFECTS

from .conftest import questions

ROWS = 60
# Fault of the server -> the reason under which it is counted; None: the reply is good.
REASONS = {
    "429": "rate_limited",
    "429_plain": "rate_limited",
    "429_date": "rate_limited",
    "429_zero": "rate_limited",
    "429_day": "rate_limited",
    "429_garbage": "rate_limited",
    "busy_200": "rate_limited",
    "500": "server_error",
    "502": "server_error",
    "503": "overloaded",
    "529": "overloaded",
    "reset": "connection",
    "cut": "connection",
    "hang": "timeout",
    "drip": "timeout",
    "bad_json": "bad_json",
    "html": "html",
    "empty_body": "empty_body",
    "bad_utf8": "bad_utf8",
    "surrogate": "lone_surrogate",
    "no_choices": "no_choices",
    "choices_missing": "no_choices",
    "message_missing": "missing_key",
    "error_200": "error_object",
    "null_content": "null_content",
    "empty_text": "empty_text",
    "content_list": "wrong_type",
    "content_number": "wrong_type",
    "reply_list": "wrong_type",
    "refusal": "refusal",
    "length": "length",
    "content_filter": "content_filter",
    "no_usage": None,
}


def expected(asked) -> list[str]:
    """What the server says to each question when nothing goes wrong."""
    return [demo_answers.answer(0, list(one.messages), one.parameters.get("seed")) for one in asked]


@pytest.mark.parametrize("fault", REASONS)
def test_a_fault_costs_no_row_and_no_good_reply(fault, ask_all):
    server = {"fault": fault, "hang": 20.0}
    asked = questions(ROWS)
    # Short where it is waited for; elsewhere a machine with much else to do must not meet it.
    timeout = 1.5 if fault in ("hang", "drip") else 30.0
    answers, account, log = ask_all(asked, server=server, timeout=timeout)
    assert [answer.text for answer in answers] == expected(asked)  # 0 missing, 0 bad kept
    faults = sum("fault" in line for line in log)
    assert 8 <= faults <= 30  # 18 in the mean
    good = Counter(line["row"] for line in log if line["status"] == 200 and line.get("fault") in (None, "no_usage"))
    assert len(good) == ROWS and set(good.values()) == {1}  # 0 good lost, 0 good paid twice
    reason = REASONS[fault]
    counted = account["run"] if reason in account["run"] else account["reasons"]
    if reason is not None:
        assert reason in DEFECTS and counted[reason] == faults
    assert account["questions"]["answered"] == ROWS and account["run"]["given_up"] == 0
    assert account["usage"]["estimated_replies"] >= (faults if fault == "no_usage" else 0)


def test_every_fault_at_once_and_then_a_rerun_asks_nothing(ask_all):
    server = {"fault": ",".join(REASONS), "hang": 20.0, "fault_share": 0.5}
    asked = questions(100)
    answers, account, _ = ask_all(asked, server=server, timeout=1.0, max_concurrency=32)
    assert [answer.text for answer in answers] == expected(asked)
    again, second, log = ask_all(asked, server=server, timeout=1.0)
    assert [answer.text for answer in again] == expected(asked) and all(answer.cached for answer in again)
    assert not log and second["run"]["requests"] == 0
    assert second["reasons"] == {
        reason: count for reason, count in account["reasons"].items() if reason not in account["run"]
    }


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("400", "status 400"),
        ("401", "OPENAI_API_KEY"),
        ("404", "`model`"),
        ("quota", "quota of this key is used up"),
    ],
)
def test_what_no_repetition_can_help_stops_the_run_at_once_with_one_line(fault, words, ask_all):
    server = {"fault": fault, "fault_share": 0.1, "latency": 0.02}
    answers, account, log = ask_all(questions(200), server=server, max_concurrency=8)
    errors = [answer for answer in answers if isinstance(answer, GenerationError)]
    assert errors and words in str(errors[0]) and "\n" not in str(errors[0]) and errors[0].exit_code == 4
    first = next(position for position, line in enumerate(log) if "fault" in line)
    assert len(log) - first <= 2 * 8  # what was in flight, and no more
    # What was answered before, or was in flight then, is kept.
    good = sum(line["status"] == 200 for line in log)
    assert sum(not isinstance(answer, Exception) for answer in answers) == good
    assert account["run"]["stopped"] == str(errors[0])


@pytest.mark.parametrize(
    ("fault", "reason", "said"),
    [
        ("too_long", "prompt_too_long", "maximum context length is 4096"),
        ("too_long_code", "prompt_too_long", "Your input is too large"),
        ("too_long_422", "prompt_too_long", "max_new_tokens"),
        ("filtered_400", "content_filter", "The response was filtered"),
    ],
)
def test_a_question_that_the_server_refuses_costs_itself_alone_and_is_sent_once(fault, reason, said, ask_all):
    server = {"fault": fault, "fault_share": 0.1, "fault_attempts": 99}
    answers, account, log = ask_all(questions(100), server=server)
    failed = [answer for answer in answers if answer.text is None]
    assert 3 <= len(failed) <= 25 and {answer.reason for answer in failed} == {reason}
    assert all(said in answer.detail for answer in failed)
    assert len(log) == 100 and account["reasons"] == {reason: len(failed)}
    assert account["questions"]["failed"] == account["run"]["given_up"] == len(failed)
    replayed, second, _ = ask_all(questions(100), replay=True)
    assert [(one.text, one.reason, one.detail) for one in replayed] == [
        (one.text, one.reason, one.detail) for one in answers
    ]
    assert second["reasons"] == account["reasons"]
    again, _, log = ask_all(questions(100))  # the server has learnt to take them: only they are sent
    assert all(answer.text for answer in again) and len(log) == len(failed)


def test_where_every_question_is_refused_the_run_stops(ask_all):
    server = {"fault": "too_long", "fault_share": 1.0, "fault_attempts": 99, "latency": 0.01}
    _, account, log = ask_all(questions(400), server=server, max_concurrency=8)
    assert "unusable, the last one: prompt_too_long (This model's maximum" in account["run"]["stopped"]
    assert len(log) <= 100 + 2 * 8


def test_an_answer_for_which_the_context_has_no_more_room_was_cut(ask_all):
    server = {"fault": "length,too_long", "fault_share": 1.0, "fault_attempts": 99, "latency": 0.01}
    answers, _, _ = ask_all(questions(40), server=server, max_retries=9)
    assert {answer.reason for answer in answers} == {"length", "prompt_too_long"}
    assert {answer.reason for answer in answers if answer.attempts > 1} == {"length"}


def test_a_model_that_may_not_say_more_stops_no_run(ask_all, monkeypatch):
    """A cut answer is asked for with more tokens; where the model's own limit is reached that is refused."""
    capped = demo_faults.error("max_tokens is too large: 800. This model supports at most 400 completion tokens")
    length = demo_faults.FAULTS["length"]

    def cut(request: dict, good: bytes):
        return demo_faults.Plan(400, capped) if request["max_tokens"] > 400 else length(request, good)

    monkeypatch.setitem(demo_faults.FAULTS, "capped", cut)
    answers, account, log = ask_all(
        questions(40), server={"fault": "capped", "fault_share": 0.2, "fault_attempts": 99, "latency": 0.01}
    )
    failed = [answer for answer in answers if answer.text is None]
    assert 2 <= len(failed) <= 20 and {answer.reason for answer in failed} == {"length"}
    assert all("at most 400 completion tokens" in answer.detail for answer in failed)
    assert len(log) == 40 + len(failed) and account["run"]["stopped"] is None


def test_an_answer_that_never_gets_better_is_given_up_with_its_reason_and_not_paid_again(ask_all):
    server = {"fault": "refusal", "fault_share": 1.0, "fault_attempts": 99}
    answers, account, log = ask_all(questions(5), server=server, max_retries=2)
    assert [(answer.text, answer.reason, answer.attempts) for answer in answers] == [(None, "refusal", 3)] * 5
    assert len(log) == 15 and account["reasons"] == {"refusal": 15} and account["questions"]["failed"] == 5
    again, _, log = ask_all(questions(5), server=server, max_retries=2)
    assert [answer.reason for answer in again] == ["refusal"] * 5 and not log


def test_a_row_that_alone_meets_errors_is_given_up_and_the_others_are_not(ask_all):
    server = {"fault": "500", "fault_share": 0.05, "fault_attempts": 99, "latency": 0.05}
    answers, account, _ = ask_all(questions(100), server=server, max_retries=1, max_concurrency=8, max_wait=2.0)
    failed = [answer for answer in answers if answer.text is None]
    assert failed and {answer.reason for answer in failed} == {"server_error"}
    assert account["run"]["given_up"] == len(failed)
