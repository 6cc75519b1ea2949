"""Which characters of a printed conversation came from which message.

A template is a program: it trims, drops earlier reasoning, merges system turns, prints tool calls as JSON. So where a
character came from is observed, not guessed: a few letters of every message are replaced, one for one, by stand-ins
(characters of a private-use plane that occur nowhere else), the conversation is printed again, and putting the letters
back must give the real text byte for byte. Then every stand-in tells the place of its message.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NamedTuple

from .rendering import Printer, Unaligned, common_prefix, common_suffix, literals

EDGE = 4  # letters replaced at each end of a text: enough to find it again after a cut at `</think>`
REASONING = ("reasoning_content", "thinking", "reasoning")
NAME = "name"  # field of a tool's name: also printed outside the assistant's turn, in the tool's answer
CALLS = "tool_calls"
# Characters that a template may escape (JSON, HTML) or trim: never replaced, so that both texts treat them alike.
ESCAPED = frozenset("\"'\\<>&")
STAND_INS = re.compile("[\U000f0002-\U0010ffff]")
PLANES = (range(0x100000, 0x10FFFE), range(0xF0002, 0xFFFFE))  # transformers itself uses U+F0000 and U+F0001
PROBE = {"role": "user", "content": "probe"}  # what every conversation is printed with behind it, to see where it ends


class Leaf(NamedTuple):
    """One text of one message."""

    message: int
    field: str
    text: str


class Place(NamedTuple):
    """Characters [start, end) of a printed text that stand for character `offset` of leaf `leaf`."""

    start: int
    end: int
    leaf: int
    offset: int


@dataclass
class Run:
    """Characters [start, end) of a text, from one leaf; blanks and tags before `solid` may be the template's."""

    start: int
    solid: int
    end: int
    leaf: Leaf
    first: Place
    last: Place
    sure: bool  # whether it begins where the leaf does, or after one of the template's own words


class View(NamedTuple):
    """A printed text and the runs of message text in it, in order."""

    text: str
    places: list[Place]
    runs: list[Run]


class Marked:
    """A conversation with stand-ins in its texts, and one probing user message behind it.

    Args:
        printer (`Printer`): Prints both the real and the marked conversation.
        messages (`list[dict]`): The conversation, without null values.
        names (`bool`): Also mark the names of called tools.
        fill (`bool`): Put one stand-in into assistant messages that have no letter to replace.
        every (`bool`): Leave alone all of the template's own words, not only those that look like tags.
    """

    def __init__(self, printer: Printer, messages: list[dict], names: bool, fill: bool, every: bool):
        self.printer, self.names = printer, names
        self.words = list(literals(printer.source)[every])
        self.leaves: list[Leaf] = []
        self.origin: dict[str, tuple[int, int]] = {}
        self.back: dict[int, str] = {}
        self.filled: dict[int, str] = {}  # stand-in -> the whole content it was put for
        self.whole: set[int] = set()  # leaves of those contents
        self._views: dict[tuple[int, bool], View] = {}
        self.real = [*messages, PROBE]
        given = [messages, printer.tools, printer.variables, printer.source]
        taken = set(json.dumps(given, ensure_ascii=False, default=str))
        self._free = (chr(code) for plane in PLANES for code in plane if chr(code) not in taken)
        self.messages = [self._mark_message(index, message, fill) for index, message in enumerate(self.real)]

    def view(self, count: int, prompt: bool = False) -> View:
        """The first `count` messages as printed; errors of the template pass through."""
        if (count, prompt) not in self._views:
            real = self.printer.text(self.real[:count], prompt)
            marked = self.printer.text(self.messages[:count], prompt)
            places = self._places(real, marked)
            self._views[count, prompt] = View(real, places, self._runs(real, places))
        return self._views[count, prompt]

    def find(self, view: View, place: Place) -> Place | None:
        """The place in another view that stands for the same character: the last one, of a tool's name the first."""
        same = [other for other in view.places if other[2:] == place[2:]]
        return None if not same else same[0 if self.leaves[place.leaf].field == NAME else -1]

    def _mark_message(self, index: int, message: dict, fill: bool) -> dict:
        marked = dict(message)
        for field in ("content", *REASONING):
            if isinstance(message.get(field), str):
                marked[field] = self._mark_text(index, field, message[field])
            elif isinstance(message.get(field), list):
                marked[field] = [self._mark_part(index, field, part) for part in message[field]]
        if isinstance(message.get(CALLS), list):
            marked[CALLS] = [self._mark_call(index, call) for call in message[CALLS]]
        if fill and message.get("role") == "assistant" and not message.get(CALLS):
            if marked.get("content") == message.get("content"):  # no letter was found to replace
                marked["content"] = self._fill(index, message.get("content"))
        return marked

    def _fill(self, index: int, content):
        """One stand-in in place of a content without letters."""
        if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict) and "text" in content[0]:
            return [content[0] | {"text": self._fill(index, content[0]["text"])}]
        if not isinstance(content, str):
            return content
        leaf = self._leaf(index, "content", content)
        self.whole.add(leaf)
        stand_in = self._stand_in(leaf, 0)
        self.filled[ord(stand_in)] = content
        return stand_in

    def _mark_part(self, index: int, field: str, part):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            return part | {"text": self._mark_text(index, field, part["text"])}
        return part

    def _mark_call(self, index: int, call):
        if not isinstance(call, dict):
            return call
        if isinstance(call.get("function"), dict):
            return call | {"function": self._mark_call(index, call["function"])}
        marked = dict(call)
        if self.names and isinstance(call.get("name"), str):
            marked["name"] = self._mark_text(index, NAME, call["name"])
        if "arguments" in call:
            marked["arguments"] = self._mark_values(index, call["arguments"])
        return marked

    def _mark_values(self, index: int, value):
        if isinstance(value, str):
            return self._mark_text(index, CALLS, value)
        if isinstance(value, dict):
            return {key: self._mark_values(index, item) for key, item in value.items()}
        return value  # texts in lists too: some templates print a list as Python would, stand-ins escaped

    def _mark_text(self, index: int, field: str, text: str) -> str:
        kept = set()  # offsets inside one of the template's own words, which it may look for
        for word in self.words:
            if word in text:
                for found in re.finditer(re.escape(word), text):
                    kept.update(range(found.start(), found.end()))
        offsets = _ends(text, kept, str.isalnum) or _ends(text, kept, _is_sign)
        if not offsets:
            return text
        pieces, done, leaf = [], 0, self._leaf(index, field, text)
        for offset in offsets:
            pieces += text[done:offset], self._stand_in(leaf, offset)
            done = offset + 1
        return "".join(pieces) + text[done:]

    def _leaf(self, index: int, field: str, text: str) -> int:
        self.leaves.append(Leaf(index, field, text))
        return len(self.leaves) - 1

    def _stand_in(self, leaf: int, offset: int) -> str:
        character = next(self._free, None)
        if character is None:
            raise Unaligned("the conversation has more messages than there are private-use characters")
        self.origin[character] = leaf, offset
        self.back[ord(character)] = self.leaves[leaf].text[offset : offset + 1]
        return character

    def _places(self, real: str, marked: str) -> list[Place]:
        """Where the stand-ins are, if putting back what they stand for gives the real text; else `Unaligned`."""
        for trim in (None, str.strip, _strip_lines, str.lstrip, str.rstrip) if self.filled else (None,):
            back = self.back | {code: trim(text) if trim else text for code, text in self.filled.items()}
            if marked.translate(back) != real:
                continue
            places, shift = [], 0
            for found in STAND_INS.finditer(marked):
                if found.group() in self.origin:
                    size, start = len(back[ord(found.group())]), found.start() + shift
                    places.append(Place(start, start + size, *self.origin[found.group()]))
                    shift += size - 1
            return places
        raise Unaligned("the template prints other text for other letters")

    def _off_words(self, text: str, cut: int) -> tuple[int, int]:
        """Start and end of the template's own word that an offset lies inside of; else the offset, twice.

        A template cuts before or behind such a word. Where letters beyond the cut agree, that is by chance.
        """
        around = [(word, text.find(word, max(0, cut - len(word) + 1), cut + len(word) - 1)) for word in self.words]
        inside = [(at, at + len(word)) for word, at in around if at >= 0 and at < cut < at + len(word)]
        return min((at for at, _ in inside), default=cut), max((end for _, end in inside), default=cut)

    def _unsure(self, text: str) -> str:
        """What of a text follows the last of the template's own words in it, such as a `<think>` that it may print."""
        return text[max((text.rfind(word) + len(word) for word in self.words if word in text), default=0) :]

    def _runs(self, text: str, places: list[Place]) -> list[Run]:
        runs: list[Run] = []
        for place in places:
            leaf = self.leaves[place.leaf]
            last = runs[-1].last if runs else None
            if last is not None and last.leaf == place.leaf and last.offset < place.offset:
                runs[-1].last, runs[-1].end = place, place.end
            else:
                before = leaf.text[: place.offset]
                size = common_suffix(text[max(0, place.start - len(before)) : place.start], before)
                cut = self._off_words(leaf.text, place.offset - size)[1]
                solid = place.start - len(self._unsure(before[cut:]).lstrip())
                sure = not before[:cut].strip() or before[:cut].rstrip().endswith(tuple(self.words))
                runs.append(Run(place.start - (place.offset - cut), solid, place.end, leaf, place, place, sure))
        for run in runs:
            if run.first.leaf not in self.whole:
                rest = run.leaf.text[run.last.offset + 1 :]
                size = common_prefix(text[run.last.end : run.last.end + len(rest)], rest)
                run.end = (
                    run.last.end + self._off_words(run.leaf.text, run.last.offset + 1 + size)[0] - run.last.offset - 1
                )
        return runs


def _is_sign(character: str) -> bool:
    return not character.isspace() and character.isprintable() and character not in ESCAPED


def _ends(text: str, kept: set[int], wanted) -> list[int]:
    """Offsets of the first and last `EDGE` wanted characters."""
    first, last = [], []
    for found, offsets in ((first, range(len(text))), (last, range(len(text) - 1, -1, -1))):
        for offset in offsets:
            if wanted(text[offset]) and offset not in kept:
                found.append(offset)
                if len(found) == EDGE:
                    break
    return sorted({*first, *last})


def _strip_lines(text: str) -> str:
    return text.strip("\n")
