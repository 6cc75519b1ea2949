"""Every template, byte for byte, on a real fast tokenizer: what is printed, what is trained on, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.exceptions import TemplateError as JinjaError

from instruct_builders.errors import TemplateError
from trainers import templates

ONE = [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Blue is one."}]
TWO = [*ONE, {"role": "user", "content": "Another?"}, {"role": "assistant", "content": "Red."}]
SYSTEM = {"role": "system", "content": "Be brief."}
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
PLAIN = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nName a colour.\n\n### Response:"
)
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nName a colour.\n\n### Input:\nof the sky\n\n### Response:"
)
# template, messages, context -> the prompt of the first answer, and what follows it
EXPECTED = [
    ("alpaca", ONE, None, "<s>" + PLAIN, "Blue is one.</s>"),
    ("alpaca", ONE, "", "<s>" + PLAIN, "Blue is one.</s>"),
    ("alpaca", ONE, "of the sky", "<s>" + WITH_INPUT, "Blue is one.</s>"),
    (
        "alpaca",
        TWO,
        "of the sky",
        "<s>" + WITH_INPUT,
        "Blue is one.</s>\n\n### Instruction:\nAnother?\n\n### Response:Red.</s>",
    ),
    (
        "alpaca",
        [SYSTEM, *ONE],
        None,
        "<s>Be brief.\n\n### Instruction:\nName a colour.\n\n### Response:",
        "Blue is one.</s>",
    ),
    ("alpaca_short", ONE, None, "<s>### Instruction:\nName a colour.\n\n### Response:\n", "Blue is one.</s>"),
    (
        "alpaca_short",
        TWO,
        "of the sky",
        "<s>### Instruction:\nName a colour.\n\n### Input:\nof the sky\n\n### Response:\n",
        "Blue is one.</s>\n\n### Instruction:\nAnother?\n\n### Response:\nRed.</s>",
    ),
    ("vicuna", ONE, None, f"<s>{VICUNA} USER: Name a colour. ASSISTANT:", " Blue is one.</s>"),
    (
        "vicuna",
        TWO,
        None,
        f"<s>{VICUNA} USER: Name a colour. ASSISTANT:",
        " Blue is one.</s>USER: Another? ASSISTANT: Red.</s>",
    ),
    ("vicuna", [SYSTEM, *ONE], None, "<s>Be brief. USER: Name a colour. ASSISTANT:", " Blue is one.</s>"),
    ("vicuna", [SYSTEM | {"content": ""}, *ONE], None, "<s>USER: Name a colour. ASSISTANT:", " Blue is one.</s>"),
    (
        "vicuna_short",
        TWO,
        None,
        "<s>USER: Name a colour.\nASSISTANT:",
        " Blue is one.</s>\nUSER: Another?\nASSISTANT: Red.</s>\n",
    ),
    (
        "chatml",
        [SYSTEM, *TWO],
        None,
        "<s><|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n",
        "Blue is one.<|im_end|>\n<|im_start|>user\nAnother?<|im_end|>\n<|im_start|>assistant\nRed.<|im_end|>\n",
    ),
]


def supervised(template, tokenizer, messages, tools=None) -> tuple[list[int], list[int]]:
    """Token ids, and 1 where the markers say that a token is trained on: what transformers itself makes of them."""
    options = {"return_dict": True, "return_assistant_tokens_mask": True}
    printed = tokenizer.apply_chat_template(messages, tools=tools, chat_template=template, **options)
    return printed["input_ids"], printed["assistant_masks"]


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return tiny_tokenizer(extra=("<|im_start|>", "<|im_end|>"))


@pytest.mark.parametrize(("name", "messages", "context", "prompt", "rest"), EXPECTED)
def test_prints_exactly_this_and_prompts_with_its_own_beginning(tokenizer, name, messages, context, prompt, rest):
    template = templates.load(name, tokenizer)
    variables = {} if context is None else {"context": context}
    printed = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **variables)
    assert printed == prompt + rest
    answer = next(place for place, message in enumerate(messages) if message["role"] == "assistant")
    asked = tokenizer.apply_chat_template(
        messages[:answer], chat_template=template, tokenize=False, add_generation_prompt=True, **variables
    )
    assert asked == prompt


@pytest.mark.parametrize("name", templates.NAMES)
def test_trains_on_answers_and_stop_tokens_alone(tokenizer, name):
    template = templates.load(name, tokenizer)
    stop = "<|im_end|>" if name.startswith("chatml") else "</s>"
    lead = " " if name.startswith("vicuna") else ""
    ids, mask = supervised(template, tokenizer, [SYSTEM, *TWO])
    trained = tokenizer.decode([token for token, on in zip(ids, mask, strict=True) if on])
    assert trained == f"{lead}Blue is one.{stop}{lead}Red.{stop}"
    assert tokenizer.convert_ids_to_tokens(templates.stops(template, tokenizer)) == [stop]


@pytest.mark.parametrize("name", templates.NAMES)
def test_a_turn_with_train_false_is_printed_but_not_trained_on(tokenizer, name):
    template = templates.load(name, tokenizer)
    muted = [*TWO[:1], TWO[1] | {"train": False}, *TWO[2:]]
    ids, mask = supervised(template, tokenizer, muted)
    assert ids == supervised(template, tokenizer, TWO)[0]
    assert tokenizer.decode([token for token, on in zip(ids, mask, strict=True) if on]).strip().startswith("Red.")


@pytest.mark.parametrize("name", templates.NAMES)
def test_trl_finds_the_markers_and_the_trained_stop_token(tokenizer, name):
    from trl.chat_template_utils import has_generation_markers, is_chat_template_stop_token_trained

    template = templates.load(name, tokenizer)
    assert has_generation_markers(template)
    assert is_chat_template_stop_token_trained(tokenizer, chat_template=template)


CALL = [{"type": "function", "function": {"name": "look", "arguments": {}}}]


@pytest.mark.parametrize("name", templates.NAMES)
@pytest.mark.parametrize(
    ("messages", "variables", "says"),
    [
        ([ONE[0], {"role": "assistant", "content": "", "tool_calls": CALL}], {}, "tool calls"),
        ([*ONE, {"role": "tool", "content": "4"}], {}, "tool"),
        (ONE, {"tools": [{"type": "function", "function": {"name": "look"}}]}, "tools"),
        ([ONE[0], ONE[1] | {"reasoning_content": "Hm."}], {}, "reasoning"),
        ([ONE[0] | {"content": None}, ONE[1]], {}, "text"),
        ([ONE[0] | {"role": "human"}, ONE[1]], {}, "human"),
    ],
)
def test_what_it_can_not_print_it_refuses(tokenizer, name, messages, variables, says):
    template = templates.load(name, tokenizer)
    if name == "chatml_tools" and "tool" in says:
        assert tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **variables)
        return
    says = says if "tool" not in says else rf"{says}.*chat_template: chatml_tools"
    with pytest.raises(JinjaError, match=says):
        tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **variables)


# chatml_tools: calls and answers.

LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
LISTED = (
    "You can call these functions, given as JSON schemas:\n<tools>\n"
    '{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}\n'
    "</tools>\nTo call one, write its name and its arguments as a JSON object:\n"
    '<tool_call>\n{"name": <name>, "arguments": <object>}\n</tool_call><|im_end|>\n'
)
ASKED = "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n"
CALLED = '<tool_call>\n{"name": "look", "arguments": {"at": "ský \\"1\\""}}\n</tool_call>'
AGAIN = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
AT = {"type": "function", "function": {"name": "look", "arguments": {"at": 'ský "1"'}}}
BLUE, RED = {"role": "tool", "content": "blue"}, {"role": "tool", "content": "red"}
DONE = {"role": "assistant", "content": "Blue."}
# messages, the prompt of the first answer, the answers, what stands between them
TOOL_ROWS = {
    "one call": (
        [ONE[0], {"role": "assistant", "content": "", "tool_calls": [AT]}, BLUE, DONE],
        f"<s><|im_start|>system\n{LISTED}{ASKED}",
        [f"{CALLED}<|im_end|>", "Blue.<|im_end|>"],
        "\n<|im_start|>user\n<tool_response>\nblue\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
    ),
    "system, text, two calls, two answers": (
        [SYSTEM, ONE[0], {"role": "assistant", "content": "I look.", "tool_calls": [AT, *CALL]}, BLUE, RED, DONE],
        f"<s><|im_start|>system\nBe brief.\n\n{LISTED}{ASKED}",
        [f"I look.\n{CALLED}\n{AGAIN}<|im_end|>", "Blue.<|im_end|>"],
        "\n<|im_start|>user\n<tool_response>\nblue\n</tool_response>\n<tool_response>\nred\n</tool_response>"
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
}


@pytest.mark.parametrize("row", TOOL_ROWS)
def test_tools_byte_for_byte_with_their_masks(tokenizer, row):
    messages, prompt, answers, between = TOOL_ROWS[row]
    template = templates.load("chatml_tools", tokenizer)
    printed = tokenizer.apply_chat_template(messages, tools=[LOOK], chat_template=template, tokenize=False)
    assert printed == prompt + answers[0] + between + answers[1] + "\n"
    places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    asked = [
        tokenizer.apply_chat_template(
            messages[:place], tools=[LOOK], chat_template=template, tokenize=False, add_generation_prompt=True
        )
        for place in places
    ]
    assert asked == [prompt, prompt + answers[0] + between]
    ids, mask = supervised(template, tokenizer, messages, tools=[LOOK])
    assert tokenizer.decode([token for token, on in zip(ids, mask, strict=True) if on]) == "".join(answers)
    muted = [message | {"train": False} if "tool_calls" in message else message for message in messages]
    same, mask = supervised(template, tokenizer, muted, tools=[LOOK])
    assert same == ids
    assert tokenizer.decode([token for token, on in zip(ids, mask, strict=True) if on]) == answers[1]


@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}])
@pytest.mark.parametrize("call", [CALL[0], CALL[0]["function"], {"name": "look", "arguments": "{}"}])
def test_spellings_of_a_call_print_the_same(tokenizer, content, call):
    template = templates.load("chatml_tools", tokenizer)
    turns = [ONE[0], {"role": "assistant", "tool_calls": [call]} | content]
    printed = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
    assert printed == f"<s>{ASKED}{AGAIN}<|im_end|>\n"


def test_calls_of_others_than_the_assistant_are_refused(tokenizer):
    template = templates.load("chatml_tools", tokenizer)
    turns = [SYSTEM, ONE[0] | {"tool_calls": CALL}, ONE[1]]
    with pytest.raises(JinjaError, match="message 1 is from user"):
        tokenizer.apply_chat_template(turns, tools=[LOOK], chat_template=template, tokenize=False)


@pytest.mark.parametrize("row", TOOL_ROWS)
def test_supervision_holds_on_tools_as_the_markers_say(tokenizer, row):
    from trainers.supervision import explain

    messages, _, answers, _ = TOOL_ROWS[row]
    template = templates.load("chatml_tools", tokenizer)
    found = explain(tokenizer, messages, template, [LOOK])
    ids, mask = supervised(template, tokenizer, messages, tools=[LOOK])
    assert found.disagreements == [] and found.input_ids == ids
    assert [int(label != -100) for label in found.labels] == mask
    assert tokenizer.decode([label for label in found.labels if label != -100]) == "".join(answers)


@pytest.mark.parametrize("name", ["vicuna", "vicuna_short", "chatml", "chatml_tools"])
def test_a_context_without_a_place_is_refused(tokenizer, name):
    template = templates.load(name, tokenizer)
    with pytest.raises(JinjaError, match="separate context"):
        tokenizer.apply_chat_template(ONE, chat_template=template, tokenize=False, context="of the sky")
    assert not templates.takes_context(template, tokenizer)
    assert templates.takes_context(templates.load("alpaca", tokenizer), tokenizer)


@pytest.mark.parametrize("name", ["alpaca", "alpaca_short", "vicuna", "vicuna_short"])
def test_roles_out_of_order_are_refused(tokenizer, name):
    template = templates.load(name, tokenizer)
    for messages in (ONE[1:], [*ONE, SYSTEM], [ONE[0], ONE[0], ONE[1]]):
        with pytest.raises(JinjaError, match="alternation"):
            tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)


def test_bos_is_printed_only_where_the_tokenizer_adds_it_itself(tiny_tokenizer):
    without = tiny_tokenizer(adds_bos=False)
    for name in ("alpaca", "alpaca_short", "vicuna", "vicuna_short"):
        printed = without.apply_chat_template(ONE, chat_template=templates.load(name, without), tokenize=False)
        assert "<s>" not in printed


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20), min_size=2, max_size=6),
    name=st.sampled_from(templates.NAMES),
)
def test_any_text_comes_through_unchanged(tokenizer, texts, name):
    texts = texts[: len(texts) // 2 * 2]
    roles = ["user", "assistant"] * (len(texts) // 2)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    template = templates.load(name, tokenizer)
    ids, mask = supervised(template, tokenizer, messages)
    stop = "<|im_end|>" if name.startswith("chatml") else "</s>"
    lead = " " if name.startswith("vicuna") else ""
    pieces, open_piece = [], []
    for token, on in zip(ids, mask, strict=True):
        if on:
            open_piece.append(token)
        elif open_piece:
            pieces.append(tokenizer.decode(open_piece))
            open_piece = []
    pieces += [tokenizer.decode(open_piece)] if open_piece else []
    answers = [f"{lead}{text}{stop}" for text in texts[1::2]]
    # A token may span the border to the prompt: its whole text is trained on, as in the originals.
    assert len(pieces) == len(answers)
    assert all(piece.endswith(answer) for piece, answer in zip(pieces, answers, strict=True))


def test_load_refuses_what_is_no_template(tokenizer):
    with pytest.raises(TemplateError, match="Did you mean 'alpaca'"):
        templates.load("alpacca", tokenizer)
    with pytest.raises(TemplateError, match="has no chat template"):
        templates.load("model", tokenizer)


BARE = "{% for m in messages %}{{ m.role + ':' + m.content + eos_token }}{% endfor %}"


def test_markers_are_not_needed(tokenizer, tiny_tokenizer, tmp_path):
    path = tmp_path / "bare.jinja"
    path.write_text(BARE)
    own = tiny_tokenizer()
    own.chat_template = BARE
    assert templates.load(str(path), tokenizer) == templates.load("model", own) == BARE
    assert templates.stops(BARE, own) == [own.eos_token_id]


def test_what_the_rules_can_not_be_met_for_is_refused_with_its_reason(tokenizer):
    with pytest.raises(TemplateError, match="rule 4") as caught:
        templates.stops(BARE.replace(" + eos_token", ""), tokenizer)
    assert caught.value.rule == 4


def test_model_is_the_model_s_own_template_where_the_rules_hold_else_trl_s_version(tiny_tokenizer, caplog):
    """Of glm4moe's own nothing ends an answer; TRL's training version adds what does."""
    from trl import chat_template_utils as trl_templates

    tokenizer = tiny_tokenizer(extra=("<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|system|>"))
    tokenizer.chat_template = trl_templates.qwen2_5_chat_template
    template = templates.load("model", tokenizer)
    assert template == trl_templates.qwen2_5_chat_template and not templates.has_markers(template)
    assert tokenizer.convert_ids_to_tokens(templates.stops(template, tokenizer)) == ["<|im_end|>"]
    tokenizer.chat_template = trl_templates.glm4moe_chat_template
    with pytest.raises(TemplateError, match="rule 4"):
        templates.stops(tokenizer.chat_template, tokenizer)
    template = templates.load("model", tokenizer)
    assert template == trl_templates.glm4moe_training_chat_template and "TRL's training version" in caplog.text
    assert templates.stops(template, tokenizer)
