"""The fast way for many conversations of one shape: the template's own text is found once, each row is put into it.

A layout says how a conversation with these roles is printed: texts of the template, and between them the messages
(and the template's variables, such as Alpaca's `context`), whole or trimmed. A row put together this way must be,
character for character, what the template prints for it; then the supervised characters are where they are in the
layout. Any row for which that does not hold goes the careful way.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from .labels import choose, label, merge, tile
from .rendering import Printer, Raised, literals
from .rules import Refusal

TRIMS = (
    None,
    str.strip,
    lambda text: text.strip("\n"),
    str.lstrip,
    str.rstrip,
    lambda text: text.lstrip("\n"),
    lambda text: text.rstrip("\n"),
)
FIELDS = {"role", "content", "train", "weight"}
SIGNS = "<>[]|/{}"  # each of the template's words that count has one of them
ROLES = {"system", "user", "assistant"}


@dataclass(frozen=True)
class Layout:
    """How a conversation of one shape is printed.

    Attributes:
        pieces (`tuple[str, ...]`): The template's own texts: before the first message, between two, after the last.
        order (`tuple[int, ...]`): What is printed after each piece but the last: a message, or a variable behind them.
        trims (`tuple`): What is done to each of these messages first, as in `TRIMS`.
        edges (`tuple[tuple[int, int], ...]`): Starts and ends of the supervised spans, in turn: piece and offset.
        stops (`tuple[tuple[int, int], ...]`): Where the end-of-turn tokens start: piece and offset in it.
        stop_ids (`tuple[int, ...]`): Those tokens.
        openings (`dict[int, str]`): Trained message -> end of the generation prompt that was not before it.
    """

    pieces: tuple[str, ...]
    order: tuple[int, ...]
    trims: tuple
    edges: tuple[tuple[int, int], ...]
    stops: tuple[tuple[int, int], ...]
    stop_ids: tuple[int, ...]
    openings: dict[int, str]

    def put_together(self, texts: list[str]) -> tuple[str, list[int], list[int]]:
        """The text, the starts and ends of its supervised spans, and the starts of its end-of-turn tokens."""
        parts, starts, length = [], [], 0
        for piece, place, trim in itertools.zip_longest(self.pieces, self.order, self.trims):
            starts.append(length)
            parts.append(piece)
            length += len(piece)
            if place is not None:
                text = texts[place] if trim is None else trim(texts[place])
                parts.append(text)
                length += len(text)
        edges = [starts[piece] + offset for piece, offset in self.edges]
        return "".join(parts), edges, [starts[piece] + offset for piece, offset in self.stops]


def shape(messages: list[dict], chosen: list[int], variables: dict, words: frozenset[str]) -> tuple | None:
    """What two conversations must share to be printed by one layout; None for one that must go the careful way."""
    key = []
    for index, message in enumerate(messages):
        content = message.get("content")
        if not message.keys() <= FIELDS or message.get("role") not in ROLES or not _is_plain(content, words):
            return None
        key.append((message["role"], not content, index in chosen, message.get("train"), message.get("weight")))
    for name, value in sorted(variables.items()):
        if isinstance(value, str) and not _is_plain(value, words):
            return None
        key.append((name, not value) if isinstance(value, str) else (name, repr(value)))
    return len(messages), *key


def _is_plain(text, words: frozenset[str]) -> bool:
    """Whether a template treats the text as it treats any other: it may look for blanks and for its own words."""
    if not isinstance(text, str) or (text and not text.strip()):
        return False
    return not any(sign in text for sign in SIGNS) or not any(word in text for word in words)


def learn(printer: Printer, key: tuple, chosen: list[int], variables: dict) -> Layout | None:
    """The layout of a shape; None where the template can't be taken apart this way."""
    count, plain, blank, empty = key[0], [], [], {place for place, part in enumerate(key[1:]) if part[1] is True}
    for index, (role, _, _, train, weight) in enumerate(key[1 : count + 1]):
        more = {name: value for name, value in (("train", train), ("weight", weight)) if value is not None}
        word = "" if index in empty else f"w{index}x"
        edge = word and f" \n {word} \n "
        plain.append({"role": role, "content": word, **more})
        blank.append({"role": role, "content": edge, **more})
    names = [name for name, value in sorted(variables.items()) if isinstance(value, str)]
    words = {name: f"w{count + place}x" if variables[name] else "" for place, name in enumerate(names)}
    edges = {name: word and f" \n {word} \n " for name, word in words.items()}
    try:
        found = label(printer.given(variables | words), plain, chosen)
        other = printer.given(variables | edges).text(blank)
    except (Refusal, Raised):
        return None
    texts = [message["content"] for message in plain] + list(words.values())
    places = sorted((found.text.find(text), place) for place, text in enumerate(texts) if text)
    if found.supplied or any(found.text.count(texts[place]) != 1 for _, place in places):
        return None
    pieces, starts, done = [], [], 0
    for start, place in places:
        pieces.append(found.text[done:start])
        starts.append(done)
        done = start + len(texts[place])
    pieces.append(found.text[done:])
    starts.append(done)
    spans = _inside(pieces, starts, [edge for span in found.spans for edge in span])
    stops = _inside(pieces, starts, [turn.stop for turn in found.turns])
    if spans is None or stops is None:
        return None
    openings = {turn.message: turn.unmatched for turn in found.turns if turn.unmatched}
    order, kinds = tuple(place for _, place in places), [part[0] for part in key[1 : count + 1]] + names
    texts = [message["content"] for message in blank] + list(edges.values())
    for trims in itertools.product(TRIMS, repeat=len(set(kinds))):
        by_kind = dict(zip(sorted(set(kinds)), trims, strict=True))
        trims = tuple(by_kind[kinds[place]] for place in order)
        layout = Layout(tuple(pieces), order, trims, spans, stops, tuple(found.stops.values()), openings)
        if layout.put_together(texts)[0] == other:
            return layout
    return None


def _inside(pieces: list[str], starts: list[int], edges: list[int]) -> tuple[tuple[int, int], ...] | None:
    """Positions in the text as (piece, offset); None if one lies inside a message."""
    found = []
    for edge in edges:
        place = next((k for k, piece in enumerate(pieces) if starts[k] <= edge <= starts[k] + len(piece)), None)
        if place is None:
            return None
        found.append((place, edge - starts[place]))
    return tuple(found)


class Layouts:
    """The layouts of one template, learned as shapes come up for the second time."""

    def __init__(self, printer: Printer):
        self.printer, self.words = printer, literals(printer.source)[False]
        self._known: dict[tuple, Layout | None] = {}
        self._seen: set[tuple] = set()

    def fit(self, messages: list[dict], chosen: list[int], variables: dict) -> tuple | None:
        """(text, edges, stops, layout) of a conversation whose layout gives what the template prints; else None."""
        key = shape(messages, chosen, variables, self.words)
        if key is None:
            return None
        if key not in self._known:
            if key not in self._seen:
                self._seen.add(key)
                return None
            self._known[key] = learn(self.printer, key, chosen, variables)
        layout = self._known[key]
        texts = [message["content"] for message in messages]
        if layout is None or any(goes_on(texts[place], end) for place, end in layout.openings.items()):
            return None
        texts += [value for _, value in sorted(variables.items()) if isinstance(value, str)]
        text, edges, stops = layout.put_together(texts)
        return (text, edges, stops, layout) if text == self.printer.given(variables).text(messages) else None


def goes_on(text: str, end: str) -> bool:
    """Whether an answer may begin with what the generation prompt ends with: the careful way tells whose it is."""
    return text[:1].isspace() or text[:1] == end[:1]


def label_fitted(printer: Printer, fitted: list[tuple]) -> list[tuple[list[int], np.ndarray] | None]:
    """Token ids and which of them are supervised, for conversations from [`Layouts.fit`]; one call of the tokenizer.

    None for one whose end-of-turn tokens are not where the layout says: it goes the careful way.
    """
    if not fitted:
        return []
    encoded = printer.tokenizer(
        [text for text, *_ in fitted],
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    results = []
    rows = zip(fitted, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    for (_, edges, stops, layout), ids, offsets in rows:
        tiled = tile(printer, offsets)
        inside, _ = choose(tiled, merge(list(zip(edges[::2], edges[1::2], strict=True))))
        places = np.searchsorted(tiled[:, 0], stops)
        right = all(
            place < len(ids) and inside[place] and ids[place] == stop and tiled[place, 0] == start
            for place, stop, start in zip(places, layout.stop_ids, stops, strict=True)
        )
        results.append((ids, inside) if right else None)
    return results
