"""The operations behind `mfu`: what a step multiplies, head and all, and nothing that it does not."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from trainers import throughput

SIZE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TOKENS = 48


def model(tied: bool) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(vocab_size=1024, tie_word_embeddings=tied, **SIZE))


@pytest.mark.parametrize("labelled", [5, 40])
@pytest.mark.parametrize("tied", [False, True])
def test_a_step_s_products_are_counted_with_the_labelled_share_of_the_head(tied, labelled):
    """Torch's own counter over the step that InstructTrainer takes on a CPU; attention is left to its formula."""
    from trl.trainer.utils import add_fused_lm_head

    from trainers import head

    one = model(tied)
    a_token, a_score, _ = throughput.operations(one)
    add_fused_lm_head(one, outputs=("log_probs", "entropy", "is_top1"))
    head.score_labelled_only(one)
    ids = torch.arange(1, TOKENS + 1)[None]
    labels = ids.clone()
    labels[:, : TOKENS - labelled] = -100
    with FlopCounterMode(display=False) as counter:
        one(input_ids=ids, labels=labels, fused_lm_head=True).log_probs.sum().backward()
    counted = sum(number for kind, number in counter.get_flop_counts()["Global"].items() if "mm" in str(kind))
    scored = throughput.scored(torch.device("cpu"), TOKENS, labelled)
    norms = 6 * (2 * 2 + 1) * 64 * TOKENS  # a product per number and no matrix product, so not in torch's count
    assert scored == labelled
    # The first layer's inputs need a gradient, for the embeddings: everything is counted at 6 per weight.
    assert a_token * TOKENS + a_score * scored - norms == counted


def test_frozen_weights_have_no_gradient_to_compute():
    one = model(tied=False)
    layers = 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64
    assert throughput.operations(one) == (6 * layers, 6 * 1024 * 64, 6 * 2 * 64)
    one.requires_grad_(False)
    one.lm_head.weight.requires_grad_(True)
    assert throughput.operations(one)[:2] == (4 * layers, 6 * 1024 * 64)
    one.lm_head.weight.requires_grad_(False)
    assert throughput.operations(one)[:2] == (4 * layers, 4 * 1024 * 64)


@pytest.mark.parametrize("tied", [False, True])
def test_new_tokens_of_an_adapter_are_counted_once(tied):
    """The old head, kept beside the trained one, and the embeddings, with new rows or not, multiply nothing."""
    from peft import LoraConfig, get_peft_model

    from trainers import adapters

    new = {"trainable_token_indices": {"embed_tokens": [8, 9]}, "modules_to_save": None if tied else ["lm_head"]}
    with adapters.old_names_allowed():
        one = get_peft_model(model(tied), LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], **new))
    frozen = 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64
    assert throughput.operations(one)[:2] == (4 * frozen + 6 * 2 * 2 * (64 + 64), 6 * 1024 * 64)


def test_every_token_is_scored_where_trl_has_no_kernel():
    assert throughput.scored(torch.device("mps"), 100, 40) == 100
    assert throughput.scored(torch.device("cpu"), 100, 40) == 40
