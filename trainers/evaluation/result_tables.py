"""Results side by side: as text for a terminal, and as Markdown for a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

EMPTY = "-"
# What is shown of a group, the first one that it has.
HEADS = ("instruction_strict", "rougeL", "score", "win_rate", "accuracy", "loss")


def shown(result: Mapping) -> str:
    """What the model of a result is called."""
    model = result["model"]
    return f"{model['name']} + {model['adapter']}" if model.get("adapter") else str(model["name"])


def labels(results: Sequence[Mapping]) -> list[str]:
    """What the models are called where they stand side by side: two runs of one model are `NAME (1)`, `NAME (2)`."""
    names = [shown(result) for result in results]
    return [f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names, 1)]


def table(results: Sequence[Mapping]) -> str:
    """A table for a terminal: a line per metric and group, a column per model, each value with its interval."""
    rows = _rows(results)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def markdown(results: Sequence[Mapping]) -> str:
    """The same as a Markdown table; names are escaped, so that none of them ends a cell or makes a link."""
    rows = [[_escaped(cell) for cell in row] for row in _rows(results)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" + "|---:" * (len(rows[0]) - 1) + "|", *lines[1:]])


def _rows(results: Sequence[Mapping]) -> list[list[str]]:
    rows = [["", *labels(results)]]
    for name in _union(result["metrics"] for result in results):
        rows.append([name.replace("_", " "), *(_cell(result["metrics"].get(name)) for result in results)])
    for group in _union(result["groups"] for result in results):
        measured = [result["groups"].get(group, {}) for result in results]
        names = _union(measured)
        head = next((name for name in HEADS if name in names), names[0] if names else None)
        if head is not None:
            rows.append([f"{group}: {head.replace('_', ' ')}", *(_cell(values.get(head)) for values in measured)])
    return rows


def _union(mappings) -> list[str]:
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _cell(metric: Mapping | None) -> str:
    if metric is None:
        return EMPTY
    if metric["low"] is None or metric["high"] is None:
        return _number(metric["value"])
    return f"{_number(metric['value'])} [{_number(metric['low'])}, {_number(metric['high'])}]"


def _number(value: float) -> str:
    """Three digits or so, without an exponent: 0.512, 7.25, 142.0."""
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 100 else f"{value:,.1f}"


def _escaped(text: str) -> str:
    text = " ".join(text.split())
    for sign in ("\\", "|", "`", "*", "_", "<", "[", "]"):
        text = text.replace(sign, "\\" + sign)
    return text
