"""A preflight report as one HTML page: no script, nothing loaded from anywhere, every text of the data escaped."""

from __future__ import annotations

from pathlib import Path

from instruct_builders.page import environment, number, style, visible

TEMPLATE = Path(__file__).parent / "preflight.html.jinja"
WIDTH, HEIGHT = 960, 200  # of the histogram, in the units of its viewBox
TERMS = ("weights", "optimizer", "gradients", "activations", "loss", "backward", "total")


def render(found: dict, dataset_report: str | None = None) -> str:
    """The page of a report.

    Args:
        found (`dict`): From [`trainers.preflight.report`].
        dataset_report (`str`, *optional*): Where the data's own page is, relative to this one; linked to.

    Returns:
        `str`: HTML. The same report gives the same page.
    """
    made = environment(visible=visible, number=number, size=size)
    template = made.from_string(TEMPLATE.read_text(encoding="utf-8"))
    drawn = {"bars": bars(found["lengths"]), "marks": marks(found["lengths"]), "width": WIDTH, "height": HEIGHT}
    return template.render(found=found, terms=TERMS, style=style(), dataset_report=dataset_report, **drawn)


def size(value: int) -> str:
    """Bytes in the unit that leaves few digits."""
    for unit, one in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= one * 1000 / 1024:
            return f"{value / one:,.2f} {unit}"
    return f"{value} B"


def bars(lengths: dict) -> list[dict]:
    """One rectangle per bin of the histogram; `over` where all of it lies beyond the limit."""
    if not lengths["rows"]:
        return []
    edges, rows = lengths["histogram"]["edges"], lengths["histogram"]["rows"]
    most, far = max(rows), edges[-1]
    found = []
    for start, end, count in zip(edges, edges[1:], rows, strict=False):
        tall = max(round(HEIGHT * count / most, 1), 1.0 if count else 0.0)  # a single row can still be seen
        found.append(
            {
                "x": round(WIDTH * start / far + 0.5, 1),
                "y": round(HEIGHT - tall, 1),
                "width": max(round(WIDTH * (end - start) / far - 1, 1), 0.5),
                "height": tall,
                "over": bool(lengths["limit"]) and start >= lengths["limit"],
                "title": f"{start:g} to {end:g} tokens: {count:,} rows",
            }
        )
    return found


def marks(lengths: dict) -> list[dict]:
    """Lines across the histogram: the limit, where the rows reach it."""
    if not lengths["rows"] or not lengths["limit"] or lengths["limit"] > lengths["max"]:
        return []
    return [{"x": round(WIDTH * lengths["limit"] / lengths["max"], 1), "label": f"limit {lengths['limit']:,}"}]
