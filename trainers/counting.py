"""How many tokens texts have, for shares that are meant in tokens."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from instruct_builders.errors import SourceError

BATCH = 1000  # texts per call of the tokenizer


def token_counter(name: str) -> Callable[[pa.Array], list[int]]:
    """Texts -> how many tokens each is for a tokenizer of that name, without those that a template adds.

    Raises:
        SourceError: If there is no such tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise SourceError(f"mixture: tokenizer: {name!r} can't be loaded: {error}") from error

    def count(texts: pa.Array) -> list[int]:
        slices = (texts.slice(start, BATCH).to_pylist() for start in range(0, len(texts), BATCH))
        return [len(ids) for some in slices for ids in tokenizer(some, add_special_tokens=False)["input_ids"]]

    return count
