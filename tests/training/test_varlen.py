"""Attention over packed documents: each says what it says alone, on a CPU; the GPU's kernel is tried by gpu_check."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from instruct_builders.errors import ConfigError
from trainers import varlen

SIZE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "pad_token_id": 0}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def make(window: int | None = None):
    varlen.register()
    torch.manual_seed(0)
    if window is None:
        return LlamaForCausalLM(LlamaConfig(**SIZE, **HEADS))
    return MistralForCausalLM(MistralConfig(**SIZE, **HEADS, sliding_window=window))


def run(model, attention: str, **inputs):
    model.set_attn_implementation(attention)
    model.zero_grad()
    logits = model(**inputs, use_cache=False).logits
    logits.square().mean().backward()
    return logits.detach(), model.model.layers[0].self_attn.q_proj.weight.grad.clone()


@pytest.mark.parametrize("window", [None, 5], ids=["whole", "window"])
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_packed_documents_are_apart_as_under_sdpas_mask(window, lengths):
    model, draw = make(window), torch.Generator().manual_seed(sum(lengths))
    documents = [{"input_ids": torch.randint(1, 64, (n,), generator=draw).tolist()} for n in lengths]
    batch = DataCollatorForLanguageModeling(0, padding_free=True)(documents)
    del batch["labels"]
    ours, theirs = run(model, varlen.NAME, **batch), run(model, "sdpa", **batch)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    model.set_attn_implementation(varlen.NAME)
    with torch.no_grad():
        alone = [model(input_ids=torch.tensor([row["input_ids"]]), use_cache=False).logits for row in documents]
    assert torch.allclose(ours[0], torch.cat(alone, 1), atol=1e-5)


@pytest.mark.parametrize("window", [None, 5], ids=["whole", "window"])
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_padded_batches_are_what_sdpa_makes_of_them(window, left):
    model, rows = make(window), [[5, 6, 7, 8, 9, 10, 11, 12], [3, 4, 5]]
    padded = [[0] * (8 - len(row)) + row if left else row + [0] * (8 - len(row)) for row in rows]
    ids = torch.tensor(padded)
    mask = (ids != 0).long()
    found = [run(model, name, input_ids=ids, attention_mask=mask)[0][mask.bool()] for name in (varlen.NAME, "sdpa")]
    assert torch.allclose(*found, atol=1e-5)


def test_generation_with_a_cache_says_the_same():
    model, said = make().eval(), []
    ids = torch.tensor([[0, 0, 5, 6], [3, 4, 5, 6]])
    for name in (varlen.NAME, "sdpa"):
        model.set_attn_implementation(name)
        options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        said.append(model.generate(input_ids=ids, attention_mask=(ids != 0).long(), **options))
    assert torch.equal(*said)


def test_dropout_is_refused():
    varlen.register()
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, attn_pdrop=0.1)).train()
    model.set_attn_implementation(varlen.NAME)
    with pytest.raises(ConfigError, match=r"no dropout.*Choose sdpa"):
        model(input_ids=torch.tensor([[1, 2, 3]]))
