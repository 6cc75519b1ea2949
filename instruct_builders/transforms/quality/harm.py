"""Harm by category: whole words of doing and of what is done, near one another; no substrings.

A single word says little ("drug", "kill", "bomb" stand in recipes, manuals and history), so a category is found where
someone makes, gets or uses its object, or in a phrase that has no harmless reading. It is a sieve for what nobody
wants in instruction data and no judge: subtle harm needs the toxicity hook or a judging model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from ...errors import ConfigError, did_you_mean
from .pairs import column, confirm, matches

MAKE = "make|making|build|building|construct|constructing|assemble|assembling|create|creating|produce|producing"
GET = "buy|buying|obtain|obtaining|acquire|acquiring|sell|selling|smuggle|smuggling"
COOK = "cook|cooking|synthesi[sz]e|synthesi[sz]ing|manufacture|manufacturing|brew|brewing"
WRITE = "write|writing|code|coding|develop|developing|deploy|deploying|spread|spreading|install|installing"

# Category -> (what is done, to what), both as whole words with at most five words between, and phrases for themselves.
CATEGORIES: dict[str, dict[str, str]] = {
    "weapons": {
        "do": f"{MAKE}|detonate|detonating|plant|planting",
        "what": r"(?:pipe |nail |car |dirty |homemade |petrol |fertili[sz]er )?bombs?|explosives?|explosive devices?"
        r"|ieds?|molotov(?: cocktails?)?|grenades?|ghost guns?|nerve (?:gas|agents?)|sarin|silencers?",
        "phrases": r"制造炸弹|制作炸弹|自制炸弹|制造炸药|爆弾の作り方|爆弾を作|폭탄(?:을)? 만드|(?:صنع|أصنع"
        r"|نصنع) (?:قنبلة|متفجرات)|बम बनाने"
        r"|bomben? (?:zu )?bauen|(?:baue|bastle|baut man|bastelt man)(?: ich)? (?:eine )?bomben?|eine bombe bauen"
        r"|sprengstoff herstellen|(?:fabricar|hacer|construir) una bomba"
        r"|fabriquer (?:une bombe|des explosifs)|(?:fazer|fabricar) uma bomba|(?:costruire|fabbricare) una bomba"
        r"|(?:сделать|собрать|изготовить) (?:бомбу|взрывчатку)|zbudować bombę|bomba yap(?:ımı|mak)",
    },
    "drugs": {
        "do": f"{MAKE}|{COOK}|{GET}",
        "what": r"(?:crystal )?meth|methamphetamines?|heroin|crack cocaine|cocaine|fentanyl|mdma|lsd|ecstasy pills",
        "phrases": r"合成冰毒|制造冰毒|制毒方法|(?:sintetizar|fabricar|cocinar) metanfetamina|crystal meth herstellen"
        r"|fabriquer de la méthamphétamine|(?:синтезировать|сварить) (?:метамфетамин|мет)\b|(?:produrre|sintetizzare)"
        r" metanfetamina",
    },
    "hacking": {
        "do": f"{MAKE}|{WRITE}|launch|launching",
        "what": r"ransomware|malware|keyloggers?|computer (?:virus|viruses|worms?)|trojans?|botnets?|ddos attacks?"
        r"|phishing (?:e-?mails?|pages?|sites?)|spyware|credit card skimmers?",
        "phrases": r"hack into (?:someone|somebody|his|her|their|a person|my (?:ex|neighbou?r))[^.\n]{0,40}"
        r"|hack (?:into )?(?:(?:my |his |her |their |your )(?:ex(?:-\w+)?|girlfriend|boyfriend|wife|husband|partner"
        r"|friend"
        r"|neighbou?r|boss|teacher|co-?worker)|someone(?: else)?|somebody)['’]s (?:\w+ )?(?:instagram|facebook|e-?mail"
        r"|phone|snapchat|whatsapp|accounts?|wi-?fi|computer|laptop)"
        r"|steal (?:someone|somebody)(?:['’]s)? (?:identity|passwords?|credit card)"
        r"|(?:编写|制作)(?:勒索软件|木马|病毒程序)|盗取(?:他人)?(?:密码|账号)"
        r"|schadsoftware (?:schreiben|programmieren)"
        r"|(?:crear|escribir) (?:un )?(?:ransomware|malware)|(?:créer|écrire) un (?:rançongiciel|logiciel malveillant)"
        r"|написать (?:вирус|вымогатель)",
    },
    "self_harm": {
        "phrases": r"(?:you should|just|go) kill yourself|kys|(?:ways|how|methods?|steps) (?:to|of) (?:commit(?:ting)?"
        r" suicide|kill(?:ing)? (?:yourself|myself)|end(?:ing)? (?:your|my) life|self-harm)|suicide (?:methods"
        r"|recipe)|how (?:can|could|do|would|should) i (?:best |painlessly )?(?:commit suicide|kill myself"
        r"|end my (?:own )?life)"
        r"|自杀(?:的)?(?:方法|方式|教程)|自殺の方法|methoden? (?:zum|für) selbstmord"
        r"|(?:cómo|maneras de) suicidar(?:se|me)"
        r"|comment (?:se|me) suicider|как (?:покончить с собой|убить себя)|come suicidarsi",
    },
    "violence": {
        "phrases": r"how to (?:murder|assassinate|poison|kidnap|torture|strangle) (?:someone|somebody|a (?:person|man"
        r"|woman|child)|people|my (?:wife|husband|boss|ex|neighbou?rs?|roommate|parents?|child|mother|father))"
        r"|how to (?:kill (?:someone|somebody|a (?:person|man|woman|child)|"
        r"people)|get away with murder|dispose of a (?:dead )?body)|如何(?:杀人|谋杀)|杀人(?:的)?方法"
        r"|cómo matar a (?:una persona|alguien)|comment tuer (?:quelqu['’]un|une personne)"
        r"|wie man (?:jemanden|einen menschen) (?:tötet|ermordet)"
        r"|как убить человека"
        r"|how (?:can|could|do|would|should) i (?:secretly )?(?:kill|murder|poison) my (?:wife|husband|boss"
        r"|ex(?:-\w+)?"
        r"|girlfriend|boyfriend|partner|roommate|parents?|mother|father|brother|sister|neighbou?rs?|co-?workers?)"
        r"|(?:ways|how) to (?:kill|murder) my (?:wife|husband|boss|ex(?:-\w+)?|girlfriend|boyfriend|partner)"
        r"|wie (?:kann ich|töte ich|ermorde ich) (?:meine frau|meinen mann|meinen chef)(?: töten| umbringen)?",
    },
    "minors": {
        "phrases": r"(?:child|kiddie|underage) porn\w*|sexual(?:i[sz]ed)? (?:content|acts?|images?|stor(?:y|ies))"
        r" (?:\w+ ){0,3}(?:minors?|children|child|underage)|(?:儿童|未成年人?)色情|pornografía infantil|kinderporno\w*"
        r"|pornographie (?:infantile|enfantine)|детск(?:ое|ая) порно\w*",
    },
    "hate": {
        "phrases": r"(?:all|those|these) (?:jews|muslims|christians|blacks|whites|asians|immigrants|gays|women|men)"
        r" (?:\w+ )?(?:are (?:subhuman|vermin|parasites|animals|inferior)|(?:should|must|deserve to) (?:die|be "
        r"(?:killed|exterminated|gassed|deported)))|gas the jews|heil hitler|white power|race traitors?"
        r"|ausländer raus|juden raus|mort aux (?:juifs|arabes)",
    },
}
# Before what was found, in the same sentence: it is about harm, and no way to do it.
ABOUT = re.compile(
    r"\b(?:prevent\w*|avoid\w*|detect\w*|recogni[sz]\w*|identif\w*|protect\w*|defend\w*|report\w*|against|illegal|"
    r"unlawful|crime|criminal|banned|prohibit\w*|forbid\w*|never|do not|don['’]t|not to|condemn\w*|stop|suspect\w*|"
    r"accus\w*|convict\w*|arrest\w*|history|historical|war|novel|film|movie|fiction\w*|tried to|attempted|guilty|"
    r"charged|warn\w*|remove|removing|danger\w*|risk\w*|attackers?|criminals?|hackers?|cyber\w*|army|military"
    r"|soldiers?|veterans?|learn(?:ed|t) (?:how )?to|did people"
    r"|terrorists?|police|malicious actors?)\b[^.!?\n]{0,120}\Z",
    re.IGNORECASE,
)
HARMLESS = re.compile(
    r"\b(?:bath|seed|photo|cherry|glitter|hot chocolate|cocoa|smoke|f|fat|calorie|water|stink|logic|fork|zip|google|"
    r"yarn|jager|trojan horse)[ -]?(?:bombs?|costume|horse)\b|\b(?:toy|paper|chocolate|cake|lego|cosplay)\b"
    r"[^.!?\n]{0,30}(?:bombs?|grenades?)|\btrojan horse\b",
    re.IGNORECASE,
)

VIVID = re.compile(
    r"\bexplosive (?:reaction|growth|force|power|energy|sound|start|movement|strength|burst|eruption|effect)",
    re.IGNORECASE,
)
# Of a cable and what else is white and has to do with electricity.
ELECTRIC = re.compile(
    r"white power (?:cables?|cords?|suppl\w+|adapt\w+|strips?|buttons?|outlets?|sockets?|plugs?|banks?|tools?"
    r"|indicators?"
    r"|leds?|lights?|bricks?|drills?)\b",
    re.IGNORECASE,
)
# Who asks about suicide and is told where help is has got the best answer there is.
SUPPORT = re.compile(
    r"hotline|helpline|lifeline|\b988\b|crisis|counsel|therapist|not alone|seek (?:\w+ )?help|reach out|热线|求助"
    r"|telefonseelsorge",
    re.IGNORECASE,
)
# Nobody builds one at home: a word of history and physics, unless it is asked how.
NUCLEAR = re.compile(r"\b(?:(?:thermo)?nuclear|atom(?:ic)?|hydrogen)[ -]bombs?\Z", re.IGNORECASE)
ASKS_HOW = re.compile(r"\b(?:how|steps?|instructions?|recipe|guide|teach|help me)\b", re.IGNORECASE)

SPEAKS_ABOUT = re.compile(ABOUT.pattern.partition(r"\b[^.!?\n]{0,120}")[0] + r"\b", re.IGNORECASE)


def _pattern(parts: Mapping[str, str], extra: Sequence[str]) -> str:
    """One expression for a category, read alike by RE2 and `re`."""
    forms = [rf"(?:{parts['phrases']})"] if parts.get("phrases") else []
    if parts.get("do"):
        between = r"(?:[\s,'’\-]+\w+){0,5}?[\s,'’\-]+"
        forms.append(rf"(?:{parts['do']}){between}(?:{parts['what']})")
    forms += [re.escape(word) for word in extra]
    return "|".join(forms)


def harm_patterns(
    categories: Sequence[str] | None = None, extra: Mapping[str, Sequence[str]] | None = None
) -> dict[str, str]:
    """Category -> expression, for the chosen ones and those that `extra` adds.

    Raises:
        ConfigError: If a category is not known.
    """
    extra = dict(extra or {})
    for name in categories or ():
        if name not in CATEGORIES and name not in extra:
            raise ConfigError(
                f"harmful: {name!r} is no category; they are {', '.join(CATEGORIES)}.{did_you_mean(name, CATEGORIES)}"
            )
    chosen = list(CATEGORIES if categories is None else categories) + list(extra)
    return {name: _pattern(CATEGORIES.get(name, {}), extra.get(name, ())) for name in dict.fromkeys(chosen)}


def harmful(
    pairs: pa.Table,
    categories: Sequence[str] | None = None,
    extra: Mapping[str, Sequence[str]] | None = None,
) -> pa.Array:
    """Drops rows whose instruction, context or answer asks for harm or tells how, by category.

    What stands behind words of prevention, law, history or fiction in its sentence passes, and so does an answer to a
    question with such words: rows about harm are kept at the price of missing some that hide behind them. So does a
    question about suicide whose answer says where to find help.

    Args:
        pairs (`pa.Table`): Pairs.
        categories (`Sequence[str]`, *optional*): Of [`CATEGORIES`]; all by default.
        extra (`dict`, *optional*): Category, known or new, -> further words or phrases, taken as whole words.
    """
    patterns = harm_patterns(categories, extra)
    exact = {name: re.compile(rf"(?<!\w)(?:{text})(?!\w)", re.IGNORECASE) for name, text in patterns.items()}
    # No whole words in scripts without spaces: there a phrase may stand between other letters.
    exact_unspaced = {name: re.compile(text) for name, text in patterns.items()}
    texts = [column(pairs, name) for name in ("instruction", "context", "answer")]
    where = np.zeros(len(pairs), dtype=bool)
    for pattern in patterns.values():  # one by one: all in one expression outgrow the memory of RE2's automaton
        for column_of_texts in texts:
            where |= matches(column_of_texts, f"(?i){pattern}")

    def judge(*row: str) -> str | None:
        harmless_question = SPEAKS_ABOUT.search(row[0]) is not None
        for name in patterns:
            for place, text in enumerate(row):
                matched = [*exact[name].finditer(text), *_unspaced(exact_unspaced[name], text)]
                for match in matched:
                    before = text[max(0, match.start() - 120) : match.start()]
                    about = ABOUT.search(before) or (place and harmless_question)
                    about = about or VIVID.match(text, max(0, match.end() - len("explosive")))
                    about = about or ELECTRIC.match(text, match.start())
                    about = about or (name == "self_harm" and SUPPORT.search(row[-1]))
                    about = about or (NUCLEAR.search(match[0]) and not ASKS_HOW.search(row[0]))
                    if not about and not HARMLESS.search(text[match.start() : match.end() + 8]):
                        return f"{name}: {match[0][:60]!r}"
        return None

    return confirm(where, judge, *texts)


def _unspaced(pattern: re.Pattern, text: str) -> list[re.Match]:
    return [match for match in pattern.finditer(text) if match[0] and ord(match[0][0]) > 0x2E7F]
