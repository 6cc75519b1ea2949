"""Personal data: addresses, numbers and keys, masked or a reason to drop the row.

RE2 looks over whole columns; Python only at the texts in which it found something (`pii_forms`, and for the two kinds
that take most telling apart `pii_emails` and `pii_phones`). In the arguments of tool calls and in `tools` the texts
that are values are searched; what is masked there leaves JSON that is otherwise the same, byte for byte.

`regions` beside the kinds names the countries whose national phone numbers are looked for everywhere, grouped as
numbers are; without it they count only after a word for a phone. That takes the optional extra `pii`.

Names of people and postal addresses need a model of the language, and none comes with this package: without one they
are not looked for. Any recogniser goes in as `recognise: module:function`, with kinds of your own beside it:

```yaml
pii: {email: mask, phone: mask, regions: [US, DE], recognise: my_pii:find, person: mask, address: drop}
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
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import ConfigError, did_you_mean
from .. import flat
from ..functions import function_of
from . import pii_phones
from .pii_forms import KINDS, Span, json_strings, likely, placeholder, replaced, spans, written

ACTIONS = ("mask", "drop", "keep")
RECOGNISE, REGIONS = "recognise", "regions"  # beside the kinds
OWN_KIND = re.compile(r"[a-z][a-z0-9_]*")
BATCH = 256  # texts handed to a recogniser at a time


@dataclass(frozen=True)
class Search:
    """What is looked for.

    Args:
        kinds (`frozenset[str]`): Of [`KINDS`] and of the recogniser.
        regions (`Sequence[str]`, *optional*): As [`pii_phones.phones`] takes them.
        recognised (`Mapping[str, list[Span]]`): Text -> what the recogniser found in it.
    """

    kinds: frozenset[str]
    regions: Sequence[str] | None
    recognised: Mapping[str, list[Span]]

    def texts(self, place: Place) -> np.ndarray:
        """Which texts of a place may hold something (bool): some that do not, and none too few."""
        found = np.zeros(len(place.texts), dtype=bool)
        if self.kinds & set(KINDS):
            form = likely(self.kinds, self.regions, place.is_json)
            found = flat.booleans(pc.match_substring_regex(place.texts, form))
        if self.recognised and place.is_json:
            return found | flat.booleans(pc.is_valid(place.texts))
        if self.recognised:
            found |= flat.booleans(pc.is_in(place.texts, pa.array(list(self.recognised), place.texts.type)))
        return found

    def spans(self, text: str, is_json: bool) -> list[Span]:
        """What stands in a text, none overlapping, in order: by form, and by the recogniser where that left room."""
        if is_json:
            strings = json_strings(text)
            return [span for begin, raw, said in strings for span in written(raw, begin, self.spans(said, False))]
        taken = spans(text, self.kinds, self.regions)
        for begin, end, kind in sorted(self.recognised.get(text, ())):
            if kind in self.kinds and all(end <= first or last <= begin for first, last, _ in taken):
                taken.append((begin, end, kind))
        return sorted(taken)


@dataclass(frozen=True)
class Place:
    """A column, or a field of all turns laid flat, that is searched.

    Args:
        name (`str`): Of the column or the field.
        texts (`pa.Array`): Strings; null where there is none.
        rows (`np.ndarray`): The row of each text.
        turns (`np.ndarray`, *optional*): The turn of each text in its row.
        is_json (`bool`): Whether the texts are JSON.
    """

    name: str
    texts: pa.Array
    rows: np.ndarray
    turns: np.ndarray | None
    is_json: bool

    def field(self, at: int) -> str:
        return self.name if self.turns is None else f"messages[{self.turns[at]}].{self.name}"


def pii(table: pa.Table, actions: Mapping[str, object], counts: Counter | None = None) -> pa.Table:
    """Masks personal data in every turn, in tool calls, `tools` and `context`, or rejects the row as `pii`.

    Text without any stays as it is, byte for byte. `meta` is not searched. A row on which the recogniser fails is
    rejected as `check_failed`.

    Args:
        table (`pa.Table`): Records.
        actions (`dict`): Kind (`email`, `phone`, `card`, `iban`, `key`, and what a recogniser under `recognise` finds)
            -> `mask`, `drop` or `keep`. What is masked becomes `[EMAIL]` and so on. `regions`: two-letter codes of
            the countries whose national phone numbers are looked for.
        counts (`collections.Counter`, *optional*): Gets how often each kind was `masked_...`, and `phones_by`: what
            told phone numbers from others.

    Raises:
        ConfigError: If a kind, an action or a country is not known, or `regions` is given without phonenumbers.
    """
    check_actions(actions)
    counts = Counter() if counts is None else counts
    find = function_of(actions[RECOGNISE], f"pii: {RECOGNISE}") if RECOGNISE in actions else None
    kinds = {kind: action for kind, action in actions.items() if kind not in (RECOGNISE, REGIONS)}
    drop, mask = (frozenset(kind for kind in kinds if kinds[kind] == wanted) for wanted in ("drop", "mask"))
    regions = actions.get(REGIONS)
    if "phone" in drop | mask:
        counts["phones_by"] = pii_phones.used()
    recognised: dict[str, list] = {}
    if find is not None:
        table, recognised = _recognised(table, find, set(kinds) - set(KINDS))
    if drop:
        table = _dropped(table, Search(drop, regions, recognised))
    return _masked(table, Search(mask, regions, recognised), counts) if mask else table


def check_actions(actions: Mapping) -> None:
    """Raises a [`ConfigError`] where a kind or its action is not known, or a recogniser can't be imported."""
    for kind, action in actions.items():
        if kind == RECOGNISE:
            function_of(action, f"pii: {RECOGNISE}")
            continue
        if kind == REGIONS:
            pii_phones.check_regions(action)
            continue
        own = RECOGNISE in actions and OWN_KIND.fullmatch(str(kind))
        if kind not in KINDS and not own:
            raise ConfigError(
                f"pii: {kind!r} is no kind; they are {', '.join(KINDS)}, and those of a recogniser of your own, given "
                f"as {RECOGNISE}: module:function.{did_you_mean(str(kind), [*KINDS, RECOGNISE, REGIONS])}"
            )
        if action not in ACTIONS:
            raise ConfigError(f"pii: {kind}: {action!r} is not known; it is {', '.join(ACTIONS)}.")


def _places(table: pa.Table) -> list[Place]:
    offsets, turns = flat.flatten(table)
    rows = flat.row_of_turn(offsets)
    positions = np.arange(len(rows)) - offsets[:-1][rows]
    places = [Place("content", flat.text(turns), rows, positions, False)]
    for name, is_json in (("reasoning_content", False), ("tool_calls", True)):
        if turns.type.get_field_index(name) >= 0:
            texts = flat.storage(turns.field(name))
            places.append(Place(name, texts, rows, positions, is_json))
    for name, is_json in (("context", False), ("tools", True)):
        if name in table.column_names:
            texts = flat.storage(flat.one_array(table[name]))
            places.append(Place(name, texts, np.arange(table.num_rows), None, is_json))
    return [place for place in places if _is_text(place.texts.type) and place.texts.null_count < len(place.texts)]


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _recognised(table: pa.Table, find: Callable, kinds: set[str]) -> tuple[pa.Table, dict[str, list[Span]]]:
    """The table, with rows rejected on which the recogniser fails, and what it finds: text -> spans of these kinds."""
    found, failed, usable = {}, {}, flat.open_rows(table)
    for place in _places(table):
        chosen = np.flatnonzero(usable[place.rows] & flat.booleans(pc.is_valid(place.texts)))
        for start in range(0, len(chosen), BATCH):
            some = chosen[start : start + BATCH]
            pairs = list(zip(place.rows[some].tolist(), place.texts.take(pa.array(some)).to_pylist(), strict=True))
            if place.is_json:
                pairs = [(row, said) for row, text in pairs for _, _, said in json_strings(text)]
            for (row, text), spans_of in zip(pairs, _asked(find, [text for _, text in pairs]), strict=True):
                if isinstance(spans_of, str):
                    failed.setdefault(row, spans_of)
                elif own := [span for span in spans_of if span[2] in kinds]:
                    found[text] = own
    hit = np.isin(np.arange(table.num_rows), list(failed))
    return flat.reject(table, hit, "check_failed", "messages", [failed[row] for row in sorted(failed)]), found


def _asked(find: Callable, texts: list[str]) -> list[list[Span] | str]:
    """The recogniser's spans of each text, or what went wrong there: one bad text does not take the others with it."""
    if not texts:
        return []
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


def _dropped(table: pa.Table, search: Search) -> pa.Table:
    where: dict[int, tuple[str, str]] = {}  # row -> field and detail: never the thing itself
    for place in _places(table):
        chosen = np.flatnonzero(search.texts(place) & flat.open_rows(table)[place.rows])
        for at, text in zip(chosen.tolist(), place.texts.take(pa.array(chosen)).to_pylist(), strict=True):
            found = Counter(kind for _, _, kind in search.spans(text, place.is_json))
            if found:
                detail = ", ".join(f"{n} {kind}" for kind, n in found.items())
                where.setdefault(int(place.rows[at]), (place.field(at), detail))
    hit = np.isin(np.arange(table.num_rows), list(where))
    ordered = [where[row] for row in np.flatnonzero(hit).tolist()]
    return flat.reject(table, hit, "pii", [field for field, _ in ordered], [detail for _, detail in ordered])


def _masked(table: pa.Table, search: Search, counts: Counter) -> pa.Table:
    considered = flat.open_rows(table)
    offsets, turns = flat.flatten(table)
    before = turns
    for place in _places(table):
        where = search.texts(place) & considered[place.rows]
        if not where.any():
            continue

        def clean(text: str, is_json: bool = place.is_json) -> str:
            found = search.spans(text, is_json)
            counts.update(f"masked_{kind}" for _, _, kind in found)
            return replaced(text, found, placeholder)

        edited = flat.edit(place.texts, where, clean)
        if place.turns is not None:
            turns = flat.with_field(turns, place.name, edited)
        else:
            column = table.schema.field(place.name)
            table = table.set_column(table.column_names.index(place.name), column, edited.cast(column.type))
    return table if turns is before else flat.with_turns(table, offsets, turns)
