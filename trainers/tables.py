"""The fastest way for many conversations: an Arrow table in, one call of the tokenizer, arrays of numbers out.

Rows are grouped by shape (roles, which texts are empty, which variables there are). A shape's layout is found as in
layouts.py; where watching.py proves that the template prints every conversation of the shape as that concatenation,
rows are put together without the template, else each is compared with what the template prints. The first row of a
shape and every `SAMPLE`th row are checked in full. Rows that a rule here does not cover are left to the caller.
"""

from __future__ import annotations

import functools
import itertools
import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from instruct_builders.errors import RowError, TemplateError

from .columns import SPEAKERS, Columns, takes
from .fast_tokens import SEPARATOR, Tokens, fastest
from .labels import IGNORED, choose, label, tile, trained
from .layouts import Layout, goes_on, learn, shape
from .rendering import Printer, Raised, literals
from .rules import Refusal
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
    """Rows of one layout: texts, and in the encoder's unit their sizes, span edges and end-of-turn tokens."""

    rows: np.ndarray
    texts: list[str]
    sizes: np.ndarray
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
        added = {str(token) for token in printer.tokenizer.added_tokens_decoder.values()} - {""}
        # tiktoken is proven for texts without special tokens; a fast tokenizer may have "\\n\\n" among them.
        excluded = self.tags | (added | set(SEPARATOR) if self.encoder.in_bytes else set())
        self.excluded = re.compile("|".join(re.escape(word) for word in sorted(excluded)) or r"[^\s\S]")
        self._known: dict[tuple, _Known | None] = {}
        self._seen: set[tuple] = set()

    def label(self, table: pa.Table, column: str) -> Labelled:
        """The rows of the table that this way is for; the others are missing."""
        if not len(table) or not takes(table, column):
            return self._encode([])
        columns, groups = Columns(table, column, self.excluded), []
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
        for place, texts in zip(layout.order, said, strict=True):
            if known.trims:
                keep &= ~np.fromiter((text[0].isspace() or text[-1].isspace() for text in texts), bool, len(rows))
            if place in layout.openings:
                end = layout.openings[place]
                keep &= ~np.fromiter((goes_on(text, end) for text in texts), bool, len(rows))
        parts = [part for pair in zip(map(itertools.repeat, layout.pieces), said, strict=False) for part in pair]
        ends = itertools.repeat(layout.pieces[-1], len(rows))  # finite: a shape may be without any text
        whole = list(map("".join, zip(*parts, ends, strict=False)))
        keep &= np.fromiter(map(self.encoder.takes, whole), bool, len(rows))
        if not known.proven:
            keep &= np.fromiter(
                (self._prints(columns, row) == text for row, text in zip(rows, whole, strict=True)), bool
            )
        sizes = [self._sizes(texts) for texts in said]
        width = self._sizes(layout.pieces)
        starts = np.cumsum([np.zeros(len(rows), np.int64), *sizes], 0).T + np.cumsum([0, *width[:-1]])
        edges, stops = (
            np.stack([starts[:, piece] + self._sizes([layout.pieces[piece][:at]])[0] for piece, at in marks], 1)
            for marks in (layout.edges, layout.stops)
        )
        kept = list(itertools.compress(whole, keep))
        ends = starts[:, -1] + width[-1]
        group = _Group(rows[keep], kept, ends[keep], edges[keep], stops[keep], layout.stop_ids)
        if known.proven:
            self._check_prints(columns, group)
        return group

    def _sizes(self, texts) -> np.ndarray:
        """Bytes or characters of texts."""
        if not self.encoder.in_bytes:
            return np.fromiter(map(len, texts), np.int64, len(texts))
        return np.fromiter(
            (len(text) if text.isascii() else len(text.encode()) for text in texts), np.int64, len(texts)
        )

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
        nothing = np.zeros(0, np.int64)
        if not groups:
            return Labelled(nothing, nothing, nothing, nothing)
        rows, sizes = (np.concatenate([group[place] for group in groups]) for place in (0, 2))
        texts = [text for group in groups for text in group.texts]
        tokens = self.encoder.encode(texts)
        self._check_ids(texts, tokens)
        begin, offsets = np.cumsum([0, *sizes]), self._tiled(tokens)
        edges, stops, stop_ids, owners, done = [], [], [], [], 0
        for group in groups:
            base = begin[done : done + len(group.rows), None]
            edges.append((group.edges + base).ravel())
            stops.append((group.stops + base).ravel())
            stop_ids.append(np.tile(group.stop_ids, len(group.rows)))
            owners.append(np.repeat(np.arange(done, done + len(group.rows)), group.stops.shape[1]))
            done += len(group.rows)
        inside, _ = choose(offsets, np.concatenate(edges))
        stops, stop_ids, owners = map(np.concatenate, (stops, stop_ids, owners))
        # A stop that is not one supervised token where the layout says: the careful way tells why.
        places = np.minimum(np.searchsorted(offsets[:, 0], stops), len(offsets) - 1)
        right = inside[places] & (tokens.ids[places] == stop_ids) & (offsets[places, 0] == stops)
        labels = np.where(inside, tokens.ids, IGNORED).astype(np.int64)
        found = Labelled(rows, tokens.counts, tokens.ids, labels)
        return found if right.all() else _take(found, np.setdiff1d(np.arange(len(rows)), owners[~right]))

    def _tiled(self, tokens: Tokens) -> np.ndarray:
        if self.encoder.in_bytes:
            return tokens.offsets
        first = np.cumsum([0, *tokens.counts[:-1]])[tokens.counts > 0]
        starts = tokens.offsets[first, 0]
        tiled = tile(self.printer, tokens.offsets)
        tiled[first, 0] = starts
        return tiled

    def _check_ids(self, texts: list[str], tokens: Tokens) -> None:
        """Compares a sample of rows with what the tokenizer itself gives."""
        if len(tokens.counts) != len(texts):
            raise TemplateError("a text holds the characters U+10FFF0 U+10FFF1, which no text may. Remove the row.")
        begin = np.cumsum([0, *tokens.counts])
        some = range(0, len(texts), SAMPLE)
        due = self.printer.tokenizer(
            [texts[place] for place in some], add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        for place, ids in zip(some, due, strict=True):
            if tokens.ids[begin[place] : begin[place + 1]].tolist() != ids:
                raise TemplateError(
                    f"{type(self.encoder).__name__} gives other token ids than the tokenizer for "
                    f"{texts[place][:200]!r}. Please report the tokenizer; it is an error in trainers/fast_tokens.py. "
                    "Without the package tiktoken the tokenizer itself is used."
                )


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
