"""How long an answer is: words, sentences, paragraphs. `length_constraints:*`

Words are runs of letters, digits and underscores, as published. Two things are added, without which the count means
nothing outside Europe: each character of Chinese and Japanese is a word, and combining marks belong to the letter
before them (in Hindi each would end a word). Thai and Lao, which have no spaces either, are one word per run.

Sentences end at a full stop, question mark or exclamation mark of any script that white space follows, and in Chinese
and Japanese at theirs alone. No sentence ends after an abbreviation or an initial, in a number, or after the number of
a list's item. nltk's Punkt, which the published code uses, must be downloaded; the two differ in rare cases.
"""

from __future__ import annotations

import re
import unicodedata

RELATIONS = ("less than", "at least")
ONE_BY_ONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana and Han: no spaces between words
WORD = re.compile(rf"[{ONE_BY_ONE}]|[^\W{ONE_BY_ONE}]+")
ENDS = ".!?…؟۔।॥։።"
SENTENCE_END = re.compile(
    rf"(?:[{ENDS}]+|[。！？｡]+)[\"'”’»)\]*_]*(?=\s|$|(?<=[。！？｡])|(?<=[。！？｡][\"'”’»)\]*_]))"
)
# Never the end of a sentence, whatever follows; and those that end one where a capital letter follows.
TITLES = {"mr", "mrs", "ms", "dr", "prof", "st", "rev", "gen", "col", "capt", "lt", "sgt", "hon", "mt", "vs", "cf"}
TITLES |= {"e.g", "i.e", "al", "approx", "dept"}
NUMBERED = {"no", "fig", "vol", "pp"}  # where a number follows; "No." is also an answer
SHORT = {"etc", "a.m", "p.m", "inc", "ltd", "co", "corp", "jr", "sr", "u.s", "u.k", "b.c", "a.d"}


def compare(number: int, relation: str, limit: int) -> bool:
    """`"less than"` leaves the limit itself out, `"at least"` takes it in."""
    return number < limit if relation == "less than" else number >= limit


def words(text: str) -> list[str]:
    if not text.isascii():
        text = "".join(char for char in text if not unicodedata.category(char).startswith("M"))
    return WORD.findall(text)


def sentences(text: str) -> list[str]:
    """The sentences of a text; one without a letter or digit is none, and what follows the last end is one."""
    found, start = [], 0
    for match in SENTENCE_END.finditer(text):
        if not _goes_on(text[start : match.end()], text[match.end() :]):
            found.append(text[start : match.end()])
            start = match.end()
    found.append(text[start:])
    return [one.strip() for one in found if re.search(r"\w", one)]


def _goes_on(before: str, after: str) -> bool:
    """Whether the full stop that `before` ends with is one of an abbreviation, an initial or a list's number."""
    last = re.search(r"(\S+)\.[\"'”’»)\]*_]*$", before)
    if last is None:
        return False
    word = last[1].lower().lstrip("(\"'“‘*_[")
    line_start = before[: last.start()].rpartition("\n")[2].strip(" *->#") == ""
    if re.fullmatch(r"\d{1,3}", word) and line_start:
        return True
    if re.fullmatch(r"[a-z]", word) and last[1][-1].isupper():  # an initial, such as J. S. Bach; not "plan b."
        return word != "i"
    follows = re.match(r"\s+[\"'“‘(]*(\w)", after)
    if follows is None:
        return False
    number, capital = follows[1].isdigit(), follows[1].isupper()
    return word in TITLES or (word in NUMBERED and number) or (word in SHORT and not number and not capital)


def number_words(answer: str, num_words: int, relation: str) -> bool:
    return compare(len(words(answer)), relation, num_words)


def number_sentences(answer: str, num_sentences: int, relation: str) -> bool:
    return compare(len(sentences(answer)), relation, num_sentences)


def number_paragraphs(answer: str, num_paragraphs: int) -> bool:
    """Exactly so many paragraphs between `***`; a blank one at either end does not count, in the middle it fails."""
    parts = re.split(r"\s?\*\*\*\s?", answer)
    if any(not part.strip() for part in parts[1:-1]):
        return False
    return sum(1 for part in parts if part.strip()) == num_paragraphs


def nth_paragraph_first_word(answer: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Exactly so many paragraphs between blank lines, and the n-th begins with the word, quotes and case aside.

    As published, n counts the blank ones too, which two blank lines in a row make.
    """
    parts = answer.split("\n\n")
    filled = sum(1 for part in parts if part.strip())
    if nth_paragraph > filled or not parts[nth_paragraph - 1].strip():
        return False
    said = parts[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    said = re.match(r"[^.,?!'\"]*", said)[0].lower()
    return filled == num_paragraphs and said == first_word.lower()
