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

import arguments  # noqa: E402
import build  # noqa: E402
import sft  # noqa: E402
import torch  # noqa: E402
from datasets import load_dataset  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    set_seed,
)

from instruct_builders import formats  # noqa: E402
from instruct_builders.sources import BUNDLED  # noqa: E402

TRAINED = 240  # of 260 rows; the last 20 are held out, see sft_lora.yaml
PROMPTS = ("Say something.", "Write a sentence.", "Tell me a fact.", "Go on.")
SPECIAL = ["<pad>", "<s>", "</s>"]


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
    make_model(out / "random", [text for row in rows for text in row.values()])
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
        before, after = (exact_answers(folder, part) for folder in (out / "base" / "final", out / "lora" / "merged"))
        print(f"{name}: {before}/{len(part)} before, {after}/{len(part)} after")
    say(f"Done. The adapter is in {out / 'lora' / 'final'}, the merged model in {out / 'lora' / 'merged'}", started)


def say(text: str, started: float) -> None:
    print(f"\n[{time.perf_counter() - started:5.0f} s] {text}", flush=True)


def train(config: str, model: Path, data: Path, output: Path) -> None:
    where = ["--model_name_or_path", str(model), "--dataset_name", str(data), "--output_dir", str(output)]
    sft.main(["--config", str(HERE / config), *where])


def make_model(folder: Path, texts: list[str]) -> None:
    """A byte-level BPE of the texts and a random Llama of 2.2 million parameters."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(["### Instruction:\n### Input:\n### Response:\n", *texts], trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=bpe, **names).save_pretrained(folder)
    size = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 2, "num_attention_heads": 4}
    set_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=1200, max_position_embeddings=256, **size)).save_pretrained(folder)


def exact_answers(folder: Path, rows: list[dict]) -> int:
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model, exact = AutoModelForCausalLM.from_pretrained(folder).eval(), 0
    for row in rows:
        question = [{"role": "user", "content": row["instruction"]}]
        prompt = tokenizer.apply_chat_template(
            question, context=row["input"], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        answer = model.generate(**prompt, max_new_tokens=32, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        exact += tokenizer.decode(answer, skip_special_tokens=True) == row["output"]
    return exact


if __name__ == "__main__":
    arguments.run(main)
