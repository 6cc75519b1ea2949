"""Exemplars: which ones a row gets, and how they and the row become one prompt within its budget.

Exemplars are of the row's own template and option style, as in FLAN, all different, and never the row's own
question.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.flan.assign import Renderings, repeated
from instruct_builders.flan.config import FlanConfig
from instruct_builders.flan.draws import below, draw
from instruct_builders.flan.task_files import Task
from instruct_builders.flan.texts import texts

SEPARATORS = ("\n\n", "\n\n\n", "\n\n---\n\n", "\n\n***\n\n", "\n\n###\n\n", "\n\n=====\n\n")
ANSWER_SEPARATORS = ("\n", "\n\n", "\nAnswer: ", "\n\nAnswer: ", "\nA: ", "\n-> ", "\nResponse: ", "\nReply: ")
SPARE = 8  # candidates beyond twice the shots, so that a row runs out of different ones practically never


def choose(
    own: np.ndarray, unit: np.ndarray, wanted: np.ndarray, most: int, size: int, seed: int, task: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draws exemplars from a pool.

    Args:
        own (`np.ndarray`): int `(n,)`, position of each row's own question in the pool, -1 where it is not there.
        unit (`np.ndarray`): int `(n,)`, counters for the draws.
        wanted (`np.ndarray`): int `(n,)`, exemplars per row.
        most (`int`): The most that any row may want; not what some of the rows do, or slices would draw otherwise.
        size (`int`): Of the pool.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Positions in the pool, row after row, and how many each row has: fewer than
        wanted where the pool has no more.
    """
    if not most or not size:
        return np.zeros(0, np.int64), np.zeros(len(own), np.int64)
    columns = 2 * most + SPARE
    counters = unit[:, None].astype(np.uint64) * np.uint64(1024)
    if size <= columns:
        drawn = draw(seed, task, "exemplars", counters + np.arange(size, dtype=np.uint64))
        candidates = np.argsort(drawn, axis=1, kind="stable")
        fine = candidates != own[:, None]
    else:
        candidates = below(size, draw(seed, task, "exemplars", counters + np.arange(columns, dtype=np.uint64)))
        order = np.argsort(candidates, axis=1, kind="stable")
        sorted_ = np.take_along_axis(candidates, order, axis=1)
        again = np.zeros(candidates.shape, bool)
        again[:, 1:] = sorted_[:, 1:] == sorted_[:, :-1]
        fine = np.empty_like(again)
        np.put_along_axis(fine, order, ~again, axis=1)
        fine &= candidates != own[:, None]
    kept = fine & (np.cumsum(fine, axis=1) <= wanted[:, None])
    return candidates[kept], kept.sum(axis=1)


def in_order(own: np.ndarray, wanted: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """As [`choose`], but the first ones of the pool for every row: a task's positive examples."""
    candidates = np.broadcast_to(np.arange(size), (len(own), size))
    fine = candidates != own[:, None]
    kept = fine & (np.cumsum(fine, axis=1) <= wanted[:, None])
    return candidates[kept], kept.sum(axis=1)


def prompts(task: Task, inputs: pa.Array, what: Renderings, own: np.ndarray, pool: pa.Table, config: FlanConfig):
    """Puts preamble, exemplars and input together.

    Args:
        inputs (`pa.Array`): `(n,)` the rows' own inputs.
        what (`Renderings`): Theirs.
        own (`np.ndarray`): As in [`choose`].

    Returns:
        `tuple[pa.Array, np.ndarray, np.ndarray]`: Prompts, the number of exemplars in each, and whether it is longer
        than its budget without any.
    """
    low, high = config.shot_range
    wanted = low + below(high - low + 1, draw(config.seed, task.name, "shots", what.unit))
    if task.shot_template:
        chosen, counts = in_order(own, wanted, len(pool))
    else:
        chosen, counts = choose(own, what.unit, wanted, high, len(pool), config.seed, task.name)
    between, before_answer = _separators(task, what.unit, config)
    shots = _exemplars(task, what, chosen, counts, pool, config, before_answer)
    if config.shot_range != (0, 0):
        cue = pc.utf8_rtrim_whitespace(before_answer)
        inputs = pc.binary_join_element_wise(inputs, cue, "")
    kept, over = _within_budget(task, inputs, shots, counts, between, config)
    row = np.repeat(np.arange(len(inputs)), counts)
    shots, counts = shots.filter(pa.array(kept)), np.bincount(row[kept], minlength=len(inputs))
    if not counts.any() and not task.preamble:
        return inputs, counts, over
    return _joined(task.preamble, shots, counts, inputs, between), counts, over


def suffix(task: Task, shots: int, config: FlanConfig) -> str:
    """What a niv2 template's id says beyond its definition: `+2` for two positive examples, explained or not."""
    if not task.shot_template or not shots:
        return ""
    return f"+{shots}" + ("+explanations" if config.explanations else "")


def _separators(task: Task, unit: np.ndarray, config: FlanConfig) -> tuple[pa.Array, pa.Array]:
    found = []
    given = config.answer_separator if config.answer_separator is not None else task.answer_separator
    for purpose, value, known in (
        ("separator", config.separator, SEPARATORS),
        ("answer separator", given, ANSWER_SEPARATORS),
    ):
        if value == "random":
            drawn = below(len(known), draw(config.seed, task.name, purpose, unit))
            found.append(pa.array(known).take(pa.array(drawn)))
        else:
            found.append(pa.repeat(pa.scalar(value, pa.string()), len(unit)))
    return found[0], found[1]


def _exemplars(task, what, chosen, counts, pool, config, before_answer) -> pa.Array:
    if not len(chosen):
        return pa.array([], pa.string())
    shots = repeated(what, counts, chosen)
    templates = (task.shot_template,) * len(task.templates) if task.shot_template else task.templates
    inputs, targets = texts(templates, pool, shots, config.option_target)
    row = pa.array(np.repeat(np.arange(len(counts)), counts))
    return pc.binary_join_element_wise(inputs, before_answer.take(row), targets, "")


def _lengths(texts: pa.Array, config: FlanConfig) -> np.ndarray:
    if config.count_tokens is None:
        return pc.utf8_length(texts).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.asarray(config.count_tokens(texts.to_pylist()), np.int64).reshape(len(texts))


def _within_budget(task, inputs, shots, counts, between, config) -> tuple[np.ndarray, np.ndarray]:
    """Which exemplars stay, taken off the end of each row, and which rows do not fit even without any."""
    budget = config.max_input_chars or config.max_input_tokens
    if budget is None:
        return np.ones(len(shots), bool), np.zeros(len(inputs), bool)
    row = np.repeat(np.arange(len(inputs)), counts)
    encoded = between.dictionary_encode()
    gap = _lengths(encoded.dictionary, config)[encoded.indices.to_numpy()]
    alone = _lengths(inputs, config)
    if task.preamble:
        alone = alone + _lengths(pa.array([task.preamble]), config)[0] + gap
    running = np.concatenate([[0], np.cumsum(_lengths(shots, config) + gap[row])])
    before = running[np.cumsum(counts) - counts]
    return alone[row] + running[1:] - before[row] <= budget, alone > budget


def _joined(preamble: str, shots: pa.Array, counts: np.ndarray, inputs: pa.Array, between: pa.Array) -> pa.Array:
    """Preamble, exemplars and input of each row with its separator between them."""
    size, lead = len(inputs), int(bool(preamble))
    offsets = np.concatenate([[0], np.cumsum(counts + 1 + lead)])
    order = np.empty(offsets[-1], np.int64)
    is_shot = np.ones(offsets[-1], bool)
    order[offsets[1:] - 1] = len(shots) + np.arange(size)
    is_shot[offsets[1:] - 1] = False
    if lead:
        order[offsets[:-1]] = len(shots) + size
        is_shot[offsets[:-1]] = False
    order[is_shot] = np.arange(len(shots))
    parts = pa.concat_arrays([shots, inputs, pa.array([preamble] * lead, pa.string())]).take(pa.array(order))
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), parts), between)
