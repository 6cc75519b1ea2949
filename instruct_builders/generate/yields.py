"""What became of every candidate: counted by reason, round and operator, and written down as it happens."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np

from .filters import REASONS
from .likeness import Likeness

BINS = 20  # of the novelty histogram, from 0 to 1
POOL, DROPPED = "pool.jsonl", "dropped.jsonl"


class Yield:
    """Counts and writes down accepted and dropped candidates.

    Args:
        engine (`Engine`, *optional*): Told of each one, for its progress line.
        folder (`Path`, *optional*): Where `pool.jsonl` and `dropped.jsonl` grow, a line per candidate. Both are
            written anew by each run: the journal is what a run goes on from.
    """

    def __init__(self, engine=None, folder: Path | None = None):
        self.engine = engine
        self.counts: Counter[tuple[int, str, str]] = Counter()  # (round, operator, "accepted" or a reason)
        self.thoughts = 0  # answers that began with a model's thoughts, which were taken off
        self.files: dict[str, IO[str]] = {}
        self._open = ExitStack()  # closes each of them, also where closing the other one fails
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (POOL, DROPPED):
                file = open(folder / name, "w", encoding="utf-8", buffering=1)
                self.files[name] = self._open.enter_context(file)

    def __enter__(self) -> Yield:
        return self

    def __exit__(self, *error) -> None:
        self._open.close()

    def accept(self, line: dict, round: int = 1, operator: str = "") -> None:
        """Counts a candidate that is kept; the line goes to `pool.jsonl`."""
        self._count("accepted", POOL, line, round, operator)

    def drop(self, reason: str, line: dict, round: int = 1, operator: str = "") -> None:
        """Counts a candidate that is not kept; the line goes to `dropped.jsonl` with its reason."""
        if reason not in REASONS:
            raise KeyError(f"{reason} is no reason of generate/filters.py")
        self._count(reason, DROPPED, {"reason": reason, **line}, round, operator)

    def _count(self, outcome: str, file: str, line: dict, round: int, operator: str) -> None:
        self.counts[round, operator, outcome] += 1
        if self.engine is not None:
            self.engine.tally(None if outcome == "accepted" else outcome)
        if self.files:
            where = {"round": round} | ({"operator": operator} if operator else {})
            where |= {"generator": self.engine.model} if self.engine is not None else {}
            self.files[file].write(json.dumps({**line, **where}, ensure_ascii=False) + "\n")

    def report(self, likeness: Likeness | None = None) -> dict:
        """The yield: in all, per round, per operator, per reason, and how novelty scores are distributed."""
        rounds = sorted({key[0] for key in self.counts})
        operators = sorted({key[1] for key in self.counts} - {""})
        novelty = None
        if likeness:
            measured = {"measure": likeness.measure, "threshold": likeness.threshold}
            novelty = measured | histogram(likeness.scores)
        return {
            **self._sum(lambda key: True),
            "rounds": [{"round": number, **self._sum(lambda key, n=number: key[0] == n)} for number in rounds],
            "operators": {name: self._sum(lambda key, n=name: key[1] == n) for name in operators},
            "thoughts_removed": self.thoughts,
            "novelty": novelty,
        }

    def _sum(self, wanted) -> dict:
        chosen: Counter[str] = Counter()
        for key, count in self.counts.items():
            if wanted(key):
                chosen[key[2]] += count
        accepted = chosen.pop("accepted", 0)
        return {"candidates": accepted + chosen.total(), "accepted": accepted, "dropped": dict(sorted(chosen.items()))}


def histogram(scores: list[float]) -> dict:
    """Edges and counts of the scores between 0 and 1."""
    counts, edges = np.histogram(np.asarray(scores), bins=BINS, range=(0.0, 1.0))
    return {"edges": [round(float(edge), 3) for edge in edges], "counts": counts.tolist()}


def table(report: dict) -> str:
    """The yield report as lines of text."""
    rows = [("", report)]
    rows += [(f"round {entry['round']}", entry) for entry in report["rounds"]] if len(report["rounds"]) > 1 else []
    rows += list(report["operators"].items())
    lines = []
    for name, entry in rows:
        share = entry["accepted"] / max(entry["candidates"], 1)
        why = ", ".join(f"{reason} {count:,}" for reason, count in entry["dropped"].items()) or "none"
        head = f"{name or 'in all'}: {entry['candidates']:,} candidates, {entry['accepted']:,} kept ({share:.0%})"
        lines.append(f"{head}; dropped: {why}")
    if report["thoughts_removed"]:
        lines.append(f"thoughts (<think>) taken off {report['thoughts_removed']:,} answers")
    return "\n".join(lines)
