"""benchmarks/gpu_check.py in its CPU form, how it judges, and that a run that hangs or dies is a line and no crash."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "benchmarks" / "results" / "gpu_check_cpu.json"
sys.path.append(str(ROOT / "benchmarks"))


def test_cpu_form_runs_both_sides_and_says_what_is_missing(tmp_path):
    out = tmp_path / "out.json"
    words = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), "--cpu", "--ways", "QLoRA nf4", "--out", out]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [str(word) for word in words], env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "The GPU figures are still missing" in done.stdout
    assert not list(tmp_path.glob("gpu_check*"))  # models of gigabytes are not left behind
    report, shipped = (json.loads(path.read_text(encoding="utf-8")) for path in (out, SHIPPED))
    assert report["device"] == "cpu" and report["gpu"] is None
    assert report["attention"]["tried"] == {"torch_varlen": "ok", "sdpa": "ok"}
    assert report["labelled"] < report["tokens"]
    ours, theirs = report["results"]
    assert (ours["side"], theirs["side"]) == ("ours", "trl")
    assert ours["outcome"] == theirs["outcome"] == "measured"
    for line in (ours, theirs):
        assert line["tokens_per_second"] == pytest.approx(line["tokens"] / line["seconds"], rel=0.02)
        assert line["mfu"] is None and line["peak_gib"] > 0 and line["first_loss"] > line["last_loss"] - 0.5
    assert theirs["trained_weights"] < ours["trained_weights"]  # TRL's script adapts attention alone, ours all layers
    assert ours["estimated_gib"] > 0 and ours["estimate_error"] is None
    # What the two differ in is in the lines; ours is a recipe that ships, its types and layout unchanged.
    assert ours["settings"].keys() == theirs["settings"].keys()
    recipe = yaml.safe_load((ROOT / "recipes" / ours["recipe"]).read_text(encoding="utf-8"))
    assert ours["settings"]["dtype"] == ours["settings"]["compute_dtype"] == recipe["dtype"] == "bfloat16"
    assert ours["settings"]["packing"] is recipe["packing"] is True
    assert ours["settings"]["recomputed"] is recipe["activation_checkpointing"] is False
    times = report["attention"]["milliseconds"]
    assert ours["settings"]["attention"] == report["attention"]["attention"] == min(times, key=times.get)
    assert theirs["settings"] | {"dtype": "float32", "compute_dtype": "float32"} == theirs["settings"]
    assert theirs["settings"] | {"rows": 8, "attention": "sdpa", "recomputed": True} == theirs["settings"]
    assert all(aim["reached"] is None for aim in report["aims"])
    assert report.keys() == shipped.keys() and {"date", "machine", "versions"} <= report.keys()
    assert [{*line} for line in report["results"]] == [{*line} for line in shipped["results"][:2]]


def line(way: str, side: str, speed: float, mfu=None, error=None, weights=1.2e9, outcome="measured") -> dict:
    found = {"way": way, "side": side, "outcome": outcome, "weights": weights}
    return found | ({"tokens_per_second": speed, "mfu": mfu, "estimate_error": error} if outcome == "measured" else {})


@pytest.mark.parametrize(
    "lines, reached",
    [
        ([line("full", "ours", 300, 0.5, -0.14), line("full", "trl", 200, 0.3)], [True, True, True]),
        ([line("full", "ours", 299, 0.44, -0.16), line("full", "trl", 200, 0.3)], [False, False, False]),
        ([line("full", "ours", 300, 0.5, 0.1, weights=5e8), line("full", "trl", 200)], [True, None, True]),
        ([line("LoRA", "ours", 9, 0.5, 0.1), line("LoRA", "trl", 0, outcome="out of memory")], [None, None, True]),
        ([line("LoRA", "ours", 0, outcome="failed")], [None, None, None]),
        # What was reached in one way is no "reached" where the other failed; a miss stays one.
        (
            [line("full", "ours", 300, 0.5, 0.1), line("full", "trl", 200), line("LoRA", "ours", 0, outcome="failed")],
            [None, True, None],
        ),
        (
            [line("full", "ours", 300, 0.5, 0.2), line("full", "trl", 290), line("LoRA", "ours", 0, outcome="failed")],
            [False, True, False],
        ),
    ],
)
def test_aims_are_judged_on_what_was_measured(lines, reached):
    import gpu_check

    found = gpu_check.judge({"results": lines, "gpu": {"memory": 1}})
    assert [aim["reached"] for aim in found] == reached


def test_the_fastest_kernel_that_works_is_taken(monkeypatch):
    """Not the first: one that works and waits, one that mixes documents, one that fails, then torch's own."""
    import gpu_check_device
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flash_attention_mask

    from trainers import varlen

    def slow(*args, **kwargs):
        time.sleep(0.05)
        return varlen.attend(*args, **kwargs)

    def mixing(*args, cu_seq_lens_q=None, **kwargs):
        return varlen.attend(*args, **kwargs)

    def broken(*args, **kwargs):
        raise RuntimeError("no kernel image is available\nfor this device")

    ways = {"slow": slow, "mixing": mixing, "broken": broken}
    for name, attend in ways.items():
        AttentionInterface.register(name, attend)
        AttentionMaskInterface.register(name, flash_attention_mask)
    monkeypatch.setattr(gpu_check_device, "candidates", lambda device: [*ways, varlen.NAME])
    monkeypatch.setattr(gpu_check_device, "TOKENS", {"cpu": 128})
    found = gpu_check_device.look({"device": "cpu"})
    assert found["attention"] == varlen.NAME
    assert found["milliseconds"]["slow"] > 50 * gpu_check_device.LAYERS and found["tried"]["slow"] == "ok"
    assert found["tried"]["broken"] == "RuntimeError: no kernel image is available"
    assert found["tried"]["mixing"].startswith("differs by") and len(found["milliseconds"]) == 2


NAMES = {
    "NVIDIA H200": 989,
    "NVIDIA GH200 480GB": 989,
    "NVIDIA H100 80GB HBM3": 989,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A10G": 70,
    "NVIDIA L40S": 362,
    "NVIDIA L4": 121,
    "NVIDIA GeForce RTX 2080": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_each_gpu_has_its_own_peak(name, monkeypatch):
    import torch

    from trainers import throughput

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    peak = throughput.device_peak(torch.device("cuda"))
    assert peak == (NAMES[name] and NAMES[name] * 1e12)


def hang(folder: str) -> None:
    os.setsid()
    child = subprocess.Popen(["sleep", "600"])
    Path(folder, "child").write_text(str(child.pid))
    time.sleep(600)


def gone(pid: int) -> bool:
    """Dead, or a zombie that only its parent's parent can collect."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_a_run_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    import gpu_check_child

    process = multiprocessing.get_context("fork").Process(target=hang, args=(str(tmp_path),), name="hung")
    process.start()
    while not (tmp_path / "child").is_file() or not (tmp_path / "child").read_text():
        time.sleep(0.01)
    found = gpu_check_child.finish(process, tmp_path, time.monotonic())
    assert found["outcome"] == "time is up" and not process.is_alive()
    child = int((tmp_path / "child").read_text())
    for _ in range(500):
        if gone(child):
            break
        time.sleep(0.01)
    assert gone(child)


def test_a_run_that_is_killed_or_runs_out_of_memory_is_a_line(tmp_path, monkeypatch):
    import gpu_check_child
    import gpu_check_run
    import torch

    def no_room(job: dict) -> dict:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has")

    fork, jobs = multiprocessing.get_context("fork"), {"killed": lambda job: os.kill(os.getpid(), 9), "full": no_room}
    found = {}
    for name, behave in jobs.items():
        monkeypatch.setattr(gpu_check_run, "run", behave)
        monkeypatch.setattr(behave, "__name__", "run")
        process = gpu_check_child.start(fork, tmp_path, name, "run", {})
        found[name] = gpu_check_child.finish(process, tmp_path, time.monotonic() + 60)
    assert found["killed"] == {"outcome": "failed", "why": "the process ended with code -9"}
    assert found["full"] == {"outcome": "out of memory", "why": "CUDA out of memory"}
