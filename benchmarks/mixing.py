"""Mixing ten sources: drawing, streaming and writing out, against the ways that `datasets` has for it.

    python benchmarks/mixing.py

Peer and ours take turns in one process on the same memory-mapped rows; measured are CPU-seconds of this process and
its children. What is compared gives the same: drawing and streaming rows of the same sources in the same shares,
writing the same rows in the same order. The memory of drawing is measured in a process where only drawing happens.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from conversion import alpaca_rows, words
from timing import cpu_so_far, machine

from instruct_builders.mix import Mixture, Plan, Source, count_sources, draw, plan, stream, write_arrow

RESULTS = Path(__file__).parent / "results" / "mixing.json"
# Shares of the rows that the ten sources have: from a fifth to a hundredth, as the parts of real mixtures do.
SHARES = (20, 18, 15, 12, 10, 9, 7, 5, 3, 1)
BATCH = 1000


def make_sources(rows: int, folder: Path, vocabulary: list[str]) -> dict[str, datasets.Dataset]:
    """Ten memory-mapped datasets with `rows` rows together; the texts of 20,000 rows come again and again."""
    texts = alpaca_rows(20_000, vocabulary, 0)
    made = {}
    for number, share in enumerate(SHARES):
        size = rows * share // sum(SHARES)
        picked = np.random.default_rng(number).integers(0, len(texts), size)
        table = texts.take(pa.array(picked)).append_column("row", pa.array(np.arange(size)))
        path = folder / f"source{number}"
        datasets.Dataset(table).save_to_disk(str(path))
        made[f"source{number}"] = datasets.load_from_disk(str(path))
        del table
    return made


def planned(sources: dict[str, datasets.Dataset]) -> Plan:
    """Every row once, as the peer with `all_exhausted_without_replacement` gives them."""
    return plan(Mixture({name: Source(len(part)) for name, part in sources.items()}))


def spent(run: Callable[[], object]) -> float:
    gc.collect()
    before = cpu_so_far()
    result = run()
    seconds = cpu_so_far() - before
    del result
    return seconds


def rounds_of(name: str, peer: Callable, ours: Callable, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"peer": [], "ours": []}
    for number in range(rounds):
        times["peer"].append(spent(peer))
        times["ours"].append(spent(ours))
        print(
            f"  {name}, round {number + 1}: peer {times['peer'][-1]:.2f} s, ours {times['ours'][-1]:.3f} s", flush=True
        )
    return times


def summary(name: str, peer: str, rows: dict[str, int], times: dict[str, list[float]]) -> dict:
    """Medians of rows per CPU-second, and the ratio per round."""
    speeds = {who: [rows[who] / seconds for seconds in times[who]] for who in times}
    ratios = [mine / theirs for theirs, mine in zip(speeds["peer"], speeds["ours"], strict=True)]
    return {
        "path": name,
        "peer": peer,
        "peer_rows": rows["peer"],
        "ours_rows": rows["ours"],
        "peer_rows_per_cpu_second": round(statistics.median(speeds["peer"])),
        "ours_rows_per_cpu_second": round(statistics.median(speeds["ours"])),
        "ratio_median": round(statistics.median(ratios), 1),
        "ratio_low": round(min(ratios), 1),
        "ratio_high": round(max(ratios), 1),
        "peer_cpu_seconds": [round(value, 3) for value in times["peer"]],
        "ours_cpu_seconds": [round(value, 4) for value in times["ours"]],
    }


# Drawing.


def drawing(sources: dict[str, datasets.Dataset], rounds: int) -> dict:
    made = planned(sources)
    parts = [sources[name].select_columns(["row"]) for name in sorted(sources)]
    probabilities = [len(part) / made.total_size for part in parts]
    strategy = "all_exhausted_without_replacement"

    def peer() -> datasets.Dataset:
        return datasets.interleave_datasets(parts, probabilities=probabilities, seed=1, stopping_strategy=strategy)

    def ours() -> datasets.Dataset:
        return draw(made, sources, seed=1)

    assert made.drawn(count_sources(draw(made, sources, source_column="source"), "source"))
    assert len(ours()) == made.total_size
    times = rounds_of("draw", peer, ours, rounds)
    rows = {"peer": made.total_size, "ours": made.total_size}
    return summary("draw", f"interleave_datasets(probabilities, {strategy!r})", rows, times)


def memory_of_drawing(folder: Path) -> dict:
    """Growth of the resident memory of a fresh process over drawing, at its highest."""
    script = [sys.executable, __file__, "--draw-only", str(folder)]
    report = json.loads(subprocess.run(script, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    print(f"  draw, memory: {report['megabytes']:,.0f} MB for {report['rows']:,} rows", flush=True)
    return report


def draw_only(folder: Path) -> None:
    sources = {path.name: datasets.load_from_disk(str(path)) for path in sorted(folder.glob("source*"))}
    before = resident("VmRSS")
    dataset = draw(planned(sources), sources, seed=1)
    print(json.dumps({"rows": len(dataset), "megabytes": round(resident("VmHWM") - before, 1)}))


def resident(field: str) -> float:
    """Megabytes of this process in memory, now (VmRSS) or at most (VmHWM); Linux only.

    `getrusage` will not do: its maximum is inherited from the process that started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024 / 1e6


# Streaming.


def streaming(sources: dict[str, datasets.Dataset], rounds: int, peer_rows: int, form: str) -> dict:
    """Rows per second out of the stream, as Arrow batches of 1,000 or as Python rows one by one."""
    made = planned(sources)
    probabilities = [row["share"] for row in made.table]
    iterables = [sources[row["name"]].to_iterable_dataset() for row in made.table]

    def read(dataset: datasets.IterableDataset, most: int) -> int:
        rows = 0
        if form == "arrow":
            for table in dataset.with_format("arrow").iter(BATCH):
                rows += len(table)
                if rows >= most:
                    break
        else:
            for _ in dataset:
                rows += 1
                if rows >= most:
                    break
        return rows

    def peer() -> int:
        return read(datasets.interleave_datasets(iterables, probabilities=probabilities, seed=1), peer_rows)

    def ours() -> int:
        return read(stream(made, sources, seed=1), made.total_size)

    rows = {"peer": peer(), "ours": ours()}
    assert rows["ours"] == made.total_size
    times = rounds_of(f"stream as {form}", peer, ours, rounds)
    return summary(f"stream as {form}", "interleave_datasets of iterables(probabilities)", rows, times)


# Writing out.


def writing(sources: dict[str, datasets.Dataset], rounds: int, folder: Path, rows: int) -> dict:
    made = plan(Mixture({name: Source(len(part)) for name, part in sources.items()}), total_size=rows)
    mixed = draw(made, sources, seed=1)
    target = folder / "written"

    def peer() -> datasets.Dataset:
        return mixed.flatten_indices(cache_file_name=str(fresh() / "mixed.arrow"))

    def ours() -> datasets.Dataset:
        return write_arrow(mixed, fresh() / "mixed.arrow")

    def fresh() -> Path:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        return target

    # A part of them as the peer writes it, since it takes a minute for all.
    first = mixed.select(range(min(rows, 50_000))).flatten_indices(cache_file_name=str(folder / "first.arrow"))
    assert ours().select(range(len(first))).data.table.equals(first.data.table)
    del first
    times = rounds_of("write", peer, ours, rounds)
    return summary("write the mixture to disk", "flatten_indices", {"peer": rows, "ours": rows}, times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_500_000, help="of the ten sources together")
    parser.add_argument("--written-rows", type=int, default=1_000_000)
    parser.add_argument("--streamed-rows", type=int, default=50_000, help="that the peer streams; ours streams all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow-rounds", type=int, default=3, help="for paths where the peer takes a minute")
    parser.add_argument("--draw-only", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON goes")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    if options.draw_only:
        draw_only(options.draw_only)
        return
    with tempfile.TemporaryDirectory() as work:
        sources = make_sources(options.rows, Path(work), words(None))
        megabytes = round(sum(path.stat().st_size for path in Path(work).rglob("*.arrow")) / 1e6)
        print(f"{options.rows:,} rows in {len(sources)} sources, {megabytes:,} MB", flush=True)
        results = [
            drawing(sources, options.slow_rounds),
            streaming(sources, options.rounds, options.streamed_rows, "arrow"),
            streaming(sources, options.rounds, options.streamed_rows, "python rows"),
            writing(sources, options.slow_rounds, Path(work), options.written_rows),
        ]
        memory = memory_of_drawing(Path(work))
    print(f"\n{'path':<28}{'peer rows/s':>14}{'ours rows/s':>14}{'ratio':>8}   low-high")
    for result in results:
        rates = f"{result['peer_rows_per_cpu_second']:>14,}{result['ours_rows_per_cpu_second']:>14,}"
        spread = f"{result['ratio_low']:g}-{result['ratio_high']:g}"
        print(f"{result['path']:<28}{rates}{result['ratio_median']:>8}   {spread}")
    report = {
        "what": "CPU-seconds of datasets' own ways to mix (peer) and of instruct_builders.mix (ours)",
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            "datasets": datasets.__version__,
            "pyarrow": pa.__version__,
            "numpy": np.__version__,
        },
        "command": " ".join(["python benchmarks/mixing.py", *sys.argv[1:]]),
        "sources": {"rows": options.rows, "number": len(SHARES), "megabytes": megabytes},
        "memory_of_drawing": memory,
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {options.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
