"""One candidate against a pool of instructions: the originals' way, and `NoveltyIndex`, in one run.

    INSTRUCT_SHARED_DATA=FOLDER python benchmarks/novelty.py --pool 52000

The peer does what Stanford Alpaca's generator does for every candidate: `rouge_score`'s LCS against each accepted
text, tokenised beforehand, in a `multiprocessing.Pool` of 16 to which the pool of texts is sent. Decisions are
compared on the peer's candidates. Texts are sentences of real prompts where the folder is given, else made up.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import random
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rouge_score import rouge_scorer
from timing import RESULTS, cpu_so_far, write_report

from instruct_builders.transforms.novelty import NoveltyIndex, rouge_tokens


def real_texts(folder: Path) -> set[str]:
    """Instructions, questions, and sentences of prompts and task definitions: 3 to 60 words."""
    whole = [row["instruction"] for row in json.loads((folder / "alpaca" / "alpaca_en_demo.json").read_text("utf-8"))]
    for path in sorted((folder / "flan" / "t0").glob("*.jsonl")):
        whole += [json.loads(line)["prompt"] for line in path.read_text(encoding="utf-8").splitlines()]
    for path in sorted((folder / "flan" / "cot").glob("*.tsv")):
        whole += [field for line in path.read_text(encoding="utf-8").splitlines() for field in line.split("\t")]
    for task in json.loads((folder / "flan" / "niv2_definitions.json").read_text(encoding="utf-8")).values():
        whole.append(task["definition"])
    texts = {part.strip() for text in whole for part in re.split(r"(?<=[.?!]) |\n", text)}
    return {text for text in texts if 3 <= len(text.split()) <= 60}


def made_up_texts(count: int) -> set[str]:
    draw = random.Random(0)
    return {" ".join(f"w{int(draw.paretovariate(0.8))}" for _ in range(draw.randint(5, 30))) for _ in range(2 * count)}


def near_copies(texts: list[str], draw: random.Random) -> list[str]:
    """Every sixth word replaced: about half of them are then still too much alike."""
    copies = []
    for text in texts:
        words = text.split()
        for _ in range(max(1, len(words) // 6)):
            words[draw.randrange(len(words))] = draw.choice(["the", "some", "new", "blue"])
        copies.append(" ".join(words))
    return copies


def original_way(pool_tokens: list[list[str]], candidate: str) -> float:
    """Highest F; seconds are CPU of all processes."""
    tokens = rouge_scorer.tokenizers.DefaultTokenizer(False).tokenize(candidate)
    with multiprocessing.Pool(16) as pool:
        scores = pool.map(functools.partial(rouge_scorer._score_lcs, tokens), pool_tokens)
    return max(score.fmeasure for score in scores)


def memory_of_index(texts: list[str]) -> float:
    """Megabytes that the index adds to a process that holds the texts already."""
    script = (
        "import json, psutil, sys\n"
        "from instruct_builders.transforms.novelty import NoveltyIndex\n"
        "texts = json.load(sys.stdin)\n"
        "before = psutil.Process().memory_info().rss\n"
        "index = NoveltyIndex()\nindex.extend(texts)\n"
        "print((psutil.Process().memory_info().rss - before) / 2**20)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(texts), capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", type=int, default=52_000)
    parser.add_argument("--candidates", type=int, default=200, help="for ours; half are near copies")
    parser.add_argument("--peer_candidates", type=int, default=4, help="for the peer: seconds each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "novelty.json")
    options = parser.parse_args()
    folder = os.environ.get("INSTRUCT_SHARED_DATA")
    texts = sorted(real_texts(Path(folder)) if folder else made_up_texts(options.pool))
    draw = random.Random(0)
    draw.shuffle(texts)
    half = options.candidates // 2
    if len(texts) < options.pool + half:
        raise SystemExit(f"only {len(texts):,} texts: give a smaller --pool")
    pool, new = texts[: options.pool], texts[options.pool : options.pool + half]
    candidates = [text for pair in zip(new, near_copies(pool[:half], draw), strict=True) for text in pair]
    pool_tokens = [rouge_tokens(text) for text in pool]
    start = cpu_so_far()
    index = NoveltyIndex()
    index.extend(pool)
    built = cpu_so_far() - start

    ours = []
    for _ in range(options.rounds):
        start = time.process_time()
        answers = [index.nearest(text) for text in candidates]
        ours.append((time.process_time() - start) / len(candidates))
    peer = []
    for text, answer in list(zip(candidates, answers, strict=True))[: options.peer_candidates]:
        start = cpu_so_far()
        score = original_way(pool_tokens, text)
        peer.append(cpu_so_far() - start)
        if (score > 0.7) != (answer[1] >= 0) or (score > 0.7 and score != answer[0]):
            raise SystemExit(f"decisions differ on {text!r}: {score} and {answer}")
    result = {
        "pool": len(pool),
        "tokens_per_text": round(statistics.mean(map(len, pool_tokens)), 1),
        "refused": sum(position >= 0 for _, position in answers),
        "candidates": len(candidates),
        "ours_ms_per_candidate": round(1000 * statistics.median(ours), 4),
        "peer_ms_per_candidate": round(1000 * statistics.median(peer), 1),
        "ratio": round(statistics.median(peer) / statistics.median(ours)),
        "index_built_cpu_seconds": round(built, 2),
        "index_megabytes": round(memory_of_index(pool), 1),
    }
    for name, value in result.items():
        print(f"{name:<24}{value:>12,}")
    write_report(
        options.out,
        "CPU per candidate: rouge_score in a Pool(16) as Stanford Alpaca's generator does (peer), NoveltyIndex (ours)",
        ["rouge_score", "rapidfuzz", "numpy"],
        command=f"python benchmarks/novelty.py --pool {options.pool} --rounds {options.rounds}",
        texts="real" if folder else "made up",
        results=result,
    )


if __name__ == "__main__":
    main()
