"""Personal data: what is found, what only looks like it, and that masking changes nothing else."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_builders import transforms
from instruct_builders.errors import ConfigError
from instruct_builders.records import JSON, MESSAGE_FIELDS, MESSAGES
from instruct_builders.transforms.quality import pii_phones
from instruct_builders.transforms.quality.pii import Search, pii
from instruct_builders.transforms.quality.pii_forms import (
    IBAN_LENGTHS,
    KINDS,
    iban,
    json_strings,
    likely,
    luhn,
    masked,
    placeholder,
    replaced,
    spans,
)

ALL = set(KINDS)
KEY = "hf_" + "a1B2c3D4e5" * 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe+x@mail.company.co.uk.", "Write to [EMAIL]."),
        ("Call +49 30 901820 or (212) 867-5309 now.", "Call [PHONE] or [PHONE] now."),
        ("Call 212-867-5309, +44 20 7946 0958 or +1-415-867-5309.", "Call [PHONE], [PHONE] or [PHONE]."),
        ("Card 4012 8888 8888 1881, exp 12/30", "Card [CARD], exp 12/30"),
        ("My credit card is 4012888888881881.", "My credit card is [CARD]."),
        ("Amex 3782-822463-10005", "Amex [CARD]"),
        ("IBAN DE89 3704 0044 0532 0130 00 please", "IBAN [IBAN] please"),
        ("GB82WEST12345698765432", "[IBAN]"),
        (f"token={KEY}", "token=[KEY]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----\nok", "[KEY]\nok"),
        ("电话：138-1234-5678", "电话：[PHONE]"),
        ("josé@correo.es or ?u=john@gmail.com&x", "[EMAIL] or ?u=[EMAIL]&x"),
        ("联系zhang@163.com谢谢 <a.b@sub.mail.co>", "联系[EMAIL]谢谢 <[EMAIL]>"),
        ("Ask JOHN@GMAIL.COM.Thanks", "Ask [EMAIL].Thanks"),
        ("- -jo@my-firm.io", "- -[EMAIL]"),
        ("BE68 5390 0754 7034 0049 30 901820", "[IBAN] [PHONE]"),
        ("cards 2671 4012 8888 8888 1881", "cards 2671 [CARD]"),
        (f"aws_secret_access_key = {'aB3/' * 10}", "aws_secret_access_key = [KEY]"),
        ("SG" + "." + "aB3dE6gH9jK" * 2 + "." + "aB3dE6gH9jK" * 3 + "aB3dE6gH9j", "[KEY]"),
    ],
)
def test_found(text, expected):
    assert masked(text, ALL) == expected


@pytest.mark.parametrize(
    "text",
    [
        "user@example.com, root@localhost, a@b, git@github.com:org/repo.git, name@host.test",
        "On 2023-01-15 at 10:30:00, ISO 2023-01-15T10:30:00",
        "192.168.100.100 and 10.0.0.1, version 1.234.567.8901",
        "Pi is 3.14159265358979323846, and 2^53 = 9007199254740992.",
        "ISBN 978-3-16-148410-0, order 4012888888881882, 17179869184",
        "4012888888881881 is a prime?",  # digits alone, and no word of a card
        "- manageryears is 2005-2008 2009 2010 2012",  # years that pass Luhn
        "Fictional: 555-0123 and (212) 555-0123",
        "DE89 3704 0044 0532 0130 01 has wrong check digits; AB12CDEF is none",
        "task-oriented-dialogue, sk-short, 1234-5678",
        "0000 0000 0000 0000 and 100-200-3000 and 12-345-6789",
        "5 + 10 - 20 and +1 +2 +3; lines 100-200",
        "y = W@x.mean() and (A@x.reshape(-1,1)).sum(), W@x.id, x@self.T, df@b.at[0]",
        "getty@tty1.service, pkg@v1.0.beta",
        "unpkg.com/react@16.7.0/umd, run@script.py, a@b.c",
        "growth of +120 000 000 people, +49 000 000 EUR, +2000 3000 4000, GDP +12345678901, pages 211-345-6789",
        "+40.7128 -74.0060, +1.234.567.8901, version 1.234.567.8901, x = 020 7946 0958, 1 2 3 4 5 6 7 8 9 10 11",
        "My phone costs 12 345 678 rupees; the number is 2125557890; on 2023 01 15 I called",
        "commit bcc37c64db1a739abcc37c64db1a739abcc37c64, UUID 550e8400-e29b-41d4-a716-446655440000",
    ],
)
def test_near_misses_stay_byte_for_byte(text):
    assert masked(text, ALL) == text


NATIONAL = (
    *("020 7946 0958", "01 23 45 67 89", "06.12.34.56.78", "030 123456", "030/12345678", "0171 1234567"),
    *("03-1234-5678", "13812345678", "415 555 2671", "0412 345 678", "010-12345678", "0049 30 123456"),
)


@pytest.mark.parametrize("library", [True, False], ids=["phonenumbers", "without"])
def test_national_numbers_count_after_a_word_for_a_phone(library, monkeypatch):
    if not library:
        monkeypatch.setattr(pii_phones, "library", lambda: None)
    words = ("Tel.: ", "call me on ", "Telefonnummer ", "手机号码：", "WhatsApp: ", "Appelez le ", "テスト電話番号は")
    for word, number in itertools.product(words, NATIONAL):
        assert masked(f"{word}{number}.", ALL) == f"{word}[PHONE].", (word, number)
    assert masked("phone 020 7946 0958 or 030 123456, 7 days", ALL) == "phone [PHONE] or [PHONE], 7 days"
    for number in NATIONAL[:-1]:
        assert masked(f"The sum is {number}.", ALL) == f"The sum is {number}."
    counts = Counter()
    pii(table_of("x"), {"phone": "mask"}, counts)
    assert counts["phones_by"].startswith("phonenumbers " if library else "its form (pip install")


def test_regions_have_their_numbers_found_wherever_they_are_grouped_as_there(monkeypatch):
    def found(text: str, *regions: str) -> str:
        return pii(table_of(text), {"phone": "mask", "regions": list(regions)})["context"][0].as_py()

    assert found("at 020 7946 0958 or 01 23 45 67 89", "GB") == "at [PHONE] or 01 23 45 67 89"
    assert found("at 06.12.34.56.78 and 415 555 2671", "FR", "US") == "at [PHONE] and [PHONE]"
    for stays in ("3000 4000 5000 6000", "100-200-3000", "2019 2020 2021 2022", "9876543210", "0-306-40615-2"):
        assert found(stays, "GB", "US", "FR", "CN", "IN", "JP", "BR", "AU", "KR", "DE", "ES") == stays
    for wrong, message in ((["UK"], "'UK' is no country"), ([False], 'write "NO"'), ("GB", "a list of countries")):
        with pytest.raises(ConfigError, match=message):
            pii(table_of("x"), {"phone": "mask", "regions": wrong})
    monkeypatch.setattr(pii_phones, "library", lambda: None)
    with pytest.raises(ConfigError, match=r'pip install "instruct-builders\[pii\]"'):
        pii(table_of("x"), {"phone": "mask", "regions": ["GB"]})


STORED = pa.list_(pa.struct([(name, kind if kind != JSON else pa.string()) for name, kind in MESSAGE_FIELDS.items()]))


def calling(arguments: str, tools: str | None = None) -> pa.Table:
    """A row whose assistant calls a function, as the record has it."""
    call = f'[{{"type": "function", "function": {{"name": "send", "arguments": {arguments}}}}}]'
    turns = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "", "tool_calls": call}]
    turns[1]["reasoning_content"] = "It goes to x@y.org"
    filled = [[{**dict.fromkeys(MESSAGE_FIELDS), **turn} for turn in turns]]
    return pa.table(
        {"messages": pa.array(filled, STORED).cast(MESSAGES), "tools": pa.array([tools], pa.string()).cast(JSON)}
    )


def called(table: pa.Table) -> tuple[str, str, str]:
    turn = table["messages"].combine_chunks().flatten()
    calls, thought = turn.field("tool_calls").storage[1].as_py(), turn.field("reasoning_content")[1].as_py()
    return calls, thought, table["tools"].combine_chunks().storage[0].as_py()


def test_tool_calls_and_tools_are_masked_and_stay_json_byte_for_byte():
    arguments = (
        r'{"to":"boss@company.com",  "x@y.org": 1, "n": 4012888888881881, "s": "caf\u00e9\n\"x@y.org\" \ud83d\ude00"}'
    )
    tools = '[{"description": "Call +49 30 901820"}]'
    counts, table = Counter(), calling(arguments, tools)
    masks = {"email": "mask", "phone": "mask"}
    calls, thought, offered = called(pii(table, masks, counts))
    assert calls == called(table)[0].replace("boss@company.com", "[EMAIL]").replace('"x@y.org\\"', '"[EMAIL]\\"')
    assert json.loads(calls)[0]["function"]["arguments"]["s"] == 'café\n"[EMAIL]" 😀'
    assert thought == "It goes to [EMAIL]" and offered == '[{"description": "Call [PHONE]"}]'
    assert (counts["masked_email"], counts["masked_phone"]) == (3, 1)
    dropped = pii(calling('{"a": "x@y.org"}'), {"email": "drop"})["rejected"][0].as_py()
    assert dropped == {"reason": "pii", "field": "messages[1].reasoning_content", "detail": "1 email"}
    recognised = pii(calling('{"who": "Ada", "Ada": 1}', "[]"), {"recognise": names, "person": "mask"})
    assert '"arguments": {"who": "[PERSON]", "Ada": 1}' in called(recognised)[0]


def table_of(*texts) -> pa.Table:
    messages = [[{"role": "user", "content": text}, {"role": "assistant", "content": "ok"}] for text in texts]
    return pa.table({"messages": pa.array(messages), "context": pa.array(list(texts))})


def test_mask_in_every_turn_and_context_and_count():
    counts = Counter()
    actions = {"email": "mask", "key": "mask", "phone": "keep"}
    table = pii(table_of("a x@y.org b", f"{KEY} +49 30 901820"), actions, counts)
    assert [row[0]["content"] for row in table["messages"].to_pylist()] == ["a [EMAIL] b", "[KEY] +49 30 901820"]
    assert table["context"].to_pylist() == ["a [EMAIL] b", "[KEY] +49 30 901820"]
    assert counts == {"masked_email": 2, "masked_key": 2}


def test_drop_names_kind_and_place_and_never_the_thing():
    table = pii(table_of("fine", f"see {KEY} and {KEY}"), {"key": "drop", "email": "mask"})
    assert table["rejected"].to_pylist() == [
        None,
        {"reason": "pii", "field": "messages[0].content", "detail": "2 key"},
    ]


def test_the_step_masks_and_gives_rows_new_ids():
    table = table_of("Write to x@y.org", "Name a bird.").append_column("id", pa.array(["a" * 32, "b" * 32]))
    table, (account,) = transforms.apply(table, [{"quality": {"preset": {"pii": {"email": "mask"}}}}])
    assert account["changed"] == 1 and account["masked_email"] == 2
    assert table["id"].to_pylist()[0] != "a" * 32 and table["id"].to_pylist()[1] == "b" * 32


def names(texts: list[str]) -> list[list[tuple[int, int, str]]]:
    """A recogniser that knows one person, fails on one text, and once names a place outside the text."""
    if any("boom" in text for text in texts):
        raise RuntimeError("no model for boom")
    found = [[(text.find("Ada"), text.find("Ada") + 3, "person")] if "Ada" in text else [] for text in texts]
    return [[(0, 999, "person")] if "outside" in text else spans for text, spans in zip(texts, found, strict=True)]


def test_a_recogniser_of_names_masks_or_drops_and_fails_for_its_row_alone():
    table = table_of("Ada has x@y.org", "nothing", "boom", "Ada@y.org is no name", "outside")
    counts = Counter()
    actions = {"email": "mask", "recognise": names, "person": "mask"}
    result = pii(table, actions, counts)
    first = [row[0]["content"] for row in result["messages"].to_pylist()]
    assert first == ["[PERSON] has [EMAIL]", "nothing", "boom", "[EMAIL] is no name", "outside"]
    assert result["context"].to_pylist() == first and counts == {"masked_email": 4, "masked_person": 2}
    why = result["rejected"].to_pylist()
    assert [row and row["reason"] for row in why] == [None, None, "check_failed", None, "check_failed"]
    assert why[2]["detail"] == "pii: recognise: RuntimeError: no model for boom"
    assert "(0, 999) is no place in a text of 7 characters" in why[4]["detail"]
    dropped = pii(table_of("Ada", "nothing"), {"recognise": names, "person": "drop"})
    assert dropped["rejected"].to_pylist() == [
        {"reason": "pii", "field": "messages[0].content", "detail": "1 person"},
        None,
    ]


def test_a_recogniser_can_be_named_in_a_preset(tmp_path, monkeypatch):
    code = "def find(texts):\n    return [[(0, len(text), 'person')] if text == 'Ada' else [] for text in texts]\n"
    (tmp_path / "own_pii.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    preset = {"pii": {"recognise": "own_pii:find", "person": "mask"}}
    result, (account,) = transforms.apply(table_of("Ada", "Eve"), [{"quality": {"preset": preset}}])
    assert [row[0]["content"] for row in result["messages"].to_pylist()] == ["[PERSON]", "Eve"]
    assert account["preset"]["pii"] == preset["pii"] and account["masked_person"] == 2
    for wrong, message in (
        ({"person": "mask"}, "recognise: module:function"),
        ({"recognise": "own_pii:lost"}, "can't be imported"),
    ):
        with pytest.raises(ConfigError, match=message):
            transforms.check([{"quality": {"preset": {"pii": wrong}}}])


digits = st.text("0123456789", min_size=14, max_size=14)


@settings(max_examples=50, deadline=None)
@given(digits, st.integers(0, 15), st.integers(1, 9))
def test_luhn_finds_every_wrong_digit(body, place, change):
    number = next(f"4{body}{check}" for check in range(10) if luhn(f"4{body}{check}"))
    assert masked(f"my card: {number}.", {"card"}) == "my card: [CARD]."
    wrong = f"{number[:place]}{(int(number[place]) + change) % 10}{number[place + 1 :]}"
    assert not luhn(wrong)
    if wrong[0] in "23456":
        assert spans(f"my card: {wrong}.", {"card"}) == []


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(IBAN_LENGTHS)), st.data())
def test_iban_finds_every_wrong_digit(country, data):
    body = data.draw(st.text("0123456789", min_size=IBAN_LENGTHS[country] - 4, max_size=IBAN_LENGTHS[country] - 4))
    remainder = int("".join(str(int(sign, 36)) for sign in f"{body}{country}00")) % 97
    number = f"{country}{98 - remainder:02}{body}"
    assert iban(number) and masked(f"to {number}, please", {"iban"}) == "to [IBAN], please"
    place = data.draw(st.integers(4, len(number) - 1))
    wrong = f"{number[:place]}{(int(number[place]) + 1) % 10}{number[place + 1 :]}"
    assert not iban(wrong)


PIECES = (
    *("x@y.org", "+49 30 901820", "4012 8888 8888 1881", "4012888888881881", KEY, "BE68 5390 0754 7034", "030 123456"),
    *(
        "(212) 867-5309",
        "13812345678",
        "00",
        "a",
        "1",
        "12",
        "345",
        "6789",
        "é",
        "电话",
        "tel",
        "phone or",
        "card",
        "@",
    ),
    *(" ", " ", "\n", ", ", "-", ".", "/", ":", "(", ")", "[", "]", "+", "=", "or"),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14), st.sampled_from([None, ["DE", "GB"]]))
def test_masking_twice_is_masking_once_and_touches_nothing_else(parts, regions):
    text = "".join(parts)
    found = spans(text, ALL, regions)
    once = masked(text, ALL, regions)
    assert masked(once, ALL, regions) == once
    edges = pairwise([(0, 0, ""), *found, (len(text), 0, "")])
    kept = [text[end:begin] + f"[{kind.upper()}]" * (kind != "") for (_, end, _), (begin, _, kind) in edges]
    assert once == "".join(kept)
    if found:  # what looks over whole columns overlooks none of it
        assert pc.match_substring_regex(pa.array([text]), likely(ALL, regions))[0].as_py()
        quoted = json.dumps({"a": text})
        assert pc.match_substring_regex(pa.array([quoted]), likely(ALL, regions, in_json=True))[0].as_py()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([*PIECES, '"', "\\", "\u2028", "😀", "\t"]), max_size=8), st.booleans())
def test_masking_json_is_masking_what_it_says(parts, ascii_only):
    text = "".join(parts)
    quoted = json.dumps([text, {"x@y.org": 1}, None], ensure_ascii=ascii_only)
    result = Search(frozenset(KINDS), None, {}).spans(quoted, True)
    assert json.loads(replaced(quoted, result, placeholder)) == [masked(text, ALL), {"x@y.org": 1}, None]


@pytest.mark.parametrize("piece", ["1 ", "tel 1 ", "a@", "sk-", "eyJaaaaaaaaaaa-", '"\\', "x@y.org ", "00491 "])
def test_hostile_rows_take_no_more_than_in_proportion(piece):
    text = piece * (20_000 // len(piece))
    found = spans(text, ALL)  # a search of quadratic length takes far longer than the test's time
    assert len(found) == (text.count(piece) if piece == "x@y.org " else 0)
    assert len(list(json_strings(json.dumps([text])))) == 1


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=300))
def test_text_without_personal_data_is_not_touched(text):
    if not spans(text, ALL):
        assert masked(text, ALL) == text
        assert pii(table_of(text), dict.fromkeys(KINDS, "mask")).equals(table_of(text))
