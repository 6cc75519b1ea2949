"""What an answer looks like: lists, titles, sections, JSON. `detectable_format:*` and `detectable_content:*`"""

from __future__ import annotations

import json
import re

# Any of these, as published; that prompts ask for exactly one is theirs.
CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def number_bullet_lists(answer: str, num_bullets: int) -> bool:
    """Exactly so many lines that begin with `*` (one alone) or `-`."""
    stars = re.findall(r"^\s*\*[^*].*$", answer, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", answer, re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


def constrained_response(answer: str) -> bool:
    return any(option in answer for option in CONSTRAINED)


def number_highlighted_sections(answer: str, num_highlights: int) -> bool:
    """At least so many `*parts*` or `**parts**` that are not blank."""
    single = [part for part in re.findall(r"\*[^\n*]*\*", answer) if part.strip("*").strip()]
    double = [part for part in re.findall(r"\*\*[^\n*]*\*\*", answer) if part[2:-2].strip()]
    return len(single) + len(double) >= num_highlights


def multiple_sections(answer: str, section_spliter: str, num_sections: int) -> bool:
    """At least so many headings such as `Section 1`; the argument is spelled as in the published data."""
    headings = re.findall(rf"\s?{re.escape(section_spliter.strip())}\s?\d+\s?", answer)
    return len(headings) >= num_sections


def json_format(answer: str) -> bool:
    """The whole answer is JSON, with or without a fence of three backticks around it."""
    text = answer.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):  # brackets a thousand deep are no answer either
        return False
    return True


def title(answer: str) -> bool:
    return any(found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", answer))


def number_placeholders(answer: str, num_placeholders: int) -> bool:
    found = 0
    for line in answer.split("\n"):  # \[.*?\] says the same, in time that grows with the square of unclosed brackets
        start = line.find("[")
        while start >= 0 and (end := line.find("]", start)) > 0:
            found, start = found + 1, line.find("[", end)
    return found >= num_placeholders


def postscript(answer: str, postscript_marker: str) -> bool:
    """The marker is there; of `P.S.` and `P.P.S` also with other spacing, and without case."""
    spelled = {
        "P.P.S": r"\s*p\.\s?p\.\s?s.*$",
        "P.S.": r"\s*p\.\s?s\..*$",
    }
    pattern = spelled.get(postscript_marker, rf"\s*{re.escape(postscript_marker.lower())}.*$")
    return re.search(pattern, answer.lower(), re.MULTILINE) is not None
