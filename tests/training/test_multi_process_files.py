"""The files in recipes/accelerate as accelerate itself, bash and Slurm's `srun` would take them."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "recipes" / "accelerate"
SLURM = FOLDER / "slurm.sh"
SPREAD = {"ddp": "multi_gpu", "multi_node": "multi_gpu", "fsdp2": "use_fsdp", "zero3": "use_deepspeed"}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def read(words: list[str]):
    """What `accelerate launch` makes of its arguments and the config file that they name."""
    return _validate_launch_command(launch_command_parser().parse_args(words))[0]


def commands() -> list[list[str]]:
    """Every command of the README."""
    blocks = re.findall(r"```bash\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_all_files_are_known():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*SPREAD, "cpu", "single_gpu"}
    assert {path.stem for path in FOLDER.iterdir()} - {*SPREAD, "cpu", "single_gpu"} == {"README", "slurm"}


@pytest.mark.parametrize("name", [*SPREAD, "cpu", "single_gpu"])
def test_accelerate_reads_a_file_as_it_is_meant(name):
    given = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    args = read(["--config_file", f"recipes/accelerate/{name}.yaml", "recipes/sft.py", "--config", "x.yaml"])
    for kind in ("multi_gpu", "use_fsdp", "use_deepspeed"):
        assert bool(getattr(args, kind)) == (SPREAD.get(name) == kind)
    assert (args.num_processes, args.num_machines) == (given["num_processes"], given["num_machines"])
    assert args.mixed_precision == given["mixed_precision"] and args.training_script == "recipes/sft.py"
    for key, value in {**given.get("fsdp_config", {}), **given.get("deepspeed_config", {})}.items():
        assert str(getattr(args, key)) == str(value)  # a misspelt key would have no attribute, or the default


def test_fsdp2_reaches_the_processes_as_fsdp2():
    args = read(["--config_file", "recipes/accelerate/fsdp2.yaml", "--main_process_port", "0", "recipes/sft.py"])
    environment = prepare_multi_gpu_env(args)
    assert environment["ACCELERATE_USE_FSDP"] == "true" and environment["FSDP_VERSION"] == "2"
    assert environment["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"


@pytest.mark.parametrize("command", commands(), ids=lambda words: " ".join(words)[:90])
def test_each_command_of_the_readme_names_what_there_is(command):
    while "=" in command[0]:
        name, _, value = command.pop(0).partition("=")
        assert re.search(rf"\$\{{{name}:-", SLURM.read_text(encoding="utf-8")) and (ROOT / value).is_file()
    if command[0] == "sbatch":
        assert (ROOT / command[3]).is_file()
    else:
        args = read(command[2:])
        assert (ROOT / args.training_script).is_file()
    assert (ROOT / command[command.index("--config") + 1]).is_file()


STUBS = {
    "srun": """#!/bin/bash
printf '%s\\n' "$@" > "$RECORD/given"
while [[ $1 == --* ]]; do shift; done
for node in 0 1; do SLURM_NODEID=$node "$@"; done
""",
    "scontrol": '#!/bin/bash\n[[ "$*" == "show hostnames node-[a-b]" ]] && printf "node-a\\nnode-b\\n"\n',
    "accelerate": """#!/usr/bin/env python3
import json, os, sys
said = {"words": sys.argv[1:], "patience": os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]}
open(f"{os.environ['RECORD']}/node{os.environ['SLURM_NODEID']}", "w").write(json.dumps(said))
""",
}


def run_slurm_script(tmp_path: Path, **more: str) -> subprocess.CompletedProcess:
    for name, text in STUBS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(stat.S_IRWXU)
    given = {"SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_ID": "4021234", "RECORD": str(tmp_path)}
    environment = {"PATH": os.pathsep.join([str(tmp_path), os.environ["PATH"]])} | given | more
    words = ["bash", SLURM, "--config", "a file.yaml", "--output_dir", "/shared/$out"]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)


def test_slurm_starts_one_launcher_per_node_with_its_rank(tmp_path):
    assert subprocess.run(["bash", "-n", SLURM], check=False).returncode == 0
    done = run_slurm_script(tmp_path, SLURM_GPUS_ON_NODE="8", RECIPE="recipes/flan_t5.py")
    assert done.returncode == 0, done.stderr
    srun = (tmp_path / "given").read_text().splitlines()
    assert {"--ntasks-per-node=1", "--kill-on-bad-exit=1"} <= set(srun)
    ports = set()
    for node in (0, 1):
        said = json.loads((tmp_path / f"node{node}").read_text())
        assert said["words"][0] == "launch"
        args = read(said["words"][1:])
        assert args.multi_gpu and args.config_file == "recipes/accelerate/multi_node.yaml"
        assert (args.num_machines, args.num_processes, args.machine_rank) == (2, 16, node)
        assert args.main_process_ip == "node-a" and 10_000 <= args.main_process_port < 30_000
        ports.add(args.main_process_port)
        assert args.training_script == "recipes/flan_t5.py"
        own = ["--config", "a file.yaml", "--output_dir", "/shared/$out", "--resume_from_checkpoint", "true"]
        assert args.training_script_args == own
        notice = int(re.search(r"#SBATCH --signal=TERM@(\d+)", SLURM.read_text()).group(1))
        assert int(said["patience"]) < notice  # the checkpoint is cut off by neither the launcher nor Slurm
    assert len(ports) == 1


def test_slurm_script_says_what_is_missing(tmp_path):
    done = run_slurm_script(tmp_path)
    assert done.returncode != 0 and "no GPU in this job" in done.stderr
    assert not (tmp_path / "given").exists()
