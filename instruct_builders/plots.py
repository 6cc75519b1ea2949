"""Pictures for cards and reports: the one home of matplotlib, an optional dependency (`instruct-builders[report]`)."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence

# Okabe and Ito's palette: told apart by people who do not see all colours.
HAD, DRAWN = "#999999", "#0072B2"
BARS = 30  # more are unreadable: the smallest shares are then summed up in one bar


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def mixture_picture(table: Sequence[dict]) -> bytes:
    """A PNG: per source its share of the rows there are, and its share of the rows drawn.

    Args:
        table (`Sequence[dict]`): `name`, `rows` and `draws` per source, as in [`mix.Plan`].

    Returns:
        `bytes`: The same for the same table and version of matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    entries = _largest([entry for entry in table if entry["rows"] or entry["draws"]])
    rows, draws = (max(sum(entry[key] for entry in entries), 1) for key in ("rows", "draws"))
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(entries)), layout="constrained")
    FigureCanvasAgg(figure)  # no window and no global state: this may run in a worker
    axes = figure.subplots()
    places = range(len(entries))
    shares = [100 * entry["draws"] / draws for entry in entries]
    axes.barh([place - 0.2 for place in places], shares, 0.38, color=DRAWN, label=f"rows drawn ({draws:,})")
    had = [100 * entry["rows"] / rows for entry in entries]
    axes.barh([place + 0.2 for place in places], had, 0.38, color=HAD, label=f"rows there are ({rows:,})")
    for place, share, entry in zip(places, shares, entries, strict=True):
        note = f"{share:.1f}%" + (f", {entry['draws'] / entry['rows']:.1f} epochs" if entry["rows"] else "")
        axes.annotate(note, (share, place - 0.2), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(list(places), [_short(entry["name"]) for entry in entries])
    axes.invert_yaxis()
    axes.set_xlabel("share in percent")
    axes.margins(x=0.18, y=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})  # no version: the same bytes
    return buffer.getvalue()


def _largest(entries: list[dict]) -> list[dict]:
    """At most `BARS` bars: where there are more, by the first part of the names, then the smallest together."""
    if len(entries) > BARS:
        groups: dict[str, list[dict]] = {}
        for entry in entries:
            groups.setdefault(entry["name"].split("/")[0], []).append(entry)
        entries = [_summed(name, group) for name, group in groups.items()]
    if len(entries) > BARS:
        ordered = sorted(entries, key=lambda entry: -entry["draws"])
        entries = [*ordered[: BARS - 1], _summed("smaller sources", ordered[BARS - 1 :])]
    return entries


def _summed(name: str, entries: list[dict]) -> dict:
    summed = {key: sum(entry[key] for entry in entries) for key in ("rows", "draws")}
    return {"name": name if len(entries) == 1 else f"{name} ({len(entries)})", **summed}


def _short(name: str, limit: int = 40) -> str:
    """Dollar signs would start a formula."""
    name = name if len(name) <= limit else name[: limit - 1] + "…"
    return name.replace("$", r"\$")
