"""The six rules, and the exception for one that can't be met."""

from __future__ import annotations

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
