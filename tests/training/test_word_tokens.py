"""Texts are tokenised word by word only where the tokenizer is known to cut there too, and then the same comes out."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers")

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import trainers as learners
from transformers import PreTrainedTokenizerFast

from trainers import fast_tokens, rust_tokens, word_tokens

TEXT = ["one two, three; 4 5 6 <|end|>", "user assistant\n\nthe sky  of of été 你好 \u2581x"]


@functools.cache
def spec(kind: str) -> str:
    """The description of a tokenizer with a few hundred tokens.

    "unigram" is with Metaspace; "level" and "digits" (which cuts between any two) are byte-level BPE.
    """
    if kind != "unigram":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        if kind == "level":
            made.normalizer = normalizers.Lowercase()
        else:
            digits = pre_tokenizers.Digits(individual_digits=True)
            made.pre_tokenizer = pre_tokenizers.Sequence([digits, made.pre_tokenizer])
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        learner = learners.BpeTrainer(
            vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
        )
    else:
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        options = {"special_tokens": ["<unk>", "<|end|>"], "unk_token": "<unk>", "show_progress": False}
        learner = learners.UnigramTrainer(vocab_size=90, **options)
    made.train_from_iterator(TEXT * 3, learner)
    return made.to_str()


def loaded(description: dict) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(description)))


def by_words(kind: str, change=None) -> word_tokens.WordTokens | None:
    description = json.loads(spec(kind))
    if change is not None:
        change(description)
    found = fast_tokens.fastest(loaded(description))
    return found if isinstance(found, word_tokens.WordTokens) else None


def more(content: str, **settings_of):
    def change(description: dict) -> None:
        token = description["added_tokens"][-1] | {"content": content, "id": 5000} | settings_of
        description["added_tokens"].append(token)

    return change


@pytest.mark.parametrize("kind", ["digits", "level", "unigram"])
@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(pre_tokenizer={"type": "Punctuation", "behavior": "Isolated"}),
        lambda d: d.update(pre_tokenizer=None),
        lambda d: d.update(normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "_"}),
        lambda d: d["added_tokens"][-1].update(lstrip=True),
        lambda d: d["added_tokens"][-1].update(rstrip=True),
        more("two words"),
        more("|><|"),  # overlaps with <|end|>
        more("<|end|>x"),
    ],
)
def test_a_tokenizer_that_may_cut_otherwise_is_used_itself(kind, change):
    assert by_words(kind) is not None
    assert by_words(kind, change) is None


def test_more_that_may_cut_otherwise():
    assert by_words("unigram", lambda d: d["pre_tokenizer"].update(prepend_scheme="first")) is None
    assert by_words("unigram", lambda d: d["pre_tokenizer"].update(split=False)) is None
    assert by_words("unigram", lambda d: d["pre_tokenizer"].update(prepend_scheme="never")) is not None
    assert by_words("level", lambda d: d["model"].update(dropout=0.5)) is None
    assert by_words("level", more("tool", normalized=True)) is None  # looked for in the text in lower case


PIECES = st.sampled_from(
    ["one", " ", "  ", "two,", "\n", "<|end|>", "<|", "\u2581", "É", "你", "\u00a0", "4 5", "12", "\t"]
)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["digits", "level", "unigram"]), st.lists(st.lists(PIECES, max_size=9).map("".join), min_size=1)
)
def test_the_same_tokens_come_out(kind, texts):
    encoder = by_words(kind)
    nothing = np.zeros(0, np.int64)
    for _ in range(2):
        found = encoder.encode(texts, rust_tokens.Marks(nothing, nothing, nothing, nothing))
        due = encoder.tokenizer(texts, add_special_tokens=False)["input_ids"]
        assert found.ids.tolist() == [number for ids in due for number in ids]
        assert found.counts.tolist() == list(map(len, due))


def test_the_dictionary_does_not_grow_for_ever(monkeypatch):
    monkeypatch.setattr(word_tokens, "KEPT", 40)
    encoder, nothing = by_words("unigram"), np.zeros(0, np.int64)
    for start in range(0, 300, 20):
        texts = [f"one w{number} two" for number in range(start, start + 20)]
        found = encoder.encode(texts, rust_tokens.Marks(nothing, nothing, nothing, nothing))
        due = encoder.tokenizer(texts, add_special_tokens=False)["input_ids"]
        assert found.ids.tolist() == [number for ids in due for number in ids]
        assert len(encoder.known) <= 40 and len(encoder.counts) == len(encoder.known)
