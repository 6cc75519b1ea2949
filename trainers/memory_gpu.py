"""What a GPU keeps for the backward pass where a CPU, on which memory.py's step runs, keeps something else.

All of it was read in the sources that are named; nobody has measured it. `make gpu-check` compares it with a peak.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from . import memory

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ATTENTION = "estimated_varlen"


def attention(config: PretrainedConfig, asked: str | None, together: bool) -> str:
    """The attention that runs here and keeps what the one that was asked for keeps.

    A kernel for documents of varying length keeps queries, keys, values, its result and a number per query and head.
    sdpa and eager attention keep a square of masks beside it: transformers makes one for packed rows
    (`find_packed_sequence_indices` in masking_utils.py), and sdpa a copy in the type of the queries in each layer.

    Args:
        config (`PretrainedConfig`): The model's.
        asked (`str`, *optional*): The implementation that training takes.
        together (`bool`): Whether rows lie end to end, without padding.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING as KNOWN

    kind = KNOWN[type(config)] if type(config) in KNOWN else None
    # For padded rows torch_varlen masks sdpa, the others unpad them. Older models take no attention but their own.
    if memory.varying(asked) and (together or asked != memory.VARLEN) and kind and kind._supports_attention_backend:
        register()
        return ATTENTION
    return "eager" if asked == "eager" or (kind and not kind._supports_sdpa) else "sdpa"


def register() -> None:
    """Makes `ATTENTION` known to transformers: what a kernel for documents of varying length keeps, and no mask.

    Windows, soft caps and dropout change nothing of it: `varlen_attn` (torch/nn/attention/varlen.py) and the kernels
    of flash attention do them on the way.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flash_attention_mask

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):
        options = {"is_causal": True, "scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
        return functional.scaled_dot_product_attention(query, key, value, **options).transpose(1, 2), None

    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, flash_attention_mask)


@contextlib.contextmanager
def kernels() -> Iterator[None]:
    """Dropout and TRL's head as on a GPU while the `with` block runs, for tensors that have no contents."""
    from trl.kernels import chunked_logprob

    def nothing(*args, **kwargs) -> None:
        """Triton's kernels (trl/kernels/chunked_logprob.py) work on a tile of logits in place, and cuBLAS adds up in
        float32 by itself; what stands in for them on a CPU makes several copies of the tile."""

    plain = functional.dropout

    def dropout(inputs: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        fused = training and 0 < p < 1 and not inplace
        return _Dropout.apply(inputs) if fused else plain(inputs, p, training, inplace)

    other = {(functional, "dropout"): dropout}
    other |= {(chunked_logprob, name): nothing for name in ("_forward_tile", "_backward_tile", "_addmm_fp32")}
    before = {place: getattr(*place) for place in other}
    try:
        for place, function in other.items():
            setattr(*place, function)
        yield
    finally:
        for place, function in before.items():
            setattr(*place, function)


class _Dropout(torch.autograd.Function):
    """A byte per element is kept, the mask of `native_dropout` (torch's ATen/native/Dropout.cpp takes it on a GPU, and
    ATen/native/cuda/Dropout.cu makes the mask as bool). A CPU keeps noise of the input's type: 2 or 4 bytes."""

    @staticmethod
    def forward(ctx, inputs):
        ctx.save_for_backward(torch.empty_like(inputs, dtype=torch.bool))
        return torch.empty_like(inputs)

    @staticmethod
    def backward(ctx, gradient):
        return torch.empty_like(gradient)


def eight_bit(model: torch.nn.Module) -> None:
    """Linear layers that keep their inputs as bitsandbytes' 8-bit layers do. Changes `model` in place.

    `MatMul8bitLt.forward` (bitsandbytes/autograd/_functions.py) sets `ctx.tensors = (CAt, subA, A)`, and the CPU's
    `MatMul8bitFp` `ctx.A = A`, although the frozen weight has no gradient to need them for. Being attributes and no
    saved tensors, they stay alive under activation checkpointing too, until the layer's own backward pass is over.
    """
    head = model.get_output_embeddings()
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and layer is not head and "lora_" not in name:
            layer.forward = lambda inputs, wide=layer.out_features: _EightBit.apply(inputs, wide)


class _EightBit(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, wide: int):
        ctx.tensors = inputs
        return inputs.new_empty(*inputs.shape[:-1], wide)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.new_empty(ctx.tensors.shape), None
