"""Source rows -> a table of examples, whole Arrow columns at a time.

An example has one text column per slot of its task, `answer`, `chain` where there is one, and beside them
`_options` (list of texts), `_position` (of the answer among them, -1 where there are none), `_answers` (list of all
accepted answers, null where there is only the one), `_row` (its number among the task's source rows) and `_question`
(hash of what it asks, which all renderings of that question share as `parent`, whatever answer or chain they give).

White space at a text's end and line breaks at its start are cut, and of one line the blanks at its start: the template
decides what stands around a text.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.errors import SourceError
from instruct_builders.flan.source_columns import flat_list, is_list, lists, pick, text_of
from instruct_builders.flan.task_files import Task
from instruct_builders.formats.turns import nest
from instruct_builders.records import REJECTED, content_ids, one_array


class Faults:
    """What is wrong with each row of a table: the first thing that was noted."""

    def __init__(self, size: int):
        self.first = np.full(size, -1)
        self.kinds: list[dict] = []

    def note(self, bad: np.ndarray | pa.Array, reason: str, field: str, detail: str) -> None:
        """Marks the rows of a bool mask that nothing was noted for yet."""
        bad = bad if isinstance(bad, np.ndarray) else bad.to_numpy(zero_copy_only=False)
        new = bad & (self.first < 0)
        if new.any():
            self.first[new] = len(self.kinds)
            self.kinds.append({"reason": reason, "field": field, "detail": detail})

    def verdict(self) -> pa.Array:
        if not self.kinds:
            return pa.nulls(len(self.first), REJECTED)
        return pa.array(self.kinds, REJECTED).take(pa.array(self.first, mask=self.first < 0))


def column_of(spec: str | dict) -> str:
    return spec if isinstance(spec, str) else spec["column"]


def paths_of(task: Task) -> list[str]:
    """Every column of the source that the task reads, dotted as in its file."""
    specs = [*task.columns.values(), task.answer["column"]]
    if isinstance(task.answer.get("keys"), str):
        specs.append(task.answer["keys"])
    if task.chain:
        specs.append(task.chain)
    if task.options:
        specs += task.options.get("columns", [])
        specs += [task.options["column"]] if "column" in task.options else []
    return list(dict.fromkeys(column_of(spec) for spec in specs))


def examples_of(task: Task, table: pa.Table, rows: np.ndarray) -> tuple[pa.Table, pa.Array]:
    """A table in the source's columns -> the good examples, and what is wrong with each row of the table.

    Args:
        table (`pa.Table`): With the columns of [`paths_of`]; those with a name that begins with `_` ride along.
        rows (`np.ndarray`): int64 `(n,)`, the rows' numbers.

    Returns:
        `tuple[pa.Table, pa.Array]`: The examples, and one [`records.REJECTED`] per row of `table`, null where good.
    """
    faults = Faults(len(table))
    columns = {slot: _texts(table, spec, faults) for slot, spec in task.columns.items()}
    options, position, answers = None, np.full(len(table), -1), None
    if task.options:
        options = _options(table, task.options, faults)
        answer, position = _among_options(table, task.answer, options, faults)
    elif task.answer.get("as") == "first":
        answer, answers = _first(table, task.answer, faults)
    else:
        answer = _texts(table, task.answer["column"], faults)
    if task.chain:
        columns["chain"] = _texts(table, task.chain, faults)
    says = pc.fill_null(pc.not_equal(answer, ""), False)
    faults.note(pc.invert(says), "empty_output", column_of(task.answer["column"]), "an answer without text")
    examples = pa.table(
        {
            **columns,
            "answer": answer,
            "_options": pa.nulls(len(table), pa.list_(pa.string())) if options is None else options,
            "_position": pa.array(position, pa.int32()),
            "_answers": pa.nulls(len(table), pa.list_(pa.string())) if answers is None else answers,
            "_row": pa.array(rows, pa.int64()),
            **{name: table[name] for name in table.column_names if name.startswith("_")},
        }
    )
    good = pa.array(faults.first < 0)
    examples = examples.filter(good).combine_chunks()
    return examples.append_column("_question", question_ids(examples)), faults.verdict()


def question_ids(examples: pa.Table) -> pa.Array:
    """What each example asks, as 32 hex digits: of its slots without answer and chain, and of its options as a set.

    Equal ids are the same question, whatever its answer, its chain, the order of its options and the task. What an
    inverted template asks for is one of these slots, so its renderings share the id as well.
    """
    size = len(examples)
    names = [name for name in examples.column_names if not name.startswith("_") and name not in ("answer", "chain")]
    texts = [one_array(examples[name]) for name in names]
    flat, counts, _ = flat_list(one_array(examples["_options"]))
    flat = flat.take(_sorted_within(flat, counts))
    width = len(names)
    offsets = np.concatenate([[0], np.cumsum(width + counts)])
    # Flat turns: the slots of row 0, its options, the slots of row 1, ...
    order = np.empty(offsets[-1], np.int64)
    is_slot = np.zeros(offsets[-1], bool)
    for place in range(width):
        order[offsets[:-1] + place] = place * size + np.arange(size)
        is_slot[offsets[:-1] + place] = True
    order[~is_slot] = width * size + np.arange(len(flat))
    contents = pa.concat_arrays([*texts, flat.cast(pa.string())]).take(pa.array(order))
    roles = pa.array([*names, "_option"]).take(pa.array(np.minimum(order // max(size, 1), width)))
    return content_ids(pa.table({"messages": nest(offsets, {"role": roles, "content": contents})}))


def _sorted_within(values: pa.Array, counts: np.ndarray) -> pa.Array:
    """The order in which the texts of each list, one list after the other, are sorted."""
    encoded = values.cast(pa.string()).dictionary_encode()
    rank = np.empty(len(encoded.dictionary), np.int64)
    rank[pc.array_sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(rank))
    owner = np.repeat(np.arange(len(counts)), counts)
    return pa.array(np.lexsort((rank[encoded.indices.to_numpy()], owner)))


def _texts(table: pa.Table, spec: str | dict, faults: Faults) -> pa.Array:
    """One slot's texts; rows without a value are noted."""
    path = column_of(spec)
    array = pick(table, path)
    if isinstance(spec, dict) and {*spec} & {"join", "index"} and not pa.types.is_null(array.type):
        if not is_list(array):
            raise SourceError(f"the column {path!r} is {array.type}, and join and index are for lists.")
        values, counts, starts = flat_list(array)
        if "join" in spec:
            texts = text_of(values, path)
            hole = np.zeros(len(table), bool)
            hole[np.repeat(np.arange(len(table)), counts)[texts.is_null().to_numpy(zero_copy_only=False)]] = True
            faults.note(hole, "null_field", path, "one of the texts to join is null")
            joined = pc.binary_join(lists(pc.fill_null(texts, ""), counts), spec["join"])
            array = pc.if_else(pa.array(counts > 0), joined, pa.scalar(None, pa.string()))
        else:
            at = np.full(len(table), spec["index"])
            inside = (at >= 0) & (at < counts)
            array = values.take(pa.array(starts + at, mask=~inside))
    text = text_of(array, path)
    if isinstance(spec, dict) and "cut" in spec:
        text = pc.replace_substring_regex(text, spec["cut"], "")
    faults.note(text.is_null(), "null_field", path, "missing, null or empty; a value belongs here")
    return text


def _options(table: pa.Table, spec: dict, faults: Faults) -> pa.ListArray:
    if "texts" in spec:
        count = len(spec["texts"])
        values = pa.array(spec["texts"]).take(pa.array(np.tile(np.arange(count), len(table))))
        return lists(values, np.full(len(table), count))
    if "columns" in spec:
        columns = [_texts(table, path, faults) for path in spec["columns"]]
        order = np.arange(len(columns) * len(table)).reshape(len(columns), -1).T.ravel()
        return lists(pa.concat_arrays(columns).take(pa.array(order)), np.full(len(table), len(columns)))
    path = column_of(spec["column"])
    array = pick(table, path)
    if not is_list(array) and not pa.types.is_null(array.type):
        raise SourceError(f"the column {path!r} is {array.type}, and options need a list.")
    values, counts, _ = flat_list(array)
    texts = text_of(values, path)
    hole = counts == 0
    hole[np.repeat(np.arange(len(table)), counts)[texts.is_null().to_numpy(zero_copy_only=False)]] = True
    faults.note(hole, "null_field", path, "no options, or one of them is null")
    return lists(texts, counts)


def _among_options(table: pa.Table, spec: dict, options: pa.ListArray, faults: Faults) -> tuple[pa.Array, np.ndarray]:
    """The answer's text and its position among the options; rows where it is none of them are noted."""
    kind, path = spec.get("as", "text"), spec["column"]
    values, counts, starts = flat_list(options)
    if kind == "index":
        position = _whole_numbers(pick(table, path), path, faults) - spec.get("base", 0)
        faults.note(position < 0, "null_field", path, "a label below the first option's: the answer is hidden")
    else:
        given = _first(table, spec, faults)[0] if kind == "first" else _texts(table, path, faults)
        labels = options if kind in ("text", "first") else _keys(table, spec["keys"])
        position = _find(labels, given)
    inside = (position >= 0) & (position < counts)
    faults.note(~inside, "answer_not_in_options", path, "the answer is none of the row's options")
    return values.take(pa.array(starts + position, mask=~inside)), position


def _keys(table: pa.Table, keys: str | list) -> pa.Array:
    if isinstance(keys, str):
        return pick(table, keys)
    return lists(
        pa.array(keys).take(pa.array(np.tile(np.arange(len(keys)), len(table)))), np.full(len(table), len(keys))
    )


def _whole_numbers(array: pa.Array, path: str, faults: Faults) -> np.ndarray:
    text = text_of(array, path)
    faults.note(text.is_null(), "null_field", path, "missing or null; the number of an option belongs here")
    number = pc.match_substring_regex(text, r"^-?\d{1,9}(\.0)?$").fill_null(False)
    faults.note(pc.invert(number), "answer_not_in_options", path, "not the number of an option")
    digits = pc.replace_substring(pc.if_else(number, text, "-1"), ".0", "")
    return digits.cast(pa.int64()).to_numpy()


def _find(lists: pa.Array, wanted: pa.Array) -> np.ndarray:
    """Position of the first element of each list that equals the row's text; -1 where none does."""
    values, counts, starts = flat_list(lists)
    owner = np.repeat(np.arange(len(counts)), counts)
    same = (
        pc.equal(text_of(values, "keys"), wanted.take(pa.array(owner))).fill_null(False).to_numpy(zero_copy_only=False)
    )
    found = np.full(len(counts), -1)
    hits = np.flatnonzero(same)[::-1]  # the first hit of a row is written last
    found[owner[hits]] = hits - starts[owner[hits]]
    return found


def _first(table: pa.Table, spec: dict, faults: Faults) -> tuple[pa.Array, pa.Array]:
    """The first of a list of accepted answers, and the list where it has several different ones."""
    path = spec["column"]
    array = pick(table, path)
    if not is_list(array):
        array = lists(text_of(array, path), np.ones(len(table), np.int64))  # a single text is a list of one
    values, counts, starts = flat_list(array)
    values = text_of(values, path)
    first = values.take(pa.array(starts, mask=counts == 0))
    if "empty" in spec:
        first = pc.if_else(pa.array(counts == 0), spec["empty"], first)
    faults.note(first.is_null(), "null_field", path, "no accepted answer; a list with at least one belongs here")
    owner = np.repeat(np.arange(len(counts)), counts)
    differs = pc.not_equal(values, first.take(pa.array(owner))).fill_null(False).to_numpy(zero_copy_only=False)
    several = np.zeros(len(counts), bool)
    several[owner[differs]] = True
    return first, lists(values, counts, pa.array(~several))
