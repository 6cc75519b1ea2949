"""One turn of export HTML -> Markdown, on markdownify. Imported by `clean.html_to_markdown` only when a turn needs
it."""

from __future__ import annotations

import re

from bs4 import BeautifulSoup, Tag
from markdownify import ATX, MarkdownConverter

# Classes that mark an element as the chat page's own; a set marks it where all of it is there.
EXPORT_CLASSES = (
    {"markdown"},
    {"hljs"},
    {"result-streaming"},
    {"bg-black", "rounded-md"},
    {"whitespace-pre-wrap", "break-words"},
    {"whitespace-pre-wrap", "items-start"},
)
# What a Markdown renderer emits. An answer made of anything else is HTML code, which is left alone.
RENDERED = set(
    "a annotation b blockquote br button circle code del div em h1 h2 h3 h4 h5 h6 hr i img input li line math ol p"
    " path polyline pre rect s section semantics span strong sub sup svg table tbody td th thead tr ul".split()
)
BLOCKS = "div|p|h[1-6]|ul|ol|pre|blockquote|table|hr|section"
# A renderer sets no other attributes on the tags that hold text.
PLAIN_ATTRIBUTES = set("align alt checked colspan href rel rowspan src start target title type".split())
MAX_DEPTH = 100  # tags inside tags; a page nested deeper is no chat export, and the converter recurses

COUNTER = re.compile(r"\s*\d{1,3} / \d{1,3}\s*(?=<)")
OPENING = re.compile(rf"(?:\s*\d{{1,3}} / \d{{1,3}})?\s*<(?:{BLOCKS})[\s>/]", re.IGNORECASE)
FENCE = re.compile(r"^ {0,3}(?:`{3,}|~{3,})", re.MULTILINE)
COPY_HEADER = re.compile(r"\s*([A-Za-z0-9+#.\-]{0,20}?)\s*(?:Copy code)+\n?")
DECLARATION = re.compile(r"<(?=!(?!--))")  # `<![x` makes the HTML parser give up; as text nothing is lost


class Converter(MarkdownConverter):
    """markdownify, with what it does otherwise or not at all: fences that hold fences, bare links, `|` in cells."""

    def convert_pre(self, el: Tag, text: str, parent_tags: set) -> str:
        text = text.strip("\n")
        longest = max(map(len, re.findall(r"^\s*(`{3,})", text, re.MULTILINE)), default=2)
        fence = "`" * max(3, longest + 1)
        return f"\n\n{fence}{el.get('data-language') or ''}\n{text}\n{fence}\n\n" if text else ""

    def convert_a(self, el: Tag, text: str, parent_tags: set) -> str:
        # A renderer makes links of bare addresses; they were written bare.
        return text if text.strip() == el.get("href") else super().convert_a(el, text, parent_tags)

    def convert_br(self, el: Tag, text: str, parent_tags: set) -> str:
        return " " if "_inline" in parent_tags else "\n"

    def convert_td(self, el: Tag, text: str, parent_tags: set) -> str:
        return super().convert_td(el, text.replace("|", "\\|"), parent_tags)

    def convert_th(self, el: Tag, text: str, parent_tags: set) -> str:
        return super().convert_th(el, text.replace("|", "\\|"), parent_tags)


# Nothing is escaped: a backslash before every `_` and `*` is noise to learn from, and code and maths are full of them.
_converter = Converter(heading_style=ATX, bullets="-", escape_asterisks=False, escape_underscores=False)


def is_export(text: str, soup: BeautifulSoup, *, marked_only: bool) -> bool:
    """Whether HTML that begins with a block tag is what the chat page showed, and not HTML that was asked for.

    Either one of its first four elements has the chat page's classes, or, unless `marked_only`, all of this holds: no
    Markdown fence, no tag that Markdown renderers don't emit, no class, id or style but on `code`, `pre`, `span` and
    inside code boxes and formulas, no text between the blocks.
    """
    first = soup.find(True)
    for tag in (first, *first.find_all(True, limit=3)):
        if any(marks.issubset(tag.get("class", ())) for marks in EXPORT_CLASSES):
            return True
    between = any(str(node).strip() for node in soup.find_all(string=True, recursive=False))
    if marked_only or between or FENCE.search(text):
        return False
    return all(
        tag.find_parent(["pre", "math"]) is not None
        or (tag.name in RENDERED and (tag.name in ("code", "pre", "span") or PLAIN_ATTRIBUTES.issuperset(tag.attrs)))
        for tag in soup.find_all(True)
    )


def to_markdown(text: str, *, marked_only: bool = False) -> str:
    """A turn of export HTML as Markdown; any other text comes back unchanged.

    Args:
        text (`str`): A turn that begins, after white space and a page counter, with a block tag.
        marked_only (`bool`, *optional*, defaults to `False`): Whether only the chat page's own classes count as proof.
    """
    counter = COUNTER.match(text)
    html = text[counter.end() :] if counter else text
    soup = BeautifulSoup(DECLARATION.sub("&lt;", html), "html.parser")
    if soup.find(True) is None or _depth(soup) > MAX_DEPTH or not is_export(html, soup, marked_only=marked_only):
        return text
    first = soup.find(True)
    if "whitespace-pre-wrap" in first.get("class", ()) and not first.find(re.compile(rf"^(?:{BLOCKS})$")):
        result = soup.get_text()  # a person's own text in its box: plain, not rendered
    else:
        _simplify(soup)
        result = _converter.convert_soup(soup).strip()
    if OPENING.match(result):  # text that reads `<p>` must not be taken for HTML the next time
        result = result.replace("<", "\\<", 1)
    # On a line of its own the counter can't run into a fence; `ui_residue` takes it out.
    return f"{counter.group().strip()}\n{result}" if counter else result


def _depth(soup: BeautifulSoup) -> int:
    deepest, level = 0, [(soup, 0)]
    while level:
        node, depth = level.pop()
        deepest = max(deepest, depth)
        level += [(child, depth + 1) for child in node.children if isinstance(child, Tag)]
    return deepest


def _simplify(soup: BeautifulSoup) -> None:
    """Takes the page's furniture out: code boxes become bare `pre` with their language, formulas their source."""
    for box in soup.find_all("pre"):
        language, code = _code_of(box)
        box.clear()
        box.append(code)
        box["data-language"] = language
    for formula in soup.find_all(class_="katex"):
        source = formula.find("annotation")
        if source is not None:
            mark = "$$" if formula.find_parent(class_=("math-display", "katex-display")) else "$"
            formula.replace_with(f"{mark}{source.get_text().strip()}{mark}")
    for tag in soup.find_all(["button", "svg"]):
        tag.decompose()


def _code_of(box: Tag) -> tuple[str, str]:
    """Language and text of a `pre`: from its `code` element and that one's class, else from the box's header line."""
    code = box.find("code")
    if code is None:
        body = box.get_text()
        header = COPY_HEADER.match(body)
        return (header.group(1), body[header.end() :]) if header else ("", body)
    for name in [*code.get("class", ()), *box.get("class", ())]:
        if match := re.fullmatch(r"(?:language|lang)-([\w+#.\-]+)", name):
            return match.group(1), code.get_text()
    header = "".join(str(node) for node in box.find_all(string=True) if node.find_parent("code") is None)
    match = COPY_HEADER.fullmatch(header.strip())
    return (match.group(1) if match else ""), code.get_text()
