"""Raw replies -> text or the name of what is wrong with them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_builders.generate import answers, statuses


def reply(**changes) -> dict:
    message = {"role": "assistant", "content": "Blue."}
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage, **changes}


def body(value) -> bytes:
    return json.dumps(value).encode()


def with_message(finish_reason="stop", **message) -> bytes:
    return body(reply(choices=[{"message": message, "finish_reason": finish_reason}]))


@pytest.mark.parametrize(
    ("raw", "text", "defect"),
    [
        (body(reply()), "Blue.", None),
        (b"\xef\xbb\xbf" + body(reply()), "Blue.", None),
        (with_message(content="\U0001f600"), "\U0001f600", None),  # a whole pair of escapes is text
        (with_message(None, content="x"), "x", None),
        (b" \n", None, "empty_body"),
        (b"\xff{}", None, "bad_utf8"),
        (b"<html></html>", None, "html"),
        (body(reply())[:50], None, "bad_json"),
        (b"[" * 100_000, None, "bad_json"),
        (b"7", None, "wrong_type"),
        (body({"error": {"message": "no"}}), None, "error_object"),
        (body({}), None, "no_choices"),
        (body(reply(choices=[])), None, "no_choices"),
        (body(reply(choices={"0": 1})), None, "wrong_type"),
        (body(reply(choices=[7])), None, "wrong_type"),
        (body(reply(choices=[{}])), None, "missing_key"),
        (body(reply(choices=[{"message": "hi"}])), None, "wrong_type"),
        (with_message(), None, "missing_key"),
        (with_message(content=None), None, "null_content"),
        (with_message("length", content=None, reasoning="..."), None, "length"),
        (with_message("length", content="Half an ans"), "Half an ans", "length"),
        (with_message("content_filter", content=""), None, "content_filter"),
        (with_message(content=["a"]), None, "wrong_type"),
        (with_message(content=" \t"), None, "empty_text"),
        (with_message(content=None, refusal="No."), None, "refusal"),
        (b'{"choices": [{"message": {"content": "\\ud83d"}}]}', None, "lone_surrogate"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_every_reply_is_text_or_has_a_named_defect(raw, text, defect):
    reading = answers.read(raw)
    assert (reading.text, reading.defect) == (text, defect)
    assert defect is None or defect in answers.DEFECTS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["choices", "message", "content", "error", "usage", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
def test_no_json_at_all_breaks_the_reader(value):
    reading = answers.read(body(value))
    assert (reading.text is None) == (reading.defect is not None)


@given(st.binary(max_size=200))
def test_no_bytes_at_all_break_the_reader(raw):
    assert answers.read(raw).defect in answers.DEFECTS
    for status in (200, 302, 400, 418, 429, 500, 503):
        assert statuses.judge(statuses.Reply(status, {}, raw)).kind in ("reply", "busy", "failed", "fatal")


@pytest.mark.parametrize("usage", [None, 7, {}, {"prompt_tokens": 1}, {"prompt_tokens": -1, "completion_tokens": 2}])
def test_usage_that_is_none_never_costs_the_answer(usage):
    reading = answers.read(body(reply(usage=usage)))
    assert reading.text == "Blue." and reading.usage == {}


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (200, {"message": "slow", "code": "rate_limit_exceeded"}, "busy"),
        (200, {"message": "pay", "type": "insufficient_quota"}, "fatal"),
        (429, {"message": "pay", "code": "insufficient_quota"}, "fatal"),
        (429, {"message": "slow"}, "busy"),
        (529, {"message": "slow"}, "busy"),
        (408, {}, "failed"),
        (502, {}, "failed"),
        (301, {}, "fatal"),
        (401, {"message": "key"}, "fatal"),
        (422, {"message": "what?"}, "fatal"),
    ],
)
def test_statuses(status, error, kind):
    verdict = statuses.judge(statuses.Reply(status, {}, body({"error": error})))
    assert verdict.kind == kind and "\n" not in verdict.detail
