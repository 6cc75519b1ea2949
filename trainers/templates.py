"""Which chat template prints a conversation, and what it promises before any row is printed with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2.exceptions import TemplateError as JinjaError

from instruct_builders.errors import TemplateError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FOLDER = Path(__file__).parent / "chat_templates"
NAMES = ("alpaca", "alpaca_short", "vicuna", "vicuna_short", "chatml", "chatml_tools")
MODEL = "model"  # the template that the model's own tokenizer brings

# The first statement of every template here. Removed for a tokenizer that does not put a BOS before plain text itself:
# some (GPT-2, SmolLM) have a BOS token that their models never saw at the start of a text.
BOS_LINE = "{%- if bos_token %}{{- bos_token }}{% endif %}\n"
PROBE = [{"role": "user", "content": "probe"}, {"role": "assistant", "content": "probe"}]


def load(name_or_path: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of a chat template whose supervised tokens can be told from the others.

    Args:
        name_or_path (`str`):
            One of `NAMES`, the path of a `.jinja` file, or `"model"` for the tokenizer's own template. Where that one
            has no `{% generation %}` markers, TRL's training version of it is taken, if TRL knows the family.
        tokenizer (`PreTrainedTokenizerBase`):
            The tokenizer that the template will be used with.

    Returns:
        `str`: The template.

    Raises:
        TemplateError: For an unknown name, a template without markers, or one that does not train the stop token.
    """
    if name_or_path == MODEL:
        template = _own_template(tokenizer)
    elif name_or_path in NAMES:
        template = (FOLDER / f"{name_or_path}.jinja").read_text(encoding="utf-8")
        if not adds_bos(tokenizer):
            template = template.replace(BOS_LINE, "")
    elif name_or_path.endswith((".jinja", ".j2")) and Path(name_or_path).is_file():
        template = Path(name_or_path).read_text(encoding="utf-8")
    else:
        raise TemplateError(
            f"chat_template: {name_or_path!r} is neither a template nor a .jinja file. Allowed: {', '.join(NAMES)}, "
            f"{MODEL} (the model's own), or the path of a .jinja file.{did_you_mean(name_or_path, (*NAMES, MODEL))}"
        )
    if not has_markers(template):
        raise TemplateError(
            f"chat_template: {name_or_path!r} has no {{% generation %}} markers, so there is no telling which tokens "
            f"to train on. Add them around the assistant's text and its end-of-turn token, or choose one of "
            f"{', '.join(NAMES)}."
        )
    return template


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


def end_of_turn(template: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The token that ends an assistant's turn and that the model is trained to write.

    Raises:
        TemplateError: If the last supervised token is not a special token: the model would never learn to stop.
    """
    ids, mask = supervised(template, tokenizer, PROBE)
    trained = [token for token, on in zip(ids, mask, strict=True) if on]
    while trained and not tokenizer.decode(trained[-1:]).strip():
        trained.pop()  # TRL's rule too: blank text after the stop token does no harm
    added = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()}
    if not trained or trained[-1] not in added:
        last = repr(tokenizer.decode(trained[-1:])) if trained else "missing"
        raise TemplateError(
            f"the last token that this chat template trains on is {last}, not a special token such as "
            f"{tokenizer.eos_token!r}: the model would never learn to stop. Put the end-of-turn token inside "
            "{% generation %} ... {% endgeneration %} and make it a special token of the tokenizer."
        )
    return added[trained[-1]]


def takes_context(template: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template prints the variable `context` (Alpaca's `input`) apart from the instruction."""
    sign = "context-probe"
    try:
        printed = tokenizer.apply_chat_template(PROBE, chat_template=template, tokenize=False, context=sign)
    except JinjaError:  # the template says that it has no place for it
        return False
    return sign in printed


def heeds_train_flag(template: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether an assistant turn with `train: False` stays out of the loss."""
    turns = [PROBE[0], PROBE[1] | {"train": False}, PROBE[0], PROBE[1]]
    every = sum(supervised(template, tokenizer, PROBE * 2)[1])
    return 0 < sum(supervised(template, tokenizer, turns)[1]) < every


def supervised(
    template: str, tokenizer: PreTrainedTokenizerBase, messages: list[dict], tools=None, **variables
) -> tuple[list[int], list[int]]:
    """Prints and tokenises one conversation.

    Args:
        template (`str`): A chat template with generation markers.
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer: the mask comes from its character offsets.
        messages (`list[dict]`): The conversation.
        tools (`list[dict]`, *optional*): JSON schemas of the tools it may call.
        **variables: Further variables of the template, such as `context`.

    Returns:
        `tuple[list[int], list[int]]`: Token ids and, for each, 1 where it is trained on.

    Raises:
        TemplateError: If the template refuses the conversation, or the tokenizer is a slow one.
    """
    if not tokenizer.is_fast:
        raise TemplateError(
            f"{type(tokenizer).__name__} is a slow tokenizer: it gives no character offsets, so the assistant's "
            "tokens can't be found. Use a model that has a tokenizer.json."
        )
    try:
        printed = tokenizer.apply_chat_template(
            messages,
            tools=tools,
            chat_template=template,
            return_dict=True,
            return_assistant_tokens_mask=True,
            **variables,
        )
    except JinjaError as error:  # also what a template raises to say that it has no place for something
        raise TemplateError(str(error)) from error
    return printed["input_ids"], printed["assistant_masks"]


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str:
    own = tokenizer.chat_template
    if isinstance(own, dict):  # a set of named variants
        own = own.get("default")
    if own is None:
        raise TemplateError(
            f"chat_template: model, but the tokenizer of {tokenizer.name_or_path!r} has no chat template. "
            f"Choose one of {', '.join(NAMES)}, or the path of a .jinja file."
        )
    if has_markers(own):
        return own
    from trl import get_training_chat_template

    try:
        return get_training_chat_template(tokenizer)
    except ValueError as error:
        raise TemplateError(
            f"chat_template: model, but the template of {tokenizer.name_or_path!r} has no {{% generation %}} markers "
            "and TRL has no training version of it. Choose one of "
            f"{', '.join(NAMES)}, or copy it to a .jinja file and mark the assistant's turns."
        ) from error
