"""Rows of any of our formats -> token ids and labels, every row accounted for before training starts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders import formats
from instruct_builders.errors import ConfigError, SourceError
from instruct_builders.pipeline import train_test_masks

from . import labelling, outcomes, reading, templates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from trl import SFTConfig


def settle_evaluation(args, training: SFTConfig) -> list[str]:
    """Decides what is evaluated before anything is loaded: the dataset's own test split where nothing else is said.

    Without rows to evaluate on, `training.eval_strategy` becomes `"no"`: a YAML's may be meant for another dataset.

    Args:
        args (`SftArguments`): `dataset_test_split` is set here.
        training (`SFTConfig`): TRL's arguments.

    Returns:
        `list[str]`: A line for each decision, to be shown.

    Raises:
        ConfigError: For two kinds of test rows at once, or an option that needs some where there are none.
        SourceError: If there is no such dataset.
    """
    if args.test_size and args.dataset_test_split:
        raise ConfigError("test_size and dataset_test_split are both set. Choose one.")
    if args.test_size or args.dataset_test_split:
        return []
    samples = getattr(args, "sample_prompts", 0)
    used = re.findall(r"\w+", args.dataset_train_split)
    if "test" not in used and "test" in reading.splits(args.dataset_name, args.dataset_config, args.dataset_revision):
        args.dataset_test_split = "test"
        return [f"evaluated on the split 'test' of {args.dataset_name}; none of it is trained on"]
    strategy = getattr(training.eval_strategy, "value", training.eval_strategy)
    for name, wanted in (("load_best_model_at_end", training.load_best_model_at_end), ("sample_prompts", samples)):
        if wanted:
            raise ConfigError(
                f"{name} needs rows to evaluate on, and {args.dataset_name} has no split 'test'. Set test_size or "
                f"dataset_test_split, or leave {name} out."
            )
    if strategy == "no":
        return []
    training.eval_strategy, training.do_eval = type(training.eval_strategy)("no"), False
    return [
        f"eval_strategy: {strategy} becomes no: {args.dataset_name} has no split 'test', and neither test_size nor "
        "dataset_test_split is set"
    ]


def prepare(
    args, tokenizer: PreTrainedTokenizerBase, template: str, max_length: int | None
) -> tuple[datasets.Dataset, datasets.Dataset | None, dict, dict[str, int]]:
    """All steps below, in order: load, convert, label, hold out.

    Args:
        args (`SftArguments`): The keys `dataset_*`, `test_size`, `split_seed`, `overlength`, `special_tokens` and
            `train_on_prompts`.
        tokenizer (`PreTrainedTokenizerBase`): From [`trainers.models.load_tokenizer`].
        template (`str`): Likewise.
        max_length (`int`, *optional*): Most tokens per row.

    Returns:
        `tuple`: Rows to train on, rows held out or `None`, where they came from, and counts for the card.
    """
    policy = labelling.Policy(max_length, args.overlength, args.special_tokens, args.train_on_prompts)

    def labelled(rows: datasets.Dataset) -> tuple[datasets.Dataset, dict[str, int]]:
        rows = conversations(rows, args.dataset_format, template, tokenizer)
        return outcomes.settle(labelling.label_all(rows, tokenizer, template, policy), policy)

    place = (args.dataset_name, args.dataset_config, args.dataset_revision)
    rows = reading.load_rows(*place, args.dataset_train_split, args.dataset_format)
    source = reading.describe(rows, args.dataset_name, args.dataset_train_split, args.dataset_license)
    train, counted = labelled(rows)
    if args.dataset_test_split:
        test, _ = labelled(reading.load_rows(*place, args.dataset_test_split, args.dataset_format))
    else:
        train, test = hold_out(train, args.test_size, args.split_seed, families(rows))
    return train, test, source, count(train) | {"held_out": len(test or [])} | counted


def conversations(rows: datasets.Dataset, source: str, template: str, tokenizer) -> datasets.Dataset:
    """Any of our formats -> what TRL takes: `messages`, `tools` where there are some, `chat_template_kwargs`.

    A template with a place of its own for Alpaca's input gets it as the variable `context`; for the others it is
    joined to the first user turn.

    Args:
        rows (`datasets.Dataset`): From [`trainers.reading.load_rows`].
        source (`str`): A name in `instruct_builders.formats.FORMATS`, or `"auto"`.
        template (`str`): The chat template's text.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer the template is used with.
    """
    if len(rows) == 0:
        raise SourceError("the dataset has no rows.")
    source = reading.format_of(rows) if source == "auto" else source
    apart = templates.takes_context(template, tokenizer)
    target = "record" if apart else "messages"
    rows = rows if source == target else formats.convert(rows, source, target)
    keep = ["messages"]
    if "tools" in rows.column_names and any(tools for tools in rows["tools"]):
        keep.append("tools")
    if apart and "context" in rows.column_names:
        context = [{"context": text} for text in rows["context"]]
        rows = rows.add_column("chat_template_kwargs", context)
        keep.append("chat_template_kwargs")
    return rows.select_columns(keep)


def count(rows: datasets.Dataset) -> dict[str, int]:
    """Rows, tokens and trained tokens of labelled rows."""
    tokens, trained = int(_column(rows, "length").sum()), int(_column(rows, "trained").sum())
    return {"rows": len(rows), "tokens": tokens, "trained_tokens": trained}


def _column(rows: datasets.Dataset, name: str) -> np.ndarray:
    return np.asarray(rows.with_format("numpy")[name][:])


def families(rows: datasets.Dataset) -> pa.Array | None:
    """What each row belongs to: the conversation it was split or made from, else itself; `None` where rows don't say.

    Rows of recipes/build.py have the columns `id` and `parent`. A row with neither is alone.
    """
    if not {"id", "parent"} <= set(rows.column_names):
        return None
    table = rows.select_columns(["id", "parent"]).with_format("arrow")[:]
    keys = [table[name].combine_chunks().cast(pa.string()) for name in ("parent", "id")]
    return pc.coalesce(*keys, pa.array([f"row {place}" for place in range(len(rows))]))


def hold_out(
    rows: datasets.Dataset, test_size: float | int | None, seed: int, families: pa.Array | None = None
) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """A seeded split: the same rows on every process, in every restart. No test rows with `test_size=None`.

    Args:
        rows (`datasets.Dataset`): All rows.
        test_size (`float` or `int`, *optional*): A share of the conversations, or their number.
        seed (`int`): Of the shuffle that chooses them.
        families (`pa.Array`, *optional*): From [`families`], of the rows that `row` is a place among. Rows of one
            family go to the same side; by default those of one `row`, the parts of a conversation split by length.
    """
    if not test_size:
        return rows, None
    groups = pa.array(_column(rows, "row") if "row" in rows.column_names else np.arange(len(rows)))
    mask = train_test_masks(groups if families is None else families.take(groups), test_size, seed)
    return rows.select(np.flatnonzero(~mask)), rows.select(np.flatnonzero(mask))
