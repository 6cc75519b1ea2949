"""Answers that are missing, and answers of models that think aloud: counted, told, and never in a row."""

from __future__ import annotations

import json

import pytest

from instruct_builders.errors import Stopped
from instruct_builders.generate import replies, results, seeds
from instruct_builders.generate.demo_answers import kind_of
from instruct_builders.generate.engine import Engine
from instruct_builders.generate.statuses import Reply

EVOLVED = {"evolve": "Explain in 3 steps why leaves turn red.", "equal": "Not Equal", "answer": "Chlorophyll fades."}
ONE_SEED = seeds.Seeds([seeds.Seed("root", "Explain why leaves turn red.")], [], [])


@pytest.fixture
def run(run_with):
    return run_with


def new_task(number: int) -> str:
    """A task unlike those of other numbers."""
    return f"Tell how a{number}b met c{number}d and left e{number}f for g{number}h."


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def reasons(result) -> dict:
    return result.account["yield"]["dropped"]


def test_missing_answers_are_no_complete_dataset(run, tmp_path):
    def model(kind, request, count):
        return "" if "lantern" in request["messages"][-1]["content"] else "An answer."

    given = seeds.Seeds(
        [seeds.Seed(str(n), text) for n, text in enumerate(["a river", "a lantern", "a town"])], [], []
    )
    with pytest.raises(Stopped, match="1 of 3 answers are missing") as stopped:
        run("answer", model, {}, given)
    assert stopped.value.exit_code == 3 and not (tmp_path / "out" / "generated.jsonl").exists()
    result, _ = run("answer", model, {"max_failed": 0.5}, given)
    assert [row["parent"] for row in lines(result.path)] == ["0", "2"]
    (line,) = lines(tmp_path / "out" / "dropped.jsonl")
    assert (line["reason"], line["detail"], line["parent"]) == ("no_answer", "empty_text", "1")


def test_evolutions_that_got_no_answer_are_no_complete_dataset(run, tmp_path):
    """Of ten prompts one is refused for good, one gets a verdict that can't be read; the judge rejects another."""
    prompts = [f"Explain why the {word} is red." for word in "sky sea fox ant oak elm rye sun tin ice".split()]
    given = seeds.Seeds([seeds.Seed(str(n), text) for n, text in enumerate(prompts)], [], [])

    def model(kind, request, count):
        about = next(text for text in prompts if text.split()[3] in request["messages"][-1]["content"].split())
        if kind == "equal":
            return {"fox": "Hm.", "ant": "Equal"}.get(about.split()[3], "Not Equal")
        if kind.startswith("evolve"):
            return (
                ("", "content_filter") if "sky" in about else f"In 3 steps, explain why the {about.split()[3]} is red."
            )
        return "It reflects red light."

    options = {"rounds": 1, "operators": ["reasoning"]}
    with pytest.raises(Stopped, match=r"2 of 10 answers are missing") as stopped:
        run("evol_instruct", model, options, given)
    assert stopped.value.exit_code == 3 and not (tmp_path / "out" / "generated.jsonl").exists()
    assert "(content_filter 1, unparsable 1; dropped.jsonl has each)" in str(stopped.value)
    assert "asking again changes nothing for content_filter" in str(stopped.value)
    assert "raise max_retries" in str(stopped.value) and "set max_failed" in str(stopped.value)
    result, seen = run("evol_instruct", model, {**options, "max_failed": 0.2}, given)
    assert not seen and len(lines(result.path)) == 7
    assert reasons(result) == {"equal": 1, "no_evolution": 1, "no_verdict": 1}


def test_what_can_be_done_about_missing_answers_depends_on_why_they_are():
    told = replies.advice({"prompt_too_long": 3, "content_filter": 1})
    assert "prompt_too_long 3, content_filter 1" in told and "leave those rows out" in told
    assert "max_retries" not in told
    assert "run the same command again" in replies.advice({"timeout": 1})
    assert "max_tokens" in replies.advice({"length": 1}) and "max_retries" in replies.advice({"empty_text": 1})


def test_a_row_that_the_server_refuses_is_kept_with_its_words(tmp_path):
    async def transport(body: bytes, *_) -> Reply:
        said = {"message": "Holds what we do not serve.", "code": "content_filter"}
        return Reply(400, {}, json.dumps({"error": said}).encode())

    engine = Engine(model="m", transport=transport, journal=tmp_path / "journal.sqlite")
    options = results.METHODS["answer"].options()
    with pytest.raises(Stopped, match=r"1 of 1 answers are missing after every attempt \(content_filter 1"):
        results.generate(engine, "answer", ONE_SEED, options, seed=1, folder=tmp_path)
    (line,) = lines(tmp_path / "dropped.jsonl")
    assert line["detail"] == "content_filter: Holds what we do not serve."


def thinking(model):
    """The same model, thinking aloud before each answer, in the words of answers."""

    def model_that_thinks(kind, request, count):
        said = model(kind, request, count)
        drafts = f"Equal? Perhaps.\n9. {new_task(10_000 + count)}\nOutput: A draft."
        return f"<think>\n{drafts}\n</think>\n\n{said}" if count % 2 else f"{drafts}\n</think>\n\n{said}"

    return model_that_thinks


def test_thoughts_are_no_part_of_answers_tasks_and_verdicts(run, tmp_path):
    def evolving(kind, request, count):
        return EVOLVED[kind.split("/")[0]]

    result, _ = run("evol_instruct", thinking(evolving), {"rounds": 1, "operators": ["reasoning"]}, ONE_SEED)
    (row,) = lines(result.path)
    assert [turn["content"] for turn in row["messages"]] == [EVOLVED["evolve"], EVOLVED["answer"]]
    assert result.account["yield"]["thoughts_removed"] == 3
    number = iter(range(9))

    def one_task_at_a_time(kind, request, count):
        if kind == "bootstrap":
            return f"9. {new_task(next(number))}"
        return "No" if kind == "classify" else "Output: A long answer."

    result, _ = run("self_instruct", thinking(one_task_at_a_time), {"target": 3, "window": 1})
    assert [task["instruction"] for task in lines(tmp_path / "out" / "pool.jsonl")] == [new_task(n) for n in range(3)]
    assert {row["messages"][1]["content"] for row in lines(result.path)} == {"A long answer."}
    assert result.account["yield"]["thoughts_removed"] == result.account["questions"]["asked"] == 9


def test_thoughts_that_do_not_end_are_no_answer(run, tmp_path):
    given = seeds.Seeds([seeds.Seed("x", "a river"), seeds.Seed("y", "a town")], [], [])

    def model(kind, request, count):
        river = "river" in request["messages"][0]["content"]
        return "<think>Well, what is there to say" if river else "<think></think>A town."

    result, _ = run("answer", model, {"max_failed": 0.5}, given)
    assert [row["messages"][-1]["content"] for row in lines(result.path)] == ["A town."]
    assert result.account["reasons"] == {"unclosed_thought": 2}
    (line,) = lines(tmp_path / "out" / "dropped.jsonl")
    assert line["detail"] == "unclosed_thought"


def test_a_list_cut_within_the_thoughts_is_asked_for_with_more_room(run, tmp_path):
    def model(kind, request, count):
        if kind == "bootstrap":
            small = request["max_tokens"] < 2000
            return ("<think>9. Not a task, only a thought", "length") if small else f"<think></think>9. {new_task(1)}"
        return "No" if kind == "classify" else "Output: Fine."

    result, seen = run("self_instruct", model, {"target": 1, "window": 1})
    assert [one["max_tokens"] for one in seen if kind_of(one["messages"]) == "bootstrap"] == [1024, 2048]
    assert result.account["reasons"] == {"length": 1} and reasons(result) == {}
