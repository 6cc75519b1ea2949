"""Personal data: what is found, what only looks like it, and that masking changes nothing else."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_builders import transforms
from instruct_builders.errors import ConfigError
from instruct_builders.transforms.quality.pii import IBAN_LENGTHS, KINDS, iban, luhn, masked, pii, spans

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
    ],
)
def test_near_misses_stay_byte_for_byte(text):
    assert masked(text, ALL) == text


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


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["x@y.org", "+49 30 901820", "4012 8888 8888 1881", KEY, "a", "\n", ", ", "1", "é"])))
def test_masking_twice_is_masking_once(parts):
    once = masked(" ".join(parts), ALL)
    assert masked(once, ALL) == once and KEY not in once and "x@y.org" not in once


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=300))
def test_text_without_personal_data_is_not_touched(text):
    if not spans(text, ALL):
        assert masked(text, ALL) == text
        assert pii(table_of(text), dict.fromkeys(KINDS, "mask")).equals(table_of(text))
