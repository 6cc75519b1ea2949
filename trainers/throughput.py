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


def flops(model: torch.nn.Module) -> tuple[int, int]:
    """Floating point operations of training: for each token, and for each squared document length.

    6 for each trained weight that is multiplied and 4 for each frozen one (its gradient is not computed), and
    6 x layers x hidden size x length^2 for causal attention, half of what PaLM's appendix B
    (https://huggingface.co/papers/2204.02311) counts without the mask. Recomputing activations does not count.
    `mfu` = these operations per second / (`PEAKS` x devices).
    """
    config = model.config.get_text_config()
    trained, every = model.get_nb_trainable_parameters() if is_peft_model(model) else (None, model.num_parameters())
    trained = model.num_parameters(only_trainable=True) if trained is None else trained
    looked_up = 0 if config.tie_word_embeddings else model.get_input_embeddings().weight.numel()
    frozen = every - trained
    frozen, trained = (frozen - looked_up, trained) if frozen >= looked_up else (frozen, trained - looked_up)
    return 6 * trained + 4 * frozen, 6 * config.num_hidden_layers * config.hidden_size


def device_peak(device: torch.device) -> float | None:
    """Operations per second that the device could do, from `PEAKS`; `None` for one that is not there."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return next((peak * 1e12 for known, peak in PEAKS.items() if known in name), None)


def peak_memory(device: torch.device) -> int:
    """Most bytes so far: of tensors on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
