"""Task files: what loads can be rendered, and each fault is said with the file and the template's number."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import yaml

from instruct_builders import Flan
from instruct_builders.errors import ConfigError
from instruct_builders.flan import find_tasks, load_task, shipped_tasks
from instruct_builders.flan.task_files import TASKS

PETS = {
    "category": "natural language inference",
    "kind": "NLU",
    "metric": "accuracy",
    "license": "cc-by-4.0",
    "source": {"path": "pets.jsonl"},
    "columns": {"text": "text", "claim": "claim"},
    "answer": {"column": "label", "as": "index"},
    "options": {"texts": ["yes", "no"]},
    "templates": [
        *(
            {"input": f"Form {n}.\n{{text}}\n\nDoes it follow: {{claim}}\n\n{{options_}}", "target": "{answer}"}
            for n in range(8)
        ),
        {"input": "Write a claim that gets the verdict {answer}.\n{text}", "target": "{claim}", "inverted": True},
        {"input": "{claim}\nFor which text is the verdict {answer}?", "target": "{text}", "inverted": True},
    ],
    "samples": [
        {"text": "Rex is a dog.", "claim": "Rex is an animal.", "label": 0},
        {"text": "Tom is a cat.", "claim": "Tom barks.", "label": 1},
    ],
}


def write_task(path: Path, task: dict = PETS, **changes) -> Path:
    task = copy.deepcopy(task)
    for key, value in changes.items():
        if value is None:
            task.pop(key, None)
        else:
            task[key] = value
    path.write_text(yaml.safe_dump(task, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def with_template(number: int, **entry) -> dict:
    templates = copy.deepcopy(PETS["templates"])
    templates[number] = entry
    return {"templates": templates}


GOOD = PETS["templates"][0]
FAULTS = {
    "unknown key": ({"colums": {}}, r"pets\.yaml: unknown key 'colums'.*Did you mean 'columns'\?"),
    "missing key": ({"metric": None}, r"pets\.yaml: the key 'metric' is missing"),
    "kind": ({"kind": "NLP"}, r"pets\.yaml: kind is 'NLP'; allowed are NLU"),
    "nine templates": ({"templates": PETS["templates"][:9]}, r"pets\.yaml: templates has 9; exactly 10"),
    "few inverted": (
        {"templates": [*PETS["templates"][:8], GOOD, GOOD]},
        "0 templates are inverted; at least 2 of 10",
    ),
    "unknown slot": (
        with_template(3, input="{txt}\n\n{options_}", target="{answer}"),
        r"pets\.yaml, template 3: input has the slot \{txt\}; the slots are text, claim, answer, options_\. Did you",
    ),
    "stray brace": (
        with_template(4, input="{text} }\n\n{options_}", target="{answer}"),
        r"pets\.yaml, template 4: input has a stray brace",
    ),
    "open brace": (with_template(4, input="{text} {", target="{answer}"), r"template 4: input has a stray brace"),
    "format": (
        with_template(4, input="{text:>3}", target="{answer}"),
        r"template 4: input has \{text\} with a format",
    ),
    "leak": (
        with_template(5, input="{text} {answer}", target="{answer}"),
        r"pets\.yaml, template 5: \{answer\} is in the target and in the input",
    ),
    "no slot": (with_template(6, input="Say yes.", target="{answer}"), r"template 6: input has no slot"),
    "constant target": (with_template(6, input="{text}", target="yes"), r"template 6: target has no slot"),
    "not said to be inverted": (with_template(9, input="{answer}", target="{text}"), r"template 9: .*inverted: true"),
    "inverted for the answer": (
        with_template(9, input="{text}", target="{answer}", inverted=True),
        r"template 9: it is inverted, so \{answer\} belongs in the input",
    ),
    "options inside a line": (
        with_template(2, input="{text} {options_}", target="{answer}"),
        r"template 2: \{options_\} is printed once, and alone on its line",
    ),
    "options in the target": (
        with_template(2, input="{text}", target="{answer}{options_}"),
        r"template 2: target has the slot \{options_\}",
    ),
    "options without options": (
        {"options": None, "answer": {"column": "label"}},
        r"pets\.yaml, template 0: input has the slot \{options_\}; the slots are text, claim, answer\.",
    ),
    "options never printed": (
        {"templates": [{"input": "{text}", "target": "{answer}"}] * 8 + PETS["templates"][8:]},
        r"pets\.yaml: the task has options, but no template prints them",
    ),
    "trailing blank": (with_template(1, input="{text} ", target="{answer}"), r"template 1: input begins or ends with"),
    "trailing line": (with_template(1, input="{text}\n", target="{answer}"), r"template 1: input begins or ends with"),
    "index without options": (
        {"options": None, "templates": [{"input": "{text}", "target": "{answer}"}] * 8 + PETS["templates"][8:]},
        r"answer\.as is 'index', which points into options",
    ),
    "booleans for texts": ({"options": {"texts": [True, False]}}, r"options\.texts is \[True, False\].*in quotes"),
    "an option twice": ({"options": {"texts": ["a", "a"]}}, r"options\.texts names 'a' twice"),
    "two kinds of options": ({"options": {"texts": ["a", "b"], "column": "c"}}, "options has 2 keys; exactly one"),
    "keys missing": ({"answer": {"column": "label", "as": "key"}}, r"answer\.keys must name the column"),
    "empty without first": ({"answer": {"column": "label", "as": "index", "empty": "x"}}, r"answer\.empty goes with"),
    "reserved slot": ({"columns": {"answer": "text"}}, "columns has 'answer'"),
    "chain alone": ({"chain": {"column": "why"}}, "chain and cot_templates go together"),
    "a number for a path": ({"source": {"path": 5}}, r"pets\.yaml: source\.path is 5; text belongs there"),
    "a number for a config": ({"source": {"path": "x", "config": 3.0}}, r"source\.config is 3\.0; text belongs there"),
    "a number for a column": ({"columns": {"text": {"column": 5}, "claim": "claim"}}, "columns.text: column is 5"),
    "a number for an answer": ({"answer": {"column": 5, "as": "index"}}, r"answer\.column is 5; text belongs there"),
    "a number for a key": ({"answer": {"column": "a", "as": "key", "keys": [1, 2]}}, r"answer\.keys is 1; text"),
    "a list for options": (
        {"options": ["yes", "no"]},
        "options: a mapping with the keys texts or columns or column be",
    ),
    "no train": ({"source": {"path": "x", "splits": {"test": "test"}}}, "train must be among them"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=FAULTS.keys())
def test_a_faulty_file_is_refused_by_name_and_number(tmp_path, fault):
    changes, message = FAULTS[fault]
    path = write_task(tmp_path / "pets.yaml", **changes)
    with pytest.raises(ConfigError, match=message):
        load_task(path)


def test_the_pattern_of_all_faults_is_a_file_that_loads(tmp_path):
    task = load_task(write_task(tmp_path / "pets.yaml"))
    assert [template.id for template in task.templates][:2] == ["pets/0", "pets/1"]
    assert [template.inverted for template in task.templates] == [False] * 8 + [True] * 2


def test_cot_templates_need_the_chain_in_their_target(tmp_path):
    cot = [{"input": "{text}\nReason.", "target": "{chain} So: {answer}"}] * 10
    path = write_task(tmp_path / "pets.yaml", chain={"column": "why"}, cot_templates=cot)
    assert load_task(path).templates[10].id == "pets/cot-0"
    cot[7] = {"input": "{text}", "target": "{answer}"}
    with pytest.raises(ConfigError, match=r"pets\.yaml, CoT template 7: the target has no \{chain\}"):
        load_task(write_task(tmp_path / "pets.yaml", chain={"column": "why"}, cot_templates=cot))


def test_yaml_that_is_none_is_refused(tmp_path):
    for text in ("a: [", "just text", "\0"):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"x\.yaml"):
            load_task(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match="a task is called after its file"):
        load_task(write_task(tmp_path / "My-Task.yaml"))


def test_tasks_are_found_by_name_path_folder_and_glob(tmp_path):
    one, two = write_task(tmp_path / "one.yaml"), write_task(tmp_path / "two.yaml")
    shipped = shipped_tasks()
    assert [task.name for task in find_tasks(None)] == shipped
    assert [task.name for task in find_tasks([shipped[0], str(one)])] == [shipped[0], "one"]
    assert [task.name for task in find_tasks(str(tmp_path))] == ["one", "two"]
    assert [task.name for task in find_tasks([str(tmp_path / "t*.yaml")])] == ["two"]
    with pytest.raises(ConfigError, match="both called 'two'"):
        find_tasks([str(two), str(tmp_path)])
    with pytest.raises(ConfigError, match=f"no task that ships.*Did you mean '{shipped[-1]}'"):
        find_tasks(shipped[-1] + "x")
    with pytest.raises(ConfigError, match="tasks is empty"):
        find_tasks([])


# Every template of every task that ships, on its samples. The folder is listed when tests are collected.

DOUBLED = re.compile(r"[,;:!?]\.|\.[,;:]|,,|;;|(?<!\.)\.\.(?!\.)|(?<!=)[ \t][,;:!?](?=\s|$)|[!?]{2}|(?<=\S)  +(?=\S)")


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """Task -> `(task, rows)`: its samples with every template, options printed and not, and with chains."""
    cache = str(tmp_path_factory.mktemp("flan"))
    found: dict[str, list] = {}
    for options in (True, False):
        for cot in (False, True):
            builder = Flan("bundled", cache_dir=cache, templates_per_row="all", options=options, cot=cot, strict=True)
            builder.download_and_prepare()
            for row in builder.as_dataset(split="train"):
                found.setdefault(row["task"], []).append(row)
    return found


@pytest.mark.parametrize("name", shipped_tasks())
def test_a_shipped_task_renders_cleanly(name, rendered):
    task = load_task(TASKS / f"{name}.yaml")
    rows = rendered[name]
    assert {row["template"] for row in rows} == {template.id for template in task.templates}
    templates = {template.id: template for template in task.templates}
    own = " ".join(str(row) for row in task.samples)  # what the sample says itself is no fault of the template
    for row in rows:
        (prompt, answer), template = (turn["content"] for turn in row["messages"]), templates[row["template"]]
        for text in (prompt, answer):
            place = f"{row['template']}: {text!r}"
            assert text and text == text.strip() and not re.search(r"[ \t]\n", text), place
            assert "\n\n\n" not in text, place
            for brace in re.findall(r"\{[a-z_]*\}|[{}]", text):
                assert brace in own, place
            for doubled in DOUBLED.finditer(text):
                assert doubled[0].strip() in own, f"{doubled[0]!r} in {place}"
        assert template.has_options or "option_style" not in row["meta"]
        # A span asked for by an inverted template may stand in the text that it is from, but nowhere else.
        texts = [str(value) for sample in task.samples for value in sample.values()]
        inside = any(answer in text and text.strip() != answer for text in texts)
        if template.inverted and len(answer) > 20 and not inside:
            assert answer not in prompt, f"{row['template']} gives its target away: {prompt!r}"


@pytest.mark.parametrize("name", shipped_tasks())
def test_a_shipped_task_is_complete(name):
    task = load_task(TASKS / f"{name}.yaml")
    plain = [template for template in task.templates if not template.cot]
    asking = [template for template in plain if not template.inverted]
    inputs = [template.input for template in task.templates]
    assert len(plain) == 10 and sum(template.inverted for template in plain) >= 2
    assert len(set(inputs)) == len(inputs), "two templates are the same"
    assert len(task.samples) >= 4
    if task.options:
        assert sum(template.has_options for template in asking) >= 7


def test_there_are_tasks_of_every_kind():
    tasks = find_tasks(None)
    assert len(tasks) >= 40
    assert {task.kind for task in tasks} == {"NLU", "NLG", "reasoning", "dialog", "program synthesis"}
