"""Sums in answers that do not add up, by a parser of its own: no text is ever run as code."""

from __future__ import annotations

import operator
import re
from fractions import Fraction
from numbers import Rational

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .pairs import column, confirm, matches, prompt
from .parameters import Share

# Every repetition is bounded, so that no text takes more than linear time.
NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,12}(?!\d)|\d{1,40}(?!\d))(?:\.\d{1,40})?"
MONEY = r"(?:[$€£¥] ?)?"
OPERATOR = r"(?:\*\*|[-+*/×÷·−^]|x(?=\s{0,4}[-$€£(\d])|\\times|\\cdot|\\div)"
EQUATION = re.compile(
    rf"(?<!\d)(?P<left>[(\-−]{{0,9}}{MONEY}{NUMBER}\){{0,9}}"
    rf"(?:[ \t]{{0,9}}{OPERATOR}[ \t]{{0,9}}[(\-−]{{0,9}}{MONEY}{NUMBER}\){{0,9}}){{1,40}})"
    rf"[ \t]{{0,9}}=[ \t]{{0,9}}(?P<right>\*{{0,2}} ?[-−]?{MONEY}(?P<value>{NUMBER})(?P<over>/\d{{1,9}}(?![\d.,]))?)"
)
# Cheap tests over the column: a digit, an operator, and a digit behind an equals sign ...
LIKELY = r"\d[\s)$€£]*(?:[-+*/×÷·−^x＋－]|\\times|\\cdot|\\div)[^=＝\n]{1,120}[=＝][\s$€£*\-−]*(?:\\d?frac\{)?\d"
# ... or a sum in words, with units, of percents, in a calculator's brackets or in fractions of LaTeX.
WORDED = (
    r"(?i)\d (?:plus|minus|times|multiplied by|divided by) [$€£]?\d|\d [a-z]{2,20} [+\-−] \d|\d ?% of [$€£]?\d"
    r"|<<[^<>\n]{1,80}=|\\d?frac\{\d+\}\{\d+\}[^=\n]{0,80}="
)
# Other ways to write the same, as the parser reads them.
SIGNS = str.maketrans("＝＋－＊／（）％", "=+-*/()%")
CALCULATOR = re.compile(r"(=[ \t]{0,3}[$€£]?)?<<([^<>=\n]{1,80})=[^<>\n]{0,40}>>")
FRACTION = re.compile(r"\\d?frac\{(\d{1,9})\}\{(\d{1,9})\}")
WORDS = {"plus": "+", "minus": "-", "times": "*", "multiplied by": "*", "divided by": "/", "equals": "="}
WORD = re.compile(r"(?<=\d) (plus|minus|times|multiplied by|divided by|equals) (?=[$€£]?\d)", re.IGNORECASE)
# "5 apples + 3 apples = 9 apples": one unit throughout.
UNITS = re.compile(
    r"(?<![\w.,/$%^*×-])(\d{1,9}) ([a-z]{2,20}?)s?(?P<more>(?: [+\-−] \d{1,9} \2s?(?![a-z])){1,9})"
    r" = (\d{1,9}) \2s?(?![\w-])",
    re.IGNORECASE,
)
PERCENT = re.compile(
    rf"(?<![\d.,/-])(?P<left>(?P<share>\d{{1,3}}(?:\.\d{{1,9}})?) ?% of {MONEY}(?P<whole>{NUMBER})) (?:=|is|equals) "
    rf"(?P<right>{MONEY}(?P<value>{NUMBER}))",
    re.IGNORECASE,
)
# A question that is nothing but a sum, and an answer that is nothing but a number.
ASKED = re.compile(
    r"\s*(?:(?:what(?:['’]s| is)|calculate|compute|evaluate|add|solve|how much is)\s{1,3}|)(?:the sum )?:?\s{0,3}"
    rf"(?P<left>[(]{{0,3}}{NUMBER}\){{0,3}}(?:\s{{0,2}}{OPERATOR}\s{{0,2}}[(]{{0,3}}{NUMBER}\){{0,3}}){{1,9}})"
    r"\s{0,3}(?:=\s{0,3})?\??[.?]?\s*",
    re.IGNORECASE,
)
ANSWERED = re.compile(
    rf"\s*(?:(?:the (?:answer|result|sum) is|it['’]s|it is|=)\s{{1,3}})?(?P<value>[-−]?{NUMBER})\.?\s*", re.IGNORECASE
)
NO_DATE = re.compile(r"[+*×÷]| [-−/x] ")  # "What is 9/11?" asks for no quotient
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
    r"\*{0,2}(?![A-Za-z\d_(\[°%‰^万亿千百余¢]|[.,:]\d|[ \t]*(?:[-–+*/×÷·−^=%\dπ√]|x[ \t]*\d|\\[a-z%]"
    r"|r\.?[ \t]*\d|(?:minor|major) |on (?:a|the) clock|o['’]clock"
    r"|mod\b|\(?(?:with )?(?:an? )?remainder|rest\b|pi\b|cents?\b|pence\b|dozen\b|lakh\b|crore\b|percent\b|hundred\b"
    r"|(?:[mbtr]+illion|thousand|[kmb])\b))",
    re.IGNORECASE,
)
BULLET = re.compile(r"\s*(?:[-–*•>#]+|\d{1,2}[.):]|\(?[a-zA-Z](?:[.)]|:(?=\s)))?\s*[*_]*")
# Also a header's field ("L:1/4"), and the whole of a mixed number ("1 and 1/4").
GOES_BEFORE = re.compile(
    r"\bx\s*\Z|\b(?:day|week|year|step|number|from|between|versions?|numpy|python|won|scored?) \Z|\d:\Z|\b[a-z]:\Z"
    r"|\d and \Z"
    r"|\b(?:says?|said|claim(?:s|ed)?|insist(?:s|ed)?|believ(?:e|es|ed))(?: that)?:? \Z",
    re.IGNORECASE,
)
# Before a sum these make it a part of something larger, or a quotation.
LARGER = frozenset("+-–*/×÷·−^.,%)]}_\\√π<>~≈\"'“‘#0123456789")
SIMPLE = re.compile(r"\s*[$€£¥]?(\d{1,15})\s*([-+*/×x])\s*[$€£¥]?(\d{1,15})\s*", re.ASCII)
PLAIN = {
    "/": operator.floordiv,
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "×": operator.mul,
    "x": operator.mul,
}
MAX_EXPONENT, MAX_DIGITS = 64, 40
MAX_SUMS = 1000  # of one answer: a hostile one of a megabyte has hundreds of thousands


def wrong_arithmetic(pairs: pa.Table, relative: Share = 0.01) -> pa.Array:
    """Drops answers with a sum such as `12 * 4 = 46` that does not add up.

    Read are numbers (thousands separators, currencies), `+ - * / ^`, their usual other signs and brackets, "plus" and
    "equals" between digits, LaTeX's fractions, a calculator's `<<48/2=24>>`, percents of a number, one unit throughout
    ("5 apples + 3 apples = 8 apples"), and a number that answers "What is 17 + 25?". Whole numbers without division
    must agree exactly; where decimals or a division are involved, rounding in the last digit shown or `relative` is
    allowed. Not computed, and kept: anything else with letters or percents in the sum, remainders, mixed numbers,
    other bases and moduli, code, a sum that is quoted or that the prompt itself states, prompts about errors, and what
    comes after an answer's first thousand sums. Python reads only answers in which RE2 finds the parts of a sum.

    Args:
        pairs (`pa.Table`): Pairs.
        relative (`float`, *optional*, defaults to 0.01): Share of the result, for sums that were rounded on the way.
    """
    asked, answers = prompt(pairs), column(pairs, "answer")
    where = matches(answers, LIKELY) | matches(answers, WORDED) | _short(pairs)
    for texts, excuse in ((asked, OTHER_RULES), (asked, ABOUT_ERRORS), (answers, OTHER_RULES)):
        where[where] = ~matches(texts.filter(pa.array(where)), excuse)

    def judge(question: str, answer: str) -> str | None:
        stated = None
        for left, right, value in [
            *asked_for(question, answer),
            *sums(CODE.sub(" ", answer) if "`" in answer else answer),
        ]:
            if not agrees(value, right, rounded="/" in left + right or "." in left + right, relative=relative):
                stated = re.sub(r"\s", "", question) if stated is None else stated
                if re.sub(r"\s", "", left) + "=" not in stated:
                    return f"{left} = {right}, and it is {float(value):.10g}"
        return None

    return confirm(where, judge, asked, answers)


def _short(pairs: pa.Table) -> np.ndarray:
    """Which pairs are short enough for a sum and its result, and have a digit in both (bool)."""
    where = np.ones(len(pairs), dtype=bool)
    for name, most in (("answer", 40), ("instruction", 100)):
        texts = column(pairs, name)
        where &= pc.binary_length(texts).to_numpy(zero_copy_only=False) <= most
        where[where] = matches(texts.filter(pa.array(where)), r"\d")
    return where


def asked_for(question: str, answer: str) -> list[tuple[str, str, Rational]]:
    """The sum that is the whole question, the number that is the whole answer, and what it should be; or nothing."""
    if len(question) > 100 or len(answer) > 40:
        return []
    sum_, result = ASKED.fullmatch(question), ANSWERED.fullmatch(answer)
    if not (sum_ and result and NO_DATE.search(sum_["left"])):
        return []
    try:
        return [(sum_["left"].strip(), result["value"].replace("−", "-"), evaluate(sum_["left"]))]
    except (ValueError, ZeroDivisionError):
        return []


def _plainly(text: str) -> str:
    """A text with its sums written in one way."""
    text = text.translate(SIGNS) if not text.isascii() else text
    if "\\" in text:
        text = FRACTION.sub(r"\1/\2", text)
        text = re.sub(r"\\[()\[\]]", "  ", text)
    if "<<" in text:
        text = CALCULATOR.sub(lambda match: match[1] or f"{match[2]} = ", text)
    if any(f" {word} " in text for word in WORDS):
        text = WORD.sub(_sign, text)
    return UNITS.sub(lambda match: re.sub(r" [A-Za-z]+", "", f"{match[1]}{match['more']} = {match[4]} "), text)


def _sign(match: re.Match) -> str:
    """What stands for a word; of "3/8 equals 375" the fraction may be a share of something."""
    share = "/" in match.string[max(0, match.start() - 8) : match.start()] and match[1].lower() == "equals"
    return match[0] if share else f" {WORDS[match[1].lower()]} "


def sums(text: str) -> list[tuple[str, str, Rational]]:
    """Every sum in a text that can be computed: its left side, the result that it states, and the one it has."""
    text = _plainly(text)
    result, position = _percents(text) if "%" in text else [], 0
    for _ in range(MAX_SUMS):
        match = EQUATION.search(text, position)
        if match is None:
            break
        position = match.start("right")  # of `3 * 4 = 12 + 5 = 17` the second half is a sum too
        if match["over"] and "/" not in match["left"]:  # "10 - 4 = 6/2" goes on with the next step
            continue
        try:
            value = evaluate(match["left"])
        except (ValueError, ZeroDivisionError, RecursionError):  # nothing that can be computed
            continue
        if (match["right"].isdecimal() and value == int(match["right"])) or _stands_alone(text, match):
            sign = "-" if "-" in match["right"] or "−" in match["right"] else ""
            result.append((match["left"].strip(), sign + match["value"] + (match["over"] or ""), value))
    return result


def _stands_alone(text: str, match: re.Match) -> bool:
    """Whether an equation is one: no part of something larger, no quotation, and plain numbers to its end."""
    line = text[max(text.rfind("\n", 0, match.start()) + 1, match.start() - 80) : match.start()]
    bound = line[-1:].isalnum() or line.rstrip()[-1:] in LARGER or GOES_BEFORE.search(line) is not None
    # `60 / 3 / 4` is mostly 60 divided by three quarters.
    ambiguous = re.search(r"/[^-+*]*/|÷[^-+*]*÷", match["left"]) or not AFTER.match(text, match.end())
    return not ambiguous and not (line.strip() and bound and not BULLET.fullmatch(line))


def _percents(text: str) -> list[tuple[str, str, Rational]]:
    """`25% of 80 = 20`, as [`sums`] gives sums."""
    return [
        (
            match["left"] + "/100",
            match["value"],
            Fraction(match["share"]) * Fraction(match["whole"].replace(",", "")) / 100,
        )
        for match in PERCENT.finditer(text)
        if AFTER.match(text, match.end())
    ]


def agrees(value: Rational, stated: str, rounded: bool, relative: float) -> bool:
    """Whether a stated result can be the value: exactly, or as far as its digits go where rounding is possible."""
    if stated.isdecimal() and value == int(stated):  # an integer is compared ten times as quickly
        return True
    above, _, below = stated.replace(",", "").partition("/")
    if below and not int(below):
        return True  # no number at all
    result = Fraction(above) / Fraction(below or 1)
    if value == result or (below and abs(value - result) <= Fraction(1, 1000)):
        return True
    if not rounded or below:
        return False
    decimals = len(stated.partition(".")[2])
    gap = abs(value - result)
    return gap < Fraction(1, 10**decimals) or gap <= Fraction(relative) * abs(value)


def evaluate(expression: str) -> Rational:
    """The exact value of a sum of numbers, `+ - * / ^` and brackets.

    Raises:
        ValueError: If it is none, or too large to be worth computing.
        ZeroDivisionError: If it divides by zero.
    """
    if simple := SIMPLE.fullmatch(expression):  # nearly all sums
        one, two = int(simple[1]), int(simple[3])
        return Fraction(one, two) if simple[2] == "/" and one % max(two, 1) else PLAIN[simple[2]](one, two)
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
