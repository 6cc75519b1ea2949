"""The scripted server: what it answers to each kind of prompt, and that it says so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from instruct_builders.errors import ConfigError
from instruct_builders.generate import demo_answers, demo_server


def said(kind: str, user: str, seed: int = 0) -> str:
    messages = [{"role": "system", "content": f"task: {kind}\nDo it."}, {"role": "user", "content": user}]
    return demo_answers.answer(seed, messages)


def test_an_answer_depends_on_seed_messages_and_request_seed_alone():
    messages = [{"role": "user", "content": "Hello"}]
    first = demo_answers.answer(0, messages, 1)
    assert first == demo_answers.answer(0, messages, 1)
    others = {demo_answers.answer(0, messages, 2), demo_answers.answer(1, messages, 1)}
    assert first not in others and len(others) == 2


def test_bootstrap_goes_on_with_the_numbers():
    lines = said("bootstrap", "Tasks:\n1. Name a fruit.\n2. Name a tree.\n3.").split("\n")
    assert [int(line.split(".")[0]) for line in lines] == list(range(3, 17))


def test_classification():
    assert said("classify", "Task: Classify the remark as praise or complaint.") == "Yes"
    assert said("classify", "Task: Classify it.\nTask: Write a poem about rain.") == "No"


def test_instances():
    texts = [said("instances_input_first", f"Task: Explain tides {row}.") for row in range(20)]
    assert any(text.startswith("Example 1\n") for text in texts) and any(text.startswith("Output:") for text in texts)
    assert all("Output:" in text for text in texts)
    assert said("instances_output_first", "Task: Decide whether it is true or false.").startswith(
        "Class label: True\n"
    )


def test_alpaca_blocks():
    blocks = said("alpaca", "###\n1. Instruction: a\n1. Input:\nb\n1. Output:\nc\n###\n2. Instruction:").split(
        "\n###\n"
    )
    assert len(blocks) == 19 and blocks[0].startswith("2. Instruction: ")
    assert all(re.fullmatch(r"\d+\. Instruction: .+\n\d+\. Input:\n.+\n\d+\. Output:\n.+", block) for block in blocks)


def test_evolution_keeps_the_prompt_and_adds_to_it_or_makes_another():
    prompts = [f"#The Given Prompt#:\nName {row} trees.\n\n#Rewritten Prompt#:" for row in range(40)]
    deeper = [said("evolve/deepening", prompt) for prompt in prompts]
    assert sum(f"Name {row} trees." in text and len(text) > 40 for row, text in enumerate(deeper)) > 30
    assert sum("Name" in said("evolve/mutation", prompt) and "trees" in prompt for prompt in prompts) < 10
    assert {said("equal", prompt) for prompt in prompts} == {"Equal", "Not Equal"}


def test_simple_kinds():
    assert said("simple_instruction", "One more.").count("\n") == 0
    assert re.fullmatch(r"Input: .+\nOutput: .+", said("simple_instance", "Task: Name a fruit."))


def test_it_speaks_http_and_has_only_its_own_model(start_server):
    base = start_server()
    with urllib.request.urlopen(f"{base}/models") as models:
        assert [model["id"] for model in json.load(models)["data"]] == ["scripted-demo"]
    wrong = json.dumps({"model": "gpt-4", "messages": []}).encode()
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(urllib.request.Request(f"{base}/chat/completions", wrong))
    assert error.value.code == 404 and "no model gpt-4" in error.value.read().decode()
    error.value.close()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--latencey", "1"], "latency"),
        (["--fault", "50"], "500"),
        (["--port"], "pairs"),
        (["--seed", "x"], "--seed x"),
    ],
)
def test_wrong_flags_are_said(flags, words):
    with pytest.raises(ConfigError, match=words):
        demo_server.DemoServer(demo_server.parse(flags))


def test_wrong_flags_end_the_process_with_one_line():
    command = [sys.executable, "-m", "instruct_builders.generate.demo_server", "--latencey", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Did you mean 'latency'" in done.stderr and "Traceback" not in done.stderr
