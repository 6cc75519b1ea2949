"""NoveltyIndex decides as Google's rouge_score does, on anything, and says so faster."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from instruct_builders.errors import ConfigError
from instruct_builders.transforms.novelty import EmbeddingNoveltyIndex, NoveltyIndex, rouge_tokens, unicode_tokens

SCORER = RougeScorer(["rougeL"], use_stemmer=False)
# Few words, so that texts are often alike and ties at the threshold are common; some that ROUGE does not see.
words = st.sampled_from(["a", "B", "c", "d", "e", "f", "one", "two", "你好", "é", "x-1", "!", "İ", "ſ"])
texts = st.lists(words, max_size=14).map(" ".join)


def best_of(pool: list[str], text: str) -> tuple[float, int]:
    scores = [SCORER.score(text, other)["rougeL"].fmeasure for other in pool]
    best = max(range(len(pool)), key=lambda position: (scores[position], -position), default=-1)
    return (scores[best], best) if pool else (0.0, -1)


@settings(max_examples=300, deadline=None)
@given(pool=st.lists(texts, max_size=25), text=texts, threshold=st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.8, 1.0]))
def test_the_decision_the_score_and_the_position_are_rouge_scores(pool, text, threshold):
    index = NoveltyIndex(threshold)
    index.extend(pool)
    score, position = best_of(pool, text)
    assert index.nearest(text) == ((score, position) if score > threshold else (0.0, -1))


@settings(max_examples=100, deadline=None)
@given(stream=st.lists(texts, max_size=40))
def test_a_growing_pool_accepts_the_same_texts(stream):
    index, accepted = NoveltyIndex(), []
    for text in stream:
        novel = best_of(accepted, text)[0] <= 0.7
        assert (index.nearest(text)[1] < 0) == novel
        if novel:
            assert index.add(text) == len(accepted)
            accepted.append(text)


def test_ties_at_the_threshold_fall_as_in_rouge_score():
    """2 LCS / (m + n) is 0.7 exactly, but its rounded value is above or at 0.7, depending on m and n."""
    fell = set()
    for m in range(1, 40):
        for n in range(1, 40):
            if 14 * (m + n) % 40 or 7 * (m + n) > 20 * min(m, n):
                continue
            common = 7 * (m + n) // 20
            first = [f"s{k}" for k in range(common)] + [f"p{k}" for k in range(m - common)]
            second = [f"s{k}" for k in range(common)] + [f"q{k}" for k in range(n - common)]
            index = NoveltyIndex()
            index.add(" ".join(second))
            refused = index.nearest(" ".join(first))[1] == 0
            assert refused == (SCORER.score(" ".join(first), " ".join(second))["rougeL"].fmeasure > 0.7)
            fell.add(refused)
    assert fell == {True, False}  # both happen, so the test means something


@pytest.mark.shared_data
def test_real_instructions(shared_data):
    rows = json.loads((shared_data / "alpaca" / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    pool = [row["instruction"] for row in rows]
    shuffled = random.Random(0)
    candidates = [" ".join(shuffled.sample(text.split(), k=len(text.split()))) for text in pool[:6]]
    candidates += [" ".join(text.split()[1:]) for text in pool[6:12]] + pool[12:15]
    index = NoveltyIndex()
    index.extend(pool[10:])
    for text in candidates:
        score, position = best_of(pool[10:], text)
        assert index.nearest(text, floor=0) == ((score, position) if score else (0.0, -1))
        assert index.nearest(text) == ((score, position) if score > 0.7 else (0.0, -1))


@pytest.mark.shared_data
def test_the_rouge_tokenizer_is_blind_to_chinese_and_the_unicode_one_is_not(shared_data):
    rows = json.loads((shared_data / "alpaca" / "alpaca_zh_demo.json").read_text(encoding="utf-8"))
    instructions = [row["instruction"] for row in rows]
    assert sum(not rouge_tokens(text) for text in instructions) > 750
    assert all(unicode_tokens(text) for text in instructions)
    rouge, unicode = NoveltyIndex(), NoveltyIndex(tokenizer="unicode")
    for index in (rouge, unicode):
        index.add("写一首关于春天的短诗。")
    assert rouge.nearest("写一首关于春天的短诗。") == (0.0, -1)
    assert unicode.nearest("写一首关于春天的短诗!") == (1.0, 0)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't STOP, straße!", ["don", "t", "stop", "strasse"]),
        ("हिन्दी में लिखो", ["हिन्दी", "में", "लिखो"]),  # vowel signs are marks and stay with their letters
        ("写诗ok写", ["写", "诗", "ok", "写"]),
        ("ภาษาไทย", list("ภาษาไทย")),
        ("한국어 문장", ["한국어", "문장"]),
        ("ＡＢＣ １２", ["abc", "12"]),
        ("👍 🎉", ["👍", "🎉"]),
        (" \n", []),
    ],
)
def test_unicode_tokens(text, tokens):
    assert unicode_tokens(text) == tokens


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_that_is_not_blank_is_like_itself(text):
    index = NoveltyIndex(tokenizer="unicode")
    index.add(text)
    tokens = unicode_tokens(text)
    assert index.nearest(text) == ((1.0, 0) if tokens else (0.0, -1))
    assert bool(tokens) == bool(text.strip())


def test_rouge_tokens_are_rouge_scores():
    from rouge_score.tokenize import tokenize

    for text in ["Naïve café №5", "İstanbul K", "snake_case x1y2", "\tA\nb\r"]:
        assert rouge_tokens(text) == tokenize(text, None)


def test_52_000_texts_stay_under_200_mb():
    script = """
import random, resource
from instruct_builders.transforms.novelty import NoveltyIndex
draw = random.Random(0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
index = NoveltyIndex()
index.extend(" ".join(f"w{int(draw.paretovariate(0.7))}" for _ in range(14)) for _ in range(52_000))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    grown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert float(grown) < 200


def test_embeddings_behind_the_same_two_methods():
    embedded = []

    def embed(texts):
        embedded.extend(texts)
        return np.array([[math.cos(len(text)), math.sin(len(text))] for text in texts])

    index = EmbeddingNoveltyIndex(embed, threshold=0.9)
    assert index.nearest("abc") == (0.0, -1)
    index.extend("x" * length for length in range(1, 200))
    score, position = index.nearest("y" * 7)
    assert score == pytest.approx(1, abs=1e-6) and len(index) == 199
    assert math.cos(position + 1 - 7) == pytest.approx(1, abs=1e-3)
    index.add("y" * 7)
    assert embedded.count("y" * 7) == 1  # asked about and added, embedded once
    with pytest.raises(ConfigError, match="shape"):
        EmbeddingNoveltyIndex(lambda texts: np.zeros((1, 3))).add("a")


@pytest.mark.parametrize(("options", "word"), [({"threshold": 1.5}, "between"), ({"tokenizer": "unicod"}, "unicode")])
def test_mistakes(options, word):
    with pytest.raises(ConfigError, match=word):
        NoveltyIndex(**options)
