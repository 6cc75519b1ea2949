"""Special tokens typed inside a message, such as `<|im_end|>` in a question: text, or a turn that never was?

A fast tokenizer takes them for the real thing wherever they stand, so a row of data could end a turn, or open one of
another role. `reject` leaves such rows out and counts them, `escape` tokenises what was typed as the ordinary text it
is, `allow` lets it through.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from instruct_builders.errors import ConfigError, RowError, TemplateError, did_you_mean

from . import columns, supervision
from .labels import IGNORED, choose, tile
from .rendering import Printer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

POLICIES = ("reject", "escape", "allow")
STAND_INS = range(0xE000, 0xF8FF)  # private use; rendering.py has the two planes beyond for itself
NAMES = 0x100000  # the special tokens' names while typed ones are told apart: one character each


def check(policy: str) -> str:
    """The policy, or a `ConfigError` that names the allowed ones."""
    if policy not in POLICIES:
        hint = did_you_mean(policy, POLICIES)
        raise ConfigError(f"special_tokens: {policy!r} is not allowed. Allowed: {', '.join(POLICIES)}.{hint}")
    return policy


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokens that a text must not hold, the longest first.

    Added tokens that are not special, such as `<think>` in many vocabularies, are text that answers do hold.
    """
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    found = (added | set(tokenizer.all_special_tokens)) - {""}
    return sorted((token for token in found if token.strip()), key=lambda token: (-len(token), token))


@functools.lru_cache(maxsize=4)
def _pattern(tokens: tuple[str, ...]) -> re.Pattern:
    return re.compile("|".join(map(re.escape, tokens)) or "(?!)")


def pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern:
    """Matches the tokens of [`special_tokens`]."""
    return _pattern(tuple(special_tokens(tokenizer)))


def typed(found: re.Pattern, said: object) -> Counter:
    """Which special tokens stand in the texts of messages, tools or variables, and how often. Roles don't count."""
    if isinstance(said, str):
        return Counter(found.findall(said))
    if isinstance(said, dict):
        said = [value for key, value in said.items() if key != "role"]
    return sum((typed(found, item) for item in said), Counter()) if isinstance(said, (list, tuple)) else Counter()


def rows_with(table: pa.Table, tokens: list[str]) -> np.ndarray:
    """Rows with special tokens in a content or a variable; rows with other texts are not plain in any case.

    Args:
        table (`pa.Table`): Conversations in the column `messages`.
        tokens (`list[str]`): From [`special_tokens`].

    Returns:
        `np.ndarray`: Of truth values, shape (rows,).
    """
    found = np.zeros(len(table), bool)
    if not tokens or not len(table):
        return found
    lists = table["messages"].combine_chunks()
    content = pc.struct_field(pc.list_flatten(lists), "content")
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    found[np.repeat(np.arange(len(table)), counts)[_holds(content, tokens)]] = True
    if columns.VARIABLES in table.column_names:
        given = table[columns.VARIABLES].combine_chunks()
        for field in given.type:
            if pa.types.is_string(field.type) and field.name != "role":  # as in `typed`
                found |= _holds(pc.struct_field(given, field.name), tokens)
    return found


def _holds(texts: pa.Array, tokens: list[str]) -> np.ndarray:
    """Which of some texts hold one of some tokens."""
    pattern = "|".join(map(re.escape, tokens))
    return pc.fill_null(pc.match_substring_regex(texts, pattern), False).to_numpy(zero_copy_only=False)


def escape(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict],
    chat_template: str | None = None,
    tools: list | None = None,
    *,
    train_on: str = "all",
    **variables,
) -> dict[str, list[int]]:
    """As [`supervision.supervise`], with typed special tokens as ordinary text: no character is changed.

    For the time of printing, the first character of each is another one, so that template and rules see ordinary
    text. Then the text as it should be is tokenised once, by a copy of the tokenizer whose special tokens have names
    that nobody can type; the template's own bear them, the typed ones don't.

    Raises:
        TemplateError, RowError: As [`supervision.supervise`]; `RowError` also where the template looks into the text.
    """
    found = pattern(tokenizer)
    hide = _Hiding(found, [messages, tools, variables])
    hidden = hide(messages), hide(tools), hide(variables)
    told = supervision.explain(tokenizer, hidden[0], chat_template, hidden[1], train_on=train_on, **hidden[2])
    printer = Printer(tokenizer, chat_template, tools, variables)
    text = hide.undo(told.text)
    if text != printer.text(supervision.clean(messages)):
        raise RowError(
            "the chat template treats a typed special token as its own, so it can't be told apart. Remove the row, "
            "or set special_tokens: reject.",
            reason="control_token",
            field="messages",
        )
    ids, offsets = encode(tokenizer, text, [match.span() for match in found.finditer(told.text)])
    inside, _ = choose(tile(printer, offsets), told.spans)
    return {"input_ids": ids, "labels": np.where(inside, ids, IGNORED).tolist()}


class _Hiding:
    """Puts a stand-in for the first character of every typed special token, and puts it back."""

    def __init__(self, found: re.Pattern, said: object):
        self.found = found
        written = json.dumps(said, ensure_ascii=False, default=str)
        free = (chr(code) for code in STAND_INS if chr(code) not in written)
        self.stand_ins = {first: next(free) for first in sorted({token[0] for token in typed(found, said)})}

    def __call__(self, said):
        if isinstance(said, str):
            while self.found.search(said):  # again where hiding one uncovers another
                said = self.found.sub(lambda match: self.stand_ins[match[0][0]] + match[0][1:], said)
            return said
        if isinstance(said, dict):
            return {key: value if key == "role" else self(value) for key, value in said.items()}
        return [self(item) for item in said] if isinstance(said, (list, tuple)) else said

    def undo(self, text: str) -> str:
        return text.translate({ord(stand_in): first for first, stand_in in self.stand_ins.items()})


def encode(tokenizer, text: str, genuine: list[tuple[int, int]]) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and character offsets of `text`, whose special tokens are those at `genuine` and no others.

    Raises:
        TemplateError: If the tokenizer can't be told what is genuine.
        RowError: If the text holds one of the characters that stand for special tokens meanwhile.
    """
    tokens = tuple(special_tokens(tokenizer))
    names = {token: chr(NAMES + place) for place, token in enumerate(tokens)}
    if any(ord(letter) >= NAMES for letter in text):
        raise RowError(
            "holds a character of the private use plane 16 beside a special token, so the two can't be told apart. "
            "Remove the row, or set special_tokens: reject.",
            reason="control_token",
            field="messages",
        )
    pieces, places, last = [], [], 0  # places: of every character of the renamed text in `text`
    for start, end in genuine:
        pieces += [text[last:start], names[text[start:end]]]
        places += [*range(last, start), start]
        last = end
    pieces.append(text[last:])
    places += [*range(last, len(text)), len(text)]
    encoded = _apart(tokenizer, tokens).encode("".join(pieces), add_special_tokens=False)
    return encoded.ids, [(places[start], places[end]) for start, end in encoded.offsets]


@functools.lru_cache(maxsize=2)
def _apart(tokenizer: PreTrainedTokenizerBase, tokens: tuple[str, ...]):
    """The tokenizer with its special tokens renamed, checked to be the same otherwise."""
    from tokenizers import Tokenizer

    definition = tokenizer.backend_tokenizer.to_str()
    names = {token: chr(NAMES + place) for place, token in enumerate(tokens)}
    spec = json.loads(definition)
    model, spec["truncation"], spec["padding"] = spec["model"], None, None
    for token in spec["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    # Also in the model's own vocabulary: a Unigram model, or BPE with ignore_merges, would find the typed text there.
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(token, token): number for token, number in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    if "merges" in model:
        model["merges"] = [
            merge
            for merge in model["merges"]
            if not {*(pair := merge.split(" ") if isinstance(merge, str) else merge), "".join(pair)} & names.keys()
        ]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    apart = Tokenizer.from_str(json.dumps(spec))
    whole = Tokenizer.from_str(definition)
    whole.no_truncation()
    whole.no_padding()
    for probe in ("{}", "a{}b", "a {} b", "\n{}\n"):
        there = whole.encode("".join(probe.format(token) for token in tokens), add_special_tokens=False).ids
        here = apart.encode("".join(probe.format(names[token]) for token in tokens), add_special_tokens=False).ids
        if here != there:
            raise TemplateError(
                "special_tokens: escape can't be done with this tokenizer: its special tokens are not the same under "
                "another name. Set special_tokens: reject."
            )
    return apart
