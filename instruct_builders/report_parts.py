"""What a report's sections show, out of `build.json`: the account, steps, mixture, contamination and charts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import charts, plots, report_examples

LISTED = 40  # sources, tasks of the mixture and matched pairs on the page; build.json has them all
STEP_KEYS = ("name", "rows_in", "rows_out", "changed", "added")  # of a step's numbers, those with their own column


def totals(build: Mapping) -> dict[str, int]:
    """The whole account: `rows_in` + `added` + `repeated` - `not_drawn` = `rows_out` + `rejected`."""
    mixture = build.get("mixture", {})
    return {
        "rows_in": sum(file["rows_in"] for file in build["sources"]),
        "added": sum(entry.get("added", 0) for entry in [*build["sources"], *build["steps"]]),
        "repeated": mixture.get("repeated", 0),
        "not_drawn": mixture.get("not_drawn", 0),
        "rows_out": sum(build["splits"].values()),
        "rejected": sum(build["rejected"].values()),
    }


def flow_of(build: Mapping) -> list[dict]:
    """All rows as one bar: the splits, then the reasons, the smaller ones together."""
    reasons = sorted(build["rejected"].items(), key=lambda entry: (-entry[1], entry[0]))
    named = max(charts.HUES - len(build["splits"]) - 1, 1)  # each with a colour of its own
    rest = [(f"{len(reasons) - named:,} more reasons", sum(count for _, count in reasons[named:]))]
    return charts.parts([*build["splits"].items(), *reasons[:named], *(rest if rest[0][1] else [])])


def step_of(step: Mapping) -> dict:
    """A step with its parameters in words, and the numbers that it counted besides."""
    more = {name.replace("_", " "): value for name, value in step.items() if name not in STEP_KEYS}
    said = json.dumps(without_folders(step["parameters"]), ensure_ascii=False) if step.get("parameters") else ""
    return {
        **step,
        "more": {name: value for name, value in more.items() if isinstance(value, int | float)},
        "said": report_examples.cut(said, 300)["text"],
        "gone": sum(step["rejected"].values()),
    }


def without_folders(value: object) -> object:
    """Parameters with the names of files alone: where they lie on a machine is nobody else's business."""
    if isinstance(value, Mapping):
        return {key: without_folders(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_folders(entry) for entry in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def mixture_of(build: Mapping) -> list[dict]:
    """The largest entries of the mixture with their shares of the rows there were and of those drawn, in percent."""
    if "mixture" not in build:
        return []
    entries = plots.largest([entry for entry in build["mixture"]["table"] if entry["rows"] or entry["draws"]])
    had, drawn = (max(sum(entry[key] for entry in entries), 1) for key in ("rows", "draws"))
    return [{**entry, "had": 100 * entry["rows"] / had, "drawn": 100 * entry["draws"] / drawn} for entry in entries]


def contamination_of(build: Mapping) -> list[dict]:
    """Per step that compared with evaluation sets: the sets, the pairs, and the first matches."""
    return [
        {
            "sets": step["evaluation_sets"],
            "rows": step["contaminated"],
            "pairs": step["pairs"],
            "dropped": step["parameters"].get("action", "drop") == "drop",
            "absent": step.get("not_at_hand", {}),
            "note": step.get("note"),
            "ignored": step.get("ignored"),
            "too_short": sum(entry.get("too_short", 0) for entry in step["evaluation_sets"].values()),
            "matches": [
                {**match, "text": report_examples.cut(match["text"], 300)} for match in step["matches"][:LISTED]
            ],
        }
        for step in build["steps"]
        if "evaluation_sets" in step
    ]


def drawn(numbers: Mapping, judged: Mapping[str, Mapping]) -> dict:
    """Every chart of the page."""
    lengths = {name: _length_chart(entry["counts"]) for name, entry in numbers["lengths"].items()}
    shown = [*numbers["scores"]["histograms"], numbers["difficulty"]]
    tasks = [
        {"lengths": _length_chart(task["answer"]["counts"]), "scores": _score_chart(task["score"]["counts"])}
        for task in numbers["tasks"]["largest"]
    ]
    sizes = numbers["duplicates"]["sizes"]
    return {
        "lengths": lengths,
        "scores": [{**entry, "chart": _score_chart(entry["counts"])} for entry in shown if sum(entry["counts"])],
        "judged": {
            name: charts.histogram([*map(str, range(1, 11))], entry["counts"]) for name, entry in judged.items()
        },
        "tasks": tasks,
        "sizes": charts.histogram([*sizes], [*sizes.values()]),
        "scripts": charts.parts([*numbers["scripts"].items()]),
        "languages": charts.parts(_first_of(numbers["languages"])),
        "wheel": charts.wheel(numbers["verb_objects"]["commonest"]),
    }


def _first_of(languages: Mapping | None, most: int = charts.HUES) -> Sequence[tuple[str, int]]:
    if not languages:
        return []
    named, unknown = [*languages["counts"].items()], languages["not_told"]
    last = [("can't be told", unknown)] if unknown else []
    room = most - len(last)
    if len(named) > room:
        rest = sum(count for _, count in named[room - 1 :])
        named = [*named[: room - 1], (f"{len(named) - room + 1} more", rest)]
    return [*named, *last]


def _length_chart(counts: Sequence[int]) -> dict:
    labels, values = charts.powers(counts)
    chart = charts.histogram([f"{label} words" for label in labels], values)
    every = -(-len(labels) // 6)
    ticks = [{**tick, "label": label.split("-")[0]} for tick, label in zip(chart["ticks"], labels, strict=True)]
    return {**chart, "ticks": ticks[::every]}


def _score_chart(counts: Sequence[int]) -> dict:
    size = len(counts)
    chart = charts.histogram([f"{n / size:.2f} to {(n + 1) / size:.2f}" for n in range(size)], counts)
    ends = [{"x": charts.WIDTH * share, "label": f"{share:g}"} for share in (0, 0.25, 0.5, 0.75, 1)]
    return {**chart, "ticks": ends}
