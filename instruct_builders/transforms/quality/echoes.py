"""Texts that repeat one another, or themselves."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import flat
from ..novelty import unicode_tokens
from ..shingles import hashed_tokens
from .pairs import column, confirm, holds, lacks, matches, plain, prompt, spread, tokens, units
from .parameters import Count, Period, Repeats, Share

ASKS_FOR_LOOP = (
    r"(?i)\b(?:repeat\w*|times|twice|chant|mantra|refrain|chorus|lyrics|song|copy|echo|lines of|wiederhol\w*|répét\w*"
    r"|repit\w*|repet\w*)\b|重复|反复|歌|遍|повтор|繰り返|반복"
)
LETTER = re.compile(r"[^\W\d_]")
MIN_ITEM = 4  # words of a numbered item that counts when it comes again and again
DRAWN_OUT = 40  # letters: "aaaa..."
SAME_LETTER = re.compile(r"([^\W\d_])\1{19,}")
# Who asks like this may get back what was given.
ASKS_TO_REPEAT = (
    r"(?i)\b(?:repeat|copy|echo|quote|recite|type|print|say|output|proofread|correct|fix|check|edit|format|complete"
    r"|continue|finish|fill|paste|read back|identify|select|choose|pick|find|extract|which|organi[sz]e|(?:re)?arrange"
    r"|sort|order|divide|split|separate|rewrite|reword|paraphrase"
    r"|revise|translate|punctuat\w+|capitali\w+|grammar|typos?|spelling|errors?|mistakes?|twice|times|chant|mantra"
    r"|wiederhol\w*|korrigier\w*|schreib\w* ab|répét\w*|corrig\w*|repit\w*|repet\w*)\b"
    r"|重复|复述|校对|改正|修改|翻译|语法|抄写|继续|续写|填|选|повтор|исправ|繰り返|校正|訂正|반복"
)


def answer_in_instruction(pairs: pa.Table, min_words: Count = 6, min_share: Share = 0.5) -> pa.Array:
    """Drops rows whose instruction already holds the whole answer, and little else.

    An answer found in the context is extraction, and no fault. Python compares only answers that are long enough.

    Args:
        pairs (`pa.Table`): Pairs.
        min_words (`int`, *optional*, defaults to 6): Words of the answer.
        min_share (`float`, *optional*, defaults to 0.5): Of the instruction's characters that the answer makes up.
    """
    instructions, answers = column(pairs, "instruction"), column(pairs, "answer")
    long, short = (pc.binary_length(texts).to_numpy(zero_copy_only=False) for texts in (instructions, answers))
    where = (short < long + 4) & (short >= min_share * long) & (pairs["words"].to_numpy() >= min_words)
    where[where] = lacks(instructions.filter(pa.array(where)), ASKS_TO_REPEAT)

    def judge(instruction: str, answer: str) -> str | None:
        return f"{answer[:60]!r}" if answer in instruction and answer != instruction else None

    return confirm(where, judge, *(_plain_where(texts, where) for texts in (instructions, answers)))


def instruction_echoed(pairs: pa.Table, min_words: Count = 5) -> pa.Array:
    """Drops answers that are, or begin with, the instruction, or that are the context as it was given.

    Asking to repeat, correct or complete something excuses it, and so does a comma behind it: the sentence goes on,
    as in "To plan a week, begin with ...". Python compares only texts with the same beginning.

    Args:
        pairs (`pa.Table`): Pairs.
        min_words (`int`, *optional*, defaults to 5): Words of what is echoed.
    """
    answers, details = column(pairs, "answer"), []
    for name, whole in (("instruction", False), ("context", True)):
        given = column(pairs, name)
        where = flat.booleans(pc.equal(_beginning(given), _beginning(answers)))
        where &= flat.booleans(pc.match_substring_regex(given, r"\S"))
        where[where] = units(given.filter(pa.array(where))) >= min_words
        where[where] = lacks(prompt(pairs.filter(pa.array(where))), ASKS_TO_REPEAT)

        def judge(given: str, answer: str, name: str = name, whole: bool = whole) -> str | None:
            echoed = answer == given or (
                not whole and re.match(re.escape(given) + r"(?![,，、])\W", answer) is not None
            )
            return f"the {name} {given[:60]!r}" if echoed else None

        details.append(confirm(where, judge, *(_plain_where(texts, where) for texts in (given, answers))))
    return pc.coalesce(*details)


def _beginning(texts: pa.Array) -> pa.Array:
    return pc.utf8_lower(pc.utf8_slice_codeunits(pc.utf8_ltrim(texts, " \t\n\r\"'“*"), 0, 12))


def _plain_where(texts: pa.Array, where: np.ndarray) -> pa.Array:
    """The texts, made [`plain`] where they are looked at."""
    mask = pa.array(where)
    return pc.replace_with_mask(texts, mask, plain(texts.filter(mask)))


def repeated_ngrams(
    pairs: pa.Table, max_period: Period = 24, min_repeats: Repeats = 4, min_words: Count = 12, min_share: Share = 0.2
) -> pa.Array:
    """Drops answers that fall into a loop: the same 1 to `max_period` words again and again without a break.

    All answers are one array of word numbers, compared with itself shifted by each period. Marks
    such as the rules of tables are no words, and a loop of numbers alone may be data. A refrain with other lines
    between is no loop either. Numbered items that say the same are one, as are the same paragraph three times on end
    and one letter drawn out.

    Args:
        pairs (`pa.Table`): Pairs.
        max_period (`int`, *optional*, defaults to 24): Words of the longest part that is looked for.
        min_repeats (`int`, *optional*, defaults to 4): How often it stands one after the other.
        min_words (`int`, *optional*, defaults to 12): Words of the whole loop.
        min_share (`float`, *optional*, defaults to 0.2): Of the answer's words that the loop makes up.
    """
    answers = column(pairs, "answer")
    free = lacks(prompt(pairs), ASKS_FOR_LOOP)
    details = _loops(answers, tokens(pairs), free, max_period, min_repeats, min_words, min_share)
    # A numbered loop: the same items, without their numbers. Short ones may be a list of verdicts.
    items = free & holds(answers, "4.", "4)") & matches(answers, r"(?m)^\s*4[.)]") & details.is_null().to_numpy(False)
    bare = pc.replace_substring_regex(answers.filter(pa.array(items)), r"(?m)^\s*\d{1,4}[.)]", "")
    found = _loops(
        bare, hashed_tokens(bare), items[items], max_period, min_repeats, min_words, min_share, min_period=MIN_ITEM
    )
    details = pc.coalesce(details, spread(items, found.to_pylist()))
    alike = free & (pairs["words"].to_numpy() >= 3 * min_words) & (pc.count_substring(answers, "\n\n").to_numpy() >= 2)
    drawn = free & _letters_on_end(answers, DRAWN_OUT // 2)

    def paragraphs(answer: str) -> str | None:
        parts = [part.strip() for part in answer.split("\n\n")]
        for one, two, three in zip(parts, parts[1:], parts[2:], strict=False):
            if (
                one == two == three
                and 3 * len(one) >= min_share * len(answer)
                and len(unicode_tokens(one)) >= min_words
            ):
                return f"the paragraph {one[:60]!r} 3 times"
        return None

    def letters(answer: str) -> str | None:
        longest = max(SAME_LETTER.finditer(answer), key=lambda match: len(match[0]), default=None)
        long = longest is not None and len(longest[0]) >= max(DRAWN_OUT, min_share * len(answer))
        return f"{longest[1]!r} {len(longest[0])} times" if long else None

    return pc.coalesce(details, confirm(alike, paragraphs, answers), confirm(drawn, letters, answers))


def _loops(
    answers: pa.Array,
    hashed: tuple[np.ndarray, np.ndarray],
    free: np.ndarray,
    max_period: int,
    min_repeats: int,
    min_words: int,
    min_share: float,
    min_period: int = 1,
) -> pa.Array:
    """What each answer that is `free` to be judged repeats without a break, and how often."""
    hashes, offsets = hashed
    rows, sizes = flat.row_of_turn(offsets), np.diff(offsets)
    likely = np.zeros(len(answers), dtype=bool)
    likely[_may_loop(hashes, rows, max_period, min_repeats, min_words)] = True
    likely = (likely & free)[rows]
    hashes, rows = hashes[likely], rows[likely]
    texts: dict[int, str] = {}
    for period in range(min_period, max_period + 1):
        if period >= len(hashes):
            break
        same = (hashes[period:] == hashes[:-period]) & (rows[period:] == rows[:-period])
        edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]])))
        starts, lengths = edges[::2], edges[1::2] - edges[::2] + period  # of the looping words
        loops = (lengths >= max(min_repeats * period, min_words)) & (lengths >= min_share * sizes[rows[starts]])
        for start, length in zip(starts[loops].tolist(), lengths[loops].tolist(), strict=True):
            row = int(rows[start])
            if row in texts:
                continue
            first = start - int(np.searchsorted(rows, row))
            part = " ".join(_tokens_at(answers[row].as_py(), first, period))
            if LETTER.search(part):
                texts[row] = f"{part[:60]!r} {length // period} times"
        if loops.any():
            left = ~np.isin(rows, list(texts))
            hashes, rows = hashes[left], rows[left]
    where = np.isin(np.arange(len(answers)), list(texts))
    return spread(where, [texts[row] for row in np.flatnonzero(where).tolist()])


def _letters_on_end(texts: pa.Array, step: int) -> np.ndarray:
    """Which texts may hold twice `step` times the same ASCII letter in a line: every `step`-th byte is looked at."""
    _, offsets, data = texts.buffers()
    data = np.frombuffer(data or b"", np.uint8)
    offsets = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1] if len(texts) else [0, 0]
    places = np.arange(offsets[0], offsets[-1] - step, step)
    for distance in range(1, step):
        places = places[data[places + distance] == data[places]]
    places = places[(data[places] | 32) - np.uint8(ord("a")) < 26]
    where = np.zeros(len(texts), dtype=bool)
    where[np.searchsorted(offsets, places, side="right") - 1] = True
    return where


def _tokens_at(text: str, first: int, count: int) -> list[str]:
    """Some of a text's tokens; of a long text only as much is read as they need."""
    size = 8 * (first + count) + 100
    while True:
        words = unicode_tokens(text[:size])
        if len(words) > first + count or size >= len(text):
            return words[first : first + count]
        size *= 4


def _may_loop(hashes: np.ndarray, rows: np.ndarray, max_period: int, min_repeats: int, min_words: int) -> np.ndarray:
    """Rows in which three words in a line stand again a period later, looked up only as often as no loop can hide."""
    found = []
    for period in range(1, max_period + 1):
        run = max((min_repeats - 1) * period, min_words - period, 3)  # places in a loop that equal the one a period on
        places = np.arange(0, max(len(hashes) - period - 2, 0), run - 2)
        same = rows[places] == rows[places + period + 2]
        for step in range(3):
            same &= hashes[places + step] == hashes[places + step + period]
        found.append(rows[places[same]])
    return np.unique(np.concatenate([np.empty(0, np.int64), *found]))
