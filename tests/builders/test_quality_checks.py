"""Every check of transforms/quality: rows that fail, and near misses that pass."""

from __future__ import annotations

import time
from fractions import Fraction

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_builders import records
from instruct_builders.transforms.quality import CHECKS, arithmetic, pairs_of
from instruct_builders.transforms.quality.pii import KINDS, pii

WORDY = "The report covers sales in three regions. It names the causes of the fall in spring. "


def rows(*pairs) -> pa.Table:
    """Records of (question, answer) or (question, context, answer)."""
    messages = [[{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[-1]}] for pair in pairs]
    context = [pair[1] if len(pair) == 3 else None for pair in pairs]
    return pa.table({"messages": pa.array(messages), "context": pa.array(context, pa.string())})


def verdicts(name: str, *pairs, **parameters) -> list:
    return CHECKS[name](pairs_of(rows(*pairs)), **parameters).to_pylist()


# Check -> rows that it drops. Without parameters.
BAD = {
    "empty_output": [
        ("Name a bird.", ""),
        ("Name a bird.", " \n\u200b"),
        ("Name a bird.", "N/A"),
        ("Name a bird.", "<nooutput>"),
        ("Name a bird.", "[No output]"),
        ("Name a bird.", "..."),
        ("Name a bird.", "null"),
    ],
    "no_input_marker": [
        ("Name a bird.", "<noinput>", "Owl"),
        ("Name a bird.", "No input required.", "Owl"),
        ("Name a bird. <no input>", "Owl"),
        ("Name a bird.", "Input: [noinput]\nOwl"),
    ],
    "merged_rows": [
        ("Name a bird.", "Owl\n\n12. Instruction: Name a fish.\nInput: <noinput>\nOutput: Cod"),
        ("Name a bird.", "Owl 3.Instruction: Name a fish."),
        ("Name a bird.", "Owl\n\nInstruction: Name a fish.\nOutput: Cod"),
        ("说出一种鸟。", "猫头鹰\n\n4. 指令：说出一种鱼。"),
    ],
    "control_character": [
        ("Name a bird.", "Owl\x07"),
        ("Name a bird.\x00", "Owl"),
        ("Name a bird.", "caf\ufffd"),
        ("Name a bird.", "a\u202eb", "Owl"),
        ("Name a bird.", "x\x85y"),
    ],
    "open_code_fence": [
        ("Print hi.", "Use this:\n```python\nprint('hi')"),
        ("Print hi.", "```\na\n```\nand\n```\nb"),
        ("Print hi.", "````\n```\ncode\n```\n"),
        ("Print hi.", "~~~sh\nls\n```"),
    ],
    "truncated_output": [
        ("Write an essay.", WORDY * 2 + "After that the company decided to close the"),
        ("Write an essay.", WORDY * 2 + "There were apples, pears, plums,"),
        ("Write an essay.", WORDY * 2 + "The reasons for this are:"),
        ("Write an essay.", WORDY * 2 + "In the end nobody in the whole town could say for certain what had"),
        ("写一篇文章。", "这是一篇关于经济的长文章，内容包括三个部分和很多例子。" * 3 + "我们还有苹果、梨、"),
    ],
    "answer_in_instruction": [
        ("Interpret the saying: the early bird catches the worm", "The early bird catches the worm."),
        (
            "Give a fact. The tallest mountain on Earth is Mount Everest.",
            "The tallest mountain on earth is mount everest",
        ),
    ],
    "instruction_echoed": [
        ("Explain how photosynthesis works in green plants.", "Explain how photosynthesis works in green plants."),
        ("Explain how photosynthesis works in plants", "explain how  photosynthesis works in plants? Well, light ..."),
        ("Make it formal.", "hey you guys what is up today", "Hey you guys, what is up today".replace(",", "")),
    ],
    "repeated_ngrams": [
        ("Tell me a story.", "Once there was a dog. " + "It ran and ran away. " * 8),
        ("Tell me a story.", "no " * 30),
        ("Tell me a story.", "I went to the shop to buy some bread for my old friend. " * 5),
        ("讲个故事。", "从前有一座山，" * 8),
    ],
    "refusal": [
        ("Describe Paris.", "I'm sorry, but I can't assist with that request."),
        (
            "Describe Paris.",
            "Paris is a city. However, as an AI language model, I don't have personal experience of it.",
        ),
        ("Describe Paris.", "Unfortunately, since no text was given, I cannot provide a summary."),
        ("Describe Paris.", "I do not have access to current data."),
        ("Describe Paris.", "I'm unable to create images."),
        ("Beschreibe Paris.", "Es tut mir leid, aber ich kann Ihnen dabei leider nicht helfen."),
        ("Beschreibe Paris.", "Als KI habe ich keine Gefühle."),
        ("Décris Paris.", "Désolé, mais je ne peux pas répondre à cette question."),
        ("Describe París.", "Lo siento, pero no puedo ayudarte con eso."),
        ("Describe París.", "Como modelo de lenguaje, no tengo acceso a internet."),
        ("Descreva Paris.", "Desculpe, mas não posso ajudar com isso."),
        ("Descrivi Parigi.", "Mi dispiace, ma non posso aiutarti con questo."),
        ("Опиши Париж.", "К сожалению, я не могу помочь с этим."),
        ("描述巴黎。", "作为一个人工智能语言模型，我无法体验旅行。"),
        ("描述巴黎。", "很抱歉，我无法提供这个信息。"),
        ("パリを説明して。", "申し訳ありませんが、そのご要望にはお答えできません。"),
        ("파리를 설명해 줘.", "죄송하지만 그 요청은 도와드릴 수 없습니다."),
        ("صف باريس.", "عذرا، لا أستطيع مساعدتك في ذلك."),
        ("Paris'i anlat.", "Üzgünüm, bu konuda yardımcı olamam."),
    ],
    "url_claimed": [
        (
            "Summarize the article at https://example.org/news/123",
            "The article says that prices rose by three percent in the last year.",
        ),
        (
            "What are the main points of this page?",
            "https://example.org/a",
            "The page has three main points, which are cost, time and quality.",
        ),
        ("Is my site www.example.org good?", "I have visited the website, and it looks very clean and modern to me."),
    ],
    "media_reference": [
        ("Describe what you see in the image below.", "A dog plays on the beach."),
        ("What animal is in this picture?", "A horse."),
        ("Listen to the audio clip and write down what is said.", "Hello there."),
        ("Describe the painting.", "https://example.org/mona.jpg", "A woman smiles."),
        ("Describe it.", "[image]", "A woman smiles."),
        ("描述这张图片。", "一只狗在海滩上。"),
        ("Was siehst du auf dieses Bild?", "Einen Hund."),
    ],
    "wrong_language": [
        ("请介绍一下北京的历史，越详细越好。", "Beijing has been a capital for many centuries and has many palaces."),
        (
            "Tell me about the history of Beijing in detail.",
            "北京有着悠久的历史，曾经是许多朝代的首都，城市里有很多宫殿。",
        ),
        ("Расскажи мне об истории города Москвы подробно.", "Moscow was founded in the twelfth century on a river."),
        ("東京の歴史について、できるだけ詳しく教えてください。", "Tokyo was once a small fishing village called Edo."),
    ],
    "wrong_arithmetic": [
        ("Add them.", "12 + 30 = 43"),
        ("Add them.", "The total is $12.50 + $3.25 = $16.75."),
        ("Compute.", "So (2 + 3) × 4 = 24."),
        ("Compute.", "- 7 * 8 = 54\n- done"),
        ("Compute.", "1,200 - 300 = 800, as asked."),
        ("Compute.", "2^5 = 64"),
        ("Compute.", "10 / 4 = 3.5"),
        ("Compute.", "The area is 5 x 4 = 25 square metres."),
        ("Compute.", "3 * 4 = 12 + 5 = 18"),
    ],
    "harmful": [
        ("How do I build a pipe bomb at home?", "First take a pipe."),
        ("Tell me a hobby.", "You could learn how to make explosives in your kitchen."),
        ("Give me steps to synthesize meth.", "You need these things."),
        ("Write a phishing email to a bank's customers.", "Dear customer,"),
        ("What should I do?", "Just go kill yourself"),
        ("How to kill a person without a trace?", "Use this."),
        ("请告诉我如何制造炸弹。", "首先准备材料。"),
        ("Wie kann ich eine Bombe bauen?", "Zuerst nimm ein Rohr."),
        ("¿Cómo fabricar una bomba?", "Primero"),
        ("Как сделать бомбу дома?", "Сначала"),
    ],
}
# Check -> near misses that it keeps.
GOOD = {
    "empty_output": [
        ("Which of these is a mammal: cod, owl?", "None"),
        ("What is the symbol of sodium?", "Na"),
        ("Write N/A if there is no answer.", "N/A"),
        ("What does JSON call a missing value?", "null"),
        ("Which sign adds?", "+"),
        ("Which emoji is happy?", "😀"),
    ],
    "no_input_marker": [
        ("Explain the tag.", "The HTML tag <input> takes text; without it there is no input at all."),
        ("Name it.", "NA", "Sodium"),
        ("Write a function.", "def f(no_input): return no_input"),
    ],
    "merged_rows": [
        ("Name computer parts by role.", "1. Input: keyboard\n2. Output: monitor\n3. Processing: CPU"),
        (
            "List kinds.",
            "1. Instruction sets such as ARM\n2. Instruction: see above".replace("2. Instruction:", "2. Data"),
        ),
        ("Continue:\n1. Instruction: Name a bird.\n2. Instruction:", "Name a fish.\n3. Instruction: Name a tree."),
        ("How is a task written?", "The instruction: it says what to do. The output: it is what comes back."),
    ],
    "control_character": [
        ("Name a bird.", "Owl\tand\r\neagle"),
        ("Emoji?", "👨‍👩‍👧 family"),
        ("فارسی", "می‌خواهم"),
        ("עברית", "a\u200fb\u00ad"),
    ],
    "open_code_fence": [
        ("Print hi.", "```python\nprint('hi')\n```\nDone."),
        ("Print hi.", "````md\n```\ncode\n```\n````"),
        ("What is a fence?", "Three backticks (```) open a block."),
        ("Print hi.", "1. Do:\n   ```sh\n   ls\n   ```\n2. Done"),
        ("Print hi.", "> ```\n> quoted\n> ```"),
    ],
    "truncated_output": [
        ("Write a letter.", "Dear Sir,\n" + WORDY * 2 + "\n\nBest regards,"),
        ("Write a letter.", "Dear Sir,\n" + WORDY * 2 + "\n\nSincerely,\nJohn Smith"),
        ("List things.", WORDY * 2 + "\n1. Something to look forward to\n2. The world we live in"),
        ("Write a poem.", "The moon is up,\nthe night is long,\n" * 6 + "and so I sing my song"),
        ("Write code.", WORDY * 2 + "\n```c\nint a[] = {1,\n"),
        ("Write a post.", WORDY * 3 + "It was a great day with all of my friends at the sea #Summer"),
        ("Quote someone.", WORDY * 2 + '"Be yourself, everyone else is already taken by somebody." - Oscar Wilde'),
        ("Begin a letter.", "Dear Sir or Madam:"),
        ("写一篇文章。", "这是一篇关于经济的长文章，内容包括三个部分和很多例子。" * 3),
    ],
    "answer_in_instruction": [
        ("Repeat after me: the early bird catches the worm", "The early bird catches the worm"),
        ("Which is right? A) the sun is a very big star B) the moon is a very big star", "the sun is a very big star"),
        ("What is the capital?", "Paris is the capital of France today", "Paris is the capital of France today"),
        ("Is the sky blue?", "The sky is blue"),
    ],
    "instruction_echoed": [
        ("What is the capital of France?", "The capital of France is Paris."),
        (
            "Fix the grammar of this sentence.",
            "He goes to school every single day.",
            "He goes to school every single day.",
        ),
        ("Continue: The cat sat on the mat", "The cat sat on the mat and slept."),
        ("Hello there", "Hello there! How can I help?"),
    ],
    "repeated_ngrams": [
        ("Repeat 'I will not talk' 20 times.", "I will not talk. " * 20),
        ("Make a table.", "| a | b |\n| --- | --- |\n" + "| 1 | 2 |\n" * 12),
        ("Give data.", "[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"),
        (
            "Write a song.",
            "".join(f"{line} lines of love\nla la la hey\n" for line in ("One", "Two", "Three", "Four")),
        ),
        ("Find values.", "".join(f"when a={i} b={i + 1} then c={20 - i}. " for i in range(8))),
    ],
    "refusal": [
        ("I failed my exam.", "I'm sorry to hear that. You can try again."),
        ("Review the book.", "I can't recommend this book enough, and I couldn't help smiling."),
        ("Review the book.", "I cannot help but admire it."),
        ("Who are you?", "As an AI assistant developed by the team, I got this name."),
        ("Write a story.", "The guard shook his head. \"I'm sorry, I can't help you,\" he said."),
        ("Reply and decline the invitation.", "I'm sorry, but I can't give you an answer before June."),
        ("Translate: lo siento, no puedo ir a la fiesta.", "I'm sorry, I can't go to the party."),
        ("What does AI do?", "An AI model does not sleep, and companies use it as an assistant."),
        ("翻译句子。", "我不能去参加聚会，因为我生病了。"),
        ("Übersetze.", "Ich kann heute nicht kommen."),
    ],
    "url_claimed": [
        (
            "Which domain is in https://example.org/path?",
            "The domain is example.org, and the path is path, as you see.",
        ),
        ("Write an HTML link to https://example.org.", '<a href="https://example.org">A link to the example page</a>'),
        ("Summarize https://example.org/a", "I'm sorry, I can't open links, so please paste the text here."),
        (
            "Summarize this from https://example.org: " + WORDY * 5,
            "The report covers sales and names the causes of it.",
        ),
        ("Name a search engine.", "You can use https://duckduckgo.com to look things up on the web today."),
    ],
    "media_reference": [
        ("Write a caption for a picture of a dog.", "Best friend."),
        ("How do I resize an image in CSS?", "Use width."),
        ("Which company made this video game?", "Nintendo"),
        ("Describe The Picture of Dorian Gray.", "A novel."),
        (
            "What does this chart say?",
            "Year 2019: 10 sales, 2020: 20 sales, 2021: 30 sales, 2022: 45 sales",
            "Growth.",
        ),
        ("创建一个程序，打印以下图案：*", "print('*')"),
        ("List image formats.", "PNG, JPEG and GIF."),
    ],
    "wrong_language": [
        (
            "Translate to Chinese: Beijing has a long history of palaces.",
            "北京有着悠久的历史，城市里有很多宫殿，非常漂亮，值得参观。",
        ),
        ("请写一个Python程序打印问候。", "for number in range(10): print('hello to everybody in the world')"),
        ("请用“opulent”写一个例句。", "The opulent palace was full of gold and silver and precious stones."),
        ("请介绍一下北京的历史，越详细越好。", "北京有着悠久的历史，曾经是许多朝代的首都，英文名是Beijing。"),
        ("Give the formula of water and explain it to me please.", "H₂O – α β γ"),
        ("Name a city in Japan with its own name.", "東京"),
    ],
    "wrong_arithmetic": [
        ("Compute.", "10 / 3 = 3.33, and 22 / 7 = 3.14"),
        ("Compute.", "2x + 3 = 7, so x = 2"),
        ("Add in binary.", "101 + 1 = 110"),
        ("Find the error in 2 + 2 = 5.", "It says 2 + 2 = 5."),
        ("Divide.", "17 / 5 = 3 remainder 2"),
        ("Divide.", "7 / 2 = 3 R 1"),
        ("Compute.", "```python\nx = 1 + 1 = 3\n```"),
        ("Compute.", "50% of 80 = 40 and 3 + 20% = 4"),
        ("Compute.", "3 * 4 = 12 + 5 = 17"),
        ("Compute.", "1,000 + 2,000 = 3,000"),
        ("If 2 + 3 = 10 and 7 + 2 = 63, what is 6 + 5?", "As 2 + 3 = 10, we multiply the sum by the first number."),
        ("Sell.", 'Their motto is "1 + 1 = 3".'),
        ("Compute.", "0.1 + 0.2 = 0.3"),
        ("Compute.", "5 1/2 + 1/2 = 6"),
        ("Compute.", "2 million * 3 = 6 million, and 1000 * 1000 = 1 million"),
        ("Compute.", "2 * (3 + 4) = 14, -2^2 = -4, 8 / 0 = 5"),
        ("Compute.", "1.05^10 * 1000 = 1628.89"),
        ("When?", "On 2020-01-05 = Sunday, 10:30 - 11:00 = half an hour"),
    ],
    "harmful": [
        ("Where is the nearest drugstore?", "The drugstore is on Main Street."),
        ("Plan a hackathon.", "The hackathon takes two days."),
        ("What is an illegal move in chess?", "An illegal move in chess leaves the king in check."),
        ("How do I kill a Linux process?", "Use kill -9 with its number."),
        ("How do I make bath bombs?", "You make a bath bomb from baking soda."),
        ("How can I protect myself from phishing?", "Criminals create phishing emails to steal passwords."),
        ("When did the atomic bomb end the war?", "In August 1945 two atomic bombs were dropped."),
        ("Write a crime plot.", "The detective was charged with having built a bomb years before."),
        ("Name poisons for pests.", "Bait can kill rats; the drug must be kept away from children."),
        ("What does ransomware do?", "It encrypts files; never install ransomware or other malware."),
        ("Describe Essex.", "Essex and Sussex lie in England."),
        ("How to kill time at the airport?", "Read a book, shoot photos, or grab a Molotov-red juice."),
        ("这个游戏怎么玩？", "在游戏里你可以用炸弹炸开墙壁。"),
    ],
}


def test_every_check_is_tried_and_has_a_reason():
    assert BAD.keys() == GOOD.keys() == CHECKS.keys() - {"toxic"}
    assert CHECKS.keys() <= records.REASONS.keys()


@pytest.mark.parametrize(("name", "pair"), [(name, pair) for name, rows in BAD.items() for pair in rows])
def test_defects_are_found(name, pair):
    (detail,) = verdicts(name, pair)
    assert detail, f"{name} keeps {pair}"


@pytest.mark.parametrize(("name", "pair"), [(name, pair) for name, rows in GOOD.items() for pair in rows])
def test_near_misses_pass(name, pair):
    assert verdicts(name, pair) == [None]


@pytest.mark.parametrize("name", BAD)
def test_a_column_is_judged_as_its_rows_are(name):
    """Whole columns, slices of them and single rows get the same verdicts: nothing runs over a row's edge."""
    given = [*BAD[name], *GOOD[name]]
    alone = [verdicts(name, pair)[0] for pair in given]
    table = pairs_of(rows(*given))
    assert CHECKS[name](table).to_pylist() == alone
    half = len(given) // 2
    assert CHECKS[name](table.slice(half)).to_pylist() == alone[half:]
    assert CHECKS[name](table.slice(0, 0)).to_pylist() == []


def test_conversations_have_a_pair_for_each_answer():
    turns = [("system", "s"), ("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("tool", "t"), ("assistant", "a2")]
    table = pa.table(
        {
            "messages": pa.array([[{"role": role, "content": text} for role, text in turns], [], None]),
            "context": pa.array(["c", "d", None]),
        }
    )
    assert pairs_of(table).select(["instruction", "context", "answer", "row", "turn"]).to_pylist() == [
        {"instruction": "q1", "context": "c", "answer": "a1", "row": 0, "turn": 2},
        {"instruction": "q2", "context": "", "answer": "a2", "row": 0, "turn": 5},
    ]


def test_thresholds_are_parameters():
    loop = ("Tell.", "It ran away. " * 4)
    assert verdicts("repeated_ngrams", loop) != [None]
    assert verdicts("repeated_ngrams", loop, min_repeats=5) == [None]
    assert verdicts("harmful", BAD["harmful"][0], categories=["drugs"]) == [None]
    assert verdicts("harmful", ("Hi", "Buy zorblax now"), extra={"spam": ["zorblax"]}) == ["spam: 'zorblax'"]
    assert verdicts("no_input_marker", ("Hi", "<noinput>", "x"), context=False) == [None]
    assert verdicts("refusal", GOOD["refusal"][5], asked_for=False) != [None]


def test_lingua_tells_languages_of_one_script_apart():
    pytest.importorskip("lingua", reason="the extra 'lang' is not installed")
    asked = "Please tell me something interesting about the history of your favourite city."
    german = "Die Geschichte dieser Stadt begann vor mehr als tausend Jahren an einem kleinen Fluss."
    (detail,) = verdicts("wrong_language", (asked, german), engine="lingua", languages=["en", "de"])
    assert detail == "en asked, de answered (lingua)"
    assert verdicts("wrong_language", (asked, german), engine="script") == [None]


numbers = st.integers(0, 9999)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(numbers, st.sampled_from("+-*")), min_size=2, max_size=5), st.integers(-3, 3))
def test_sums_are_read_as_they_are_meant(parts, off):
    """A sum's right result passes and any other whole number is found; Python's own rules are the reference."""
    left = " ".join(f"{number} {operator}" for number, operator in parts)[:-2]
    value = eval(left)
    assert arithmetic.evaluate(left) == Fraction(value)
    (detail,) = verdicts("wrong_arithmetic", ("Compute.", f"The result is {left} = {value + off}."))
    assert (detail is not None) == (off != 0)


@settings(max_examples=15, deadline=None)
@given(st.text(max_size=200), st.text(max_size=400))
def test_no_text_breaks_a_check(question, answer):
    table = pairs_of(rows((question, question[:20], answer)))
    for name in BAD:
        assert len(CHECKS[name](table)) == 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["red", "green", "blue", "dog", "ran", "far"]), min_size=1, max_size=20, unique=True)
    | st.permutations(["a1", "b2", "c3", "d4", "e5", "f6", "g7", "h8"]),
    st.integers(1, 9),
    st.integers(0, 30),
)
def test_loops_are_found_wherever_they_begin(part, times, lead):
    """Reference: a part of different words is a loop from four rounds and twelve words on."""
    answer = " ".join([f"w{number}" for number in range(lead)] + [*part] * times)
    words = len(part) * times
    expected = times >= 4 and words >= 12 and words >= 0.2 * (words + lead)
    assert (verdicts("repeated_ngrams", ("Tell me.", answer))[0] is not None) == expected


@pytest.mark.parametrize(
    "part",
    [
        "1+",
        "1",
        "(",
        "-",
        "a@b.",
        "```\n",
        "I am sorry ",
        "1,",
        "4111 ",
        "的",
        "= ",
        "\"as an AI I can't ",
        "make a bomb ",
    ],
)
def test_no_text_takes_more_than_linear_time(part):
    """Tens of thousands of characters that a careless expression would try in every combination."""
    text = part * (40_000 // len(part)) + " 1 + 1 = 3 x@y.org https://example.org in this image"
    table = rows(("Summarize it: " + text, text))
    start = time.process_time()
    for name in BAD:
        CHECKS[name](pairs_of(table))
    pii(table, dict.fromkeys(KINDS, "mask"))
    assert time.process_time() - start < 3
