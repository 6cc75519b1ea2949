"""What a training step costs and what the device could do: the numbers behind `mfu` and `peak_memory_gib`."""

from __future__ import annotations

import resource
import sys

import torch
from accelerate.utils import is_peft_model

# Dense peak of the 16-bit matrix units in TFLOP/s, from the makers' data sheets; a name holds if the device's contains
# it, the first one wins. Bfloat16, but float16 for V100.
PEAKS = {
    **{"GB200": 2500, "B200": 2250, "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312},
    **{"L40S": 362, "L40": 181, "L4": 121, "A40": 150, "A30": 165, "A10G": 70, "A10": 125, "RTX A6000": 155},
    **{"RTX 6000 Ada": 364, "RTX 5090": 209, "RTX 4090": 165, "RTX 3090": 71, "V100": 125, "MI300X": 1307},
}


def operations(model: torch.nn.Module) -> tuple[int, int, int]:
    """Floating point operations of training: for each token, each token that is scored, each squared document length.

    6 for each trained weight that is multiplied and 4 for each frozen one (its gradient is not computed). Weights of
    the head are multiplied with scored tokens alone ([`scored`]), all others with every token. Causal attention is
    6 x layers x hidden size x length^2, half of what PaLM's appendix B (https://huggingface.co/papers/2204.02311)
    counts without the mask. Recomputing activations does not count.

    `mfu` = these operations per second / (`PEAKS` x devices): of what is multiplied, not of what a loss over every
    token would multiply, as other tools count.

    Args:
        model (`torch.nn.Module`): A causal language model, with or without an adapter, before it is sharded.
    """
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    trained, every = model.get_nb_trainable_parameters() if is_peft_model(model) else (None, model.num_parameters())
    trained = model.num_parameters(only_trainable=True) if trained is None else trained
    # Embeddings are looked up; an adapter with new tokens holds the old head beside the new one.
    aside = {id(weight): weight for part in (model.get_input_embeddings(), head) for weight in part.parameters()}
    rest = {True: trained, False: every - trained}
    for weight in aside.values():
        rest[weight.requires_grad] -= weight.numel()
    a_score = (6 if head.weight.requires_grad else 4) * head.weight.numel()
    return 6 * rest[True] + 4 * rest[False], a_score, 6 * config.num_hidden_layers * config.hidden_size


def scored(device: torch.device, tokens: int, labelled: int) -> int:
    """How many of the tokens go through the head.

    The labelled ones where TRL's head has its Triton kernel (`compact` in trl/trainer/utils.py) and on a CPU, where
    head.py takes its place; all of them elsewhere.
    """
    from trl.kernels.chunked_logprob import _use_triton

    return labelled if device.type == "cpu" or _use_triton(device) else tokens


def device_peak(device: torch.device) -> float | None:
    """Operations per second that the device could do, from `PEAKS`; `None` for one that is not there."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return next((peak * 1e12 for known, peak in PEAKS.items() if known in name), None)


def peak_memory(device: torch.device) -> int:
    """Most bytes so far: of tensors on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
