"""How much memory a training step of an encoder-decoder takes, from config.json alone; see memory.py."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import warnings
from typing import TYPE_CHECKING

from . import memory, models, seq2seq_models

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, Seq2SeqTrainingArguments

    from .seq2seq_models import Seq2SeqArguments


def ways(
    config: PretrainedConfig, args: Seq2SeqArguments, training: Seq2SeqTrainingArguments, source: int, target: int
) -> dict:
    """The estimate for training all weights, an adapter, and an adapter on a quantised base.

    Args:
        config (`PretrainedConfig`): The model's.
        args (`Seq2SeqArguments`): What the recipe was asked for.
        training (`Seq2SeqTrainingArguments`): Batch, checkpointing, mixed precision and optimizer.
        source (`int`), target (`int`): Tokens of the longest input and the longest answer.

    Returns:
        `dict`: As [`memory.ways`].
    """
    chosen = "QLoRA" if args.load_in_4bit or args.load_in_8bit else "LoRA" if args.use_peft else "full"
    found = {"chosen": chosen, "batch": training.per_device_train_batch_size, "length": source + target}
    one = dataclasses.replace(args, use_peft=False), dataclasses.replace(args, use_peft=True)
    try:
        full, lora = (_step(config, way, training, source, target) for way in one)
    except RuntimeError as error:  # an operation that has no shape without contents
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return found | {"failed": f"{type(config).__name__} can't be run without contents: {reason}"}
    return found | {"ways": {"full": full, "LoRA": lora, "QLoRA": _quantised(lora, args.load_in_8bit)}}


def _step(config, args: Seq2SeqArguments, training: Seq2SeqTrainingArguments, source: int, target: int) -> dict:
    """Bytes per term of one training step, at its peak."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from . import memory_gpu
    from .seq2seq import mean_over_answers

    with torch.device("meta"), warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 by a name that it is about to give up.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        model = _build(config, args, training)
    with FakeTensorMode():
        memory.without_contents(model)
        weights = {id(weight): weight for weight in model.parameters()}.values()
        trained = [weight for weight in weights if weight.requires_grad]
        gradients = sum(map(memory._size, trained))
        ledger = memory.Ledger([*weights, *model.buffers()])
        batch = training.per_device_train_batch_size
        ids, labels = (torch.ones(batch, length, dtype=torch.long) for length in (source, target))
        mixed = torch.bfloat16 if training.bf16 else None
        cast = torch.autocast("cpu", dtype=mixed) if mixed else contextlib.nullcontext()
        with ledger, contextlib.nullcontext() if training.use_cpu else memory_gpu.kernels():
            with cast:
                out = model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=labels)
            ledger.enter("loss")
            loss = mean_over_answers(out, labels, batch * target)
            del out
            ledger.enter("backward")
            loss.backward()
        peak, alive = ledger.at_peak([weight.grad for weight in trained])
        linear = _quantisable(model)
    optimizer = sum(map(memory.states_of(training), trained))
    terms = {
        "weights": sum(map(memory._size, weights)),
        "optimizer": optimizer,
        "gradients": gradients if training.gradient_accumulation_steps > 1 else alive,
        "activations": peak["forward"],
        "loss": peak["loss"],
        "backward": peak["backward"] - alive,
    }
    # After the last gradient there are all of them and no activations: a small batch of a large model peaks there.
    total = max(sum(terms.values()), terms["weights"] + optimizer + gradients)
    terms["gradients"] += total - sum(terms.values())
    return terms | {"total": total, "trainable": sum(weight.numel() for weight in trained), **linear}


def _build(config, args: Seq2SeqArguments, training: Seq2SeqTrainingArguments) -> torch.nn.Module:
    """The model as recipes/flan_t5.py makes it, on the device that is the default."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    dtype = models.torch_dtype(args.dtype)
    if dtype == "auto":
        dtype = getattr(config, "dtype", None) or models.torch_dtype("float32")
    attention = "eager" if args.attn_implementation == "eager" else "sdpa"
    # A copy: the model keeps its configuration, and what is set in it here must not be there the next time.
    model = AutoModelForSeq2SeqLM.from_config(copy.deepcopy(config), dtype=dtype, attn_implementation=attention)
    if getattr(config, "scale_decoder_outputs", None) is False:  # T5 1.1 and FLAN-T5: a head of its own
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
        model.config.tie_word_embeddings = False
    model.config.use_cache = False
    if memory.checkpoints(training):
        model.activation_checkpointing_enable()
    if args.use_peft:
        from peft import get_peft_model

        model = get_peft_model(model, seq2seq_models.lora_config(args))
        model.enable_input_require_grads()
    return model.train()


def _quantisable(model: torch.nn.Module) -> dict[str, int]:
    """The weights that bitsandbytes would quantise: linear layers, but for the head and those that T5 keeps wide."""
    import torch

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    kept = {"lm_head", *(base._keep_in_fp32_modules or ())}  # wo: its inputs are T5's largest numbers
    frozen = [
        layer.weight
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and "lora_" not in name and not kept & set(name.split("."))
    ]
    return {
        "linear_weights": sum(weight.numel() for weight in frozen),
        "linear_bytes": sum(map(memory._size, frozen)),
        "largest_linear": max((weight.numel() for weight in frozen), default=0),
    }


def _quantised(lora: dict, eight_bit: bool) -> dict:
    """QLoRA from LoRA: smaller weights, and one layer's weights dequantised at a time."""
    packed = lora["linear_weights"] * (memory.INT8 if eight_bit else memory.NF4)
    terms = {name: lora[name] for name in ("weights", "optimizer", "gradients", "activations", "loss", "backward")}
    terms["weights"] = int(lora["weights"] - lora["linear_bytes"] + packed)
    terms["backward"] += lora["largest_linear"] * 2
    return terms | {"total": sum(terms.values()), "trainable": lora["trainable"]}
