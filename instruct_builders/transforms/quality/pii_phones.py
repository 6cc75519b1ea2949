"""Phone numbers in a text, valid for their country.

With phonenumbers (the optional extra `pii`) a number is one that its country gives out; without it, one that has the
form, as [`used`] says. A number that begins with + or 00 is looked for everywhere, and so are the forms of North
America and of Chinese mobile phones that nothing else has. Other national numbers look like any number: they count
after a word for a phone, and with `regions` wherever they are grouped as numbers are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from types import ModuleType

from ...errors import ConfigError, did_you_mean

# Whose national numbers are looked for after a word for a phone: written with nine digits or more.
REGIONS = (
    *("US", "GB", "DE", "FR", "ES", "IT", "NL", "BE", "CH", "AT", "PT", "PL", "SE", "TR", "RU", "UA", "IL", "EG"),
    *("CN", "JP", "KR", "TW", "IN", "ID", "TH", "VN", "BR", "MX", "AR", "CO", "ZA", "NG", "AU", "NZ"),
)
GAP = r"[ .\-/()\u00a0\u2010-\u2013]{0,2}"
# Digits in groups, as long as they go on: a table of numbers is one run. A number begins with one of its groups.
RUN = re.compile(rf"(?<![A-Za-z0-9_\u00c0-\u024f])(?:[+＋]\(?|\(?)\d(?:{GAP}\d){{6,}}+")
GROUP = re.compile(r"[+＋]?\(?(\d)\d*")
NO_START = re.compile(r"[.,+\-/@#$€£¥^*\u2010-\u2013]")  # before a number; before one with a +, a stroke is none
NO_END = re.compile(r"[A-Za-z0-9_+＋@%€$£]|[.,\-/\u2010-\u2013]\d")
AMERICAN = r"(?:1[ \-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[.\-])[2-9]\d{2}[.\- ]\d{4}"
CHINESE = r"1[3-9]\d-\d{4}-\d{4}"
PLAIN = re.compile(rf"({AMERICAN})|{CHINESE}")
THOUSANDS = re.compile(r"[+＋]?\d{1,3}([ .])\d{3}(?:\1\d{3})+")
# A date, an IP address, a decimal fraction with its sign.
NO_PHONE = re.compile(r"(?:19|20)\d\d([ .\-/])\d{1,2}\1\d{1,2}(?!\d)|(?:\d{1,3}\.){3}\d{1,3}\Z|[+＋]\d+\.\d+(?![.\d])")
FICTIONAL = re.compile(r"555[.\- ]?01\d\d\Z")  # kept free for films and examples in North America
# Country codes of ITU-T E.164.
CODE = re.compile(
    r"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|(?:2[1-689]|3[578]|42|5[09]|6[7-9]|8[058]|9[679])\d"
)
WORDS = (
    r"\b(?:(?:tele)?phones?|tel|mobile|mob|cell(?:phone)?|fax|call(?:ing)?|dial|text|sms|whats ?app|hotline|helpline|"
    r"(?:contact|reach)(?: (?:me|us|him|her|them))?|ring (?:me|us|him|her|them)|(?:my|your|his|her|our|their) number|"
    r"tele[fp]h?[oó]n[eo]?|tél(?:éphone)?|telefonnummer|rufnummer|handy(?:nummer)?|mobil|anrufen|appelez|portable|"
    r"móvil|celular|llam[ae]|cellulare|chiam[ai]|telefone|ligue|telefoon|zadzwoń|телефон|тел|моб|звоните)\b|[☎☏📞📱]|"
    "电话|電話|手机|手機|致电|拨打|热线|传真|联系方式|携帯|전화|휴대폰|핸드폰|هاتف|جوال|फ़ोन|फोन|मोबाइल|"
    "điện thoại|טלפון|โทร"
)
LINKS = (
    r"numbers?|num(?:mer|éro|ero)?|número|nomor|номер|n[or°º]|is|are|was|me|us|on|at|to|via|the|now|today|please|home|work|"
    r"le|la|el|office|mobile|toll|free|hotline|line|ist|unter|sur|au|al|est|es|or|and|oder|und|ou|et|y|e|o|или|"
    "号码|號碼|号|是|为|為|番号|は|或|和|번호|는"
)
_LINKED = rf"(?:[^\w\0]{{0,3}}(?:{LINKS})){{0,4}}[^\w\0]{{0,4}}(?=\d)"
SPOKEN = re.compile(rf"(?i)(?:{WORDS}){_LINKED}")
REACH = 60  # characters after a number in which the next one may be linked to it
NEXT = re.compile(rf"(?i)\]{_LINKED}")  # after a number: as if its placeholder, [PHONE], stood there already

_DIGIT = r"(?:[ .\-/()\x{a0}\x{2010}-\x{2013}]{0,2}\p{Nd})"


def likely(regions: Sequence[str] | None) -> str:
    """For RE2, over whole columns: finds too much and never too little."""
    spoken = rf"(?is:(?:{WORDS.replace(chr(92) + 'b', '')}).*)\p{{Nd}}{_DIGIT}{{6}}"
    forms = [rf"[+＋]\(?\p{{Nd}}{_DIGIT}{{6}}", AMERICAN, CHINESE, rf"00[1-9]{_DIGIT}{{6}}", spoken]
    return "|".join(forms if regions is None else [*forms, rf"\p{{Nd}}{_DIGIT}{{6}}"])


@cache
def library() -> ModuleType | None:
    try:
        import phonenumbers
    except ImportError:
        return None
    return phonenumbers


def used() -> str:
    """What tells a phone number from other numbers here, for the account."""
    found = library()
    return (
        f"phonenumbers {found.__version__}" if found else 'its form (pip install "instruct-builders[pii]" knows more)'
    )


def check_regions(regions: object) -> None:
    """Raises a [`ConfigError`] where `regions` is no list of countries, or what knows their numbers is missing."""
    known = library()
    if known is None:
        raise ConfigError(
            'pii: regions: needs phonenumbers, which is not installed. Do: pip install "instruct-builders[pii]"'
        )
    if not isinstance(regions, list | tuple) or not regions:
        raise ConfigError(f"pii: regions: {regions!r} is given; give a list of countries such as [US, DE].")
    for region in regions:
        if not isinstance(region, str) or region not in known.SUPPORTED_REGIONS:
            hint = did_you_mean(str(region).upper(), known.SUPPORTED_REGIONS)
            norway = ' (YAML reads a bare NO as a truth value: write "NO")' if region is False else ""
            raise ConfigError(f"pii: regions: {region!r} is no country such as US or DE{norway}.{hint}")


def phones(text: str, regions: Sequence[str] | None = None) -> Iterator[tuple[int, int]]:
    """Where phone numbers stand in a text: begin and end, in order."""
    spoken = {match.end() for match in SPOKEN.finditer(text)}  # where a digit follows a word for a phone
    for run in RUN.finditer(text):
        groups, position = list(GROUP.finditer(text, *run.span())), run.start()
        for number, group in enumerate(groups):
            if group.start() < position:
                continue
            end = _end(text, groups[number : number + 14], group.start(1) in spoken, regions)
            if end is None:
                continue
            yield group.start(), end
            position = end
            if follower := NEXT.match(f"]{text[end : end + REACH]}"):
                spoken.add(end + follower.end() - 1)


def _end(text: str, groups: Sequence[re.Match], spoken: bool, regions: Sequence[str] | None) -> int | None:
    """Where the number ends that begins with the first of these groups; `None` where none does."""
    begin = groups[0].start()
    before = text[begin - 1 : begin]
    if NO_START.match(before) and not (before == "/" and text[begin] in "+＋"):
        return None
    plain = PLAIN.match(text, begin)
    if plain and not NO_END.match(text, plain.end()) and not FICTIONAL.search(plain[0]):
        if _checked()(plain[0], "US" if plain[1] else "CN"):
            return plain.end()
    international = text[begin] in "+＋" or text.startswith("00", begin)
    if not (international or spoken or regions):
        return None
    ends, digits = [], 0
    for group in groups:
        digits += sum(map(str.isdigit, group[0]))
        if 8 <= digits <= 17 and not NO_END.match(text, group.end()):
            ends.append(group.end())
    return next((end for end in ends[:-6:-1] if _is_phone(text[begin:end], spoken, regions)), None)


def _is_phone(found: str, spoken: bool, regions: Sequence[str] | None) -> bool:
    digits, check = re.sub(r"\D", "", found), _checked()
    if NO_PHONE.match(found) or FICTIONAL.search(found):
        return False
    if not spoken and (_is_counting(digits) or (THOUSANDS.fullmatch(found) and digits.endswith("000"))):
        return False
    if found[0] in "+＋":
        return check(f"+{found[1:]}", None)
    if digits.startswith("00"):
        return (spoken or found != digits) and check(f"+{found[2:]}", None)
    if not 9 <= len(digits) <= 13 or not (spoken or (found != digits and not THOUSANDS.fullmatch(found))):
        return False
    if spoken:
        return any(check(found, region) for region in regions or REGIONS)
    return any(check(found, region) and _is_grouped(found, region) for region in regions or ())


def _checked() -> Callable[[str, str | None], bool]:
    return _given_out if library() else _has_the_form


def _is_counting(digits: str) -> bool:
    """1234567890 and the like, with or without a country code's 1 before it: a stand-in for a number."""
    return any({(int(b) - int(a)) % 10 for a, b in pairwise(part)} in ({0}, {1}, {9}) for part in (digits, digits[1:]))


@lru_cache(maxsize=4096)
def _given_out(found: str, region: str | None) -> bool:
    """Whether phonenumbers knows the number as one that the country gives out."""
    known = library()
    try:
        number = known.parse(found, region)
    except known.NumberParseException:
        return False
    if not known.is_valid_number(number):
        return False
    if region is None:
        return True
    digits = known.normalize_digits_only(found)
    national = re.sub(r"\D", "", known.format_number(number, known.PhoneNumberFormat.NATIONAL))
    short = known.national_significant_number(number)
    # As the country writes it, its 0 in front; without, or with the country's code, where it is long enough to tell.
    return digits == national or (len(short) >= 10 and digits in (short, f"{number.country_code}{short}"))


def _is_grouped(found: str, region: str) -> bool:
    """Whether the digits stand in the groups in which the country writes them."""
    known = library()
    national = known.format_number(known.parse(found, region), known.PhoneNumberFormat.NATIONAL)
    return re.findall(r"\d+", found) == re.findall(r"\d+", national)


def _has_the_form(found: str, region: str | None) -> bool:
    """What can be known without phonenumbers."""
    digits = re.sub(r"\D", "", found)
    if region is None:
        code = CODE.match(digits)
        national = re.sub(r"\D", "", found.replace("(0)", ""))[code.end() :] if code else ""
        if not code or (national[:1] == "0" and code[0] != "39"):  # Italy keeps its 0
            return False
        return _is_american(national) if code[0] == "1" else len(national) >= 7 and len(digits) <= 15
    if region == "US":
        return _is_american(digits.removeprefix("1") if len(digits) == 11 else digits)
    if region == "CN":
        return re.fullmatch(r"1[3-9]\d{9}|0[1-9]\d{8,10}", digits) is not None
    return re.fullmatch(r"0[1-9]\d{7,9}", digits) is not None


def _is_american(digits: str) -> bool:
    """Area code and exchange of the North American plan: neither begins with 0 or 1, nor ends in 11."""
    return re.fullmatch(r"(?:[2-9](?!11)\d\d){2}\d{4}", digits) is not None
