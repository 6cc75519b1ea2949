"""What gpu_check.py trains: models of real shapes with random weights, rows of Alpaca's lengths, and which fit where.

Nothing is downloaded. Speed and memory depend on shapes alone, not on what the weights or the tokens say.
"""

from __future__ import annotations

from pathlib import Path

import torch
from training_step import alpaca_like, tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, set_seed

from trainers.labels import IGNORED

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {"vocab_size": 128_256, "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 500_000.0}
# From the config.json of Qwen2.5-0.5B, Llama-3.2-1B and Llama-3.1-8B.
SHAPES = {
    "tiny": lambda: LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=False,
        **SPECIAL,
    ),
    "0.5B": lambda: Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        **SPECIAL,
    ),
    "1B": lambda: LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        head_dim=64,
        tie_word_embeddings=True,
        max_position_embeddings=131_072,
        **LLAMA,
        **SPECIAL,
    ),
    "8B": lambda: LlamaConfig(
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        tie_word_embeddings=False,
        max_position_embeddings=131_072,
        **LLAMA,
        **SPECIAL,
    ),
}


def sizes(job: dict) -> dict:
    """Which shape trains all its weights (`full`) and which an adapter, on a GPU with `memory` bytes.

    By what TRL's defaults need: float32 weights, gradients and two states are 16 bytes per weight of a full fine-tune,
    an adapter's base has 4.
    """
    gib = job["memory"] / 2**30
    return {"full": "1B" if gib >= 38 else "0.5B", "adapter": "8B" if gib >= 70 else "1B" if gib >= 14 else "0.5B"}


def make(job: dict) -> dict:
    """Writes a model of `size` with random bfloat16 weights, made on `device`, and a tokenizer to `folder`."""
    set_seed(0)
    with torch.device(job["device"]):
        model = AutoModelForCausalLM.from_config(SHAPES[job["size"]](), dtype=torch.bfloat16)
    model.save_pretrained(job["folder"])
    tokenizer().save_pretrained(job["folder"])
    return {"parameters": model.num_parameters()}


def make_rows(job: dict) -> dict:
    """Writes `number` labelled rows to the folder `rows`, of tokens that the models of all `sizes` know.

    Returns:
        `dict`: `tokens` and `squares`, the sums of lengths and of their squares, and `labelled`, how many tokens are
            predicted.
    """
    rows = alpaca_like(job["number"], job["seed"], min(SHAPES[size]().vocab_size for size in job["sizes"]))
    Path(job["rows"]).mkdir(parents=True)
    rows.to_parquet(str(Path(job["rows"], "train.parquet")))
    lengths = [len(ids) for ids in rows["input_ids"]]
    labelled = sum(label != IGNORED for labels in rows["labels"] for label in labels[1:])
    return {"tokens": sum(lengths), "squares": sum(length**2 for length in lengths), "labelled": labelled}
