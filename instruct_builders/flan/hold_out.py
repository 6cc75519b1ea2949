"""Which examples are held out, such that neither a question nor a source row is on both sides.

The draw belongs to the source row: the file's digest and the row's number in it. It knows no task, so that tasks over
the same files, such as `squad` and `squad_question_generation`, hold out the same rows, also in builds of their own.
Examples of one question go together, and in one build so do the examples that tasks make of one row, and whatever
these two rules link up.
"""

from __future__ import annotations

import numpy as np


def linked(*keys: np.ndarray) -> np.ndarray:
    """Groups of the entries that share a value in any of the keys, or are linked by others that do.

    Args:
        keys (`np.ndarray`): int64 `(n,)`, codes from 0.

    Returns:
        `np.ndarray`: int64 `(n,)`, each entry's group: the smallest code of the first key in it.
    """
    group = keys[0]
    while True:  # the smallest code travels through one more link in each round
        before = group
        for key in keys:
            least = np.full(key.max(initial=0) + 1, np.iinfo(np.int64).max)
            np.minimum.at(least, key, group)
            group = least[key]
        if np.array_equal(before, group):
            return group


def held_out(
    row: np.ndarray, question: np.ndarray, task: np.ndarray, drawn: np.ndarray, size: float | int
) -> np.ndarray:
    """Which examples are held out: bool `(n,)`.

    Args:
        row (`np.ndarray`): int64 `(n,)`, codes from 0 of the source rows, by file and place; a group goes with its
            first row, so that a share of the groups stays that share where a question has many answers.
        question (`np.ndarray`): int64 `(n,)`, codes from 0 of the questions.
        task (`np.ndarray`): int64 `(n,)`, codes from 0 of the tasks; the size holds for each.
        drawn (`np.ndarray`): float64 `(n,)`, a number between 0 and 1 that belongs to the source row.
        size (`float` or `int`): A share: the groups whose number is below it, but at least one and not all groups of
            a task that has several. Or a number of groups: those with the smallest numbers, at most half of a task's.
    """
    if not len(row):
        return np.zeros(0, bool)
    groups, code = np.unique(linked(row, question), return_inverse=True)
    u = drawn[np.unique(row, return_index=True)[1]][groups]
    pairs = np.unique(task * len(groups) + code)
    owner, member = pairs // len(groups), pairs % len(groups)
    order = np.lexsort((u[member], owner))
    member = member[order]
    _, start, many = np.unique(owner[order], return_index=True, return_counts=True)
    rank = np.arange(len(member)) - np.repeat(start, many)
    if isinstance(size, float):
        held = u < size
    else:
        held = np.zeros(len(groups), bool)
        held[member[rank < np.repeat(np.minimum(size, many // 2), many)]] = True
    every = np.logical_and.reduceat(held[member], start)
    held[member[(start + many - 1)[every]]] = False
    none = ~np.logical_or.reduceat(held[member], start)
    held[member[start[none & (many > 1)]]] = True
    return held[code]
