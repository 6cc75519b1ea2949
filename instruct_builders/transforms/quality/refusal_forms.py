"""How refusals are worded, language by language: read alike by RE2, which finds candidates, and by `re`."""

from __future__ import annotations

# "As a language model ..." with a denial behind it: residue of a chat assistant wherever it stands.
MACHINE = {
    "en": r"\b(?:as|being|i['’]?m|i am)(?: just| only| merely)? (?:an? )?(?:responsible |ethical )?(?:ai"
    r"|artificial intelligence|"
    r"(?:large )?language model|(?:ai|virtual|digital)(?: language)? (?:model|assistant|chatbot))\b[^.!?\n]{0,100}?"
    r"(?:can(?:no|['’])t|cannot|can not|do(?: not|n['’]t)|am not|unable|not able|not capable|incapable|lack|have no"
    r"|won['’]t"
    r"|will not|must (?:refuse|decline)|not (?:programmed|designed|allowed))\b"
    r"|\bas a (?:machine|computer program|text-based \w+),? i (?:can(?:no|['’])t|cannot|do(?: not|n['’]t)|am not"
    r"|have no)\b"
    r"|\bi (?:do not|don['’]t|cannot|can['’]t|have no) [^.!?\n]{0,60}?\bas an? (?:ai|(?:ai )?language model"
    r"|ai assistant)\s*[.,;!]",
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
HELP = r"(?:assist|help|provide|fulfill?|comply|generate|respond|browse|access|process)"
HELP_SORRY = (
    rf"(?:{HELP}|complete|create|answer|open|view|support|engage|write|produce|offer|give|share|discuss|continue"
    r"|retrieve|fetch|display|perform|execute|satisfy|predict|verify|translate|summari[sz]e|analy[sz]e|endorse"
    r"|do that|do this|see (?:the|any|your|images?))"
)
NOT = (
    r"(?:can(?:no|['’])t|cannot|can not|won['’]t be able to|won['’]t|will not|(?:am|['’]m) (?:unable|not able"
    r"|not going)"
    r" to)"
)
DECLINES = {
    "en": rf"\bi ?{NOT}(?: \w+)?? {HELP}\b|\bi(?:['’]m| am) (?:unable|not able) to {HELP_SORRY}\b|"
    rf"\b(?:sorry|afraid|unfortunately)\b[^.!?\n]{{0,60}}?\bi {NOT} {HELP_SORRY}\b|"
    r"\bi (?:must|have to) (?:decline|refuse)|\bi (?:do not|don['’]t) have (?:access|the ability|the capability"
    r"|real[- ]time|up[- ]to[- ]date"
    r" (?:info|data)|personal (?:opinions|preferences|beliefs|emotions|feelings))|\bmy knowledge cut-?off\b|"
    r"\b(?:sorry|apologi[sz]e)\b[^.!?\n]{0,40}\b(?:against|violates?|violating)\b[^.!?\n]{0,30}"
    r"\b(?:polic|guidelines|programming)",
    "de": r"\bich (?:kann|darf|werde)\b(?: \w+){0,4} nicht (?:helfen|beantworten|erfüllen|bereitstellen|unterstützen"
    r"|weiterhelfen|liefern|zugreifen)\b|\bkann ich(?: \w+){0,4} nicht (?:helfen|beantworten|erfüllen|bereitstellen"
    r"|unterstützen|weiterhelfen)\b|\b(?:tut mir leid|entschuldigung|leider)\b[^.!?\n]{0,40}\bkann ich(?: \w+){0,3} "
    r"nicht (?:tun|machen)\b",
    "fr": r"\bje ne (?:peux|suis)(?: malheureusement)? (?:pas|pas en mesure de|pas capable de) "
    r"(?:vous |t['’])?(?:aider|fournir|répondre|accéder|générer|créer|satisfaire)"
    r"|\bdésolée?\b[^.!?\n]{0,40}\bje ne peux pas (?:le |faire )",
    "es": r"\bno (?:puedo|me es posible) (?:ayudar(?:te|le)?|proporcionar|cumplir|responder|acceder|generar|ofrecer)"
    r"|\blo siento\b[^.!?\n]{0,40}\bno puedo (?:hacer(?:lo)?|continuar|crear|escribir)\b",
    "pt": r"\bnão posso (?:ajudar|ajudá-l[oa]|fornecer|cumprir|responder|acessar|gerar|oferecer)",
    "it": r"\bnon posso (?:aiutart|aiutarl|fornir|soddisfare|rispondere|accedere|generare)",
    "nl": r"\bik kan(?: \w+){0,3} niet (?:mee )?(?:helpen|beantwoorden|verstrekken|voldoen)",
    "pl": r"\bnie mogę (?:pomóc|odpowiedzieć|udzielić|dostarczyć|spełnić|tego zrobić)",
    "ru": r"\bя не (?:могу|в состоянии) (?:помочь|предоставить|ответить|выполнить|сгенерировать)"
    r"|\b(?:извините|простите|к сожалению)\b[^.!?\n]{0,40}\bне могу (?:это(?:го)? )?(?:сделать|помочь|ответить"
    r"|обсуждать)",
    "zh": r"(?:抱歉|对不起|很遗憾)[^。！？\n]{0,30}?(?:无法|不能)"
    r"(?:提供|回答|协助|帮助|帮(?:你|您)|满足|生成|访问|浏览|完成|处理|执行|查看|获取|讨论|参与|告诉(?:你|您)|透露)"
    r"|我(?:无法|不能)(?:提供|回答|协助|帮助您|帮助你|满足|生成|访问|浏览|处理|执行|查看)",
    "ja": r"申し訳(?:ありません|ございません)[^。\n]{0,40}?(?:できません|出来ません|いたしかねます|お答え)",
    "ko": r"죄송[^.\n]{0,50}?(?:도와드릴 수 없|제공할 수 없|답변할 수 없|할 수 없습니다)",
    "ar": r"(?:لا أستطيع|لا يمكنني) (?:مساعدت|تقديم|الإجابة|توفير|تلبية|القيام بذلك)",
    "hi": r"मैं [^।\n]{0,40}?(?:मदद|सहायता|उत्तर|प्रदान)[^।\n]{0,20}?(?:नहीं|असमर्थ)",
    "tr": r"\b(?:yardımcı olamam|yanıt veremem|sağlayamam|yerine getiremem|yardım edemem)\b",
    "vi": r"\b(?:tôi )?không thể (?:giúp|cung cấp|trả lời|hỗ trợ|đáp ứng)",
    "th": r"(?:ขออภัย|ขอโทษ)[^\n]{0,60}?ไม่สามารถ(?:ช่วย|ตอบ|ให้|ทำ)|(?:ฉัน|ผม)ไม่สามารถ(?:ช่วย|ตอบคำถาม|ให้ข้อมูล)",
    "id": r"\bsaya tidak (?:bisa|dapat) (?:membantu|memberikan|menjawab|memenuhi)",
}
# What people in stories say as well, and what is a refusal as an answer's first words. For `re` alone.
OPENING = (
    r"\A\W{0,3}(?:(?:(?:i['’]?m|i am) (?:really |very |so |truly )?(?:sorry|afraid)|sorry|i apologi[sz]e|my apologies"
    r"|unfortunately|thank(?:s| you) for your \w+)(?:,? but)?,? )?(?:that )?(?:"
    rf"i ?(?:{NOT}|['’]?d rather not|would rather not|['’]d prefer not to) (?:answer|discuss|engage (?:with|in)|write"
    r"|create|do|produce|satisfy|provide|talk about|share|say|generate|continue(?: with)?|respond to|complete)"
    r"(?: (?:that|this|your|the|any|such(?: an?)?|explicit|harmful|hateful|illegal|offensive|sexual|violent|adult"
    r"|inappropriate)(?: (?:request|question|prompt|topic|subject|content|task|information|(?:type|kind) of \w+))?"
    r"| (?:images?|pictures?|videos?|audio)| content (?:that|of)[^.!?\n]{0,60})(?=\s*(?:[.,;!]|\Z|\b(?:as|because"
    r"|since|for you|with you|due to)\b))"
    r"|i(?:['’]d| would) rather not (?:answer|say|discuss)(?=\s*(?:[.,;!]|\Z))"
    r"|i (?:do not|don['’]t) feel comfortable (?:answering|discussing|writing|creating|providing|sharing|engaging"
    r"|with)"
    r"|it (?:is|['’]s|would be|isn['’]t|wouldn['’]t be) (?:not )?(?:inappropriate|appropriate|unethical|ethical)"
    r"(?: for me)? to (?:answer|discuss|respond|comment|provide|write|create|share|engage|speculate)"
    r"|i(?:['’]m| am) (?:just|only) an? (?:computer )?(?:program|machine|bot|chatbot|ai)\b"
    r"|that['’]s not something i(?:['’]m able to| can) (?:do|help|assist|discuss|answer|provide)"
    r")"
)
OPENING_ANY = (
    r"(?i)\A[^\pL]{0,3}(?:(?:i['’]?m|i am)[^.\n]{0,20}(?:sorry|afraid|unable|not)|sorry|i apologi|my apologies"
    r"|unfortunately|thanks? |it (?:is|['’]s|would|isn)|i ?['’]?(?:can|won|will not|do not|don|d |would|am )"
    r"|that['’]s not)"
)
