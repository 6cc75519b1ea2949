"""What gpu_check.py runs on: the device, and the fastest attention that works on it, tried before it is used."""

from __future__ import annotations

import statistics
import time

import torch
from gpu_check_models import SHAPES, sizes
from training_step import alpaca_like
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, set_seed
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from trainers import throughput, varlen

DOCUMENTS = (40, 24, 57)  # tokens of the documents that are packed for the trial
TOKENS = {"cuda": 8192, "cpu": 512}  # of a step, when kernels are timed
LAYERS, WARM, ROUNDS = 4, 2, 5  # of the timed model; steps before the clock starts, and with it
PATIENCE = 30  # seconds of looking after which no further kernel is tried, once one works: flex attention compiles


def look(job: dict) -> dict:
    """The device's name, memory and peak, and the attention to train with: of those that work, the fastest.

    Args:
        job (`dict`): `device`, `"cuda"` or `"cpu"`.

    Returns:
        `dict`: `name`, `memory` (bytes), `capability`, `cuda` (these three `None` for a CPU), `peak_tflops`,
        `attention`, `tried`: kernel -> `"ok"` or why not, and `milliseconds`: kernel -> time of a step of [`seconds`].
    """
    device, found = job["device"], {"name": "cpu", "memory": None, "capability": None, "cuda": None}
    if device != "cpu":
        about = torch.cuda.get_device_properties(0)
        found = {"name": about.name, "memory": about.total_memory, "cuda": torch.version.cuda}
        found["capability"] = f"{about.major}.{about.minor}"
    peak = throughput.device_peak(torch.device(device))
    found |= {"peak_tflops": peak and peak / 1e12, "tried": {}, "milliseconds": {}}
    size, begun = "tiny" if device == "cpu" else sizes(found)["full"], time.monotonic()
    for kernel in candidates(device):
        if found["milliseconds"] and time.monotonic() - begun > PATIENCE:
            found["tried"][kernel] = f"not tried: {PATIENCE} s were over"
            continue
        try:
            found["tried"][kernel] = trial(kernel, device)
            if found["tried"][kernel] == "ok":
                found["milliseconds"][kernel] = round(1000 * seconds(kernel, device, size), 3)
        except Exception as error:  # a kernel that was built for another GPU, driver or torch may raise anything
            found["tried"][kernel] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if not found["milliseconds"]:
        raise RuntimeError(f"no attention keeps packed documents apart here: {found['tried']}")
    return found | {"attention": min(found["milliseconds"], key=found["milliseconds"].get)}


def candidates(device: str) -> list[str]:
    """Kernels that are installed, the likeliest first. All but sdpa take documents of varying length one by one."""
    if device == "cpu":
        return [varlen.NAME, "sdpa"]
    major = torch.cuda.get_device_capability()[0]
    installed = {
        "flash_attention_3": major == 9 and is_flash_attn_3_available(),  # for Hopper alone
        "flash_attention_2": major >= 8 and is_flash_attn_2_available(),
        varlen.NAME: True,  # flash attention's second version, in torch itself
        "sdpa": True,
        "flex_attention": True,  # compiled by torch, anew when lengths of bins differ
    }
    return [kernel for kernel, there in installed.items() if there]


def trial(kernel: str, device: str) -> str:
    """Whether a small model trains on packed documents and says of each what it says of it alone."""
    set_seed(0)
    varlen.register()
    draw = [torch.randint(3, 500, (length,)).tolist() for length in DOCUMENTS]
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = LlamaForCausalLM(config).to(device, dtype).train()
    batch = DataCollatorForLanguageModeling(0, padding_free=True)([{"input_ids": ids} for ids in draw])
    batch = {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
    model.set_attn_implementation(kernel)
    packed = model(**{name: value for name, value in batch.items() if name != "labels"}, use_cache=False).logits
    packed.float().square().mean().backward()
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        alone = [model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits for ids in draw]
    difference = float((packed.detach() - torch.cat(alone, 1)).abs().max() / packed.detach().abs().max())
    return "ok" if difference < (1e-4 if device == "cpu" else 0.05) else f"differs by {difference:.2g}"


def seconds(kernel: str, device: str, size: str) -> float:
    """Median time of a forward and backward pass over bins of documents of Alpaca's lengths.

    The model has `LAYERS` layers with the attention of the shape `size` and next to nothing beside it; no two bins are
    of the same length, as in training.
    """
    set_seed(0)
    varlen.register()
    config = SHAPES[size]()
    config.num_hidden_layers, config.intermediate_size, config.vocab_size = LAYERS, 64, 512
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=kernel).to(device).train()
    took, collate = [], DataCollatorForLanguageModeling(0, padding_free=True)
    rows = iter(alpaca_like((WARM + ROUNDS) * TOKENS[device] // 40, seed=0, vocabulary=512)["input_ids"])
    for _ in range(WARM + ROUNDS):
        draw = []
        while sum(map(len, draw)) < TOKENS[device]:
            draw.append(next(rows))
        batch = collate([{"input_ids": ids} for ids in draw])
        batch = {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
        del batch["labels"]
        begun = time.perf_counter()
        model(**batch, use_cache=False).logits.float().mean().backward()
        if device != "cpu":
            torch.cuda.synchronize()
        took.append(time.perf_counter() - begun)
    return statistics.median(took[WARM:])
