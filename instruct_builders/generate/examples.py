"""Decided and worked examples for the prompts of Self-Instruct: always from the bundled seed tasks.

They show a form and must not change with a user's seeds, which may have no labels or only one kind of task.
"""

from __future__ import annotations

import json
import random
from functools import cache

from .rendering import fenced, one_line
from .seeds import BUNDLED

YES, NO, INPUT_FIRST, OUTPUT_FIRST = 12, 19, 12, 17  # as many as published
LONGEST = 400  # characters of input and output in a worked example: a prompt is paid for with every question


@cache
def _tasks() -> list[dict]:
    return [json.loads(line) for line in BUNDLED.read_text(encoding="utf-8").splitlines()]


def shown(instruction: str) -> str:
    """An instruction as prompts show it: one line, fenced."""
    return fenced(one_line(instruction), "task", lines=False)


@cache
def decided() -> str:
    """Tasks of both kinds with the answer to whether they are classification."""
    draw = random.Random("decided")
    groups = {
        answer: [task for task in _tasks() if task["is_classification"] == (answer == "Yes")]
        for answer in ("Yes", "No")
    }
    chosen = [(task, "Yes") for task in draw.sample(groups["Yes"], YES)]
    chosen += [(task, "No") for task in draw.sample(groups["No"], NO)]
    draw.shuffle(chosen)
    return "\n\n".join(
        f"Task: {shown(task['instruction'])}\nIs it a classification task? {answer}" for task, answer in chosen
    )


@cache
def worked(kind: str) -> str:
    """Tasks with their instances, as `instances_KIND` wants them written."""
    draw = random.Random(kind)
    output_first = kind == "output_first"
    wanted = [task for task in _tasks() if task["is_classification"] == output_first and _is_short(task)]
    chosen = draw.sample(wanted, OUTPUT_FIRST if output_first else INPUT_FIRST)
    write = _labelled if output_first else _answered
    return "\n\n".join(f"Task: {shown(task['instruction'])}\n{write(task['instances'])}" for task in chosen)


def _is_short(task: dict) -> bool:
    return sum(len(entry["input"]) + len(entry["output"]) for entry in task["instances"]) <= LONGEST


def _labelled(instances: list[dict]) -> str:
    return "\n".join(f"Class label: {entry['output']}\nInput: {entry['input']}" for entry in instances)


def _answered(instances: list[dict]) -> str:
    if not instances[0]["input"]:
        return f"Output: {instances[0]['output']}"
    numbered = enumerate(instances, 1)
    return "\n".join(f"Example {number}\nInput: {e['input']}\nOutput: {e['output']}" for number, e in numbered)
