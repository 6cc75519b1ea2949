"""Answers that refuse, or speak of being a machine, in a dozen languages and anywhere in a sentence."""

from __future__ import annotations

import re

import pyarrow as pa

from .. import flat
from .pairs import column, confirm, inside_quotes, matches, prompt
from .refusal_forms import DECLINES, MACHINE, OPENING, OPENING_ANY

START = 400  # characters in which a refusal without "as an AI" has to begin; later it is part of a story

# "You, as an AI assistant, did not ..." is spoken of another, and a line with a name before it in a dialogue.
SPEAKER = re.compile(r"\W{0,4}\w[\w ]{0,20}[*_]*[:：]")
CANNOT_HELP = re.compile(r" (?:but|myself|it\b|\w+ing\b)")  # "I can't help but smile" refuses nothing
# Who asks for a refusal, a letter or a dialogue may get one.
ASKS_FOR_REFUSAL = re.compile(
    r"refus|declin|apolog|\bsorry\b|reject|turn(?:ing)? down|dialog|conversation between|script|role-?play|chatbot"
    r"|\bletter\b|customer|complain|reply to|respond to|e-?mail|\bmessage\b|absage|entschuldig|disculpa|excus"
    r"|拒绝|道歉|抱歉|对话|信",
    re.IGNORECASE,
)


OPENING_RE = re.compile(OPENING, re.IGNORECASE)


def _joined(patterns: dict[str, str]) -> tuple[str, re.Pattern]:
    whole = "|".join(f"(?:{pattern})" for pattern in patterns.values())
    # RE2's \b knows ASCII alone and would miss a word that begins with another letter: without it, it finds more.
    return f"(?i){whole.replace(chr(92) + 'b', '')}", re.compile(whole, re.IGNORECASE)


MACHINE_ANY, MACHINE_RE = _joined(MACHINE)
DECLINES_ANY, DECLINES_RE = _joined(DECLINES)


def refusal(pairs: pa.Table, asked_for: bool = True) -> pa.Array:
    """Drops answers that refuse the task, or excuse themselves with being a machine.

    Said in passing, politely or in the middle of a sentence, in English, German, French, Spanish, Portuguese, Italian,
    Dutch, Polish, Russian, Chinese, Japanese, Korean, Arabic, Hindi, Turkish, Vietnamese, Thai and Indonesian (both
    kinds or one). "I can't do that" counts only as an English answer's first words: people in stories say it too.
    Quoted speech passes, and so do "I'm sorry to hear that" and "I can't recommend it enough". Rows that offer
    functions to call pass as well: to say that none of them does what was asked is what they teach. RE2 finds
    candidates over the whole column, and Python's `re` decides on them.

    Args:
        pairs (`pa.Table`): Pairs.
        asked_for (`bool`, *optional*, defaults to `True`): Whether a prompt for a refusal, an apology, a letter or a
            dialogue excuses it.
    """
    answers = column(pairs, "answer")

    def judge(answer: str, asked: str) -> str | None:
        excused = asked_for and ASKS_FOR_REFUSAL.search(asked) is not None
        for match in MACHINE_RE.finditer(answer):
            line = answer[answer.rfind("\n", 0, match.start()) + 1 : match.start()]
            of_another = line.endswith(("你", "您")) or (excused and SPEAKER.match(line) is not None)
            if not of_another and not inside_quotes(answer, match.start()):
                return repr(match[0][:80])
        if excused:
            return None
        if match := OPENING_RE.match(answer):
            return repr(match[0][:80])
        for match in DECLINES_RE.finditer(answer[: START + 200]):
            idiom = CANNOT_HELP.match(answer, match.end()) is not None
            if match.start() < START and not idiom and not inside_quotes(answer, match.start()):
                return repr(match[0][:80])
        return None

    where = matches(answers, MACHINE_ANY) | matches(answers, DECLINES_ANY) | matches(answers, OPENING_ANY)
    where &= ~flat.booleans(column(pairs, "tools"))
    return confirm(where, judge, answers, prompt(pairs))
