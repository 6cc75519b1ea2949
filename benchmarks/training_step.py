"""A training step on a CPU: TRL's SFTTrainer as it comes, InstructTrainer padded, and InstructTrainer packed.

    OMP_NUM_THREADS=1 python benchmarks/training_step.py

Each round trains the same rows once in each of the three ways, in turn, in one process on one thread; measured are
CPU-seconds of `train()` alone. Useful tokens are those that are not padding: every way trains the same ones. First the
losses are compared: step by step where the batches are the same, over all rows where packing makes others.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path

import datasets
import torch
import transformers
import trl
from timing import machine
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from trainers.sft import InstructTrainer

ROUNDS, BATCH, MAX_LENGTH, VOCABULARY = 3, 8, 512, 16_000
RESULTS = Path(__file__).parent / "results" / "training_step.json"
# Alpaca's lengths as tokenised: median 66, 90% up to 138; a third to two thirds of a row is the prompt.
MEDIAN, SPREAD, SHORTEST = 66, math.log(138 / 66) / 1.2816, 12
WAYS = {
    "TRL padded": (SFTTrainer, {"per_device_train_batch_size": BATCH}),
    "ours padded": (InstructTrainer, {"per_device_train_batch_size": BATCH}),
    # One bin of 512 tokens has about as many as a batch of 8 rows, so the steps are about as many too.
    "ours packed": (InstructTrainer, {"per_device_train_batch_size": 1, "packing": True}),
}


def alpaca_like(number: int, seed: int, vocabulary: int = VOCABULARY) -> datasets.Dataset:
    draw, rows = random.Random(seed), []
    for _ in range(number):
        length = min(max(round(MEDIAN * math.exp(draw.gauss(0, SPREAD))), SHORTEST), MAX_LENGTH)
        ids = [draw.randrange(3, vocabulary) for _ in range(length)]
        prompt = round(length * draw.uniform(1 / 3, 2 / 3))
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return datasets.Dataset.from_list(rows)


def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = {"<pad>": 0, "<s>": 1, "</s>": 2}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, "<pad>")), pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def make(way: str, rows: datasets.Dataset, folder: str) -> SFTTrainer:
    """A fresh trainer on a fresh model: Llama, hidden size 256, 4 layers, tied embeddings, float32."""
    kind, options = WAYS[way]
    transformers.set_seed(0)
    size = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 4}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=1024, tie_word_embeddings=True, **size, **special)
    )
    config = SFTConfig(
        output_dir=folder,
        num_train_epochs=1,
        max_length=MAX_LENGTH,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        **options,
    )
    trainer = kind(model, config, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer())
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def losses_agree(rows: datasets.Dataset, folder: str) -> dict[str, float]:
    """Largest relative differences: of loss and gradient norm per step, and of the loss over all rows when packed."""
    trainers = {way: make(way, rows, folder) for way in WAYS}
    over_all = [trainers[way].evaluate()["eval_loss"] for way in ("ours padded", "ours packed")]
    logs = []
    for way in ("TRL padded", "ours padded"):
        trainers[way].train()
        history = trainers[way].state.log_history
        logs.append([(log["loss"], log["grad_norm"]) for log in history if "loss" in log])
    pairs = [pair for left, right in zip(*logs, strict=True) for pair in zip(left, right, strict=True)]
    found = {
        "ours padded, per step": max(abs(ours - theirs) / theirs for theirs, ours in pairs),
        "ours packed, all rows": abs(over_all[1] - over_all[0]) / over_all[0],
    }
    if max(found.values()) > 1e-5:
        raise SystemExit(f"the losses differ, so speeds can't be compared: {found}")
    return found


def cpu_seconds(way: str, rows: datasets.Dataset, folder: str) -> float:
    trainer = make(way, rows, folder)
    began = time.process_time()
    trainer.train()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    rows = alpaca_like(options.rows, options.seed)
    tokens = sum(map(len, rows["input_ids"]))
    supervised = sum(label != -100 for labels in rows["labels"] for label in labels)
    times = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        differences = losses_agree(rows.select(range(min(24, len(rows)))), folder)  # also what warms the process up
        for turn in range(options.rounds):
            order = list(WAYS)[turn % 3 :] + list(WAYS)[: turn % 3]
            for way in order:
                times[way].append(cpu_seconds(way, rows, folder))
                print(f"round {turn + 1}: {way:<12}{times[way][-1]:8.1f} CPU-s", flush=True)

    rates = {way: tokens / statistics.median(seconds) for way, seconds in times.items()}

    def ratio(way: str, to: str) -> float:
        return round(statistics.median(b / a for a, b in zip(times[way], times[to], strict=True)), 2)

    results = {
        way: {
            "useful_tokens_per_cpu_second": round(rates[way]),
            "x_trl_padded": ratio(way, "TRL padded"),
            "x_ours_padded": ratio(way, "ours padded"),
            "cpu_seconds": [round(value, 2) for value in times[way]],
        }
        for way in WAYS
    }
    print(f"\n{'way':<14}{'useful tok/CPU-s':>18}{'x TRL padded':>14}{'x ours padded':>15}")
    for way, line in results.items():
        numbers = f"{line['useful_tokens_per_cpu_second']:>18,}{line['x_trl_padded']:>14}{line['x_ours_padded']:>15}"
        print(f"{way:<14}{numbers}")
    report = {
        "what": "useful (not padding) tokens per CPU-second of train(), one thread; Llama 256 x 4, vocabulary 16,000",
        "goals": "ours padded >= 2.5 x TRL padded; packed >= 1.6 x TRL padded",
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (torch, transformers, trl, datasets)},
        },
        "command": f"python benchmarks/training_step.py --rows {options.rows} --rounds {options.rounds}",
        "seed": options.seed,
        "rows": len(rows),
        "tokens": tokens,
        "supervised_tokens": supervised,
        "relative_differences_of_losses": {name: float(f"{value:.1e}") for name, value in differences.items()},
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
