"""All six rules on every chat template that TRL ships and on ours, for every shape of conversation: prints the table.

    python benchmarks/supervision_table.py [--out benchmarks/results/supervision.json]

"holds": labels that the independent checker finds right. "refused": a rule can't be met, with the reason. "raised":
the template itself raises an error. "silent error": wrong labels without a word; there must be none.
"""

from __future__ import annotations

import argparse
import collections
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path

import supervision_cases as cases_of

SIGN = {"holds": "+", "refused": "r", "raised": "e", "silent error": "X"}


def run() -> dict:
    """Outcomes per template and shape, and where TRL's markers break a rule."""
    shapes, table, reasons, disagreements = cases_of.cases(), {}, {}, {}
    for name, source in cases_of.templates().items():
        fast = cases_of.tokenizer(name, source)
        table[name] = {}
        for shape, case in shapes.items():
            status, reason, disagree = cases_of.outcome(name, fast, source, case)
            table[name][shape] = status
            if status in ("refused", "silent error"):
                why = reason.split(". Shortest")[0].removeprefix(f"chat template {name}, ")
                reasons.setdefault(name, {}).setdefault(why, []).append(shape)
            for found in disagree:
                kind = f"rule {found['rule']}: the markers {found['markers']} {found['text']!r}"
                disagreements.setdefault(name, collections.Counter())[kind] += 1
    return {"table": table, "reasons": reasons, "disagreements": disagreements}


def show(found: dict) -> None:
    """The table, one line per template and one sign per shape; then every reason once."""
    shapes = list(next(iter(found["table"].values())))
    for number, shape in enumerate(shapes, 1):
        print(f"{number:3} {shape}")
    print("\n+ holds   r refused   e the template raises an error   X silent error\n")
    totals = collections.Counter()
    for name, row in found["table"].items():
        counts = collections.Counter(row.values())
        totals += counts
        signs = "".join(SIGN[row[shape]] for shape in shapes)
        print(f"{name:38} {signs}  " + "  ".join(f"{key} {value}" for key, value in sorted(counts.items())))
    print(
        f"\n{len(found['table'])} templates x {len(shapes)} shapes: "
        + ", ".join(f"{k} {v}" for k, v in totals.items())
    )
    print("\nRefused:")
    for name, whys in found["reasons"].items():
        for why, where in whys.items():
            print(f"  {name}: {', '.join(where)}: {why}")
    print("\nWhere a template's own markers break a rule (labels follow the rule):")
    for name, kinds in found["disagreements"].items():
        print(f"  {name}: " + "; ".join(f"{kind} ({count}x)" for kind, count in kinds.items()))


def main() -> None:
    """Runs, prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "supervision.json")
    out = parser.parse_args().out
    started = time.process_time()
    found = run()
    show(found)
    silent = sum(status == "silent error" for row in found["table"].values() for status in row.values())
    out.parent.mkdir(parents=True, exist_ok=True)
    versions = {name: version(name) for name in ("transformers", "trl", "tokenizers", "jinja2")}
    seconds = round(time.process_time() - started, 1)
    where = {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu_seconds": seconds,
    }
    shapes = list(next(iter(found["table"].values())))
    table = {name: "".join(SIGN[status] for status in row.values()) for name, row in found["table"].items()}
    told = where | {"versions": versions, "signs": SIGN, "shapes": shapes, "table": table}
    told |= {"reasons": found["reasons"], "disagreements": found["disagreements"]}
    out.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"\nsilent errors: {silent}; {seconds} CPU-seconds; written to {out.name}")
    raise SystemExit(1 if silent else 0)


if __name__ == "__main__":
    main()
