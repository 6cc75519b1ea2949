"""How much memory a training step takes, from config.json alone.

The step is taken for real, with tensors that have shapes and no contents (torch's FakeTensorMode): the model of the
config, TRL's loss, the backward pass, PEFT's adapter, activation checkpointing and mixed precision as in training. A
ledger adds up what is alive after every operation, so that nothing is assumed about the architecture.

Not in it: the CUDA context (some 0.5 GiB), fragmentation, and what several GPUs share among them.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import warnings
import weakref
from typing import TYPE_CHECKING

from instruct_builders.errors import ConfigError

from . import models

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig
    from trl import SFTConfig

# Bytes per weight that is trained, beside the weight and its gradient; "states" is how many copies of its own type.
STATES = {"adamw": 2, "adam": 2, "lion": 1, "rmsprop": 1, "adagrad": 1, "adafactor": 0, "sgd": 0}
# NF4 in blocks of 64 with double quantisation: 4 bits, an 8-bit scale per block, a 32-bit one per 256 blocks.
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
INT8 = 1.0


def ways(
    config: PretrainedConfig, args: models.ModelArguments, training: SFTConfig, length: int, vocabulary: int = 0
) -> dict:
    """The estimate for training all weights, an adapter, and an adapter on a quantised base.

    Args:
        config (`PretrainedConfig`): The model's.
        args (`ModelArguments`): What recipes/sft.py was asked for; its adapter is the one of LoRA and QLoRA.
        training (`SFTConfig`): Batch, packing, checkpointing, mixed precision and optimizer.
        length (`int`): Tokens of the longest row.
        vocabulary (`int`, *optional*, defaults to 0): Tokens of the tokenizer, where they are more than the model's.

    Returns:
        `dict`: `chosen` (which way the arguments ask for), `batch`, `length`, and `ways`: name -> bytes per term
        (`weights`, `optimizer`, `gradients`, `activations`, `loss`, `backward`, together the `total`; `trainable` is
        a number of weights). Gradients, activations and what follows are those alive at the peak. `failed` instead of
        `ways` where the architecture can't be run without contents.
    """
    batch = training.per_device_train_batch_size
    if training.packing or training.padding_free:  # one row without padding
        batch, length = 1, (training.max_length if training.packing else length) * batch
    chosen = "QLoRA" if args.load_in_4bit or args.load_in_8bit else "LoRA" if args.use_peft else "full"
    found = {"chosen": chosen, "batch": batch, "length": length}
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.vocab_size = max(text.vocab_size, vocabulary)
    one = dataclasses.replace(args, use_peft=False), dataclasses.replace(args, use_peft=True)
    try:
        full, lora = (step(config, way, training, batch, length) for way in one)
    except RuntimeError as error:  # an operation that has no shape without contents, as in some mixtures of experts
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return found | {"failed": f"{type(config).__name__} can't be run without contents: {reason}"}
    return found | {"ways": {"full": full, "LoRA": lora, "QLoRA": quantised(lora, args.load_in_8bit)}}


def step(config: PretrainedConfig, args: models.ModelArguments, training: SFTConfig, batch: int, length: int) -> dict:
    """Bytes per term of one training step of `batch` rows of `length` tokens, at its peak."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    accumulates = training.gradient_accumulation_steps > 1
    with torch.device("meta"), warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 by a name that it is about to give up.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        model = build(config, args, training)
    with FakeTensorMode():
        without_contents(model)
        weights = {id(weight): weight for weight in model.parameters()}.values()
        trained = [weight for weight in weights if weight.requires_grad]
        gradients = sum(map(_size, trained))
        ledger = Ledger([*weights, *model.buffers()])
        ids = torch.ones(batch, length, dtype=torch.long)
        mask = None if training.packing or training.padding_free else torch.ones_like(ids)
        mixed = torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else None
        cast = torch.autocast("cpu", dtype=mixed) if mixed else contextlib.nullcontext()
        with ledger:
            _backbone(model).register_forward_hook(lambda *_: ledger.enter("loss"))  # TRL's head comes behind it
            with cast:
                loss = model(input_ids=ids, attention_mask=mask, labels=ids, fused_lm_head=True).loss
            ledger.enter("backward")
            loss.backward()
        peak, alive = ledger.at_peak([weight.grad for weight in trained])
        linear = _quantisable(model)
    optimizer = sum(map(_states(training), trained))
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


def build(config: PretrainedConfig, args: models.ModelArguments, training: SFTConfig) -> torch.nn.Module:
    """The model as recipes/sft.py and TRL make it, on the device that is the default."""
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    dtype = models.torch_dtype(args.dtype)
    if dtype == "auto":
        dtype = getattr(config, "dtype", None) or models.torch_dtype("float32")
    # Flash attention keeps what sdpa keeps, and does not run here.
    attention = "eager" if args.attn_implementation == "eager" else "sdpa"
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
        model = get_peft_model(model, models.lora_config(args))
    return model.train()


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


class Ledger:
    """What is alive after every operation, by the phase it was made in, while it is entered with `with`."""

    def __init__(self, known: list[torch.Tensor]):
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves

        ledger = self

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                result = function(*args, **(kwargs or {}))
                ledger.note(tree_leaves(result))
                return result

        self.mode = Mode()
        self.phase, self.clock, self.time = "forward", 0, 0
        self.alive = {"forward": 0, "loss": 0, "backward": 0}
        self.peak = dict(self.alive)
        self.seen = {tensor.untyped_storage()._cdata: (0, "forward", 0) for tensor in known}
        self.known = known  # kept alive, so that none of their addresses is used again

    def __enter__(self):
        self.mode.__enter__()
        return self

    def __exit__(self, *error):
        return self.mode.__exit__(*error)

    def enter(self, phase: str) -> None:
        """What is made from now on belongs to `phase`. Layers that run again in the backward pass change nothing."""
        if self.phase != "backward":
            self.phase = phase

    def note(self, results: list) -> None:
        import torch

        self.clock += 1
        for tensor in results:
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in self.seen:
                self.seen[storage._cdata] = (storage.nbytes(), self.phase, self.clock)
                self.alive[self.phase] += storage.nbytes()
                weakref.finalize(storage, self.freed, storage._cdata)
        if sum(self.alive.values()) > sum(self.peak.values()):
            self.peak, self.time = dict(self.alive), self.clock

    def freed(self, key: int) -> None:
        size, phase, _ = self.seen.pop(key)
        self.alive[phase] -= size

    def at_peak(self, gradients: list[torch.Tensor]) -> tuple[dict[str, int], int]:
        """Bytes per phase at the peak, and how many of them are gradients."""
        found = {gradient.untyped_storage()._cdata for gradient in gradients if gradient is not None}
        entries = [self.seen[key] for key in found if key in self.seen]
        return self.peak, sum(size for size, phase, clock in entries if phase == "backward" and clock <= self.time)


def _backbone(model: torch.nn.Module) -> torch.nn.Module:
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    return whole.base_model


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _states(training: SFTConfig):
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
