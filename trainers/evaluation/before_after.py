"""Two models, or one before and after training, on the same questions: differences with intervals, and their answers.

A measure's folder holds `result.json` and `rows.jsonl`; a row has an `id` and, per figure, a sum and what it is
divided by, so that the difference of two models is drawn over the rows that both were asked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from instruct_builders.cards import fenced
from instruct_builders.errors import ConfigError

from . import results
from .ratios import difference, perplexity

ROWS = "rows.jsonl"
LOWER_IS_BETTER = ("loss", "perplexity")
SHORT = 280  # characters of an answer in a terminal
FEW = 20  # rows, below which a bootstrap has seen too little of how much they differ for its interval to hold


class Change(NamedTuple):
    """One figure of two models.

    Attributes:
        measure (`str`), figure (`str`): Its folder, and its name there.
        before (`float`), after (`float`): Over the rows that count for both.
        difference (`dict`): `value`, `low`, `high` and `n`, the number of rows.
    """

    measure: str
    figure: str
    before: float
    after: float
    difference: dict

    @property
    def verdict(self) -> str:
        """In words; where the interval holds 0, the difference may be chance."""
        low, high = self.difference["low"], self.difference["high"]
        if low is None:  # no draw can differ
            return "alike in all rows" if self.difference["value"] else "the same"
        if low <= 0 <= high:
            return "may be chance"
        if self.difference["n"] < FEW:
            return "too few rows"
        lower = self.figure.rpartition(": ")[2].startswith(LOWER_IS_BETTER)
        return "better" if (high < 0) == lower else "worse"


class Measure(NamedTuple):
    """What one folder holds: the result, and its rows in order."""

    result: dict
    rows: list[dict]


def write(folder: str | Path, result: dict, rows: Sequence[Mapping]) -> Path:
    """Writes `rows.jsonl`, and then `result.json`, which says that the measure is complete."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{ROWS}"
    with open(draft, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / results.FILE).unlink(missing_ok=True)  # of an earlier run, with other rows
    os.replace(draft, folder / ROWS)
    return results.write(result, folder / results.FILE)


def read(folder: str | Path) -> dict[str, Measure]:
    """The measures in the folders of a folder.

    Raises:
        ConfigError: If there are none.
    """
    found = {}
    for file in sorted(Path(folder).glob(f"*/{results.FILE}")):
        if not (file.parent / ROWS).is_file():
            continue  # a result of another recipe, which compares its own
        lines = (file.parent / ROWS).read_text(encoding="utf-8").split("\n")
        found[file.parent.name] = Measure(results.read(file), [json.loads(line) for line in lines if line])
    if not found:
        raise ConfigError(f"compare: {folder} holds no results. Give the output_dir of a run of recipes/measure.py.")
    return found


def changes(before: Mapping[str, Measure], after: Mapping[str, Measure], seed: int = 42) -> list[Change]:
    """The figures of the measures that both have.

    Raises:
        ConfigError: If there is none, or the two were asked different things.
    """
    both = [name for name in before if name in after]
    if not both:
        raise ConfigError(f"compare: no measure in common: {', '.join(before)} before, {', '.join(after)} after.")
    return [change for name in both for change in _changes(name, before[name], after[name], seed)]


def left_out(before: Mapping[str, Measure], after: Mapping[str, Measure]) -> str:
    """The measures that only one of the two has, in a line; empty where there are none."""
    sides = (("before", before, after), ("after", after, before))
    lone = [f"{name} (only in {side})" for side, here, there in sides for name in here if name not in there]
    return f"not compared: {', '.join(lone)}" if lone else ""


def _changes(name: str, before: Measure, after: Measure, seed: int) -> list[Change]:
    results.comparable(before.result, after.result)
    if [row["id"] for row in before.rows] != [row["id"] for row in after.rows]:
        raise ConfigError(f"compare: {name}: the two have different rows. Run both with the same data and limits.")
    made = []
    for figure in dict.fromkeys(figure for row in before.rows for figure in row["figures"]):
        pairs = [
            (one["figures"][figure], other["figures"].get(figure, (0, 0)))
            for one, other in zip(before.rows, after.rows, strict=True)
            if figure in one["figures"]
        ]
        pairs = np.array([pair for pair in pairs if pair[0][1] and pair[1][1]], float).reshape(-1, 2, 2)
        if not len(pairs):
            continue
        if figure == "loss" and not np.array_equal(pairs[:, 0, 1], pairs[:, 1, 1]):
            raise ConfigError(
                f"compare: {name}: the same rows have other tokens, so the losses are of different things. Measure "
                "both with the same tokenizer and chat_template."
            )
        made.append(_change(name, figure, pairs, seed))
        if figure == "loss":
            made.append(_change(name, "perplexity", pairs, seed, perplexity))
    return made


def _change(name: str, figure: str, pairs: np.ndarray, seed: int, of: Callable = np.asarray) -> Change:
    one, other = (float(of(pairs[:, side, 0].sum() / pairs[:, side, 1].sum())) for side in (0, 1))
    return Change(name, figure, one, other, difference(pairs[:, 0], pairs[:, 1], seed, of))


HEAD = ("measure", "figure", "before", "after", "difference [95%]", "rows", "")


def cells(change: Change) -> tuple[str, ...]:
    made = change.difference
    told = f"{made['value']:+.3f}"
    told += "" if made["low"] is None else f" [{made['low']:+.3f}, {made['high']:+.3f}]"
    numbers = (f"{change.before:.3f}", f"{change.after:.3f}", told, f"{made['n']:,}", change.verdict)
    return (change.measure.replace("_", " "), change.figure.replace("_", " "), *numbers)


def table(found: Sequence[Change]) -> str:
    """The differences for a terminal."""
    rows = [HEAD, *map(cells, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def chosen(before: Measure, after: Measure, number: int) -> list[tuple[dict, dict]]:
    """Rows with answers, spread evenly over all of them, so that nobody picks the best."""
    pairs = [(one, other) for one, other in zip(before.rows, after.rows, strict=True) if "answer" in one]
    places = np.linspace(0, len(pairs) - 1, min(number, len(pairs))).round().astype(int) if pairs else []
    return [pairs[place] for place in places]


def samples(before: Mapping[str, Measure], after: Mapping[str, Measure], number: int) -> str:
    """Answers of both for a terminal, cut."""
    lines = []
    for name in (name for name in before if name in after):
        for one, other in chosen(before[name], after[name], number):
            lines += ["", f"[{name.replace('_', ' ')}] {_cut(one['prompt'])}"]
            lines += [f"  before: {_cut(one['answer'])}", f"  after:  {_cut(other['answer'])}"]
            lines += [f"  data:   {_cut(one['reference'])}"] if "reference" in one else []
    return "\n".join(lines)


def markdown(before: Mapping[str, Measure], after: Mapping[str, Measure], found: Sequence[Change], number: int) -> str:
    """The differences and answers as a Markdown page; texts are fenced, so that nothing in them is interpreted."""
    first = next(name for name in before if name in after)
    names = [results.shown(side[first].result).replace("`", "'") for side in (before, after)]
    lines = ["# Before and after", "", f"Before: `{names[0]}`; after: `{names[1]}`.", ""]
    lines += ["| " + " | ".join(HEAD) + " |", "|---|---|---:|---:|---:|---:|---|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(change)) + " |" for change in found]
    lines += [
        "",
        "Intervals: paired bootstrap over the rows that count for both. One that holds 0 may be chance; one over "
        f"fewer than {FEW} rows says too little.",
    ]
    lone = left_out(before, after)
    lines += ["", f"{lone[0].upper()}{lone[1:]}."] if lone else []
    for name in (name for name in before if name in after):
        for one, other in chosen(before[name], after[name], number):
            lines += ["", f"## {name.replace('_', ' ')}: {one['id']}"]
            texts = {"Prompt": one["prompt"], "Before": _text(one["answer"]), "After": _text(other["answer"])}
            texts |= {"Data": one["reference"]} if "reference" in one else {}
            lines += [line for head, text in texts.items() for line in ("", head, "", fenced(text, "text"))]
    return "\n".join(lines) + "\n"


def _text(answer: str | None) -> str:
    return "(no usable answer)" if answer is None else answer or "(empty)"


def _cut(text: str | None) -> str:
    text = " ".join(_text(text).split())
    text = "".join(char if char.isprintable() else "\ufffd" for char in text)  # a terminal obeys control characters
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"
