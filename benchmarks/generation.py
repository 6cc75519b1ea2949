"""The request engine against a local server: share of the possible rate, waste under a rate limit, memory, CPU.

    python benchmarks/generation.py --peers_python /path/to/python

The server is the scripted one with a fixed answer, in a process of its own. `--peers_python` names a Python that has
bespokelabs-curator and distilabel; a peer that can't be imported there is reported as missing. All tools send the
same prompts (1.9 kB) and get the same answer (1 kB). CPU per request is the difference between a long and a short run
of the whole process, start-up excluded that way, divided by the difference in rows; tools alternate in each round.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import importlib.metadata
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "generation.json"
ROOT = Path(__file__).resolve().parent.parent
PADDING = "word " * 370
SIGMA = 0.8  # of the log-normal latencies, around a median of 0.2 s
GOALS = {"fixed": 0.95, "lognormal": 0.92, "rate_limited_per_second": 95, "wasted": 0.10, "megabytes_at_500": 300}

CURATOR = """
import json, sys, types
base, rows, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
import tiktoken
encoding = types.SimpleNamespace(encode=lambda text, **given: list(range(len(text) // 4)))
tiktoken.encoding_for_model = tiktoken.get_encoding = lambda *given: encoding  # its file would be downloaded
from bespokelabs import curator
class Ask(curator.LLM):
    def prompt(self, row): return row["q"]
    def parse(self, row, response): return {"a": response}
limits = {"max_requests_per_minute": 10**6, "max_tokens_per_minute": 10**10, "max_concurrent_requests": 64}
ask = Ask(model_name="scripted-demo", backend="openai", generation_params={"max_tokens": 400},
          backend_params={"base_url": base, "api_key": "none", **limits})
done = ask([{"q": f"{row} " + "word " * 370} for row in range(rows)], working_dir=folder)
done = getattr(done, "dataset", done)
assert len(done) == rows
"""
DISTILABEL = """
import sys
base, rows = sys.argv[1], int(sys.argv[2])
from distilabel.models.llms import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration
if __name__ == "__main__":
    with Pipeline() as pipeline:
        data = [{"instruction": f"{row} " + "word " * 370} for row in range(rows)]
        limit = {"max_new_tokens": 400}
        llm = OpenAILLM(model="scripted-demo", base_url=base, api_key="none", generation_kwargs=limit)
        LoadDataFromDicts(data=data, batch_size=64) >> TextGeneration(llm=llm, input_batch_size=64)
    done = pipeline.run(use_cache=False)
    assert len(done["default"]["train"]) == rows
"""


def ours(base: str, rows: int, folder: str, concurrency: int) -> None:
    """One run of the engine; prints what it measured as JSON."""
    from instruct_builders.generate.engine import Engine, Request

    requests = [
        Request(({"role": "user", "content": f"{row} {PADDING}"},), {"max_tokens": 400}) for row in range(rows)
    ]
    began = time.perf_counter()

    async def main(engine: Engine) -> float:
        opened = time.perf_counter()
        answers = await asyncio.gather(*map(engine.ask, requests))
        assert all(answer.text for answer in answers)
        return time.perf_counter() - opened

    engine = Engine(base_url=base, journal=f"{folder}/run.sqlite", demo=True, max_concurrency=concurrency)
    seconds = engine.run(main)
    run = engine.account["run"]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "with_opening": time.perf_counter() - began,
                "requests": run["requests"],
                "refused": run["rate_limited"],
                "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


class Server:
    """The scripted server in its own process, for the time of a `with`."""

    def __init__(self, **flags):
        given = [
            part for name, value in {"fixed": "true", "port": 0, **flags}.items() for part in (f"--{name}", str(value))
        ]
        self.command = [sys.executable, "-m", "instruct_builders.generate.demo_server", *given]

    def __enter__(self) -> str:
        self.process = subprocess.Popen(self.command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        return self.process.stdout.readline().strip()

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait()


def our_command(base: str, rows: int, folder: str, concurrency: int) -> list[str]:
    return [sys.executable, __file__, "--child", base, str(rows), folder, str(concurrency)]


def run_ours(rows: int, concurrency: int, **flags) -> dict:
    with Server(**flags) as base, tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(our_command(base, rows, folder, concurrency), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def cpu_of(command: list[str], log: Path) -> tuple[float, float]:
    """CPU-seconds of a process with its children, and its largest resident size in MB."""
    quiet = {
        "TELEMETRY_ENABLED": "0",
        "CURATOR_DISABLE_RICH_DISPLAY": "1",
        "OMP_NUM_THREADS": "1",
        "OPENAI_API_KEY": "none",
    }
    with log.open("w") as said:
        process = subprocess.Popen(command, cwd=log.parent, stdout=said, stderr=said, env={**os.environ, **quiet})
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(log.read_text()[-2000:])
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def commands(peers_python: str | None, folder: Path) -> dict:
    """Tool -> function from (base, rows, scratch) to its command; `None` for a peer that is missing."""
    tools = {"ours": lambda base, rows, scratch: our_command(base, rows, scratch, 64)}
    for name, script in (("curator", CURATOR), ("distilabel", DISTILABEL)):
        module = {"curator": "bespokelabs.curator", "distilabel": "distilabel"}[name]
        found = (
            peers_python
            and not subprocess.run([peers_python, "-c", f"import {module}"], capture_output=True).returncode
        )
        if not found:
            print(f"{name} is missing from {peers_python}: not measured")
            tools[name] = None
            continue
        (folder / f"{name}_peer.py").write_text(script)
        path = str(folder / f"{name}_peer.py")
        tools[name] = lambda base, rows, scratch, path=path: [peers_python, path, base, str(rows), scratch]
    return tools


def cpu_per_request(peers_python: str | None, rounds: int, rows: int) -> dict:
    """Milliseconds of client CPU per request and tool, each round's and the median."""
    short, figures = rows // 8, {}
    with tempfile.TemporaryDirectory() as name, Server() as base:
        folder = Path(name)
        tools = commands(peers_python, folder)
        for number in range(rounds):
            for tool, command in tools.items():
                if command is None:
                    figures[tool] = None
                    continue
                spent = []
                for size in (short, rows):
                    scratch = folder / f"{tool}-{number}-{size}"
                    scratch.mkdir()
                    try:
                        spent.append(cpu_of(command(base, size, str(scratch)), folder / "log.txt")[0])
                    except RuntimeError as error:
                        raise SystemExit(f"{tool}: {error}") from error
                figures.setdefault(tool, []).append(1000 * (spent[1] - spent[0]) / (rows - short))
                print(f"round {number}: {tool} {figures[tool][-1]:.3f} ms of CPU per request")
    return {
        tool: values
        and {"rounds": [round(value, 3) for value in values], "median": round(statistics.median(values), 3)}
        for tool, values in figures.items()
    }


def rate_case(name: str, possible: float, rounds: int, rows: int, **flags) -> dict:
    runs = [run_ours(rows, 64, **flags) for _ in range(rounds)]
    rates = [rows / run["seconds"] for run in runs]
    share = statistics.median(rates) / possible
    print(f"{name}: {statistics.median(rates):.1f} requests/s of {possible:.1f} possible: {share:.1%}")
    return {"possible": round(possible, 1), "rounds": [round(rate, 1) for rate in rates], "share": round(share, 4)}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        base, rows, folder, concurrency = sys.argv[2:]
        return ours(base, int(rows), folder, int(concurrency))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers_python", help="a Python with bespokelabs-curator and distilabel")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=6400, help="per run of the cases with a latency")
    parser.add_argument("--cpu_rows", type=int, default=768)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    before = os.getloadavg()
    mean = 0.2 * math.exp(SIGMA**2 / 2)
    figures: dict = {
        "fixed": rate_case("0.2 s fixed, 64 at once", 64 / 0.2, given.rounds, given.rows, latency=0.2),
        "lognormal": rate_case(
            f"log-normal, mean {mean:.3f} s, 64 at once",
            64 / mean,
            given.rounds,
            given.rows,
            latency=0.2,
            latency_sigma=SIGMA,
        ),
    }
    limited = [run_ours(1200, 64, latency=0.05, rate=100, burst=100, retry_after="1") for _ in range(given.rounds)]
    figures["rate_limited"] = {
        "per_second": round(statistics.median(1200 / run["seconds"] for run in limited), 1),
        "wasted": round(statistics.median(run["refused"] / run["requests"] for run in limited), 4),
        "lost": 0,  # asserted in every run: each of the 1,200 questions has its answer
        "rounds": [[round(1200 / run["seconds"], 1), run["refused"]] for run in limited],
    }
    print("100/s allowed:", figures["rate_limited"])
    wide = [run_ours(4000, 500, latency=0.25) for _ in range(min(3, given.rounds))]
    figures["at_500"] = {
        "megabytes": round(max(run["megabytes"] for run in wide), 1),
        "per_second": round(statistics.median(4000 / run["seconds"] for run in wide), 1),
        "possible": 2000.0,
    }
    print("500 at once:", figures["at_500"])
    figures["cpu_ms_per_request"] = cpu_per_request(given.peers_python, given.rounds, given.cpu_rows)
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": {"cores": os.cpu_count(), "cpu": platform.processor() or platform.machine()},
        "load_before": [round(value, 1) for value in before],
        "load_after": [round(value, 1) for value in os.getloadavg()],
        "versions": {name: importlib.metadata.version(name) for name in ("openai", "aiohttp", "httpx2")},
        "python": platform.python_version(),
        "goals": GOALS,
        "figures": figures,
    }
    given.output.parent.mkdir(exist_ok=True)
    given.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
