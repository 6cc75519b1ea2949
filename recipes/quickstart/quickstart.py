"""From bad rows to a merged model in a few minutes, without a GPU, a network or a key.

    python recipes/quickstart/quickstart.py [--output_dir quickstart_output]

Builds the bundled data, makes a tokenizer and a random 2-layer Llama, lets it read sentences, trains a LoRA adapter on
the instructions with recipes/sft.py, merges it, and counts exact answers before and after. It memorises; the held-out
rows show that it does no more than that.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # as for the recipes themselves: each is a script in recipes/

import arguments
import build
import sft
import tiny_llama
import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from instruct_builders import formats
from instruct_builders.sources import BUNDLED

TRAINED = 240  # of 260 rows; the last 20 are held out, see sft_lora.yaml
PROMPTS = ("Say something.", "Write a sentence.", "Tell me a fact.", "Go on.")


@dataclass
class QuickstartArguments:
    output_dir: str = "quickstart_output"


def main(argv: list[str] | None = None) -> None:
    (args,) = arguments.parse((QuickstartArguments,), argv)
    torch.set_num_threads(1)  # more make so small a model slower
    out, started = Path(args.output_dir), time.perf_counter()

    say("1. Build: 260 good rows and 12 bad ones", started)
    files = [str(BUNDLED / name) for name in ("quickstart_pairs.jsonl", "quickstart_bad_rows.jsonl")]
    build.main(["--config", str(HERE / "data.yaml"), "--data_files", *files, "--output_dir", str(out / "data")])
    built = load_dataset(str(out / "data"), split="train")
    rows = list(formats.convert(built, "messages", "alpaca").select_columns(["instruction", "input", "output"]))

    say("2. A tokenizer, a random Llama, and sentences to read", started)
    tiny_llama.make(out / "random", [text for row in rows for text in row.values()])
    sentences = [
        {"instruction": PROMPTS[place % len(PROMPTS)], "input": "", "output": row["output"]}
        for place, row in enumerate(rows[:TRAINED])
    ]
    (out / "sentences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sentences), encoding="utf-8")
    train("sft_base.yaml", out / "random", out / "sentences.jsonl", out / "base")

    say("3. LoRA on the instructions, then merge", started)
    train("sft_lora.yaml", out / "base" / "final", out / "data", out / "lora")

    say("4. Exact answers, greedy decoding", started)
    for name, part in (("trained on", rows[:TRAINED]), ("held out", rows[TRAINED:])):
        before, after = (answers(folder, part) for folder in (out / "base" / "final", out / "lora" / "merged"))
        counts = [
            sum(text == row["output"] for text, row in zip(texts, part, strict=True)) for texts in (before, after)
        ]
        print(f"{name}: {counts[0]}/{len(part)} exact before, {counts[1]}/{len(part)} after")
        for row, text in list(zip(part, after, strict=True))[:2]:
            print(f"  {row['instruction']} {row['input']}".rstrip() + f"\n    said: {text}\n    data: {row['output']}")
    print("This is a toy: it has memorised the rows it was trained on and knows nothing else.")
    say("Done; each folder has its card (README.md):", started)
    print(f"  dataset {out / 'data'}\n  adapter {out / 'lora' / 'final'}\n  merged model {out / 'lora' / 'merged'}")


def say(text: str, started: float) -> None:
    print(f"\n[{time.perf_counter() - started:5.0f} s] {text}", flush=True)


def train(config: str, model: Path, data: Path, output: Path) -> None:
    where = ["--model_name_or_path", str(model), "--dataset_name", str(data), "--output_dir", str(output)]
    sft.main(["--config", str(HERE / config), *where])


def answers(folder: Path, rows: list[dict]) -> list[str]:
    """What the model says to each row's question, without sampling."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, said = AutoModelForCausalLM.from_pretrained(folder).eval(), []
    for row in rows:
        question = [{"role": "user", "content": row["instruction"]}]
        prompt = tokenizer.apply_chat_template(
            question, context=row["input"], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        answer = model.generate(**prompt, max_new_tokens=32, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        said.append(tokenizer.decode(answer, skip_special_tokens=True))
    return said


if __name__ == "__main__":
    arguments.run(main)
