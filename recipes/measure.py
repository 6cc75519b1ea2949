"""Measures a model without a judge, or shows two side by side: one YAML is one set of measures.

    python recipes/measure.py --config recipes/measure/measure.yaml --model outputs/run --output_dir after
    python recipes/measure.py --compare before after

Every key of `MeasureArguments` is a YAML key and a flag. Each measure writes `result.json` and `rows.jsonl` into
`<output_dir>/<measure>`; `--compare` prints the differences with their intervals and a few answers, and writes them to
`<output_dir>/before_after.md`, by default into the second folder.
"""

from __future__ import annotations

import datetime
from pathlib import Path

import arguments
import terminal

from instruct_builders.errors import ConfigError
from trainers.evaluation import before_after, results
from trainers.evaluation.measures import MeasureArguments, run


def read_arguments(argv: list[str] | None = None) -> MeasureArguments:
    return arguments.parse((MeasureArguments,), argv)[0]


def main(argv: list[str] | None = None) -> None:
    args = read_arguments(argv)
    if args.compare is not None:
        return compare(args)
    terminal.show_log()
    for result in run(args, datetime.date.today().isoformat(), show=print):
        print(f"\n{result['name']} on {result['data']['name']}")
        print(results.table([result]))
        print("counts: " + ", ".join(f"{name} {number:,}" for name, number in result["counts"].items()))
        print("\n".join(result["notes"]))


def compare(args: MeasureArguments) -> None:
    if len(args.compare) != 2:
        raise ConfigError(f"compare: {len(args.compare)} folders given; two are wanted, before and after.")
    before, after = map(before_after.read, args.compare)
    found = before_after.changes(before, after, args.seed)
    told = (before_after.table(found), before_after.left_out(before, after))
    print("\n".join(filter(None, told)))
    if answers := before_after.samples(before, after, args.samples):
        print(answers)
    page = Path(args.output_dir or args.compare[1], "before_after.md")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(before_after.markdown(before, after, found, args.samples), encoding="utf-8")
    print(f"\nwrote {page}")


if __name__ == "__main__":
    arguments.run(main)
