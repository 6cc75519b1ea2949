"""Format conversion, disk to disk: whole Arrow tables against the same conversion row by row through `Dataset.map`.

    python benchmarks/conversion.py --rows 200000

Each round runs peer and ours once, in turn, on the same dataset on disk, into a fresh cache folder; measured are
CPU-seconds of this process and its children. Outputs are compared first, on all rows. The rows are
generated from a seed, with the lengths of real ones; the folder INSTRUCT_SHARED_DATA is used for the words if set.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
from timing import RESULTS, cpu_so_far, write_report

from instruct_builders import formats

ROUNDS = 5
ROLES = {"human": "user", "gpt": "assistant"}


# The peers: what a recipe does today, one row at a time.


def alpaca_to_messages(row: dict) -> dict:
    question = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]}


def alpaca_to_prompt_completion(row: dict) -> dict:
    prompt = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
    return {"prompt": prompt, "completion": row["output"]}


def trl_chatml(dataset: datasets.Dataset) -> datasets.Dataset:
    """As `SFTTrainer` calls it: it renames the keys and leaves the roles human and gpt as they are."""
    from trl import maybe_convert_to_chatml

    return dataset.map(maybe_convert_to_chatml, remove_columns="conversations")


def messages_per_row(dataset: datasets.Dataset) -> datasets.Dataset:
    return dataset.map(alpaca_to_messages, remove_columns=["instruction", "input", "output"])


def prompts_per_row(dataset: datasets.Dataset) -> datasets.Dataset:
    return dataset.map(alpaca_to_prompt_completion, remove_columns=["instruction", "input", "output"])


# The rows.


def words(folder: str | None) -> list[str]:
    """Words of real Alpaca answers where they are at hand, else made-up ones of the same lengths."""
    if folder:
        rows = json.loads((Path(folder) / "alpaca" / "alpaca_en_demo.json").read_text(encoding="utf-8"))
        return " ".join(row["output"] for row in rows).split()
    draw = random.Random(0)
    return ["".join(draw.choices("etaoinshrdlucmé", k=draw.randint(1, 9))) for _ in range(5000)]


def say(draw: random.Random, vocabulary: list[str], mean: int) -> str:
    size = max(1, min(4 * mean, int(draw.expovariate(1 / mean))))
    start = draw.randrange(len(vocabulary) - size) if size < len(vocabulary) else 0
    return " ".join(vocabulary[start : start + size])


def alpaca_rows(rows: int, vocabulary: list[str], seed: int) -> pa.Table:
    draw = random.Random(seed)
    columns: dict[str, list[str]] = {"instruction": [], "input": [], "output": []}
    for _ in range(rows):
        columns["instruction"].append(say(draw, vocabulary, 12))
        columns["input"].append(say(draw, vocabulary, 25) if draw.random() < 0.4 else "")  # 40% as in Alpaca
        columns["output"].append(say(draw, vocabulary, 60))
    return pa.table(columns)


def sharegpt_rows(rows: int, vocabulary: list[str], seed: int) -> pa.Table:
    draw = random.Random(seed)
    conversations = []
    for _ in range(rows):
        turns = []
        for _ in range(draw.choice([1, 1, 2, 2, 2, 4])):  # 4 turns in the mean
            turns.append({"from": "human", "value": say(draw, vocabulary, 20)})
            turns.append({"from": "gpt", "value": say(draw, vocabulary, 60)})
        conversations.append(turns)
    return pa.table({"conversations": conversations})


# The measurement.


def fresh_copy(source: Path, work: Path) -> tuple[Path, datasets.Dataset]:
    """The dataset in a folder of its own: `map` keeps its cache beside its input, and would find the last result."""
    folder = Path(tempfile.mkdtemp(dir=work))
    shutil.copytree(source, folder / "data")
    if found := list(folder.rglob("cache-*")):
        raise SystemExit(f"the source has a cached result in it: {found}")
    return folder, datasets.load_from_disk(str(folder / "data"))


def cpu_seconds(run: Callable[[datasets.Dataset], datasets.Dataset], source: Path, work: Path) -> float:
    """CPU time from the dataset on disk to the result on disk."""
    folder, dataset = fresh_copy(source, work)
    before = cpu_so_far()
    result = run(dataset)
    spent = cpu_so_far() - before
    if not result.cache_files or any(folder not in Path(file["filename"]).parents for file in result.cache_files):
        raise SystemExit(f"the result is not in the fresh folder but in {result.cache_files}")
    del dataset, result
    shutil.rmtree(folder)
    return spent


def same(peer: datasets.Dataset, ours: datasets.Dataset) -> bool:
    """Equal rows; TRL's roles are mapped first, since it leaves that undone."""
    for start in range(0, len(peer), 10_000):
        theirs, mine = (dataset[start : start + 10_000] for dataset in (peer, ours))
        for turns in theirs.get("messages", []):
            for turn in turns:
                turn["role"] = ROLES.get(turn["role"], turn["role"])
        if any(theirs[name] != mine[name] for name in theirs):
            return False
    return len(peer) == len(ours)


def compare(name: str, table: pa.Table, peer: Callable, ours: Callable, rounds: int, work: Path) -> dict:
    source = work / name.replace(" ", "_").replace(">", "")
    datasets.Dataset(table).save_to_disk(str(source))
    folder, dataset = fresh_copy(source, work)
    if not same(peer(dataset), ours(dataset)):
        raise SystemExit(f"{name}: peer and ours differ, so their speed can't be compared")
    print(f"{name}: outputs equal on {len(table):,} rows, {table.nbytes / 1e6:,.0f} MB", flush=True)
    del dataset
    shutil.rmtree(folder)
    times: dict[str, list[float]] = {"peer": [], "ours": []}
    for number in range(rounds):
        times["peer"].append(cpu_seconds(peer, source, work))
        times["ours"].append(cpu_seconds(ours, source, work))
        print(f"  round {number + 1}: peer {times['peer'][-1]:.2f} s, ours {times['ours'][-1]:.3f} s", flush=True)
    shutil.rmtree(source)
    ratios = [theirs / mine for theirs, mine in zip(times["peer"], times["ours"], strict=True)]
    return {
        "path": name,
        "rows": len(table),
        "megabytes": round(table.nbytes / 1e6, 1),
        "peer_rows_per_cpu_second": round(len(table) / statistics.median(times["peer"])),
        "ours_rows_per_cpu_second": round(len(table) / statistics.median(times["ours"])),
        "ratio_median": round(statistics.median(ratios), 1),
        "ratio_low": round(min(ratios), 1),
        "ratio_high": round(max(ratios), 1),
        "peer_cpu_seconds": [round(value, 3) for value in times["peer"]],
        "ours_cpu_seconds": [round(value, 4) for value in times["ours"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "conversion.json", help="where the JSON goes")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    vocabulary = words(os.environ.get("INSTRUCT_SHARED_DATA"))
    alpaca = alpaca_rows(options.rows, vocabulary, options.seed)
    paths = [
        (
            "sharegpt -> messages",
            sharegpt_rows(options.rows, vocabulary, options.seed),
            trl_chatml,
            lambda dataset: formats.convert(dataset, "sharegpt", "messages"),
        ),
        (
            "alpaca -> messages",
            alpaca,
            messages_per_row,
            lambda dataset: formats.convert(dataset, "alpaca", "messages"),
        ),
        (
            "alpaca -> prompt_completion",
            alpaca,
            prompts_per_row,
            lambda dataset: formats.convert(dataset, "alpaca", "prompt_completion"),
        ),
    ]
    with tempfile.TemporaryDirectory() as work:
        results = [compare(*path, options.rounds, Path(work)) for path in paths]
    print(f"\n{'path':<30}{'peer rows/s':>14}{'ours rows/s':>14}{'ratio':>8}   low-high")
    for result in results:
        rates = f"{result['peer_rows_per_cpu_second']:>14,}{result['ours_rows_per_cpu_second']:>14,}"
        spread = f"{result['ratio_low']:g}-{result['ratio_high']:g}"
        print(f"{result['path']:<30}{rates}{result['ratio_median']:>8}   {spread}")
    write_report(
        options.out,
        "CPU-seconds disk to disk, per-row Dataset.map (peer) and instruct_builders.formats.convert (ours)",
        ["datasets", "pyarrow", "trl"],
        command=f"python benchmarks/conversion.py --rows {options.rows} --rounds {options.rounds}",
        words="real" if os.environ.get("INSTRUCT_SHARED_DATA") else "generated",
        seed=options.seed,
        results=results,
    )


if __name__ == "__main__":
    main()
