"""Small training runs in processes of their own, to be killed: reads jobs from stdin, forks for each one.

The libraries are imported once for all jobs. A job is one JSON line, see `train`; `python small_runs.py FILE` runs the
one job in FILE, under torchrun for instance.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig

from trainers.sft import InstructTrainer

QUIET = {"use_cpu": True, "bf16": False, "activation_checkpointing": False, "report_to": "none", "disable_tqdm": True}


def rows(number: int = 32, seed: int = 0, longest: int = 40, vocabulary: int = 300) -> datasets.Dataset:
    """Random tokens; of each row about the first third is not supervised."""
    draw, made = random.Random(seed), []
    for _ in range(number):
        ids = [draw.randrange(3, vocabulary) for _ in range(draw.randint(8, longest))]
        start = len(ids) // 3
        made.append({"input_ids": ids, "labels": [-100] * start + ids[start:]})
    return datasets.Dataset.from_list(made)


class KillAt(TrainerCallback):
    """Sends this process a signal in the middle of training, when step `step` has begun."""

    def __init__(self, step: int, number: int):
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


def kill_in_save(trainer: InstructTrainer, step: int, files: int, delay: float) -> None:
    """A process outside kills this one `delay` seconds after the save of `step` has written `files` files."""
    save, victim = trainer._save_checkpoint, os.getpid()
    folder = Path(trainer.args.output_dir, f"checkpoint-{step}")

    def watched(*args, **kwargs):
        if trainer.state.global_step == step and os.fork() == 0:
            while not folder.is_dir() or len(os.listdir(folder)) < files:
                if os.getppid() != victim:
                    os._exit(0)
            time.sleep(delay)
            os.kill(victim, signal.SIGKILL)
            os._exit(0)
        save(*args, **kwargs)

    trainer._save_checkpoint = watched


def adapter():
    from peft import LoraConfig

    return LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")


def make_trainer(
    model, output, lora: bool = False, seed: int = 0, number: int = 32, data=None, eval_data=None, **options
):
    config = SFTConfig(output_dir=str(output), **QUIET | {"logging_steps": 1, "save_strategy": "no"} | options)
    return InstructTrainer(
        AutoModelForCausalLM.from_pretrained(model),
        config,
        rows(number, seed) if data is None else data,
        eval_data,
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=adapter() if lora else None,
    )


def train(job: dict) -> None:
    """Trains as `job` says and saves the weights in `<output>/final`.

    `job`: `model`, `output`; optional `resume`, `options` (of SFTConfig), `lora`, `kill` (step, signal), `kill_rank`
    (the one process that is killed), `kill_in_save` (step, files, seconds).
    """
    torch.set_num_threads(1)
    trainer = make_trainer(job["model"], job["output"], job.get("lora", False), **job.get("options", {}))
    if "kill" in job and job.get("kill_rank", trainer.args.process_index) == trainer.args.process_index:
        trainer.add_callback(KillAt(*job["kill"]))
    if "kill_in_save" in job:
        kill_in_save(trainer, *job["kill_in_save"])
    trainer.train(resume_from_checkpoint=job.get("resume"))
    trainer.save_model(str(Path(job["output"], "final")))
    history = [
        {key: log[key] for key in ("step", "loss", "grad_norm") if key in log} for log in trainer.state.log_history
    ]
    if trainer.is_world_process_zero():
        Path(job["output"], "history.json").write_text(json.dumps(history))


def main() -> None:
    if len(sys.argv) > 1:
        train(json.loads(Path(sys.argv[1]).read_text()))
        return
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)  # what the trainer prints is not an answer
            code = 1
            try:
                train(json.loads(line))
                code = 0
            except SystemExit as stop:
                code = stop.code
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(code)
        status = os.waitpid(child, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
