"""Conversations with words that should not be in the data."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ConfigError
from . import flat


def blocked_words(
    table: pa.Table,
    words: Sequence[str] = (),
    roles: Sequence[str] = ("system", "user", "assistant"),
    whole_words: bool = True,
) -> pa.Table:
    """Rejects conversations in which one of the words stands, whatever its case, as `blocked_word`.

    Args:
        table (`pa.Table`): Records.
        words (`Sequence[str]`, *optional*): Words or phrases, taken literally. The Vicuna authors used `openai` and
            `chatgpt`.
        roles (`Sequence[str]`, *optional*): Roles whose turns are searched.
        whole_words (`bool`, *optional*, defaults to `True`): Whether a letter, digit or `_` right before or after
            makes it another word. Set it to `False` for scripts that put no spaces between words.
    """
    if isinstance(words, str) or not all(isinstance(word, str) and word.strip() for word in words):
        raise ConfigError(f"blocked_words: words must be a list of non-empty strings, not {words!r}.")
    offsets, turns = flat.flatten(table)
    contents = flat.text(turns)
    searched = flat.booleans(
        pc.is_in(pc.struct_field(turns, "role"), pa.array(list(roles), turns.type.field("role").type))
    )
    which = np.full(len(turns), -1)
    before, after = (r"(?:^|[^\pL\pN_])", r"(?:$|[^\pL\pN_])") if whole_words else ("", "")
    for number, word in enumerate(words):
        hit = flat.booleans(pc.match_substring_regex(contents, f"(?is){before}{re.escape(word)}{after}"))
        which[hit & searched & (which < 0)] = number
    first = flat.first_per_row(which >= 0, offsets)
    rows = first < offsets[1:]
    return flat.reject(
        table,
        rows,
        "blocked_word",
        flat.turn_field(first[rows] - offsets[:-1][rows], "content"),
        [repr(words[number]) for number in which[first[rows]]],
    )
