"""Personal data: addresses, numbers and keys, masked or a reason to drop the row.

Each kind is a regular expression and, where the number has one, its checksum: a card its Luhn digit, an IBAN its
remainder by 97 and its country's length. RE2 looks over whole columns; Python only at the texts in which it found
something. Names and postal addresses need a model of the language and are not looked for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import ConfigError, did_you_mean
from ...secret_scan import PATTERNS
from .. import flat

ACTIONS = ("mask", "drop", "keep")
# Names that are reserved for examples (RFC 2606), and the user names of version control.
RESERVED = re.compile(r"(?i)@(?:[\w.-]+\.)?(?:example|test|invalid|localhost)(?:\.\w+)?\Z|\A(?:git|svn|hg)@")
EMAIL = r"[A-Za-z0-9][A-Za-z0-9._%+\-]*@(?:[A-Za-z0-9](?:[A-Za-z0-9\-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,24}"
PHONE = (
    r"\+[1-9]\d{0,2}[ .\-]?(?:\(0?\d{1,4}\)[ .\-]?)?\d{1,4}(?:[ .\-]?\d{2,5}){1,4}"  # international
    r"|(?:1[ \-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[.\-])[2-9]\d{2}[.\- ]\d{4}"  # North America
    r"|1[3-9]\d-\d{4}-\d{4}|0\d{2,4}[/\-]\d{6,8}"  # China (mobile), and an area code with its stroke
)
CARD = r"[2-6]\d{3}(?:[ \-]?\d{4}){2}[ \-]?\d{1,7}|3[47]\d{2}[ \-]?\d{6}[ \-]?\d{5}"
IBAN = r"[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?"
PRIVATE = r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:(?s:.*?)-----END [A-Z0-9 ]*-----)?"
KEY = "|".join(f"(?:{form})" for kind, form in PATTERNS.items() if kind != "private key") + f"|{PRIVATE}"
KINDS = {"key": KEY, "iban": IBAN, "card": CARD, "email": EMAIL, "phone": PHONE}  # a card may look like a phone
EXACT = {
    kind: re.compile(form if kind == "key" else rf"(?<![\w.+\-/=@])(?:{form})(?![\w@]|[.\-]\d)")
    for kind, form in KINDS.items()
}
# Ungrouped digits are a card only where the text speaks of one: every tenth number passes Luhn by chance.
SPEAKS_OF_CARD = re.compile(
    r"(?i)\bcards?\b|\bvisa\b|master ?card|\bamex\b|credit|debit|karte|tarjeta|carte|cartão|信用卡|卡号"
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


def pii(table: pa.Table, actions: Mapping[str, str], counts: Counter | None = None) -> pa.Table:
    """Masks personal data in every turn and in `context`, or rejects the row as `pii`.

    Text without any stays as it is, byte for byte. The arguments of tool calls, `tools` and `meta` are not searched.

    Args:
        table (`pa.Table`): Records.
        actions (`dict`): Kind (`email`, `phone`, `card`, `iban`, `key`) -> `mask`, `drop` or `keep`. What is masked
            becomes `[EMAIL]` and so on.
        counts (`collections.Counter`, *optional*): Gets how often each kind was `masked_...`.

    Raises:
        ConfigError: If a kind or an action is not known.
    """
    check_actions(actions)
    drop, mask = ({kind for kind, action in actions.items() if action == wanted} for wanted in ("drop", "mask"))
    table = _dropped(table, drop) if drop else table
    return _masked(table, mask, Counter() if counts is None else counts) if mask else table


def check_actions(actions: Mapping[str, str]) -> None:
    """Raises a [`ConfigError`] where a kind or its action is not known."""
    for kind, action in actions.items():
        if kind not in KINDS:
            raise ConfigError(
                f"pii: {kind!r} is no kind; they are {', '.join(KINDS)}.{did_you_mean(str(kind), KINDS)}"
            )
        if action not in ACTIONS:
            raise ConfigError(f"pii: {kind}: {action!r} is not known; it is {', '.join(ACTIONS)}.")


def spans(text: str, kinds: set[str]) -> list[tuple[int, int, str]]:
    """Where personal data stands in a text: begin, end and kind, none overlapping, in order."""
    taken, left = [], text
    for kind in KINDS:
        if kind not in kinds:
            continue
        for match in EXACT[kind].finditer(left):
            if _valid(kind, match[0], text):
                taken.append((*match.span(), kind))
        for begin, end, _ in taken:  # what is one kind is no part of another
            left = f"{left[:begin]}{chr(0) * (end - begin)}{left[end:]}"
    return sorted(taken)


def _valid(kind: str, found: str, text: str) -> bool:
    digits = re.sub(r"\D", "", found)
    if kind == "email":
        return not RESERVED.search(found)
    if kind == "phone":
        fictional = re.search(r"555[.\- ]?01\d\d\Z", found)  # kept free for films and examples in North America
        return 8 <= len(digits) <= 15 and not fictional
    if kind == "card":
        return (
            13 <= len(digits) <= 19 and luhn(digits) and (digits != found or SPEAKS_OF_CARD.search(text) is not None)
        )
    return kind != "iban" or iban(found)


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of ISO/IEC 7812 for the others; one repeated digit is no number."""
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(map(int, digits[-1::-2]))) % 10 == 0 and len(set(digits)) > 1


def iban(found: str) -> bool:
    """Whether length and check digits are those of ISO 13616."""
    text = found.replace(" ", "")
    number = "".join(str(int(character, 36)) for character in text[4:] + text[:4])
    return len(text) == IBAN_LENGTHS.get(text[:2]) and int(number) % 97 == 1


def masked(text: str, kinds: set[str]) -> str:
    """The text with `[EMAIL]`, `[PHONE]`, ... in place of what was found."""
    for begin, end, kind in reversed(spans(text, kinds)):
        text = f"{text[:begin]}[{kind.upper()}]{text[end:]}"
    return text


def _likely(texts: pa.Array, kinds: set[str]) -> np.ndarray:
    # Compared byte by byte below: RE2 has no look-around, so that it finds too much and nothing too little.
    return flat.booleans(pc.match_substring_regex(texts, "|".join(f"(?:{KINDS[kind]})" for kind in kinds)))


def _dropped(table: pa.Table, kinds: set[str]) -> pa.Table:
    offsets, turns = flat.flatten(table)
    rows = flat.row_of_turn(offsets)
    where: dict[int, tuple[str, str]] = {}  # row -> field and detail: never the thing itself
    places = [(flat.text(turns), rows, np.arange(len(rows)) - offsets[:-1][rows])]
    if "context" in table.column_names:
        places.append((flat.one_array(table["context"]), np.arange(table.num_rows), None))
    for texts, row_of, positions in places:
        likely = np.flatnonzero(_likely(texts, kinds) & flat.open_rows(table)[row_of])
        for at, text in zip(likely.tolist(), texts.take(pa.array(likely)).to_pylist(), strict=True):
            found = Counter(kind for _, _, kind in spans(text, kinds))
            field = "context" if positions is None else f"messages[{positions[at]}].content"
            if found:
                where.setdefault(int(row_of[at]), (field, ", ".join(f"{n} {kind}" for kind, n in found.items())))
    hit = np.isin(np.arange(table.num_rows), list(where))
    ordered = [where[row] for row in np.flatnonzero(hit).tolist()]
    return flat.reject(table, hit, "pii", [field for field, _ in ordered], [detail for _, detail in ordered])


def _masked(table: pa.Table, kinds: set[str], counts: Counter) -> pa.Table:
    def clean(text: str) -> str:
        counts.update(f"masked_{kind}" for _, _, kind in spans(text, kinds))
        return masked(text, kinds)

    offsets, turns = flat.flatten(table)
    texts, considered = flat.text(turns), flat.open_rows(table)
    where = _likely(texts, kinds) & considered[flat.row_of_turn(offsets)]
    if where.any():
        table = flat.with_contents(table, turns, offsets, flat.edit(texts, where, clean))
    if "context" not in table.column_names:
        return table
    context = flat.one_array(table["context"])
    where = _likely(context, kinds) & considered
    if not where.any():
        return table
    edited = flat.edit(context, where, clean)
    return table.set_column(table.column_names.index("context"), table.schema.field("context"), edited)
