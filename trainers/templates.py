"""Which chat template prints a conversation, and what it promises before any row is printed with it."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from instruct_builders.errors import TemplateError, did_you_mean

from . import supervision
from .rendering import ERRORS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)
FOLDER = Path(__file__).parent / "chat_templates"
NAMES = ("alpaca", "alpaca_short", "vicuna", "vicuna_short", "chatml", "chatml_tools")
MODEL = "model"  # the template that the model's own tokenizer brings

# The first statement of every template here. Removed for a tokenizer that does not put a BOS before plain text itself:
# some (GPT-2, SmolLM) have a BOS token that their models never saw at the start of a text.
BOS_LINE = "{%- if bos_token %}{{- bos_token }}{% endif %}\n"
PROBE = [{"role": "user", "content": "probe"}, {"role": "assistant", "content": "probe"}]


def load(name_or_path: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of a chat template.

    It needs no `{% generation %}` markers: without them supervision.py derives which tokens are an assistant's.

    Args:
        name_or_path (`str`):
            One of `NAMES`, the path of a `.jinja` file, or `"model"` for the tokenizer's own template. Where the rules
            of supervision can't be met for that one, TRL's training version of it is taken, if TRL knows the family.
        tokenizer (`PreTrainedTokenizerBase`):
            The tokenizer that the template will be used with.

    Returns:
        `str`: The template.

    Raises:
        TemplateError: For an unknown name, or `"model"` where there is none.
    """
    if name_or_path == MODEL:
        return _own_template(tokenizer)
    if name_or_path in NAMES:
        template = (FOLDER / f"{name_or_path}.jinja").read_text(encoding="utf-8")
        return template if adds_bos(tokenizer) else template.replace(BOS_LINE, "")
    if name_or_path.endswith((".jinja", ".j2")) and Path(name_or_path).is_file():
        return Path(name_or_path).read_text(encoding="utf-8")
    raise TemplateError(
        f"chat_template: {name_or_path!r} is neither a template nor a .jinja file. Allowed: {', '.join(NAMES)}, "
        f"{MODEL} (the model's own), or the path of a .jinja file.{did_you_mean(name_or_path, (*NAMES, MODEL))}"
    )


def has_markers(template: str) -> bool:
    """Whether the template marks the assistant's text with `{% generation %}`."""
    return re.search(r"\{%-?\s*generation\s*-?%\}", template) is not None


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts its BOS token before plain text, as its model saw it in pretraining."""
    return tokenizer.bos_token_id is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]


def missing_markers(template: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Turn markers such as `<|im_end|>` that the template prints and the tokenizer would tear into pieces."""
    found = re.findall(r"<\|\w+\|>", template)
    return [marker for marker in dict.fromkeys(found) if marker not in tokenizer.get_vocab()]


def stops(template: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that a model trained with the template ends its turns with, that of a plain answer first.

    Raises:
        TemplateError: If the rules of supervision can't be met; with the rule, and a conversation that shows it.
    """
    return supervision.stop_token(tokenizer, template)


def takes_context(template: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template prints the variable `context` (Alpaca's `input`) apart from the instruction."""
    sign = "context-probe"
    try:
        printed = tokenizer.apply_chat_template(PROBE, chat_template=template, tokenize=False, context=sign)
    except ERRORS:  # the template says that it has no place for it
        return False
    return sign in printed


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str:
    own = tokenizer.chat_template
    if isinstance(own, dict):  # a set of named variants
        own = own.get("default")
    if own is None:
        raise TemplateError(
            f"chat_template: model, but the tokenizer of {tokenizer.name_or_path!r} has no chat template. "
            f"Choose one of {', '.join(NAMES)}, or the path of a .jinja file."
        )
    try:
        stops(own, tokenizer)
    except TemplateError:
        from trl import get_training_chat_template

        try:
            version = get_training_chat_template(tokenizer)
        except ValueError:  # a family that TRL does not know: the refusal of its own template is the reason to be told
            return own
        if version is not None:  # None: its own is trained with as it is
            logger.warning("the rules can't be met for the model's own chat template; TRL's training version is taken")
            return version
    return own
