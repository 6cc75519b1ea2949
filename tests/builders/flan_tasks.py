"""Small FLAN tasks and their rows, written as a user would write them."""

from __future__ import annotations

import json
from pathlib import Path

ANIMALS = ("dog", "cat", "owl", "eel", "ant", "bee", "cow", "fox", "hen", "jay")


def templates(prompt: str = "Case {n}.\n{{text}}\n\n{{options_}}") -> list[dict]:
    asked = [{"input": prompt.format(n=n), "target": "{answer}"} for n in range(8)]
    return [
        *asked,
        {"input": "Give a text that is {answer}.", "target": "{text}", "inverted": True},
        {"input": "{answer}\nWhat text may that be said of?", "target": "{text}", "inverted": True},
    ]


def task(**changes) -> dict:
    found = {
        "category": "sentiment",
        "kind": "NLU",
        "metric": "accuracy",
        "license": "cc-by-4.0",
        "source": {"path": "rows.jsonl"},
        "columns": {"text": "text"},
        "answer": {"column": "label", "as": "index"},
        "options": {"texts": ["good", "bad"]},
        "templates": templates(),
        **changes,
    }
    return {key: value for key, value in found.items() if value is not None}


def rows(count: int, start: int = 0) -> list[dict]:
    return [{"text": f"Text {n} of a {ANIMALS[n % 10]}.", "label": n % 2} for n in range(start, start + count)]


def write_jsonl(path: Path, found: list) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in found))
    return path


def texts(builder, split="train") -> list[tuple[str, str]]:
    return [tuple(turn["content"] for turn in row["messages"]) for row in builder.as_dataset(split=split)]
