"""Personal data: addresses, numbers and keys, masked or a reason to drop the row.

Each kind is a regular expression and, where the number has one, its checksum: a card its Luhn digit, an IBAN its
remainder by 97 and its country's length. RE2 looks over whole columns; Python only at the texts in which it found
something.

Names of people and postal addresses need a model of the language, and none comes with this package: without one they
are not looked for. Any recogniser goes in as `recognise: module:function`, with kinds of your own beside it:

```yaml
pii: {email: mask, recognise: my_pii:find, person: mask, address: drop}
```

where `find` takes a list of texts and gives, for each, a list of (begin, end, kind). With Presidio and a spaCy model:

```python
engine = presidio_analyzer.AnalyzerEngine()
KINDS = {"PERSON": "person", "LOCATION": "address"}
def find(texts):
    hits = [engine.analyze(text=text, language="en", entities=list(KINDS)) for text in texts]
    return [[(hit.start, hit.end, KINDS[hit.entity_type]) for hit in of_text] for of_text in hits]
```
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import ConfigError, did_you_mean
from ...secret_scan import PATTERNS
from .. import flat
from ..functions import function_of

Span = tuple[int, int, str]  # begin, end and kind
ACTIONS = ("mask", "drop", "keep")
RECOGNISE = "recognise"  # beside the kinds: a recogniser for others than [`KINDS`]
OWN_KIND = re.compile(r"[a-z][a-z0-9_]*")
BATCH = 256  # texts handed to a recogniser at a time
# Names that are reserved for examples (RFC 2606), and the user names of version control.
RESERVED = re.compile(r"(?i)@(?:[\w.-]+\.)?(?:example|test|invalid|localhost)(?:\.\w+)?\Z|\A(?:git|svn|hg)@")
EMAIL = r"[A-Za-z0-9][A-Za-z0-9._%+\-]*@(?:[A-Za-z0-9](?:[A-Za-z0-9\-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,24}"
PHONE = (
    r"\+[1-9]\d{0,2}[ .\-]?(?:\(0?\d{1,4}\)[ .\-]?)?\d{1,4}(?:[ .\-]?\d{2,5}){1,4}"  # international
    r"|(?:1[ \-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[.\-])[2-9]\d{2}[.\- ]\d{4}"  # North America
    r"|1[3-9]\d-\d{4}-\d{4}|0\d{2,4}[/\-]\d{6,8}"  # China (mobile), and an area code with its stroke
)
# No issuer has 20 or 21: four groups that begin so are years, and one list of years in ten passes Luhn.
CARD = r"(?:2[2-7]|[3-6]\d)\d{2}(?:[ \-]?\d{4}){2}[ \-]?\d{1,7}|3[47]\d{2}[ \-]?\d{6}[ \-]?\d{5}"
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


def pii(table: pa.Table, actions: Mapping[str, str | Callable], counts: Counter | None = None) -> pa.Table:
    """Masks personal data in every turn and in `context`, or rejects the row as `pii`.

    Text without any stays as it is, byte for byte. The arguments of tool calls, `tools` and `meta` are not searched.
    A row on which the recogniser fails is rejected as `check_failed`.

    Args:
        table (`pa.Table`): Records.
        actions (`dict`): Kind (`email`, `phone`, `card`, `iban`, `key`, and what a recogniser under `recognise` finds)
            -> `mask`, `drop` or `keep`. What is masked becomes `[EMAIL]` and so on.
        counts (`collections.Counter`, *optional*): Gets how often each kind was `masked_...`.

    Raises:
        ConfigError: If a kind or an action is not known.
    """
    check_actions(actions)
    find = function_of(actions[RECOGNISE], f"pii: {RECOGNISE}") if RECOGNISE in actions else None
    kinds = {kind: action for kind, action in actions.items() if kind != RECOGNISE}
    drop, mask = ({kind for kind, action in kinds.items() if action == wanted} for wanted in ("drop", "mask"))
    recognised: dict[str, list] = {}
    if find is not None:
        table, recognised = _recognised(table, find, set(kinds) - set(KINDS))
    if drop:
        table = _dropped(table, drop, recognised)
    return _masked(table, mask, Counter() if counts is None else counts, recognised) if mask else table


def check_actions(actions: Mapping) -> None:
    """Raises a [`ConfigError`] where a kind or its action is not known, or a recogniser can't be imported."""
    for kind, action in actions.items():
        if kind == RECOGNISE:
            function_of(action, f"pii: {RECOGNISE}")
            continue
        own = RECOGNISE in actions and OWN_KIND.fullmatch(str(kind))
        if kind not in KINDS and not own:
            raise ConfigError(
                f"pii: {kind!r} is no kind; they are {', '.join(KINDS)}, and those of a recogniser of your own, given "
                f"as {RECOGNISE}: module:function.{did_you_mean(str(kind), [*KINDS, RECOGNISE])}"
            )
        if action not in ACTIONS:
            raise ConfigError(f"pii: {kind}: {action!r} is not known; it is {', '.join(ACTIONS)}.")


def spans(text: str, kinds: set[str]) -> list[Span]:
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


def masked(text: str, kinds: set[str], recognised: Sequence[Span] = ()) -> str:
    """The text with `[EMAIL]`, `[PHONE]`, ... in place of what was found."""
    for begin, end, kind in reversed(_together(text, kinds, recognised)):
        text = f"{text[:begin]}[{kind.upper()}]{text[end:]}"
    return text


def _together(text: str, kinds: set[str], recognised: Sequence[Span]) -> list[Span]:
    """What is found in a text, by form and by a recogniser, none overlapping: what has a form goes before."""
    taken = spans(text, kinds)
    for begin, end, kind in sorted(recognised):
        if kind in kinds and all(end <= first or last <= begin for first, last, _ in taken):
            taken.append((begin, end, kind))
    return sorted(taken)


def _likely(texts: pa.Array, kinds: set[str], recognised: Mapping[str, list]) -> np.ndarray:
    # Compared byte by byte below: RE2 has no look-around, so that it finds too much and nothing too little.
    forms = [KINDS[kind] for kind in kinds if kind in KINDS]
    likely = np.zeros(len(texts), dtype=bool)
    if forms:
        likely = flat.booleans(pc.match_substring_regex(texts, "|".join(f"(?:{form})" for form in forms)))
    return likely | flat.booleans(pc.is_in(texts, pa.array(list(recognised), texts.type))) if recognised else likely


def _recognised(table: pa.Table, find: Callable, kinds: set[str]) -> tuple[pa.Table, dict[str, list[Span]]]:
    """The table, with rows rejected on which the recogniser fails, and what it finds: text -> spans of these kinds."""
    offsets, turns = flat.flatten(table)
    columns = [(flat.text(turns), flat.row_of_turn(offsets))]
    if "context" in table.column_names:
        columns.append((flat.one_array(table["context"]), np.arange(table.num_rows)))
    found, failed, usable = {}, {}, flat.open_rows(table)
    for column, rows in columns:
        chosen = np.flatnonzero(usable[rows] & flat.booleans(pc.is_valid(column)))
        for start in range(0, len(chosen), BATCH):
            some = chosen[start : start + BATCH]
            texts = column.take(pa.array(some)).to_pylist()
            for row, text, spans_of in zip(rows[some].tolist(), texts, _asked(find, texts), strict=True):
                if isinstance(spans_of, str):
                    failed.setdefault(row, spans_of)
                elif own := [span for span in spans_of if span[2] in kinds]:
                    found[text] = own
    hit = np.isin(np.arange(table.num_rows), list(failed))
    return flat.reject(table, hit, "check_failed", "messages", [failed[row] for row in sorted(failed)]), found


def _asked(find: Callable, texts: list[str]) -> list[list[Span] | str]:
    """The recogniser's spans of each text, or what went wrong there: one bad text does not take the others with it."""
    try:
        answers = list(find(texts))
        if len(answers) != len(texts):
            raise ValueError(f"{len(answers)} answers for {len(texts)} texts")
        return [[_span(*span, text) for span in answer] for answer, text in zip(answers, texts, strict=True)]
    except Exception as error:
        if len(texts) == 1:
            return [f"pii: {RECOGNISE}: {type(error).__name__}: {error}"[:300]]
    return [answer for text in texts for answer in _asked(find, [text])]


def _span(begin: int, end: int, kind: str, text: str) -> Span:
    if not 0 <= begin < end <= len(text):
        raise ValueError(f"({begin}, {end}) is no place in a text of {len(text)} characters")
    return int(begin), int(end), str(kind)


def _dropped(table: pa.Table, kinds: set[str], recognised: Mapping[str, list]) -> pa.Table:
    offsets, turns = flat.flatten(table)
    rows = flat.row_of_turn(offsets)
    where: dict[int, tuple[str, str]] = {}  # row -> field and detail: never the thing itself
    places = [(flat.text(turns), rows, np.arange(len(rows)) - offsets[:-1][rows])]
    if "context" in table.column_names:
        places.append((flat.one_array(table["context"]), np.arange(table.num_rows), None))
    for texts, row_of, positions in places:
        likely = np.flatnonzero(_likely(texts, kinds, recognised) & flat.open_rows(table)[row_of])
        for at, text in zip(likely.tolist(), texts.take(pa.array(likely)).to_pylist(), strict=True):
            found = Counter(kind for _, _, kind in _together(text, kinds, recognised.get(text, ())))
            field = "context" if positions is None else f"messages[{positions[at]}].content"
            if found:
                where.setdefault(int(row_of[at]), (field, ", ".join(f"{n} {kind}" for kind, n in found.items())))
    hit = np.isin(np.arange(table.num_rows), list(where))
    ordered = [where[row] for row in np.flatnonzero(hit).tolist()]
    return flat.reject(table, hit, "pii", [field for field, _ in ordered], [detail for _, detail in ordered])


def _masked(table: pa.Table, kinds: set[str], counts: Counter, recognised: Mapping[str, list]) -> pa.Table:
    def clean(text: str) -> str:
        own = recognised.get(text, ())
        counts.update(f"masked_{kind}" for _, _, kind in _together(text, kinds, own))
        return masked(text, kinds, own)

    offsets, turns = flat.flatten(table)
    texts, considered = flat.text(turns), flat.open_rows(table)
    where = _likely(texts, kinds, recognised) & considered[flat.row_of_turn(offsets)]
    if where.any():
        table = flat.with_contents(table, turns, offsets, flat.edit(texts, where, clean))
    if "context" not in table.column_names:
        return table
    context = flat.one_array(table["context"])
    where = _likely(context, kinds, recognised) & considered
    if not where.any():
        return table
    edited = flat.edit(context, where, clean)
    return table.set_column(table.column_names.index("context"), table.schema.field("context"), edited)
