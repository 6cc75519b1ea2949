"""The processes of gpu_check.py: each job in its own, so that no figure has another's memory or failure in it."""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path


def enter(function: str, job: dict, result: str, log: str) -> None:
    """What a process does: its own session, its output to a file, its answer as JSON."""
    os.setsid()
    with Path(log).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import datasets
    import gpu_check_device
    import gpu_check_models
    import gpu_check_run
    import torch

    datasets.config.HF_DATASETS_CACHE = Path(log).parent / "cache"
    functions = [gpu_check_device.look, gpu_check_run.plan, gpu_check_run.run]
    functions += [gpu_check_models.sizes, gpu_check_models.make, gpu_check_models.make_rows]
    try:
        answer = {one.__name__: one for one in functions}[function](job) | {"outcome": "measured"}
    except torch.OutOfMemoryError as error:
        answer = {"outcome": "out of memory", "why": str(error).split(". ")[0]}
    except Exception as error:
        traceback.print_exc()
        answer = {"outcome": "failed", "why": f"{type(error).__name__}: {error}".splitlines()[0]}
    Path(result).write_text(json.dumps(answer), encoding="utf-8")


def start(context, folder: Path, name: str, function: str, job: dict) -> BaseProcess:
    """Begins a job; its files in `folder` bear its name."""
    words = (function, job, str(folder / f"{name}.json"), str(folder / f"{name}.log"))
    process = context.Process(target=enter, args=words, name=name, daemon=True)  # ends with the parent at the latest
    process.start()
    return process


def finish(process: BaseProcess, folder: Path, deadline: float) -> dict:
    """Waits for a job until `deadline` (of `time.monotonic`), leaves no process of it behind, and gives its answer.

    Returns:
        `dict`: What the job found, with `outcome`: `"measured"`, or else `"out of memory"`, `"failed"` or
        `"time is up"`, and `why`.
    """
    try:
        process.join(max(deadline - time.monotonic(), 0))
    finally:
        late = process.is_alive()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it started, such as compilers
        if late:
            process.kill()  # it may not have come to its own session yet
        process.join()
    answer = folder / f"{process.name}.json"
    if answer.is_file() and not late:
        return json.loads(answer.read_text(encoding="utf-8"))
    if late:
        return {"outcome": "time is up", "why": "it did not end in its share of the time"}
    return {"outcome": "failed", "why": f"the process ended with code {process.exitcode}"}
