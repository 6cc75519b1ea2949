"""Answers of a model -> tasks, instances, verdicts. Pure functions; what can't be read comes back as nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

ITEM = re.compile(r"(?:^|\n)[ \t]*(?:Task[ \t]+)?(\d{1,4})[ \t]?[.):](?:[ \t]+|(?=\n|$))")
PART = re.compile(
    r"(?:^|\n)[ \t*]*(?:(\d{1,4})[ \t]*[.):]?[ \t]*)?\**(Instruction|Input|Output)\**[ \t]*:\**", re.IGNORECASE
)
BLOCK = re.compile(r"(?:^|\n)[ \t]*#{3,}[ \t]*(?=\n|$)")
EXAMPLE = re.compile(r"(?:^|\n)[ \t]*Example[ \t]?\d*[ \t]*[.:]?[ \t]*(?=\n|$)", re.IGNORECASE)
OUTPUT = re.compile(r"(?:^|\n)[ \t]*Output[ \t]*\d*[ \t]*:[ \t]*", re.IGNORECASE)
INPUT = re.compile(r"(?:^|\n)[ \t]*Input[ \t]*\d*[ \t]*:[ \t]*", re.IGNORECASE)
LABEL = re.compile(r"(?:^|\n)[ \t]*Class label[ \t]*:[ \t]*", re.IGNORECASE)
YES_NO = re.compile(r"\W*(?:is it (?:a )?classification(?: task)?\W*)?(yes|no)\b", re.IGNORECASE)
NOT_EQUAL = re.compile(r"(?:not|n['’]t|\bun|\bin)[\s_-]*(?:\w+[\s_-]+)?equal", re.IGNORECASE)
EQUAL = re.compile(r"\bequal\b", re.IGNORECASE)
GIVEN_TAG = re.compile(r"[ \t]*</?given_text(?:-\d+)?>[ \t]*\n?")
THOUGHTS = (("<think>", "</think>"), ("<thinking>", "</thinking>"))
TASK_TAG = re.compile(r"</?(?:task|examples)(?:-\d+)?>")


def without_thoughts(text: str) -> str | None:
    """What a reasoning model says behind its thoughts; `None` where they do not end.

    Thoughts are what stands between `<think>` and `</think>` at the beginning. Where a server has put the first tag
    into the prompt, they end with a line that is nothing but `</think>`. Any other text is left as it is.
    """
    head = text.lstrip()
    for begin, end in THOUGHTS:
        before, closed, said = head.partition(end)
        if before.startswith(begin):
            return said.lstrip() if closed else None
        alone = (not before or before.endswith("\n")) and (not said or said.startswith("\n"))
        if closed and alone and begin not in before:
            return said.lstrip()
    return text


def numbered(text: str, first: int, truncated: bool = False) -> list[str]:
    """The items of a numbered list, each on one line.

    A number below the list's first one belongs to the item it stands in, such as steps inside of a task. Numbers that
    are skipped or repeated change nothing. Where the answer goes on behind a number that the prompt ended with, what
    stands before the next number is an item as well.

    Args:
        text (`str`): The answer.
        first (`int`): The number that was asked for first.
        truncated (`bool`, *optional*, defaults to `False`): Whether the answer was cut off: its last item is dropped.
    """
    heads = list(ITEM.finditer(text))
    if not heads:
        lines = [line for line in text.splitlines() if line.strip()]
        return [] if truncated or len(lines) != 1 else _items(lines)
    lowest = min(first, int(heads[0][1]))
    heads = [head for head in heads if int(head[1]) >= lowest]
    ends = [head.start() for head in heads[1:]] + [len(text)]
    items = [text[head.end() : end] for head, end in zip(heads, ends, strict=True)]
    before = text[: heads[0].start()]
    if int(heads[0][1]) == first + 1 and before.strip() and not before.rstrip().endswith(":"):
        items.insert(0, before)
    return _items(items[: len(items) - truncated])


def _items(items: list[str]) -> list[str]:
    cleaned = [" ".join(TASK_TAG.sub(" ", item).split()) for item in items]
    return [item for item in cleaned if item]


@dataclass(frozen=True)
class Block:
    """One task of an Alpaca list: three texts, stripped. Empty where the answer had none."""

    instruction: str
    input: str
    output: str


def alpaca_blocks(text: str, truncated: bool = False) -> tuple[list[Block], int]:
    """The tasks of an Alpaca list, and how many parts of it were no whole task.

    What counts is the order of the parts, not their numbers: a slip costs nothing. A bare `Output:` is a part only if
    no `Output:` has a number, since a text may hold such a line itself; so for the others.

    Args:
        text (`str`): The answer.
        truncated (`bool`, *optional*, defaults to `False`): Whether it was cut off: its last task is dropped.
    """
    blocks, torn = [], 0
    pieces = [piece for piece in BLOCK.split(text) if piece.strip()]
    numbered_names = {head[2].lower() for head in PART.finditer(text) if head[1]}
    for position, piece in enumerate(pieces):
        heads = [head for head in PART.finditer(piece) if head[1] or head[2].lower() not in numbered_names]
        found, whole = _parts(piece, heads, first=position == 0)
        torn += not whole
        blocks += found
    if truncated and blocks:
        blocks.pop()
    return blocks, torn


def _parts(piece: str, heads: list[re.Match], first: bool) -> tuple[list[Block], bool]:
    """The tasks in what stands between two lines `###`: one, unless a line was forgotten."""
    if not heads:
        return [], False
    names = [head[2].lower() for head in heads]
    ends = [head.start() for head in heads[1:]] + [len(piece)]
    texts = [piece[head.end() : end].strip() for head, end in zip(heads, ends, strict=True)]
    before = piece[: heads[0].start()].strip()
    if first and names[0] != "instruction" and before:  # goes on behind the prompt's "4. Instruction:"
        names, texts = ["instruction", *names], [before, *texts]
    starts = [number for number, name in enumerate(names) if name == "instruction"] + [len(names)]
    blocks, whole = [], starts[0] == 0 and len(starts) > 1
    for start, end in pairwise(starts):
        if names[start:end] == ["instruction", "input", "output"]:
            blocks.append(Block(*texts[start:end]))
        elif names[start:end] == ["instruction", "output"]:
            blocks.append(Block(texts[start], "", texts[start + 1]))
        else:
            whole = False
    return blocks, whole


def classification(text: str) -> bool | None:
    """`True` for yes, `False` for no, `None` for anything else."""
    found = YES_NO.match(text)
    return None if found is None else found[1].lower() == "yes"


def input_first(text: str) -> list[tuple[str, str]]:
    """(input, output) of each example; the input is empty where the task needs none.

    A further `Input:` behind an output is the beginning of another example and cut off.
    """
    found = []
    for piece in EXAMPLE.split(TASK_TAG.sub("", text)):
        given, head, answer = _partition(OUTPUT, piece)
        if head:
            answer = INPUT.split(OUTPUT.split(answer)[0])[0]
            found.append((INPUT.sub("", given, count=1).strip(), answer.strip()))
    return found


def output_first(text: str) -> list[tuple[str, str]]:
    """(input, label) of each example of a classification task."""
    found = []
    for piece in LABEL.split(TASK_TAG.sub("", text))[1:]:
        label, _, given = piece.strip().partition("\n")
        found.append((INPUT.sub("", EXAMPLE.sub("", given), count=1).strip(), label.strip()))
    return found


def simple_instance(text: str) -> tuple[str, str] | None:
    """(input, output) of the short loop's answer; `None` without an output."""
    given, head, answer = _partition(OUTPUT, text)
    return (INPUT.sub("", given, count=1).strip(), answer.strip()) if head and answer.strip() else None


def _partition(pattern: re.Pattern, text: str) -> tuple[str, str, str]:
    found = pattern.search(text)
    return (text[: found.start()], found[0], text[found.end() :]) if found else (text, "", "")


def evolved(text: str) -> str:
    """The evolved prompt, without the fence of the given one where the model repeats it."""
    return GIVEN_TAG.sub("", text).strip()


def equal(text: str) -> bool | None:
    """The judge's verdict: `not equal` is looked for first, since `equal` is a part of it."""
    if NOT_EQUAL.search(text):
        return False
    return True if EQUAL.search(text) else None


READERS = {
    "classify": lambda text: classification(text) is not None,
    "instances/input_first": input_first,
    "instances/output_first": output_first,
    "instances/simple": simple_instance,
    "alpaca": lambda text: alpaca_blocks(text)[0],
    "equal": lambda text: equal(text) is not None,
}


def problem(purpose: str, text: str) -> str | None:
    """`"unparsable"` where an answer can't be read as what was asked for, so that it is asked for again."""
    return None if READERS[purpose](text) else "unparsable"
