"""Conversation + chat template + tokenizer -> token ids and labels that are provably right, or a refusal.

The six rules are rules.RULES. marking.py finds which printed characters came from which message, spans.py which of
them an assistant writes, labels.py turns those into labels, layouts.py does all of it for many rows of one shape.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from instruct_builders.errors import ConfigError, RowError, TemplateError

from .labels import IGNORED, Supervision, clean, label, trained
from .layouts import Layouts, label_fitted
from .refusals import PROBES, raised, refused, template_name
from .rendering import Printer, Raised
from .rules import RULES, Refusal
from .tables import tables, to_arrow

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

# `datasets` hashes a function of a module by its name alone and would serve labels made by older code.
FILES = ("rules", "rendering", "marking", "starts", "spans", "labels", "layouts", "refusals", "supervision")
FILES += ("watching", "fast_tokens", "rust_tokens", "word_tokens", "word_rules", "columns", "tables")
CODE = hashlib.sha256(b"".join((Path(__file__).parent / f"{name}.py").read_bytes() for name in FILES)).hexdigest()


def supervise(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict],
    chat_template: str | None = None,
    tools: list | None = None,
    *,
    train_on: str = "all",
    **variables,
) -> dict[str, list[int]]:
    """Token ids and labels of one conversation, for any chat template that the rules can be met for.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.
        messages (`list[dict]`): `role`, `content`, `reasoning_content`, `tool_calls`. `"train": False` or
            `"weight": 0` keeps an assistant message out of the loss. Null values count as absent.
        chat_template (`str`, *optional*): A template's text, or the name of one of the tokenizer's; its default.
        tools (`list`, *optional*): Functions or JSON schemas that may be called.
        train_on (`str`, *optional*, defaults to `"all"`): `"all"` assistant messages, or only the `"last"`.
        **variables: Further variables of the template, such as `enable_thinking`.

    Returns:
        `dict`: `input_ids` and `labels`.

    Raises:
        TemplateError: With the rule that can't be met, the template's name and the shortest conversation that shows
            it (also as attributes `rule`, `template`, `messages`); `rule` is None where the template raised an error.
        RowError: For a conversation without an answer to learn.
    """
    found = explain(tokenizer, messages, chat_template, tools, train_on=train_on, **variables)
    return {"input_ids": found.input_ids, "labels": found.labels}


def explain(tokenizer, messages, chat_template=None, tools=None, *, train_on="all", **variables) -> Supervision:
    """As [`supervise`], with everything there is to say about it."""
    return _explain(Printer(tokenizer, chat_template, tools, variables), messages, train_on)


def _explain(printer: Printer, messages: list[dict], train_on: str) -> Supervision:
    messages = clean(messages)
    chosen = trained(messages, train_on)
    try:
        return label(printer, messages, chosen)
    except Refusal as refusal:
        raise refused(printer, messages, refusal) from refusal
    except Raised as error:
        raise raised(printer, messages, error) from error


def stop_token(
    tokenizer, chat_template=None, tools=None, *, train_on="all", generation_config=None, **variables
) -> list[int]:
    """Ids of the tokens that a model trained with this template learns to end its turns with.

    Args:
        generation_config (`transformers.GenerationConfig`, *optional*): Checked to stop on each of them. The other
            arguments are those of [`supervise`].

    Raises:
        TemplateError: If the rules can't be met for any usual conversation, or generation would run on (rule 4).
    """
    printer = Printer(tokenizer, chat_template, tools, variables)
    found: dict[int, None] = {}  # ids in the order of the usual conversations
    refusal: Refusal | None = None
    for probe in [*PROBES, *[_as_parts(probe) for probe in PROBES]]:
        try:
            found |= dict.fromkeys(label(printer, probe, trained(probe, train_on)).stops.values())
        except Refusal as error:
            refusal = refusal or error
        except Raised as error:
            refusal = refusal or Refusal(1, f"the template raises an error: {error}")
        if probe is PROBES[-1] and found:
            break  # text as a list of parts is only for templates that print nothing else
    if not found:
        raise refused(printer, PROBES[0], refusal)
    if generation_config is not None:
        stops = generation_config.eos_token_id
        stops = {stops} if isinstance(stops, int) else set(stops or ())
        missing = [tokenizer.convert_ids_to_tokens(token) for token in found if token not in stops]
        if missing:
            name = template_name(printer.source)
            error = TemplateError(
                f"chat template {name}, rule 4 ({RULES[4]}, and generation stops on it): "
                f"generation_config.eos_token_id is {generation_config.eos_token_id}, so generation would run on "
                f"after {missing}. Set "
                f"generation_config.eos_token_id = {sorted(stops | set(found))}"
                + (', or train_on="last".' if train_on == "all" else ".")
            )
            error.rule, error.template, error.messages = 4, name, PROBES[0]
            raise error
    return list(found)


def prepare(
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None = None,
    *,
    train_on: str = "all",
    column: str = "messages",
    batch_size: int = 1000,
    num_proc: int | None = None,
) -> datasets.Dataset:
    """A dataset of conversations -> one of `input_ids` and `labels`, row by row what [`supervise`] gives.

    Cached by `datasets`: the same rows, tokenizer, template and code are not labelled twice.

    Args:
        dataset (`datasets.Dataset`): Column `messages`; optional `tools` (a list, or one as JSON) and
            `chat_template_kwargs` (a template's further variables, per row).
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.
        chat_template (`str`, *optional*): As in [`supervise`].
        train_on (`str`, *optional*, defaults to `"all"`): As in [`supervise`].
        column (`str`, *optional*, defaults to `"messages"`): The column of conversations.
        batch_size (`int`, *optional*, defaults to `1000`): Rows per call of the tokenizer.
        num_proc (`int`, *optional*): Processes.

    Raises:
        TemplateError: As [`supervise`]; the message begins with the row.
        RowError: For a row without an answer to learn; it names the row.
    """
    import datasets

    if column not in dataset.column_names:
        raise ConfigError(f"column: {column!r} is not in the dataset. Its columns: {', '.join(dataset.column_names)}.")
    numbers = datasets.Features(
        {"input_ids": datasets.List(datasets.Value("int32")), "labels": datasets.List(datasets.Value("int64"))}
    )
    labelled = dataset.with_format("arrow").map(
        prepare_table,
        batched=True,
        with_indices=True,
        batch_size=batch_size,
        num_proc=num_proc,
        features=numbers,
        remove_columns=dataset.column_names,
        fn_kwargs={
            "tokenizer": tokenizer,
            "chat_template": chat_template,
            "train_on": train_on,
            "column": column,
            "features": dataset.features,
            "code": CODE,
        },
        desc="Labels",
    )
    return labelled.with_format(dataset.format["type"], **dataset.format["format_kwargs"])


def prepare_table(
    table, indices, *, tokenizer, chat_template=None, train_on="all", column="messages", features=None, code=None
):
    """As [`prepare_batch`], for Arrow tables: rows of usual shapes all at once, the others one by one."""
    import datasets

    source = tokenizer.get_chat_template(chat_template) if chat_template is None else chat_template
    special = str(tokenizer.special_tokens_map)
    known = tables(tokenizer, source, train_on, len(tokenizer), special)
    found = known.label(table, column)
    left = np.setdiff1d(np.arange(len(table)), found.rows)
    if not len(left):
        return to_arrow(found, [])
    info = datasets.DatasetInfo(features=features)
    rows = datasets.Dataset(datasets.table.InMemoryTable(table.take(left)), info=info, fingerprint="rows")[:]
    numbers = [indices[place] for place in left]
    made = prepare_batch(
        rows, numbers, tokenizer=tokenizer, chat_template=chat_template, train_on=train_on, column=column
    )
    return to_arrow(found, list(zip(left, made["input_ids"], made["labels"], strict=True)))


def prepare_batch(batch, indices, *, tokenizer, chat_template=None, train_on="all", column="messages", code=None):
    """`input_ids` and `labels` of a batch of conversations, for `Dataset.map(batched=True, with_indices=True)`."""
    source = tokenizer.get_chat_template(chat_template) if chat_template is None else chat_template
    layouts = _layouts(tokenizer, source, len(tokenizer), str(tokenizer.special_tokens_map))
    rows: list = [None] * len(indices)
    fitted, careful = [], []
    for place, messages in enumerate(batch[column]):
        tools, variables = tools_of(batch, place), variables_of(batch, place)
        fit = None if tools else _fit(layouts, messages, train_on, variables)
        if fit is None:
            careful.append((place, tools, variables))
        else:
            fitted.append((place, variables, fit))
    labelled = label_fitted(layouts.printer, [fit for _, _, fit in fitted])
    for (place, variables, _), result in zip(fitted, labelled, strict=True):
        if result is None:
            careful.append((place, None, variables))
        else:
            ids, inside = result
            rows[place] = ids, np.where(inside, ids, IGNORED)
    for place, tools, variables in sorted(careful, key=lambda item: item[0]):
        try:
            found = _explain(layouts.printer.given(variables, tools), batch[column][place], train_on)
        except RowError as error:
            raise RowError(error.message, reason=error.reason, row=indices[place], field=error.field) from error
        except TemplateError as error:
            told = TemplateError(f"row {indices[place]}: {error}")
            told.rule, told.template, told.messages = error.rule, error.template, error.messages
            raise told from error
        rows[place] = found.input_ids, found.labels
    return {"input_ids": [ids for ids, _ in rows], "labels": [labels for _, labels in rows]}


@functools.lru_cache(maxsize=2)
def _layouts(tokenizer, source: str, size: int, special: str) -> Layouts:
    """Kept from batch to batch; `size` and `special` tell a tokenizer that was given other tokens since."""
    return Layouts(Printer(tokenizer, source))


def _fit(layouts: Layouts, messages: list[dict], train_on: str, variables: dict) -> tuple | None:
    """The fast way; None for a row whose fault the careful way will tell in full."""
    try:
        messages = clean(messages)
        return layouts.fit(messages, trained(messages, train_on), variables)
    except (RowError, Raised):
        return None


def tools_of(batch: dict, place: int) -> list | None:
    tools = batch["tools"][place] if "tools" in batch else None
    return (json.loads(tools) if isinstance(tools, str) else tools) or None


def variables_of(batch: dict, place: int) -> dict:
    given = batch["chat_template_kwargs"][place] if "chat_template_kwargs" in batch else None
    return {name: value for name, value in (given or {}).items() if value is not None}


def _as_parts(messages: list[dict]) -> list[dict]:
    return [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in messages]
