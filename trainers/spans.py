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

from .marking import CALLS, NAME, PROBE, Marked, Run, View
from .rendering import Printer, Raised, Unaligned, common_prefix
from .rules import Refusal
from .starts import off_tokens, start_of, usual_prompt


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
        index, field, content = run.leaf
        if index in trained and field == "content" and not _is_whole(whole.text, content, run):
            if not any(word in content for word in marked.words):
                raise Refusal(2, f"the template prints only a part of message {index}, or changes it")
            missing.append((index, "part of content"))  # such as what is before a `</think>`
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
    start, before, unmatched = start_of(marked, whole, index, first)
    last = max(own, key=lambda run: run.end, default=None) or (names[0] if names else None)
    if last is not None and last.end < start:
        last = None  # the generation prompt supplies all of it
    stop, end, free = _end(marked, whole, index, last, start, before)
    for run in whole.runs:
        if run.leaf.message != index and run.leaf.field != NAME and run.solid < end and run.end > start:
            raise Refusal(3, f"message {run.leaf.message} is printed inside message {index}")
    given = [whole.text[run.start : min(run.end, start)].lstrip() for run in own]  # blanks may be the template's
    supplied = sum(map(len, given))
    says = first is not None and first.leaf.field not in (CALLS, NAME)  # what opens a tool call is part of it
    turn_own = min(max(start, first.start), stop) if says else start
    return Turn(index, start, turn_own, stop, end, free, before, supplied, unmatched)


def _end(marked: Marked, whole: View, index: int, last: Run | None, start: int, before: int) -> tuple[int, int, int]:
    """Where the end-of-turn token starts and ends, and how far the template's own text goes on."""
    if (last is None or last.leaf.field != "content") and not marked.real[index].get(CALLS):
        return _end_of_blank(marked, whole, index, start)
    text, is_last = whole.text, index == len(marked.real) - 2
    own_end = last.end if last is not None else start
    following = [run.start for run in whole.runs if run.leaf.message != index and run.start >= own_end]
    rest = text[own_end : min(following, default=len(text))]
    tail = _tail(marked, whole, index, last, start, before)
    if tail is None and not is_last:
        raise Refusal(4, f"message {index} is printed otherwise when nothing follows it: no telling where it ends")
    shared = 0 if tail is None else off_tokens(marked.printer, common_prefix(rest, tail), rest, tail)
    found = [token.span() for token in marked.printer.added.finditer(rest)]
    inside = [span for span in found if span[1] <= shared]
    if not inside and is_last and len(found) == 1:
        inside = found  # the last turn ends otherwise than an earlier one would
    elif not inside and not is_last:
        inside = _before_next(marked, index, found, rest, tail)
    if not inside:
        tokens = [rest[slice(*span)] for span in found]
        why = (
            f"no telling which of {tokens} ends the turn" if tokens else "no special token of this tokenizer is there"
        )
        raise Refusal(4, f"message {index} is followed by {rest[:80]!r}: {why}")
    stop, end = inside[-1]
    if marked.real[index].get(CALLS):
        _check_end(marked, index, rest[stop:end])
    return own_end + stop, own_end + end, len(text) if is_last else own_end + max(end, shared)


def _check_end(marked: Marked, index: int, token: str) -> None:
    """Refuses a token that closes each tool call, not the turn."""
    printer, message = marked.printer, marked.real[index]
    twice = [*marked.real[:index], message | {CALLS: [*message[CALLS], *message[CALLS]]}]
    try:
        more = printer.text(twice).count(token) > printer.text(marked.real[: index + 1]).count(token)
    except Raised:
        return  # a template for one call at most
    if more:
        raise Refusal(4, f"message {index} ends with {token!r}, which ends each of its tool calls, not the turn")


def _end_of_blank(marked: Marked, whole: View, index: int, start: int) -> tuple[int, int, int]:
    """The end of a message without text: all that the template prints from the end of the turn on, if it had text."""
    message, word = marked.real[index], PROBE["content"]
    content = [{"type": "text", "text": word}] if isinstance(message.get("content"), list) else word
    written = [*marked.real[:index], message | {"content": content}, *marked.real[index + 1 : -1]]
    try:
        text, (turn,), _ = turns(marked.printer, written, [index])
    except Raised as error:
        raise Refusal(4, f"no telling where message {index}, which has no text, ends: {error}") from error
    stop = len(whole.text) - len(text) + turn.stop
    if stop < start or not whole.text.endswith(text[turn.stop :]):
        raise Refusal(4, f"message {index}, which has no text, ends otherwise than one with text")
    return stop, stop + turn.end - turn.stop, stop + turn.free - turn.stop


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
    return found[:1] if opens and opens[0] == 1 else []
