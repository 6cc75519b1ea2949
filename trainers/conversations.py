"""Rows of any of our formats -> token ids and labels, every row accounted for before training starts."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import numpy as np
import yaml

from instruct_builders import formats
from instruct_builders.errors import ConfigError, RowError, SourceError, TemplateError

from . import templates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that no loss looks at
OVERLENGTH = ("error", "truncate", "drop")
PACKAGED = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}
# `datasets` hashes a function of a module by its name alone and would serve labels made by older code.
CODE = hashlib.sha256(Path(__file__).read_bytes() + Path(templates.__file__).read_bytes()).hexdigest()


def prepare(
    args, tokenizer: PreTrainedTokenizerBase, template: str, max_length: int | None
) -> tuple[datasets.Dataset, datasets.Dataset | None, dict, dict[str, int]]:
    """All steps below, in order: load, convert, label, hold out.

    Args:
        args (`SftArguments`): The keys `dataset_*`, `test_size`, `split_seed`, `overlength` and `train_on_prompts`.
        tokenizer (`PreTrainedTokenizerBase`): From [`trainers.models.load_tokenizer`].
        template (`str`): Likewise.
        max_length (`int`, *optional*): Most tokens per row.

    Returns:
        `tuple`: Rows to train on, rows held out or `None`, where they came from, and counts for the card.
    """
    if args.test_size and args.dataset_test_split:
        raise ConfigError("test_size and dataset_test_split are both set. Choose one.")

    def labelled(rows: datasets.Dataset) -> tuple[datasets.Dataset, dict[str, int]]:
        rows = conversations(rows, args.dataset_format, template, tokenizer)
        return label(rows, tokenizer, template, max_length, args.overlength, args.train_on_prompts)

    place = (args.dataset_name, args.dataset_config, args.dataset_revision)
    rows = load_rows(*place, args.dataset_train_split)
    source = describe(rows, args.dataset_name, args.dataset_train_split, args.dataset_license)
    train, cut = labelled(rows)
    if args.dataset_test_split:
        test, _ = labelled(load_rows(*place, args.dataset_test_split))
    else:
        train, test = hold_out(train, args.test_size, args.split_seed)
    return train, test, source, count(train) | {"held_out": len(test or [])} | cut


def load_rows(
    name: str, config: str | None = None, revision: str | None = None, split: str = "train"
) -> datasets.Dataset:
    """The rows of a built directory, a Hub dataset or a file, in the columns they have there.

    Raises:
        SourceError: If there is nothing to read; the message of `datasets` is kept.
    """
    path = Path(name)
    try:
        if path.is_file():
            if path.suffix not in PACKAGED:
                raise SourceError(f"dataset_name: {name} is a {path.suffix} file; {', '.join(PACKAGED)} can be read.")
            options = {"sep": "\t"} if path.suffix == ".tsv" else {}
            return datasets.load_dataset(PACKAGED[path.suffix], data_files=name, split=split, **options)
        return datasets.load_dataset(name, config, revision=revision, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise SourceError(
            f"dataset_name: can't read split {split!r} of {name!r}: {error}. Give a directory made by recipes/build.py"
            ", a Hub dataset, or a file. A raw file with bad rows goes through recipes/build.py first."
        ) from error


def describe(rows: datasets.Dataset, name: str, split: str, license: str | None = None) -> dict:
    """Where rows came from, for the model card: name, revision or digest, split, number of rows, license."""
    path = Path(name)
    fact = {"name": name, "revision": None, "split": split, "rows": len(rows), "local": path.exists()}
    if path.exists():
        files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
        digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
        fact |= {"name": path.resolve().name, "revision": f"sha256:{digest[:16]}"}
        card = path / "README.md"
        front = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8"), re.S) if card.is_file() else None
        stated = (yaml.safe_load(front[1]) or {}).get("license") if front else None
    else:
        found = re.search(r"@([0-9a-f]{40})/", " ".join(rows.info.download_checksums or {}))
        fact["revision"] = found[1] if found else None
        stated = rows.info.license or None
    if stated is None and "license" in rows.column_names:
        stated = sorted({license for license in rows.unique("license") if license})
    fact["license"] = license or stated or None
    return fact


def conversations(rows: datasets.Dataset, source: str, template: str, tokenizer) -> datasets.Dataset:
    """Any of our formats -> what TRL takes: `messages`, `tools` where there are some, `chat_template_kwargs`.

    A template with a place of its own for Alpaca's input gets it as the variable `context`; for the others it is
    joined to the first user turn.

    Args:
        rows (`datasets.Dataset`): From [`load_rows`].
        source (`str`): A name in `instruct_builders.formats.FORMATS`, or `"auto"`.
        template (`str`): The chat template's text.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer the template is used with.
    """
    if len(rows) == 0:
        raise SourceError("the dataset has no rows.")
    source = formats.detect(rows[0]) if source == "auto" else source
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


def label(
    rows: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    max_length: int | None = None,
    overlength: str = "error",
    train_on_prompts: bool = False,
) -> tuple[datasets.Dataset, dict[str, int]]:
    """Adds `input_ids` and `labels`, and refuses what TRL would cut or drop without a word.

    Args:
        rows (`datasets.Dataset`): From [`conversations`].
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.
        template (`str`): A chat template with generation markers.
        max_length (`int`, *optional*): Most tokens per row; `None` for no limit.
        overlength (`str`, *optional*, defaults to `"error"`):
            For rows beyond `max_length`: `"error"`, `"truncate"` (keep the start) or `"drop"`.
        train_on_prompts (`bool`, *optional*, defaults to `False`): Supervise every token.

    Returns:
        `tuple`: The rows that are left, and how many were `truncated` and `dropped`.

    Raises:
        RowError: For a row that the template can't print or that has nothing to learn from; it names the row.
        ConfigError: For rows beyond `max_length` with `overlength="error"`, and if no row is left.
    """
    if overlength not in OVERLENGTH:
        raise ConfigError(f"overlength: {overlength!r} is not allowed. Allowed: {', '.join(OVERLENGTH)}.")
    rows = rows.map(
        _label_row,
        with_indices=True,
        fn_kwargs={
            "tokenizer": tokenizer,
            "template": template,
            "limit": max_length,
            "train_on_prompts": train_on_prompts,
            "heeds_train_flag": templates.heeds_train_flag(template, tokenizer),
            "code": CODE,
        },
        desc="Labels",
    )
    full, trained = _column(rows, "full_length"), _column(rows, "trained")
    over = full > (np.inf if max_length is None else max_length)
    if over.any() and overlength == "error":
        raise ConfigError(
            f"{over.sum()} of {len(rows)} rows are longer than max_length {max_length} (the longest, row "
            f"{full.argmax()}, has {full.max()} tokens). Raise max_length, or set overlength to truncate or drop."
        )
    keep = ~over if overlength == "drop" else trained > 0
    if not keep.any():
        raise ConfigError(f"all {len(rows)} rows are longer than max_length {max_length}. Raise max_length.")
    rows = rows.remove_columns("full_length")
    cut = {"truncated": int((over & keep).sum()), "dropped": int((~keep).sum())}
    return (rows if keep.all() else rows.select(np.flatnonzero(keep))), cut


def count(rows: datasets.Dataset) -> dict[str, int]:
    """Rows, tokens and trained tokens of labelled rows."""
    tokens, trained = int(_column(rows, "length").sum()), int(_column(rows, "trained").sum())
    return {"rows": len(rows), "tokens": tokens, "trained_tokens": trained}


def _column(rows: datasets.Dataset, name: str) -> np.ndarray:
    return np.asarray(rows.with_format("numpy")[name][:])


def _label_row(row: dict, index: int, *, tokenizer, template, limit, train_on_prompts, heeds_train_flag, code) -> dict:
    messages = row["messages"]
    if not heeds_train_flag and any(message.get("train") is False for message in messages):
        raise TemplateError(
            f"row {index} has an assistant turn with `train: false`, which this chat template would train on all the "
            f"same. Choose one of {', '.join(templates.NAMES)}."
        )
    try:
        ids, mask = templates.supervised(
            template, tokenizer, messages, tools=row.get("tools"), **(row.get("chat_template_kwargs") or {})
        )
    except TemplateError as error:
        raise RowError(str(error), reason="schema", row=index, field="messages") from error
    if not any(mask):
        roles = [message["role"] for message in messages]
        raise RowError(
            f"no token to train on: the turns are {roles} and none is an answer to learn. Remove the row.",
            reason="no_turns",
            row=index,
            field="messages",
        )
    labels = ids if train_on_prompts else [token if on else IGNORED for token, on in zip(ids, mask, strict=True)]
    ids, labels = ids[:limit], labels[:limit]
    return {
        "input_ids": ids,
        "labels": labels,
        "length": len(ids),  # the name that the trainer's sampler by length looks for
        "full_length": len(mask),
        "trained": sum(token != IGNORED for token in labels),
    }


def hold_out(
    rows: datasets.Dataset, test_size: float | int | None, seed: int
) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """A seeded split: the same rows on every process, in every restart. No test rows with `test_size=None`.

    Args:
        rows (`datasets.Dataset`): All rows.
        test_size (`float` or `int`, *optional*): A share below 1, or a number of rows.
        seed (`int`): Of the shuffle that chooses them.
    """
    if not test_size:
        return rows, None
    number = int(test_size if test_size >= 1 else round(test_size * len(rows)))
    if not 0 < number < len(rows):
        raise ConfigError(f"test_size: {test_size} of {len(rows)} rows leaves one side empty.")
    parts = rows.train_test_split(test_size=number, seed=seed)
    return parts["train"], parts["test"]
