"""What a generator or a parser left behind: empty answers, markers, merged rows, control characters."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from ..turns import NO_CONTEXT, NO_INPUT
from .pairs import column, confirm, found, holds, lacks, matches, prompt, spread

NOTHING = (
    r"(?i)\A[\s\pZ\pC]*(?:(?:output|answer|response|输出|回答)\s*[:：]\s*)?(?:\.{2,}|…+|\.|-{1,3}|—|\"\"|''|“”"
    r"|[<(\[（【]?\s*(?:#?n/a(?:\s*[(\[][^()\[\]]{0,40}[)\]])?|nan|null|undefined|no[ _-]?output|empty|placeholder"
    r"|not applicable|not available|todo|tbd|(?-i:NA)|(?:无|没有)(?:输出|答案|回答))\s*[>)\]）】]?\s*\.?"
    r"|[<(\[]\s*no[ _-]?(?:answer|response|text)\s*[>)\]])?[\s\pZ\pC]*\z"
)
ABOUT_NULL = re.compile(r"\b(?:json|sql|java|javascript|code|value|type|pointer|function|hypothesis)\b", re.IGNORECASE)
# An answer without any letter may be the sign, the empty text or the line of code that was asked for.
ABOUT_SIGNS = re.compile(
    r"punctuat|\b(?:signs?|symbols?|marks?|characters?|operators?|morse|delimit\w*|hyphens?|dash\w*|separators?|strings?"
    r"|empty|quot\w+|syntax|return\w*|print\w*|period|stop|zeichen|satzzeichen)\b|符号|标点|空|返回|打印",
    re.IGNORECASE,
)
ABOUT_NA = re.compile(
    r"sodium|chemi|symbol|abbrev|acronym|stand for|element|countr|continent|code|钠|化学", re.IGNORECASE
)
MARKER = r"(?i)[<\[]\s*no[ _-]?(?:input|output)\s*[>\]]|[<\[（【(]\s*(?:无|没有|无需|不需要)(?:输入|输出)\s*[>\])）】]"
# "12. Instruction:", wherever it stands, or as a line of its own without the colon.
WORD_FOR_TASK = r"(?:Instruction|Anweisung|Aufgabe|Instrucción|Instrução|Istruzione|指令)"
NUMBERED_FORM = r"(?:^|[^\w.])(?P<number>\d{1,2})\s{0,3}\.\s{0,3}" + WORD_FOR_TASK + r"\s{0,3}(?:[:：]|\r?\n(?=\S))"
NUMBERED = re.compile(NUMBERED_FORM, re.IGNORECASE | re.MULTILINE)
NUMBERED_LIKELY = rf"(?i)\d\s*\.\s*{WORD_FOR_TASK}\s*[:：\r\n]"
# Strings of which one stands in every heading, or before every turn of a chat: cheap to look for.
HEADING_PARTS = ("nstru", "NSTRU", "nweisung", "ufgabe", "struzione", "指令")
MARK_PARTS = ("</s>", "|>", "###", "_turn>")
ROLE_PARTS = ("Human:", "User:", "Question:", "HUMAN:", "USER:", "human:", "user:")
# Both headings of a task at the beginning of lines.
HEADINGS = (
    rf"(?is)(?:\A|\n)[#*\s]*{WORD_FOR_TASK}\s*\**\s?[:：].*\n[#*\s]*(?:Output|Response|Answer|输出|Ausgabe|Antwort"
    r"|Réponse|Sortie|Respuesta|Salida|Resposta|Risposta)\s*\**\s?[:：]"
)
RESULT = re.compile(r"\n\s{0,9}(?:\d{1,2}\s?\.\s?)?(?:Input|Output|Eingabe|Ausgabe|输入|输出)\s?[:：]", re.IGNORECASE)
# In a question: the task and what belongs to it, with their number.
BOTH_NUMBERED = (
    rf"(?is)\d\s*\.\s*{WORD_FOR_TASK}\s*[:：\r\n].*\n\s*(?:\d{{1,2}}\s*\.\s*)?"
    r"(?:Input|Output|Eingabe|Ausgabe|输入|输出)\s*[:：]"
)
# A chat goes on behind the answer: its roles, or the marks that end a turn and begin the next.
ROLES = re.compile(
    r"\n\s{0,9}(?P<hit>(?:Human|User|Question)\s{0,3}:[^\n]{1,2000}\n\s{0,9}(?:Assistant|AI|Answer)\s{0,3}:)",
    re.IGNORECASE,
)
MARKS = (
    r"(?:</s>|<\|(?:endoftext|im_end|eot_id|end|end_of_turn)\|>|<end_of_turn>)\s*(?:#+\s*\pL|<\|(?:im_start|user"
    r"|system|start_header_id)|<s>|\[INST\]|<start_of_turn>|(?:Human|User|USER|Q|Instruction)\s*:)|\n###\s*Instruction\s*:"
)
ABOUT_TASKS = (
    r"(?i)\binstruction\s*:|指令\s*[:：]|\balpaca\b|fine-?tun|\bdata ?sets?\b|training data|prompt|template|token"
)
ABOUT_TALK = re.compile(
    r"dialog|conversation|\bchat|script|role-?play|interview|transcript|\bq ?& ?a\b|faq|quiz|assistant\s*:|human\s*:"
    r"|user|question|story|scene|对话|聊天",
    re.IGNORECASE,
)
# All but tab and the line ends; a half-read character; marks that turn the direction of what follows.
CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x{80}-\x{9f}\x{fffd}\x{202d}\x{202e}]"


def empty_output(pairs: pa.Table) -> pa.Array:
    """Drops answers without text, or that only say that there is none: `N/A`, `null`, `<nooutput>`, `...`, `-`.

    `None` and `无` are left: both are answers. So are a marker that the prompt itself speaks of, `NA` where sodium or
    an abbreviation may be meant, a sign where signs are asked for, and "Not available" of what the context lacks.
    """
    answers = column(pairs, "answer")

    def judge(answer: str, asked: str, context: str) -> str | None:
        said = answer.strip().strip("<>[]().…#").strip().lower()
        if not any(character.isalpha() for character in said):
            excused = len(answer.strip()) > 0 and ABOUT_SIGNS.search(asked) is not None and set(said) != {"."}
        else:
            excused = re.search(rf"(?<!\w){re.escape(said)}(?!\w)", asked, re.IGNORECASE) is not None or (
                said == "null" and ABOUT_NULL.search(asked) is not None
            )
            excused |= said == "na" and ABOUT_NA.search(asked) is not None
            excused |= said == "not available" and context != ""
        return None if excused else repr(answer[:20])

    return confirm(matches(answers, NOTHING), judge, answers, prompt(pairs), column(pairs, "context"))


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
    given = column(pairs, "context")
    return pc.coalesce(details, *[found(given, pattern) for pattern in (NO_INPUT, NO_CONTEXT, MARKER)])


def merged_rows(pairs: pa.Table) -> pa.Array:
    """Drops rows in which a further task begins, such as `12. Instruction:`, or the chat goes on behind the answer.

    A prompt that speaks of such forms excuses them (data sets, templates; dialogues for the roles of a chat), and so
    does a list whose item before, or the first, it is: "1. Instruction: explain the rule. 2. Practice: ...".
    """
    asked, answers = prompt(pairs), column(pairs, "answer")

    def numbered(text: str) -> str | None:
        for match in NUMBERED.finditer(text):
            number, before = int(match["number"]), text[max(0, match.start() - 3000) : match.start()]
            goes_on = re.search(
                rf"(?:^|\s){number - 1}\s?\.\s{{0,3}}[*_]{{0,2}}\w[\w -]{{0,30}}[*_]{{0,2}}[:：]", before
            )
            if number > 1 and not (goes_on and not RESULT.search(text, match.end(), match.end() + 3000)):
                return repr(match[0].strip()[:80])
        return None

    def chat(answer: str, asked: str) -> str | None:
        match = ROLES.search(answer)
        excused = match is None or ABOUT_TALK.search(asked) or re.match(r"\W{0,9}\w{1,20} ?[:：]", answer)
        return None if excused else repr(match["hit"][:80])

    free, numbers = holds(answers, *HEADING_PARTS, *ROLE_PARTS, *MARK_PARTS), holds(asked, *HEADING_PARTS)
    free[free] = lacks(asked.filter(pa.array(free)), ABOUT_TASKS)
    numbers[numbers] = matches(asked.filter(pa.array(numbers)), BOTH_NUMBERED)
    chosen = answers.filter(pa.array(free))
    merged = pc.coalesce(
        confirm(matches(chosen, NUMBERED_LIKELY), numbered, chosen),
        found(chosen, HEADINGS),
        found(chosen, MARKS),
        confirm(holds(chosen, *ROLE_PARTS), chat, chosen, asked.filter(pa.array(free))),
    )
    return pc.coalesce(spread(free, merged.to_pylist()), confirm(numbers, numbered, asked))


def control_character(pairs: pa.Table) -> pa.Array:
    """Drops rows with a control character other than tab and line end, U+FFFD, or an override of the direction.

    What scripts and emoji need passes: joiners, soft hyphens, left-to-right and right-to-left marks.
    """
    return pc.coalesce(*[found(column(pairs, name), CONTROL) for name in ("instruction", "context", "answer")])
