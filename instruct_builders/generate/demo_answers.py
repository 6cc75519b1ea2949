"""Scripted answers of the demo server: a seeded grammar over the bundled seed tasks. No language model is involved.

The kind of prompt is known from the first line of the system message, which is `task: KIND` with KIND one of

- `bootstrap`: a numbered list of tasks; goes on with the next numbers, up to 16;
- `classify`: `Yes` or `No` for the last line that begins with `Task:`;
- `instances_input_first`: `Example 1`, the input, `Output: ...` for the last `Task:`;
- `instances_output_first`: `Class label: ...`, then the input, for the last `Task:`;
- `alpaca`: blocks parted by `###`, each `K. Instruction:`, `K. Input:`, `K. Output:`;
- `evolve/OPERATOR`: the prompt below `#Given Prompt#` or `#The Given Prompt#`, rewritten;
- `equal`: `Equal` or `Not Equal`;
- `answer`: an answer to the last user message; so is everything without such a line;
- `simple_instruction`: one instruction;
- `simple_instance`: `Input: ...` and `Output: ...` for the last `Task:`;
- `judge_row`: a verdict in the form that the system message ends with (demo_judging.py);
- `judge_score`, `judge_pair`: a score, or a winner, for the answers in the user message (demo_grading.py).

An answer depends on the server's seed, the messages and the parameter `seed`, and on nothing else, so that a run that
was killed gets the same answers again. A few answers are as models get them wrong: repeated, too short, evasive.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
import random
import re

from .demo_grading import judge_pair, judge_score
from .demo_judging import judge_row

FORMS = [
    "Write {piece} about {topic} {manner}.",
    "Explain {topic} to {reader} {manner}.",
    "List {count} mistakes that {reader} might make with {topic}, {manner}.",
    "Suggest {count} ways in which {reader} could practise {topic}.",
    "Compare {topic} with {other} {manner}.",
    "Classify the remark about {topic} as praise, complaint or question.",
    "Decide whether the statement about {topic} is true or false, and answer with one word.",
    "Rewrite the note on {topic} so that {reader} can follow it.",
    "Which question should {reader} ask first about {topic}?",
    "Plan {piece} in which {topic} meets {other}.",
    "Give {reader} {count} reasons to care about {topic} {manner}.",
    "Turn what you know of {topic} into {piece} {manner}.",
]
PIECES = (
    "a short letter|a checklist|a dialogue|a riddle|a notice|an opening paragraph|a quiz|a table|a speech|a menu|"
    "a job advert|a set of rules|a lesson plan|a telegram|an apology|a limerick|a review|a summary"
).split("|")
READERS = (
    "a new colleague|a ten-year-old|a retired engineer|a busy nurse|a tourist|a night porter|a young baker|"
    "a librarian|a sceptical judge|a football trainer|a small shop|a choir|a farmer|a first-year student|"
    "a translator|a landlord"
).split("|")
MANNERS = (
    "in under fifty words|without technical terms|with one worked example|in the style of a weather report|as bullet "
    "points|in a friendly tone|with the most important point first|using only questions|and end with a summary|in "
    "three steps|with a warning at the end|so that nobody is offended|for reading aloud|and give a number for each"
).split("|")
COUNTS = "two three four five six seven".split()
ADDITIONS = {
    "constraints": "Keep the answer below {number} words and mention {topic} once.",
    "deepening": "Also explain why this matters for {topic} and what would change without it.",
    "concretizing": "Take the case of {reader} who has {number} minutes and knows little of {topic}.",
    "reasoning": "Show each step of the reasoning, and say which step depends on {topic}.",
    "complicate_input": 'Use this input: {{"topic": "{topic}", "count": {number}, "reader": "{reader}"}}',
}
FLAWED = 0.04  # share of answers with one of a model's usual faults


@functools.cache
def seed_tasks() -> list[dict]:
    """The bundled seed tasks, with a topic made of each one's name."""
    text = (importlib.resources.files("instruct_builders") / "data" / "seed_tasks.jsonl").read_text(encoding="utf-8")
    tasks = [json.loads(line) for line in text.splitlines()]
    return [{**task, "topic": task["name"].replace("_", " ")} for task in tasks]


def kind_of(messages: list[dict]) -> str:
    """What the first line of the system message says after `task:`, or `answer`."""
    for turn in messages:
        first = str(turn.get("content") or "").split("\n", 1)[0].strip()
        if turn.get("role") == "system" and first.lower().startswith("task:"):
            return first[5:].strip()
    return "answer"


def answer(seed: int, messages: list[dict], request_seed: object = None) -> str:
    """The scripted answer to a conversation."""
    digest = hashlib.sha256(json.dumps([seed, messages, request_seed], sort_keys=True).encode()).digest()
    draw = random.Random(digest)
    kind = kind_of(messages)
    asked = "\n".join(str(turn.get("content") or "") for turn in messages if turn.get("role") == "user")
    if kind == "judge_row":
        return judge_row(draw, str(messages[0].get("content")))
    if kind.startswith("evolve"):
        return evolved(draw, asked, kind.partition("/")[2])
    return KINDS.get(kind, plain)(draw, asked)


def fill(draw: random.Random, form: str) -> str:
    tasks = seed_tasks()
    return form.format(
        piece=draw.choice(PIECES),
        topic=draw.choice(tasks)["topic"],
        other=draw.choice(tasks)["topic"],
        reader=draw.choice(READERS),
        manner=draw.choice(MANNERS),
        count=draw.choice(COUNTS),
        number=draw.randrange(20, 200),
    )


def instruction(draw: random.Random, asked: str = "") -> str:
    """A new instruction; now and then one that a filter should reject."""
    if draw.random() < FLAWED:
        return draw.choice(["Draw a picture.", draw.choice(seed_tasks())["instruction"], "Go on.", "Plot the graph."])
    return fill(draw, draw.choice(FORMS))


def bootstrap(draw: random.Random, asked: str) -> str:
    numbers = [int(number) for number in re.findall(r"^\s*(?:Task\s*)?(\d+)\s*[.:]", asked, re.MULTILINE)]
    bare = re.search(r"(\d+)\s*[.:]\s*$", asked)
    start = int(bare[1]) if bare else max(numbers, default=0) + 1
    return "\n".join(f"{number}. {instruction(draw)}" for number in range(start, max(16, start + 3) + 1))


def last_task(asked: str) -> str:
    found = re.findall(r"^\s*(?:Task|Instruction)\s*:\s*(.+)$", asked, re.MULTILINE | re.IGNORECASE)
    return found[-1].strip() if found else (asked.strip().splitlines() or [""])[-1]


def classify(draw: random.Random, asked: str) -> str:
    closed = re.search(
        r"\b(classify|true or false|yes or no|categor\w+|decide whether|sentiment)\b", last_task(asked), re.I
    )
    return "Yes" if closed else "No"


def sentence(draw: random.Random, about: str) -> str:
    words = re.findall(r"\w{4,}", about) or ["this"]
    forms = [
        "The point about {a} is that {reader} needs {b} before {topic}.",
        "Start with {a}, then look at {b}, because {topic} depends on both.",
        "In practice {reader} asks about {a} and forgets {b}.",
        "{count} things matter here: {a}, {b} and {topic}.",
        "Whoever knows {topic} will see why {a} comes before {b}.",
    ]
    form = draw.choice(forms).replace("{a}", draw.choice(words).lower()).replace("{b}", draw.choice(words).lower())
    text = fill(draw, form)
    return text[0].upper() + text[1:]


def plain(draw: random.Random, asked: str) -> str:
    if draw.random() < FLAWED:
        return draw.choice(["Sorry, I can't help with that.", "?!", "..."])
    return " ".join(sentence(draw, asked) for _ in range(draw.randrange(2, 6)))


def input_first(draw: random.Random, asked: str) -> str:
    task = last_task(asked)
    if draw.random() < 0.4:
        return f"Output: {plain(draw, task)}"
    parts = [
        f"Example {number}\nText: {sentence(draw, task)}\nOutput: {plain(draw, task)}"
        for number in range(1, draw.randrange(2, 4))
    ]
    return "\n\n".join(parts)


def output_first(draw: random.Random, asked: str) -> str:
    task = last_task(asked)
    labels = ("True", "False") if "true or false" in task.lower() else ("Praise", "Complaint", "Question")
    return "\n\n".join(f"Class label: {label}\nText: {sentence(draw, task)}" for label in labels)


def alpaca(draw: random.Random, asked: str) -> str:
    numbers = [int(number) for number in re.findall(r"^\s*(\d+)\s*\.\s*Instruction", asked, re.MULTILINE)]
    given_open = re.search(r"(\d+)\s*\.\s*Instruction\s*:\s*$", asked)
    start = int(given_open[1]) if given_open else max(numbers, default=0) + 1
    blocks = []
    for number in range(start, max(20, start + 4) + 1):
        if draw.random() < FLAWED:
            number += 1  # a slip of the numbering
        told = instruction(draw)
        given = "<noinput>" if draw.random() < 0.5 else sentence(draw, told)
        blocks.append(
            f"{number}. Instruction: {told}\n{number}. Input:\n{given}\n{number}. Output:\n{plain(draw, told)}"
        )
    return "\n###\n".join(blocks)


def given_prompt(asked: str) -> str:
    """The text below the last heading that names the given prompt, up to the next heading."""
    parts = re.split(r"^\s*#([^#\n]+)#\s*:?[ \t]*$", asked, flags=re.MULTILINE)
    given = [body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True) if "given" in name.lower()]
    kept = [text for text in given if text]
    return kept[-1] if kept else asked.strip().split("\n\n")[-1]


def evolved(draw: random.Random, asked: str, operator: str) -> str:
    given = given_prompt(asked)
    flaw = draw.random()
    if flaw < FLAWED:
        return given  # nothing was changed
    if flaw < 2 * FLAWED:
        return f"#Rewritten Prompt#: {given}"
    named = next((key for key in ADDITIONS if key[:6] == operator[:6]), None)
    if named is None:  # in breadth: another task altogether
        return fill(draw, draw.choice(FORMS))
    return f"{given.rstrip()} {fill(draw, ADDITIONS[named])}"


def equal(draw: random.Random, asked: str) -> str:
    return "Equal" if draw.random() < 0.15 else "Not Equal"


def simple_instance(draw: random.Random, asked: str) -> str:
    task = last_task(asked)
    given = "<noinput>" if draw.random() < 0.4 else sentence(draw, task)
    return f"Input: {given}\nOutput: {plain(draw, task)}"


KINDS = {
    "bootstrap": bootstrap,
    "classify": classify,
    "instances_input_first": input_first,
    "instances_output_first": output_first,
    "alpaca": alpaca,
    "equal": equal,
    "answer": plain,
    "simple_instruction": instruction,
    "simple_instance": simple_instance,
    "judge_score": judge_score,
    "judge_pair": judge_pair,
}
