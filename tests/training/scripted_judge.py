"""Judges with a known bias, as an engine's transport: what they decide follows from the answers they are shown."""

from __future__ import annotations

import json
import re

from instruct_builders.generate.statuses import Reply


def material(messages: list[dict]) -> dict[str, str]:
    """Label -> text of what a judge is shown, by the mark that the user message names."""
    asked = messages[-1]["content"]
    mark = re.match(r"The mark of this task is (\w+)\.", asked)[1]
    return dict(re.findall(rf"^([^\n]+):\n<<{mark}\n(.*?)\n{mark}>>$", asked, re.MULTILINE | re.DOTALL))


def said(shown: dict[str, str], who: str) -> str:
    """The last answer of somebody."""
    return [text for label, text in shown.items() if label.endswith(who)][-1]


def reply(text: str | None, status: int = 200) -> Reply:
    message = {"role": "assistant", "content": text}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    return Reply(status, {}, json.dumps(body).encode())


class Judge:
    """`decide(shown, request)` -> the whole reply, or a [`Reply`]; `requests` are all that was asked."""

    name = "a script"

    def __init__(self, decide):
        self.decide, self.requests = decide, []

    async def __call__(self, body: bytes, name: str) -> Reply:
        request = json.loads(body)
        self.requests.append(request)
        answer = self.decide(material(request["messages"]), request)
        return answer if isinstance(answer, Reply) else reply(answer)


def scored(score: float, before: str = "") -> str:
    return f"{before}\n" + json.dumps({"reason": "so it is", "score": score})


def chosen(winner: str) -> str:
    return json.dumps({"reason": "so it is", "winner": winner})


def quality(text: str) -> int:
    """Honest: the number of times that an answer says `good`, whatever else it says."""
    return min(10, 1 + len(re.findall(r"\bgood\b", text)))


def honest(shown: dict[str, str], request: dict) -> str:
    """Grades and compares by [`quality`] alone, and quotes the answer on its way."""
    if any(label.endswith("assistant A") for label in shown):
        one, other = quality(said(shown, "assistant A")), quality(said(shown, "assistant B"))
        return f"A says {said(shown, 'assistant A')}.\n" + chosen(
            "A" if one > other else "B" if other > one else "tie"
        )
    return scored(quality(said(shown, "the assistant")), f"It says {said(shown, 'the assistant')}.")
