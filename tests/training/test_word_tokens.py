"""Texts are tokenised word by word only where the tokenizer is known to cut there too, and then the same comes out."""

from __future__ import annotations

import functools
import json
import re

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers")

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import trainers as learners
from transformers import PreTrainedTokenizerFast

from trainers import fast_tokens, rust_tokens, supervision, tables, word_rules, word_tokens

TEXT = ["one two, three; 4 5 6 <|end|>", "user assistant\n\nthe sky  of of été 你好 \u2581x"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
OWN = r" ?\w+|\s+| ?[^\w\s]+"
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
]
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
SPLITS = {"own": [OWN], "deepseek": DEEPSEEK, "gpt4o": [GPT4O], "cl100k": [CL100K]}
PREFIX = {"llama": None, "first": "first", "always": "always", "gemma": None}  # SentencePiece's BPE
KINDS = ["digits", "level", "unigram", *SPLITS, *PREFIX]


@functools.cache
def spec(kind: str) -> str:
    """The description of a tokenizer with a few hundred tokens.

    "unigram" is with Metaspace, those of `PREFIX` are BPE without words, all others byte-level BPE; "digits" cuts
    between any two.
    """
    learner = learners.BpeTrainer(vocab_size=300, special_tokens=["<|end|>"], show_progress=False)
    made = Tokenizer(models.BPE())
    if kind == "unigram":
        made = Tokenizer(models.Unigram())
        options = {"special_tokens": ["<unk>", "<|end|>"], "unk_token": "<unk>", "show_progress": False}
        learner = learners.UnigramTrainer(vocab_size=90, **options)
    if kind in ("unigram", *PREFIX):
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    else:
        learner.initial_alphabet = pre_tokenizers.ByteLevel.alphabet()
        split = pre_tokenizers.Digits(individual_digits=True)
        cutters = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLITS.get(kind, [])] or [split]
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind not in SPLITS)
        made.pre_tokenizer = pre_tokenizers.Sequence([*cutters, level])
        made.decoder = decoders.ByteLevel()
        if kind == "level":
            made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), level
    made.train_from_iterator(TEXT * 3, learner)
    return json.dumps(without_words(json.loads(made.to_str()), kind)) if kind in PREFIX else made.to_str()


def without_words(description: dict, kind: str) -> dict:
    """The tokenizer as Llama's, Mistral's or Gemma's: any text between added tokens is one word."""
    vocabulary = description["model"]["vocab"]
    for name in ["<unk>", *BYTES]:
        vocabulary.setdefault(name, len(vocabulary))
    description["model"] |= {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
    normal = {"llama": [{"type": "Prepend", "prepend": "\u2581"}, SPACE], "gemma": [SPACE]}.get(kind)
    description["normalizer"] = normal and {"type": "Sequence", "normalizers": normal}
    if PREFIX[kind]:
        description["pre_tokenizer"] |= {"prepend_scheme": PREFIX[kind], "split": False}
    else:
        gemma = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
        description["pre_tokenizer"] = gemma if kind == "gemma" else None
    return description


def loaded(description: dict, **options) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(description)), **options)


def by_words(kind: str, *changes) -> word_tokens.WordTokens | None:
    description = json.loads(spec(kind))
    for change in changes:
        change(description)
    found = fast_tokens.fastest(loaded(description))
    return found if isinstance(found, word_tokens.WordTokens) else None


def more(content: str, **settings_of):
    def change(description: dict) -> None:
        number = 5000 + len(description["added_tokens"])
        token = description["added_tokens"][-1] | {"content": content, "id": number} | settings_of
        description["added_tokens"].append(token)

    return change


@pytest.mark.parametrize("kind", ["digits", "level", "unigram", "llama"])
@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(pre_tokenizer={"type": "Punctuation", "behavior": "Isolated"}),
        lambda d: d.update(pre_tokenizer=None, normalizer=None),
        lambda d: d.update(normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "_"}),
        lambda d: d["added_tokens"][-1].update(lstrip=True),
        lambda d: d["added_tokens"][-1].update(rstrip=True),
        lambda d: d["added_tokens"][-1].update(single_word=True),
    ],
)
def test_a_tokenizer_that_may_cut_otherwise_is_used_itself(kind, change):
    assert by_words(kind) is not None
    assert by_words(kind, change) is None


def test_more_that_may_cut_otherwise():
    assert by_words("unigram", lambda d: d["pre_tokenizer"].update(split=False)) is None
    assert by_words("unigram", lambda d: d["pre_tokenizer"].update(replacement="_")) is None
    assert by_words("level", lambda d: d["model"].update(dropout=0.5)) is None
    assert by_words("level", more("tool", normalized=True)) is None  # looked for in the text in lower case
    assert by_words("digits", more("<|end|>x", normalized=True)) is None  # looked for after the others
    assert by_words("digits", more("tool", normalized=True)) is not None
    assert by_words("own", lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(invert=True)) is None
    assert by_words("own", lambda d: d["pre_tokenizer"]["pretokenizers"].pop(0)) is None
    level = {"add_prefix_space": True}
    assert by_words("own", lambda d: d["pre_tokenizer"]["pretokenizers"][-1].update(level)) is None


@pytest.mark.parametrize("kind", PREFIX)
def test_merges_over_a_space_are_seen(kind):
    def crossing(description: dict) -> None:
        left = next(token for token in description["model"]["vocab"] if token[-1] == "e")
        description["model"]["vocab"][left + "\u2581"] = 6000
        description["model"]["merges"].append([left, "\u2581"])

    assert by_words(kind, lambda d: d["model"]["merges"].append(["\u2581", "\u2581"]), double) is not None
    assert by_words(kind, crossing) is None
    assert by_words(kind, lambda d: d["model"].update(ignore_merges=True)) is None


def double(description: dict) -> None:
    description["model"]["vocab"].setdefault("\u2581\u2581", 6001)


ADDED = [more("<|e"), more("<|end|>x"), more("two words"), more("\n"), more("\n\n"), more(" x"), more("|>\u2581")]
PIECES = st.sampled_from(
    "one^ ^  ^two,^\n^<|end|>^<|^|>^\u2581^É^你^\u00a0^4 5^12^\t^'s^x^two words^</s>^<0x0A>^<unk>^\u0301^e\u0301^🙂^?!"
    "^K^ the sky, of^\ue000^\x00".split("^")
)
TEXTS = st.lists(st.one_of(PIECES, st.text(st.characters(exclude_categories=["Cs"]), max_size=4)), max_size=9)


@functools.cache
def kept(kind: str, added: bool) -> word_tokens.WordTokens:
    return by_words(kind, *ADDED * added)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(KINDS), st.booleans(), st.lists(TEXTS.map("".join), min_size=1))
def test_the_same_tokens_come_out(kind, added, texts):
    encoder = kept(kind, added)
    nothing = np.zeros(0, np.int64)
    for _ in range(2):
        found = encoder.encode(texts, rust_tokens.Marks(nothing, nothing, nothing, nothing))
        due = encoder.tokenizer(texts, add_special_tokens=False)["input_ids"]
        assert found.ids.tolist() == [number for ids in due for number in ids]
        assert found.counts.tolist() == list(map(len, due))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["own", "deepseek", *PREFIX]), st.lists(TEXTS.map("".join), min_size=4, max_size=12))
def test_the_same_tokens_are_supervised(kind, texts):
    source = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>{% endfor %}"
    tokenizer = loaded(json.loads(spec(kind)), eos_token="<|end|>")
    rows = [
        [{"role": "user", "content": f"one {text}"}, {"role": "assistant", "content": f"{text} two\u2581"}]
        for text in texts
        if "<|end|>" not in text
    ]
    assume(rows)
    tables.tables.cache_clear()
    found = supervision.prepare(datasets.Dataset.from_dict({"messages": rows}), tokenizer, source)
    assert list(found.select_columns(["input_ids", "labels"])) == [
        supervision.supervise(tokenizer, row, source) for row in rows
    ]


UNPROVEN = [
    r"\w+|\W+",
    r"\S+\s|\s",
    r".+",
    r"(?<= )\w|\s+",
    r"\b\w+|\s+",
    r"a(?!\s)|\s+",
    r"(?:a|b )+|\s+",
    r"\s*$|\s",
]
UNPROVEN += [
    r"a*|\s+",
    r"[a&&b]|\s",
    r"(?:a| b)+|\s",
    r"[[a ]]+|\s",
    r"\w+\s\K|\s",
    r"(?x)a b|\s",
    r"(?i:ß)\s|\s",
    "a|",
]


def test_patterns_that_may_match_over_a_cut():
    for pattern in UNPROVEN:
        with pytest.raises(word_rules._Unproven):
            word_rules._reads(pattern)
    assert not word_rules._reads(r"\s?\p{L}+")  # cuts "a b", but not "1 2"
    assert all(map(word_rules._reads, [*fast_tokens.PATTERNS, OWN, DEEPSEEK[-1], GPT4O, CL100K]))


ATOMS = st.sampled_from(
    r"a; ;\s;\S;\p{L};[^\s\p{L}];[ab];\w;.;\d;[^a];[\r\n];(a);(?:a|b);(?: |\s);(?:\s+(?!\S));(?i:'s|b);(?: ?\p{L})"
    r";(?:b\s?)".split(";")
)
TIMES = st.sampled_from(["", "", "", "?", "+", "*", "+?", "{1,2}", "{0,2}", "++"])
AHEAD = st.sampled_from(["", "", "", r"(?!\S)", "$", r"(?=a)", r"(?!\s)"])
BRANCHES = st.lists(st.tuples(ATOMS, TIMES, AHEAD).map("".join), min_size=1, max_size=3).map("".join)
PATTERN = st.lists(BRANCHES, min_size=1, max_size=4).map(lambda some: "|".join([*some, r"\s+"]))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.data(), PATTERN, st.text("ab1' \n!s", max_size=12), st.text("ab1' \n!s", max_size=12))
def test_a_proven_pattern_cuts_both_halves_as_the_whole(data, pattern, left, right):
    try:
        cuts = word_rules._reads(pattern)
    except word_rules._Unproven:
        assume(False)
    left, right = left + data.draw(st.sampled_from("ab1'!")), " " + data.draw(st.sampled_from("ab1'!")) + right
    assert cuts
    assert words(pattern, left + right) == words(pattern, left) + words(pattern, right)


def words(pattern: str, text: str) -> list[str]:
    return [word for word, _ in pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str(text)]


def test_how_the_engine_reads_what_comes_twice():
    assert words("a?+b", "aab") == ["a", "ab"]
    assert words("a{1,2}+b", "aaaab") in (["aaaab"], ["a", "a", "aab"])


def test_the_longest_of_added_tokens_is_found():
    names = {b"ab", b"abc", b"b", b"bcd", b"a|", b"abcab"}
    pattern = re.compile(word_tokens._longest(names))
    plain = re.compile(b"|".join(map(re.escape, sorted(names, key=len, reverse=True))))
    for number in range(4**6):
        text = bytes(b"abcd"[number // 4**place % 4] for place in range(6))
        assert pattern.findall(text) == plain.findall(text)


def test_the_dictionary_does_not_grow_for_ever(monkeypatch):
    monkeypatch.setattr(word_tokens, "KEPT", 40)
    encoder, nothing = by_words("unigram"), np.zeros(0, np.int64)
    for start in range(0, 300, 20):
        texts = [f"one w{number} two" for number in range(start, start + 20)]
        found = encoder.encode(texts, rust_tokens.Marks(nothing, nothing, nothing, nothing))
        due = encoder.tokenizer(texts, add_special_tokens=False)["input_ids"]
        assert found.ids.tolist() == [number for ids in due for number in ids]
        assert sum(map(len, encoder.known)) == len(encoder.counts) <= 40
