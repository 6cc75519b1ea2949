"""Which characters of a printed conversation an assistant wrote: found by comparing printed texts, never guessed.

For the assistant message `i` of a conversation `M`, three texts are compared from a letter of a message that stands in
all of them (see marking.py):

- `M` itself, the text that is trained on;
- `M[:i]` with `add_generation_prompt=True`, what the model is given at inference: whatever both share after the
  message before is the prompt's, and the supervised characters start where they part;
- `M[:i + 1]`, or `M` with one more user message: whatever both share after the answer's last letter closes the turn,
  and the supervised characters end with the last special token in it.

What can't be told this way is refused with the rule that it would break.
"""

from __future__ import annotations

import html
import json
from dataclasses import dataclass

from .marking import CALLS, NAME, PROBE, Marked, Place, Run, View
from .rendering import Printer, Raised, Unaligned, common_prefix

RULES = {
    1: "the text is what apply_chat_template prints",
    2: "every character of an assistant message is supervised",
    3: "no character of a system, user or tool message is supervised",
    4: "the end-of-turn token after an assistant message is supervised",
    5: "nothing that add_generation_prompt supplies is supervised",
    6: "a token is supervised only if each of its characters is",
}


class Refusal(Exception):
    """A rule that can't be met."""

    def __init__(self, rule: int, why: str):
        super().__init__(why)
        self.rule, self.why = rule, why


@dataclass(frozen=True)
class Turn:
    """The characters of one assistant message in a printed conversation.

    Attributes:
        message (`int`): Its position in the conversation.
        start (`int`): First supervised character: the prompt ends here.
        own (`int`): First character of its text; up to here the template's markers decide, if it has any.
        stop (`int`): Where the end-of-turn token starts.
        end (`int`): First character after the end-of-turn token.
        free (`int`): Characters from `end` to here may be supervised or not: the template's own, after the turn.
        before (`int`): End of the text that precedes the assistant's header.
        supplied (`int`): Characters of the message itself that the generation prompt supplies already.
        unmatched (`str`): The end of the generation prompt that this answer does not have, such as `<think>`.
    """

    message: int
    start: int
    own: int
    stop: int
    end: int
    free: int
    before: int
    supplied: int
    unmatched: str = ""


# Names of tools marked, blank contents filled, all of the template's own words left alone: the first that aligns.
ATTEMPTS = [(names, fill, every) for every in (False, True) for names in (True, False) for fill in (True, False)]


def turns(printer: Printer, messages: list[dict], trained: list[int]) -> tuple[str, list[Turn], list[tuple[int, str]]]:
    """The printed text, the turns of the trained messages, and the texts (message, field) that the template left out.

    Raises:
        Refusal: With the rule that can't be met.
    """
    why = ""
    for attempt in ATTEMPTS:
        try:
            marked = Marked(printer, messages, *attempt)
            whole = marked.view(len(messages))
            left_out = _left_out(marked, whole, trained)
            return whole.text, [_turn(marked, whole, index) for index in trained], left_out
        except Unaligned as error:
            why = str(error)
    raise Refusal(2, f"the characters of the messages can't be told from the template's own: {why}")


def _left_out(marked: Marked, whole: View, trained: list[int]) -> list[tuple[int, str]]:
    """Texts with letters that the template did not print; an answer or a tool call among them can't be supervised."""
    printed = {place.leaf for place in whole.places}
    fields = {(leaf.message, leaf.field) for leaf in marked.leaves if leaf.message < len(marked.real) - 1}
    shown = {(marked.leaves[index].message, marked.leaves[index].field) for index in printed}
    missing = sorted(fields - shown)
    for message, field in missing:
        if message in trained and field in ("content", CALLS, NAME):
            what = "content" if field == "content" else "tool calls"
            raise Refusal(2, f"the template does not print the {what} of message {message}")
    for run in whole.runs:
        if (
            run.leaf.message in trained
            and run.leaf.field == "content"
            and not _is_whole(whole.text, run.leaf.text, run)
        ):
            if not any(word in run.leaf.text for word in marked.words):
                raise Refusal(2, f"the template prints only a part of message {run.leaf.message}, or changes it")
            missing.append((run.leaf.message, "part of content"))  # such as what is before a `</think>`
    return missing


def _is_whole(text: str, content: str, run: Run) -> bool:
    """Whether a run is the whole content but for blanks around it, as it is or escaped."""
    printed = text[run.start : run.end].strip()
    if printed == content.strip():
        return True
    return printed in (json.dumps(content, ensure_ascii=False)[1:-1], html.escape(content).strip())


def _turn(marked: Marked, whole: View, index: int) -> Turn:
    own = [run for run in whole.runs if run.leaf.message == index and run.leaf.field != NAME]
    names = [run for run in whole.runs if run.leaf.message == index and run.leaf.field == NAME]
    first = min(own + names[:1], key=lambda run: run.start, default=None)
    start, before, unmatched = _start(marked, whole, index, first)
    last = max(own, key=lambda run: run.end, default=None) or (names[0] if names else None)
    if last is not None and last.end < start:
        last = None  # the generation prompt supplies all of it
    stop, end, free = _end(marked, whole, index, last, start, before)
    for run in whole.runs:
        if run.leaf.message != index and run.leaf.field != NAME and run.solid < end and run.end > start:
            raise Refusal(3, f"message {run.leaf.message} is printed inside message {index}")
    supplied = sum(max(0, min(run.end, start) - run.solid) for run in own)
    says = first is not None and first.leaf.field not in (CALLS, NAME)  # what opens a tool call is part of it
    turn_own = min(max(start, first.start), stop) if says else start
    return Turn(index, start, turn_own, stop, end, free, before, supplied, unmatched)


def _start(marked: Marked, whole: View, index: int, first: Run | None) -> tuple[int, int, str]:
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
    shared = shared and _off_tokens(marked.printer, shared, text[before:], tail)
    if tail is not None and shared > len(tail) - len(added):
        # They part inside the generation prompt, such as at a `<think>` that this answer does not have.
        edge = before + shared
        if first is not None and edge > first.start:
            if not first.sure:
                raise Refusal(5, f"no telling where the answer begins in {text[before : first.last.end][-80:]!r}")
            blank = not text[first.start : first.solid].strip()
            edge = min(edge, _true_start(marked, first, text) if blank else first.solid)
        return edge, before, tail[shared:]
    if added.strip() and text.count(added, before, limit) == 1:
        return text.index(added, before, limit) + len(added), before, ""
    raise Refusal(
        5,
        f"the text before message {index} is {text[before:limit][-80:]!r}, the prompt at inference ends with "
        f"{prompt.text[-80:]!r}: no telling where the prompt ends",
    )


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
                return start + _off_tokens(marked.printer, size, text[start:], added)
    raise Refusal(5, f"the text before message 0 is {text[:limit][-80:]!r}, the generation prompt is {added!r}")


def generation_prompt(printer: Printer, messages: list[dict]) -> str:
    """What `add_generation_prompt=True` puts behind the messages, or in place of an end-of-text token there."""
    plain, prompt = printer.text(messages), printer.text(messages, prompt=True)
    size = _off_tokens(printer, common_prefix(plain, prompt), plain, prompt)
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


def _end(marked: Marked, whole: View, index: int, last: Run | None, start: int, before: int) -> tuple[int, int, int]:
    """Where the end-of-turn token starts and ends, and how far the template's own text goes on."""
    text, is_last = whole.text, index == len(marked.real) - 2
    own_end = last.end if last is not None else start
    following = [run.start for run in whole.runs if run.leaf.message != index and run.start >= own_end]
    rest = text[own_end : min(following, default=len(text))]
    tail = _tail(marked, whole, index, last, start, before)
    if tail is None and not is_last:
        raise Refusal(4, f"message {index} is printed otherwise when nothing follows it: no telling where it ends")
    shared = 0 if tail is None else _off_tokens(marked.printer, common_prefix(rest, tail), rest, tail)
    found = [token.span() for token in marked.printer.added.finditer(rest)]
    inside = [span for span in found if span[1] <= shared]
    if not inside and is_last and len(found) == 1:
        inside = found  # the last turn ends otherwise than an earlier one would
    elif not inside and not is_last:
        inside = _before_next(marked, index, found, rest, tail)
    if not inside:
        tokens = [rest[slice(*span)] for span in found]
        raise Refusal(
            4,
            f"message {index} is followed by {rest[:80]!r}"
            + (
                f", and no telling which of {tokens} ends the turn"
                if tokens
                else ", where no special token ends the turn"
            ),
        )
    stop, end = inside[-1]
    return own_end + stop, own_end + end, len(text) if is_last else own_end + max(end, shared)


def _tail(marked: Marked, whole: View, index: int, last: Run | None, start: int, before: int) -> str | None:
    """What the template prints after the message when something else follows it; None where that can't be told."""
    count = index + 2 if index == len(marked.real) - 2 else index + 1
    try:
        view = marked.view(count)
    except Raised:
        return None
    if last is not None:
        place = marked.find(view, last.last)
        return None if place is None else view.text[place.end + last.end - last.last.end :]
    runs = [run for run in whole.runs if run.last.end == before]
    place = marked.find(view, runs[-1].last) if runs else None
    edge = place.end if place else 0 if before == 0 else None
    header = whole.text[before:start]
    return None if edge is None or not view.text.startswith(header, edge) else view.text[edge + len(header) :]


def _before_next(marked: Marked, index: int, found: list, rest: str, tail: str) -> list[tuple[int, int]]:
    """The one token before the next turn's opening token, where the template ends the last turn with another one."""
    if len(marked.printer.added.findall(tail)) != 1:
        return []
    opening = marked.printer.added.match(usual_prompt(marked.printer))
    opens = [place for place, span in enumerate(found) if opening and rest[slice(*span)] == opening.group()]
    return found[:1] if opens and opens[-1] == 1 else []


def _after(marked: Marked, view: View, place: Place | None) -> str | None:
    """The text after the character that a place stands for; all of it without a place."""
    if place is None:
        return view.text
    same = marked.find(view, place)
    return None if same is None else view.text[same.end :]


def _off_tokens(printer: Printer, size: int, *texts: str) -> int:
    """The longest prefix of at most `size` characters that cuts through no special token of the texts."""
    for text in texts:
        for token in printer.added.finditer(text[: size + 256]):
            if token.start() < size < token.end():
                size = token.start()
    return size


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
