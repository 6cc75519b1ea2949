"""Two processes on a CPU: the loss of one process with the same global batch, the same weights, one verified save."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainers import checkpoints

pytestmark = pytest.mark.xdist_group("parallel")  # one worker: what the module sets up is dear

RUNS = Path(__file__).with_name("small_runs.py")
ROWS = {"max_steps": 6, "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 3}


def launch(job: dict, folder: Path, processes: int) -> int:
    path = folder / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    paths = os.pathsep.join([str(RUNS.parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    done = subprocess.run(
        [*command, str(RUNS), str(path)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in done.stderr or done.returncode, done.stderr[-3000:]
    return done.returncode


def history(output: Path) -> dict[int, list[float]]:
    logs = json.loads((output / "history.json").read_text())
    return {log["step"]: [log["loss"], log["grad_norm"]] for log in logs if "loss" in log}


def weights(output: Path) -> str:
    return hashlib.sha256((output / "final" / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def two(tiny_llama, tmp_path_factory):
    """The output of two processes with a batch of 4 each."""
    folder = tmp_path_factory.mktemp("two")
    job = {"model": str(tiny_llama()), "options": ROWS | {"per_device_train_batch_size": 4}}
    assert launch(job | {"output": str(folder / "run")}, folder, 2) == 0
    return folder / "run", job


def test_two_processes_have_the_loss_of_one(two, tiny_llama, tmp_path):
    sys.path.insert(0, str(RUNS.parent))
    import small_runs

    sys.path.pop(0)
    output, _ = two
    one = small_runs.make_trainer(tiny_llama(), tmp_path, **ROWS | {"per_device_train_batch_size": 8})
    one.train()
    alone = {log["step"]: [log["loss"], log["grad_norm"]] for log in one.state.log_history if "loss" in log}
    found = history(output)
    assert found.keys() == alone.keys() == set(range(1, 7))
    for step, (loss, norm) in alone.items():
        assert found[step] == pytest.approx([loss, norm], rel=1e-4)
    assert found[1] == pytest.approx(alone[1], rel=2e-6)  # later steps add up the first one's rounding


def test_both_processes_wait_for_one_manifest(two):
    output, _ = two
    for name in ("checkpoint-3", "checkpoint-6"):
        assert checkpoints.problem(output / name) is None
        files = json.loads((output / name / checkpoints.MANIFEST).read_text())["files"]
        assert {"rng_state_0.pth", "rng_state_1.pth"} <= files.keys()


@pytest.mark.slow
def test_two_processes_stop_together_and_resume_identically(two, tmp_path):
    output, job = two
    # Each process signals itself, as Slurm signals both; torchrun reports their exit code 3 as its own failure.
    job |= {"output": str(tmp_path / "run")}
    assert launch(job | {"kill": [3, signal.SIGTERM]}, tmp_path, 2) != 0
    assert checkpoints.latest_verified(tmp_path / "run").name == "checkpoint-4"
    assert launch(job | {"resume": True}, tmp_path, 2) == 0
    assert weights(tmp_path / "run") == weights(output)
    assert history(tmp_path / "run") == history(output)
