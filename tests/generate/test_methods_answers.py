"""What the methods make of particular answers, given by a transport that says what the test wants."""

from __future__ import annotations

import json
import re

import pytest

from instruct_builders.errors import ConfigError, SourceError, Stopped
from instruct_builders.generate import results, seeds
from instruct_builders.generate.demo_answers import kind_of


def new_task(number: int) -> str:
    """A task unlike those of other numbers."""
    return f"Tell how a{number}b met c{number}d and left e{number}f for g{number}h."


@pytest.fixture
def run(run_with):
    return run_with


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def reasons(result) -> dict:
    return result.account["yield"]["dropped"]


def bootstrap_model(items, instances="Output: A long answer."):
    """One instruction per question, `items` first, then new ones."""
    counter = iter(range(10_000))

    def model(kind, request, count):
        if kind == "bootstrap":
            number = next(counter)
            return items[number] if number < len(items) else f"9. {new_task(number)}"
        return "No" if kind == "classify" else instances(request) if callable(instances) else instances

    return model


def test_a_list_that_was_cut_loses_its_last_task_alone(run, tmp_path):
    cut = (f"9. {new_task(900)}\n10. {new_task(901)}\n11. {new_task(902)}", "length")
    result, _ = run("self_instruct", bootstrap_model([cut]), {"target": 2, "window": 1})
    assert [task["instruction"] for task in lines(tmp_path / "out" / "pool.jsonl")] == [new_task(900), new_task(901)]
    assert reasons(result) == {}


def test_the_originals_defects_can_be_asked_for(run, tmp_path):
    cut = (f"9. {new_task(900)}\n10. {new_task(901)}", "length")
    items = [cut, "9. Name the planets NASA has sent a probe to."]
    options = {"target": 1, "window": 1, "drop_truncated": True, "capitalize": True}
    result, _ = run("self_instruct", bootstrap_model(items), options)
    assert reasons(result) == {"truncated": 2}
    (task,) = lines(tmp_path / "out" / "pool.jsonl")
    assert task["instruction"] == "Name the planets nasa has sent a probe to."


def test_case_is_kept(run, tmp_path):
    items = ["9. Name the planets NASA has sent a probe to."]
    run("self_instruct", bootstrap_model(items), {"target": 1, "window": 1})
    (task,) = lines(tmp_path / "out" / "pool.jsonl")
    assert task["instruction"] == "Name the planets NASA has sent a probe to."


def test_similar_instructions_are_dropped_also_in_other_scripts_where_asked(run, tmp_path):
    chinese = ["9. 请写一首关于秋天落叶的短诗", "9. 请写一首关于秋天落叶的短诗。", "9. 说明为什么天空是蓝色的"]
    options = {"target": 3, "window": 1, "tokenizer": "unicode"}
    result, _ = run("self_instruct", bootstrap_model(chinese), options)
    assert reasons(result) == {"similar": 1}


def test_tasks_without_a_good_instance_are_replaced(run, tmp_path):
    """The four first tasks get nothing that can be kept; the target counts the others."""
    bad = [
        "Example 1\nInput: a\nOutput: b\n\nExample 2\nInput: a\nOutput: c",  # contradicts itself
        "Output: N/A",
        "Input: same\nOutput: same",
        "Output: The answer is:",
    ]

    def instances(request):
        asked = request["messages"][1]["content"].rsplit("Task: ", 1)[1]
        number = int(re.search(r"(\d+)", asked)[1])
        return bad[number] if number < 4 else "Output: Fine."

    result, _ = run("self_instruct", bootstrap_model([], instances), {"target": 5, "window": 2})
    report = result.account["yield"]
    assert report["accepted"] == 5
    assert reasons(result) == {
        "conflict": 2,
        "empty_output": 1,
        "same_input_output": 1,
        "ends_with_colon": 1,
        "no_instance": 4,
    }
    assert {row["messages"][1]["content"] for row in lines(result.path)} == {"Fine."}


def test_instances_are_not_repeated_and_not_more_than_wanted(run, tmp_path):
    many = "\n\n".join(f"Example {n}\nInput: {n % 5}\nOutput: {n % 5 + 1}" for n in range(8))
    result, _ = run("self_instruct", bootstrap_model([], many), {"target": 1, "window": 1, "max_instances": 3})
    assert reasons(result) == {"repeated": 3, "surplus": 2} and len(lines(result.path)) == 3


def test_further_instances_name_the_first_as_their_parent(run, tmp_path):
    many = "\n\n".join(f"Example {n}\nInput: {n}\nOutput: {n + 1}." for n in range(6))
    result, _ = run("self_instruct", bootstrap_model([], many), {"target": 1, "window": 1, "max_instances": 4})
    rows = lines(result.path)
    assert reasons(result) == {"surplus": 2} and len(rows) == 4
    first = seeds.content_ids([((), new_task(0), rows[0]["context"], rows[0]["messages"][1]["content"])])[0]
    assert [row["parent"] for row in rows] == [None, first, first, first]


def test_classification_tasks_get_their_label_first(run, tmp_path):
    asked = []

    def model(kind, request, count):
        asked.append(kind)
        if kind == "bootstrap":
            return f"9. {new_task(len(asked))}"
        if kind == "classify":
            return "Yes" if asked.count("classify") > 1 else "Perhaps."  # can't be read, and is asked again
        return "Class label: Good\nInput: I like it.\n\nClass label: Bad\nInput: I do not."

    result, _ = run("self_instruct", model, {"target": 1, "window": 1})
    assert asked == ["bootstrap", "classify", "classify", "instances_output_first"]
    assert [(row["context"], row["messages"][1]["content"]) for row in lines(result.path)] == [
        ("I like it.", "Good"),
        ("I do not.", "Bad"),
    ]
    assert result.account["reasons"] == {"unparsable": 1}


def test_a_model_that_repeats_itself_stops_the_run(run):
    same = [f"9. {new_task(0)}"] * 100
    with pytest.raises(Stopped, match="the last 5 answers brought nothing new: 1 of 3") as stopped:
        run("self_instruct", bootstrap_model(same), {"target": 3, "window": 2, "barren": 5})
    assert stopped.value.exit_code == 3


def test_alpaca_counts_every_known_defect(run, tmp_path):
    def block(number, instruction, given, output):
        return f"{number}. Instruction: {instruction}\n{number}. Input:\n{given}\n{number}. Output:\n{output}"

    parts = [
        block(4, new_task(1), "<no input>", "Fine."),
        block(5, new_task(2), "", "See https://example.org/made-up."),
        block(5, new_task(3), "https://example.org/a", "It says so."),
        block(9, new_task(4), "![x](y.png)", "A cat."),
        block(10, new_task(5), "a", "N/A"),
        block(11, new_task(6), "a", "b 12. Instruction: Name a fruit."),
        block(12, new_task(7), "a", "bell \x07"),
        block(13, new_task(1), "a", "b"),
        block(14, "Draw.", "a", "b"),
        block(15, "Draw a map of the town, please.", "a", "b"),
        "16. Instruction: left alone",
        block(17, new_task(8), "the input", "the output"),
    ]
    result, _ = run("alpaca", lambda *about: "\n###\n".join(parts), {"target": 2, "window": 1})
    assert reasons(result) == {
        **dict.fromkeys(("made_up_url", "needs_internet", "media_link", "empty_output", "merged_rows"), 1),
        **dict.fromkeys(("control_character", "similar", "too_short", "blocked_word", "torn"), 1),
    }
    assert [(row["messages"][0]["content"], row["context"]) for row in lines(result.path)] == [
        (new_task(1), ""),
        (f"{new_task(8)}\n\nthe input", "the input"),
    ]


USUAL = {"evolve": "Explain in three steps why leaves turn red.", "equal": "Not Equal", "answer": "Chlorophyll fades."}
ONE_SEED = seeds.Seeds([seeds.Seed("root", "Explain why leaves turn red.")], [], [])


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("equal", {"equal": "Equal"}),
        ("no_verdict", {"equal": "Hm."}),
        ("sorry", {"answer": "Sorry, no."}),
        ("only_stop_words", {"answer": "..."}),
        ("leaked_words", {"evolve": "The rewritten prompt: explain."}),
        ("unchanged", {"evolve": "<given_text>\nexplain why leaves turn red.\n</given_text>"}),
        ("no_evolution", {"evolve": ""}),
        ("no_answer", {"answer": ""}),
    ],
)
def test_an_eliminated_prompt_stays_as_it_was(reason, said, run, tmp_path):
    def model(kind, request, count):
        return (USUAL | said)[kind.split("/")[0]]

    missing = reason in ("no_verdict", "no_evolution", "no_answer")
    with pytest.raises(Stopped, match="2 of 2 answers are missing" if missing else "nothing was kept"):
        run("evol_instruct", model, {"rounds": 2, "operators": ["reasoning"]}, ONE_SEED)
    dropped = lines(tmp_path / "out" / "dropped.jsonl")
    assert [(line["reason"], line["parent"], line["round"]) for line in dropped] == [
        (reason, "root", n) for n in (1, 2)
    ]


def test_an_elimination_costs_one_round(run, tmp_path):
    answers = iter(["Sorry, no.", "Chlorophyll fades.", "Frost comes."])
    evolved = iter(
        ["Explain in 3 steps why leaves turn red.", *(f"Explain in {n} steps the red of leaves." for n in (5, 7))]
    )

    def model(kind, request, count):
        return (
            next({"evolve": evolved, "answer": answers}[kind.split("/")[0]], None) if kind != "equal" else "not EQUAL"
        )

    options = {"rounds": 3, "choice": "order", "operators": ["reasoning"], "judge_model": "j", "answer_model": "a"}
    result, seen = run("evol_instruct", model, options, ONE_SEED)
    shown = [
        request["messages"][1]["content"] for request in seen if kind_of(request["messages"]).startswith("evolve")
    ]
    assert [("5 steps" in text, "3 steps" in text) for text in shown] == [
        (False, False),
        (False, False),
        (True, False),
    ]
    first, second = lines(result.path)
    assert first["parent"] == "root" and first["meta"]["round"] == 2 and second["meta"]["round"] == 3
    assert second["parent"] == results.review.ids_of([first])[0]
    assert reasons(result) == {"sorry": 1}
    assert [request["model"] for request in seen[:3]] == ["m", "j", "a"]


def test_the_simple_preset_has_the_filters_of_length_and_similarity_alone(run, tmp_path):
    kept = ["Draw a map of the town, please.", "Write a program that counts birds.", "*Name five blue flowers*"]
    items = [*kept, "Go on.", kept[0]]
    counter = iter(range(100))

    def model(kind, request, count):
        if kind == "simple_instruction":
            return (items + [new_task(n) for n in range(9)])[next(counter)]
        return "Input: none:\nOutput: Here it is:"

    options = {"target": 4, "window": 1, "preset": "simple"}
    result, _ = run("self_instruct", model, options)
    assert [task["instruction"] for task in lines(tmp_path / "out" / "pool.jsonl")] == [*kept, new_task(0)]
    assert reasons(result) == {"too_short": 1, "similar": 1}
    counter = iter(range(100))
    (tmp_path / "journal.sqlite").unlink()
    result, _ = run("self_instruct", model, {**options, "blacklist": ["map"]})
    assert reasons(result)["blocked_word"] == 2


def test_null_takes_a_parameter_out_and_the_seed_can_go_as_well(run):
    parameters = {"answer": {"temperature": None, "seed": None, "max_tokens": None, "max_completion_tokens": 50}}
    given = seeds.Seeds([seeds.Seed("x", "a river")], [], [])
    result, seen = run("answer", lambda *about: "An answer.", {"parameters": parameters}, given)
    assert {key for key in seen[0] if key not in ("model", "messages")} == {"max_completion_tokens"}
    assert result.account["parameters"] == {"answer": {"max_completion_tokens": 50}}


def test_what_people_say_in_the_review_file_is_obeyed(run, tmp_path):
    given = seeds.Seeds([seeds.Seed(str(n), f"Name {n} rivers.") for n in range(5)], [], [])
    file = tmp_path / "review" / "rows.jsonl"
    first, _ = run("answer", lambda *about: "An answer.", {}, given, review=file)
    written = lines(file)
    assert first.account["yield"]["review"] == {"reviewed": 0, "kept": 0, "refused": 0, "open": 5, "stale": 0}
    assert [line["instruction"] for line in written] == [f"Name {n} rivers." for n in range(5)]
    for line, keep in zip(written, (True, False, None, False, True), strict=True):
        line["keep"] = keep
    stale = {"id": "0" * 32, "keep": False}
    file.write_text("".join(json.dumps(line) + "\n" for line in [*written, stale]))
    second, seen = run("answer", lambda *about: "An answer.", {}, given, review=file)
    assert second.account["yield"]["review"] == {"reviewed": 4, "kept": 2, "refused": 2, "open": 1, "stale": 1}
    assert [row["parent"] for row in lines(second.path)] == ["0", "2", "4"] and not seen
    assert [line["reason"] for line in lines(tmp_path / "out" / "dropped.jsonl")] == ["human_review"] * 2
    file.write_text('{"id": "x", "keep": "yes"}\n')
    (tmp_path / "journal.sqlite").unlink()
    asked = []
    for path, error in ((file, r"rows.jsonl, line 1: keep is 'yes'"), (tmp_path, "is a folder")):
        with pytest.raises((SourceError, ConfigError), match=error):
            run("answer", lambda *about: asked.append(about) or "An answer.", {}, given, review=path)
    assert not asked  # it is looked at before anything is paid for
