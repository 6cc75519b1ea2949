"""What `engine: ray` costs per row: CPU of every task, bytes of every shuffle, and a whole build on this machine.

    python benchmarks/ray_build.py --rows 200000

Alpaca rows of 100 made-up words in the instruction (those of dedup.py) and 60 in the answer; the steps are `quality:
default`, near duplicates by instruction and `decontaminate` against 2,000 questions. First the functions of the tasks,
block by block in this process, so that CPU-seconds are theirs alone; then the same build by the local engine and
by Ray on two cores, for the same rows. recipes/ray/README.md works out from these what a billion rows cost.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import numpy as np
from dedup import made_up_texts
from timing import RESULTS, write_report

from instruct_builders import Alpaca, directory, on_ray, pipeline
from instruct_builders.on_ray import duplicates, meetings, near, reading, splitting, steps, work, writing
from instruct_builders.transforms import similar_sets
from instruct_builders.transforms.decontaminate import prepare, settled

QUESTIONS, BUCKETS = 2_000, 16


def write_source(path: Path, rows: int) -> None:
    texts, answers = made_up_texts(rows), made_up_texts(rows, seed=1)
    with open(path, "w", encoding="utf-8") as file:
        for text, answer in zip(texts, answers, strict=True):
            answer = " ".join(answer.split()[:60]).capitalize() + "."
            file.write(json.dumps({"instruction": text, "input": "", "output": answer}) + "\n")


class Costs(dict):
    """Name of a task -> CPU microseconds and bytes sent per row."""

    def measure(self, name: str, rows: int, function, *args):
        start = time.process_time()
        result = function(*args)
        entry = self.setdefault(name, {"rows": 0, "cpu": 0.0, "bytes": 0})
        entry["rows"] += rows
        entry["cpu"] += time.process_time() - start
        entry["bytes"] += getattr(result, "nbytes", 0)
        return result

    def per_row(self) -> dict:
        return {
            name: {
                "rows": entry["rows"],
                "cpu_microseconds_per_row": round(1e6 * entry["cpu"] / entry["rows"], 2),
                "bytes_sent_per_row": round(entry["bytes"] / entry["rows"], 1),
            }
            for name, entry in self.items()
        }


def tasks(source: Path, questions: Path, folder: str, blocks: int) -> Costs:
    """Runs every task of a build by itself, as Ray would."""
    costs = Costs()
    builder = Alpaca(str(source), format="record", cache_dir=f"{folder}/cache")
    shards = builder._split_generators(None, num_proc=blocks)[0].gen_kwargs["shards"]
    rows = work.Rows(folder, 0, dict.fromkeys(range(len(shards)), "train"))
    for block, shard in enumerate(shards):
        rows.counts[block], _ = costs.measure("read", 0, reading._read_shard, (block, shard), builder, folder)
        costs["read"]["rows"] += rows.counts[block]
    given = {"quality": {"preset": "default"}}
    rows = local(costs, rows, 1, "quality: default", given, None)
    earlier = functools.partial(duplicates._ranking, prefer="earlier", step="", judged=False)
    keys = functools.partial(duplicates._said, by="conversation", normalize=True)
    rows = exact(costs, rows, 2, keys, earlier)
    rows = similar(costs, rows, 3)
    against = {"decontaminate": {"against": [str(questions)]}}
    prepared = prepare([str(questions)])
    args = [(rows.counts[block], steps._seen, block, rows.folder, rows.stage, prepared) for block in rows.blocks]
    parts = [costs.measure("decontaminate: count", *some) for some in args]
    rows = local(costs, rows, 4, "decontaminate", against, settled(prepared, parts))
    none = {"id": [], "key": []}
    for block in rows.blocks:
        args = (block, folder, 4, rows.starts(), none, BUCKETS)
        group = costs.measure("test split: keys", rows.counts[block], splitting._keyed, *args)
        costs.measure("test split: first of each", len(group), splitting._firsts, group)
        args = (block, folder, 4, "messages", {})
        layout = costs.measure("columns in use", rows.counts[block], writing._layout, *args)
        own = {"columns": layout["columns"], "message_fields": layout["message_fields"]}
        item = (block, np.empty(0, np.int64), [("train", rows.counts[block], 0)])
        (told,) = costs.measure("convert", rows.counts[block], writing._convert, item, folder, 4, "messages", own)
        features = writing.datasets.Features.from_arrow_schema(told["schema"])
        shard = ("train", f"{block}.parquet", [block], 0, rows.counts[block])
        costs.measure("write Parquet", rows.counts[block], writing._write_shard, shard, folder, 4, folder, features)
    return costs


def local(costs: Costs, rows: work.Rows, number: int, name: str, step: dict, prepared) -> work.Rows:
    left = []
    for block in rows.blocks:
        args = (block, rows.folder, rows.stage, [(number, step, prepared)])
        left.append(costs.measure(name, rows.counts[block], steps._local_steps, *args)[0])
    return rows.after(number, left)


def rejected(costs: Costs, rows: work.Rows, number: int, name: str, verdicts) -> work.Rows:
    left = []
    for block in rows.blocks:
        args = (block, rows.folder, rows.stage, number, name, "messages", verdicts)
        left.append(costs.measure(f"{name}: reject", rows.counts[block], steps._reject, *args)[0])
    return rows.after(number, left)


def exact(costs: Costs, rows: work.Rows, number: int, keys, rank) -> work.Rows:
    name = "exact_duplicates"
    groups = []
    for block in rows.blocks:
        args = (block, rows.folder, rows.stage, rows.starts(), keys, rank, BUCKETS)
        groups.append(costs.measure(f"{name}: keys", rows.counts[block], duplicates._keyed, *args))
    group = duplicates.pa.concat_tables(groups)
    later = costs.measure(f"{name}: compare", len(group), duplicates._later, group, "same")
    by_block(later, lambda group: duplicates._saved(group, rows.folder, number))
    return rejected(costs, rows, number, name, duplicates.verdicts)


def by_block(table, function) -> None:
    for block in set(table["block"].to_pylist()):
        function(table.filter(duplicates.pc.equal(table["block"], block)))


def similar(costs: Costs, rows: work.Rows, number: int) -> work.Rows:
    name, starts, size = "near_duplicates", rows.starts(), len(rows)
    given = {"by": "instruction", "threshold": 0.7, "shingle": 3, "tokenizer": "unicode", "prefer": "score"}
    sets = functools.partial(near._sets, folder=rows.folder, stage=rows.stage, starts=starts, given=given)
    rank = functools.partial(duplicates._ranking, prefer="score", step="", judged=False)
    near._sets(0, rows.folder, rows.stage, starts, given)  # compiles the loops
    light = [costs.measure(f"{name}: sets", rows.counts[b], near._light, b, sets, rank, BUCKETS) for b in rows.blocks]
    best = costs.measure(f"{name}: equal sets", size, near._best, duplicates.pa.concat_tables(light))
    by_block(best, lambda group: near._saved(group, rows.folder, number))
    bits = min(near.LEVEL_BITS, (size * near.SHINGLES).bit_length())
    levels = np.zeros(1 << bits, np.float32)
    for block in rows.blocks:
        places, found = costs.measure(f"{name}: sample", rows.counts[block], near._sampled, block, sets, 1, bits)
        levels[places] += found
    levels = np.frexp(levels)[1].astype(np.uint8)
    args = (sets, number, levels, 0.7, np.empty(0, np.int64), BUCKETS)
    entries = [
        costs.measure(f"{name}: prefixes", rows.counts[block], meetings._prefixes, block, *args)
        for block in rows.blocks
    ]
    group = duplicates.pa.concat_tables(entries)
    met = costs.measure(f"{name}: meet", size, meetings._met, group, 0.7)
    costs[f"{name}: meet"]["bytes"] = 0  # pairs, which go to the driver
    pairs = np.stack([met["a"].to_numpy(), met["b"].to_numpy()], axis=1)
    pairs = meetings._unique(pairs[pairs[:, 0] >= 0])
    tile = np.zeros(len(pairs), np.int64)
    wanted = meetings._unique(np.concatenate([np.stack([pairs[:, side], tile], axis=1) for side in (0, 1)]))
    sent = [costs.measure(f"{name}: send sets", rows.counts[b], meetings._sent, b, sets, wanted) for b in rows.blocks]
    whole = duplicates.pa.concat_tables(sent)
    found = costs.measure(f"{name}: compare", size, meetings._alike, whole, pairs, tile, 0.7)
    costs[f"{name}: compare"]["bytes"] = 0
    costs["pairs"] = {"rows": size, "cpu": 0.0, "bytes": 16 * len(pairs)}
    print(f"{size:,} rows, {len(group):,} prefix entries, {len(pairs):,} pairs met, {len(found):,} are alike")
    kept = similar_sets._low(np.empty(0, np.int64))
    decided = dict.fromkeys(("position", "stays", "stays_id", "value"), kept)
    return rejected(costs, rows, number, name, functools.partial(near._verdicts, decided=decided))


def whole(source: Path, questions: Path, folder: Path) -> dict:
    """The same build by both engines: wall seconds, and whether the rows are the same."""
    settings = {
        "steps": [
            {"quality": {"preset": "default"}},
            "exact_duplicates",
            "near_duplicates",
            {"decontaminate": {"against": [str(questions)]}},
        ],
        "test_size": 0.01,
    }
    start = time.perf_counter()
    made = Alpaca(str(source), format="record", cache_dir=str(folder / "one"))
    built = pipeline.build(made, **settings)
    directory.write(folder / "local", built.splits, built.build, built.rejected)
    middle = time.perf_counter()
    made = Alpaca(str(source), format="record", cache_dir=str(folder / "two"))
    on_ray.build(made, folder / "ray", num_proc=2, **settings)
    end = time.perf_counter()
    same = (folder / "local" / "rejected.jsonl").read_bytes() == (folder / "ray" / "rejected.jsonl").read_bytes()
    return {
        "local_seconds": round(middle - start, 1),
        "ray_seconds": round(end - middle, 1),
        "same_rejected_lines": same,
        "rows": {name: len(rows) for name, rows in built.splits.items()},
        "rejected": len(built.rejected),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--whole_rows", type=int, default=20_000, help="of the builds by both engines; 0 for none")
    parser.add_argument("--out", type=Path, default=RESULTS / "ray_build.json")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        source, questions = folder / "rows.jsonl", folder / "questions.jsonl"
        write_source(source, args.rows)
        texts = made_up_texts(QUESTIONS, seed=2)
        questions.write_text("".join(json.dumps({"question": text}) + "\n" for text in texts))
        (folder / "work").mkdir()
        costs = tasks(source, questions, str(folder / "work"), args.blocks)
        report = {"rows": args.rows, "source_bytes": source.stat().st_size, "tasks": costs.per_row()}
        for name, entry in report["tasks"].items():
            print(
                f"{name:30} {entry['cpu_microseconds_per_row']:8.2f} us/row {entry['bytes_sent_per_row']:8.1f} B/row"
            )
        if args.whole_rows:
            write_source(source, args.whole_rows)
            report["whole"] = whole(source, questions, folder)
            print(report["whole"])
        what = "CPU of each task of engine: ray, bytes of its shuffles, and a whole build by both engines"
        write_report(args.out, what, ("ray", "pyarrow", "numpy", "numba", "datasets"), **report)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
