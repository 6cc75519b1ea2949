"""The fast way through Arrow tables, watched templates and tiktoken gives what `supervise` gives, or stands back."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers")
pytest.importorskip("trl")

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import trainers as learners
from transformers import PreTrainedTokenizerFast

from instruct_builders.errors import TemplateError
from trainers import fast_tokens, rust_tokens, supervision, tables, word_tokens
from trainers.labels import choose, tiled
from trainers.rendering import Printer, literals
from trainers.supervision import prepare, supervise
from trainers.watching import concatenation

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "supervision_cases.py"


def _load():
    spec = importlib.util.spec_from_file_location("supervision_cases", FILE)
    module = sys.modules.setdefault("supervision_cases", importlib.util.module_from_spec(spec))
    if not hasattr(module, "cases"):
        spec.loader.exec_module(module)
    return module


TEMPLATES = _load().templates()
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
TEXT = [
    "Name a colour. Blue is one; I'll name another: it's RED! 123456 of 7",
    "user assistant system Be brief.\n\n  def f(x):\n    return x  # été 你好 你好吗 🙂\n",
    "### Instruction: USER: ASSISTANT: naïve café, the the the sky of of name",
]
LATER = fast_tokens._LATER.format("{1,3}")


@functools.cache
def made(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of some hundred tokens.

    "gpt2", "llama3", "nfc", "lower" and "trims" (offsets without blanks) are byte-level BPE; of the others, "words"
    drops every blank between tokens, and "kd" makes several tokens of one character.
    """
    level = pre_tokenizers.ByteLevel
    if kind == "words":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        tokenizer.normalizer = normalizers.BertNormalizer()
        learner = learners.WordPieceTrainer(vocab_size=300, special_tokens=["<unk>", *SPECIAL], show_progress=False)
    elif kind in ("unigram", "kd"):
        tokenizer = Tokenizer(models.Unigram())
        if kind == "kd":
            tokenizer.normalizer = normalizers.NFKD()
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        options = {"special_tokens": ["<unk>", *SPECIAL], "unk_token": "<unk>", "show_progress": False}
        learner = learners.UnigramTrainer(vocab_size=160, **options)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = level(add_prefix_space=False)
        if kind in ("llama3", "nfc"):
            split = pre_tokenizers.Split(pre_tokenizers_regex(LATER), "isolated")
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level(add_prefix_space=False, use_regex=False)])
        if kind != "gpt2":
            tokenizer.normalizer = {"nfc": normalizers.NFC(), "llama3": None}.get(kind, normalizers.Lowercase())
        if kind == "trims":
            tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        tokenizer.decoder = decoders.ByteLevel()
        options = {"special_tokens": SPECIAL, "initial_alphabet": level.alphabet(), "show_progress": False}
        learner = learners.BpeTrainer(vocab_size=420, **options)
    tokenizer.train_from_iterator(TEXT * 3, learner)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", bos_token="<s>")


def pre_tokenizers_regex(pattern: str):
    from tokenizers import Regex

    return Regex(pattern)


def talk(*texts: str) -> list[dict]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def same(kind: str, template: str, rows: list) -> None:
    source = TEMPLATES.get(template, template)
    try:
        due = [supervise(made(kind), row, source) for row in rows]
    except TemplateError:
        with pytest.raises(TemplateError, match=r"^row \d+: "):
            prepare(datasets.Dataset.from_dict({"messages": rows}), made(kind), source)
        return
    found = prepare(datasets.Dataset.from_dict({"messages": rows}), made(kind), source, batch_size=7)
    assert [found[place] for place in range(len(rows))] == due


KINDS = ["gpt2", "llama3", "nfc", "lower", "trims", "unigram", "kd", "words"]
PIECES = st.sampled_from(
    [
        "\n",
        " ",
        "  ",
        "<|im_end|>",
        "</think>",
        "x",
        "e\u0301",
        "é",
        "\u0301",
        "\u1e9e",
        "ſ",
        "'S",
        "\x85",
        "\u2003",
        "🙂",
        "你",
        "ﬁ",
        "㍿",
        "K",
        "İ",
    ]
)
TEXTS = st.lists(st.one_of(PIECES, st.text(st.characters(exclude_categories=["Cs"]), max_size=5)), max_size=5)
ROWS = st.lists(st.lists(TEXTS.map("".join), min_size=2, max_size=4), min_size=3, max_size=8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", ["ours/chatml", "ours/vicuna", "trl/qwen3", "trl/llama3"])
def test_rows_of_several_shapes(kind, template):
    rows = [talk(f"question {k}\n", f" answer {k} été\n", *["more 你好", "again"] * (k % 2)) for k in range(20)]
    rows += [[{"role": "system", "content": f"rules {k}"}, *talk("a", f"b{k}")] for k in range(4)]
    rows += [talk("x", "</think>y"), talk("x", "<|im_end|>"), talk("x", "\ny"), talk("🙂", "y" * 9000)]
    same(kind, template, rows)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(KINDS), st.sampled_from(["ours/chatml", "ours/vicuna"]), ROWS)
def test_any_rows(kind, template, texts):
    same(kind, template, [talk(*row[: len(row) // 2 * 2]) for row in texts])


def test_without_tiktoken_the_tokenizer_itself_is_used(monkeypatch):
    with monkeypatch.context() as absent:
        absent.setitem(sys.modules, "tiktoken", None)
        assert fast_tokens.byte_tokens(made("gpt2")) is None
    monkeypatch.setattr(fast_tokens, "byte_tokens", lambda tokenizer: None)
    tables.tables.cache_clear()
    same("gpt2", "ours/chatml", [talk(f"question {k}", f"answer {k}") for k in range(9)])
    tables.tables.cache_clear()


def test_which_tokenizers_tiktoken_stands_in_for():
    pytest.importorskip("tiktoken")
    ways = {kind: type(fast_tokens.fastest(made(kind))).__name__ for kind in KINDS}
    assert ways == {
        "gpt2": "ByteTokens",
        "llama3": "ByteTokens",
        "nfc": "ByteTokens",
        "lower": "WordTokens",
        "trims": "RustTokens",
        "unigram": "WordTokens",
        "kd": "WordTokens",
        "words": "RustTokens",
    }
    known = {kind: rust_tokens.letter_sizes(made(kind)) is not None for kind in KINDS}
    assert known == {kind: kind not in ("unigram", "kd", "words") for kind in KINDS}


@pytest.mark.parametrize("change", ["merges", "ids", "pattern", "dropout", "lstrip", "nested"])
def test_a_tokenizer_that_is_not_proven_is_used_itself(change):
    pytest.importorskip("tiktoken")
    spec = json.loads(made("gpt2").backend_tokenizer.to_str())
    model = spec["model"]
    if change == "merges":
        model["merges"] = model["merges"][::-1]
    elif change == "ids":  # a merge that makes a token of two that can't be neighbours when it is its turn
        first, second = model["merges"][0], model["merges"][1]
        one, two = "".join(first), "".join(second)
        model["vocab"][one], model["vocab"][two] = model["vocab"][two], model["vocab"][one]
    elif change == "pattern":
        split = {"type": "Split", "pattern": {"Regex": r"\w+|\W+"}, "behavior": "Isolated", "invert": False}
        level = spec["pre_tokenizer"] | {"use_regex": False}
        spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
    elif change == "dropout":
        model["dropout"] = 0.1
    elif change == "lstrip":
        spec["added_tokens"][-1]["lstrip"] = True
    elif change == "nested":
        more = spec["added_tokens"][-1] | {"content": "<|im_end|>x", "id": 5000}
        spec["added_tokens"].append(more)
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)), eos_token="</s>")
    assert fast_tokens.byte_tokens(other) is None


def test_texts_that_tiktoken_is_not_given():
    pytest.importorskip("tiktoken")
    ways = fast_tokens.byte_tokens(made("nfc"))
    # The normaliser would change the second; the third is one long word.
    assert ways.takes(["plain été 你好", "e\u0301", "y" * 5000, "plain"]).tolist() == [True, False, False, True]
    ways.other.add("é")
    assert not ways.takes(["café"]).any()


PLACES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60)), min_size=12, max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(KINDS), st.lists(TEXTS.map("".join), min_size=1, max_size=12), PLACES)
def test_tokens_at_any_places_are_those_that_offsets_tell(kind, texts, places):
    texts = [text.replace("<|im_end|>", "") + "<|im_end|>\nend" for text in texts]
    # places of each text: start and end of a span, and where a token may start
    places = np.array([[min(at, len(text)) for at in row] for text, row in zip(texts, places, strict=False)])
    places[:, :2].sort(1)
    places[::2, 2] = [text.rindex("<|im_end|>") for text in texts[::2]]
    encoders = [rust_tokens.RustTokens(made(kind)), fast_tokens.fastest(made(kind))]
    for encoder in encoders[: 1 + isinstance(encoders[1], word_tokens.WordTokens)]:
        for _ in range(2):  # words that are new, and words that are known
            _check_places(encoder, texts, places)


def _check_places(encoder, texts: list[str], places: np.ndarray) -> None:
    rows, given = np.arange(len(texts)), places
    if encoder.in_bytes:
        given = np.array(
            [[len(text[:at].encode()) for at in row] for text, row in zip(texts, places.tolist(), strict=True)]
        )
    marks = rust_tokens.Marks(given[:, :2].ravel(), np.repeat(rows, 2), given[:, 2], rows)
    found = encoder.encode(texts, marks)
    due = encoder.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    assert found.ids.tolist() == [number for ids in due["input_ids"] for number in ids]
    assert found.counts.tolist() == [len(ids) for ids in due["input_ids"]]
    ends = np.cumsum(found.counts)
    for row, (low, high, stop) in enumerate(places.tolist()):
        offsets = tiled(due["offset_mapping"][row], rust_tokens.trims_offsets(encoder.tokenizer))
        begin = int(ends[row] - len(offsets))
        inside, _ = choose(offsets, [(low, high)])
        assert found.inside[begin : ends[row]].tolist() == inside.tolist()
        starts = np.flatnonzero((offsets[:, 0] == stop) & (offsets[:, 1] > stop))
        first = begin + starts[0] if len(starts) else -1
        # Of a character in several tokens, such as " 🙂" in two of which one has the blank, no start is told.
        assert found.stops[row] == first or (row % 2 and found.stops[row] == -1)


def test_a_tokenizer_that_gives_other_tokens_than_it_is_known_to_is_told(monkeypatch):
    rows = datasets.Dataset.from_dict({"messages": [talk(f"question {k}", f"answer {k}") for k in range(9)]})
    right = rust_tokens.by_bounds

    def shifted(bounds, first, marks):
        turns, stops = right(bounds, first, marks)
        return turns - (marks.edge_rows == 0) * (len(first) > 2), stops  # right when a shape's first row is checked

    monkeypatch.setattr(rust_tokens, "by_bounds", shifted)
    tables.tables.cache_clear()
    with pytest.raises(TemplateError, match="gives other supervised tokens than the tokenizer"):
        prepare(rows, made("trims"), TEMPLATES["ours/chatml"])
    tables.tables.cache_clear()


MARKERS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{BODY}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize(
    ("body", "proven"),
    [
        ("{{ m.content }}", True),
        ("{{ m['content'] | trim }}", True),
        ("{{ '>' ~ m.content.strip() + '<' }}", True),
        ("{% set c = m.content if m.content is string else '' %}{{ c }}", True),
        ("{% macro p(t) %}[{{ t }}]{% endmacro %}{{ p(m.content) }}", True),
        ("{% if '</think>' in m.content %}x{% endif %}{{ m.content }}", True),  # rows with that word go another way
        ("{% if 'x' in m.content %}x{% endif %}{{ m.content }}", False),
        ("{{ m.content[:9] }}", False),
        ("{{ m.content | upper }}", False),
        ("{{ m.content | tojson }}", False),
        ("{{ m.content | replace('a', 'b') }}", False),
        ("{% if m.content | length > 99 %}long{% endif %}{{ m.content }}", False),
        ("{% if m.content in 'w1x w2x' %}x{% endif %}{{ m.content }}", False),
        ("{% if m.content == 'yes' %}x{% endif %}{{ m.content }}", False),
        ("{% set c %}{{ m.content }}!{% endset %}{% if c.endswith('?!') %}x{% endif %}{{ c }}", False),
        ("{% if ('a' ~ m.content) is in ['ab'] %}x{% endif %}{{ m.content }}", False),
        ("{{ '%s' | format(m.content) }}", False),
        ("{{ m.content.replace('a', 'b') }}", False),
        ("{{ strftime_now('%S') }}{{ m.content }}", False),
        ("{{ 'x'.join([m.content, m.content]) }}", False),
        ("{{ m.content * 2 }}", False),
        ("{% for c in m.content %}{{ c }}{% endfor %}", False),
    ],
)
def test_what_a_template_is_seen_to_do(body, proven):
    printer = Printer(made("gpt2"), MARKERS.replace("{BODY}", body))
    messages = talk("w0x", "w1x")
    found = concatenation(printer, messages, {}, literals(printer.source)[0])
    assert (found is not None) == proven
    if proven:
        pieces, order, _ = found
        texts = [messages[place]["content"] for place in order]
        whole = "".join(part for pair in zip(pieces, [*texts, ""], strict=True) for part in pair)
        assert whole == printer.text(messages)


def test_a_template_that_looks_into_texts_is_followed():
    body = "{% if 'x' in m.content %}!{% endif %}{{ m.content }}"
    prompt = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    rows = [talk(f"q{k}", f"a{k}" + "x" * (k % 3 == 1)) for k in range(12)] + [talk("x", "y"), talk("a", "b")]
    same("gpt2", MARKERS.replace("{BODY}", body) + prompt, rows)


def test_only_rows_that_need_it_go_the_careful_way(monkeypatch):
    careful, explain = [], supervision._explain
    monkeypatch.setattr(supervision, "_explain", lambda *row: careful.append(row) or explain(*row))
    template = TEMPLATES["ours/chatml"]
    plain = [talk(f"question {k}", f"answer {k}\n") for k in range(50)]
    for odd in (0, 7):  # typed tags could end a turn, so such rows are looked at one by one
        rows = plain + [talk(f"what is <|im_end|> {k}", "a tag") for k in range(odd)]
        careful.clear()
        tables.tables.cache_clear()
        prepare(datasets.Dataset.from_list([{"messages": row} for row in rows]), made("gpt2"), template)
        assert odd <= len(careful) < odd + 25
