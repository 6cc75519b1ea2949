"""How much memory a training step takes, from config.json alone.

The step is taken for real, with tensors that have shapes and no contents (torch's FakeTensorMode): the model of the
config, the loss (TRL's, or on a CPU the one of head.py), the backward pass, PEFT's adapter, activation checkpointing
and mixed precision as in training. A ledger adds up what is alive after every operation, so that nothing is assumed
about the architecture. The kernels are the CPU's; where a GPU's keep something else, memory_gpu.py says what.

Not in it: the CUDA context (some 0.5 GiB), fragmentation, and what several GPUs share among them.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from instruct_builders.errors import ConfigError

from . import adapters, models
from .ledger import Ledger

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig
    from transformers.utils import ModelOutput
    from trl import SFTConfig

# Bytes per weight that is trained, beside the weight and its gradient; "states" is how many copies of its own type.
STATES = {"adamw": 2, "adam": 2, "lion": 1, "rmsprop": 1, "adagrad": 1, "adafactor": 0, "sgd": 0}
# NF4 in blocks of 64 with double quantisation: 4 bits, an 8-bit scale per block, a 32-bit one per 256 blocks.
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
INT8 = 1.0
VARLEN = "torch_varlen"  # varlen.NAME; that module imports torch


def ways(
    config: PretrainedConfig,
    args: models.ModelArguments,
    training: SFTConfig,
    length: int,
    vocabulary: int = 0,
    added: Sequence[int] = (),
    share: float = 1.0,
) -> dict:
    """The estimate for training all weights, an adapter, and an adapter on a quantised base.

    Args:
        config (`PretrainedConfig`): The model's.
        args (`ModelArguments`): What recipes/sft.py was asked for; its adapter is the one of LoRA and QLoRA.
        training (`SFTConfig`): Batch, packing, checkpointing, mixed precision and optimizer.
        length (`int`): Tokens of the longest row.
        vocabulary (`int`, *optional*, defaults to 0): Tokens of the tokenizer, where they are more than the model's.
        added (`Sequence[int]`, *optional*): Ids of new tokens, which an adapter trains beside its own weights.
        share (`float`, *optional*, defaults to 1.0): Of the tokens that are labelled: the others are not scored.

    Returns:
        `dict`: `chosen` (which way the arguments ask for), `batch`, `length`, and `ways`: name -> bytes per term
        (`weights`, `optimizer`, `gradients`, `activations`, `loss`, `backward`, together the `total`; `trainable` is
        a number of weights). Gradients, activations and what follows are those alive at the peak. `failed` instead of
        `ways` where the architecture can't be run without contents.
    """
    batch = training.per_device_train_batch_size
    accumulates = training.gradient_accumulation_steps > 1
    if training.packing:  # one row without padding; see sft.settle_packing
        together = varying(args.attn_implementation)
        accumulates = accumulates or (batch > 1 and not together)
        batch, length = 1, training.max_length * (batch if together else 1)
    elif training.padding_free:
        batch, length = 1, length * batch
    chosen = "QLoRA" if args.load_in_4bit or args.load_in_8bit else "LoRA" if args.use_peft else "full"
    found = {"chosen": chosen, "batch": batch, "length": length}
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.vocab_size = max(text.vocab_size, vocabulary)
    plain = dataclasses.replace(args, load_in_8bit=False)
    one = [dataclasses.replace(plain, use_peft=False), dataclasses.replace(plain, use_peft=True)]
    one += [dataclasses.replace(args, use_peft=True)] if args.load_in_8bit else []
    noise = logging.getLogger("torch._subclasses.fake_tensor")  # prints a traceback of what is told in a line below
    noise.disabled = True
    try:
        full, lora, *eight = (step(config, way, training, batch, length, accumulates, added, share) for way in one)
    except RuntimeError as error:  # an operation that has no shape without contents, as in some mixtures of experts
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return found | {"failed": f"{type(config).__name__} can't be run without contents: {reason}"}
    finally:
        noise.disabled = False
    return found | {"ways": {"full": full, "LoRA": lora, "QLoRA": quantised(*eight or [lora], args.load_in_8bit)}}


def varying(attention: str | None) -> bool:
    """Whether a kernel takes documents of varying length one by one. The trainer's own question needs the model."""
    return bool(attention) and ("flash" in attention or attention in ("flex_attention", VARLEN))


def step(
    config: PretrainedConfig,
    args: models.ModelArguments,
    training: SFTConfig,
    batch: int,
    length: int,
    accumulates: bool = False,
    added: Sequence[int] = (),
    share: float = 1.0,
) -> dict:
    """Bytes per term of one training step of `batch` rows of `length` tokens, at its peak. The rest as in [`ways`]."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from . import memory_gpu

    with torch.device("meta"), adapters.old_names_allowed():
        model = build(config, args, training, added)
    with FakeTensorMode():
        without_contents(model)
        weights = {id(weight): weight for weight in model.parameters()}.values()
        trained = [weight for weight in weights if weight.requires_grad]
        gradients = sum(map(_size, trained))
        for weight in trained if accumulates else []:  # what is added to gradients that are there is freed at once
            weight.grad = torch.empty_like(weight)
        there = [weight.grad for weight in trained if accumulates]
        ledger = Ledger([*weights, *model.buffers(), *there])
        ids = torch.ones(batch, length, dtype=torch.long)
        attention = memory_gpu.attention(config, args.attn_implementation, _together(training))
        padded = not _together(training) and attention != memory_gpu.ATTENTION
        mask = torch.ones_like(ids) if padded else None
        mixed = torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else None
        cast = torch.autocast("cpu", dtype=mixed) if mixed else contextlib.nullcontext()
        with ledger, contextlib.nullcontext() if training.use_cpu else memory_gpu.kernels():
            _backbone(model).register_forward_hook(lambda *_: ledger.enter("loss"))  # TRL's head comes behind it
            with cast:
                loss = _loss(model, ids, mask, max(int(share * batch * (length - 1)), 1), training.use_cpu)
            ledger.enter("backward")
            loss.backward()
        peak, alive = ledger.at_peak([weight.grad for weight in trained])
        linear = _quantisable(model)
    optimizer = sum(map(states_of(training), trained))
    terms = {
        "weights": sum(map(_size, weights)),
        "optimizer": optimizer,
        "gradients": gradients if accumulates else alive,
        "activations": peak["forward"],
        "loss": peak["loss"],
        "backward": peak["backward"] - alive,
    }
    # After the last gradient there are all of them and no activations: a small batch of a large model peaks there.
    total = max(sum(terms.values()), terms["weights"] + optimizer + gradients)
    terms["gradients"] += total - sum(terms.values())
    return terms | {"total": total, "trainable": sum(weight.numel() for weight in trained), **linear}


def _loss(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor | None, labelled: int, cpu: bool):
    """TRL's loss, or where `head.score_labelled_only` takes its place, that of the labelled tokens."""
    from .head import PLAIN_LOGITS, score

    head, given = _whole(model).get_output_embeddings(), {"input_ids": ids, "attention_mask": mask}
    if not cpu:  # `compact` in trl/trainer/utils.py: with Triton the head sees a copy of the labelled positions
        _backbone(model).register_forward_hook(lambda _, __, out: _first(out, labelled))
        return model(**given, shift_labels=ids.flatten()[None, :labelled], fused_lm_head=True).loss
    if labelled * model.config.get_text_config().vocab_size > PLAIN_LOGITS:
        return model(**given, labels=ids, fused_lm_head=True).loss
    head.register_forward_pre_hook(lambda _, hidden: (hidden[0].flatten(0, 1)[:labelled].clone(),))
    logits = model(**given, use_cache=False).logits
    return -score(logits, ids.flatten()[:labelled])[0].mean()


def _first(out: ModelOutput, labelled: int) -> ModelOutput:
    out.last_hidden_state = out.last_hidden_state.flatten(0, 1)[None, :labelled].clone()
    return out


def build(
    config: PretrainedConfig, args: models.ModelArguments, training: SFTConfig, added: Sequence[int] = ()
) -> torch.nn.Module:
    """The model as recipes/sft.py and TRL make it, on the device that is the default."""
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    from . import memory_gpu

    dtype = models.torch_dtype(args.dtype)
    if dtype == "auto":
        dtype = getattr(config, "dtype", None) or models.torch_dtype("float32")
    attention = memory_gpu.attention(config, args.attn_implementation, _together(training))
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    if model.get_output_embeddings() is None:
        raise ConfigError(f"{type(model).__name__} has no output embeddings, so it can't be trained on text.")
    model.config.use_cache = False
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    if checkpoints(training):
        model.activation_checkpointing_enable()
    if args.use_peft:
        from peft import get_peft_model

        if checkpoints(training):
            model.enable_input_require_grads()
        tied = config.get_text_config().tie_word_embeddings
        model = get_peft_model(model, models.lora_config(args, list(added), tied=tied))
        if args.load_in_8bit:
            memory_gpu.eight_bit(model)
    return model.train()


def _together(training: SFTConfig) -> bool:
    """Whether rows lie end to end, without padding."""
    return bool(training.packing or training.padding_free)


def without_contents(model: torch.nn.Module) -> None:
    """Weights and buffers on the meta device -> ones that pass for real on the CPU; tied weights stay tied."""
    import torch

    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for group in (module._parameters, module._buffers):
            for name, old in group.items():
                if old is None:
                    continue
                if id(old) not in made:
                    new = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype, device="cpu")
                    trained = isinstance(old, torch.nn.Parameter)
                    made[id(old)] = torch.nn.Parameter(new, requires_grad=old.requires_grad) if trained else new
                group[name] = made[id(old)]


def checkpoints(training: SFTConfig) -> bool:
    """Whether activations are computed again in the backward pass; the newer of two names wins."""
    new = getattr(training, "activation_checkpointing", None)
    return bool(training.gradient_checkpointing if new is None else new)


def quantised(lora: dict, eight_bit: bool) -> dict:
    """QLoRA from LoRA: smaller weights, adapters in 16 bits, and one layer's weights dequantised at a time."""
    packed = lora["linear_weights"] * (INT8 if eight_bit else NF4)
    terms = {name: lora[name] for name in ("optimizer", "gradients", "activations", "loss", "backward")}
    # TRL puts the adapters of a quantised model into bfloat16, and with them their gradients and optimizer states.
    half = lora["trainable"] * 2 / max(lora["trainable_bytes"], 1)
    terms["optimizer"], terms["gradients"] = int(terms["optimizer"] * half), int(terms["gradients"] * half)
    terms["backward"] += lora["largest_linear"] * 2
    saved = lora["trainable_bytes"] - lora["trainable"] * 2
    terms = {"weights": int(lora["weights"] - lora["linear_bytes"] + packed - saved)} | terms
    return terms | {"total": sum(terms.values()), "trainable": lora["trainable"]}


def _whole(model: torch.nn.Module) -> torch.nn.Module:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _backbone(model: torch.nn.Module) -> torch.nn.Module:
    return _whole(model).base_model


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def states_of(training: SFTConfig):
    """Bytes of optimizer state for one weight tensor."""
    name = str(getattr(training.optim, "value", training.optim))
    kind = next((kind for kind in STATES if kind in name), "adamw")
    if "8bit" in name:
        return lambda weight: STATES[kind] * weight.numel()
    if kind == "adafactor":  # one number per row and per column
        return lambda weight: 4 * (weight.numel() if weight.dim() < 2 else sum(weight.shape))
    return lambda weight: STATES[kind] * _size(weight)


def _quantisable(model: torch.nn.Module) -> dict[str, int]:
    """The weights that bitsandbytes would quantise: linear layers, but for the head and the adapter's own."""
    import torch

    head = model.get_output_embeddings()
    frozen = [
        layer.weight
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and layer is not head and "lora_" not in name
    ]
    trained = {id(weight): weight for weight in model.parameters() if weight.requires_grad}.values()
    return {
        "linear_weights": sum(weight.numel() for weight in frozen),
        "linear_bytes": sum(map(_size, frozen)),
        "largest_linear": max((weight.numel() for weight in frozen), default=0),
        "trainable_bytes": sum(map(_size, trained)),
    }
