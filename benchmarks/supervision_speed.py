"""Conversations to token ids and labels: TRL's SFTTrainer preparation, `trainers.supervision.prepare`, the tokenizer.

    OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false python benchmarks/supervision_speed.py

Real instruction rows (folder `INSTRUCT_SHARED_DATA`: Alpaca, chain of thought, T0) with the template chatml, six
tokenizers trained here. Each round runs each way once, in turn, in one process with one thread, everything fresh: the
tokenizer, its proofs and layouts, the dataset's cache. Measured are CPU-seconds. `tokenizer alone` is
`encode_batch_fast` on the printed texts: no template, no labels, no table; `of limit` is the share of its speed, which
only another program for the same function, such as tiktoken, exceeds. First all ids and labels are compared.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path

import datasets
import tokenizers
import torch
import transformers
import trl
from timing import machine
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import trainers as learners
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from trainers import supervision, tables
from trainers.fast_tokens import fastest

RESULTS = Path(__file__).parent / "results" / "supervision_speed.json"
TEMPLATE = (Path(supervision.__file__).parent / "chat_templates" / "chatml.jinja").read_text(encoding="utf-8")
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = 16_000


def real_rows(folder: Path, number: int, seed: int) -> list[list[dict]]:
    """Conversations of one question and one answer, all different, as many as there are of Alpaca first."""

    def talk(question: str, answer: str) -> list[dict]:
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    rows, others = [], []
    for row in json.loads((folder / "alpaca" / "alpaca_en_demo.json").read_text(encoding="utf-8")):
        rows.append(talk("\n\n".join(filter(None, (row["instruction"], row["input"]))), row["output"]))
    for file in sorted((folder / "flan" / "cot").glob("*.tsv")):
        with file.open(encoding="utf-8", newline="") as lines:
            for line in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
                others.append(talk(line[0].replace("\\n", "\n"), f"{line[2]}\n{line[1]}".replace("\\n", "\n")))
    for file in sorted((folder / "flan" / "t0").glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            others.append(talk(row["prompt"], row["completion"]))
    random.Random(seed).shuffle(others)
    rows = [row for row in rows + others if all(message["content"].strip() for message in row)]
    if len(rows) < number:
        raise SystemExit(f"{folder} has {len(rows)} rows; --rows {number} is too many.")
    random.Random(seed).shuffle(rows := rows[:number])
    return rows


def train_tokenizers(rows: list[list[dict]], folder: Path) -> dict[str, Path]:
    """Byte-level BPE: plain, behind a normaliser, with an own rule for words, with one that nothing is proven of
    (DeepSeek Coder's); BPE and Unigram as SentencePiece makes them.
    """
    texts = [message["content"] for row in rows[:1000] for message in row]
    options = {"vocab_size": VOCABULARY, "special_tokens": SPECIAL, "show_progress": False}
    unknown = {"special_tokens": ["<unk>", *SPECIAL]}
    learner = learners.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
    splits = {
        "byte-level BPE, own rule": [r" ?\w+|\s+| ?[^\w\s]+"],
        "byte-level BPE, unproven rule": ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥]+", r"\p{N}"],
    }
    files, pieces = {}, ("SentencePiece BPE", "SentencePiece Unigram")
    for name in ("byte-level BPE", "byte-level BPE, lower case", *splits, *pieces):
        made, own = Tokenizer(models.BPE()), learner
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name not in splits)
        made.decoder = decoders.ByteLevel()
        if name == "byte-level BPE, lower case":
            made.normalizer = normalizers.Lowercase()
        if name in splits:
            cutters = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in splits[name]]
            made.pre_tokenizer = pre_tokenizers.Sequence([*cutters, made.pre_tokenizer])
        if name == "SentencePiece BPE":
            made, own = Tokenizer(models.BPE(unk_token="<unk>")), learners.BpeTrainer(**options | unknown)
        if name == "SentencePiece Unigram":
            made, own = Tokenizer(models.Unigram()), learners.UnigramTrainer(unk_token="<unk>", **options | unknown)
        if name in pieces:
            made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        made.train_from_iterator(texts, own)
        if name == "SentencePiece BPE":
            made = without_words(made)
        files[name] = folder / f"{len(files)}.json"
        made.save(str(files[name]))
    return files


def without_words(made: Tokenizer) -> Tokenizer:
    """As Llama 2's: any text between special tokens is one word; an unknown character is its bytes."""
    spec = json.loads(made.to_str())
    vocabulary = spec["model"]["vocab"]
    for byte in range(256):
        vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    spec["model"] |= {"byte_fallback": True, "fuse_unk": True}
    made = Tokenizer.from_str(json.dumps(spec))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made.pre_tokenizer = None
    return made


def load(file: Path) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token="</s>", pad_token="<pad>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def theirs(rows: datasets.Dataset, tokenizer, folder: str) -> datasets.Dataset:
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY + 300, **size))
    config = SFTConfig(
        output_dir=folder,
        assistant_only_loss=True,
        max_length=None,
        report_to="none",
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        disable_tqdm=True,
    )
    return SFTTrainer(model, config, train_dataset=rows, processing_class=tokenizer).train_dataset


def ours(rows: datasets.Dataset, tokenizer, folder: str) -> datasets.Dataset:
    tables.tables.cache_clear()
    supervision._layouts.cache_clear()
    return supervision.prepare(rows, tokenizer)


def alone(texts: list[str], tokenizer, folder: str) -> None:
    for start in range(0, len(texts), 1000):
        tokenizer.backend_tokenizer.encode_batch_fast(texts[start : start + 1000], add_special_tokens=False)


def compare(stored: Path, file: Path, folder: str) -> dict:
    """Rows whose ids or labels differ; stops at any difference but tokens that straddle a boundary."""
    due, found = (way(datasets.load_from_disk(stored), load(file), folder) for way in (theirs, ours))
    differ, outside = 0, 0
    messages, tokenizer = datasets.load_from_disk(stored)["messages"], load(file)
    for start in range(0, len(due), 1000):
        left, right = due[start : start + 1000], found[start : start + 1000]
        if left["input_ids"] != right["input_ids"]:
            raise SystemExit("the token ids differ from TRL's, so speeds can't be compared.")
        for place, (a, b) in enumerate(zip(left["labels"], right["labels"], strict=True)):
            differ += a != b
            if a != b and differ <= 100:  # TRL supervises a token of which only a part is the answer's
                parted = sum(x != y for x, y in zip(a, b, strict=True))
                outside += parted != supervision.explain(tokenizer, messages[start + place]).straddling
    tokens = int(sum(map(len, found["input_ids"])))
    if outside:
        raise SystemExit(f"{outside} rows have other labels than TRL's, not only for tokens that straddle a boundary.")
    return {"rows": len(found), "rows_parted": differ, "tokens": tokens}


def measure(stored: Path, file: Path, folder: str, rounds: int) -> dict[str, list[float]]:
    ways = {"TRL": theirs, "ours": ours, "tokenizer alone": alone}
    rows, times = datasets.load_from_disk(stored), {name: [] for name in ways}
    printer = load(file)  # once: loading takes longer than printing thousands of rows
    texts = [printer.apply_chat_template(row, tokenize=False) for row in rows["messages"]]
    for turn in range(rounds):
        for name in [*list(ways)[turn % 3 :], *list(ways)[: turn % 3]]:
            given, tokenizer = texts if name == "tokenizer alone" else datasets.load_from_disk(stored), load(file)
            began = time.process_time()
            ways[name](given, tokenizer, folder)
            times[name].append(time.process_time() - began)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    datasets.disable_caching()
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    rows = real_rows(Path(os.environ.get("INSTRUCT_SHARED_DATA", default)), options.rows, options.seed)
    report: dict = {
        "what": "rows per CPU-second from messages to input_ids and labels, one thread; template chatml",
        "goals": "ours >= 10 x TRL for byte-level BPE, >= 2.5 x for other fast tokenizers; ids and labels equal",
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (trl, transformers, datasets, tokenizers)},
        },
        "command": f"python benchmarks/supervision_speed.py --rows {options.rows} --rounds {options.rounds}",
        "seed": options.seed,
        "load_average": {"before": [round(load, 1) for load in os.getloadavg()]},
        "results": {},
    }
    print(f"{'tokenizer':<32}{'through':<12}{'way':<17}{'rows/CPU-s':>11}{'x TRL':>8}{'of limit':>10}  parted")
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "rows"
        datasets.Dataset.from_dict({"messages": rows}).save_to_disk(stored)
        for name, file in train_tokenizers(rows, Path(folder)).items():
            through = type(fastest(load(file))).__name__
            same = compare(stored, file, folder)
            times = measure(stored, file, folder, options.rounds)
            lines = {}
            for way, seconds in times.items():
                trl_ratio, alone_ratio = (
                    statistics.median(b / a for a, b in zip(seconds, times[other], strict=True))
                    for other in ("TRL", "tokenizer alone")
                )
                lines[way] = {
                    "rows_per_cpu_second": round(len(rows) / statistics.median(seconds)),
                    "x_trl": round(trl_ratio, 2),
                    "share_of_tokenizer_limit": round(alone_ratio, 2),
                    "cpu_seconds": [round(value, 2) for value in seconds],
                }
                numbers = f"{lines[way]['rows_per_cpu_second']:>11,}{trl_ratio:>8.2f}{alone_ratio:>10.0%}"
                print(
                    f"{name:<32}{through:<12}{way:<17}{numbers}  {same['rows_parted']}",
                    flush=True,
                )
            report["results"][name] = {"through": through, **same, "ways": lines}
    report["load_average"]["after"] = [round(load, 1) for load in os.getloadavg()]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
