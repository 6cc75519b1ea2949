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
        note = f"{share:.1f}%" + (f", {_epochs(entry)} epochs" if entry["rows"] else "")
        axes.annotate(note, (share, place - 0.2), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(list(places), [_short(entry["name"]) for entry in entries])
    axes.invert_yaxis()
    axes.set_xlabel("share in percent")
    axes.margins(x=0.18, y=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})  # no version: the same bytes
    return buffer.getvalue()


def novelty_histogram(scores: Sequence[float], threshold: float | None = None) -> bytes:
    """A PNG: how many generated instructions are how much like the nearest one before them.

    Args:
        scores (`Sequence[float]`): ROUGE-L F with the nearest earlier text, between 0 and 1, one per candidate.
        threshold (`float`, *optional*): Above it a candidate was refused; marked by a line.

    Returns:
        `bytes`: The same for the same scores and version of matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    edges = [number / 20 for number in range(21)]
    limit = 1.0 if threshold is None else threshold
    refused = [score for score in scores if score > limit]
    kept = [score for score in scores if score <= limit]
    labels = [f"kept ({len(kept):,})", f"refused ({len(refused):,})"]
    axes.hist([kept, refused], edges, stacked=True, color=[DRAWN, HAD], label=labels, edgecolor="white")
    if threshold is not None:
        axes.axvline(threshold, color="black", linewidth=1, linestyle="--", label=f"threshold {threshold:g}")
    axes.set_xlim(0, 1)
    axes.set_xlabel("ROUGE-L F with the nearest instruction before")
    axes.set_ylabel("instructions")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _epochs(entry: dict) -> str:
    epochs = entry["draws"] / entry["rows"]
    return f"{epochs:.1f}" if epochs >= 1 else f"{epochs:.2g}"


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
