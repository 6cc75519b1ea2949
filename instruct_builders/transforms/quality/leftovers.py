"""What a generator or a parser left behind: empty answers, markers, merged rows, control characters, cut ends."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from ..turns import NO_INPUT
from .pairs import column, confirm, found, lacks, matches, prompt, spread, units

NOTHING = (
    r"(?i)\A[\s\pZ\pC]*(?:\.{2,}|…+|[<(\[]?\s*(?:n/a|nan|null|undefined|no[ _-]?output|empty|placeholder"
    r"|not applicable)\s*[>)\]]?\s*\.?)?[\s\pZ\pC]*\z"
)
ABOUT_NULL = re.compile(r"\b(?:json|sql|java|javascript|code|value|type|pointer|function|hypothesis)\b", re.IGNORECASE)
MARKER = r"(?i)[<\[]\s*no[ _-]?(?:input|output)\s*[>\]]"
# "Instruction:" behind a number, or both headings of a task at the beginning of lines.
NUMBERED = r"(?i)(?:^|[^\pL\pN.])\d{1,2}\s*\.\s*(?:Instruction|Anweisung|Instrucción|Instruction|指令)\s*[:：]"
HEADINGS = r"(?is)(?:\A|\n)[#*\s]*(?:Instruction|指令)\s*\**[:：].*\n[#*\s]*(?:Output|Response|Answer|输出)\s*\**[:：]"
# All but tab and the line ends; a half-read character; marks that turn the direction of what follows.
CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x{80}-\x{9f}\x{fffd}\x{202d}\x{202e}]"
FENCE = re.compile(r"[ \t>*\-]*(`{3,}|~{3,})[ \t]*([^`\n]*)")

# Words that end no sentence, in small letters, or a mark that something follows.
DANGLING = (
    r"[\pL\pN,;:][ \n]+(?:the|a|an|and|or|of|but|because|their|its|than|whose|und|oder|der|ein|eine|weil|que|los|las"
    r"|und|et|les|des|une|della|degli|perché|и|или|что)\s*\z"
)
OPEN_MARK = r"(?:[(\[{,;，、；（]|[^\s:：]\s*[:：])\s*\z"
SIGNED = r"(?:#[\pL\pN_]+|[-–—~]+\s?\p{Lu}[^\n!?]{1,40})\s*\z"  # a hashtag, or who said it
CLOSING = r"(?i)\n[^\n.!?]{1,40},\s*\z"  # "Best regards," as the last line of a letter
ENDS_IN_LETTER = r"[\pL]\s*\z"
SENTENCE_END = r"[.!?。！？][\"”’)\]*]*(?:\s|\z)|[。！？]"


def empty_output(pairs: pa.Table) -> pa.Array:
    """Drops answers without text, or that only say that there is none: `N/A`, `null`, `<nooutput>`, `...`.

    `None` and `NA` are left: both are answers. So is a marker that the prompt itself speaks of.
    """
    answers = column(pairs, "answer")

    def judge(answer: str, asked: str) -> str | None:
        said = answer.strip().strip("<>[]().…").strip().lower()
        own_word = said == "null" and ABOUT_NULL.search(asked) is not None
        return None if said and (said in asked.lower() or own_word) else repr(answer[:20])

    return confirm(matches(answers, NOTHING), judge, answers, prompt(pairs))


def no_input_marker(pairs: pa.Table, context: bool = True) -> pa.Array:
    """Drops rows in which `<noinput>` or a variant of it stands where text belongs.

    The transform `no_input_markers` repairs a context that is nothing else; run it first to keep such rows.

    Args:
        pairs (`pa.Table`): Pairs.
        context (`bool`, *optional*, defaults to `True`): Whether a context that only says that there is none counts.
    """
    details = pc.coalesce(found(column(pairs, "instruction"), MARKER), found(column(pairs, "answer"), MARKER))
    if not context:
        return details
    return pc.coalesce(details, found(column(pairs, "context"), NO_INPUT), found(column(pairs, "context"), MARKER))


def merged_rows(pairs: pa.Table) -> pa.Array:
    """Drops answers in which a further task begins, such as `12. Instruction:`, unless the prompt has that form."""
    answers, own = column(pairs, "answer"), lacks(prompt(pairs), r"(?i)instruction\s*:|指令\s*[:：]")
    return pc.coalesce(found(answers, NUMBERED, own), found(answers, HEADINGS, own))


def control_character(pairs: pa.Table) -> pa.Array:
    """Drops rows with a control character other than tab and line end, U+FFFD, or an override of the direction.

    What scripts and emoji need passes: joiners, soft hyphens, left-to-right and right-to-left marks.
    """
    return pc.coalesce(*[found(column(pairs, name), CONTROL) for name in ("instruction", "context", "answer")])


def open_code_fence(pairs: pa.Table) -> pa.Array:
    """Drops answers with a code fence that is never closed. Python reads only answers in which a line is a fence."""
    answers = column(pairs, "answer")

    def judge(answer: str) -> str | None:
        fence = line_number = None
        for number, line in enumerate(answer.split("\n"), start=1):
            match = FENCE.fullmatch(line.rstrip())
            if match is None:
                continue
            if fence is None:
                fence, line_number = match[1], number
            elif match[1].startswith(fence) and not match[2]:
                fence = None
        return None if fence is None else f"line {line_number} of the answer opens it"

    return confirm(matches(answers, r"(?m)^[ \t>*\-]*(?:```|~~~)"), judge, answers)


def truncated_output(
    pairs: pa.Table, min_words: int = 20, min_last_line: int = 25, min_unstopped: int = 100
) -> pa.Array:
    """Drops answers that stop in the middle: after a word or a mark that can't be last, or in a long last paragraph.

    Lists, poems, letters, code and headings rightly end without a full stop; so a missing one counts only in a last
    line of at least `min_last_line` words, in an answer whose other sentences have theirs, and which is long: a
    generator's limit cuts long answers, while people leave a last full stop out, and extracts end where they end.

    Args:
        pairs (`pa.Table`): Pairs.
        min_words (`int`, *optional*, defaults to 20): Words an answer must have to be looked at.
        min_last_line (`int`, *optional*, defaults to 25): Words of the last line, when only the full stop is missing.
        min_unstopped (`int`, *optional*, defaults to 100): Words of the whole answer then.
    """
    answers, words = column(pairs, "answer"), pairs["words"].to_numpy()
    ends = pc.utf8_slice_codeunits(pc.utf8_rtrim_whitespace(answers), -60, 2**31 - 1)
    cut = matches(ends, DANGLING) | (matches(ends, OPEN_MARK) & lacks(ends, CLOSING))
    letter = matches(ends, ENDS_IN_LETTER) & lacks(ends, SIGNED) & ~cut
    # Most answers end with a full stop and are done with; the others are read whole.
    cut, letter = (where & (words >= least) for where, least in ((cut, min_words), (letter, min_unstopped)))
    for where in (cut, letter):
        where[where] = lacks(answers.filter(pa.array(where)), r"```|~~~|[{};]\s*\z|</\w+>\s*\z")
    last = pc.replace_substring_regex(answers.filter(pa.array(letter)), r"(?s)\A.*\n", "")
    prose = matches(last, SENTENCE_END) & lacks(last, r"\A\s*(?:[-*•|>#]|\(?\d{1,3}[.):]|\(?[a-zA-Z][.)]\s)")
    letter[letter] = prose & (units(last) >= min_last_line)
    cut |= letter
    tails = pc.utf8_slice_codeunits(ends.filter(pa.array(cut)), -30, 2**31 - 1).to_pylist()
    return spread(cut, [f"ends with {tail!r}" for tail in tails])
