"""The fastest way for many conversations: an Arrow table in, one call of the tokenizer, arrays of numbers out.

Rows are grouped by shape (roles, which texts are empty, which variables there are). A shape's layout is found as in
layouts.py; where watching.py proves that the template prints every conversation of the shape as that concatenation,
rows are put together without the template, else each is compared with what the template prints. The first row of a
shape and every `SAMPLE`th row are checked in full. Rows that a rule here does not cover are left to the caller.
"""

from __future__ import annotations

import functools
import re
from itertools import compress, repeat
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from instruct_builders.errors import RowError, TemplateError

from .columns import SPEAKERS, Columns, size, takes
from .fast_tokens import fastest
from .labels import IGNORED, choose, label, tile, trained
from .layouts import Layout, goes_on, learn, shape
from .rendering import Printer, Raised, literals
from .rules import Refusal
from .rust_tokens import Marks, Tokens
from .watching import concatenation

SAMPLE = 256


class Labelled(NamedTuple):
    """Rows put one behind the other.

    Attributes:
        rows (`np.ndarray`), counts (`np.ndarray`): Place in the table and number of tokens of each, shape (rows,).
        ids (`np.ndarray`), labels (`np.ndarray`): Shape (tokens,).
    """

    rows: np.ndarray
    counts: np.ndarray
    ids: np.ndarray
    labels: np.ndarray


class _Group(NamedTuple):
    """Rows of one layout: texts, and in the encoder's unit where in each spans and end-of-turn tokens are."""

    rows: np.ndarray
    texts: list[str]
    edges: np.ndarray
    stops: np.ndarray
    stop_ids: tuple[int, ...]


class _Known(NamedTuple):
    """What is known of a shape: its layout, whether it is proven, whether the template trims texts."""

    layout: Layout
    proven: bool
    trims: bool


class Tables:
    """What is known of one template with one tokenizer, kept from table to table."""

    def __init__(self, printer: Printer, train_on: str):
        self.printer, self.train_on, self.encoder = printer, train_on, fastest(printer.tokenizer)
        self.tags, _ = literals(printer.source)
        self.excluded = re.compile(
            "|".join(re.escape(word) for word in sorted(self.tags | self.encoder.excludes)) or r"[^\s\S]"
        )
        self._known: dict[tuple, _Known | None] = {}
        self._seen: set[tuple] = set()

    def label(self, table: pa.Table, column: str) -> Labelled:
        """The rows of the table that this way is for; the others are missing."""
        if not len(table) or not takes(table, column):
            return self._encode([])
        columns, groups = Columns(table, column, self.excluded, self.encoder.in_bytes), []
        for key, rows in columns.groups().items():
            if key not in self._known:
                if key not in self._seen and len(rows) == 1:
                    self._seen.add(key)  # learning a layout costs more than one row does the careful way
                    continue
                self._known[key] = self._learn(key, columns.variables[rows[0]])
                known = self._known[key]
                first = self._group(columns, np.asarray(rows[:1]), key, known) if known else None
                if first is not None and len(first.rows) and not self._is_careful(columns, first):
                    self._known[key] = None
            if self._known[key] is not None:
                groups.append(self._group(columns, np.asarray(rows), key, self._known[key]))
        return self._encode([group for group in groups if len(group.rows)])

    def _learn(self, key: tuple, variables: dict) -> _Known | None:
        codes, _ = key
        messages = [{"role": SPEAKERS[code // 2], "content": "" if code % 2 else "x"} for code in codes]
        try:
            chosen = trained(messages, self.train_on)
        except RowError:
            return None
        texts = {name: "x" if value and isinstance(value, str) else value for name, value in variables.items()}
        layout = learn(self.printer, shape(messages, chosen, texts, frozenset()), chosen, texts)
        if layout is None:
            return None
        proof = concatenation(self.printer, messages, texts, self.tags)
        proven = proof is not None and proof[:2] == (layout.pieces, layout.order)
        return _Known(layout, proven, proof[2] if proven else any(layout.trims))

    def _group(self, columns: Columns, rows: np.ndarray, key: tuple, known: _Known) -> _Group:
        layout, count = known.layout, len(key[0])
        said = columns.said(rows, layout.order, count)
        keep = np.ones(len(rows), bool)
        for place, (texts, _) in zip(layout.order, said, strict=True):
            if known.trims:
                keep &= ~np.fromiter((text[0].isspace() or text[-1].isspace() for text in texts), bool, len(rows))
            if place in layout.openings:
                end = layout.openings[place]
                keep &= ~np.fromiter((goes_on(text, end) for text in texts), bool, len(rows))
        parts = [
            part for piece, (texts, _) in zip(layout.pieces, said, strict=False) for part in (repeat(piece), texts)
        ]
        ends = repeat(layout.pieces[-1], len(rows))  # finite: a shape may be without any text
        whole = list(map("".join, zip(*parts, ends, strict=False)))
        keep &= self.encoder.takes(whole)
        if not known.proven:
            keep &= np.fromiter(
                (self._prints(columns, row) == text for row, text in zip(rows, whole, strict=True)), bool
            )
        in_bytes = self.encoder.in_bytes
        width = [size(piece, in_bytes) for piece in layout.pieces[:-1]]
        starts = np.cumsum([np.zeros(len(rows), np.int64), *(sizes for _, sizes in said)], 0).T + np.cumsum(
            [0, *width]
        )
        edges, stops = (
            np.stack([starts[:, piece] + size(layout.pieces[piece][:at], in_bytes) for piece, at in marks], 1)
            for marks in (layout.edges, layout.stops)
        )
        group = _Group(rows[keep], list(compress(whole, keep)), edges[keep], stops[keep], layout.stop_ids)
        if known.proven:
            self._check_prints(columns, group)
        return group

    def _prints(self, columns: Columns, row: int) -> str | None:
        try:
            return self.printer.given(columns.variables[row]).text(columns.messages(row))
        except Raised:
            return None

    def _check_prints(self, columns: Columns, group: _Group) -> None:
        """Compares a sample of rows with what the template prints."""
        for row, text in zip(group.rows[::SAMPLE], group.texts[::SAMPLE], strict=True):
            if self._prints(columns, row) != text:
                raise TemplateError(
                    f"the chat template prints row {row} of a batch otherwise than its code was proven to. Please "
                    "report the template; it is an error in trainers/watching.py."
                )

    def _is_careful(self, columns: Columns, group: _Group) -> bool:
        """Whether the first row of a shape comes out as it does the careful way."""
        row, messages = group.rows[0], columns.messages(group.rows[0])
        try:
            due = label(self.printer.given(columns.variables[row]), messages, trained(messages, self.train_on))
        except (Refusal, Raised):
            return False
        found = self._encode([group])
        return found.ids.tolist() == due.input_ids and found.labels.tolist() == due.labels

    def _encode(self, groups: list[_Group]) -> Labelled:
        if not groups:
            nothing = np.zeros(0, np.int64)
            return Labelled(nothing, nothing, nothing, nothing)
        texts = [text for group in groups for text in group.texts]
        rows = np.concatenate([group.rows for group in groups])
        stop_ids = np.concatenate([np.tile(group.stop_ids, len(group.rows)) for group in groups])
        places = np.arange(len(rows))
        edges, stops = ([getattr(group, name) for group in groups] for name in ("edges", "stops"))
        marks = Marks(*(part for marks in (edges, stops) for part in _flat(marks, places)))
        tokens = self.encoder.encode(texts, marks)
        self._check_tokens(texts, marks, tokens)
        # A stop that is not one supervised token where the layout says: the careful way tells why.
        right = (tokens.stops >= 0) & tokens.inside[tokens.stops] & (tokens.ids[tokens.stops] == stop_ids)
        labels = np.where(tokens.inside, tokens.ids, IGNORED).astype(np.int64)
        found = Labelled(rows, tokens.counts, tokens.ids, labels)
        return found if right.all() else _take(found, np.setdiff1d(places, marks.stop_rows[~right]))

    def _check_tokens(self, texts: list[str], marks: Marks, tokens: Tokens) -> None:
        """Compares a sample of rows with what the tokenizer itself gives: ids, and which of them are supervised."""
        begin = np.cumsum([0, *tokens.counts])
        some = range(0, len(texts), SAMPLE)
        due = self.printer.tokenizer(
            [texts[place] for place in some],
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        for place, ids, offsets in zip(some, due["input_ids"], due["offset_mapping"], strict=True):
            text, edges = texts[place], marks.edges[marks.edge_rows == place]
            if self.encoder.in_bytes:
                edges = [len(text.encode()[:edge].decode()) for edge in edges]
            inside, _ = choose(tile(self.printer, offsets), edges)
            own = slice(begin[place], begin[place + 1])
            for what, given, found in (
                ("token ids", ids, tokens.ids[own].tolist()),
                ("supervised tokens", inside.tolist(), tokens.inside[own].tolist()),
            ):
                if given != found:
                    raise TemplateError(
                        f"{type(self.encoder).__name__} gives other {what} than the tokenizer for {text[:200]!r}. "
                        "Please report the tokenizer; it is an error in trainers/fast_tokens.py, rust_tokens.py or "
                        "word_rules.py. "
                        "trainers.supervision.supervise labels rows one by one without them."
                    )


def _flat(marks: list[np.ndarray], places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Arrays of shape (rows, marks of each) one behind the other, and the place of each mark's row."""
    counts = np.concatenate([np.full(len(some), some.shape[1]) for some in marks])
    return np.concatenate([some.ravel() for some in marks]), np.repeat(places, counts)


def _take(found: Labelled, places: np.ndarray) -> Labelled:
    """Some of the rows, in the order of `places`."""
    if np.array_equal(places, np.arange(len(found.rows))):
        return found
    begin = np.cumsum([0, *found.counts])[:-1][places]
    counts = found.counts[places]
    shift = np.repeat(begin - np.cumsum([0, *counts[:-1]])[: len(counts)], counts)
    tokens = np.arange(counts.sum()) + shift
    return Labelled(found.rows[places], counts, found.ids[tokens], found.labels[tokens])


def to_arrow(found: Labelled, others: list[tuple[int, list, list]]) -> pa.Table:
    """Columns `input_ids` and `labels` of all rows, in the order of the table; `others` are (row, ids, labels)."""
    if others:
        rows, ids, labels = zip(*others, strict=True)
        found = Labelled(
            np.concatenate([found.rows, rows]).astype(np.int64),
            np.concatenate([found.counts, list(map(len, ids))]).astype(np.int64),
            np.concatenate([found.ids, *ids]),
            np.concatenate([found.labels, *labels]),
        )
    found = _take(found, np.argsort(found.rows, kind="stable"))
    begin = pa.array(np.cumsum([0, *found.counts]), pa.int32())
    columns = [
        pa.ListArray.from_arrays(begin, pa.array(np.asarray(values, kind)))
        for values, kind in ((found.ids, np.int32), (found.labels, np.int64))
    ]
    return pa.table(columns, ["input_ids", "labels"])


@functools.lru_cache(maxsize=2)
def tables(tokenizer, source: str, train_on: str, size: int, special: str) -> Tables:
    """Kept from batch to batch; `size` and `special` tell a tokenizer that was given other tokens since."""
    return Tables(Printer(tokenizer, source), train_on)
