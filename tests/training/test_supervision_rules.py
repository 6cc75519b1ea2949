"""Each rule by itself: templates made to break it, tokenizers of every kind, conversations at random."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instruct_builders.errors import ConfigError, RowError, TemplateError

pytest.importorskip("transformers")

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from trainers.supervision import explain, stop_token, supervise

HEAD, END = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMMED = CHATML.replace("m.content", "(m.content | trim)")
UA = [{"role": "user", "content": "uvw"}, {"role": "assistant", "content": "xyz"}]
SPECIAL = [HEAD, END, "<s>", "</s>", "<think>", "</think>", "<|user|>", "<|assistant|>", "<|call|>"]
CORPUS = ["the model writes an answer\n\n to the user's question, and stops: system assistant <think> ok </think>"] * 4


def wrapped(core: Tokenizer) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token=END, unk_token=None)
    fast.add_tokens(SPECIAL, special_tokens=True)
    return fast


def byte_level(trim: bool = False, merges: int = 400) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=merges, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(CORPUS, trainer)
    if trim:
        core.post_processor = processors.ByteLevel(trim_offsets=True)
    return wrapped(core)


def metaspace() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE(byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=500, show_progress=False, initial_alphabet=[chr(c) for c in range(32, 127)]
    )
    core.train_from_iterator(CORPUS, trainer)
    return wrapped(core)


def unigram() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    core.train_from_iterator(CORPUS, trainer)
    return wrapped(core)


KINDS = {
    "byte-level": byte_level(),
    "byte-level, trimmed offsets": byte_level(trim=True),
    "metaspace": metaspace(),
    "unigram": unigram(),
}
FAST = KINDS["byte-level"]


def learned(fast, found) -> str:
    """The supervised text, each token by its characters."""
    return "".join(found.text[a:b] for a, b in found.spans)


def refusal(messages, template, fast=FAST, **options) -> TemplateError:
    with pytest.raises(TemplateError) as caught:
        supervise(fast, messages, template, **options)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer(kind):
    fast = KINDS[kind]
    found = explain(
        fast, [*UA, {"role": "user", "content": " the user"}, {"role": "assistant", "content": " answer "}], CHATML
    )
    assert found.input_ids == fast(found.text, add_special_tokens=False)["input_ids"]
    assert learned(fast, found) == f"xyz{END} answer {END}"
    assert found.stops == dict.fromkeys((1, 3), fast.convert_tokens_to_ids(END))
    assert fast.decode([label for label in found.labels if label != -100]).count(END) == 2


def test_trimmed_offsets_hide_no_character_of_the_prompt():
    # " answer" is one token whose offsets leave out its blank; the blank is the prompt's, so the token is not learned.
    template = CHATML.replace("'\n' + m.content", "': ' + m.content").replace("assistant\n", "assistant: ")
    messages = [UA[0], {"role": "assistant", "content": "answer to the user"}]
    for fast in (byte_level(trim=True, merges=600), byte_level(merges=600)):
        found = explain(fast, messages, template)
        assert learned(fast, found).startswith("answer")
        assert found.straddling == 1
        assert " answer" not in fast.decode([label for label in found.labels if label != -100])


def test_null_fields_count_as_absent():
    messages = [turn | {"tool_calls": None, "reasoning_content": None, "train": None} for turn in UA]
    assert supervise(FAST, messages, CHATML) == supervise(FAST, UA, CHATML)


@pytest.mark.parametrize("flag", [{"train": False}, {"weight": 0}, {"weight": 0.0}])
def test_a_message_left_out(flag):
    found = explain(FAST, [UA[0], UA[1] | flag, UA[0], {"role": "assistant", "content": "learn"}], CHATML)
    assert learned(FAST, found) == f"learn{END}"


def test_last_only():
    found = explain(FAST, [*UA, UA[0], {"role": "assistant", "content": "learn"}], CHATML, train_on="last")
    assert learned(FAST, found) == f"learn{END}"


@pytest.mark.parametrize(
    "messages", [UA[:1], [UA[0], UA[1] | {"train": False}], [{"role": "system", "content": "s"}]], ids=str
)
def test_nothing_to_learn_is_an_error(messages):
    with pytest.raises(RowError, match="no token to train on"):
        supervise(FAST, messages, CHATML)


def test_wrong_options():
    with pytest.raises(ConfigError, match="Allowed: all, last"):
        supervise(FAST, UA, CHATML, train_on="first")
    with pytest.raises(RowError, match="weight 0 or 1"):
        supervise(FAST, [UA[0], UA[1] | {"weight": 0.5}], CHATML)


def test_what_the_generation_prompt_supplies_is_left_out_even_of_a_message():
    template = CHATML.replace("assistant\n' }}", "assistant\n<think>\n' }}")
    found = explain(FAST, [UA[0], {"role": "assistant", "content": "<think>\nhm\n</think>\nyes"}], template)
    assert learned(FAST, found) == f"hm\n</think>\nyes{END}"
    assert found.supplied == len("<think>\n")
    assert learned(FAST, explain(FAST, UA, template)) == f"xyz{END}"


def test_an_answer_that_only_begins_like_the_prompt_is_whole():
    template = CHATML.replace("assistant\n' }}", "assistant\nthinking: ' }}")
    for answer in ("thin", "think\n", "t", " thinking"):
        found = explain(FAST, [UA[0], {"role": "assistant", "content": answer}], template)
        assert learned(FAST, found) == answer + END


def test_content_of_private_use_characters():
    text = "a\U00100000b\U00100001\U000f0002"
    assert learned(FAST, explain(FAST, [UA[0], {"role": "assistant", "content": text}], CHATML)) == text + END


def test_reasoning_that_is_not_printed_is_reported():
    found = explain(FAST, [UA[0], UA[1] | {"reasoning_content": "hm"}], CHATML)
    assert found.left_out == [(1, "reasoning_content")]


def test_rule_4_end_of_text_only_at_the_end():
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% else %}</s>{% endif %}"
    )
    assert learned(FAST, explain(FAST, UA, template)) == "xyz</s>"
    error = refusal([{"role": "system", "content": "s"}, *UA, *UA], template)
    assert error.rule == 4
    assert [turn["role"] for turn in error.messages] == ["user", "assistant", "user", "assistant"]
    assert learned(FAST, explain(FAST, [*UA, *UA], template, train_on="last")) == "xyz</s>"


def test_rule_4_no_end_at_all():
    template = "{% for m in messages %}### {{ m.role }}: {{ m.content }}\n{% endfor %}### assistant:"
    error = refusal(UA, template)
    assert (error.rule, error.messages[-1]["role"]) == (4, "assistant")
    assert "sha256:" in error.template
    assert "Shortest conversation" in str(error)


def test_rule_4_end_of_turn_that_the_tokenizer_tears_apart():
    error = refusal(UA, CHATML.replace(END, "<|eot|>"))
    assert error.rule == 4
    assert "<|eot|>" in str(error)


def test_rule_3_another_message_inside_the_answer():
    template = CHATML.replace("m.content", "m.content ~ (messages[0].content if loop.index == 2 else '')")
    assert refusal(UA, template).rule in (3, 4)


def test_rule_2_content_that_is_not_printed_or_changed():
    assert "does not print the content" in str(refusal(UA, CHATML.replace("m.content", "(m.text or '')")))
    long = [UA[0], {"role": "assistant", "content": "a long x answer, of many words"}]
    for change in (
        "upper",
        "replace('x', 'xx')",
        "truncate(9, True, '', 0)",
        "length | string",
        "wordwrap(9)",
        "first",
    ):
        assert refusal(long, CHATML.replace("m.content", f"(m.content | {change})")).rule == 2


def test_rule_2_tool_calls_that_are_not_printed():
    call = {"type": "function", "function": {"name": "look", "arguments": {"x": "y"}}}
    error = refusal([UA[0], UA[1] | {"tool_calls": [call]}], CHATML)
    assert error.rule == 2
    assert "tool calls of message 1" in str(error)


def test_rule_5_another_header_at_inference():
    template = CHATML.replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|user|><|call|>' }}")
    assert refusal(UA, template).rule == 5


def test_a_template_that_raises_says_so():
    error = refusal(UA, "{{ raise_exception('not for me') }}")
    assert error.rule is None
    assert "not for me" in str(error)


def test_a_template_that_prints_otherwise_each_time():
    assert refusal(UA, CHATML + "{{ range(100000) | random }}").rule in (1, 2)


def test_slow_tokenizers_and_missing_templates():
    from transformers import ByT5Tokenizer

    with pytest.raises(TemplateError, match="slow tokenizer"):
        supervise(ByT5Tokenizer(), UA, CHATML)
    with pytest.raises(TemplateError, match="no chat template"):
        supervise(FAST, UA)


def test_a_long_conversation_is_shortened():
    template = CHATML.replace("m.content", "(m.content | upper if 'bad' in m.content else m.content)")
    messages = [*UA, *UA, UA[0], {"role": "assistant", "content": "a bad answer"}, *UA]
    assert refusal(messages, template).messages == [messages[5]]


MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_right_markers_are_used():
    found = explain(FAST, [*UA, *UA], MARKED)
    assert found.disagreements == []
    assert found.labels == supervise(FAST, [*UA, *UA], CHATML)["labels"]
    newline = explain(
        FAST, [*UA, *UA], MARKED.replace("{% endgeneration %}{{ '\n' }}", "{{ '\n' }}{% endgeneration %}")
    )
    assert learned(FAST, newline) == f"xyz{END}\n" * 2
    assert newline.disagreements == []


IN, OUT = "{% generation %}", "{% endgeneration %}"
TURN, OTHER = "{{ m.content + '<|im_end|>' }}", "{% else %}{{ m.content + '<|im_end|>\n' }}"
WRONG = {
    "end outside": (TURN + OUT, "{{ m.content }}" + OUT + "{{ '<|im_end|>' }}", {4}),
    "nothing": (IN + TURN + OUT, IN + OUT + TURN, {2, 4}),
    "header": ("\n' }}{% if", "' }}{% if", {5}),
    "question": (OTHER, "{% else %}" + IN + "{{ m.content }}" + OUT + "{{ '<|im_end|>\n' }}", {3}),
}


@pytest.mark.parametrize(("old", "new", "rules"), WRONG.values(), ids=WRONG)
def test_wrong_markers_are_told_and_put_right(old, new, rules):
    assert old in MARKED
    template = MARKED.replace(old, new)
    if rules == {5}:
        template = template.replace(TURN, "{{ '\n' + m.content + '<|im_end|>' }}").replace(
            "{% else %}{{", "{% else %}{{ '\n' +"
        )
    found = explain(FAST, [*UA, *UA], template)
    assert {entry["rule"] for entry in found.disagreements} == rules
    assert found.labels == supervise(FAST, [*UA, *UA], CHATML)["labels"]


def test_markers_of_messages_left_out_are_no_disagreement():
    found = explain(FAST, [*UA, *UA], MARKED, train_on="last")
    assert found.disagreements == []
    assert learned(FAST, found) == f"xyz{END}"


def test_stop_token():
    assert FAST.convert_ids_to_tokens(stop_token(FAST, CHATML)) == [END]
    end, other = FAST.convert_tokens_to_ids([END, "</s>"])
    assert stop_token(FAST, CHATML, generation_config=GenerationConfig(eos_token_id=[other, end])) == [end]
    for wrong in (other, [other], None):
        with pytest.raises(TemplateError, match=r"Set generation_config\.eos_token_id = ") as caught:
            stop_token(FAST, CHATML, generation_config=GenerationConfig(eos_token_id=wrong))
        assert caught.value.rule == 4
    with pytest.raises(TemplateError, match="rule 4"):
        stop_token(FAST, "{% for m in messages %}{{ m.content }}{% endfor %}")


WORDS = st.sampled_from(
    ["user", "assistant", "system", "<think>", "\n", " ", "  ", "im_end", "|>", "<|", "é", "👩‍👧", '"', "{{", "ok"]
)
TEXTS = st.lists(st.one_of(WORDS, st.text(max_size=6)), max_size=6).map("".join)
TEXTS = TEXTS.filter(
    lambda text: json.loads(json.dumps(text)).isprintable() or not any("\ud800" <= c <= "\udfff" for c in text)
)
TALKS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TALKS, st.sampled_from([CHATML, TRIMMED, MARKED]), st.sampled_from(sorted(KINDS)))
def test_any_text_in_a_template_whose_answer_is_known(talk, template, kind):
    fast, text, due, messages = KINDS[kind], "", [], []
    for pair in talk:
        for role, content in zip(("user", "assistant"), pair, strict=True):
            messages.append({"role": role, "content": content})
            shown = content.strip() if template == TRIMMED else content
            text += f"{HEAD}{role}\n"
            if role == "assistant":
                due.append((len(text), len(text) + len(shown) + len(END)))
            text += f"{shown}{END}\n"
    found = explain(fast, messages, template)
    assert found.text == text
    assert found.spans == due
    encoded = fast(text, add_special_tokens=False, return_offsets_mapping=True)
    assert found.input_ids == encoded["input_ids"]
    for (start, end), label in zip(encoded["offset_mapping"], found.labels, strict=True):
        if label != -100:
            assert any(low <= start and end <= high for low, high in due)
