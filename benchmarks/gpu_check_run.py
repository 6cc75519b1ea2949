"""One setting of gpu_check.py: trains for some seconds and says how fast, and in how much memory.

`ours` is what recipes/sft.py does with recipes/alpaca/sft_packed.yaml, from the labelled rows on; `trl` is TRL's own
script with its own defaults.
"""

from __future__ import annotations

import operator
import time
from pathlib import Path

import datasets
import sft
import torch
from gpu_check_models import SHAPES
from transformers import AutoTokenizer, TrainerCallback
from transformers.trainer import DEFAULT_CALLBACKS
from trl import SFTConfig
from trl.scripts import sft as trl_script

from trainers import memory, models, throughput
from trainers.sft import InstructTrainer

RECIPES = Path(__file__).resolve().parents[1] / "recipes"  # gpu_check.py puts it on the path, for `sft`
RECIPE = "alpaca/sft_packed.yaml"
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
        self.device, self.seconds, self.marks, self.losses = device, seconds, [], []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        base = getattr(model, "module", model)
        self.operations, self.settings = throughput.operations(base), settings_of(args, base)
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
            `labelled_per_token`, `squares_per_token`; for ours also `attention` and `plan`, from [`plan`].

    Returns:
        `dict`: Speed (`tokens_per_second`, `mfu`), memory (`peak_gib`, for ours also `estimated_gib` and
        `estimate_error`), and what was run (`settings`, see [`settings_of`]).
    """
    meter, cpu = Meter(job["device"], job["seconds"]), job["device"] == "cpu"
    mine = job["side"] == "ours"
    begun = throughput.peak_memory(torch.device(job["device"])) if cpu else 0
    DEFAULT_CALLBACKS.append(meter)  # the one door into a script that makes its own trainer
    try:
        train_ours(job) if mine else train_trl(job)
    except Measured:
        pass
    finally:
        DEFAULT_CALLBACKS.remove(meter)
    if len(meter.marks) <= WARM + 1:
        raise RuntimeError(f"only {len(meter.marks)} logs, {WARM + 2} are needed; more --rows or more time")
    (start, before, first), (end, after, last) = meter.marks[WARM], meter.marks[-1]
    speed = (after - before) / (end - start)
    device = torch.device(job["device"])
    peak, used = throughput.device_peak(device), throughput.peak_memory(device) - begun
    counts = 1, throughput.scored(device, 1, job["labelled_per_token"]), job["squares_per_token"]
    work = sum(map(operator.mul, meter.operations, counts))
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
        "settings": meter.settings,
    }
    if mine:
        estimated = job["plan"]["bytes"]
        error = None if cpu else round(estimated / used - 1, 4)  # a CPU's figure is of the process, Python and all
        found |= {"estimated_gib": round(estimated / 2**30, 3), "estimate_error": error, "recipe": RECIPE}
    return found


def settings_of(args: SFTConfig, model: torch.nn.Module) -> dict:
    """What decides speed and memory, of the trainer that runs: `dtype` is that of the weights that are not quantised,
    `compute_dtype` that of four-bit layers' products, `autocast` that of the others', `rows` those of a device batch
    and `accumulated` how many of these make a step."""
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    computed = {part.compute_dtype for part in model.modules() if hasattr(part, "compute_dtype")}
    name = {"dtype": {weight.dtype for weight in weights if not weight.requires_grad} or {weights[0].dtype}}
    name |= {"trained_dtype": {weight.dtype for weight in weights if weight.requires_grad}, "compute_dtype": computed}
    named = {key: " ".join(sorted(str(one).removeprefix("torch.") for one in found)) for key, found in name.items()}
    return named | {
        "autocast": "bfloat16" if args.bf16 else "float16" if args.fp16 else None,
        "recomputed": memory.checkpoints(args),
        "packing": args.packing,
        "max_length": args.max_length,
        "rows": args.per_device_train_batch_size,
        "accumulated": args.gradient_accumulation_steps,
        "attention": model.config._attn_implementation,
        "optimizer": getattr(args.optim, "value", args.optim),
    }


def flags_of(job: dict, tokens: int, recompute: bool) -> list[str]:
    """What is given beside the recipe: the model, the rows, a step that fits, and nothing saved or accumulated."""
    given = {"model_name_or_path": job["model"], "dataset_name": job["rows"], "output_dir": job["output"]}
    given |= {"attn_implementation": job["attention"], "max_length": tokens, "activation_checkpointing": recompute}
    given |= {"gradient_accumulation_steps": 1, "logging_steps": LOGGED, "save_strategy": "no", "report_to": "none"}
    given |= {"disable_tqdm": True, **WAYS[job["way"]]}
    if job["device"] == "cpu":
        given |= {"use_cpu": True, "bf16": False}
        given |= {} if job["way"] == "QLoRA nf4" else {"dtype": "float32"}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def ours(job: dict, tokens: int, recompute: bool) -> tuple[models.ModelArguments, SFTConfig]:
    """The recipe's arguments, read as the recipe reads them: one packed row of `tokens` per step."""
    return sft.read_arguments(["--config", str(RECIPES / RECIPE), *flags_of(job, tokens, recompute)])


def plan(job: dict) -> dict:
    """The first step of the ladder whose estimate fits, with that estimate: preflight's, from the config alone."""
    config = SHAPES[job["size"]]()
    for tokens, recompute in TINY_LADDER if job["device"] == "cpu" else LADDER:
        args, training = ours(job, tokens, recompute)
        needed = memory.step(config, args, training, 1, tokens, share=job["labelled_per_token"])
        if args.load_in_4bit or args.load_in_8bit:
            needed = memory.quantised(needed, args.load_in_8bit)
        if job["memory"] is None or needed["total"] <= FILLED * job["memory"]:
            break
    return {"tokens_per_step": tokens, "recomputed": recompute, "bytes": needed["total"]}


def train_ours(job: dict) -> None:
    args, training = ours(job, job["plan"]["tokens_per_step"], job["plan"]["recomputed"])
    rows = datasets.load_dataset(job["rows"], split="train")
    words = AutoTokenizer.from_pretrained(job["model"])
    model, _ = models.load_model(args, words, training.use_cpu)
    tied = model.config.get_text_config().tie_word_embeddings
    InstructTrainer(
        model=model,
        args=training,
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
