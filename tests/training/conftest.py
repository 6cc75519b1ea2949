"""A tokenizer and a Llama small enough to be made on the spot."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
if str(RECIPES) not in sys.path:  # as `python recipes/sft.py` has it
    sys.path.insert(0, str(RECIPES))
TEXT = [
    "Name a colour. Blue is one. Another? Red. Be brief. of the sky ### Instruction: ### Input: ### Response:",
    "USER: ASSISTANT: Say the word loudly and clearly, please. user assistant system",
]


@functools.cache
def _bytes_bpe(extra: tuple[str, ...], adds_bos: bool) -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>", *extra],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer.to_str()


def make_tokenizer(extra: tuple[str, ...] = (), adds_bos: bool = True, pad: str | None = "<pad>"):
    """A byte-level BPE with `<pad>`, `<s>` and `</s>`, in the form that transformers loads from a Llama's folder."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bytes_bpe(extra, adds_bos)),
        bos_token="<s>",
        eos_token="</s>",
        pad_token=pad,
        extra_special_tokens=list(extra),
    )


def save_tiny_llama(folder: Path, **tokenizer_options) -> Path:
    """Writes a 2-layer Llama with random weights and its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    tokenizer = make_tokenizer(**tokenizer_options)
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """The function `make_tokenizer`."""
    return make_tokenizer


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """`tiny_llama(**tokenizer_options)` -> the folder of a model, made once for each set of options."""

    @functools.cache
    def folder(**options) -> Path:
        return save_tiny_llama(tmp_path_factory.mktemp("model") / "tiny-llama", **options)

    return folder
