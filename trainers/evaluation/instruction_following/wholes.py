"""What holds for an answer as a whole: how it begins and ends, and of what parts it is made.

`combination:*`, `startend:*` and `punctuation:*`
"""

from __future__ import annotations

SEPARATOR = "******"


def two_responses(answer: str) -> bool:
    """Two answers that differ, with six asterisks between them; blank parts only at either end."""
    parts = [part.strip() for part in answer.split(SEPARATOR)]
    filled = [part for part in parts if part]
    return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def repeat_prompt(answer: str, prompt_to_repeat: str) -> bool:
    return answer.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(answer: str, end_phrase: str) -> bool:
    return answer.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(answer: str) -> bool:
    text = answer.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def no_comma(answer: str) -> bool:
    """Without the comma of ASCII; as published, those of other scripts are let through."""
    return "," not in answer
