"""The language of an answer. `language:response_language`

The script decides first: an answer in Cyrillic letters is not Spanish, and Kannada or Thai is what alone is written in
its letters. Where a script has several languages, lingua (the optional extra `lang`) tells them apart, with its
three-letter models, which take 70 MB and are right for nearly all texts of a few sentences. It judges the text as a
whole, so a sentence in another language may pass. Without lingua, for a language that it does not know (Nepali), and
where the language is not the likeliest but nearly so, or there are few letters to tell it by, the answer can't be
checked, and that is counted. The published code takes langdetect's word, and an answer without a letter for right;
here that is wrong.
"""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter

# The first word of the Unicode names of letters; languages of several scripts have several.
SCRIPTS = {
    "LATIN": "af az bs ca cs cy da de en eo es et eu fi fr ga hr hu id is it la lg lt lv mi ms nb nl nn pl pt ro sk "
    "sl sn so sq st sv sw tl tn tr ts vi xh yo zu",
    "CYRILLIC": "ru uk bg be kk mk mn sr",
    "ARABIC": "ar fa ur",
    "DEVANAGARI": "hi mr ne",
    "HEBREW": "he",
    "BENGALI": "bn",
    "GREEK": "el",
    "ARMENIAN": "hy",
    "GEORGIAN": "ka",
    "HANGUL": "ko",
    "THAI": "th",
    "TAMIL": "ta",
    "TELUGU": "te",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "CJK": "zh ja",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
}
LANGUAGES = {code for codes in SCRIPTS.values() for code in codes.split()}
ALIASES = {"zh-cn": "zh", "zh-tw": "zh"}  # langdetect's names
NEARLY = 0.5  # of the likeliest language's confidence: with as much, another one is not ruled out
FEW = 20  # letters: with fewer, such as "yes", the likeliest is a guess


def response_language(answer: str, language: str) -> bool | None:
    """Whether an answer is in a language, by its ISO 639-1 code; `None` where it can't be told."""
    language = ALIASES.get(language.lower(), language.lower())
    letters = Counter(_script(char) for char in answer if char.isalpha())
    if not letters:
        return False
    total = sum(letters.values())
    own = [script for script, codes in SCRIPTS.items() if language in codes.split()]
    if sum(letters[script] for script in own) * 2 < total:
        return False
    if any(script in own for script in ("HIRAGANA", "CJK")):
        kana = letters["HIRAGANA"] + letters["KATAKANA"]
        return kana * 10 >= total if language == "ja" else kana * 10 < total  # Japanese is a third kana and more
    main = max(own, key=lambda script: letters[script])
    if SCRIPTS[main] == language:
        return True
    return _by_lingua(answer, language, total < FEW)


def _script(char: str) -> str:
    return unicodedata.name(char, "").partition(" ")[0]


def _by_lingua(answer: str, language: str, short: bool) -> bool | None:
    detector, known = _detector()
    if detector is None:
        return None
    ranked = detector.compute_language_confidence_values(answer)
    sure = {entry.language.iso_code_639_1.name.lower(): entry.value for entry in ranked}
    if language not in known:
        return None
    if sure[language] == ranked[0].value:
        return True
    return None if short or sure[language] >= NEARLY * ranked[0].value else False


@functools.cache
def _detector() -> tuple[object | None, frozenset[str]]:
    try:
        from lingua import Language, LanguageDetectorBuilder
    except ImportError:
        return None, frozenset()
    known = frozenset(entry.iso_code_639_1.name.lower() for entry in Language.all())
    return LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build(), known


def available() -> bool:
    """Whether lingua is there."""
    return _detector()[0] is not None
