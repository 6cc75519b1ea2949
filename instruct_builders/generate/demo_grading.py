"""What the scripted server says when it is to grade an answer or to choose between two: no language model judges.

Its measure is how many of the question's longer words are in the answer. Now and then it forgets the verdict, goes
beyond the scale, or takes the answer that is shown first, so that a report has something to count.
"""

from __future__ import annotations

import json
import random
import re

FAULTY = 0.08  # share of replies without a usable verdict; another 0.08 of the choices go by the place


def judge_score(draw: random.Random, asked: str) -> str:
    """A reply with a score from 1 to 10 for the last answer in the material."""
    material = _material(asked)
    found, words = _shared(material, "the assistant")
    score = 1 + round(9 * found / max(words, 1))
    verdict = {"reason": f"Scripted: {found} of {words} words of the question are in the answer.", "score": score}
    if draw.random() < FAULTY:
        return draw.choice(["I would call it a fair answer.", json.dumps({**verdict, "score": 95})])
    return f"Let me look at the answer.\n{json.dumps(verdict)}"


def judge_pair(draw: random.Random, asked: str) -> str:
    """A reply with a winner of the last answers in the material."""
    material = _material(asked)
    (a, words), (b, _) = _shared(material, "assistant A"), _shared(material, "assistant B")
    winner = "A" if a > b else "B" if b > a else "tie"
    if draw.random() < FAULTY:
        winner = "A"
    verdict = {"reason": f"Scripted: {a} and {b} of {words} words of the question are there.", "winner": winner}
    if draw.random() < FAULTY:
        return "Both have something to be said for them."
    return f"Let me compare the two.\n{json.dumps(verdict)}"


def _material(asked: str) -> list[tuple[str, str]]:
    """Label and text of each fenced part."""
    mark = re.search(r"^The mark of this task is (\w+)\.", asked)
    if mark is None:
        return []
    return re.findall(rf"^([^\n]+):\n<<{mark[1]}\n(.*?)\n{mark[1]}>>$", asked, re.MULTILINE | re.DOTALL)


def _shared(material: list[tuple[str, str]], who: str) -> tuple[int, int]:
    """How many of the longer words of the last question are in the last answer of somebody, and how many there are."""
    question = [text for label, text in material if label.endswith("the user")]
    answer = [text for label, text in material if label.endswith(who)]
    words = set(re.findall(r"\w{5,}", question[-1].casefold())) if question else set()
    said = set(re.findall(r"\w{5,}", answer[-1].casefold())) if answer else set()
    return len(words & said), len(words)
