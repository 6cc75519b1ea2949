"""Instruction-following difficulty: how little an instruction tells a model of its answer, by the model's losses.

IFD = loss(answer | instruction) / loss(answer), both the mean in nats over the same tokens of the answer (Li et al.
2024, "From Quantity to Quality"). Near 0 the instruction settles the answer; near 1 it tells the model little, which
is hard; above 1 it misleads, as where answer and instruction don't belong together. A small base model orders rows
much as a large one does. What is found goes into a file that the transform `given_scores` reads:

    rows = reading.load_rows("out")
    found, counts = difficulty.ifd(model, tokenizer, rows, template=template)
    difficulty.write(found, "ifd.jsonl")

    transforms: [{given_scores: {file: ifd.jsonl, name: ifd, most: 1.0}}]
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from instruct_builders.errors import ConfigError

from .. import conversations, labelling, outcomes, supervision
from . import held_out

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def ifd(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: datasets.Dataset,
    *,
    template: str,
    max_length: int | None = None,
    batch_size: int = 8,
    source: str = "auto",
    special_tokens: str = "reject",
) -> tuple[list[dict], dict[str, int]]:
    """The difficulty of every row that fits.

    Without its instruction, an answer stands behind the first token of the row alone (`<s>` or what opens a turn), so
    that its first token is predicted as well. Several answers of a conversation count as one, each with all that came
    before it, against all answers in a row.

    Args:
        model ([`~transformers.PreTrainedModel`]): A causal language model; best one that has not seen the rows.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer, a fast one.
        rows (`datasets.Dataset`): From [`trainers.reading.load_rows`].
        template (`str`): The chat template's text.
        max_length (`int`, *optional*): Most tokens per row; by default the positions that the model has. Longer rows
            are counted as `too_long` and have no difficulty.
        batch_size (`int`, *optional*, defaults to 8): Rows at once.
        source (`str`, *optional*, defaults to `"auto"`): The rows' format.
        special_tokens (`str`, *optional*, defaults to `"reject"`): As in training.

    Returns:
        `tuple[list[dict], dict]`: For each row that was measured `row` (its place), `id` (null where rows have none),
        `ifd`, `loss`, `loss_alone` and `tokens`, in the order of the rows; and how many rows came to what.

    Raises:
        ConfigError: If no row is left, or a loss is no finite number.
        RowError: For a row without an answer.
    """
    limit = max_length or getattr(model.config.get_text_config(), "max_position_embeddings", None)
    policy = labelling.Policy(limit, "drop", special_tokens)
    chats = conversations.conversations(rows, source, template, tokenizer)
    used, counts = outcomes.settle(labelling.label_all(chats, tokenizer, template, policy), policy)
    pad = tokenizer.pad_token_id or 0
    told, tokens, _ = held_out.losses(model, used, batch_size, pad)
    alone, same, _ = held_out.losses(model, _answers_alone(used), batch_size, pad)
    if not np.array_equal(tokens, same):
        raise ConfigError("a row's first token is supervised, so nothing stands before its answer: no IFD follows.")
    ids = rows["id"][:] if "id" in rows.column_names else None
    return [
        {
            "row": int(row),
            "id": None if ids is None else ids[int(row)],
            "ifd": round(with_it / without, 6) if without > 0 else None,
            "loss": round(with_it / n, 6),
            "loss_alone": round(without / n, 6),
            "tokens": int(n),
        }
        for row, with_it, without, n in zip(used["row"][:], told, alone, tokens, strict=True)
    ], counts


def write(found: Sequence[dict], path: str | os.PathLike) -> None:
    """Writes what [`ifd`] gave as JSON lines."""
    Path(path).write_text("".join(json.dumps(entry) + "\n" for entry in found), encoding="utf-8")


def _answers_alone(used: datasets.Dataset) -> datasets.Dataset:
    """Each row's supervised tokens behind its first token, all of them supervised again."""
    import datasets

    columns: dict[str, list] = {"input_ids": [], "labels": [], "length": [], "row": []}
    for ids, labels, row in zip(used["input_ids"][:], used["labels"][:], used["row"][:], strict=True):
        answer = [int(label) for label in labels if label != supervision.IGNORED]
        columns["input_ids"].append([int(ids[0]), *answer])
        columns["labels"].append([supervision.IGNORED, *answer])
        columns["length"].append(len(answer) + 1)
        columns["row"].append(row)
    return datasets.Dataset.from_dict(columns)
