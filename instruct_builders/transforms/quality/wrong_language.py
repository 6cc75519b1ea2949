"""Answers in another language than the question's, where no other was asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import ConfigError, did_you_mean
from ..language import CODE, detector_of
from .pairs import column, matches, prompt, spread
from .parameters import Count, Share

ENGINES = ("script", "lingua", "auto")
SCRIPTS = {
    "Latin": r"\p{Latin}",
    "Han": r"\p{Han}",
    "Kana": r"[\p{Hiragana}\p{Katakana}]",
    "Hangul": r"\p{Hangul}",
    "Cyrillic": r"\p{Cyrillic}",
    "Arabic": r"\p{Arabic}",
    "Devanagari": r"\p{Devanagari}",
    "Bengali": r"\p{Bengali}",
    "Tamil": r"\p{Tamil}",
    "Telugu": r"\p{Telugu}",
    "Thai": r"\p{Thai}",
    "Greek": r"\p{Greek}",
    "Hebrew": r"\p{Hebrew}",
    "Georgian": r"\p{Georgian}",
    "Armenian": r"\p{Armenian}",
}
# Who speaks of languages or of code may be answered in another one.
OTHER_ASKED = (
    r"(?i)translat|translit|language|pinyin|romani[sz]|english|french|spanish|german|chinese|mandarin|japanese|korean"
    r"|russian|arabic|italian|portuguese|hindi|latin|greek|hebrew|turkish|dutch|polish|swedish|vietnamese|thai|lyrics"
    r"|übersetz|sprache|deutsch|englisch|französisch|traduc|traduir|traduis|idioma|langue|inglés|anglais|français|español|перев"
    r"|язык|англ|翻译|译|语|英文|中文|法文|日文|拼音|単語|語|英訳|번역|영어|언어|ترجم|اللغة|अनुवाद|भाषा"
    r"|code|python|java|sql|html|css|regex|script|program|function|algorithm|formula|equation|url|代码|编写|程序|函数"
    r"|算法|公式|方程|网址|网站|查询|类|код|программ|코드"
)
BEYOND_LATIN = r"[\x{370}-\x{1dff}\x{2c80}-\x{d7ff}\x{f900}-\x{fdff}]"
LOOKS_LIKE_CODE = r"[{}<>;=\\]|\bdef |\bimport |\bprint\s?\(|\bSELECT\b|\w\(\w*\)"


def wrong_language(
    pairs: pa.Table,
    engine: Literal["script", "lingua", "auto"] = "script",
    min_letters: Count = 30,
    min_share: Share = 0.8,
    min_confidence: Share = 0.9,
    languages: Sequence[str] | None = None,
) -> pa.Array:
    """Drops answers whose language is not the prompt's, unless the prompt speaks of languages or of code.

    Args:
        pairs (`pa.Table`): Pairs.
        engine (`str`, *optional*, defaults to `"script"`): `"script"` compares the scripts of both texts: it is quick,
            the same everywhere, and can't tell German from English. `"lingua"` tells languages apart, by the extra
            `lang`. `"auto"` takes lingua where it is installed and the script where it is not; the details name the
            engine.
        min_letters (`int`, *optional*, defaults to 30): Letters that both texts need, a Chinese character counting
            for three.
        min_share (`float`, *optional*, defaults to 0.8): Of a text's letters in its script, for `"script"`.
        min_confidence (`float`, *optional*, defaults to 0.9): Of both guesses, for `"lingua"`.
        languages (`Sequence[str]`, *optional*): ISO 639-1 codes that lingua chooses between, instead of all 75.

    Raises:
        ConfigError: If the engine is not known, or lingua is asked for and not installed.
    """
    if engine not in ENGINES:
        raise ConfigError(
            f"wrong_language: engine={engine!r} is not known; it is {', '.join(ENGINES)}."
            + did_you_mean(str(engine), ENGINES)
        )
    if engine == "auto":
        engine = "lingua" if importlib.util.find_spec("lingua") else "script"
    asked, answers = prompt(pairs), column(pairs, "answer")
    open_pairs = np.ones(len(pairs), dtype=bool)
    if engine == "script":  # where all letters are Latin there is nothing to compare: most data ends here
        open_pairs = matches(asked, BEYOND_LATIN) | matches(answers, BEYOND_LATIN)
    for texts, excuse in ((asked, OTHER_ASKED), (answers, LOOKS_LIKE_CODE)):
        open_pairs[open_pairs] = ~matches(texts.filter(pa.array(open_pairs)), excuse)
    asked, answers = (texts.filter(pa.array(open_pairs)) for texts in (asked, answers))
    answers = pc.replace_substring_regex(answers, CODE, " ")
    if engine == "lingua":
        details = _by_lingua(asked, answers, min_letters, min_confidence, tuple(languages or ()))
        return spread(open_pairs, details.to_pylist())
    theirs, own = (script_of(texts, min_letters, min_share) for texts in (asked, answers))
    names = [*SCRIPTS]
    differ = (theirs >= 0) & (own >= 0) & (theirs != own)
    for number in np.unique(own[differ]).tolist():  # a word in the answer's script may have asked for it
        forms = rf"{[*SCRIPTS.values()][number]}{{4}}"
        differ &= (own != number) | ~matches(asked, forms)
    where = open_pairs.copy()
    where[open_pairs] = differ
    return spread(
        where,
        [
            f"{names[question]} asked, {names[answer]} answered (script)"
            for question, answer in zip(theirs[differ].tolist(), own[differ].tolist(), strict=True)
        ],
    )


def script_of(texts: pa.Array, min_letters: int, min_share: float) -> np.ndarray:
    """Number of each text's script in [`SCRIPTS`], -1 where it can't be told; Han with some kana is kana."""
    counts = np.stack(
        [pc.count_substring_regex(texts, form).to_numpy(zero_copy_only=False) for form in SCRIPTS.values()]
    )
    kana, han = list(SCRIPTS).index("Kana"), list(SCRIPTS).index("Han")
    japanese = counts[kana] * 10 >= counts[han] + 1
    counts[kana] = np.where(japanese, counts[kana] + counts[han], 0)
    counts[han] = np.where(japanese, 0, counts[han])
    counts[[kana, han, list(SCRIPTS).index("Hangul")]] *= 3
    total, best = counts.sum(axis=0), counts.argmax(axis=0)
    sure = (total >= min_letters) & (counts.max(axis=0, initial=0) >= min_share * total)
    return np.where(sure, best, -1)


def _by_lingua(
    asked: pa.Array,
    answers: pa.Array,
    min_letters: int,
    min_confidence: float,
    languages: tuple[str, ...],
) -> pa.Array:
    detector = detector_of(languages, ())
    where = (letters_of(asked) >= min_letters) & (letters_of(answers) >= min_letters)
    guesses = []
    for texts in (asked, answers):
        ranked = detector.compute_language_confidence_values_in_parallel(texts.filter(pa.array(where)).to_pylist())
        guesses.append([values[0] if values else None for values in ranked])
    details = []
    for theirs, own in zip(*guesses, strict=True):
        sure = theirs and own and min(theirs.value, own.value) >= min_confidence and theirs.language != own.language
        codes = [guess.language.iso_code_639_1.name.lower() for guess in (theirs, own)] if sure else None
        details.append(f"{codes[0]} asked, {codes[1]} answered (lingua)" if codes else None)
    return spread(where, details)


def letters_of(texts: pa.Array) -> np.ndarray:
    return pc.binary_length(pc.replace_substring_regex(texts, r"\PL+", "")).to_numpy(zero_copy_only=False)
