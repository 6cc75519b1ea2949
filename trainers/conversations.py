"""Rows of any of our formats -> token ids and labels, every row accounted for before training starts."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import numpy as np
import pyarrow as pa
import yaml

from instruct_builders import formats
from instruct_builders.errors import ConfigError, SourceError
from instruct_builders.pipeline import train_test_masks

from . import labelling, templates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PACKAGED = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}


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
    if args.test_size and args.dataset_test_split:
        raise ConfigError("test_size and dataset_test_split are both set. Choose one.")

    policy = labelling.Policy(max_length, args.overlength, args.special_tokens, args.train_on_prompts)

    def labelled(rows: datasets.Dataset) -> tuple[datasets.Dataset, dict[str, int]]:
        rows = conversations(rows, args.dataset_format, template, tokenizer)
        return labelling.settle(labelling.label_all(rows, tokenizer, template, policy), policy)

    place = (args.dataset_name, args.dataset_config, args.dataset_revision)
    rows = load_rows(*place, args.dataset_train_split)
    source = describe(rows, args.dataset_name, args.dataset_train_split, args.dataset_license)
    train, outcomes = labelled(rows)
    if args.dataset_test_split:
        test, _ = labelled(load_rows(*place, args.dataset_test_split))
    else:
        train, test = hold_out(train, args.test_size, args.split_seed)
    return train, test, source, count(train) | {"held_out": len(test or [])} | outcomes


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


def count(rows: datasets.Dataset) -> dict[str, int]:
    """Rows, tokens and trained tokens of labelled rows."""
    tokens, trained = int(_column(rows, "length").sum()), int(_column(rows, "trained").sum())
    return {"rows": len(rows), "tokens": tokens, "trained_tokens": trained}


def _column(rows: datasets.Dataset, name: str) -> np.ndarray:
    return np.asarray(rows.with_format("numpy")[name][:])


def hold_out(
    rows: datasets.Dataset, test_size: float | int | None, seed: int
) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """A seeded split: the same rows on every process, in every restart. No test rows with `test_size=None`.

    Args:
        rows (`datasets.Dataset`): All rows.
        test_size (`float` or `int`, *optional*): A share of the conversations, or their number.
        seed (`int`): Of the shuffle that chooses them.
    """
    if not test_size:
        return rows, None
    # Parts of one long conversation (`row` is the conversation's place) go to the same side.
    groups = pa.array(_column(rows, "row") if "row" in rows.column_names else np.arange(len(rows)))
    mask = train_test_masks(groups, test_size, seed)
    return rows.select(np.flatnonzero(~mask)), rows.select(np.flatnonzero(mask))
