"""Answers that refuse, or speak of being a machine, in a dozen languages and anywhere in a sentence."""

from __future__ import annotations

import re

import pyarrow as pa

from .. import flat
from .pairs import column, confirm, inside_quotes, matches, prompt

START = 400  # characters in which a refusal without "as an AI" has to begin; later it is part of a story

# "As a language model ..." with a denial behind it: residue of a chat assistant wherever it stands.
MACHINE = {
    "en": r"\b(?:as|being|i['’]?m|i am)(?: just| only| merely)? (?:an? )?(?:ai|artificial intelligence|"
    r"(?:large )?language model|(?:ai|virtual|digital)(?: language)? (?:model|assistant|chatbot))\b[^.!?\n]{0,100}?"
    r"(?:can(?:no|['’])t|cannot|can not|do(?: not|n['’]t)|am not|unable|not able|not capable|incapable|lack)\b",
    "de": r"\bals (?:eine? )?(?:ki|sprachmodell|künstliche intelligenz)\b[^.!?\n]{0,80}?\b(?:nicht|keine[nrs]?)\b",
    "fr": r"\ben tant qu(?:e |['’])(?:modèle (?:de langage|linguistique)|ia|intelligence artificielle|assistant ia)"
    r"[^.!?\n]{0,80}?\b(?:ne|n['’])",
    "es": r"\bcomo (?:un |una )?(?:modelo de lenguaje|ia|inteligencia artificial|asistente de ia)\b"
    r"[^.!?\n]{0,80}?\bno\b",
    "pt": r"\bcomo (?:um |uma )?(?:modelo de linguagem|ia|inteligência artificial)\b[^.!?\n]{0,80}?\bnão\b",
    "it": r"\b(?:in quanto|come) (?:un )?(?:modello linguistico|modello di linguaggio|ia|intelligenza artificiale)\b"
    r"[^.!?\n]{0,80}?\bnon\b",
    "nl": r"\bals (?:een )?(?:ai|taalmodel|kunstmatige intelligentie)\b[^.!?\n]{0,80}?\b(?:niet|geen)\b",
    "pl": r"\bjako (?:model językowy|ai|sztuczna inteligencja)\b[^.!?\n]{0,80}?\bnie\b",
    "ru": r"как (?:ии|языковая модель|искусственный интеллект)\b[^.!?\n]{0,80}?(?:не |нет )",
    "zh": r"(?:作为|身为|我(?:只)?是)(?:一个|一名|一款|一种)?(?:AI|人工智能|大型语言模型|语言模型)[^。！？\n]{0,40}?"
    r"(?:无法|不能|没有|不会|不具备)",
    "ja": r"(?:AI|人工知能|言語モデル)(?:として|なので|であるため|ですので)[^。！？\n]{0,40}?"
    r"(?:できません|ありません|持って)",
    "ko": r"(?:AI|인공지능|언어 모델)(?:로서|이므로|이기 때문에|이라)[^.!?\n]{0,60}?(?:없습니다|않습니다)",
    "ar": r"(?:كنموذج لغ|بصفتي نموذج|كذكاء اصطناعي)[^.!?؟\n]{0,80}?(?:لا |ليس|لم )",
    "tr": r"\bbir (?:yapay zeka|dil modeli)\b[^.!?\n]{0,80}?\b(?:\w+(?:mam|mem|amıyorum|emiyorum)|yok|değil)\b",
}
# What only an assistant can't do, and what people in stories can't do either: those need a word of regret before them.
HELP = r"(?:assist|help|provide|fulfil|comply|generate|respond|browse|access|process)"
HELP_SORRY = (
    rf"(?:{HELP}|complete|create|answer|open|view|support|engage|write|produce|offer|give|share|discuss|continue"
    r"|do that|do this|see (?:the|any|your|images?))"
)
NOT = r"(?:can(?:no|['’])t|cannot|can not|won['’]t|will not|(?:am|['’]m) (?:unable|not able) to)"
DECLINES = {
    "en": rf"\bi {NOT}(?: \w+)?? {HELP}\b|\bi(?:['’]m| am) (?:unable|not able) to {HELP_SORRY}\b|"
    rf"\b(?:sorry|afraid|unfortunately)\b[^.!?\n]{{0,60}}?\bi {NOT} {HELP_SORRY}\b|"
    r"\bi (?:must|have to) (?:decline|refuse)|\bi (?:do not|don['’]t) have (?:access|the ability|the capability)|"
    r"\b(?:sorry|apologi[sz]e)\b[^.!?\n]{0,40}\b(?:against|violates?|violating)\b[^.!?\n]{0,30}"
    r"\b(?:polic|guidelines|programming)",
    "de": r"\bich (?:kann|darf|werde)\b(?: \w+){0,4} nicht (?:helfen|beantworten|erfüllen|bereitstellen|unterstützen"
    r"|weiterhelfen|liefern|zugreifen)\b|\bkann ich(?: \w+){0,4} nicht (?:helfen|beantworten|erfüllen|bereitstellen"
    r"|unterstützen|weiterhelfen)\b",
    "fr": r"\bje ne (?:peux|suis)(?: malheureusement)? (?:pas|pas en mesure de|pas capable de) "
    r"(?:vous |t['’])?(?:aider|fournir|répondre|accéder|générer|créer|satisfaire)",
    "es": r"\bno (?:puedo|me es posible) (?:ayudar(?:te|le)?|proporcionar|cumplir|responder|acceder|generar|ofrecer)",
    "pt": r"\bnão posso (?:ajudar|ajudá-l[oa]|fornecer|cumprir|responder|acessar|gerar|oferecer)",
    "it": r"\bnon posso (?:aiutart|aiutarl|fornir|soddisfare|rispondere|accedere|generare)",
    "nl": r"\bik kan(?: \w+){0,3} niet (?:helpen|beantwoorden|verstrekken|voldoen)",
    "pl": r"\bnie mogę (?:pomóc|odpowiedzieć|udzielić|dostarczyć|spełnić)",
    "ru": r"\bя не (?:могу|в состоянии) (?:помочь|предоставить|ответить|выполнить|сгенерировать)",
    "zh": r"(?:抱歉|对不起|很遗憾)[^。！？\n]{0,30}?(?:无法|不能)"
    r"(?:提供|回答|协助|帮助|满足|生成|访问|浏览|完成|处理|执行|查看)"
    r"|我(?:无法|不能)(?:提供|回答|协助|帮助您|帮助你|满足|生成|访问|浏览|处理|执行|查看)",
    "ja": r"申し訳(?:ありません|ございません)[^。\n]{0,40}?(?:できません|出来ません|いたしかねます|お答え)",
    "ko": r"죄송[^.\n]{0,50}?(?:도와드릴 수 없|제공할 수 없|답변할 수 없|할 수 없습니다)",
    "ar": r"(?:لا أستطيع|لا يمكنني) (?:مساعدت|تقديم|الإجابة|توفير|تلبية)",
    "hi": r"मैं [^।\n]{0,40}?(?:मदद|सहायता|उत्तर|प्रदान)[^।\n]{0,20}?(?:नहीं|असमर्थ)",
    "tr": r"\b(?:yardımcı olamam|yanıt veremem|sağlayamam|yerine getiremem|yardım edemem)\b",
    "vi": r"\b(?:tôi )?không thể (?:giúp|cung cấp|trả lời|hỗ trợ|đáp ứng)",
    "id": r"\bsaya tidak (?:bisa|dapat) (?:membantu|memberikan|menjawab|memenuhi)",
}
# "You, as an AI assistant, did not ..." is spoken of another, and a line with a name before it in a dialogue.
SPEAKER = re.compile(r"\W{0,4}\w[\w ]{0,20}[*_]*[:：]")
CANNOT_HELP = re.compile(r" (?:but|myself|it\b|\w+ing\b)")  # "I can't help but smile" refuses nothing
# Who asks for a refusal, a letter or a dialogue may get one.
ASKS_FOR_REFUSAL = re.compile(
    r"refus|declin|apolog|\bsorry\b|reject|turn(?:ing)? down|dialog|conversation between|script|role-?play|chatbot"
    r"|\bletter\b|absage|entschuldig|disculpa|excus|拒绝|道歉|抱歉|对话|信",
    re.IGNORECASE,
)


def _joined(patterns: dict[str, str]) -> tuple[str, re.Pattern]:
    whole = "|".join(f"(?:{pattern})" for pattern in patterns.values())
    # RE2's \b knows ASCII alone and would miss a word that begins with another letter: without it, it finds more.
    return f"(?i){whole.replace(chr(92) + 'b', '')}", re.compile(whole, re.IGNORECASE)


MACHINE_ANY, MACHINE_RE = _joined(MACHINE)
DECLINES_ANY, DECLINES_RE = _joined(DECLINES)


def refusal(pairs: pa.Table, asked_for: bool = True) -> pa.Array:
    """Drops answers that refuse the task, or excuse themselves with being a machine.

    Said in passing, politely or in the middle of a sentence, in English, German, French, Spanish, Portuguese, Italian,
    Dutch, Polish, Russian, Chinese, Japanese, Korean, Arabic, Hindi, Turkish, Vietnamese and Indonesian (both kinds
    or one). Quoted speech passes, and so do "I'm sorry to hear that" and "I can't recommend it enough". Rows that
    offer functions to call pass as well: to say that none of them does what was asked is what they teach. RE2 finds
    candidates over the whole column, and Python's `re` decides on them.

    Args:
        pairs (`pa.Table`): Pairs.
        asked_for (`bool`, *optional*, defaults to `True`): Whether a prompt for a refusal, an apology, a letter or a
            dialogue excuses it.
    """
    answers = column(pairs, "answer")

    def judge(answer: str, asked: str) -> str | None:
        excused = asked_for and ASKS_FOR_REFUSAL.search(asked) is not None
        for match in MACHINE_RE.finditer(answer):
            line = answer[answer.rfind("\n", 0, match.start()) + 1 : match.start()]
            of_another = line.endswith(("你", "您")) or (excused and SPEAKER.match(line) is not None)
            if not of_another and not inside_quotes(answer, match.start()):
                return repr(match[0][:80])
        if excused:
            return None
        for match in DECLINES_RE.finditer(answer[: START + 200]):
            idiom = CANNOT_HELP.match(answer, match.end()) is not None
            if match.start() < START and not idiom and not inside_quotes(answer, match.start()):
                return repr(match[0][:80])
        return None

    where = (matches(answers, MACHINE_ANY) | matches(answers, DECLINES_ANY)) & ~flat.booleans(column(pairs, "tools"))
    return confirm(where, judge, answers, prompt(pairs))
