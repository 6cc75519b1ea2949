"""Sums in answers that do not add up, by a parser of its own: no text is ever run as code."""

from __future__ import annotations

import re
from fractions import Fraction

import pyarrow as pa

from .pairs import column, confirm, matches, prompt

# Every repetition is bounded, so that no text takes more than linear time.
NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,12}(?!\d)|\d{1,40}(?!\d))(?:\.\d{1,40})?"
MONEY = r"(?:[$€£¥] ?)?"
OPERATOR = r"(?:\*\*|[-+*/×÷·−^]|x(?=\s{0,4}[-$€£(\d])|\\times|\\cdot|\\div)"
EQUATION = re.compile(
    rf"(?<!\d)(?P<left>[(\-−]{{0,9}}{MONEY}{NUMBER}\){{0,9}}"
    rf"(?:[ \t]{{0,9}}{OPERATOR}[ \t]{{0,9}}[(\-−]{{0,9}}{MONEY}{NUMBER}\){{0,9}}){{1,40}})"
    rf"[ \t]{{0,9}}=[ \t]{{0,9}}(?P<right>\*{{0,2}} ?[-−]?{MONEY}(?P<value>{NUMBER}))"
)
# Cheap test over the column: a digit, an operator, and a digit behind an equals sign.
LIKELY = r"\d[\s)$€£]*(?:[-+*/×÷·−^x]|\\times|\\cdot|\\div)[^=\n]{1,120}=[\s$€£*\-−]*\d"
TOKEN = re.compile(rf"\s*(?:(?P<number>{NUMBER})|(?P<operator>\*\*|[-+*/^()]))")
CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
# There "=" may say something else than that both sides are the same number ...
OTHER_RULES = (
    r"(?i)\bbinary\b|\bhexa?(?:decimal)?\b|\boctal\b|\bbase[- ]?\d|\bmod(?:ulo|ulus|ular)?\b|\bboolean\b|\bbitwise\b"
    r"|\bincorrect|\bwrong\b|\bsynergy\b|\bfallacy\b|二进制|十六进制|进制|取模"
)
# ... or it is meant to be wrong.
ABOUT_ERRORS = (
    r"(?i)\berrors?\b|\bfalse\b|\bmistakes?\b|\bjoke|\bpun\b|\briddle|\bpattern\b|\bpuzzle\b|\btrick\b|\bclock\b"
    r"|\bdebug\b|\bpassword\b|错误|谜"
)
# Behind the result, bold type's stars aside, it must not go on, nor be no plain number after all.
AFTER = re.compile(
    r"\*{0,2}(?![A-Za-z\d_(\[°%‰^\\万亿千百余¢]|[.,:]\d|[ \t]*(?:[-–+*/×÷·−^=%\dπ√]|x[ \t]*\d|\\[a-z%]|r\.?[ \t]*\d"
    r"|mod\b|\(?(?:with )?(?:an? )?remainder|rest\b|pi\b|cents?\b|pence\b|dozen\b|lakh\b|crore\b|percent\b|hundred\b"
    r"|(?:[mbtr]+illion|thousand|[kmb])\b))",
    re.IGNORECASE,
)
BULLET = re.compile(r"\s*(?:[-–*•>#]+|\d{1,2}[.):]|\(?[a-zA-Z](?:[.)]|:(?=\s)))?\s*[*_]*")
# Also a header's field ("L:1/4"), and the whole of a mixed number ("1 and 1/4").
GOES_BEFORE = re.compile(r"\bx\s*\Z|\b(?:day|week|year|step|number) \Z|\d:\Z|\b[a-z]:\Z|\d and \Z", re.IGNORECASE)
# Before a sum these make it a part of something larger, or a quotation.
LARGER = frozenset("+-–*/×÷·−^.,%)]}_\\√π<>~≈\"'“‘#0123456789")
MAX_EXPONENT, MAX_DIGITS = 64, 40


def wrong_arithmetic(pairs: pa.Table, relative: float = 0.01) -> pa.Array:
    """Drops answers with a sum such as `12 * 4 = 46` that does not add up.

    Read are numbers (thousands separators, currencies), `+ - * / ^`, their usual other signs and brackets. Whole
    numbers without division must agree exactly; where decimals or a division are involved, rounding in the last digit
    shown or `relative` is allowed. Not computed, and kept: anything with letters, percents or units in the sum,
    remainders, mixed numbers, other bases and moduli, code, a sum that is quoted or that the prompt itself states, and
    prompts about errors. Python reads only answers in which RE2 finds a digit, an operator and an equals sign.

    Args:
        pairs (`pa.Table`): Pairs.
        relative (`float`, *optional*, defaults to 0.01): Share of the result, for sums that were rounded on the way.
    """
    asked, answers = prompt(pairs), column(pairs, "answer")
    where = matches(answers, LIKELY)
    for texts, excuse in ((asked, OTHER_RULES), (asked, ABOUT_ERRORS), (answers, OTHER_RULES)):
        where[where] = ~matches(texts.filter(pa.array(where)), excuse)

    def judge(question: str, answer: str) -> str | None:
        stated = re.sub(r"\s", "", question)
        for left, right, value in sums(CODE.sub(" ", answer)):
            if not agrees(value, right, rounded="/" in left or "." in left or "." in right, relative=relative):
                if re.sub(r"\s", "", left) + "=" not in stated:
                    return f"{left} = {right}, and it is {float(value):.10g}"
        return None

    return confirm(where, judge, asked, answers)


def sums(text: str) -> list[tuple[str, str, Fraction]]:
    """Every sum in a text that can be computed: its left side, the result that it states, and the one it has."""
    result, position = [], 0
    while match := EQUATION.search(text, position):
        position = match.start("right")  # of `3 * 4 = 12 + 5 = 17` the second half is a sum too
        line = text[max(text.rfind("\n", 0, match.start()) + 1, match.start() - 80) : match.start()]
        bound = line[-1:].isalnum() or line.rstrip()[-1:] in LARGER or GOES_BEFORE.search(line) is not None
        # `60 / 3 / 4` is mostly 60 divided by three quarters.
        ambiguous = re.search(r"/[^-+*]*/|÷[^-+*]*÷", match["left"]) or not AFTER.match(text, match.end())
        if ambiguous or (line.strip() and bound and not BULLET.fullmatch(line)):
            continue
        try:
            value = evaluate(match["left"])
        except (ValueError, ZeroDivisionError, RecursionError):  # nothing that can be computed
            continue
        sign = "-" if re.search(r"[-−]", match["right"]) else ""
        result.append((match["left"].strip(), sign + match["value"], value))
    return result


def agrees(value: Fraction, stated: str, rounded: bool, relative: float) -> bool:
    """Whether a stated result can be the value: exactly, or as far as its digits go where rounding is possible."""
    result = Fraction(stated.replace(",", ""))
    if value == result:
        return True
    if not rounded:
        return False
    decimals = len(stated.partition(".")[2])
    gap = abs(value - result)
    return gap < Fraction(1, 10**decimals) or gap <= Fraction(relative) * abs(value)


def evaluate(expression: str) -> Fraction:
    """The exact value of a sum of numbers, `+ - * / ^` and brackets.

    Raises:
        ValueError: If it is none, or too large to be worth computing.
        ZeroDivisionError: If it divides by zero.
    """
    text = re.sub(r"[$€£¥]", "", expression)
    for sign, plain in (("−", "-"), ("×", "*"), ("·", "*"), ("÷", "/"), ("x", "*"), ("**", "^")):
        text = text.replace(sign, plain)
    text = text.replace("\\times", "*").replace("\\cdot", "*").replace("\\div", "/")
    words, position = [], 0
    while position < len(text.rstrip()):
        match = TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"{expression!r} is no sum of numbers.")
        words.append(match["number"] or match["operator"])
        position = match.end()
    value, used = _terms(words, 0)
    if used != len(words):
        raise ValueError(f"{expression!r} is no sum of numbers.")
    return value


def _terms(words: list[str], at: int) -> tuple[Fraction, int]:
    value, at = _factors(words, at)
    while at < len(words) and words[at] in "+-":
        other, after = _factors(words, at + 1)
        value, at = (value + other if words[at] == "+" else value - other), after
    return value, at


def _factors(words: list[str], at: int) -> tuple[Fraction, int]:
    value, at = _power(words, at)
    while at < len(words) and words[at] in "*/":
        other, after = _power(words, at + 1)
        value, at = (value * other if words[at] == "*" else value / other), after
    return value, at


def _power(words: list[str], at: int) -> tuple[Fraction, int]:
    if at < len(words) and words[at] == "-":  # binds less than a power: -2^2 is -4
        value, at = _power(words, at + 1)
        return -value, at
    base, at = _atom(words, at)
    if at < len(words) and words[at] == "^":
        exponent, at = _power(words, at + 1)
        if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT or len(str(base)) > MAX_DIGITS:
            raise ValueError("a power that is not computed")
        return base ** int(exponent), at
    return base, at


def _atom(words: list[str], at: int) -> tuple[Fraction, int]:
    if at >= len(words):
        raise ValueError("the sum ends early")
    if words[at] == "(":
        value, at = _terms(words, at + 1)
        if at >= len(words) or words[at] != ")":
            raise ValueError("a bracket is left open")
        return value, at + 1
    number = words[at].replace(",", "")
    if len(number) > MAX_DIGITS or not number[0].isdigit():
        raise ValueError(f"{words[at]!r} is no number that is computed")
    return Fraction(number), at + 1
