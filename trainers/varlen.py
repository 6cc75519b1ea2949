"""Attention over packed documents with what torch brings along: `attn_implementation: torch_varlen`.

Flash attention for documents of varying length without another package to build or to download. On a CPU, where torch
has no such kernel, each document goes through its own SDPA: the same result, and no square over the whole bin.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from instruct_builders.errors import ConfigError

NAME = "torch_varlen"


def register() -> None:
    """Makes `NAME` known to transformers. A mask is made for padded batches alone, as for flash attention."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flash_attention_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, flash_attention_mask)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Causal attention, each document by itself where `cu_seq_lens_q` tells them apart.

    Args:
        module (`torch.nn.Module`): The layer; not used.
        query (`torch.Tensor`): Shape (batch, heads, length, head size). `key` and `value` may have fewer heads.
        attention_mask (`torch.Tensor`, *optional*): Shape (batch, length), zero for padding; `None` without any.
        cu_seq_lens_q (`torch.Tensor`, *optional*): Where documents begin, and the end; int32, from TRL's collator.
        max_length_q (`int`, *optional*): Tokens of the longest of them.

    Returns:
        `tuple`: The result, shape (batch, length, heads, head size), and `None` for weights that nobody computes.

    Raises:
        ConfigError: For a model whose attention has dropout, soft caps or sees what follows.
    """
    if dropout or softcap or not getattr(module, "is_causal", True):
        raise ConfigError(
            f"attn_implementation: {NAME} has no dropout and no soft caps and sees nothing that follows; this model's "
            "attention needs one of these. Choose sdpa, flex_attention or flash_attention_2."
        )
    options = {"scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    if cu_seq_lens_q is None:
        return _dense(query, key, value, attention_mask, sliding_window, options), None
    if query.device.type != "cuda":
        ends = cu_seq_lens_q.tolist()
        documents = [[part[:, :, a:b] for part in (query, key, value)] for a, b in pairwise(ends)]
        return torch.cat([_dense(*parts, None, sliding_window, options) for parts in documents], 1), None
    from torch.nn.attention.varlen import varlen_attn

    # The kernel takes 16 bits; under autocast rotary embeddings leave queries and keys in 32.
    kind = value.dtype if value.dtype in (torch.float16, torch.bfloat16) else torch.bfloat16
    parts = (part[0].transpose(0, 1).to(kind) for part in (query, key, value))
    ends, longest = (cu_seq_lens_q, cu_seq_lens_q), (max_length_q, max_length_q)
    before = sliding_window - 1 if sliding_window else -1  # -1: everything that came before
    out = varlen_attn(*parts, *ends, *longest, window_size=(before, 0), **options)
    return out[None].to(value.dtype), None


def _dense(query, key, value, padding: torch.Tensor | None, window: int | None, options: dict) -> torch.Tensor:
    """Rows beside each other; the queries are the last of the keys, as when a model generates."""
    length, known = query.shape[2], key.shape[2]
    window = window if window and window < known else None
    if padding is None and window is None and length == known:
        return sdpa(query, key, value, is_causal=True, **options).transpose(1, 2)
    allowed = torch.ones(length, known, dtype=torch.bool, device=query.device).tril(known - length)
    own = allowed.triu(known - length)
    allowed = allowed.triu(known - length - window + 1) if window else allowed
    if padding is not None:  # a padding token sees itself, since seeing nothing gives no number
        allowed = allowed & padding[:, None, None, -known:].bool() | own
    return sdpa(query, key, value, attn_mask=allowed, **options).transpose(1, 2)
