"""The output head on labelled tokens alone: what InstructTrainer computes on a CPU instead of TRL's fused loss."""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from trl.trainer.utils import FusedCausalLMOutput

from .labels import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Labelled tokens x vocabulary up to which their logits are kept at once: 1 GiB in float32, about three times that
# while the gradient is computed.
PLAIN_LOGITS = 2**28


def score_labelled_only(model: PreTrainedModel) -> None:
    """Replaces TRL's head, where it has no GPU kernel, by the model's own on labelled tokens alone.

    Without its kernel TRL projects every position, padding and prompts too, and again in the backward pass: most of a
    small model's step. Here the hidden states of labelled tokens go through the model's own head and a plain
    cross-entropy. Where their logits would take more than `PLAIN_LOGITS` values TRL's way, in chunks, is kept.

    Args:
        model (`PreTrainedModel`): The base model, after TRL's `add_fused_lm_head`. Changed in place.
    """
    fused = model.forward

    @functools.wraps(type(model).forward)  # `generate` reads the signature
    def forward(self, *args, fused_lm_head=False, labels=None, shift_labels=None, **kwargs):
        mask = None if labels is None or shift_labels is not None else labels[:, 1:] != IGNORED
        head = self.get_output_embeddings()
        if not fused_lm_head or mask is None or int(mask.sum()) * head.weight.shape[0] > PLAIN_LOGITS:
            given = {"labels": labels, "shift_labels": shift_labels}
            given = {name: value for name, value in given.items() if value is not None}
            return fused(*args, fused_lm_head=fused_lm_head, **given, **kwargs)
        kwargs.pop("num_items_in_batch", None)
        # The hook leaves all that comes after the head (scaling, soft caps) to the model.
        # TRL casts what is trained under a quantised base to bfloat16, a head with new tokens too.
        hook = head.register_forward_pre_hook(lambda _, hidden: (hidden[0][:, :-1][mask].to(head.weight.dtype),))
        try:
            out = fused(*args, **(kwargs | {"use_cache": False}))
        finally:
            hook.remove()
        chosen, entropy, is_top1 = score(out.logits, labels[:, 1:][mask])
        return FusedCausalLMOutput(
            log_probs=chosen,
            entropy=entropy,
            is_top1=is_top1,
            label_mask=mask,
            aux_loss=getattr(out, "aux_loss", None),
        )

    model.forward = types.MethodType(forward, model)


def score(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probability of each target token, entropy, and whether the target is the likeliest; shape (tokens,).

    Args:
        logits (`torch.Tensor`): Shape (tokens, vocabulary).
        target (`torch.Tensor`): Shape (tokens,).
    """
    scores = functional.log_softmax(logits.float(), -1)
    chosen = scores.gather(-1, target[:, None])[:, 0]
    with torch.no_grad():
        entropy = -torch.linalg.vecdot(scores.exp(), scores)
        is_top1 = chosen.detach() == scores.amax(-1)  # an argmax is no vector operation: 10 times slower
    return chosen, entropy, is_top1
