"""Each way to spread a run over processes, by `accelerate launch` with the files that ship, on two CPU processes.

From the first step to the reloaded model, and against one process with the same global batch: the curves of loss and
gradient norm are the same within float32's rounding, a relative 1e-4 at every step and 1e-5 at the first.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trainers import checkpoints, consolidate, release

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
ACCELERATE = Path(sys.executable).with_name("accelerate")
WORDS = "red green blue black white grey pink gold cyan lime teal plum rust sand navy jade".split()
STEPS = 4
LORA = "--use_peft --lora_dropout 0.0 --merge".split()  # dropout draws other numbers in each process
pytestmark = [
    pytest.mark.xdist_group("multi_process"),  # one worker: what the module sets up is dear
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # PEFT 0.21 asks for the old name
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    lines = [{"instruction": f"Say {word}.", "output": f"{word}! " * (1 + n % 5)} for n, word in enumerate(WORDS)]
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return path


def flags(model, data, output, batch: int, *more: str) -> list[str]:
    """Of recipes/sft.py: 4 steps of 4 rows, two checkpoints."""
    own = f"--model_name_or_path {model} --dataset_name {data} --output_dir {output} --chat_template alpaca --use_cpu"
    own += f" --disable_tqdm --bf16 false --per_device_train_batch_size {batch} --max_steps {STEPS} --logging_steps 1"
    own += f" --save_strategy steps --save_steps {STEPS // 2} --learning_rate 1e-2 --activation_checkpointing false"
    return [*own.split(), *more]


@pytest.fixture(scope="module")
def alone(tiny_llama, rows, tmp_path_factory):
    """`alone(*flags)` -> the output of one process, trained once for each set of flags."""
    made: dict[tuple, Path] = {}

    def train(*more: str) -> Path:
        if more not in made:
            import sft

            made[more] = tmp_path_factory.mktemp("alone") / "run"
            sft.main(flags(tiny_llama(), rows, made[more], 4, *more))
        return made[more]

    return train


def environment(**more: str) -> dict[str, str]:
    fixed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **fixed, **more}


def launch(config: str, *words) -> subprocess.CompletedProcess:
    """Two processes. Not bf16, which would hide what is compared; port 0 is any that is free."""
    command = [ACCELERATE, "launch", "--config_file", f"recipes/accelerate/{config}.yaml", "--num_processes", "2"]
    command += ["--mixed_precision", "no", "--main_process_port", "0", *words]
    done = subprocess.run(
        [str(word) for word in command], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def curve(output: Path) -> list[tuple[float, float]]:
    state = json.loads((output / f"checkpoint-{STEPS}" / "trainer_state.json").read_text(encoding="utf-8"))
    return [(log["loss"], log["grad_norm"]) for log in state["log_history"] if "loss" in log]


def assert_same_training(output: Path, one: Path) -> None:
    found, expected = curve(output), curve(one)
    assert len(found) == len(expected) == STEPS
    for step, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours == pytest.approx(theirs, rel=1e-4 if step else 1e-5)
    assert expected[-1][0] < expected[0][0]  # it learns
    for name in (f"checkpoint-{STEPS // 2}", f"checkpoint-{STEPS}"):
        assert checkpoints.problem(output / name) is None


def answers(folder: Path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)("Say red.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder)(input_ids=ids).logits


def assert_same_model(output: Path, one: Path, name: str, theirs: str | None = None) -> None:
    """The weights of both, reloaded, say the same; Adam makes much of a rounding where a gradient is near zero."""
    ours, theirs = answers(output / name), answers(one / (theirs or name))
    assert (ours - theirs).abs().max() < 1e-3 * theirs.abs().max()


def test_ddp_trains_saves_and_merges_what_one_process_does(tiny_llama, rows, alone, tmp_path):
    output = tmp_path / "run"
    done = launch("ddp", "recipes/sft.py", *flags(tiny_llama(), rows, output, 2, *LORA))
    assert done.stdout.count("saved") == 2  # the first process alone saves the adapter and the merged model
    assert_same_training(output, alone(*LORA))
    assert_same_model(output, alone(*LORA), "merged")
    assert release.merge_adapter(output / "final", tmp_path / "again") < 1e-4
    assert (answers(tmp_path / "again") == answers(output / "merged")).all()


def test_fsdp2_shards_saves_whole_weights_resumes_and_merges(tiny_llama, rows, alone, tmp_path):
    full, adapter, sharded = tmp_path / "full", tmp_path / "adapter", tmp_path / "sharded"
    first = flags(tiny_llama(), rows, full, 2)
    runs = [
        {"flags": first},
        {"flags": [*first, "--resume_from_checkpoint", "true"], "forget": str(full / f"checkpoint-{STEPS}")},
        {"flags": flags(tiny_llama(), rows, adapter, 2, *LORA)},
        {"flags": flags(tiny_llama(), rows, sharded, 2), "state_dict_type": "SHARDED_STATE_DICT"},
    ]
    (tmp_path / "runs.json").write_text(json.dumps(runs), encoding="utf-8")
    launch("fsdp2", HERE / "fsdp_on_cpu.py", tmp_path / "runs.json")
    assert (full / f"checkpoint-{STEPS}" / "pytorch_model_fsdp.bin").is_file()  # accelerate writes it where it shards
    assert_same_training(full, alone())  # the second half was resumed
    assert_same_model(full, alone(), "final")
    assert_same_training(adapter, alone(*LORA))
    assert_same_model(adapter, alone(*LORA), "merged")
    assert release.merge_adapter(adapter / "final", tmp_path / "again") < 1e-4
    # Not what fsdp2.yaml asks for, but what large runs do: checkpoints stay in the shards that each process had.
    last = sharded / f"checkpoint-{STEPS}"
    assert len(list((last / "pytorch_model_fsdp_0").glob("*.distcp"))) == 2
    assert_same_training(sharded, alone())
    assert_same_model(sharded, alone(), "final")  # whole weights all the same
    consolidate.consolidate(last, tmp_path / "whole", like=full / "final")
    assert_same_model(tmp_path, alone(), "whole", "final")


STUBS = {
    # Starts the command once per node and, with --kill-on-bad-exit, ends all when one has failed.
    "srun": """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for node in 0 1; do SLURM_NODEID=$node "$@" & done
code=0
for _ in 0 1; do wait -n || { code=$?; kill $(jobs -p) 2> /dev/null; }; done
exit $code
""",
    "scontrol": '#!/bin/bash\n[[ "$*" == "show hostnames here[1-2]" ]] && printf "127.0.0.1\\n127.0.0.1\\n"\n',
}


def free_port() -> int:
    """From 10,000 to 29,999, as slurm.sh makes them; each worker of the tests looks elsewhere."""
    for port in range(10_000 + os.getpid() % 10_000, 30_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def test_slurm_script_trains_flan_t5_on_two_nodes_as_one_process_does(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "recipes" / "quickstart")
    import flan_t5
    import tiny_t5

    tiny_t5.make(tmp_path / "t5", [*WORDS, "Say"] * 3, vocab_size=120, d_model=32, dropout_rate=0.0)
    lines = [{"prompt": f"Say {word}.", "completion": f"{word} " * (1 + n % 4)} for n, word in enumerate(WORDS)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")

    def words(output: str, batch: int) -> list[str]:
        own = (
            f"--model_name_or_path {tmp_path}/t5 --dataset_name {tmp_path}/rows.jsonl --output_dir {tmp_path}/{output}"
        )
        own += f" --use_cpu --disable_tqdm --per_device_train_batch_size {batch} --max_steps {STEPS} --logging_steps 1"
        own += f" --save_strategy steps --save_steps {STEPS // 2} --learning_rate 1e-2"
        return own.split()

    for name, text in STUBS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(stat.S_IRWXU)
    config = yaml.safe_load((ROOT / "recipes/accelerate/multi_node.yaml").read_text(encoding="utf-8"))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"mixed_precision": "no"}), encoding="utf-8")
    given = {
        "PATH": os.pathsep.join([str(tmp_path), str(ACCELERATE.parent), os.environ["PATH"]]),
        "ACCELERATE_CONFIG": str(tmp_path / "config.yaml"),
        "RECIPE": "recipes/flan_t5.py",
        "SLURM_JOB_NODELIST": "here[1-2]",
        "SLURM_GPUS_ON_NODE": "1",  # one process per node
        "SLURM_JOB_ID": str(free_port() - 10_000),
    }
    done = subprocess.run(
        ["bash", "recipes/accelerate/slurm.sh", *words("two", 2)],
        cwd=ROOT,
        env=environment(**given),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert flan_t5.main(words("one", 4)) == 0
    assert_same_training(tmp_path / "two", tmp_path / "one")
    from transformers import AutoModelForSeq2SeqLM

    models = [AutoModelForSeq2SeqLM.from_pretrained(tmp_path / name / "final") for name in ("two", "one")]
    two, one = (model.state_dict() for model in models)
    assert all((two[name] - one[name]).abs().max() < 1e-3 for name in one)


def test_a_dead_process_ends_the_run_on_every_node(tiny_llama, tmp_path):
    job = {"model": str(tiny_llama()), "options": {"max_steps": 50, "per_device_train_batch_size": 4}}
    job |= {"output": str(tmp_path / "run"), "kill": [2, signal.SIGKILL], "kill_rank": 1}
    (tmp_path / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [ACCELERATE, "launch", "--config_file", "recipes/accelerate/multi_node.yaml", "--num_processes", "2"]
    command += ["--mixed_precision", "no", "--main_process_ip", "127.0.0.1", "--main_process_port", free_port()]
    nodes = []
    for rank in (0, 1):
        words = [*command, "--machine_rank", rank, HERE / "small_runs.py", tmp_path / "job.json"]
        said = (tmp_path / f"node{rank}.log").open("w")
        nodes.append(subprocess.Popen([str(w) for w in words], cwd=ROOT, env=environment(), stdout=said, stderr=said))
        said.close()
    try:
        codes = [node.wait(timeout=400) for node in nodes]
    finally:
        for node in nodes:
            node.terminate()  # not kill: a launcher ends its processes first
    assert all(code != 0 for code in codes)
    said = [(tmp_path / f"node{rank}.log").read_text() for rank in (0, 1)]
    assert "Signal 9 (SIGKILL) received" in said[1]  # the node that lost it says why, the other that it lost the peer
    assert "Connection closed by peer" in said[0] or "Connection reset by peer" in said[0]
