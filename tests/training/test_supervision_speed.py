"""The fast way through Arrow tables, watched templates and tiktoken gives what `supervise` gives, or stands back."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from pathlib import Path

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers")
pytest.importorskip("trl")

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import trainers as learners
from transformers import PreTrainedTokenizerFast

from instruct_builders.errors import TemplateError
from trainers import fast_tokens, supervision, tables
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
    """A tokenizer of some hundred tokens: "gpt2", "llama3", "nfc", "lower" (byte-level BPE) or "unigram"."""
    level = pre_tokenizers.ByteLevel
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        options = {"special_tokens": ["<unk>", *SPECIAL], "unk_token": "<unk>", "show_progress": False}
        learner = learners.UnigramTrainer(vocab_size=160, **options)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = level(add_prefix_space=False)
        if kind in ("llama3", "nfc"):
            split = pre_tokenizers.Split(pre_tokenizers_regex(LATER), "isolated")
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level(add_prefix_space=False, use_regex=False)])
        if kind in ("nfc", "lower"):
            tokenizer.normalizer = normalizers.NFC() if kind == "nfc" else normalizers.Lowercase()
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


KINDS = ["gpt2", "llama3", "nfc", "lower", "unigram"]
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
        "lower": "RustTokens",
        "unigram": "RustTokens",
    }


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
    assert ways.takes("plain été 你好")
    assert not ways.takes("e\u0301")  # the normaliser would change it
    assert not ways.takes("y" * 5000)
    ways.other.add("é")
    assert not ways.takes("café")


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
