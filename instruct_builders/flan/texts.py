"""Templates filled with examples: one pass over whole Arrow columns per template."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.flan import options
from instruct_builders.flan.assign import Renderings
from instruct_builders.flan.templates import OPTIONS, Pieces, Template, slots_of
from instruct_builders.records import one_array


def texts(
    templates: tuple[Template, ...], examples: pa.Table, what: Renderings, option_target: str
) -> tuple[pa.Array, pa.Array]:
    """The inputs and targets of renderings."""
    shown = what.marker >= 0
    printed, labels = _options(examples, what, shown) if shown.any() else (None, None)
    inputs, targets, order = [], [], []
    for group in np.unique(what.template * 2 + shown):
        template, with_options = templates[group // 2], bool(group % 2)
        places = np.flatnonzero((what.template == group // 2) & (shown == with_options))
        pieces = template.input if with_options else template.bare
        used = {*slots_of(pieces), *slots_of(template.target)} - {OPTIONS}
        where = pa.array(what.example[places])
        columns = {name: one_array(examples[name]).take(where) for name in used}
        if with_options:
            columns[OPTIONS] = printed.take(pa.array(places))
        inputs.append(fill(pieces, columns))
        if with_options and option_target == "label" and "answer" in used and not template.inverted:
            columns["answer"] = pc.coalesce(labels.take(pa.array(places)), columns["answer"])
        targets.append(fill(template.target, columns))
        order.append(places)
    if not order:
        return pa.array([], pa.string()), pa.array([], pa.string())
    back = pa.array(np.argsort(np.concatenate(order), kind="stable"))
    return pa.concat_arrays(inputs).take(back), pa.concat_arrays(targets).take(back)


def _options(examples: pa.Table, what: Renderings, shown: np.ndarray) -> tuple[pa.Array, pa.Array]:
    """The options block and the answer's label of each rendering; null where no options are printed."""
    where = pa.array(what.example[shown])
    marker = what.marker[shown]
    written = options.blocks(
        one_array(examples["_options"]).take(where), what.header[shown], marker, what.ending[shown]
    )
    labels = options.labels(marker, one_array(examples["_position"]).take(where).to_numpy())
    back = np.full(len(what), -1)
    back[shown] = np.arange(len(marker))
    back = pa.array(back, mask=~shown)
    return written.take(back), labels.take(back)


def fill(pieces: Pieces, columns: Mapping[str, pa.Array]) -> pa.Array:
    """A template's pieces with the columns in its slots."""
    parts = [part for literal, slot in pieces for part in (literal, columns.get(slot)) if part is not None]
    return pc.binary_join_element_wise(*parts, "")
