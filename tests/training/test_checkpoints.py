"""Runs killed, signalled and corrupted on purpose: what is resumed ends in the very bytes of a straight run."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from instruct_builders.errors import ConfigError, SourceError
from trainers import checkpoints

RUNS = Path(__file__).with_name("small_runs.py")
OPTIONS = {
    "max_steps": 10,  # of 8 in an epoch: the resumed run crosses into the next
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "save_strategy": "steps",
    "save_steps": 3,
}
KINDS = {
    "full": {"options": OPTIONS},
    "packed": {"options": OPTIONS | {"packing": True, "max_length": 64, "per_device_train_batch_size": 2}},
    "lora": {"options": OPTIONS, "lora": True},
    "lora_packed": {
        "options": OPTIONS | {"packing": True, "max_length": 64, "per_device_train_batch_size": 2},
        "lora": True,
    },
}


@pytest.fixture(scope="module")
def run(tiny_llama):
    """`run(job)` -> exit code of a process of its own, negative where a signal ended it."""
    paths = os.pathsep.join([str(RUNS.parents[2]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, str(RUNS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"},
    )

    def one(output: Path, **job) -> int:
        process.stdin.write(json.dumps({"model": str(tiny_llama()), "output": str(output), **job}) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, "the process that runs the jobs died"
        return int(answer)

    yield one
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


@pytest.fixture(scope="module")
def straight(run, tmp_path_factory):
    """`straight(kind)` -> the output of an undisturbed run, made once."""
    done = {}

    def one(kind: str) -> Path:
        if kind not in done:
            done[kind] = tmp_path_factory.mktemp(kind) / "straight"
            assert run(done[kind], **KINDS[kind]) == 0
        return done[kind]

    return one


def weights(output: Path) -> str:
    """SHA-256 of the final weights."""
    (file,) = Path(output, "final").glob("*.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def losses(output: Path) -> dict[int, float]:
    return {log["step"]: log["loss"] for log in json.loads(Path(output, "history.json").read_text()) if "loss" in log}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_resumed_is_bit_identical(run, straight, tmp_path, kind):
    out = tmp_path / "run"
    assert run(out, kill=[7, signal.SIGKILL], **KINDS[kind]) == -signal.SIGKILL
    assert [path.name for path in checkpoints.found(out)] == ["checkpoint-3", "checkpoint-6"]
    assert run(out, resume=True, **KINDS[kind]) == 0
    assert weights(out) == weights(straight(kind))
    assert losses(out) == losses(straight(kind))
    assert len(set(losses(out).values())) == 10  # and it did learn something on the way


def test_sigterm_saves_exits_3_and_resumes_identically(run, straight, tmp_path):
    out = tmp_path / "run"
    assert run(out, kill=[4, signal.SIGTERM], **KINDS["lora"]) == checkpoints.STOPPED == 3
    assert [path.name for path in checkpoints.found(out)] == ["checkpoint-3", "checkpoint-5"]
    assert checkpoints.problem(out / "checkpoint-5") is None and not (out / "final").exists()
    assert run(out, resume=True, **KINDS["lora"]) == 0
    assert weights(out) == weights(straight("lora"))


def test_kills_inside_saves_never_stop_a_run_for_good(run, straight, tmp_path):
    draw, out = random.Random(0), tmp_path / "run"
    job = {"options": OPTIONS | {"save_steps": 1, "save_total_limit": 3}}
    for step, files in zip(range(2, 10), draw.sample(range(12), 8), strict=True):  # a whole save has 12 files
        assert run(out, resume=True, kill_in_save=[step, files, draw.uniform(0, 0.002)], **job) == -signal.SIGKILL
    assert run(out, resume=True, **job) == 0
    assert weights(out) == weights(straight("full"))
    assert all(checkpoints.problem(path) is None for path in checkpoints.found(out))
    assert list((out / "broken").iterdir()), "no kill hit the middle of a save"


def spoil_flipped(checkpoint: Path) -> None:
    flip(checkpoint / "model.safetensors")


def spoil_truncated(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def spoil_missing(checkpoint: Path) -> None:
    (checkpoint / "optimizer.pt").unlink()


def spoil_unfinished(checkpoint: Path) -> None:
    (checkpoint / checkpoints.MANIFEST).rename(checkpoint / f"{checkpoints.MANIFEST}.draft")


def spoil_manifest(checkpoint: Path) -> None:
    (checkpoint / checkpoints.MANIFEST).write_text("{")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_flipped, "model.safetensors has other bytes"),
        (spoil_truncated, "model.safetensors has"),
        (spoil_missing, "optimizer.pt is missing"),
        (spoil_unfinished, "no COMPLETE.json"),
        (spoil_manifest, "COMPLETE.json can't be read"),
    ],
)
def test_the_older_good_checkpoint_is_taken(straight, tmp_path, caplog, spoil, words):
    out = shutil.copytree(straight("full"), tmp_path / "run")
    spoil(out / "checkpoint-10")
    assert checkpoints.latest_verified(out) == out / "checkpoint-9"
    assert words in caplog.text and "1 checkpoints set aside" in caplog.text
    assert [path.name for path in (out / "broken").iterdir()] == ["checkpoint-10.broken"]
    shutil.copytree(out / "checkpoint-9", out / "checkpoint-10")
    spoil(out / "checkpoint-10")
    assert checkpoints.latest_verified(out) == out / "checkpoint-9"
    assert {path.name for path in (out / "broken").iterdir()} == {"checkpoint-10.broken", "checkpoint-10.broken.2"}


def test_a_flipped_bit_is_not_trained_on(run, straight, tmp_path):
    out = shutil.copytree(straight("full"), tmp_path / "run")
    shutil.rmtree(out / "final")
    flip(out / "checkpoint-10" / "optimizer.pt")
    flip(out / "checkpoint-9" / "rng_state.pth")
    assert run(out, resume=True, **KINDS["full"]) == 0  # from step 6
    assert weights(out) == weights(straight("full"))


def test_no_checkpoint_that_verifies_means_the_beginning(straight, tmp_path, caplog):
    out = shutil.copytree(straight("full"), tmp_path / "run")
    for checkpoint in checkpoints.found(out):
        spoil_missing(checkpoint)
    assert checkpoints.latest_verified(out) is None
    assert "4 checkpoints set aside" in caplog.text and "none verifies" in caplog.text
    assert checkpoints.latest_verified(tmp_path / "nothing") is None


def test_a_half_deleted_older_checkpoint_is_set_aside_too(straight, tmp_path, caplog):
    out = shutil.copytree(straight("full"), tmp_path / "run")
    spoil_missing(out / "checkpoint-6")
    assert checkpoints.latest_verified(out) == out / "checkpoint-10"
    assert [path.name for path in checkpoints.found(out)] == ["checkpoint-3", "checkpoint-9", "checkpoint-10"]
    assert "1 checkpoints set aside" in caplog.text


def test_a_checkpoint_without_an_optimizer_does_not_count(straight, tmp_path):
    out = shutil.copytree(straight("full"), tmp_path / "run")
    spoil_missing(out / "checkpoint-10")
    checkpoints.write_manifest(out / "checkpoint-10", 10)  # as save_only_model would leave it
    assert "no optimizer" in checkpoints.problem(out / "checkpoint-10")


@pytest.fixture
def trainer(straight, tiny_llama, tmp_path):
    """`trainer(**options)` -> a trainer on a copy of the straight run's output."""
    sys.path.insert(0, str(RUNS.parent))
    import small_runs

    sys.path.pop(0)
    out = shutil.copytree(straight("full"), tmp_path / "run")
    return lambda seed=0, **options: small_runs.make_trainer(tiny_llama(), out, seed=seed, **OPTIONS | options)


CHANGES = {
    "batch": ({"per_device_train_batch_size": 2}, "per_device_train_batch_size: was 4, now 2"),
    "accumulation": ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps: was 1, now 2"),
    "seed": ({"data_seed": 3}, "data_seed: was None, now 3"),
    "rows": ({"seed": 1}, "dataset: was "),
    "number": ({"number": 31}, "rows: was 32, now 31"),
    "schedule": ({"learning_rate": 1e-3}, "learning_rate: was 0.01, now 0.001"),
    "grouped": ({"train_sampling_strategy": "group_by_length"}, "group_by_length: "),
    "skip": ({"ignore_data_skip": True}, "ignore_data_skip: "),
    "weights only": ({"save_only_model": True}, "save_only_model: "),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_run_is_not_resumed_unless_asked_for(trainer, change, caplog):
    options, words = CHANGES[change]
    changed = trainer(**options)
    with pytest.raises(ConfigError, match=words) as error:
        changed.train(resume_from_checkpoint=True)
    assert "allow_changed" in str(error.value)
    assert changed.state.global_step == 0
    taken = checkpoints.begin(changed, True, allow_changed=True)
    assert taken.endswith("checkpoint-10")
    assert words in caplog.text


def test_every_difference_is_named(trainer):
    with pytest.raises(ConfigError) as error:
        trainer(seed=1, learning_rate=1e-3, optim="sgd", max_steps=12).train(resume_from_checkpoint=True)
    for word in ("dataset", "learning_rate", "optim: was adamw_torch_fused, now sgd", "max_steps: was 10, now 12"):
        assert word in str(error.value)


def test_other_versions_and_another_tokenizer_are_differences(trainer):
    ours = trainer()
    now = checkpoints.facts(ours)
    assert now == checkpoints.facts(ours)
    ours.processing_class.add_tokens(["<new>"])
    ours.processing_class.chat_template = "{{ messages }}"
    named = [line.split(":")[0] for line in checkpoints.differences(now, checkpoints.facts(ours))]
    assert named == ["chat_template", "tokenizer"]
    older = now | {"version of torch": "2.0.0"}
    assert checkpoints.differences(older, now)[0].startswith("version of torch: was 2.0.0, now ")


def test_old_checkpoints_are_not_written_over(trainer):
    with pytest.raises(ConfigError, match=r"holds checkpoint-10 of an earlier run\. Set resume_from_checkpoint"):
        trainer().train()


def test_one_checkpoint_is_not_enough(trainer):
    with pytest.raises(ConfigError, match="save_total_limit: 1"):
        trainer(save_total_limit=1).train(resume_from_checkpoint=True)


def test_a_named_checkpoint_is_taken_or_refused(trainer):
    ours = trainer()
    here = Path(ours.args.output_dir)
    assert checkpoints.begin(ours, str(here / "checkpoint-6")) == str(here / "checkpoint-6")
    assert checkpoints.begin(ours, "true") == str(here / "checkpoint-10")  # as the YAML has it
    spoil_flipped(here / "checkpoint-6")
    with pytest.raises(SourceError, match=r"model\.safetensors has other bytes"):
        checkpoints.begin(ours, str(here / "checkpoint-6"))
    assert (here / "checkpoint-6").is_dir()  # named by a person: not moved


def test_an_adapter_comes_back_to_its_own_base(tiny_llama, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama()).requires_grad_(False)
    before = checkpoints._frozen(model)
    assert before == checkpoints._frozen(model)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] += 1
    assert before != checkpoints._frozen(model)
