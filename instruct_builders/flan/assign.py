"""Which template and option style each row is rendered with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from instruct_builders.flan import options
from instruct_builders.flan.config import FlanConfig
from instruct_builders.flan.draws import below, chosen, draw
from instruct_builders.flan.task_files import Task

RENDERINGS = 64  # counters kept apart per row: more than any row can be rendered with


@dataclass(frozen=True)
class Renderings:
    """What is to be rendered: int64 arrays `(n,)`, one entry per prompt and answer.

    Args:
        example: Position of the example in its table.
        unit: Counter of the rendering for draws.
        template: Position in the task's templates.
        header, marker, ending: The options' style; `marker` is -1 where no options are printed.
    """

    example: np.ndarray
    unit: np.ndarray
    template: np.ndarray
    header: np.ndarray
    marker: np.ndarray
    ending: np.ndarray

    def __len__(self) -> int:
        return len(self.example)


def assign(task: Task, rows: np.ndarray, config: FlanConfig) -> Renderings:
    """Gives each row its templates and styles.

    Args:
        rows (`np.ndarray`): int64 `(n,)`, the rows' numbers in their source.
    """
    groups = {
        "cot": [place for place, template in enumerate(task.templates) if template.cot],
        "inverted": [place for place, template in enumerate(task.templates) if template.inverted],
        "plain": [place for place, template in enumerate(task.templates) if not template.cot],
    }
    kind = np.full(len(rows), "plain", "<U8")
    if config.inverted is not None and groups["inverted"]:
        groups["plain"] = [place for place in groups["plain"] if place not in groups["inverted"]]
        kind[chosen(config.inverted, draw(config.seed, task.name, "inverted", rows))] = "inverted"
    if groups["cot"]:
        kind[chosen(float(config.cot), draw(config.seed, task.name, "cot", rows))] = "cot"
    base = (
        rows.astype(np.uint64)
        if config.assignment == "round_robin"
        else draw(config.seed, task.name, "template", rows)
    )
    sizes = {name: len(places) for name, places in groups.items()}
    size = np.array([sizes["plain"]]).repeat(len(rows))
    table = np.zeros((3, max(sizes.values())), np.int64)
    which = np.zeros(len(rows), np.int64)
    for number, (name, places) in enumerate(groups.items()):
        table[number, : len(places)] = places
        of_kind = kind == name
        which[of_kind], size[of_kind] = number, len(places)
    many = np.minimum(size, len(task.templates) if config.templates_per_row == "all" else config.templates_per_row)
    example = np.repeat(np.arange(len(rows)), many)
    turn = np.arange(len(example)) - np.repeat(np.cumsum(many) - many, many)
    place = (below(size, base)[example] + turn) % size[example]
    template = table[which[example], place]
    unit = rows[example] * RENDERINGS + turn
    return Renderings(example, unit, template, *_styles(task, template, unit, config))


def _styles(
    task: Task, template: np.ndarray, unit: np.ndarray, config: FlanConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    printed = np.array([entry.has_options for entry in task.templates])[template]
    printed &= chosen(float(config.options), draw(config.seed, task.name, "options", unit))
    if config.option_style == "plain":
        zeros = np.zeros(len(unit), np.int64)
        return zeros, np.where(printed, zeros, -1), zeros
    header, marker, ending = (
        below(len(known), draw(config.seed, task.name, purpose, unit))
        for purpose, known in (("header", options.HEADERS), ("marker", options.MARKERS), ("ending", options.ENDINGS))
    )
    return header, np.where(printed, marker, -1), ending


def repeated(what: Renderings, counts: np.ndarray, example: np.ndarray) -> Renderings:
    """The exemplars of renderings: other examples in each one's own template and style."""
    row = np.repeat(np.arange(len(what)), counts)
    return replace(
        what,
        example=example,
        **{name: getattr(what, name)[row] for name in ("unit", "template", "header", "marker", "ending")},
    )
