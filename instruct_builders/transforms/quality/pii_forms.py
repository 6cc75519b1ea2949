"""Personal data in one text: what has a form of its own, and in some kinds a checksum.

A card has its Luhn digit, an IBAN its remainder by 97 and its country's length. [`likely`] is the same for RE2, which
looks over whole columns; everything here is for the texts in which that found something.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence

from ...secret_scan import PATTERNS
from . import pii_phones
from .pii_emails import LIKELY as EMAIL_LIKELY
from .pii_emails import emails

Span = tuple[int, int, str]  # begin, end and kind
KINDS = ("key", "iban", "card", "email", "phone")  # in this order: a card may look like a phone

# No issuer has 20 or 21: four groups that begin so are years, and one list of years in ten passes Luhn.
CARD = r"(?:2[2-7]|[3-6]\d)\d{2}(?:[ \-]?\d{4}){2}[ \-]?\d{1,7}|3[47]\d{2}[ \-]?\d{6}[ \-]?\d{5}"
IBAN = r"[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11}"  # the shortest; each country has its length
# The lines of the key itself, up to the end or to the next five dashes.
PRIVATE = PATTERNS["private key"] + r"(?:(?:[^\-]++|-(?!----))*+-----END [A-Z0-9 ]{0,60}-----)?"
KEY = re.compile("|".join(f"(?:{form})" for form in {**PATTERNS, "private key": PRIVATE}.values()), re.ASCII)
AROUND = r"(?<![A-Za-z0-9_.+\-/=@])(?:{})"
ENDS = re.compile(r"(?![A-Za-z0-9_@]|[.\-]\d)")
CARD_EXACT, IBAN_START = re.compile(AROUND.format(CARD) + ENDS.pattern), re.compile(AROUND.format(r"[A-Z]{2}\d{2}"))
# Ungrouped digits are a card only where the text speaks of one: every tenth number passes Luhn by chance.
SPEAKS_OF_CARD = re.compile(
    r"(?i)\bcards?\b(?!\])|\bvisa\b|master ?card|\bamex\b|credit|debit|karte|tarjeta|carte|cartão|信用卡|卡号"
)
# ISO 13616 lengths.
IBAN_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI FO GL NL",
    19: "MK SI",
    20: "AT BA EE KZ LT LU XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "PT",
    26: "IS TR",
    27: "FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU",
    31: "MT SC",
    32: "LC",
}
IBAN_LENGTHS = {country: length for length, countries in IBAN_COUNTRIES.items() for country in countries.split()}
IBAN_RESTS = {country: re.compile(rf"(?: ?[A-Z0-9]){{{length - 4}}}") for country, length in IBAN_LENGTHS.items()}
STRING = re.compile(r'"((?:[^"\\]++|\\.)*+)(?:"(\s*+:)?|\\?\Z)', re.DOTALL)  # of JSON; what a colon follows is a name
# What JSON writes for one character.
CHARACTER = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|[^\\]", re.DOTALL
)


def likely(kinds: set[str], regions: Sequence[str] | None = None, in_json: bool = False) -> str:
    """A regular expression for RE2 that finds every text of these kinds, and others: it has no look-around."""
    forms = {
        **{"key": "|".join(PATTERNS.values()), "iban": IBAN, "card": CARD, "email": EMAIL_LIKELY},
        "phone": pii_phones.likely(regions),
    }
    chosen = [f"(?:{form})" for kind, form in forms.items() if kind in kinds]
    if in_json:  # a line's end is written as a letter, and any sign may be written as its number
        chosen = [form.replace(r"\b", "") for form in chosen] + [r"\\u00[2-7]|\\u[0-9a-f]{2}"]
    return "|".join(chosen)


def spans(text: str, kinds: set[str], regions: Sequence[str] | None = None) -> list[Span]:
    """Where personal data stands in a text: begin, end and kind, none overlapping, in order."""
    finders: dict[str, Callable[[str], Iterator[tuple[int, int]]]] = {
        **{"key": _keys, "iban": _ibans, "card": _cards, "email": emails},
        "phone": lambda rest: pii_phones.phones(rest, regions),
    }
    taken: list[Span] = []
    rest = text
    for kind, find in finders.items():
        if kind in kinds:
            fresh = [(begin, end, kind) for begin, end in find(rest)]
            rest = replaced(rest, fresh, lambda span: "\0" * (span[1] - span[0]))  # of one kind: no part of another
            taken += fresh
    return sorted(taken)


def replaced(text: str, found: Sequence[Span], by: Callable[[Span], str]) -> str:
    """The text with each span, in order and none overlapping, replaced."""
    parts, position = [], 0
    for span in found:
        parts += [text[position : span[0]], by(span)]
        position = span[1]
    return "".join([*parts, text[position:]]) if parts else text


def placeholder(span: Span) -> str:
    return f"[{span[2].upper()}]"


def masked(text: str, kinds: set[str], regions: Sequence[str] | None = None) -> str:
    """The text with `[EMAIL]`, `[PHONE]`, ... in place of what was found."""
    return replaced(text, spans(text, kinds, regions), placeholder)


def json_strings(text: str) -> Iterator[tuple[int, str, str]]:
    """The texts that are values in JSON: where each begins, as it is written there, and what it says."""
    for match in STRING.finditer(text):
        if not match[2]:
            yield match.start(1), match[1], json.loads(f'"{match[1]}"', strict=False) if "\\" in match[1] else match[1]


def written(raw: str, begin: int, found: Sequence[Span]) -> list[Span]:
    """Spans of what a JSON string says as spans of the JSON, in which it is written from `begin` on."""
    if "\\" in raw:
        bounds = [match.start() for match in CHARACTER.finditer(raw)] + [len(raw)]
    else:
        bounds = range(len(raw) + 1)
    return [(begin + bounds[first], begin + bounds[last], kind) for first, last, kind in found]


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of ISO/IEC 7812 for the others; one repeated digit is no number."""
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(map(int, digits[-1::-2]))) % 10 == 0 and len(set(digits)) > 1


def iban(found: str) -> bool:
    """Whether length and check digits are those of ISO 13616."""
    text = found.replace(" ", "")
    number = "".join(str(int(character, 36)) for character in text[4:] + text[:4])
    return len(text) == IBAN_LENGTHS.get(text[:2]) and int(number) % 97 == 1


def _keys(text: str) -> Iterator[tuple[int, int]]:
    return (match.span(match.lastindex or 0) for match in KEY.finditer(text))


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for match in IBAN_START.finditer(text):
        rest = IBAN_RESTS.get(match[0][:2])
        found = rest and rest.match(text, match.end())
        if found and ENDS.match(text, found.end()) and iban(text[match.start() : found.end()]):
            yield match.start(), found.end()


def _cards(text: str) -> Iterator[tuple[int, int]]:
    speaks, position = None, 0
    while match := CARD_EXACT.search(text, position):
        digits = re.sub(r"\D", "", match[0])
        found = 13 <= len(digits) <= 19 and luhn(digits)
        if found and digits == match[0]:
            speaks = SPEAKS_OF_CARD.search(text) is not None if speaks is None else speaks
            found = speaks
        if found:
            yield match.span()
        position = match.end() if found else match.start() + 1
