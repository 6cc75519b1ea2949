"""Rows that lean on what a text-only model was not given: a page behind an address, a picture, a recording."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from .pairs import column, confirm, found, holds, matches, prompt
from .parameters import Count

URL = r"(?:https?://|\bwww\.)[^\s<>\"')\]]+"
ONLY_URL = rf"(?i)\A\s*(?:\w+\s*:\s*)?[<\[(]?{URL}[>\])]?\s*\z"
READS = (
    r"总结|概括|摘要|阅读|分析|这篇|文章|网页|要約|要点|요약|zusammen|fass\w* |lies |analysier|résum|lis |analyse"
    r"|resum|lee |analiza|обобщи|прочитай"
    r"|\b(?:summari[sz]e|summary|read|review|analy[sz]e|describe|explain|discuss|critique|paraphrase|outline|extract|"
    r"identify|answer|find|list|tell|main (?:idea|points?|topic)|key (?:points?|takeaways?)|what (?:is|does|are)|"
    r"who|according to|based on|from)\b"
)
PAGE = r"(?:article|page|web ?page|web ?site|site|link|url|post|story|paper|report|document|blog|news|video)"
# Of an address itself something may be asked: its form, its parts, code that fetches it.
ABOUT_ADDRESS = (
    r"(?i)\b(?:parse|domain|protocol|valid|malicious|phishing|encode|decode|shorten|regex|html|markdown|hyperlink|tag|"
    r"code|python|javascript|script|function|curl|fetch|api|request|css|path|query string|cite|citation|reference|"
    r"bibliography|mla|apa|components?|parts of|secure|convert|classify|categori[sz]e|rewrite|replace|subdomain|slug|"
    r"format|port|scheme|tld)\b"
)
CLAIMS = re.compile(
    r"\b(?:i(?:['’]ve| have)?(?: just)? (?:read|visited|accessed|browsed|opened|checked|looked at|reviewed|watched) "
    rf"(?:through )?(?:the|this|your|that)(?: \w+){{0,2}} {PAGE}\b"
    rf"|(?:according to|based on|after (?:reading|visiting|reviewing)) the (?:linked|{PAGE} you (?:provided|linked|"
    rf"shared|sent))|the {PAGE} (?:at|behind|under) (?:the |this |that )?(?:link|url|address|{URL}))",
    re.IGNORECASE,
)
CLAIMS_ANY = (
    r"(?i)\b(?:read|visited|accessed|browsed|opened|checked|looked at|reviewed|watched|linked|provided|shared|sent"
    r"|link|url|address)\b"
)
CANNOT = re.compile(
    r"can(?:no|['’])t|cannot|unable|not able|don['’]t have access|could not|couldn['’]t|无法|不能"
    r"|nicht|no puedo|ne peux"
)

KINDS = (
    r"(?:image|picture|photo|photograph|figure|diagram|chart|screenshot|infographic|painting|audio(?: clip| file)?|"
    r"recording|sound ?track|video(?: clip)?|clip|gif|drawing|illustration)"
)
# What can be described only by who sees or hears it; "the figure", "the drawing" may be many things.
SEEN = (
    r"(?:image|picture|photo|photograph|screenshot|infographic|painting|chart|diagram|audio(?: clip| file)?"
    r"|recording)s?(?=\s*(?:[.!?:;,\n]|\Z|and\b|in (?:detail|one|two|three|your|a few)\b))"
)
POINTS = re.compile(
    rf"(?:\A|[.!?:\n]\s{{0,9}}|\bplease )(?:describe|caption|analy[sz]e|transcribe|interpret|look at|study|examine)\s"
    rf"(?:what (?:is|you see|can be seen) (?:in|on) )?(?:the|this|that) {SEEN}"
    rf"|\b(?:(?:this|these|the (?:following|attached|above|below|given|provided|accompanying|uploaded|shown)) "
    rf"{KINDS}s?"
    rf"|(?:the|an?) {KINDS}s? (?:below|above|attached|provided|shown|given|i (?:sent|uploaded|attached))"
    rf"|listen to the (?:following |attached |audio |given )?{KINDS}s?"
    r"|in the (?:image|picture|photo|photograph)(?! of\b))\b(?![- ]?(?:games?|books?|frame|cards?|editor|editing|"
    r"processing|formats?|files? (?:type|format)|quality|of speech|of (?:the|a) (?:speech|company|world)"
    r"|stores?|theory|album))"
    r"|<\s*(?:image|img|audio|video)\s*>"
    r"|\[\s*(?:image|picture|photo|audio|video)\s*(?:\d+|attached|here|of [^\[\]\n]{1,60})?\s*\]"
    r"|这(?:张|幅)(?:图|照片|画)|(?<!以)(?:下|上|附)图(?!案|书)|以下(?:图片|图像|照片|音频|视频)"
    r"|这段(?:音频|视频|录音)|给定的?(?:图片|图像|照片)"
    r"|\b(?:dieses|folgende[sn]?|angehängte[sn]?|obige[sn]?) (?:bild|foto)e?s?\b"
    r"|\b(?:esta|la siguiente) (?:imagen|foto)\b"
    r"|\b(?:cette|la) (?:image|photo)(?: ci-dessous| suivante| jointe)\b"
    r"|\b(?:décri(?:s|vez)|beschreiben?(?: sie)?|describ[ea]|descreva|descrivi) "
    r"(?:cette |l['’]|das |dieses |la |esta |a |questa )(?:image|photo|bild|foto|imagen|imagem|immagine)"
    r"(?=\s*(?:[.!?:]|\Z))"
    r"|(?:この|次の|以下の)?(?:画像|写真)(?:を|について)(?:説明|描写)"
    r"|(?:이|다음) ?(?:사진|이미지)(?:을|를) ?(?:설명|묘사)"
    r"|опиши(?:те)? (?:это |эту |данную )?(?:изображение|картинку|фото\w*)",
    re.IGNORECASE,
)
POINTS_ANY = (
    r"(?i)image|picture|photo|figure|diagram|chart|screenshot|infographic|painting|audio|recording|sound ?track|video"
    r"|clip|gif|drawing|illustration|图|照片|视频|录音|音频|bild|foto|image|画像|写真|사진|이미지|изображение|картинку|фото|immagine"
)
MEDIA_FILE = rf"(?i){URL}\.(?:png|jpe?g|gif|svg|webp|bmp|mp[34]|wav|ogg|mov|avi)\b|\A\s*!\[[^\]]*\]\([^)]*\)\s*\z"
DESCRIBED = 12  # words beside an address or a marker: then the medium is there in words
LONG = 60  # words of an instruction that holds its own text: "this video" in it is a review's, "this figure" a number
WORDS = re.compile(r"[^\W\d_]+|\d+")
CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def _words(text: str) -> int:
    return len(WORDS.findall(re.sub(URL, " ", text))) + len(CJK.findall(text))


def url_claimed(pairs: pa.Table, max_words: Count = 60) -> pa.Array:
    """Drops answers that tell what stands behind an address, which no model of text alone has read.

    Either the prompt asks about a page and gives nothing but its address, and the answer does not say that it can't be
    opened; or the answer says that it was. Questions about an address itself pass, as do prompts that give the text.

    Args:
        pairs (`pa.Table`): Pairs.
        max_words (`int`, *optional*, defaults to 60): A prompt with more words beside the address holds the text.
    """
    asked, answers = prompt(pairs), column(pairs, "answer")
    asks = holds(asked, "http://", "https://", "www.", "HTTP", "WWW.")
    asks[asks] = matches(asked.filter(pa.array(asks)), f"(?i){URL}")
    # What is asked about is said outside the address: "report.html" is no question about HTML.
    outside = pc.replace_substring_regex(asked.filter(pa.array(asks)), f"(?i){URL}", " ")
    asks[asks] = matches(outside, f"(?i){READS}") & ~matches(outside, ABOUT_ADDRESS)

    def unread(question: str, answer: str) -> str | None:
        if _words(question) > max_words or _words(answer) < 8 or CANNOT.search(answer[:300]):
            return None
        return repr(re.search(URL, question, re.IGNORECASE)[0][:80])

    def claimed(question: str, answer: str) -> str | None:
        match = CLAIMS.search(answer)
        return repr(match[0][:80]) if match and _words(question) <= max_words else None

    details = confirm(asks, unread, asked, answers)
    rest = matches(answers, CLAIMS_ANY) & matches(asked, rf"(?i){URL}|\b{PAGE}\b") & details.is_null().to_numpy(False)
    first, second = details.to_pylist(), confirm(rest, claimed, asked, answers).to_pylist()
    return pa.array([a or b for a, b in zip(first, second, strict=True)], pa.string())


def media_reference(pairs: pa.Table) -> pa.Array:
    """Drops rows whose prompt points at a picture or a recording that is not there.

    Asking for a caption, for help with an image format or for a text about a picture passes, and so does a prompt that
    puts the medium into words: at least a dozen of them beside the pointer, or sixty in all.
    """
    asked, contexts = column(pairs, "instruction"), column(pairs, "context")
    answers = column(pairs, "answer")

    def judge(instruction: str, context: str, answer: str) -> str | None:
        match = POINTS.search(instruction) or POINTS.search(context)
        if match is None or CANNOT.search(answer[:200]) or _words(instruction) >= LONG:
            return None
        lines = instruction.split("\n")
        told = _words(context) + max(_words("\n".join(lines[1:])), _words(instruction.partition(":")[2]))
        return repr(match[0]) if told < DESCRIBED else None

    # What is nothing but a link to a medium can't have been looked at, whatever was asked.
    linked = found(contexts, MEDIA_FILE, matches(contexts, ONLY_URL) | matches(contexts, r"\A\s*!\["))
    pointed = confirm(
        matches(asked, POINTS_ANY) | matches(contexts, r"(?i)[<\[]\s*(?:image|img|picture|photo|audio|video)"),
        judge,
        asked,
        contexts,
        answers,
    )
    return pa.array([a or b for a, b in zip(linked.to_pylist(), pointed.to_pylist(), strict=True)], pa.string())
