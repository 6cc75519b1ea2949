"""Tokenizer, model, quantisation and LoRA for a training run: one function each."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from instruct_builders.errors import ConfigError, SourceError, TemplateError

from . import adapters, expected_warnings, places, templates

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)
DTYPES = ("auto", "bfloat16", "float16", "float32")
TEMPLATES = (templates.MODEL, *templates.NAMES, "a path")
# Tokens that a vocabulary keeps for padding, or for nothing at all, best first.
SPARE_TOKENS = (
    r"<\|?finetune_right_pad(_id)?\|?>",
    r"<\|?pad\|?>|\[PAD\]",
    r"<\|?reserved_?\w*\|?>",
    r"<unk>|\[UNK\]",
)


@dataclass(kw_only=True)
class ModelArguments:
    """Which model is trained, and how much of it. Keys are named as in TRL's `ModelConfig` where it has them.

    Args:
        model_name_or_path (`str`): A Hub id or a folder.
        model_revision (`str`, *optional*): Branch, tag or commit of the Hub repository.
        chat_template (`str`, *optional*, defaults to `"model"`):
            What prints a conversation: the model's own template, one of ours, or a .jinja file.
        dtype (`str`, *optional*, defaults to `"float32"`): Of the weights in memory.
        attn_implementation (`str`, *optional*): Such as `"sdpa"`, `"eager"` or `"flash_attention_2"`.
        use_peft (`bool`, *optional*, defaults to `False`): Train an adapter instead of all weights.
        lora_r (`int`, *optional*, defaults to 16): Rank.
        lora_alpha (`int`, *optional*, defaults to 32): The update is scaled by alpha/r, in rsLoRA by alpha/sqrt(r).
        lora_dropout (`float`, *optional*, defaults to 0.05): Dropout on the adapter's input.
        lora_target_modules (`str` or `list[str]`, *optional*, defaults to `"all-linear"`):
            Where adapters go. All linear layers but the head: QLoRA found attention alone to fall short.
        use_dora (`bool`, *optional*, defaults to `False`): Learn the weights' magnitude apart from their direction.
        use_rslora (`bool`, *optional*, defaults to `False`): Rank-stabilised scaling.
        load_in_4bit (`bool`, *optional*, defaults to `False`): NF4 base under the adapter (QLoRA).
        load_in_8bit (`bool`, *optional*, defaults to `False`): 8-bit base under the adapter.
    """

    model_name_or_path: str
    # A recipe whose model is replaced by a flag leaves the revision behind.
    model_revision: str | None = field(default=None, metadata={"belongs_to": "model_name_or_path"})
    chat_template: str = field(default=templates.MODEL, metadata={"allowed": TEMPLATES})
    dtype: str = field(default="float32", metadata={"allowed": DTYPES})
    attn_implementation: str | None = None
    use_peft: bool = False
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    lora_target_modules: str | list[str] = "all-linear"
    use_dora: bool = False
    use_rslora: bool = False
    load_in_4bit: bool = False
    load_in_8bit: bool = False


def load_tokenizer(args: ModelArguments) -> tuple[PreTrainedTokenizerBase, str, list[int]]:
    """A tokenizer that is ready to train with a chat template.

    Its EOS is the template's end-of-turn token, its padding token is chosen by [`padding_token`], and turn markers
    that its vocabulary lacks are added. It carries the template, except with `"model"`: there it keeps its own.

    Args:
        args (`ModelArguments`): `model_name_or_path`, `model_revision` and `chat_template` are used.

    Returns:
        `tuple`: The tokenizer, the text of the template to train with, and the ids of the tokens that were added.

    Raises:
        SourceError: If there is no tokenizer.
        TemplateError: If the template can't be used for training with this tokenizer.
    """
    from transformers import AutoTokenizer

    name, revision = args.model_name_or_path, args.model_revision or "main"
    places.check(name, "model_name_or_path", revision=args.model_revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise SourceError(f"no tokenizer in {name!r} at revision {revision}: {error}") from error
    template = templates.load(args.chat_template, tokenizer)
    if "eos_token" in template and tokenizer.eos_token is None:
        raise TemplateError(f"{args.chat_template!r} ends turns with eos_token; the tokenizer of {name!r} has none.")
    added = templates.missing_markers(template, tokenizer)
    if added:
        tokenizer.add_special_tokens({"extra_special_tokens": added}, replace_extra_special_tokens=False)
    try:
        stop = templates.stops(template, tokenizer)[0]
    except TemplateError as error:
        raise TemplateError(f"chat_template: {args.chat_template!r} can't be trained with: {error}") from error
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(stop)
    tokenizer.pad_token, reason = padding_token(tokenizer)
    logger.debug("padding with %r: %s", tokenizer.pad_token, reason)
    tokenizer.padding_side = "right"
    if args.chat_template != templates.MODEL:
        tokenizer.chat_template = template
    return tokenizer, template, tokenizer.convert_tokens_to_ids(added)


def padding_token(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The token to pad with, and why: padding with EOS makes some tools hide every EOS from the loss.

    Returns:
        `tuple[str, str]`: The token and the reason in words.
    """
    if tokenizer.pad_token is not None and tokenizer.pad_token != tokenizer.eos_token:
        return tokenizer.pad_token, "the tokenizer's own"
    special = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    if tokenizer.unk_token:
        special.append(tokenizer.unk_token)
    for pattern in SPARE_TOKENS:
        for token in special:
            if re.fullmatch(pattern, token) and token not in (tokenizer.eos_token, tokenizer.bos_token):
                return token, "the tokenizer has no padding token of its own; this one never ends a turn"
    return tokenizer.eos_token, "the vocabulary has no spare token; the loss is masked by length, so EOS stays trained"


def quantization_config(args: ModelArguments) -> BitsAndBytesConfig | None:
    """How the frozen base is kept during QLoRA; `None` where it is not quantised.

    Four bits are NF4 with double quantisation, as in the QLoRA paper (https://huggingface.co/papers/2305.14314), and
    the matrix products are in `args.dtype`, or in bfloat16 where that is `"auto"`; the library's default is float32.

    Raises:
        ConfigError: If both widths are asked for, or bitsandbytes is not installed.
    """
    if not (args.load_in_4bit or args.load_in_8bit):
        return None
    if args.load_in_4bit and args.load_in_8bit:
        raise ConfigError("load_in_4bit and load_in_8bit are both true. Choose one.")
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"load_in_{4 if args.load_in_4bit else 8}bit needs bitsandbytes, which is not installed. "
            'Run: pip install "instruct-builders[train,quant]"'
        )
    from transformers import BitsAndBytesConfig

    if args.load_in_8bit:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch_dtype("bfloat16" if args.dtype == "auto" else args.dtype),
    )


def load_model(
    args: ModelArguments, tokenizer: PreTrainedTokenizerBase, use_cpu: bool = False, stops: Sequence[int] = ()
) -> tuple[PreTrainedModel, str | None]:
    """A causal language model from safetensors, agreeing with the tokenizer on padding and on where to stop.

    No device map is set: the trainer places the model, under every launcher, on the device of its process.

    Args:
        args (`ModelArguments`): `model_name_or_path`, `model_revision`, `dtype`, `attn_implementation`, `load_in_*`.
        tokenizer (`PreTrainedTokenizerBase`): From [`load_tokenizer`]; the embeddings grow if it has more tokens.
        use_cpu (`bool`, *optional*, defaults to `False`): Keep a quantised model off the GPU.
        stops (`Sequence[int]`, *optional*): From [`templates.stops`]: tokens that generation is to stop on.

    Returns:
        `tuple`: The model and the commit it came from, where the Hub tells one.

    Raises:
        SourceError: If there is no such model, or its weights are pickles only.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.hub import resolve_revision

    from . import varlen

    if args.attn_implementation == varlen.NAME:
        varlen.register()
    name, commit = args.model_name_or_path, None
    if not Path(name).exists():
        commit = getattr(resolve_revision(name, args.model_revision), "resolved", None)  # None where it can't be told
    revision = commit or args.model_revision or "main"
    quantization = quantization_config(args)
    options = {"attn_implementation": args.attn_implementation, "quantization_config": quantization}
    if quantization is not None and use_cpu:
        options["device_map"] = {"": "cpu"}  # without it bitsandbytes takes the GPU where there is one
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            dtype=torch_dtype(args.dtype),
            use_safetensors=True,
            **{key: value for key, value in options.items() if value is not None},
        )
    except OSError as error:
        raise SourceError(f"no safetensors model in {name!r} at revision {revision}: {error}") from error
    guard_4bit_on_cpu(model)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        with expected_warnings.unsaid(*expected_warnings.GROWN):
            model.resize_token_embeddings(len(tokenizer))
        logger.info("the embeddings grew to %d tokens, the tokenizer's", len(tokenizer))
    agree_on_special_tokens(model, tokenizer, stops)
    return model, commit or args.model_revision


def guard_4bit_on_cpu(model: torch.nn.Module) -> None:
    """Keeps bitsandbytes from repacking 4-bit weights on CPUs with avx512_bf16.

    There an evaluation repacks them for inference and nothing undoes it, so that every later gradient is wrong
    (relative error 0.5, bitsandbytes 0.50.2). No effect on a GPU.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def agree_on_special_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stops: Sequence[int] = ()
) -> None:
    """Config and generation config name the tokenizer's tokens; generation stops on its EOS, on `stops`, and on what
    stopped it before."""
    before = model.generation_config.eos_token_id
    before = [] if before is None else [before] if isinstance(before, int) else before
    found = list(dict.fromkeys([tokenizer.eos_token_id, *stops, *before]))
    model.generation_config.eos_token_id = found if len(found) > 1 else found[0]
    for config in (model.config, model.generation_config):
        config.pad_token_id = tokenizer.pad_token_id
        config.bos_token_id = tokenizer.bos_token_id
    model.config.eos_token_id = tokenizer.eos_token_id


def lora_config(
    args: ModelArguments,
    new_token_ids: list[int] | None = None,
    base_revision: str | None = None,
    tied: bool = False,
    task_type: str = "CAUSAL_LM",
) -> LoraConfig | None:
    """The adapter: LoRA, DoRA or rank-stabilised LoRA; `None` where all weights are trained.

    Args:
        args (`ModelArguments`): `use_peft`, `lora_*`, `use_dora` and `use_rslora` are used.
        new_token_ids (`list[int]`, *optional*):
            Ids of added tokens. Their embeddings are trained, and with them the whole output head: without it the
            model could read but never write them.
        base_revision (`str`, *optional*): Commit of the base, kept in `adapter_config.json`.
        tied (`bool`, *optional*, defaults to `False`):
            The base's head is its embeddings, so that the new tokens' rows are all of the head that is new.
        task_type (`str`, *optional*, defaults to `"CAUSAL_LM"`): PEFT's name of what the model does.
    """
    from peft import LoraConfig

    if not args.use_peft:
        return None
    return LoraConfig(
        task_type=task_type,
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=adapters.targets(args),
        use_dora=args.use_dora,
        use_rslora=args.use_rslora,
        trainable_token_indices={"embed_tokens": list(new_token_ids)} if new_token_ids else None,
        modules_to_save=["lm_head"] if new_token_ids and not tied else None,
        revision=base_revision,
    )


def torch_dtype(name: str) -> torch.dtype | str:
    """`"bfloat16"` -> `torch.bfloat16`; `"auto"` (the type the weights are stored in) stays as it is."""
    import torch

    if name not in DTYPES:
        raise ConfigError(f"dtype: {name!r} is not allowed. Allowed: {', '.join(DTYPES)}.")
    return name if name == "auto" else getattr(torch, name)
