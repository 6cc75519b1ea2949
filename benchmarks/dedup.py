"""Near duplicates: `near_duplicates`, and datasketch's MinHashLSH and rensa's pipeline, in one run.

    python benchmarks/dedup.py --rows 50000 [--peers SITE_PACKAGES]

Texts of 100 made-up words with the frequencies of natural language; 5% exact copies, 10% with a few words changed.
What is a duplicate is decided by brute force on a sample: Jaccard similarity of the sets of 3-word shingles of at
least 0.7. The peers get 32 bands of 4 of their 128 permutations, with which they find nearly all of them; they stop at
candidates, `near_duplicates` verifies them, chooses which row stays and writes the reason. CPU-seconds of one process;
each round runs all of them. Memory is that of a second process.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAYON_NUM_THREADS", "1")  # rensa's; CPU-seconds are counted over all threads anyway

import numpy as np
import pyarrow as pa
from timing import RESULTS, cpu_so_far, write_report

from instruct_builders.transforms import shingles, similar_sets
from instruct_builders.transforms.near_duplicates import near_duplicates
from instruct_builders.transforms.parts import row_sets

THRESHOLD, WORDS, VOCABULARY, PERMUTATIONS, BANDS = 0.7, 100, 50_000, 128, 32
GOALS = {"datasketch": 10, "rensa": 4}


def made_up_texts(count: int, seed: int = 0) -> list[str]:
    """85% of their own, 5% copies, 10% copies with 1 to 11 of the words replaced; in random order."""
    draw = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(draw.choice(letters, draw.integers(2, 9))) for _ in range(VOCABULARY)], dtype=object)
    weights = 1 / np.arange(1, VOCABULARY + 1)
    own, same = count * 85 // 100, count * 5 // 100
    drawn = draw.choice(VOCABULARY, size=(own, WORDS), p=weights / weights.sum())
    copies = drawn[draw.integers(0, own, count - own)]
    for row in copies[same:]:
        changed = draw.integers(0, WORDS, draw.integers(1, 12))
        row[changed] = draw.integers(0, VOCABULARY, len(changed))
    rows = np.concatenate([drawn, copies])[draw.permutation(count)]
    return [" ".join(row) for row in words[rows]]


def table_of(texts: list[str]) -> pa.Table:
    turns = pa.array(texts, pa.string())
    roles = pa.repeat(pa.scalar("user"), len(texts))
    turns = pa.StructArray.from_arrays([roles, turns], names=["role", "content"])
    return pa.table({"messages": pa.ListArray.from_arrays(pa.array(np.arange(len(texts) + 1), pa.int32()), turns)})


def word_shingles(text: str) -> list[str]:
    words = text.lower().split()
    return list(map(" ".join, zip(words, words[1:], words[2:], strict=False)))


def with_datasketch(datasketch, texts: list[str]) -> set[int]:
    """Rows that have a candidate."""
    rows_of_band = PERMUTATIONS // BANDS
    index = datasketch.MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, rows_of_band))
    flagged = set()
    sets = ([shingle.encode() for shingle in set(word_shingles(text))] for text in texts)
    for row, sketch in enumerate(datasketch.MinHash.generator(sets, num_perm=PERMUTATIONS)):
        if found := index.query(sketch):
            flagged.update(found, [row])
        index.insert(row, sketch, check_duplication=False)
    return flagged


def with_rensa(rensa, texts: list[str]) -> set[int]:
    """Rows that have a candidate."""
    sketches = rensa.RMinHash.digest_matrix_from_token_sets(list(map(word_shingles, texts)), PERMUTATIONS, 42)
    index = rensa.RMinHashLSH(THRESHOLD, PERMUTATIONS, BANDS)
    return set(np.flatnonzero(index.query_duplicate_flags_matrix_one_shot(sketches)).tolist())


def our_pairs(table: pa.Table) -> set[tuple[int, int]]:
    """All pairs that the transform goes by."""
    values, offsets, _ = row_sets(table, "instruction", 3, "unicode")
    every = np.ones(table.num_rows, dtype=bool)
    pairs, _, left_out = similar_sets.similar_pairs(values, offsets, THRESHOLD, every)
    assert not left_out
    return {(min(pair), max(pair)) for pair in pairs.tolist()}


def brute_force(texts: list[str]) -> set[tuple[int, int]]:
    """All pairs by the definition: every pair that shares a shingle is counted out."""
    sets = [set(word_shingles(text)) for text in texts]
    rows_of, pairs = defaultdict(list), set()
    for row, own in enumerate(sets):
        shared = Counter(other for shingle in own for other in rows_of[shingle])
        pairs |= {
            (other, row)
            for other, count in shared.items()
            if count / (len(own) + len(sets[other]) - count) >= THRESHOLD
        }
        for shingle in own:
            rows_of[shingle].append(row)
    return pairs


def hit_rates(found: set, true: set) -> dict:
    return {
        "recall": round(len(found & true) / len(true), 4),
        "precision": round(len(found & true) / len(found), 4) if found else None,
    }


def qualities(sample: int, peers: dict) -> dict:
    texts = made_up_texts(sample, seed=1)
    true = brute_force(texts)
    rows = {row for pair in true for row in pair}
    ours = our_pairs(table_of(texts))
    result = {"rows": sample, "true_pairs": len(true), "true_rows": len(rows), "ours_pairs": hit_rates(ours, true)}
    result["ours_rows"] = hit_rates({row for pair in ours for row in pair}, rows)
    for name, function in peers.items():
        result[f"{name}_rows"] = hit_rates(function(texts), rows)
    return result


def memory(rows: int) -> dict:
    """Bytes per row that the transform needs beside the table, at its peak; in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory_of", str(rows)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def print_memory(rows: int) -> None:
    near_duplicates(table_of(made_up_texts(1000)))  # tables, imports and compiled loops are not counted per row
    table = table_of(made_up_texts(rows))
    pa.default_memory_pool().release_unused()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins here
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    near_duplicates(table)
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    extra = (peak - before) / rows
    print(json.dumps({"rows": rows, "text_bytes_per_row": table.nbytes // rows, "peak_bytes_per_row": round(extra)}))


def peers_at_hand(folder: str | None) -> dict:
    if folder:
        sys.path.append(folder)
    found = {}
    for name, function in {"datasketch": with_datasketch, "rensa": with_rensa}.items():
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            print(f"{name} is missing ({error}): pip install {name}, or --peers FOLDER; it is left out.")
            continue
        found[name] = lambda texts, module=module, function=function: function(module, texts)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sample", type=int, default=10_000, help="rows on which brute force decides")
    parser.add_argument("--memory_rows", type=int, default=200_000)
    parser.add_argument("--memory_of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--peers", help="folder with the peers' packages, where they are not installed here")
    parser.add_argument("--out", type=Path, default=RESULTS / "dedup.json")
    options = parser.parse_args()
    if options.memory_of:
        print_memory(options.memory_of)
        return
    peers = peers_at_hand(options.peers)
    texts = made_up_texts(options.rows)
    table = table_of(texts)
    rejected = near_duplicates(table.slice(0, 100)).num_rows  # compiles, where numba is there
    loops = shingles.loops()
    seconds = defaultdict(list)
    for _ in range(options.rounds):
        for name, with_loops in {"ours": loops, "ours_without_numba": None}.items():
            shingles.loops = similar_sets.loops = lambda kept=with_loops: kept
            start = cpu_so_far()
            result = near_duplicates(table)
            seconds[name].append((cpu_so_far() - start) / len(texts))
        shingles.loops = similar_sets.loops = lambda: loops
        for name, function in peers.items():
            some = texts if name == "rensa" else texts[: max(1, len(texts) // 10)]
            start = cpu_so_far()
            function(some)
            seconds[name].append((cpu_so_far() - start) / len(some))
    rejected = result.num_rows - result["rejected"].null_count
    speeds = {name: round(1 / statistics.median(values)) for name, values in seconds.items()}
    ratios = {
        f"{own}_to_{name}": round(
            statistics.median(b / a for a, b in zip(seconds[own], seconds[name], strict=True)), 1
        )
        for own in ("ours", "ours_without_numba")
        for name in peers
    }
    for name, value in [*speeds.items(), *ratios.items()]:
        print(f"{name:<36}{value:>12,}")
    for name, goal in GOALS.items():
        if name in peers:
            print(f"goal: {goal} x {name}: {'reached' if ratios[f'ours_to_{name}'] >= goal else 'NOT reached'}")
    quality = qualities(options.sample, peers)
    used = memory(options.memory_rows)
    print(json.dumps({"quality": quality, "memory": used}, indent=1))
    write_report(
        options.out,
        "Near duplicates: rows per CPU-second, recall and precision against brute force, memory",
        ["numpy", "pyarrow"],
        command=f"python benchmarks/dedup.py --rows {options.rows} --rounds {options.rounds} "
        f"--sample {options.sample} --memory_rows {options.memory_rows}",
        peers={name: importlib.metadata.version(name) for name in peers},
        numba=getattr(sys.modules.get("numba"), "__version__", None),
        results={
            "rows": options.rows,
            "rejected": rejected,
            "rows_per_cpu_second": speeds,
            "ratios": ratios,
            "goals": GOALS,
            "quality": quality,
            "memory": used,
        },
    )


if __name__ == "__main__":
    main()
