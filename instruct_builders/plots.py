"""Pictures for cards and reports: the one home of matplotlib, an optional dependency (`instruct-builders[report]`)."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Mapping, Sequence

# Okabe and Ito's palette: told apart by people who do not see all colours.
HAD, DRAWN = "#999999", "#0072B2"
HUES = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2", "#999999")
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
    entries = largest([entry for entry in table if entry["rows"] or entry["draws"]])
    rows, draws = (max(sum(entry[key] for entry in entries), 1) for key in ("rows", "draws"))
    figure, (axes,) = _figure(8, 1.2 + 0.42 * len(entries))
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
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return _png(figure)


def novelty_histogram(scores: Sequence[float], threshold: float | None = None, measure: str = "ROUGE-L F") -> bytes:
    """A PNG: how many generated instructions are how much like the nearest one before them.

    Args:
        scores (`Sequence[float]`): Likeness to the nearest earlier text, between 0 and 1, one per candidate.
        threshold (`float`, *optional*): Above it a candidate was refused; marked by a line.
        measure (`str`, *optional*, defaults to `"ROUGE-L F"`): What the scores are.

    Returns:
        `bytes`: The same for the same scores and version of matplotlib.
    """
    figure, (axes,) = _figure(8, 3.6)
    edges = [number / 20 for number in range(21)]
    limit = 1.0 if threshold is None else threshold
    refused = [score for score in scores if score > limit]
    kept = [score for score in scores if score <= limit]
    labels = [f"kept ({len(kept):,})", f"refused ({len(refused):,})"]
    axes.hist([kept, refused], edges, stacked=True, color=[DRAWN, HAD], label=labels, edgecolor="white")
    if threshold is not None:
        axes.axvline(threshold, color="black", linewidth=1, linestyle="--", label=f"threshold {threshold:g}")
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"{measure} with the nearest instruction before")
    axes.set_ylabel("instructions")
    axes.legend(frameon=False, fontsize=8)
    return _png(figure)


def lengths_picture(lengths: Mapping[str, Mapping]) -> bytes:
    """A PNG: how many prompts and answers have how many words, in powers of two.

    Args:
        lengths (`Mapping`): `prompt` and `answer`, each with `counts` and `quartiles`, as in
            [`report_numbers.measure`].
    """
    figure, axes = _figure(8, 3.4, len(lengths))
    for axis, (name, entry) in zip(axes, lengths.items(), strict=True):
        counts = entry["counts"]
        axis.bar(range(len(counts)), counts, 0.9, color=DRAWN)
        axis.set_xticks(
            range(len(counts)), [_power(n) for n in range(len(counts))], rotation=45, ha="right", fontsize=8
        )
        axis.tick_params(axis="x", length=2)
        axis.set_xlabel(f"words in the {name} (median {entry['quartiles'][2]:.0f})")
    axes[0].set_ylabel("rows")
    return _png(figure)


def _power(place: int) -> str:
    """The numbers of words in a bar: 0, 1, 2-3, 4-7, and so on."""
    first, last = (1 << place) >> 1, (1 << place) - 1
    return f"{first}" if first >= last else f"{first}–{last}"


def telling(histograms: Sequence[Mapping]) -> list[Mapping]:
    """Those of scores that somebody has, and that are not the best there is in every row."""
    return [entry for entry in histograms if entry["mean"] is not None and any(entry["counts"][:-1])]


def scores_picture(histograms: Sequence[Mapping]) -> bytes:
    """A PNG: those histograms of quality scores between 0 and 1 that are [`telling`]: `score`, `mean`, `counts`."""
    shown = telling(histograms)
    figure, axes = _figure(8, 2.6, max(len(shown), 1))
    for axis, entry in zip(axes, shown, strict=False):
        size = len(entry["counts"])
        axis.bar([(n + 0.5) / size for n in range(size)], entry["counts"], 0.9 / size, color=DRAWN)
        axis.set_title(f"{entry['score'].replace('_', ' ')}\nmean {entry['mean']:.2f}", fontsize=8)
        axis.set_xlim(0, 1)
        axis.set_xticks([0, 0.5, 1])
        axis.tick_params(labelsize=7)
    axes[0].set_ylabel("rows")
    return _png(figure)


def verbs_picture(commonest: Sequence[Mapping]) -> bytes:
    """A PNG: the commonest verbs of the instructions in an inner ring, their objects in an outer one.

    Args:
        commonest (`Sequence[Mapping]`): As `commonest` of [`report_numbers.measure`].
    """
    verbs: dict[str, list[Mapping]] = {}
    for entry in commonest:
        verbs.setdefault(entry["verb"], []).append(entry)
    inner, outer = [], []  # pale enough for the words in them
    for place, (verb, entries) in enumerate(verbs.items()):
        hue = HUES[place % len(HUES)]
        inner.append((verb, sum(entry["count"] for entry in entries), f"{hue}99"))
        outer += [(entry["object"], entry["count"], f"{hue}66") for entry in entries]
    figure, (axes,) = _figure(7, 7)
    total, edge = sum(count for _, count, _ in inner), {"linewidth": 0.7, "edgecolor": "white"}
    for ring, radius, label, size in ((outer, 1.0, 0.86, 7), (inner, 0.72, 0.68, 9)):
        names = [_short(name, 14) if count >= total * 0.008 else "" for name, count, _ in ring]
        places = {"startangle": 90, "counterclock": False, "labeldistance": label, "rotatelabels": True}
        counts, colors = [count for _, count, _ in ring], [hue for *_, hue in ring]
        text = {"fontsize": size, "va": "center", "ha": "center"}
        wedges = {**edge, "width": 0.28 if radius == 1.0 else 0.5}
        made = axes.pie(
            counts, radius=radius, colors=colors, labels=names, textprops=text, wedgeprops=wedges, **places
        )
        for word in made[1]:
            word.set_horizontalalignment("center")
    return _png(figure)


def _figure(width: float, height: float, columns: int = 1):
    """A figure without window and without global state, since this may run in a worker; and its axes side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})  # no version: the same bytes
    return buffer.getvalue()


def radar_picture(categories: Sequence[str], scores: Mapping[str, Sequence[float | None]], most: float = 10) -> bytes:
    """A PNG: a corner per category, a line per model.

    Args:
        categories (`Sequence[str]`): Names of the corners, clockwise from the top.
        scores (`Mapping`): Name of a model -> a score per category, from 0 to `most`; `None` leaves a gap.
        most (`float`, *optional*, defaults to 10): The rim.

    Returns:
        `bytes`: The same for the same scores and version of matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(projection="polar", theta_offset=math.pi / 2, theta_direction=-1)
    angles = [2 * math.pi * place / len(categories) for place in range(len(categories))]
    colours = (DRAWN, HUES[1], HUES[2], HUES[3], HUES[0], HUES[5])
    for place, (name, values) in enumerate(scores.items()):
        points = [math.nan if value is None else value for value in values]
        closed = {"x": [*angles, angles[0]], "y": [*points, points[0]]}
        colour, shape = colours[place % len(colours)], "osD^vP"[place % 6]
        axes.plot(closed["x"], closed["y"], color=colour, marker=shape, markersize=5, label=_short(name))
        if None not in values:
            axes.fill(closed["x"], closed["y"], color=colour, alpha=0.08)
    axes.set_xticks(angles, [_short(name, 24) for name in categories])
    axes.tick_params(axis="x", pad=18)
    axes.set_ylim(0, most)
    axes.set_rlabel_position(180 / max(len(categories), 1))  # between the first two corners: no line runs there
    axes.tick_params(axis="y", labelsize=8, labelcolor="#555555")
    axes.grid(color="#cccccc", linewidth=0.6)
    axes.spines["polar"].set_color("#cccccc")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return _png(figure)


def _epochs(entry: dict) -> str:
    epochs = entry["draws"] / entry["rows"]
    return f"{epochs:.1f}" if epochs >= 1 else f"{epochs:.2g}"


def largest(entries: list[dict]) -> list[dict]:
    """`name`, `rows` and `draws` of at most [`BARS`] sources: where there are more, by the first part of the names,
    then the smallest together."""
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
