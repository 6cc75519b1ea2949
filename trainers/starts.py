"""Where the prompt of an answer ends: what `add_generation_prompt=True` supplies, compared with the text itself."""

from __future__ import annotations

import re

from .marking import PROBE, Marked, Place, Run, View
from .rendering import Printer, Raised, common_prefix
from .rules import Refusal

TAGS = re.compile(r"\s*(?:</?[\w|]+>\s*)*")  # such as `<think>`


def start_of(marked: Marked, whole: View, index: int, first: Run | None) -> tuple[int, int, str]:
    """Where the prompt ends, where the text of the message before it ends, and what of the prompt is not here."""
    text = whole.text
    others = [run for run in whole.runs if run.leaf.message < index and (first is None or run.start < first.start)]
    before = others[-1].last.end if others else 0
    following = [run.start for run in whole.runs if run.leaf.message > index and run.start >= before]
    limit = first.solid if first else min(following, default=len(text))
    if index == 0:
        return _start_of_first(marked, text, limit), before, usual_prompt(marked.printer)
    try:
        prompt = marked.view(index, prompt=True)
        tail = _after(marked, prompt, others[-1].last if others else None)
        if tail is not None and text.startswith(tail, before):
            return _behind_header(marked.printer, text, before + len(tail), limit), before, ""
        added = generation_prompt(marked.printer, marked.real[:index])
    except Raised as error:
        raise Refusal(5, f"the template raises an error for the prompt of message {index}: {error}") from error
    shared = 0 if tail is None else common_prefix(text[before : before + len(tail)], tail)
    shared = shared and off_tokens(marked.printer, shared, text[before:], tail)
    if tail is not None and shared > len(tail) - len(added):
        # They part inside the generation prompt, such as at a `<think>` that this answer does not have.
        edge = before + shared
        if first is not None and edge > first.start:
            edge = _inside_answer(marked, first, text, edge)
        return edge, before, tail[shared:]
    if added.strip() and text.count(added, before, limit) == 1:
        return text.index(added, before, limit) + len(added), before, ""
    raise Refusal(
        5,
        f"the text before message {index} is {text[before:limit][-80:]!r}, the prompt at inference ends with "
        f"{prompt.text[-80:]!r}: no telling where the prompt ends",
    )


def _inside_answer(marked: Marked, first: Run, text: str, edge: int) -> int:
    """Where the prompt ends if the answer itself begins like the rest of it: whole tags are the prompt's."""
    if not first.sure:
        raise Refusal(5, f"no telling where the answer begins in {text[first.start : first.last.end][:80]!r}")
    edge = first.start + TAGS.match(text[first.start : edge]).end()
    return edge if text[first.start : edge].strip() else min(edge, _true_start(marked, first, text))


def _behind_header(printer: Printer, text: str, start: int, limit: int) -> int:
    """`start`, or what follows a turn's usual header there: some templates print it only when an answer follows."""
    usual = usual_prompt(printer)
    found = usual.strip() and text.startswith(usual, start) and start + len(usual) <= limit
    return start + len(usual) if found else start


def _start_of_first(marked: Marked, text: str, limit: int) -> int:
    """An assistant that speaks first: nothing comes before it, so the generation prompt of another text is used."""
    added = usual_prompt(marked.printer)
    if not added.strip() and not text[:limit].strip():
        return 0
    for size in range(len(added), 0, -1):
        if marked.printer.added.search(added[:size]) or size == len(added):
            if text.count(added[:size], 0, limit) == 1:
                start = text.index(added[:size])
                return start + off_tokens(marked.printer, size, text[start:], added)
    raise Refusal(5, f"the text before message 0 is {text[:limit][-80:]!r}, the generation prompt is {added!r}")


def generation_prompt(printer: Printer, messages: list[dict]) -> str:
    """What `add_generation_prompt=True` puts behind the messages, or in place of an end-of-text token there."""
    plain, prompt = printer.text(messages), printer.text(messages, prompt=True)
    size = off_tokens(printer, common_prefix(plain, prompt), plain, prompt)
    if plain[size:].strip() and not printer.added.fullmatch(plain[size:].strip()):
        raise Refusal(5, f"add_generation_prompt changes the text before it, which ends with {plain[-80:]!r}")
    return prompt[size:]


def usual_prompt(printer: Printer) -> str:
    """The generation prompt behind one user message; empty where there is none or the template raises an error."""
    if printer.usual is None:
        try:
            printer.usual = generation_prompt(printer, [PROBE])
        except (Refusal, Raised):
            printer.usual = ""
    return printer.usual


def _true_start(marked: Marked, first: Run, text: str) -> int:
    """Where a message starts whose leading blanks could be the template's: printed once more without them."""
    index, field, content = first.leaf
    real = marked.real[:-1]
    if field not in real[index] or real[index][field] != content:
        return first.solid
    without = [*real[:index], real[index] | {field: content.lstrip()}, *real[index + 1 :]]
    printed = marked.printer.text(without)
    kept = len(text) - len(printed)
    same = kept >= 0 and text[: first.solid - kept] + text[first.solid :] == printed
    if not same:
        raise Refusal(5, f"no telling whether the template keeps the blanks at the start of message {index}")
    return first.solid - kept


def _after(marked: Marked, view: View, place: Place | None) -> str | None:
    """The text after the character that a place stands for; all of it without a place."""
    if place is None:
        return view.text
    same = marked.find(view, place)
    return None if same is None else view.text[same.end :]


def off_tokens(printer: Printer, size: int, *texts: str) -> int:
    """The longest prefix of at most `size` characters that cuts through no special token of the texts."""
    for text in texts:
        for token in printer.added.finditer(text[: size + 256]):
            if token.start() < size < token.end():
                size = token.start()
    return size
