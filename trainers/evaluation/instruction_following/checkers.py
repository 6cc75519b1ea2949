"""The 25 constraints by IFEval's ids: which function checks each, and which arguments it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from instruct_builders.errors import ConfigError, did_you_mean

from . import formats, keywords, languages, lengths, letter_case, wholes

NUMBER, TEXT, TEXTS, LETTER, RELATION, LANGUAGE = "a number", "text", "texts", "a letter", "a relation", "a language"


class Checker(NamedTuple):
    """How one constraint is checked.

    Attributes:
        follows (`Callable`): Takes the answer and the arguments; `None` where it can't tell.
        takes (`dict[str, str]`): Argument -> what it must be.
    """

    follows: Callable[..., bool | None]
    takes: dict[str, str]


CHECKERS = {
    "keywords:existence": Checker(keywords.existence, {"keywords": TEXTS}),
    "keywords:frequency": Checker(keywords.frequency, {"keyword": TEXT, "frequency": NUMBER, "relation": RELATION}),
    "keywords:forbidden_words": Checker(keywords.forbidden_words, {"forbidden_words": TEXTS}),
    "keywords:letter_frequency": Checker(
        keywords.letter_frequency, {"letter": LETTER, "let_frequency": NUMBER, "let_relation": RELATION}
    ),
    "language:response_language": Checker(languages.response_language, {"language": LANGUAGE}),
    "length_constraints:number_sentences": Checker(
        lengths.number_sentences, {"num_sentences": NUMBER, "relation": RELATION}
    ),
    "length_constraints:number_paragraphs": Checker(lengths.number_paragraphs, {"num_paragraphs": NUMBER}),
    "length_constraints:number_words": Checker(lengths.number_words, {"num_words": NUMBER, "relation": RELATION}),
    "length_constraints:nth_paragraph_first_word": Checker(
        lengths.nth_paragraph_first_word, {"num_paragraphs": NUMBER, "nth_paragraph": NUMBER, "first_word": TEXT}
    ),
    "detectable_content:number_placeholders": Checker(formats.number_placeholders, {"num_placeholders": NUMBER}),
    "detectable_content:postscript": Checker(formats.postscript, {"postscript_marker": TEXT}),
    "detectable_format:number_bullet_lists": Checker(formats.number_bullet_lists, {"num_bullets": NUMBER}),
    "detectable_format:constrained_response": Checker(formats.constrained_response, {}),
    "detectable_format:number_highlighted_sections": Checker(
        formats.number_highlighted_sections, {"num_highlights": NUMBER}
    ),
    "detectable_format:multiple_sections": Checker(
        formats.multiple_sections, {"section_spliter": TEXT, "num_sections": NUMBER}
    ),
    "detectable_format:json_format": Checker(formats.json_format, {}),
    "detectable_format:title": Checker(formats.title, {}),
    "combination:two_responses": Checker(wholes.two_responses, {}),
    "combination:repeat_prompt": Checker(wholes.repeat_prompt, {"prompt_to_repeat": TEXT}),
    "startend:end_checker": Checker(wholes.end_checker, {"end_phrase": TEXT}),
    "startend:quotation": Checker(wholes.quotation, {}),
    "change_case:capital_word_frequency": Checker(
        letter_case.capital_word_frequency, {"capital_frequency": NUMBER, "capital_relation": RELATION}
    ),
    "change_case:english_capital": Checker(letter_case.english_capital, {}),
    "change_case:english_lowercase": Checker(letter_case.english_lowercase, {}),
    "punctuation:no_comma": Checker(wholes.no_comma, {}),
}


def check(answer: str, identifier: str, arguments: Mapping | None = None, where: str = "constraint") -> bool | None:
    """Whether an answer meets one constraint.

    Args:
        answer (`str`): The answer; a blank one meets none.
        identifier (`str`): A key of `CHECKERS`, such as `"keywords:existence"`.
        arguments (`Mapping`, *optional*): The constraint's arguments. Those that are `None` count as absent: the Hub's
            rows have every argument of every constraint.
        where (`str`, *optional*): What error messages begin with.

    Returns:
        `bool` or `None`: `None` where it can't be told, such as a language without lingua.

    Raises:
        ConfigError: For an id or an argument that is not known, is missing, or can't be right.
    """
    given = read(identifier, arguments, where)
    answer = answer.replace("\r\n", "\n")  # servers on Windows: a blank line would be none, a line's end a letter
    return CHECKERS[identifier].follows(answer, **given) if answer.strip() else False


def variants(answer: str) -> list[str]:
    """The answer and what counts as it when judged loosely: without first line, last line, both, and without `*`.

    The eight of the published evaluation. Answers often begin with "Sure, here it is:", and Markdown adds asterisks.
    """
    lines = answer.replace("\r\n", "\n").split("\n")
    cut = [answer, *("\n".join(some).strip() for some in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(text.replace("*", "") for text in cut)]


def loosely(strict: bool | None, answer: str, identifier: str, arguments: Mapping | None) -> bool | None:
    """Whether any variant of the answer meets the constraint; `strict` is what [`check`] said of the answer itself."""
    met = strict or any(check(text, identifier, arguments) for text in variants(answer)[1:])
    return True if met else strict  # a variant too short to tell its language by excuses no clear miss


def read(identifier: str, arguments: Mapping | None, where: str) -> dict:
    """The arguments without those that are `None`, all of them there and of the right kind, or a `ConfigError`."""
    if identifier not in CHECKERS:
        hint = did_you_mean(str(identifier), CHECKERS)
        raise ConfigError(f"{where}: {identifier!r} is no instruction id. Allowed: {', '.join(CHECKERS)}.{hint}")
    takes = CHECKERS[identifier].takes
    given = {name: value for name, value in (arguments or {}).items() if value is not None}
    for name in given.keys() - takes.keys():
        allowed = f"it takes {', '.join(takes)}" if takes else "it takes none"
        raise ConfigError(f"{where}: {identifier} has no argument {name!r}; {allowed}.{did_you_mean(name, takes)}")
    for name, kind in takes.items():
        if name not in given:
            raise ConfigError(f"{where}: {identifier} needs the argument {name!r}, {kind}.")
        if not _fits(given[name], kind):
            raise ConfigError(f"{where}: {identifier}, {name}: {given[name]!r} given; {_allowed(given[name], kind)}")
    if "nth_paragraph" in takes and not 1 <= given["nth_paragraph"] <= given["num_paragraphs"]:
        number = given["nth_paragraph"]
        raise ConfigError(f"{where}: {identifier}, nth_paragraph: {number} given of {given['num_paragraphs']}.")
    return given


def _fits(value: object, kind: str) -> bool:
    if kind == NUMBER:
        return type(value) is int and value >= 0
    if kind == TEXTS:
        return isinstance(value, list) and bool(value) and all(_fits(one, TEXT) for one in value)
    if kind == RELATION:
        return value in lengths.RELATIONS
    if not isinstance(value, str) or not value.strip():
        return False
    if kind == LANGUAGE:
        return value.lower() in languages.LANGUAGES | languages.ALIASES.keys()
    return kind == TEXT or len(value) == 1


def _allowed(value: object, kind: str) -> str:
    if kind == RELATION:
        return f"allowed are {' and '.join(lengths.RELATIONS)}.{did_you_mean(str(value), lengths.RELATIONS)}"
    if kind == LANGUAGE:
        return f"allowed are the codes {', '.join(sorted(languages.LANGUAGES))}."
    wanted = {NUMBER: "a whole number from 0 on", TEXT: "a text", TEXTS: "a list of texts", LETTER: "one character"}
    return f"it must be {wanted[kind]}."
