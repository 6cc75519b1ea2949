"""Answers that stop in the middle: a code fence that is never closed, a last sentence that is cut off."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from ..novelty import unicode_tokens
from .pairs import column, confirm, holds, lacks, matches, prompt, spread
from .parameters import Count

FENCE = re.compile(r"[ \t>*\-]*(`{3,}|~{3,})[ \t]*([^`\n]*)")
INLINE_FENCE = re.compile(r"[^`~\n]*[^`~\s][^`~\n]*?(```)(\w*)")  # "Here: ```python", with the code in the next line
ABOUT_FENCES = re.compile(r"fence|backtick|markdown", re.IGNORECASE)

# Words that end no sentence, in small letters, or a mark that something follows.
DANGLING = (
    r"[\pL\pN,;:][ \n]+(?:the|a|an|and|or|of|but|because|their|its|than|whose|und|oder|der|ein|eine|weil|que|los|las"
    r"|und|et|les|des|une|della|degli|perché|и|или|что)\s*\z"
)
# Words that can end a sentence ("what it is for"), but hardly one without its full stop where the others have theirs.
RARELY_LAST = re.compile(
    r"[\w,;.!?] +(?:to|with|for|in|from|by|at|into|during|about|is|was|are|were|be|been|has|have|will|would|could"
    r"|should|may|might|must|that|this|these|your|our|my|if|when|while|although|which|who|where|every|very|absolutely)\Z",
    re.IGNORECASE,
)
OPEN_MARK = r"(?:[(\[{,;，、；（]|[^\s:：]\s*[:：])\s*\z"
SIGNED = r"(?:#[\pL\pN_]+|[-–—~]+\s?\p{Lu}[^\n!?]{1,40})\s*\z"  # a hashtag, or who said it
CLOSING = r"(?i)\n[^\n.!?]{1,40},\s*\z"  # "Best regards," as the last line of a letter
OPEN_TAG = re.compile(
    r"<(?:p|div|li|td|span|h[1-6]|a|b|em|strong)\b[^<>]*>[^<>]*\Z"
)  # text in an element that never ends
CODE_ENDS = r"```|~~~|[{};]\s*\z|</\w+>\s*\z"
ENDS_IN_LETTER = r"[\pL]\s*\z"
SENTENCE_END = re.compile(r"[.!?。！？][\"”’)\]*]*(?:\s|\Z)|[。！？]")
STOPPED = re.compile(r"[.!?。！？][\"”’)\]*]*\Z")
ITEM = re.compile(r"\s*(?:[-*•|>#]|\(?\d{1,3}[.):]|\(?[a-zA-Z][.)]\s)")
RARE_FACTOR = 2  # times `min_words` for a word that can be the last one


def open_code_fence(pairs: pa.Table) -> pa.Array:
    """Drops answers with a code fence that is never closed.

    A fence may open behind other text of its line, and close at the end of a line of code. Python reads only answers
    that have a fence in them.
    """
    answers = column(pairs, "answer")

    def judge(answer: str, asked: str) -> str | None:
        fence = line_number = None
        for number, line in enumerate(answer.split("\n"), start=1):
            line = line.rstrip()
            match = FENCE.fullmatch(line)
            inline = match is None and fence is None and ("```" in line) and INLINE_FENCE.fullmatch(line)
            if fence is None and (match or inline):
                named = match is not None or bool(inline[2])  # three bare marks behind a text may be what it is about
                fence, line_number = (match or inline)[1], number if named else None
            elif match and match[1].startswith(fence) and not match[2]:
                fence = None
            elif not match and fence and line.endswith(fence):  # not by the book, and yet nothing is missing
                fence = None
        if fence is None or line_number is None or (ABOUT_FENCES.search(asked) and fence_is_last(answer, line_number)):
            return None
        return f"line {line_number} of the answer opens it"

    def fence_is_last(answer: str, line_number: int) -> bool:
        return answer.rstrip().count("\n") + 1 == line_number

    return confirm(holds(answers, "```", "~~~"), judge, answers, prompt(pairs))


def truncated_output(
    pairs: pa.Table, min_words: Count = 20, min_last_line: Count = 25, min_unstopped: Count = 100
) -> pa.Array:
    """Drops answers that stop in the middle: after a word or a mark that can't be last, or in a long last paragraph.

    Lists, poems, letters, code and headings rightly end without a full stop; so a missing one counts only in a last
    line of at least `min_last_line` words, in an answer whose other sentences have theirs, and which is long: a
    generator's limit cuts long answers, while people leave a last full stop out, and extracts end where they end. A
    list's item counts if it holds several sentences and the item before it has its full stop. Words that may end a
    sentence, such as "with", need twice `min_words`, and a sentence before them in their line.

    Args:
        pairs (`pa.Table`): Pairs.
        min_words (`int`, *optional*, defaults to 20): Words an answer must have to be looked at.
        min_last_line (`int`, *optional*, defaults to 25): Words of the last line, when only the full stop is missing.
        min_unstopped (`int`, *optional*, defaults to 100): Words of the whole answer then.
    """
    answers, words = column(pairs, "answer"), pairs["words"].to_numpy()
    ends = pc.utf8_slice_codeunits(pc.utf8_rtrim_whitespace(answers), -60, 2**31 - 1)
    cut = words >= min_words
    chosen = ends.filter(pa.array(cut))
    cut[cut] = matches(chosen, DANGLING) | (matches(chosen, OPEN_MARK) & lacks(chosen, CLOSING))
    letter = (words >= min(RARE_FACTOR * min_words, min_unstopped)) & ~cut
    # Most answers end with a full stop and are done with; of the others ever fewer are read, and ever more of them.
    letter[letter] = matches(ends.filter(pa.array(letter)), ENDS_IN_LETTER)
    letter[letter] = lacks(ends.filter(pa.array(letter)), SIGNED)
    for where in (cut, letter):
        where[where] = lacks(answers.filter(pa.array(where)), CODE_ENDS)

    def judge(answer: str, size: int) -> str | None:
        lines = answer.rstrip().rsplit("\n", 6)
        last = lines[-1]
        before = next((line.rstrip() for line in reversed(lines[:-1]) if line.strip()), "")
        sentences, item = len(SENTENCE_END.findall(last)), ITEM.match(last) is not None
        ends = sentences > 2 and STOPPED.search(before) is not None if item else sentences > 0
        unstopped = size >= min_unstopped and ends and len(unicode_tokens(last)) >= min_last_line
        rare = size >= RARE_FACTOR * min_words and sentences and not item and RARELY_LAST.search(last[-60:])
        torn = size >= min_unstopped and "</" in answer and OPEN_TAG.search(last[-200:])
        return f"ends with {answer.rstrip()[-30:]!r}" if unstopped or rare or torn else None

    tails = pc.utf8_slice_codeunits(ends.filter(pa.array(cut)), -30, 2**31 - 1).to_pylist()
    found = spread(cut, [f"ends with {tail!r}" for tail in tails])
    return pc.coalesce(found, confirm(letter, judge, answers, column(pairs, "words")))
