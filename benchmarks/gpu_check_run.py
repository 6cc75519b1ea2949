"""One setting of gpu_check.py: trains for some seconds and says how fast, and in how much memory.

`ours` is what recipes/sft.py does with labelled rows; `trl` is TRL's own script with its own defaults.
"""

from __future__ import annotations

import time

import datasets
import torch
from gpu_check_models import SHAPES
from transformers import AutoTokenizer, TrainerCallback
from transformers.trainer import DEFAULT_CALLBACKS
from trl import SFTConfig
from trl.scripts import sft as trl_script

from trainers import memory, models, throughput, varlen
from trainers.sft import InstructTrainer

LOGGED, WARM = 2, 3  # steps between logs, and logs before the clock starts
FILLED = 0.75  # of the GPU's memory, by the estimate: the rest is for its error, the CUDA context and fragments
# Tokens per step and whether activations are computed again; the first that fits is taken. Recomputing costs a third
# more work that `mfu` does not count; fewer tokens than 4,096 leave a large GPU waiting.
LADDER = ((16_384, False), (8_192, False), (4_096, False), (8_192, True), (4_096, True), (2_048, True))
TINY_LADDER = ((512, False),)
WAYS = {
    "full": {},
    "LoRA": {"use_peft": True},
    "QLoRA nf4": {"use_peft": True, "load_in_4bit": True},
    "LoRA 8-bit": {"use_peft": True, "load_in_8bit": True},
}


class Measured(Exception):
    """Ends a script that would go on to save its model."""


class Meter(TrainerCallback):
    """Marks time and tokens at each log, ends training after `seconds` of them; TRL counts tokens without padding."""

    def __init__(self, device: str, seconds: float):
        self.device, self.seconds, self.marks, self.losses, self.flops = device, seconds, [], [], None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        base = getattr(model, "module", model)
        self.flops = throughput.flops(base)
        self.trained = sum(weight.numel() for weight in base.parameters() if weight.requires_grad)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs:
            return
        if self.device != "cpu":
            torch.cuda.synchronize()
        self.marks.append((time.perf_counter(), logs["num_tokens"], state.global_step))
        self.losses.append(float(logs["loss"]))
        if len(self.marks) > WARM + 1 and self.marks[-1][0] - self.marks[WARM][0] >= self.seconds:
            control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        raise Measured


def run(job: dict) -> dict:
    """Trains as `job` says and returns the figures.

    Args:
        job (`dict`): `way` of `WAYS`, `side` (`"ours"` or `"trl"`), `model`, `rows`, `output`, `device`, `seconds`,
            `squares_per_token`; for ours also `attention` and `plan`, from [`plan`].

    Returns:
        `dict`: Speed (`tokens_per_second`, `mfu`), memory (`peak_gib`, for ours also `estimated_gib` and
        `estimate_error`), and what was run.
    """
    meter, cpu = Meter(job["device"], job["seconds"]), job["device"] == "cpu"
    ours = job["side"] == "ours"
    begun = throughput.peak_memory(torch.device(job["device"])) if cpu else 0
    DEFAULT_CALLBACKS.append(meter)  # the one door into a script that makes its own trainer
    try:
        train_ours(job) if ours else train_trl(job)
    except Measured:
        pass
    finally:
        DEFAULT_CALLBACKS.remove(meter)
    if len(meter.marks) <= WARM + 1:
        raise RuntimeError(f"only {len(meter.marks)} logs, {WARM + 2} are needed; more --rows or more time")
    (start, before, first), (end, after, last) = meter.marks[WARM], meter.marks[-1]
    speed = (after - before) / (end - start)
    peak = throughput.device_peak(torch.device(job["device"]))
    work = meter.flops[0] + meter.flops[1] * job["squares_per_token"]
    used = throughput.peak_memory(torch.device(job["device"])) - begun
    found = {
        "tokens_per_second": round(speed, 1),
        "mfu": round(speed * work / peak, 4) if peak else None,
        "peak_gib": round(used / 2**30, 3),
        "steps": last - first,
        "tokens": int(after - before),
        "seconds": round(end - start, 2),
        "trained_weights": meter.trained,
        "first_loss": meter.losses[0],
        "last_loss": meter.losses[-1],
    }
    if ours:
        estimated = job["plan"]["bytes"]
        error = None if cpu else round(estimated / used - 1, 4)  # a CPU's figure is of the process, Python and all
        found |= {"estimated_gib": round(estimated / 2**30, 3), "estimate_error": error, **job["plan"]}
        del found["bytes"]
    return found


def arguments_of(job: dict) -> models.ModelArguments:
    dtype = "float32" if job["device"] == "cpu" and job["way"] != "QLoRA nf4" else "bfloat16"
    return models.ModelArguments(
        model_name_or_path=job["model"], dtype=dtype, attn_implementation=job["attention"], **WAYS[job["way"]]
    )


def training_of(job: dict, tokens: int, recompute: bool) -> SFTConfig:
    """One packed row of `tokens` per step: device batch and bin are one and the same to a varlen kernel."""
    return SFTConfig(
        output_dir=job["output"],
        packing=True,
        max_length=tokens,
        per_device_train_batch_size=1,
        activation_checkpointing=recompute,
        logging_steps=LOGGED,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=job["device"] == "cpu",
        bf16=job["device"] != "cpu",
    )


def plan(job: dict) -> dict:
    """The first step of the ladder whose estimate fits, with that estimate: preflight's, from the config alone."""
    config, args = SHAPES[job["size"]](), arguments_of(job)
    for tokens, recompute in TINY_LADDER if job["device"] == "cpu" else LADDER:
        needed = memory.step(config, args, training_of(job, tokens, recompute), 1, tokens)
        if args.load_in_4bit or args.load_in_8bit:
            needed = memory.quantised(needed, args.load_in_8bit)
        if job["memory"] is None or needed["total"] <= FILLED * job["memory"]:
            break
    settled = {"tokens_per_step": tokens, "recomputed": recompute, "dtype": args.dtype, "attention": job["attention"]}
    return settled | {"bytes": needed["total"]}


def train_ours(job: dict) -> None:
    args, settled = arguments_of(job), job["plan"]
    rows = datasets.load_dataset(job["rows"], split="train")
    words = AutoTokenizer.from_pretrained(job["model"])
    varlen.register()
    model, _ = models.load_model(args, words, job["device"] == "cpu")
    tied = model.config.get_text_config().tie_word_embeddings
    InstructTrainer(
        model=model,
        args=training_of(job, settled["tokens_per_step"], settled["recomputed"]),
        train_dataset=rows,
        processing_class=words,
        peft_config=models.lora_config(args, tied=tied),
    ).train()


def train_trl(job: dict) -> None:
    """TRL's script as it comes; what is given says where things are, and makes it log as often as ours."""
    words = ["--model_name_or_path", job["model"], "--dataset_name", job["rows"], "--output_dir", job["output"]]
    words += ["--logging_steps", str(LOGGED), "--save_strategy", "no", "--report_to", "none", "--disable_tqdm", "True"]
    words += ["--use_cpu", "--bf16", "False"] if job["device"] == "cpu" else []
    words += [f"--{name}" for name in WAYS[job["way"]]]
    trl_script.main(*trl_script.make_parser().parse_args_and_config(args=words))
