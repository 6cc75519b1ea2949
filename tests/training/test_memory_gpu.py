"""What memory.py's estimate says that a GPU keeps. Without one it is held to the sources that memory_gpu.py names, not
to a measurement: benchmarks/gpu_check.py compares it with a GPU's peak."""

from __future__ import annotations

import contextlib
import weakref

import pytest

from trainers import memory

pytestmark = [
    pytest.mark.xdist_group("memory"),  # one worker: importing bitsandbytes and TRL is dear
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # PEFT asks for the old name
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated"),  # TRL sets the old name by default
]
TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def asked(flags: str):
    import check

    again = "" if "--activation_checkpointing" in flags else "--activation_checkpointing false"
    base = f"--model_name_or_path x --dataset_name x --output_dir x --use_cpu --bf16 false {again}"
    return check.read_arguments([*base.split(), *flags.split()])


def on_a_gpu(flags: str = "", length: int = 128, share: float = 1.0, accumulates=False, **config) -> dict:
    """The estimate of one packed step in bfloat16, as a GPU would take it."""
    from transformers import LlamaConfig

    args, training = asked(f"--packing --max_length {length} --dtype bfloat16 {flags}")
    training.use_cpu, training.bf16 = False, True
    return memory.step(LlamaConfig(**TINY | config), args, training, 1, length, accumulates, (), share)


def test_kernels_of_varying_length_keep_no_square_of_masks():
    for kernel in ("torch_varlen", "flash_attention_2"):
        flag = f"--attn_implementation {kernel}"
        short, long = (on_a_gpu(flag, length)["activations"] for length in (256, 2048))
        assert long / 2048 == pytest.approx(short / 256, rel=0.01)
    assert on_a_gpu(length=2048)["activations"] > 1.5 * long  # sdpa's square, a copy in each layer


def test_a_window_and_soft_caps_keep_no_square_either():
    from transformers import Gemma2Config

    args, training = asked("--packing --dtype bfloat16 --attn_implementation flash_attention_2")
    training.use_cpu = False
    config = Gemma2Config(**TINY, num_key_value_heads=2, head_dim=16, sliding_window=64)
    short, long = (memory.step(config, args, training, 1, length)["activations"] for length in (256, 1024))
    assert long / 1024 == pytest.approx(short / 256, rel=0.01)


def test_dropout_keeps_a_byte_per_element_on_a_gpu():
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from trainers import ledger, memory_gpu

    plain, kept = torch.nn.functional.dropout, {}
    for name, kernels in (("cpu", contextlib.nullcontext), ("gpu", memory_gpu.kernels)):
        with FakeTensorMode():
            inputs = torch.ones(100, dtype=torch.bfloat16, requires_grad=True)
            found = ledger.Ledger([inputs])
            with found, kernels():
                result = torch.nn.Dropout(0.1)(inputs)
                kept[name] = sum(found.alive.values())
                result.sum().backward()
            assert inputs.grad.shape == inputs.shape
    assert kept == {"cpu": 200 + 200, "gpu": 200 + 100} and torch.nn.functional.dropout is plain
    # Layers that run again in the backward pass make the same.
    again = on_a_gpu("--use_peft --activation_checkpointing true")
    assert again["activations"] < 0.5 * on_a_gpu("--use_peft")["activations"]


def test_an_adapter_s_dropout_in_the_estimate():
    """A byte for each input of its layers, but for the first three: what they read has no gradient."""
    dropped, whole = (on_a_gpu(f"--use_peft --lora_dropout {p}")["activations"] for p in (0.5, 0.0))
    assert dropped - whole == 128 * (2 * (6 * 64 + 128) - 3 * 64)


def keeps_its_input(layer, again: bool) -> bool:
    """Whether what a layer reads stays alive until the backward pass, activation checkpointing or not."""
    import torch
    from torch.utils.checkpoint import checkpoint

    seen = []

    def block(inputs):
        inner = inputs * 2
        seen.append(weakref.ref(inner.untyped_storage()))
        return layer(inner)

    inputs = torch.ones(4, 32, requires_grad=True)
    result = checkpoint(block, inputs, use_reentrant=False) if again else block(inputs)
    alive = seen[0]() is not None
    result.sum().backward()
    return alive


@pytest.mark.parametrize("again", [False, True], ids=["once", "checkpointed"])
def test_eight_bit_layers_keep_their_inputs_as_bitsandbytes_does(again):
    import bitsandbytes
    import torch

    from trainers import memory_gpu

    frozen = torch.nn.Linear(32, 16, bias=False).requires_grad_(False)
    real = bitsandbytes.nn.Linear8bitLt(32, 16, bias=False, has_fp16_weights=False)
    real.weight = bitsandbytes.nn.Int8Params(frozen.weight.data, requires_grad=False, has_fp16_weights=False)
    estimated = torch.nn.Linear(32, 16, bias=False).requires_grad_(False)
    model = torch.nn.ModuleDict({"layer": estimated})
    model.get_output_embeddings = lambda: None
    memory_gpu.eight_bit(model)
    kept = [keeps_its_input(layer, again) for layer in (frozen, real.to("cpu"), estimated)]
    assert kept == [False, True, True]


def test_inputs_of_eight_bit_layers_are_in_the_estimate():
    """The norms' results and the MLP's product, which nothing else needs; all but the first layer's first."""
    plain, eight = (on_a_gpu(f"--use_peft {flags}", 512) for flags in ("", "--load_in_8bit"))
    more = 512 * 2 * (2 * (64 + 64 + 128) - 64)
    assert eight["activations"] - plain["activations"] == pytest.approx(more, rel=0.05)


def test_only_labelled_tokens_reach_a_gpu_s_head_and_their_logits_are_not_copied():
    wide = {"vocab_size": 32_768}
    few, every = (on_a_gpu(length=2048, share=share, num_hidden_layers=1, **wide) for share in (0.1, 1.0))
    assert every["backward"] - few["backward"] == pytest.approx(0.9 * 2047 * (32_768 * 2 + 64 * 4), rel=0.02)


def test_gradients_that_are_added_to_are_there_beside_the_activations():
    one = on_a_gpu("--attn_implementation torch_varlen", 256)
    more = on_a_gpu("--attn_implementation torch_varlen", 256, accumulates=True)
    assert more["total"] >= one["weights"] + one["optimizer"] + 2 * one["trainable"] + one["activations"]
