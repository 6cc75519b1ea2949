"""What models said to the same questions, side by side, as Markdown; and whether their scores really differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from instruct_builders import plots
from instruct_builders.cards import fenced

from . import results

SHOWN_CHARS = 2000
OTHER_SERVER = "the judges have one name and other addresses: the scores compare only if it is the same model there"
PICTURE, PAGE = "radar.png", "README.md"


def write(compared: Sequence[Mapping], folder: Path) -> tuple[Path | None, Path]:
    """Writes the page and, where matplotlib is installed, the radar picture; gives the places of picture and page."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = None
    if plots.available():
        head, most = ("score", 10) if compared[0]["kind"] == "mt_bench" else ("win_rate", 1)
        names = list(compared[0]["groups"])
        lines = {
            label: [result["groups"].get(name, {}).get(head, {}).get("value") for name in names]
            for label, result in zip(results.labels(compared), compared, strict=True)
        }
        picture = folder / PICTURE
        picture.write_bytes(plots.radar_picture(names, lines, most))
    page_path = folder / PAGE
    page_path.write_text(page(compared, picture and picture.name), encoding="utf-8")
    return picture, page_path


def page(compared: Sequence[Mapping], picture: str | None = None) -> str:
    """A Markdown page: the table, what a reader must know, and the sample answers.

    Args:
        compared (`Sequence[Mapping]`): Results of the same kind and questions.
        picture (`str`, *optional*): File name of the radar picture.

    Returns:
        `str`: Answers stand in code fences that they can't close: nothing in them becomes a link or a heading.
    """
    parts = [f"# {compared[0]['name']}", results.markdown(compared)]
    parts.append("Each value is followed by its 95% interval: a bootstrap over questions.")
    if picture:
        parts.append(f"![Scores by category]({picture})")
    parts.append(
        "## What to know\n\n" + "\n".join(f"- {_plain(note.removeprefix('note: '))}" for note in notes(compared))
    )
    labels = results.labels(compared)
    parts += [f"{_plain(label)}: {_counts(result)}" for label, result in zip(labels, compared, strict=True)]
    parts.append("## Sample answers")
    for sample in _shared_samples(compared):
        parts.append(f"### {_plain(sample[0]['category'])}, question {_plain(sample[0]['id'])}")
        parts.append(fenced(sample[0]["prompt"], "text", limit=SHOWN_CHARS))
        for label, own in zip(labels, sample, strict=True):
            score = "" if own.get("score") is None else f", score {own['score']:g}"
            parts.append(f"**{_plain(label)}**{score}")
            parts.append(fenced(own["answer"], "text", limit=SHOWN_CHARS))
            if own.get("reason"):
                parts.append(fenced(f"The judge: {own['reason']}", "text", limit=SHOWN_CHARS))
    return "\n\n".join(parts) + "\n"


def _counts(result: Mapping) -> str:
    told = (f"{_plain(name.replace('_', ' '))} {count:,}" for name, count in result["counts"].items())
    return f"{', '.join(told)}."


def _shared_samples(compared: Sequence[Mapping]) -> list[list[Mapping]]:
    """Samples that all results have, one entry per result."""
    known = [{sample["id"]: sample for sample in result["samples"] if "id" in sample} for result in compared]
    return [[own[name] for own in known] for name in known[0] if all(name in own for own in known)]


def _plain(text: str) -> str:
    for sign in "\\`*_[]<>|#":
        text = str(text).replace(sign, "\\" + sign)
    return " ".join(text.split())


def difference(first: Sequence[Mapping], second: Sequence[Mapping], seed: int = 0) -> dict | None:
    """Mean score of the second less that of the first, turn by turn on the same questions, with its interval.

    Args:
        first (`Sequence[Mapping]`), second (`Sequence[Mapping]`): From [`mt_bench.grade`].
        seed (`int`, *optional*, defaults to 0): Of the interval.

    Returns:
        `dict`: A metric over the turns that both have a score for; `None` if there are none.
    """
    known = {(one["id"], one["turn"]): one["score"] for one in first if one["score"] is not None}
    pairs = [
        (one["score"] - known[one["id"], one["turn"]], one["id"])
        for one in second
        if one["score"] is not None and (one["id"], one["turn"]) in known
    ]
    if not pairs:
        return None
    return results.metric([gap for gap, _ in pairs], seed=seed, groups=[name for _, name in pairs])


def difference_in_words(a: Mapping, b: Mapping, first: Sequence[Mapping], second: Sequence[Mapping]) -> str:
    """A line for people from [`difference`]: results, then the judgments that they were made of."""
    gap = difference(first, second, seed=a["seed"])
    names = " less ".join(reversed(results.labels([a, b])))
    if gap is None:
        return f"{names}: no turn has a score in both"
    said = f"{names}: {gap['value']:+.2f} on the same {gap['n']} turns"
    if gap["low"] is None:
        return f"{said}, alike on every question"
    chance = "" if gap["low"] > 0 or gap["high"] < 0 else ", which holds 0: this may be chance"
    return f"{said}, interval {gap['low']:+.2f} to {gap['high']:+.2f}{chance}"


def notes(compared: Sequence[Mapping]) -> list[str]:
    """The notes of all results, each once, with whose they are where they are not everybody's."""
    owners: dict[str, list[str]] = {}
    for label, result in zip(results.labels(compared), compared, strict=True):
        for note in result["notes"]:
            owners.setdefault(note, []).append(label)
    servers = [result["settings"].get("judge_server") for result in compared]
    moved = [f"note: {OTHER_SERVER}"] if len(set(servers)) > 1 else []
    return moved + [
        f"note: {note}" if len(names) == len(compared) else f"note on {', '.join(names)}: {note}"
        for note, names in owners.items()
    ]
