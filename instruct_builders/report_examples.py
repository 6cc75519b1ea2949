"""The texts that a dataset's report shows: sample rows, rejected rows and duplicates, each cut to a bounded length."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import escape

from . import report_numbers
from .page import readable
from .records import REASONS, one_array

ROWS = 200  # sample rows
TURNS = 8  # of a sample row
TEXT = 1200  # characters of a sample row, over its turns
EXAMPLES = 5  # rejected rows per reason, and clusters of duplicates
QUOTE = 500  # characters of each
COPIES = 4  # duplicates shown of a cluster


def cut(text: str, limit: int) -> dict:
    """A text's beginning as the page shows it, and how many characters are missing.

    What can't be seen is written out as its number; a text full of it is cut further, so that the page stays small.
    """
    kept = min(len(text), limit)
    shown = readable(text[:kept])
    while len(escape(shown)) > 2 * limit:
        kept //= 2
        shown = readable(text[:kept])
    return {"text": shown, "hidden": len(text) - kept}


def sample_rows(table: pa.Table, format: str, seed: int) -> list[dict]:
    """Some of the rows of [`report_numbers.rows_of`], drawn with a seed, in their order.

    Returns:
        `list[dict]`: `row` (its number in its split), `split`, `task`, `source`, `words` (of its answers), `turns`
        (`role`, and what [`cut`] makes of the text) and `more_turns`.
    """
    firsts = {name: pc.index(table["split"], name).as_py() for name in pc.unique(table["split"]).to_pylist()}
    numbered = table.append_column("row", pa.array(range(len(table)), pa.int64()))
    chosen = report_numbers.seeded(numbered, ROWS, seed)
    records = report_numbers.as_records(chosen, format)
    words = report_numbers.answers(records).tolist()
    rows = records.append_column("row", chosen["row"]).to_pylist()
    return [_row(row, count, firsts[row["split"]]) for row, count in zip(rows, words, strict=True)]


def _row(row: Mapping, words: int, first: int) -> dict:
    messages, left = row["messages"] or [], TEXT
    turns = []
    for position, message in enumerate(messages[:TURNS]):
        text = message["content"] or _calls(message)
        if row["context"] and position == next((n for n, one in enumerate(messages) if one["role"] == "user"), -1):
            text = f"{text}\n\n{row['context']}"
        # A long question must leave room for its answer.
        turn = cut(text, max(left // 2 if position + 1 < len(messages) else left, 80))
        left -= len(text) - turn["hidden"]
        turns.append({"role": cut(message["role"] or "", 20)["text"], **turn})
    named = {key: cut(row[key] or "", 120)["text"] for key in ("task", "source")}
    more = {"words": words, "turns": turns, "more_turns": len(messages) - len(turns)}
    return {"row": row["row"] - first, "split": row["split"], **named, **more}


def _calls(message: Mapping) -> str:
    calls = message.get("tool_calls")
    return calls if isinstance(calls, str) else json.dumps(calls, ensure_ascii=False) if calls else ""


def rejected_rows(rejected: Iterable[dict]) -> dict[str, dict]:
    """Reason -> `meaning`, `rows` and the first few `examples`, the commonest reason first."""
    found: dict[str, list[dict]] = {}
    for line in rejected:
        found.setdefault(line["reason"], []).append(line)
    ordered = sorted(found.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    return {
        reason: {
            "meaning": REASONS.get(reason, ""),
            "rows": len(lines),
            "examples": [_example(line) for line in lines[:EXAMPLES]],
        }
        for reason, lines in ordered
    }


def _example(line: Mapping) -> dict:
    place = [f"{name} {line[name]:,}" for name in ("line", "row") if line.get(name) is not None]
    raw = line["raw"] if line["raw"] is not None else f"bytes, as base64: {line['raw_base64']}"
    shown = cut(raw, QUOTE)
    beyond = max((line.get("raw_bytes") or 0) - len(raw.encode("utf-8", "replace")), 0)  # cut when it was written
    return {
        "place": ", ".join([cut(line["file"] or "", 120)["text"], *place]),
        "stage": line["stage"],
        "field": cut(line["field"] or "", 80)["text"],
        "detail": cut(line["detail"] or "", QUOTE)["text"],
        **shown,
        "beyond": beyond,
    }


def duplicates(rejected: Iterable[dict], table: pa.Table, format: str) -> list[dict]:
    """The largest clusters of duplicates: `size`, the text of the row that went on as `kept` (`None` where it is not
    known), the reason for which it was rejected `later` (`None` where it stayed), and `copies` with `why`; `more`
    counts those that are not shown."""
    every = list(rejected)
    largest = [*report_numbers.clusters(every).items()][:EXAMPLES]
    wanted = pa.array([key[1] if key[0] == "id" else None for key, _ in largest], pa.string())
    ids = one_array(table["id"]) if "id" in table.column_names else pa.nulls(0, pa.string())
    places = pc.index_in(wanted, ids).to_pylist()
    shown = []
    for (key, lines), place in zip(largest, places, strict=True):
        kept = later = None
        if place is None and key[0] == "id":
            of_cluster = {id(line) for line in lines}
            gone = (line for line in every if line["id"] == key[1] and id(line) not in of_cluster)
            if (line := next(gone, None)) is not None:
                kept, later = cut(_said(_parsed(line["raw"])), QUOTE), line["reason"]
        elif place is not None:
            (record,) = report_numbers.as_records(table.slice(place, 1), format).to_pylist()
            kept = cut(_said(record), QUOTE)
        copies = [{**cut(_said(_parsed(line["raw"])), QUOTE), "why": line["detail"]} for line in lines[:COPIES]]
        more = {"copies": copies, "more": len(lines) - len(copies)}
        shown.append({"size": len(lines) + 1, "reason": lines[0]["reason"], "kept": kept, "later": later, **more})
    return shown


def _parsed(raw: str | None) -> dict:
    """The record in a rejected line; one that was cut when it was written shows as its text."""
    try:
        return json.loads(raw or "{}")
    except ValueError:
        return {"messages": [{"content": raw}]}


def _said(record: Mapping) -> str:
    return "\n\n".join(message.get("content") or "" for message in record.get("messages") or [])
