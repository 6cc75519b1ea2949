"""Cleaning of single turns: export HTML, what the chat page left in the text, error pages, white space."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import flat

# A turn that may be export HTML begins with a block tag, after at most a page counter ("2 / 3").
STARTS_WITH_BLOCK = r"(?i)\A\s*(?:\d{1,3} / \d{1,3})?\s*<(?:div|p|h[1-6]|ul|ol|pre|blockquote|table|hr|section)[\s>/]"
# Whoever asks like this may have been answered with HTML code.
ABOUT_HTML = r"(?i)html|</?[a-z][^<>]*>|\btags?\b|\bmarkup\b|\bweb ?(?:site|page)s?\b"

# Cheap test for turns that `ui_residue` has to look at.
RESIDUE = (
    r"Copy code|wildest ChatGPT"
    r"|Copy\d+ chars / \d+ words|Regenerate response|ShareGPT|sharegpt\.com|shareg\.pt|\.com/share/"
    r"|Free Research Preview|may produce inaccurate information|\A\s*\d{1,3} / \d{1,3}"
)
COUNTER = re.compile(r"\A\s*(\d{1,3}) / (\d{1,3})(?:[ \t]*\n\s*(?=\S)|\s*(?=<)|(?=[A-Z]|[^\W\d_a-z]))")
COPY_COUNT = re.compile(r"\n?[ \t]*Copy\d+ chars / \d+ words[ \t]*$", re.MULTILINE)
FOOTER = re.compile(  # a whole last line
    r"Regenerate response"
    r"|(?:Free Research Preview\. )?ChatGPT may produce inaccurate information.*"
    r"|(?:https?://)?(?:www\.)?(?:sharegpt\.com/c|shareg\.pt|chat\.openai\.com/share|chatgpt\.com/share)/[\w\-/]+"
    r"|Shared? (?:via|with|from) ShareGPT\.?"
    r"|Share your wildest ChatGPT conversations.*"
)
OPEN_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*([^`\n]*?)[ \t]*")
LANGUAGE = r"[A-Za-z][A-Za-z0-9+#.\-]{0,19}?"
HEADER = re.compile(rf"[ \t]*({LANGUAGE})[ \t]*(?:Copy code)+(.*)")
# Outside a fence only a language that is known makes "Copy code" residue.
LANGUAGES = set(
    "bash batch c c# c++ clojure cpp csharp css dart diff dockerfile elixir go graphql groovy haskell html http ini"
    " java javascript json jsx julia kotlin latex less lua makefile markdown matlab nginx objectivec perl php"
    " plaintext powershell protobuf python r ruby rust scala scss shell solidity sql swift toml tsx typescript vbnet"
    " vim vue wasm xml yaml".split()
)

LONGEST_ERROR = 500  # bytes: what a message below may add stays short
# Whole answers only, so that an answer that explains such a message is no error page.
ERROR_PAGE = (
    r"(?is)\A[\s!*>]*(?:"
    r"too many requests in \d+ hours?\.?(?: try again later\.?)?"
    r"|you(?:'|’)?ve reached (?:our limit of messages per|the current usage cap)\b.*"
    r"|only one message at a time\. please allow any other responses.*"
    r"|something went wrong\. if this issue persists please contact us.*"
    r"|hmm\W{1,4}something (?:seems to have|has) gone wrong\..*"
    r"|the server had an error (?:while )?processing your request.*"
    r"|an error occurred\. (?:either the engine|if this issue persists).*"
    r"|(?:there was )?an? error (?:while )?generating a response\.?.*"
    r"|error in (?:message|body) stream\.?"
    r"|(?:unable to load|failed to get|could not load) (?:conversation|history)\b.*"
    r"|conversation not found\.?"
    r"|our systems are a bit busy at the moment.*"
    r"|the message you submitted was too long, please reload the conversation.*"
    r"|this (?:content|prompt) may violate our (?:content|usage) polic(?:y|ies)\..*"
    r"|(?:chatgpt|we) (?:is|are) (?:at capacity right now|experiencing exceptionally high demand).*"
    r"|network ?error\.?(?:\s+there was an error generating a response\.?)?"
    r"|attention required! \| cloudflare.*"
    r")\s*\z"
)


def html_to_markdown(table: pa.Table, marked_only: bool = False) -> pa.Table:
    """Converts turns that are a chat page's HTML to Markdown; every other turn stays as it is, byte for byte.

    A turn is converted when it begins with a block tag (`<p>`, `<div>`, `<pre>`, ...), after at most a page counter,
    and

    - carries the chat page's own classes, in any role; or
    - is an answer in a conversation whose other turns don't speak of HTML or show a tag, and consists only of blocks
      and tags that a Markdown renderer emits: no classes, ids or styles, no fence, no text between the blocks.

    `a < b`, `List<int>`, fenced XML, Markdown with a tag in it, a pasted page and an answer that is HTML code by
    request are therefore left alone, and so is HTML nested deeper than 100 tags. Code boxes become fences with their
    language, formulas their LaTeX source, `div` and `span` go; nothing is escaped.

    Args:
        table (`pa.Table`): Records.
        marked_only (`bool`, *optional*, defaults to `False`): Whether only the chat page's own classes count as proof.
    """
    offsets, turns = flat.flatten(table)
    contents = flat.text(turns)
    where = flat.booleans(pc.match_substring_regex(contents, STARTS_WITH_BLOCK)) & _open_turns(table, offsets)
    if not where.any():
        return table
    from .markdown import to_markdown

    codes = flat.roles(turns)
    about_html = flat.booleans(pc.match_substring_regex(contents, ABOUT_HTML)) & (codes != flat.ASSISTANT)
    asked = np.repeat(flat.sum_per_row(about_html, offsets) > 0, np.diff(offsets))
    unmarked = (codes == flat.ASSISTANT) & ~asked & (not marked_only)
    contents = flat.edit(contents, where & unmarked, to_markdown)
    contents = flat.edit(contents, where & ~unmarked, lambda text: to_markdown(text, marked_only=True))
    return flat.with_contents(table, turns, offsets, contents)


def ui_residue(table: pa.Table, counters: bool = True) -> pa.Table:
    """Takes out what the chat page's buttons and counters left in the text.

    - `Copy code` in or under a fence's first line: it goes, the language moves into the fence; a code box that was
      empty goes too. Outside fences, only the line of a known language (`pythonCopy code`, or two lines): the
      language stays, since nothing says where its code ends.
    - `n / m` (n <= m, m >= 2) at the very start, when a line of its own or glued to a capital letter or a tag.
    - `Copy12 chars / 3 words` at the end of a line.
    - In answers, last lines that are nothing but `Regenerate response`, the page's footer or the link of the share.

    Args:
        table (`pa.Table`): Records.
        counters (`bool`, *optional*, defaults to `True`): Whether `n / m` goes. Switch it off for data with answers
            that begin with a fraction on a line of its own.
    """
    offsets, turns = flat.flatten(table)
    contents, codes = flat.text(turns), flat.roles(turns)
    where = flat.booleans(pc.match_substring_regex(contents, RESIDUE)) & _open_turns(table, offsets)
    where &= codes <= flat.ASSISTANT  # a tool's answer is data
    if not where.any():
        return table
    answers = codes == flat.ASSISTANT
    contents = flat.edit(contents, where & answers, lambda text: _without_residue(text, counters, answer=True))
    contents = flat.edit(contents, where & ~answers, lambda text: _without_residue(text, counters, answer=False))
    return flat.with_contents(table, turns, offsets, contents)


def error_page(table: pa.Table, patterns: Sequence[str] = ()) -> pa.Table:
    """Rejects conversations with an answer that is one of the site's own error messages, as `error_page`.

    The whole answer must be the message (plus a few words of its own): an answer about such a message is fine.

    Args:
        table (`pa.Table`): Records.
        patterns (`Sequence[str]`, *optional*): Further regular expressions (RE2) for a whole answer.
    """
    offsets, turns = flat.flatten(table)
    contents = flat.text(turns)
    answers = flat.roles(turns) == flat.ASSISTANT
    short = answers & flat.booleans(pc.less(pc.binary_length(contents), LONGEST_ERROR))
    hit = np.zeros(len(turns), dtype=bool)
    hit[short] = flat.booleans(pc.match_substring_regex(contents.filter(pa.array(short)), ERROR_PAGE))
    for pattern in patterns:
        hit |= answers & flat.booleans(pc.match_substring_regex(contents, rf"\A(?:{pattern})\z"))
    first = flat.first_per_row(hit, offsets)
    rows = first < offsets[1:]
    quotes = pc.utf8_slice_codeunits(contents.take(pa.array(first[rows])), 0, 80)
    fields = flat.turn_field(first[rows] - offsets[:-1][rows], "content")
    return flat.reject(table, rows, "error_page", fields, quotes)


def strip_whitespace(table: pa.Table) -> pa.Table:
    """Strips white space (Unicode's) from both ends of every turn but a tool's, and of `context`."""
    offsets, turns = flat.flatten(table)
    contents = flat.text(turns)
    where = _open_turns(table, offsets) & (flat.roles(turns) != flat.TOOL)
    stripped = _stripped(contents, where)
    table = table if stripped is contents else flat.with_contents(table, turns, offsets, stripped)
    if "context" not in table.column_names:
        return table
    context = flat.one_array(table["context"])
    stripped = _stripped(context, flat.open_rows(table))
    if stripped is context:
        return table
    return table.set_column(table.column_names.index("context"), table.schema.field("context"), stripped)


def _stripped(strings: pa.Array, where: np.ndarray) -> pa.Array:
    """The strings stripped where asked; the same array where that changes nothing."""
    stripped = pc.utf8_trim_whitespace(strings)
    shorter = flat.booleans(pc.less(pc.binary_length(stripped), pc.binary_length(strings))) & where
    return pc.if_else(pa.array(shorter), stripped, strings) if shorter.any() else strings


def _open_turns(table: pa.Table, offsets: np.ndarray) -> np.ndarray:
    return np.repeat(flat.open_rows(table), np.diff(offsets))


def _without_residue(text: str, counters: bool, answer: bool) -> str:
    before = None
    while text != before:  # what goes may uncover more of the same
        before = text
        if counters and (match := COUNTER.match(text)) and int(match[1]) <= int(match[2]) > 1:
            text = text[match.end() :]
        if "Copy code" in text:
            text = _proper_fences(text)
        if "Copy" in text:
            text = COPY_COUNT.sub("", text)
        rest, _, last = text.rstrip().rpartition("\n")
        if answer and FOOTER.fullmatch(last.strip()) and rest.strip():  # a turn that is nothing else is kept
            text = rest.rstrip()
    return text


def _proper_fences(text: str) -> str:
    """`Copy code` out of the text, fence by fence: `(fence) pythonCopy code` -> a fence that names its language."""
    lines, result, position, fence = text.split("\n"), [], 0, None
    while position < len(lines):
        line = lines[position]
        opening = OPEN_FENCE.fullmatch(line)
        if fence is not None:  # inside: only a bare fence at least as long closes
            if opening and not opening[3] and opening[2].startswith(fence):
                fence = None
            result.append(line)
            position += 1
        elif opening:
            language, rest, used = _code_header(opening[3], lines[position + 1 : position + 3])
            fence, position = opening[2], position + 1 + used
            closing = lines[position].strip() if position < len(lines) else None
            if language is not None and not rest and closing == fence:  # an empty code box
                fence, position = None, position + 1
                continue
            result.append(line if language is None else opening[1] + fence + language)
            result += [rest] if rest else []
        else:
            following = lines[position + 1].strip() if position + 1 < len(lines) else ""
            header = HEADER.fullmatch(line)
            if header and header[1].lower() in LANGUAGES and not header[2].strip():
                line = header[1]
            elif line.strip().lower() in LANGUAGES and following == "Copy code":
                position += 1
            result.append(line)
            position += 1
    return "\n".join(result)


def _code_header(info: str, following: list[str]) -> tuple[str | None, str, int]:
    """Language (`None`: there is no residue), code behind `Copy code`, and how many of the lines below it took."""
    if header := HEADER.fullmatch(info):
        return header[1], header[2], 0
    if info == "Copy code":
        return "", "", 0
    below = [line.strip() for line in following] + ["", ""]
    if below[0] == "Copy code":
        return info, "", 1
    if info and not re.fullmatch(LANGUAGE, info):
        return None, "", 0
    header = HEADER.fullmatch(following[0]) if following else None
    if header and info in ("", header[1]):
        return header[1], header[2], 1
    if below[1] == "Copy code" and re.fullmatch(LANGUAGE, below[0]) and info in ("", below[0]):
        return below[0], "", 2
    return None, "", 0
