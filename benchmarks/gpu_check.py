"""How fast this project trains on the GPU at hand, beside TRL's own script, and whether preflight knew the memory.

    python benchmarks/gpu_check.py           # at most 10 minutes on one GPU; without one its CPU form, half a minute

A full fine-tune in bfloat16, and adapters on a base in bfloat16, in NF4 and in 8 bits, of models of real shapes with
random weights (nothing is downloaded): ours is recipes/alpaca/sft_packed.yaml with the fastest attention that works
here, and TRL's script runs with its defaults on the same rows. The two differ in more than packing; `settings` of each
line says in what. Useful tokens are those that are not padding. `mfu` is what is multiplied per second
(`trainers.throughput.operations`) by the device's peak (`trainers.throughput.PEAKS`).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

import gpu_check_child as child
from timing import RESULTS, write_report

WAYS = ("full", "LoRA", "QLoRA nf4", "LoRA 8-bit")
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "triton", "flash-attn")
PACKAGES += ("flash-attn-3", "kernels", "liger-kernel")
FASTER, MFU, ERROR = 1.5, 0.45, 0.15  # the aims
LIMIT = 110  # seconds for one training run: loading 16 GB, compiling, warming up and measuring
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


def main() -> None:
    options = read_options()
    os.environ.update(OFFLINE)
    here = Path(__file__).resolve().parent
    own = [str(here), str(here.parent / "recipes"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(own)
    device = "cpu" if options.cpu or not gpu_here() else "cuda"
    if device == "cpu":
        os.environ["OMP_NUM_THREADS"] = "1"
        options.rows, options.seconds = min(options.rows, 128), min(options.seconds, 0.2)
    else:  # one GPU: with several visible both sides would spread the model over them
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    # CUDA can't be used in a forked process; without it a fork spares the imports of each.
    context = multiprocessing.get_context("forkserver" if device == "cpu" else "spawn")
    context.set_forkserver_preload(["gpu_check_device", "gpu_check_models", "gpu_check_run"])
    with tempfile.TemporaryDirectory(prefix="gpu_check") as folder:
        report = check(context, Path(folder), device, options)
    aims = judge(report)
    out = options.out or RESULTS / ("gpu_check_cpu.json" if device == "cpu" else "gpu_check.json")
    what = "useful (not padding) tokens per second and peak memory of training: ours packed, TRL's script as it comes"
    installed = [name for name in PACKAGES if any(importlib.metadata.distributions(name=name))]
    write_report(out, what, installed, aims=aims, **report)
    show(report, aims)
    sys.exit(any(line["outcome"] == "failed" for line in report["results"]))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu", action="store_true", help="the CPU form also where there is a GPU")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--minutes", type=float, default=10, help="what does not fit is skipped, and named")
    parser.add_argument("--seconds", type=float, default=12, help="of measured training, per run")
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    return parser.parse_args()


def gpu_here() -> bool:
    import torch

    return torch.cuda.is_available()


def check(context, folder: Path, device: str, options: argparse.Namespace) -> dict:
    """Everything between looking at the device and the report's figures."""
    end = time.monotonic() + 60 * options.minutes

    def ask(name: str, function: str, job: dict) -> dict:
        return child.finish(child.start(context, folder, name, function, job), folder, end)

    found = ask("device", "look", {"device": device})
    if found["outcome"] != "measured":
        raise SystemExit(f"the device can't be used: {found['why']}\n{(folder / 'device.log').read_text()[-2000:]}")
    print(f"{found['name']}: {found['attention']} (tried: {found['tried']})", flush=True)
    shapes = {} if device == "cpu" else ask("shapes", "sizes", {"memory": found["memory"]})
    size_of = {way: shapes.get("full" if way == "full" else "adapter", "tiny") for way in options.ways}
    job = {"rows": str(folder / "rows"), "number": options.rows, "seed": options.seed}
    rows = ask("rows", "make_rows", job | {"sizes": sorted(set(size_of.values()))})
    jobs = {}
    for way, size in size_of.items():
        job = {"way": way, "size": size, "model": str(folder / size), "rows": str(folder / "rows")}
        job |= {"output": str(folder / "out"), "device": device, "seconds": options.seconds}
        job |= {key: found[key] for key in ("memory", "attention")}
        jobs[way] = job | {f"{what}_per_token": rows[what] / rows["tokens"] for what in ("labelled", "squares")}
    # The estimates need no GPU: they are made while the models are.
    planning = {way: child.start(context, folder, f"plan {way}", "plan", job) for way, job in jobs.items()}
    made = {
        size: ask(f"model {size}", "make", {"size": size, "folder": str(folder / size), "device": device})
        for size in dict.fromkeys(size_of.values())
    }
    plans = {way: child.finish(process, folder, end) for way, process in planning.items()}
    results = []
    for way, job in jobs.items():
        for side in ("ours", "trl"):
            line = {"way": way, "side": side, "size": job["size"], "weights": made[job["size"]].get("parameters")}
            line |= measure(context, folder, job | {"side": side}, made[job["size"]], plans[way], end)
            results.append(line)
            print(f"{way:<12}{side:<6}{line['outcome']}  {line.get('why', '')}", flush=True)
    gpu = {key: found[key] for key in ("memory", "capability", "cuda", "peak_tflops")}
    return {
        "device": found["name"],
        "gpu": None if device == "cpu" else gpu,
        "attention": {key: found[key] for key in ("attention", "tried", "milliseconds")},
        "command": " ".join(["python", "benchmarks/gpu_check.py", *sys.argv[1:]]),
        "seed": options.seed,
        "rows": options.rows,
        "tokens": rows["tokens"],
        "labelled": rows["labelled"],
        "results": results,
    }


def measure(context, folder: Path, job: dict, made: dict, plan: dict, end: float) -> dict:
    """One training run, unless there is no model, no estimate or no time for it."""
    for what, answer in {"model": made, "estimate": plan}.items():
        if answer["outcome"] != "measured" and (what == "model" or job["side"] == "ours"):
            return {"outcome": answer["outcome"], "why": f"no {what}: {answer['why']}"}
    if (left := end - time.monotonic()) < (2 if job["device"] == "cpu" else 30):
        return {"outcome": "skipped", "why": f"{max(left, 0):.0f} s were left of --minutes"}
    name = f"{job['way']} {job['side']}"
    process = child.start(context, folder, name, "run", job | {"plan": plan})
    answer = child.finish(process, folder, min(end, time.monotonic() + LIMIT))
    if answer["outcome"] == "failed":
        print((folder / f"{name}.log").read_text()[-2000:], file=sys.stderr)
    return answer


def judge(report: dict) -> list[dict]:
    """Each aim with what was found and whether it is reached; `None` where this run can't tell: an aim that what was
    measured reaches is not reached where another way was skipped or failed."""
    lines = {(line["way"], line["side"]): line for line in report["results"] if line["outcome"] == "measured"}
    gpu = report["gpu"] is not None  # ratios of a tiny model on a CPU say nothing about one
    both = [way for way in WAYS if gpu and (way, "ours") in lines and (way, "trl") in lines]
    faster = {way: lines[way, "ours"]["tokens_per_second"] / lines[way, "trl"]["tokens_per_second"] for way in both}
    full = lines.get(("full", "ours"), {})
    used = {"full": full["mfu"]} if full.get("mfu") and full["weights"] >= 10**9 else {}
    errors = {way: line["estimate_error"] for (way, side), line in lines.items() if side == "ours"}
    errors = {way: error for way, error in errors.items() if error is not None}
    asked = {line["way"] for line in report["results"]}

    def reached(found: dict, enough: bool) -> bool | None:
        return None if not found or (enough and found.keys() != asked) else enough

    return [
        {
            "aim": f"at least {FASTER} x the useful tokens per second of TRL's script",
            "found": {way: round(ratio, 2) for way, ratio in faster.items()},
            "reached": reached(faster, min(faster.values(), default=0) >= FASTER),
        },
        {
            "aim": f"at least {MFU:.0%} of the peak in a full fine-tune in bfloat16 from 1B on",
            "found": used,
            "reached": min(used.values()) >= MFU if used else None,
        },
        {
            "aim": f"preflight's estimate of memory within {ERROR:.0%} of the peak",
            "found": errors,
            "reached": reached(errors, max(map(abs, errors.values()), default=0) <= ERROR),
        },
    ]


def show(report: dict, aims: list[dict]) -> None:
    print(f"\n{'way':<12}{'side':<6}{'size':<6}{'useful tok/s':>13}{'mfu':>8}{'peak GiB':>10}{'estimated':>11}")
    for line in report["results"]:
        figures = [line.get(key) for key in ("tokens_per_second", "mfu", "peak_gib", "estimated_gib")]
        speed, mfu, peak, estimated = ("-" if value is None else f"{value:,}" for value in figures)
        name = f"{line['way']:<12}{line['side']:<6}{line['size']:<6}"
        how = said(line["settings"]) if "settings" in line else ""
        row = f"{name}{speed:>13}{mfu:>8}{peak:>10}{estimated:>11}  {how}"
        print(row if speed != "-" else f"{name}  {line['outcome']}")
    for aim in aims:
        outcome = {True: "reached", False: "NOT reached", None: "not measured"}[aim["reached"]]
        print(f"{outcome}: {aim['aim']}  {aim['found'] or ''}")
    if report["gpu"] is None:
        print("No GPU here: this was the CPU form on a tiny model. The GPU figures are still missing.")
    for line in report["results"]:
        if line["outcome"] != "measured":
            print(f"{line['way']} {line['side']}: {line['outcome']}: {line['why']}")


def said(settings: dict) -> str:
    """How a line was trained, in a few words."""
    rows = f"{settings['rows']} rows" if not settings["packing"] else f"packed to {settings['max_length']:,}"
    again = ", recomputed" if settings["recomputed"] else ""
    return f"{settings['dtype']}, {rows}, {settings['attention']}{again}"


if __name__ == "__main__":
    main()
