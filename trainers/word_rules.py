"""Proofs that a tokenizer makes the same tokens of a text and of its two halves, cut between "x" and " y".

The cut is in front of a single space between two visible ASCII characters. Two kinds of tokenizers are looked at:

- Byte-level ones cut a text into words by patterns, one after the other. A pattern's matches are the same in the
  halves if none can go on from a visible character to a space, and what it looks ahead at is one character behind a
  blank: then it sees nothing on the other side of the cut. One of the patterns must also match any blank alone, so
  that a match starts at the cut. What a part of a pattern matches is asked of the tokenizers' own engine.
- SentencePiece's write "\u2581" for each space and, as BPE, have no other rule for words. No merge goes over the cut
  if none makes a token with "\u2581" behind another character.
"""

from __future__ import annotations

import functools
import json
import re
from typing import NamedTuple

from .rust_tokens import steps

BLANK = "\u2581"
_LETTER = r"\\[pP]\{\^?\w+\}|\\[sSwWdDrntfv]|\\[!-/:-@\[-`{-~]"
_ATOM = re.compile(rf"{_LETTER}|\[\^?(?:{_LETTER}|[^\\\[\]&]|&(?!&))+\]|[^\\\[\](){{}}|?*+^$]")
_TIMES = re.compile(r"(?:([?*+])|\{(\d+)(?:,\d*)?\})([?+]?)")
_WORD = r"(?:[A-Za-z']|\[[A-Za-z]+\])+"
_WORDS = re.compile(rf"\(\?i:{_WORD}(?:\|{_WORD})*\)")  # such as 's and 'LL
_AHEAD = re.compile(rf"\(\?[!=](?:{_ATOM.pattern})\)|\$")


class _Unproven(ValueError):
    """A pattern that may match over the cut, or is written in a way that is not read here."""


class _Part(NamedTuple):
    """What is known of a part of a pattern: whether it can match nothing, and which characters first and last.

    `first` and `last` are (a visible one, a space).
    """

    empty: bool
    first: tuple[bool, bool]
    last: tuple[bool, bool]


_NOTHING = _Part(True, (False, False), (False, False))


def cuts_letters(step: dict | None) -> bool:
    """Whether a byte-level tokenizer's rules for words cut there, whatever is on either side."""
    parts = steps(step, "pretokenizers")
    if not parts or parts[-1]["type"] != "ByteLevel" or parts[-1]["add_prefix_space"]:
        return False
    cuts = parts[-1]["use_regex"]  # GPT-2's rules
    for part in parts[:-1]:
        if part["type"] == "Digits":
            continue  # it looks at no neighbour but a digit's
        pattern = part["pattern"].get("Regex") if part["type"] == "Split" else None
        if pattern is None or part["behavior"] != "Isolated" or part["invert"]:
            return False
        try:
            cuts |= _reads(pattern)
        except _Unproven:
            return False
    return cuts


def cuts_blanks(spec: dict) -> bool:
    """Whether a SentencePiece tokenizer's words end there; of BPE without words, whether its merges do."""
    normal, cutters = steps(spec["normalizer"], "normalizers"), steps(spec["pre_tokenizer"], "pretokenizers")
    space = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
    model, words = spec["model"], False
    written = space in normal
    for step in cutters:
        if step["type"] == "Metaspace" and step["replacement"] == BLANK:
            written, words = True, words or step.get("split", True)
        elif step["type"] != "Split" or step["pattern"] != {"String": " "} or space not in normal:
            return False  # Gemma's: there is no space any more that it could cut at
    if any(step["type"] == "Replace" and step != space for step in normal):
        return False
    if any(step["type"] == "Prepend" and step["prepend"] != BLANK for step in normal):
        return False
    if not written or words:
        return words
    own = ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if model["type"] != "BPE" or any(model.get(name) for name in own) or BLANK not in model["vocab"]:
        return False
    if (model.get("unk_token") or "").endswith(BLANK):
        return False
    merges = (merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge) for merge in model["merges"])
    return re.search(f"[^\n{BLANK}]{BLANK}", "\n".join(merge.replace("\n", "n") for merge in merges)) is None


def inside(backend, spec: dict):
    """The tokenizer for pieces that no segment begins with: without the blank that it writes in front of a segment.

    Args:
        backend (`tokenizers.Tokenizer`): A tokenizer that `cuts_blanks` is true of.
        spec (`dict`): Its description.
    """
    from tokenizers import Tokenizer

    normal = [step for step in steps(spec["normalizer"], "normalizers") if step["type"] != "Prepend"]
    cutters = [
        step | {"prepend_scheme": "never"} if step["type"] == "Metaspace" else step
        for step in steps(spec["pre_tokenizer"], "pretokenizers")
    ]
    small = {
        "version": spec["version"],
        "normalizer": {"type": "Sequence", "normalizers": normal},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": cutters},
        "model": {"type": "BPE", "vocab": {}, "merges": []},
        **dict.fromkeys(("truncation", "padding", "post_processor", "decoder")),
        "added_tokens": [],
    }
    made = Tokenizer.from_str(json.dumps(small))
    made.model = backend.model
    return made


def _reads(pattern: str) -> bool:
    """Whether one of a pattern's alternatives matches any space alone; raises if a match may go over the cut."""
    branches, end = _alternatives(pattern, 0)
    if end < len(pattern) or any(part.empty for part, _ in branches):
        raise _Unproven(pattern)
    return any(alone and part.first[1] for part, alone in branches)


def _alternatives(pattern: str, at: int) -> tuple[list[tuple[_Part, bool]], int]:
    """The alternatives up to the end of a group, each with whether it is one character class, and where they end."""
    branches, whole, parts = [], _NOTHING, 0
    while at < len(pattern) and pattern[at] != ")":
        if pattern[at] == "|":
            branches.append((whole, parts == 1))
            whole, parts, at = _NOTHING, 0, at + 1
        elif ahead := _AHEAD.match(pattern, at):
            if whole.empty or whole.last[0]:
                raise _Unproven(pattern)
            at, parts = ahead.end(), parts + 1
        else:
            part, at = _part(pattern, at)
            whole, parts = _join(whole, part), parts + 1
    return [*branches, (whole, parts == 1)], at


def _part(pattern: str, at: int) -> tuple[_Part, int]:
    """A character class, a literal or a group, as often as it may come, and where it ends."""
    if words := _WORDS.match(pattern, at):
        part, at = _Part(False, (True, False), (True, False)), words.end()
    elif atom := _ATOM.match(pattern, at):
        sees, at = _sees(atom[0]), atom.end()
        part = _Part(False, sees, sees)
    elif pattern.startswith("(?:", at) or (pattern.startswith("(", at) and not pattern.startswith(("(?", "(*"), at)):
        inner, at = _alternatives(pattern, at + (3 if pattern.startswith("(?:", at) else 1))
        if at == len(pattern):
            raise _Unproven(pattern)
        parts, at = [part for part, _ in inner], at + 1
        part = _Part(any(part.empty for part in parts), *(_any(sees) for sees in list(zip(*parts, strict=True))[1:]))
    else:
        raise _Unproven(pattern)
    times = _TIMES.match(pattern, at)
    if times is None:
        return part, at
    sign, least, manner = times.groups()
    if sign != "?":
        _join(part, part)
    optional = sign in ("?", "*") or (least is not None and (int(least) == 0 or manner == "?"))
    return part._replace(empty=part.empty or optional), times.end()


def _join(left: _Part, right: _Part) -> _Part:
    if left.last[0] and right.first[1]:
        raise _Unproven("a space behind a visible character")
    first = _any([left.first, right.first]) if left.empty else left.first
    last = _any([left.last, right.last]) if right.empty else right.last
    return _Part(left.empty and right.empty, first, last)


def _any(sees) -> tuple[bool, bool]:
    return any(visible for visible, _ in sees), any(space for _, space in sees)


@functools.lru_cache(maxsize=256)
def _sees(atom: str) -> tuple[bool, bool]:
    """Whether a pattern for one character matches some visible ASCII character, and whether a space."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    split = Split(Regex(atom), "removed")
    return any(not split.pre_tokenize_str(chr(code)) for code in range(33, 127)), not split.pre_tokenize_str(" ")
