"""Mail addresses in a text. What holds an @ in code, such as `y = W@x.mean()`, is none."""

from __future__ import annotations

import re
from collections.abc import Iterator

# The two-letter domains of the IANA root zone, and of its others those in wide use for mail.
COUNTRIES = frozenset(
    "ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw by bz ca "
    "cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo "
    "fr ga gb gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it "
    "je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn "
    "mo mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps "
    "pt pw py qa re ro rs ru rw sa sb sc sd se sg sh si sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj "
    "tk tl tm tn to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw".split()
)
COMMON = frozenset("com net org edu gov mil".split())
OTHERS = frozenset(
    "int info biz name pro aero coop museum jobs mobi travel asia cat tel post app dev xyz online site shop store "
    "tech club blog cloud email live news media agency digital space website page world life today team top".split()
)
DOMAINS = COUNTRIES | COMMON | OTHERS
FILES = ("py", "sh")  # endings of files as well: an address there has a further label, such as .com.py
NUMBERED = ("163", "126", "139", "188", "189", "263")  # the Chinese providers whose names are numbers
# Names that are reserved for examples (RFC 2606), and the user names of version control.
RESERVED = re.compile(r"(?i)@(?:[\w.-]+\.)?(?:example|test|invalid|localhost)(?:\.\w+)?\Z|\A(?:git|svn|hg)@")
LIKELY = r"[^ \t\n@]@[^ \t\n@]"  # for RE2, over whole columns: too much and never too little

LATIN = "A-Za-z0-9\u00c0-\u024f"  # no other scripts: where those write no spaces, a word would go with the address
# 64 and 63 characters are the limits of RFC 5321 and 1035.
FORM = (
    rf"[._%+\-]*+([{LATIN}][{LATIN}._%+\-]{{0,63}})@((?:[{LATIN}\-]{{1,63}}\.){{1,8}})([A-Za-z]{{2,24}})"
    rf"(?![{LATIN}_@(\[]|[.\-][a-z0-9])"
)
FIRST = re.compile(rf"(?<![{LATIN}._%+\-@]){FORM}")  # a run of such characters is tried from its beginning alone
NEXT = re.compile(FORM)  # right after another one, as in x@y.org+z@y.org


def emails(text: str) -> Iterator[tuple[int, int]]:
    """Where mail addresses stand in a text: begin and end, in order."""
    match = FIRST.search(text)
    while match:
        end = _end(match)
        if end and not RESERVED.search(text[match.start(1) : end]):
            yield match.start(1), end
            match = NEXT.match(text, end) or FIRST.search(text, end)
        else:
            match = FIRST.search(text, match.end())


def _end(match: re.Match) -> int | None:
    labels, domain, end = match[2].rstrip(".").split("."), match[3], match.end()
    if domain.istitle() and domain.lower() not in DOMAINS and len(labels) > 1:  # "x@y.org.Thanks": a new sentence
        domain, end = labels.pop(), match.start(3) - 1
    return end if _is_domain(labels, domain.lower()) else None


def _is_domain(labels: list[str], domain: str) -> bool:
    name = labels[-1]
    if domain not in DOMAINS or any(label.startswith("-") or label.endswith("-") for label in labels):
        return False
    if domain in FILES and len(labels) < 2:
        return False
    if len(name) == 1 and domain not in COMMON:  # more often `a@b.to` of a program
        return False
    return name in NUMBERED or not name.isdigit()
