"""A tokenizer trained on a dataset's text and a random T5 to go with it: for trying recipes without a download.

python recipes/quickstart/tiny_t5.py --dataset_name DIRECTORY --output_dir outputs/tiny-t5
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as for the recipes themselves: scripts in recipes/

import arguments
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer, set_seed

from trainers import reading
from trainers.seq2seq_rows import messages_of

SPECIAL = ["<pad>", "</s>", "<unk>"]  # ids 0, 1 and 2, as in every T5


@dataclass
class TinyT5Arguments:
    dataset_name: str  # a directory made by recipes/build.py, a Hub dataset, or a file
    output_dir: str
    vocab_size: int = 2048
    d_model: int = 128
    num_layers: int = 2
    seed: int = 0


def main(argv: list[str] | None = None) -> None:
    (args,) = arguments.parse((TinyT5Arguments,), argv)
    rows = messages_of(reading.load_rows(args.dataset_name), "auto")
    texts = [turn["content"] for turns in rows["messages"] for turn in turns]
    make(Path(args.output_dir), texts, args.vocab_size, args.d_model, args.num_layers, args.seed)
    print(f"a random T5 and its tokenizer are in {args.output_dir}")


def make(folder: Path, texts: Iterable[str], vocab_size=1000, d_model=128, layers=2, dropout_rate=0.1, seed=0) -> None:
    """Saves a Unigram tokenizer of the texts in T5's own class, and a random T5 of FLAN-T5's kind."""
    bpe = Tokenizer(models.BPE())
    spaces = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always", split=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), spaces])
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False))
    # Unigram's own training gives other pieces each time. Of BPE's, Unigram takes the fewest for a word.
    ranked = sorted(bpe.get_vocab().items(), key=lambda piece: piece[1])
    pieces = [(token, 0.0) for token in SPECIAL] + [(piece, -10 - rank / 10_000) for piece, rank in ranked]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=8)
    tokenizer.save_pretrained(folder)
    set_seed(seed)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=d_model,
        d_kv=d_model // 4,
        d_ff=d_model * 5 // 2,  # FLAN-T5 XL's own ratio
        num_layers=layers,
        num_heads=4,
        dropout_rate=dropout_rate,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,  # to transformers 5 this says no more than "do not scale before the head"
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config)
    head = torch.empty_like(model.shared.weight).normal_(std=d_model**-0.5)
    model.lm_head.weight = torch.nn.Parameter(head)  # T5 1.1 and FLAN-T5 have a head of their own
    model.config.tie_word_embeddings = False
    model.save_pretrained(folder)


if __name__ == "__main__":
    arguments.run(main)
