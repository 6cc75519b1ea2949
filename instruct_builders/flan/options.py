"""The options block of a prompt: a header, one line per option, and sometimes a closing line.

The styles are drawn per rendering from 12 headers x 14 markers x 3 endings. A marker with a label (`(A)`, `1.`) makes
the label the target, as FLAN does; one without (`-`) leaves the option's text. A row in which the answer's text stands
twice among its options has two right labels, so its options are printed without labels, and it is no exemplar.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.flan.source_columns import flat_list
from instruct_builders.records import one_array

HEADERS = (
    "Options:",
    "Choices:",
    "Choose from:",
    "Possible answers:",
    "Pick one of these:",
    "Select one:",
    "Your options are:",
    "The candidates:",
    "Answer with one of the following:",
    "One of these is right:",
    "Available answers:",
    "Here are the choices:",
)
# Before the label, the kind of label, after it; the label as an answer is what is not punctuation behind it.
MARKERS = (
    ("- ", "", ""),
    ("* ", "", ""),
    ("• ", "", ""),
    ("(", "A", ") "),
    ("[", "A", "] "),
    ("", "A", ". "),
    ("", "A", ") "),
    ("", "A", ": "),
    ("(", "a", ") "),
    ("", "a", ") "),
    ("(", "1", ") "),
    ("[", "1", "] "),
    ("", "1", ". "),
    ("", "1", ") "),
)
UNLABELLED = sum(not kind for _, kind, _ in MARKERS)  # they come first
ENDINGS = ("", "\nOnly one of them is right.", "\nGive one of them as the answer.")


def label(marker: int, position: int) -> str | None:
    """The label of an option as an answer writes it, such as `(B)` or `2`; `None` where the marker has none."""
    before, kind, after = MARKERS[marker]
    if not kind:
        return None
    closing = after.strip() if before else ""  # brackets come in pairs; a lone ")" or "." is no part of the label
    return f"{before}{_name(kind, position)}{closing}"


def prefix(marker: int, position: int) -> str:
    """What stands before an option's text."""
    before, kind, after = MARKERS[marker]
    return f"{before}{_name(kind, position) if kind else ''}{after}"


def style(marker: int) -> str:
    """How records call a marker: its first prefix, such as `(A)` or `-`."""
    return prefix(marker, 0).strip()


def _name(kind: str, position: int) -> str:
    if kind == "1":
        return str(position + 1)
    name = ""
    while position >= 0:  # A ... Z, AA, AB, ... as in a spreadsheet
        name = chr(ord(kind) + position % 26) + name
        position = position // 26 - 1
    return name


def blocks(options: pa.ListArray, header: np.ndarray, marker: np.ndarray, ending: np.ndarray) -> pa.Array:
    """The options block of each row, as text.

    Args:
        options (`pa.ListArray`): `(n,)` lists of texts.
        header, marker, ending (`np.ndarray`): int `(n,)`, positions in `HEADERS`, `MARKERS` and `ENDINGS`.
    """
    values, counts, starts = flat_list(options)
    most = int(counts.max(initial=1))
    owner = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(values)) - starts[owner]
    prefixes = pa.array([prefix(kind, position) for kind in range(len(MARKERS)) for position in range(most)])
    items = pc.binary_join_element_wise(prefixes.take(pa.array(marker[owner] * most + place)), values, "")
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, items), "\n")
    headers = pa.array([f"{text}\n" for text in HEADERS]).take(pa.array(header))
    return pc.binary_join_element_wise(headers, joined, pa.array(ENDINGS).take(pa.array(ending)), "")


def labels(marker: np.ndarray, position: np.ndarray) -> pa.Array:
    """The label of each row's answer; null where its marker has none."""
    most = int(position.max(initial=0)) + 1
    names = pa.array([label(kind, place) for kind in range(len(MARKERS)) for place in range(most)], pa.string())
    return names.take(pa.array(marker * most + position))


def ambiguous(examples: pa.Table) -> np.ndarray:
    """Whether each example's answer stands more than once among its options: bool `(n,)`."""
    values, counts, _ = flat_list(one_array(examples["_options"]))
    owner = np.repeat(np.arange(len(counts)), counts)
    same = pc.equal(values.cast(pa.string()), one_array(examples["answer"]).take(pa.array(owner)))
    hits = same.fill_null(False).to_numpy(zero_copy_only=False)
    return np.bincount(owner[hits], minlength=len(counts)) > 1
