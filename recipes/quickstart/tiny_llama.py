"""A tokenizer trained on a dataset's text and a random Llama to go with it: for trying recipes without a download.

python recipes/quickstart/tiny_llama.py --dataset_name DIRECTORY --output_dir outputs/tiny-llama
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as for the recipes themselves: scripts in recipes/

import arguments
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from instruct_builders import formats
from instruct_builders.errors import SourceError
from trainers.reading import load_rows

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}


@dataclass
class TinyLlamaArguments:
    dataset_name: str  # a directory made by recipes/build.py, a Hub dataset, or a file
    output_dir: str
    vocab_size: int = 4096
    hidden_size: int = 256
    num_hidden_layers: int = 2
    max_length: int = 2048  # positions that the model has
    seed: int = 0


def main(argv: list[str] | None = None) -> None:
    (args,) = arguments.parse((TinyLlamaArguments,), argv)
    rows = load_rows(args.dataset_name)
    source = formats.detect(rows.features)
    if source is None:
        known = ", ".join(formats.FORMATS)
        raise SourceError(f"dataset_name: {args.dataset_name} has the columns {rows.column_names}, none of {known}.")
    rows = rows if source == "messages" else formats.convert(rows, source, "messages")
    texts = [turn["content"] for turns in rows["messages"] for turn in turns]
    sizes = (args.vocab_size, args.hidden_size, args.num_hidden_layers, args.max_length)
    make(Path(args.output_dir), texts, *sizes, args.seed)
    print(f"a random Llama and its tokenizer are in {args.output_dir}")


def make(
    folder: Path, texts: Iterable[str], vocab_size=1200, hidden_size=256, layers=2, positions=256, seed=0
) -> None:
    """Saves a byte-level BPE of the texts and a random Llama; 2.2 million parameters unless told otherwise."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["### Instruction:\n### Input:\n### Response:\n", *texts], trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=bpe, **SPECIAL).save_pretrained(folder)
    set_seed(seed)
    config = LlamaConfig(
        vocab_size=bpe.get_vocab_size(),
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 43 // 16,  # Llama's own ratio
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=positions,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


if __name__ == "__main__":
    arguments.run(main)
