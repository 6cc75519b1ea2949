"""Where an adapter goes, and what of it is saved."""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from instruct_builders.errors import ConfigError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PretrainedConfig

    from .models import ModelArguments


def targets(args: ModelArguments) -> str | list[str]:
    """`lora_target_modules` as PEFT is to get it: one name alone it takes for a pattern of a whole path."""
    target = args.lora_target_modules
    if target in ("all-linear", ["all-linear"]):
        return "all-linear"
    return [target] if isinstance(target, str) and re.fullmatch(r"\w+", target) else target


def check_targets(args: ModelArguments, config: PretrainedConfig) -> None:
    """Whether `lora_target_modules` names layers that an adapter can go to; builds the model without weights.

    Raises:
        ConfigError: For a name that no such layer has, or a pattern that is none.
    """
    target = targets(args)
    if not args.use_peft or target == "all-linear":
        return
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    kinds = (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv1d, torch.nn.Conv2d, Conv1D)
    layers = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    others = [name for name, module in model.named_modules() if not isinstance(module, kinds)]
    for one in [target] if isinstance(target, str) else target:
        pattern = one if isinstance(target, str) else rf"(.*\.)?{re.escape(one)}"
        try:
            found, wrong = ([name for name in names if re.fullmatch(pattern, name)] for names in (layers, others))
        except re.error as error:
            raise ConfigError(f"lora_target_modules: {one!r} is no name and no pattern: {error}.") from error
        if wrong or not found:
            allowed = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in layers}))
            what = f"takes in {wrong[0]!r}, which is no layer for an adapter" if wrong else "is no layer of the model"
            raise ConfigError(f"lora_target_modules: {one!r} {what}. Allowed: all-linear, or some of {allowed}.")


@contextlib.contextmanager
def old_names_allowed() -> Iterator[None]:
    """PEFT 0.21 asks transformers 5.23 for a name that it is about to give up, on every run."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def save_trained_only(model: PeftModel) -> None:
    """Makes `model.save_pretrained` leave out the embeddings, where only trained rows of them are new.

    PEFT 0.21 sees that the vocabulary has grown and saves the embeddings and the head as they are in memory, beside
    what was trained of them: the head three times, the whole frozen table once. Those rows and the trained head are in
    the adapter anyway, and the rest is the base's own.

    Args:
        model (`PeftModel`): Changed in place. Left as it is where rows are new that are not trained: those would have
            other random values at the next start.
    """
    config = model.peft_config["default"]
    trained = config.trainable_token_indices
    trained = trained.get("embed_tokens", ()) if isinstance(trained, dict) else ()
    if not trained:
        return
    known = _base_vocabulary(model)
    if known is None or not set(range(known, model.config.get_text_config().vocab_size)) <= set(trained):
        return
    model.save_pretrained = functools.partial(model.save_pretrained, save_embedding_layers=False)


def _base_vocabulary(model: PeftModel) -> int | None:
    """Rows that the base's embeddings have where it comes from; `None` where it comes from nowhere."""
    from transformers import AutoConfig

    config = model.peft_config["default"]
    if not config.base_model_name_or_path:
        return None
    try:
        base = AutoConfig.from_pretrained(config.base_model_name_or_path, revision=config.revision or "main")
    except (OSError, ValueError):
        return None
    return base.get_text_config().vocab_size
