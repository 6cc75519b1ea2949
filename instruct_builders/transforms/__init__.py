"""Transforms: pure functions, table of records -> table of records, each named in [`TRANSFORMS`].

A transform changes text, sets the column `rejected` (`reason`, `field`, `detail`; null where a row is fine) or, in
`split_long` alone, makes several rows of one. No transform removes a row: that is the caller's. Rows that are rejected
already are left alone. All run as `dataset.with_format("arrow").map(transform, batched=True)`, but those in
[`WHOLE_TABLE`] compare rows with one another and need the whole table. [`apply`] does it all and counts.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ConfigError, did_you_mean
from . import clusters, flat
from .blocked import blocked_words
from .clean import error_page, html_to_markdown, strip_whitespace, ui_residue
from .decontaminate import decontaminate
from .dedup import duplicate_ids, exact_duplicates
from .embedding import check_embed
from .evaluation_sets import named
from .given_scores import check_given, given_scores
from .judged import check as check_judge
from .judged import judge
from .language import language
from .near_duplicates import near_duplicates
from .quality import check_quality
from .quality import load as load_preset
from .semantic import semantic_duplicates
from .split import split_long
from .turns import alternation, empty_turns, no_input_markers, role_names, too_short, trim_turns

TRANSFORMS: dict[str, Callable[..., pa.Table]] = {
    "html_to_markdown": html_to_markdown,
    "ui_residue": ui_residue,
    "strip_whitespace": strip_whitespace,
    "error_page": error_page,
    "role_names": role_names,
    "trim_turns": trim_turns,
    "alternation": alternation,
    "empty_turns": empty_turns,
    "no_input_markers": no_input_markers,
    "too_short": too_short,
    "blocked_words": blocked_words,
    "language": language,
    "exact_duplicates": exact_duplicates,
    "duplicate_ids": duplicate_ids,
    "near_duplicates": near_duplicates,
    "semantic_duplicates": semantic_duplicates,
    "decontaminate": decontaminate,
    "split_long": split_long,
    "quality": check_quality,
    "judge": judge,
    "given_scores": given_scores,
}
WHOLE_TABLE = frozenset(
    {"exact_duplicates", "duplicate_ids", "near_duplicates", "semantic_duplicates", "decontaminate", "judge"}
)
COMPARING = WHOLE_TABLE - {"decontaminate", "judge"}  # rows with one another, and one of those that are alike stays
SPLITTING = frozenset({"split_long"})  # the only ones that add rows; they give the new rows their ids

# What FastChat does to ShareGPT's export by default, in its order. Its key for duplicates is the first answer and the
# number of turns; the whole first round, as here, does not take "Sure!" to two questions for the same. What needs a
# decision is left out: `blocked_words` (FastChat: openai, chatgpt), `language` and `split_long`.
VICUNA: list[str | dict] = [
    "trim_turns",
    "alternation",
    "html_to_markdown",
    "ui_residue",
    "strip_whitespace",
    "error_page",
    "empty_turns",
    "too_short",
    {"exact_duplicates": {"by": "first_round"}},
]

SLICE = 10_000  # rows that a row-local transform sees at a time, to bound memory


def apply(table: pa.Table, steps: Sequence[str | dict]) -> tuple[pa.Table, list[dict]]:
    """Runs steps in order and counts what each did. Ids of changed rows are computed anew.

    Args:
        table (`pa.Table`): Records, or at least a column `messages`; of a [`~datasets.Dataset`] that is
            `dataset.with_format("arrow")[:]`.
        steps (`Sequence[str or dict]`): Names of [`TRANSFORMS`], or `{name: parameters}`, as in YAML.

    Returns:
        `tuple[pa.Table, list[dict]]`: The table, rejected rows included, and for each step: `name`; `rows_in`, rows
        not rejected before it; `added`, rows more by splitting; `changed`, rows whose turns or `context` differ;
        `rejected`, reason -> rows; `rows_out`, so that rows_in + added = rows_out + all rejected; of steps in
        [`COMPARING`], `lost`: see [`clusters.much_lost`]; and what a step counts besides (`split`, `undetermined`).

    Raises:
        ConfigError: If a step or one of its parameters is not known; nothing has run then.
    """
    if not isinstance(table, pa.Table):
        raise ConfigError(
            f"apply takes a pyarrow table, not {type(table).__name__}: of a Dataset give "
            'dataset.with_format("arrow")[:]. What comes back is (table, counts).'
        )
    account = []
    stale = np.zeros(table.num_rows, dtype=bool)
    for name, parameters in check(steps):
        if name in SPLITTING | WHOLE_TABLE:  # those write ids down
            table = _with_new_ids(table, stale)
        function, before, counts = TRANSFORMS[name], table, Counter()
        if "counts" in inspect.signature(function).parameters:
            parameters = {**parameters, "counts": counts}
        size = max(table.num_rows, 1) if name in WHOLE_TABLE else SLICE
        pieces = [table.slice(start, size) for start in range(0, max(table.num_rows, 1), size)]
        results = [function(piece, **parameters) for piece in pieces]
        # A slice without a rejected row may come back without that column, or with it in another place.
        table = pa.concat_tables(results, promote_options="default")
        if name in SPLITTING | WHOLE_TABLE:
            changed = stale = np.zeros(table.num_rows, dtype=bool)
        else:
            changed = np.concatenate([changed_rows(*pair) for pair in zip(pieces, results, strict=True)])
            stale = stale | changed
        if name in COMPARING:
            was_open, is_open = flat.open_rows(before), flat.open_rows(table)
            gone = clusters.per_task(table, was_open & ~is_open)
            if lost := clusters.much_lost(clusters.per_task(table, was_open), gone):
                counts["lost"] = lost
        account.append(
            {
                "name": name,
                "rows_in": int(flat.open_rows(before).sum()),
                "added": table.num_rows - before.num_rows,
                "changed": int(changed.sum()),
                "rejected": dict(sorted((_reasons(table) - _reasons(before)).items())),
                "rows_out": int(flat.open_rows(table).sum()),
                **counts,
            }
        )
    return _with_new_ids(table, stale), account


def check(steps: Sequence[str | dict]) -> list[tuple[str, dict]]:
    """Steps as written in YAML -> their names and parameters.

    Raises:
        ConfigError: If a step is neither a name nor `{name: parameters}`, or a name or a parameter is not known.
    """
    if isinstance(steps, str | dict):
        raise ConfigError(f"transforms: give a list of steps, not {steps!r}.")
    return [_checked(step) for step in steps]


def _checked(step: str | dict) -> tuple[str, dict]:
    written = step if isinstance(step, dict) else {step: None} if isinstance(step, str) else {}
    if len(written) != 1 or not all(isinstance(value, dict | None) for value in written.values()):
        raise ConfigError(f"transforms: a step is a name or {{name: {{parameter: value}}}}, not {step!r}.")
    ((name, parameters),) = written.items()
    if name not in TRANSFORMS:
        hint = did_you_mean(str(name), TRANSFORMS)
        raise ConfigError(f"transforms: {name!r} is not known; they are {', '.join(TRANSFORMS)}.{hint}")
    allowed = [key for key in inspect.signature(TRANSFORMS[name]).parameters if key not in ("table", "counts")]
    for key in parameters or {}:
        if key not in allowed:
            known = f"its parameters are {', '.join(allowed)}" if allowed else "it has none"
            raise ConfigError(f"{name}: {key!r} is no parameter; {known}.{did_you_mean(str(key), allowed)}")
    if name == "quality":  # its own names, in the preset, are checked before a row is read
        load_preset((parameters or {}).get("preset", "default"))
    if name == "decontaminate":
        named((parameters or {}).get("against", ()))
    if name == "given_scores":
        check_given(**{"file": None, **(parameters or {})})
    if name == "judge":
        check_judge(parameters or {})
    if name == "semantic_duplicates":
        check_embed((parameters or {}).get("embed"))
    return name, dict(parameters or {})


def stages(steps: Sequence[str | dict]) -> list[tuple[bool, list[str | dict]]]:
    """Neighbouring steps that run alike, for builders that stream: `(whole, steps)`, in order.

    Where `whole` is false, [`apply`] may be called batch by batch and the counts be added up by [`add_counts`];
    where it is true it must see the whole table.
    """
    marked = [(name in WHOLE_TABLE, step) for (name, _), step in zip(check(steps), steps, strict=True)]
    return [(whole, [step for _, step in group]) for whole, group in groupby(marked, key=lambda pair: pair[0])]


def add_counts(accounts: Sequence[list[dict]]) -> list[dict]:
    """Adds up what [`apply`] counted for the same steps on several batches.

    Raises:
        ValueError: If the accounts are not of the same steps.
    """
    total = []
    for entries in zip(*accounts, strict=True):
        if len({entry["name"] for entry in entries}) > 1:
            raise ValueError(f"accounts of different steps: {sorted({entry['name'] for entry in entries})}.")
        numbers, reasons = Counter(), Counter()
        for entry in entries:
            numbers.update({key: value for key, value in entry.items() if isinstance(value, int)})
            reasons.update(entry["rejected"])
        same = {key: value for key, value in entries[0].items() if not isinstance(value, int)}  # such as a preset
        total.append({**same, **numbers, "rejected": dict(sorted(reasons.items()))})
    return total


def changed_rows(before: pa.Table, after: pa.Table) -> np.ndarray:
    """Which rows differ in turns (number, roles, contents, thoughts, calls), `context` or `tools`: bool, (rows,)."""
    changed = np.zeros(after.num_rows, dtype=bool)
    if not _same(before["messages"], after["messages"]):
        (old_offsets, old), (new_offsets, new) = flat.flatten(before), flat.flatten(after)
        changed = np.diff(old_offsets) != np.diff(new_offsets)
        as_before = ~changed
        old, new = (
            turns.filter(pa.array(as_before[flat.row_of_turn(offsets)]))
            for turns, offsets in ((old, old_offsets), (new, new_offsets))
        )
        differs = _differ(pc.struct_field(old, "role"), pc.struct_field(new, "role"))
        differs |= _differ(flat.text(old), flat.text(new))
        for name in ("reasoning_content", "tool_calls"):
            if new.type.get_field_index(name) >= 0:
                differs |= _differ(flat.storage(old.field(name)), flat.storage(new.field(name)))
        kept_offsets = flat.offsets_of(np.diff(new_offsets)[as_before])
        changed[as_before] = flat.sum_per_row(differs, kept_offsets) > 0
    for name in ("context", "tools"):
        if name in after.column_names and not _same(before[name], after[name]):
            changed |= _differ(*(flat.storage(flat.one_array(table[name])) for table in (before, after)))
    return changed


def _same(old: pa.ChunkedArray, new: pa.ChunkedArray) -> bool:
    """Whether two columns are the same memory: far quicker than to compare what is in it."""

    def place(column):
        return [(chunk.offset, len(chunk), [b and b.address for b in chunk.buffers()]) for chunk in column.chunks]

    return place(old) == place(new)


def _differ(old: pa.Array, new: pa.Array) -> np.ndarray:
    same = flat.booleans(pc.equal(old, new)) | flat.booleans(pc.and_(pc.is_null(old), pc.is_null(new)))
    return ~same


def _reasons(table: pa.Table) -> Counter:
    if "rejected" not in table.column_names:
        return Counter()
    found = pc.value_counts(pc.struct_field(flat.one_array(table["rejected"]), "reason").drop_null())
    return Counter({entry["values"]: entry["counts"] for entry in found.to_pylist()})


def _with_new_ids(table: pa.Table, stale: np.ndarray) -> pa.Table:
    if "id" not in table.column_names or not stale.any():
        return table
    from ..records import content_ids

    mask = pa.array(stale)
    ids = pc.replace_with_mask(flat.one_array(table["id"]), mask, flat.one_array(content_ids(table.filter(mask))))
    return table.set_column(table.column_names.index("id"), table.schema.field("id"), ids)
