"""Charts as shapes: numbers in, coordinates out. The page's template draws them as SVG, in the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Sequence

WIDTH, HEIGHT = 440, 150  # of a histogram, in the units of its viewBox
CORE, INNER, OUTER = 52, 138, 228  # radii of the rings of the figure of verbs and objects
HUES = 8  # colours before they begin again
LINE = 14  # of a word in the figure, in the same units: a segment needs so much room for one


def histogram(labels: Sequence[str], counts: Sequence[int], every: int = 1) -> dict:
    """Upright bars.

    Args:
        labels (`Sequence[str]`): What each bar counts, in words.
        counts (`Sequence[int]`): One per label.
        every (`int`, *optional*, defaults to 1): Label every so many bars below the axis.

    Returns:
        `dict`: `bars` (`x`, `y`, `width`, `height`, `title`), `ticks` (`x`, `label`), `most`, `width`, `height`.
    """
    most, step = max(counts, default=0), WIDTH / max(len(counts), 1)
    bars, ticks = [], []
    for place, (label, count) in enumerate(zip(labels, counts, strict=True)):
        tall = max(HEIGHT * count / most, 1.5) if count else 0  # a single row can still be seen
        x, width = place * step + 1, max(step - 2, 1)
        shape = {"x": _round(x), "y": _round(HEIGHT - tall), "width": _round(width), "height": _round(tall)}
        bars.append({**shape, "title": f"{label}: {count:,}"})
        if place % every == 0:
            ticks.append({"x": _round(x + width / 2), "label": label})
    return {"bars": bars, "ticks": ticks, "most": most, "width": WIDTH, "height": HEIGHT}


def powers(counts: Sequence[int]) -> tuple[list[str], list[int]]:
    """Labels and counts of a histogram in powers of two, as [`distributions.lengths`] makes it; empty ends cut off."""
    labels = ["0", "1", *(f"{2 ** (n - 1):,}-{2**n - 1:,}" for n in range(2, len(counts)))][: len(counts)]
    first = next((n for n, count in enumerate(counts) if count), 0)
    return labels[first:], list(counts[first:])


def parts(named: Sequence[tuple[str, int]]) -> list[dict]:
    """One bar divided into shares of 100: `name`, `count`, `x` and `width` in percent, and the `hue` of its colour."""
    total, start, shapes = sum(count for _, count in named), 0, []
    for place, (name, count) in enumerate(named):
        share = 100 * count / total if total else 0
        shapes.append({"name": name, "count": count, "share": share, "x": _round(start), "width": _round(share)})
        shapes[-1]["hue"] = place % HUES
        start += share
    return shapes


def wheel(commonest: Sequence[dict]) -> list[dict]:
    """Verbs in an inner ring, their objects in an outer one, each as wide as it is common: Self-Instruct's figure.

    Args:
        commonest (`Sequence[dict]`): `verb`, `object` and `count`, as in [`distributions.verb_objects`]. A verb is as
            wide as its objects here together.

    Returns:
        `list[dict]`: Segments with `path`, `hue`, `ring` (`verb` or `object`), `name`, `count`, and `label` (empty
        where there is no room for it), `x`, `y` and `turn` (degrees).
    """
    verbs: dict[str, list[dict]] = {}
    for entry in commonest:
        verbs.setdefault(entry["verb"], []).append(entry)
    unit = 2 * math.pi / max(sum(entry["count"] for entry in commonest), 1)
    segments, start = [], 0.0
    for place, (verb, entries) in enumerate(verbs.items()):
        count, stop = sum(entry["count"] for entry in entries), start
        shape = _segment(start, start + unit * count, CORE, INNER, verb)
        segments.append({**shape, "hue": place % HUES, "ring": "verb", "name": verb, "count": count})
        for entry in entries:
            start, stop = stop, stop + unit * entry["count"]
            shape = _segment(start, stop, INNER, OUTER, entry["object"])
            named = {"name": f"{verb} {entry['object']}", "count": entry["count"]}
            segments.append({**shape, "hue": place % HUES, "ring": "object", **named})
        start = stop
    return segments


def _segment(start: float, end: float, inner: float, outer: float, name: str) -> dict:
    """A piece of a ring, clockwise from the top, and where its word stands: along the radius, never upside down."""
    end = min(end, start + 2 * math.pi - 1e-3)  # an arc that ends where it begins draws nothing
    large = int(end - start > math.pi)
    points = [(math.sin(angle) * far, -math.cos(angle) * far) for far in (outer, inner) for angle in (start, end)]
    (ax, ay), (bx, by), (dx, dy), (cx, cy) = [(_round(x), _round(y)) for x, y in points]
    path = f"M{ax} {ay}A{outer} {outer} 0 {large} 1 {bx} {by}L{cx} {cy}A{inner} {inner} 0 {large} 0 {dx} {dy}Z"
    middle, far = (start + end) / 2, (inner + outer) / 2
    turn = math.degrees(middle) - 90
    place = {"x": _round(math.sin(middle) * far), "y": _round(-math.cos(middle) * far)}
    place["turn"] = _round(turn if middle <= math.pi else turn + 180)
    label = name if len(name) <= 12 else name[:11] + "\u2026"
    return {"path": path, "label": label if (end - start) * far >= LINE else "", **place}


def _round(value: float) -> float:
    return round(value, 2) + 0.0  # no negative zero
