"""Questions of several turns -> a model's answers -> a judge's scores, or choices between two models, with intervals.

python recipes/mt_bench.py --config recipes/mt_bench/mtbench_single.yaml --model MODEL --judge_model JUDGE
python recipes/mt_bench.py --config recipes/mt_bench/mtbench_trial.yaml --demo
python recipes/mt_bench.py --compare OUT_A OUT_B
"""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import arguments
from mt_bench_arguments import MtBenchArguments, check

from instruct_builders.errors import ConfigError, Stopped
from instruct_builders.generate import account
from instruct_builders.generate.engine import Engine
from trainers.evaluation import answer_files, benchmark, mt_bench, question_sets, results, side_by_side

COMPARISON = "mt_bench_comparison"  # where --compare writes without output_dir


def read_arguments(argv: list[str] | None = None) -> MtBenchArguments:
    return arguments.parse((MtBenchArguments,), argv)[0]


def main(argv: list[str] | None = None) -> int:
    args = read_arguments(argv)
    try:
        return compare(args) if args.compare else run(args)
    except Stopped as stopped:
        print(f"not complete: {stopped} Every reply is kept; the same command goes on.", file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:  # before an engine listens for it, after it, or a second time
        print("interrupted: the same command goes on from what is in the journals.", file=sys.stderr)
        return 130


def run(args: MtBenchArguments) -> int:
    check(args)
    names = ("references", "corrected_references", "require_references", "temperatures", "categories", "limit")
    asked = question_sets.load(args.questions, **{name: getattr(args, name) for name in names})
    print(f"questions: {asked.data['rows']} of {asked.data['name']}, two turns each")
    print(mt_bench.references_in_words(asked.references))
    how = {"max_tokens": args.max_tokens, "temperatures": benchmark.temperatures(asked)}
    baseline = answer_files.read(args.baseline, asked, how) if args.baseline else None
    if benchmark.key_is_withheld(args):
        print(f"OPENAI_API_KEY is for the judge and not sent to {args.base_url}; that server gets CANDIDATE_API_KEY")
    engine, model = benchmark.candidate(args)
    rows = benchmark.answer(args, engine, asked, model)
    show_run("answers", engine)
    print(f"{mt_bench.answers_in_words(rows)}; in {args.output_dir}/{answer_files.ROWS}")
    if args.judging == "none":
        return 0
    judge = benchmark.judge(args)
    if warning := benchmark.family_warning(args, judge[1]["model"], model, baseline and baseline[1]):
        print(f"warning: {warning}", file=sys.stderr)
    result = benchmark.judged(args, judge, asked, rows, model, baseline, datetime.date.today().isoformat())
    show_run("judge", judge[0])
    return show(result, args)


def show_run(what: str, engine: Engine) -> None:
    print(f"{what}: {account.in_words(engine)}")


def show(result: dict, args: MtBenchArguments) -> int:
    """Prints a result; gives the exit code: 3 where more is missing than is allowed."""
    print(f"\n{result['name']}\n{results.table([result])}")
    print("counts: " + ", ".join(f"{name} {count:,}" for name, count in result["counts"].items()))
    print("\n".join(side_by_side.notes([result])))
    missing = result["counts"]["missing"] / result["counts"]["turns"]
    if missing <= args.max_missing:
        return 0
    print(
        f"not complete: {missing:.1%} of the verdicts are missing, and max_missing allows {args.max_missing:.1%}. The "
        "same command asks again for those that no server answered; raise max_retries for the others.",
        file=sys.stderr,
    )
    return 3


def compare(args: MtBenchArguments) -> int:
    """Sets finished runs side by side: table, radar picture and sample answers."""
    if len(args.compare) < 2:
        raise ConfigError("--compare needs two or more runs: --compare OUT_A OUT_B.")
    found = [results.read(path) for path in args.compare]
    for other in found[1:]:
        results.comparable(found[0], other)
    print(f"{found[0]['name']}\n{results.table(found)}")
    for path, other in zip(args.compare[1:], found[1:], strict=True):
        files = [Path(one) / benchmark.JUDGMENTS for one in (args.compare[0], path)]
        if all(file.is_file() for file in files):  # given as folders: far surer than two separate intervals
            judged = [answer_files.read_rows(file) for file in files]
            print(side_by_side.difference_in_words(found[0], other, *judged))
    print("\n".join(side_by_side.notes(found)))
    picture, page = side_by_side.write(found, Path(args.output_dir or COMPARISON))
    if picture is None:
        print("no radar picture: pip install instruct-builders[report] brings matplotlib")
    print(f"wrote {page}" + (f" and {picture}" if picture else ""))
    return 0


if __name__ == "__main__":
    arguments.run(main)
