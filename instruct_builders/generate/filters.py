"""Which generated texts are kept. A filter is a pure question: `None` to keep, else a key of [`REASONS`]."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

from ..transforms.novelty import unicode_tokens
from ..transforms.turns import NO_INPUT

# Why a generated text is not kept: the vocabulary of the yield report.
REASONS: dict[str, str] = {
    "too_short": "fewer words than min_words",
    "too_long": "more words than max_words",
    "blocked_word": "a word that says the task is none for a model that reads and writes text",
    "writes_program": "begins with `Write a program`",
    "first_punctuation": "begins with a punctuation mark",
    "first_not_ascii": "begins with a character beyond ASCII (ascii_first)",
    "similar": "ROUGE-L F, or cosine similarity, with an earlier instruction above the threshold",
    "torn": "no whole task could be read there",
    "truncated": "the answer was cut at the token limit and drop_truncated is set",
    "no_answer": "every attempt of the request failed; the account says why",
    "no_instance": "no instance could be read or was left",
    "same_input_output": "the output repeats the input",
    "empty_output": "an output without text, or N/A",
    "ends_with_colon": "input or output ends with a colon: something is missing",
    "conflict": "the same input with different outputs: the whole task is unreliable",
    "repeated": "the same input and output a second time",
    "surplus": "more instances than max_instances",
    "merged_rows": "a further numbered task inside of a field",
    "made_up_url": "an address in the output that neither instruction nor input names",
    "needs_internet": "an input that is nothing but an address",
    "media_link": "an input with an image or another medium behind a link",
    "control_character": "a control character",
    "no_evolution": "no evolved prompt was received",
    "leaked_words": "the evolved prompt speaks of the prompt that was to be rewritten",
    "unchanged": "the evolved prompt is the given one, but for case and blanks",
    "equal": "the judge found the evolved prompt equal to the given one",
    "no_verdict": "the judge gave no verdict that can be read",
    "sorry": "an answer of fewer than 80 words that says sorry",
    "only_stop_words": "an answer of punctuation and stop words alone",
    "human_review": "a person said no in the review file",
}
# What a model of text alone can't do, as published: Self-Instruct's words, and Alpaca's further ones.
SELF_INSTRUCT_WORDS = (
    *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps"),
    *("draw", "plot", "go to"),
)
ALPACA_WORDS = (*SELF_INSTRUCT_WORDS, "video", "audio", "music", "flowchart", "diagram")
SORRY_WORDS = 80
LEAKED = re.compile(r"(?:given|rewritten|created)[\s_]*prompt|prompt (?:rewriter|creator)", re.IGNORECASE)
URL = re.compile(r"(?:https?://|\bwww\.)[^\s<>\"')\]]+", re.IGNORECASE)
ONLY_URL = re.compile(rf"\s*(?:\w+:\s*)?<?{URL.pattern}>?\s*", re.IGNORECASE)
MEDIA = re.compile(
    r"!\[[^\]]*\]\(|https?://\S+\.(?:png|jpe?g|gif|svg|webp|bmp|mp[34]|wav|pdf)\b|<\s*(?:image|img|audio|video)\b",
    re.IGNORECASE,
)
MERGED = re.compile(r"\b\d{1,3}\s*\.\s*(?:Instruction|Input|Output)\s*:", re.IGNORECASE)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
NO_OUTPUT = re.compile(
    r"\s*[<(\[]?\s*(?:no[ _-]?output|n/?a|none|nan|null|not applicable)\s*[>)\]]?\s*\.?\s*", re.IGNORECASE
)
NO_INPUT_MARK = re.compile(NO_INPUT.replace(r"\z", r"\Z"))
# Words that say nothing by themselves.
STOP_WORDS = frozenset(
    "a about above after again all also am an and any are as at be because been before being below between both "
    "but by can could did do does doing down during each few for from further had has have having he her here "
    "hers herself him himself his how i if in into is it its itself just me more most my myself no nor not now of "
    "off on once only or other our ours ourselves out over own same she should so some such than that the their "
    "theirs them themselves then there these they this those through to too under until up very was we were what "
    "when where which while who whom why will with would you your yours yourself yourselves".split()
)


@dataclass(frozen=True)
class Filters:
    """What an instruction has to be. The published behaviour, without what were its defects.

    Args:
        min_words (`int`), max_words (`int`): Words between blanks; with `tokenizer="unicode"`, its tokens.
        blacklist (`tuple[str, ...]`): Words that may not occur, whatever their case.
        ascii_first (`bool`, *optional*, defaults to `False`): Drop what does not begin with an ASCII character, as
            published: English alone is left.
        tokenizer (`str`, *optional*, defaults to `"rouge"`): As in [`NoveltyIndex`].
        form (`bool`, *optional*, defaults to `True`): Whether there are also the rules about what stands first.
    """

    min_words: int = 4
    max_words: int = 150
    blacklist: tuple[str, ...] = SELF_INSTRUCT_WORDS
    ascii_first: bool = False
    tokenizer: str = "rouge"
    form: bool = True

    def instruction(self, text: str) -> str | None:
        """Why an instruction is not kept, similarity apart."""
        words = len(text.split() if self.tokenizer == "rouge" else unicode_tokens(text))
        if words < self.min_words:
            return "too_short"
        if words > self.max_words:
            return "too_long"
        if any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in self.blacklist):
            return "blocked_word"
        if self.form and text.startswith("Write a program"):
            return "writes_program"
        if self.form and text[0] in string.punctuation:
            return "first_punctuation"
        if self.ascii_first and not text[0].isascii():
            return "first_not_ascii"
        return "control_character" if CONTROL.search(text) else None


def without_marker(given: str) -> str:
    """The input, empty where it only says that there is none: `<noinput>`, `No input required.`, `N/A`, ..."""
    return "" if NO_INPUT_MARK.fullmatch(given) else given


def instance(given: str, output: str, form: bool = True) -> str | None:
    """Why one input and output of a task are not kept; without `form`, only what is no text, or none at all."""
    if not output.strip() or NO_OUTPUT.fullmatch(output):
        return "empty_output"
    if form and given == output:
        return "same_input_output"
    if form and (given.rstrip().endswith(":") or output.rstrip().endswith(":")):
        return "ends_with_colon"
    return "control_character" if CONTROL.search(given + output) else None


def row(instruction: str, given: str, output: str) -> str | None:
    """Why a row that was written in one go is not kept: the known defects of such data."""
    if MERGED.search(f"{instruction}\n{given}\n{output}"):
        return "merged_rows"
    if MEDIA.search(given):
        return "media_link"
    if ONLY_URL.fullmatch(given):
        return "needs_internet"
    if any(address not in instruction and address not in given for address in URL.findall(output)):
        return "made_up_url"
    return instance(given, output)


def evolution(given: str, evolved: str) -> str | None:
    """Elimination of an evolved prompt that needs no model: leaked words, and no change at all."""
    if not evolved.strip():
        return "no_evolution"
    if LEAKED.search(evolved) and not LEAKED.search(given):
        return "leaked_words"
    return "unchanged" if evolved.casefold().split() == given.casefold().split() else None


def answer(text: str) -> str | None:
    """Elimination of a row by its answer: an apology instead of one, or nothing said."""
    if "sorry" in text.lower() and len(text.split()) < SORRY_WORDS:
        return "sorry"
    words = re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())
    return "only_stop_words" if all(word in STOP_WORDS for word in words) else None
