"""Loss and perplexity of a model on rows that it was not trained on, per source and per task.

The labels are those of training (`labelling.py`), so exactly the tokens count that training would learn from. A loss
is the mean over tokens in nats, a perplexity its exponential; both depend on the tokenizer and the chat template, so
only models that share them compare.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from instruct_builders.errors import ConfigError, RowError

from .. import conversations, labelling, outcomes, supervision, templates
from . import results
from .ratios import perplexity, ratio

if TYPE_CHECKING:
    import datasets
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NOT_COUNTED = {"rows_in", "rows_out", *outcomes.USED}
BY = ("source", "task")  # the columns of recipes/build.py that rows are grouped by


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: datasets.Dataset,
    *,
    facts: dict,
    data: dict,
    template: str,
    max_length: int | None = None,
    batch_size: int = 8,
    source: str = "auto",
    special_tokens: str = "reject",
    seed: int = 42,
) -> tuple[dict, list[dict]]:
    """The result of a model on held-out rows.

    Args:
        model ([`~transformers.PreTrainedModel`]): A causal language model, on the device it shall run on.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer, a fast one.
        rows (`datasets.Dataset`): From [`trainers.reading.load_rows`].
        facts (`dict`): The model's facts, see [`results.result`].
        data (`dict`): The data's, from [`trainers.reading.describe`].
        template (`str`): The chat template's text that the model was trained with.
        max_length (`int`, *optional*): Most tokens per row; by default the positions that the model has. Longer rows
            are counted as `too_long` and left out whole.
        batch_size (`int`, *optional*, defaults to 8): Rows at once; it changes the last digits at most.
        source (`str`, *optional*, defaults to `"auto"`): The rows' format.
        special_tokens (`str`, *optional*, defaults to `"reject"`): As in training.
        seed (`int`, *optional*, defaults to 42): Of the bootstrap, which draws rows.

    Returns:
        `tuple`: The result, and per row what [`before_after`] compares.

    Raises:
        ConfigError: If no row is left, a loss is no finite number, or the template needs tokens that are not there.
        RowError: For a row without an answer to learn.
    """
    limit = max_length or getattr(model.config.get_text_config(), "max_position_embeddings", None)
    policy = labelling.Policy(limit, "drop", special_tokens)
    chats = conversations.conversations(rows, source, template, tokenizer)
    try:
        used, counts = outcomes.settle(labelling.label_all(chats, tokenizer, template, policy), policy)
    except RowError as error:
        if added := templates.missing_markers(template, tokenizer):
            raise ConfigError(
                f"held_out: the tokenizer lacks {', '.join(added)}, which the chat template prints. Training adds "
                "them, so that before it there is no loss on them. Leave held_out out, or train and measure with a "
                f"template that adds none, such as alpaca. ({error})"
            ) from error
        raise
    sums, tokens, right = losses(model, used, batch_size, tokenizer.pad_token_id or 0)
    places = np.asarray(used["row"][:], int)
    found = results.result(
        "held_out_loss",
        "Held-out loss and perplexity",
        model=facts,
        data=data_facts(data),
        settings={"max_length": limit, "batch_size": batch_size, "split": data.get("split"), "dtype": _dtype(model)}
        | {"chat_template": hashlib.sha256(template.encode()).hexdigest()[:16]},
        seed=seed,
        counts=_counts(counts, tokens),
        metrics=_metrics(sums, tokens, right, seed),
        groups=_groups(rows, places, sums, tokens, right, seed),
        notes=["Token-weighted: every supervised token counts the same. Intervals are over rows."],
    )
    return found, _comparable(rows, places, sums, tokens, right)


def losses(
    model: PreTrainedModel, rows: datasets.Dataset, batch_size: int, pad: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per row the sum of its tokens' losses in nats, how many tokens are supervised, and how many of them are the
    likeliest.

    Args:
        model ([`~transformers.PreTrainedModel`]): A causal language model.
        rows (`datasets.Dataset`): `input_ids`, `labels` and `length`.
        batch_size (`int`): Rows at once, the longest first: what does not fit fails at once.
        pad (`int`): Id to fill with; no token attends to it.

    Raises:
        ConfigError: If a loss is no finite number.
    """
    import torch

    order = np.argsort(-np.asarray(rows["length"][:], int), kind="stable")
    sums, tokens, right = np.zeros(len(rows)), np.zeros(len(rows), int), np.zeros(len(rows), int)
    model.eval()
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        some = rows.select(places)[:]
        ids, mask, labels = (tensor.to(model.device) for tensor in _padded(some["input_ids"], some["labels"], pad))
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=mask).logits
        for place, one, wanted in zip(places.tolist(), logits[:, :-1], labels[:, 1:], strict=True):
            sums[place], tokens[place], right[place] = _of_row(one, wanted)
            if not math.isfinite(sums[place]):
                raise ConfigError(
                    f"row {some['row'][places.tolist().index(place)]}: the model's loss is {sums[place]}. Its weights "
                    f"or its type ({_dtype(model)}) are at fault: try dtype: float32."
                )
    return sums, tokens, right


def _padded(ids: Sequence, labels: Sequence, pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    import torch

    shape = (len(ids), max(map(len, ids)))
    made = torch.full(shape, pad), torch.zeros(shape, dtype=torch.long), torch.full(shape, supervision.IGNORED)
    for place, (row, wanted) in enumerate(zip(ids, labels, strict=True)):
        made[0][place, : len(row)] = torch.tensor(row)
        made[1][place, : len(row)] = 1
        made[2][place, : len(row)] = torch.tensor(wanted)
    return made


def _of_row(logits: torch.Tensor, wanted: torch.Tensor) -> tuple[float, int, int]:
    """Sum of the losses, number of supervised tokens, and those of them that are the likeliest; row by row, since the
    logits of a whole batch in float32 would take twice the memory."""
    import torch

    some = wanted != supervision.IGNORED
    logits, wanted = logits[some].float(), wanted[some]
    loss = torch.nn.functional.cross_entropy(logits, wanted, reduction="none").double().sum()
    return float(loss), len(wanted), int((logits.argmax(-1) == wanted).sum())


def _metrics(sums: np.ndarray, tokens: np.ndarray, right: np.ndarray, seed: int) -> dict[str, dict]:
    n = int(tokens.sum())
    loss = ratio(sums, tokens, seed, n)
    ends = {name: loss[name] for name in ("value", "low", "high")}
    ends = {name: None if value is None else round(float(perplexity(value)), 6) for name, value in ends.items()}
    return {
        "loss": loss,
        "perplexity": ends | {"n": n},
        "token_accuracy": ratio(right, tokens, seed, n),
    }


def _groups(rows, places: np.ndarray, sums, tokens, right, seed: int) -> dict[str, dict]:
    """Per source and per task, where rows say one; a column with a single value says no more than the whole."""
    found = {}
    for column in BY:
        if column not in rows.column_names:
            continue
        names = np.array([str(name or "") for name in rows[column][:]], object)[places]
        named = sorted({name for name in names if name})
        for name in named if len(named) > 1 or column == "source" else []:
            some = names == name
            found[f"{column}: {name}"] = _metrics(sums[some], tokens[some], right[some], seed)
    return found


def _counts(counts: dict[str, int], tokens: np.ndarray) -> dict[str, int]:
    left_out = {name: number for name, number in counts.items() if name not in NOT_COUNTED}
    whole = {"rows": counts["rows_in"], "rows_measured": len(tokens), "tokens_measured": int(tokens.sum())}
    return whole | {"too_long": 0} | left_out


def _comparable(rows, places: np.ndarray, sums, tokens, right) -> list[dict]:
    ids = rows["id"][:] if "id" in rows.column_names else [None] * len(rows)
    measured = zip(places.tolist(), sums.tolist(), tokens.tolist(), right.tolist(), strict=True)
    return [
        {
            "id": str(ids[place] or f"row {place}"),
            "figures": {"loss": [loss, size], "token_accuracy": [hits, size]},
        }
        for place, loss, size, hits in measured
    ]


def data_facts(data: dict) -> dict:
    """The facts of [`trainers.reading.describe`] as a result has them: of local files the revision is a digest."""
    digest = data["revision"] if data.get("local") else None
    revision = None if data.get("local") else data["revision"]
    kept = {name: data[name] for name in ("name", "rows", "license")}
    return kept | {"revision": revision, "digest": digest}


def _dtype(model: PreTrainedModel) -> str:
    return str(model.dtype).removeprefix("torch.")
