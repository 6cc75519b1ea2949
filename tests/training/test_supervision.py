"""All six rules on every chat template of TRL and of ours, for every shape of conversation: right, or refused."""

from __future__ import annotations

import collections
import functools
import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("trl")

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "supervision_cases.py"


def _load():
    spec = importlib.util.spec_from_file_location("supervision_cases", FILE)
    module = sys.modules.setdefault("supervision_cases", importlib.util.module_from_spec(spec))
    if not hasattr(module, "cases"):
        spec.loader.exec_module(module)
    return module


cases_of = _load()
TEMPLATES, CASES = cases_of.templates(), cases_of.cases()
# Shapes that every template must hold: no tools, no reasoning, user first, roles in turn.
USUAL = ("one turn", "two turns", "Unicode", "signs", "role words", "equal texts", "last only", "typed tokens")
# GLM-4's own template prints nothing after an answer: the model would never learn to stop. TRL's version of it does.
REFUSED = {"trl/glm4moe"}
# Shapes refused although the template prints all of them.
ODD = {
    "two answers in a row",  # Gemma 4 runs both into one turn
    "tool call with text",  # Gemma 4 prints the text behind the tool's answer
    "assistant first",  # Qwen 3.5 and later print no conversation without a question
    "tool call, system, again",  # DeepSeek-V3 prints the second call without its header
}


@functools.cache
def outcomes(name: str, tags: bool = False) -> dict[str, tuple[str, str, list[dict]]]:
    fast = cases_of.tokenizer(name, TEMPLATES[name], tags=tags)
    return {shape: cases_of.outcome(name, fast, TEMPLATES[name], case) for shape, case in CASES.items()}


def test_there_is_something_to_prove():
    assert len(TEMPLATES) >= 77
    assert len(CASES) >= 30
    assert sum(name.endswith("_training") for name in TEMPLATES) >= 30


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("tags", [False, True], ids=["", "tags are tokens"])
def test_no_silent_error(name, tags):
    wrong = {shape: why for shape, (status, why, _) in outcomes(name, tags).items() if status == "silent error"}
    assert wrong == {}


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - REFUSED))
def test_usual_conversations_hold(name):
    assert {shape: outcomes(name)[shape][:2] for shape in USUAL if outcomes(name)[shape][0] != "holds"} == {}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_template_that_ends_no_turn_is_refused(name):
    for tags in (False, True):  # `</tool_call>` closes a call, and is no end of the turn for being a token
        for status, why, _ in outcomes(name, tags).values():
            assert status in ("refused", "raised")
            assert status == "raised" or ("rule 4" in why and name in why and "Shortest conversation" in why)


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - REFUSED))
def test_what_is_refused_is_not_printed_or_known(name):
    for shape, (status, why, _) in outcomes(name).items():
        if status == "refused":
            assert "does not print the" in why or shape in ODD, (shape, why)


@pytest.mark.parametrize("tags", [False, True])
def test_most_hold(tags):
    totals = collections.Counter(status for name in TEMPLATES for status, _, _ in outcomes(name, tags).values())
    assert totals["silent error"] == 0
    assert totals["holds"] > 2100


# What TRL's markers get wrong, by rule; every other training template is right on every shape that holds.
MARKERS = {
    "trl/deepseek_r1_distill_training": {(5, "<｜Assistant｜>")},
    "trl/deepseekv3_training": {(5, "<｜Assistant｜>")},
    "trl/gptoss_training": {(5, "<|start|>assistant")},
    "trl/muse_glimmer_training": {(5, "<|start|>assistant")},
    "trl/nemotron_3_5_lightning_training": {(5, "<think>")},
    "trl/nemotron_3_nano_training": {(5, "<think>")},
    "trl/nemotron_3_super_training": {(5, "<think>")},
    "trl/nemotron_3_ultra_training": {(5, "<think>")},
    "trl/qwen2_5_training": {(5, "\n")},  # the header's newline
    "trl/qwen3_5_nothink_training": {(5, "<think>\n\n</think>\n\n")},
    "trl/qwen3_5_think_training": {(5, "<think>\n")},
    "trl/qwen3_6_training": {(5, "<think>\n")},
    "trl/qwen3_8_training": {(5, "<think>\n")},
}
MARKED = [name for name, source in TEMPLATES.items() if "generation %}" in source or "generation -%}" in source]


@pytest.mark.parametrize("name", MARKED)
def test_markers_are_checked(name):
    found = {(entry["rule"], entry["text"]) for entry in outcomes(name)["two turns"][2]}
    assert found == MARKERS.get(name, set())


def test_gemma_markers_leave_out_the_token_that_hands_over_to_a_tool():
    found = outcomes("trl/diffusion_gemma_training")["tool call"][2]
    assert [(entry["rule"], entry["text"], entry["markers"]) for entry in found] == [
        (4, "<|tool_response>", "leave out")
    ]


def test_a_header_is_not_cut_where_a_tag_of_the_answer_ends_like_it():
    # DeepSeek drops all before `</think>`; its `>` agrees by chance with the last character of the header.
    found = outcomes("trl/deepseekv3_training")["think tags"][2]
    assert {(entry["rule"], entry["text"]) for entry in found} == {(5, "<｜Assistant｜>")}


@pytest.mark.parametrize("name", sorted(set(MARKED) - set(MARKERS)))
def test_labels_are_those_of_right_markers(name):
    from trainers.supervision import supervise

    fast, source = cases_of.tokenizer(name, TEMPLATES[name]), TEMPLATES[name]
    for shape in ("one turn", "two turns", "Unicode"):
        messages = CASES[shape].messages
        messages = cases_of.as_parts(messages) if cases_of.family(name).parts else messages
        ours = supervise(fast, messages, source)
        theirs = fast.apply_chat_template(
            messages, chat_template=source, return_dict=True, return_assistant_tokens_mask=True
        )
        assert ours["input_ids"] == theirs["input_ids"]
        assert [int(label != -100) for label in ours["labels"]] == theirs["assistant_masks"]
