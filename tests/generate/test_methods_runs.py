"""The methods against the scripted server, over real sockets: what they ask and keep, and the same bytes again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from instruct_builders.errors import ConfigError, Stopped
from instruct_builders.generate import results, seeds
from instruct_builders.generate.engine import Engine
from instruct_builders.transforms.novelty import NoveltyIndex

FILES = ("generated.jsonl", "pool.jsonl", "dropped.jsonl")
SMALL = {
    "self_instruct": {"target": 30, "window": 8},
    "alpaca": {"target": 40, "window": 4},
    "evol_instruct": {"rounds": 2},
    "answer": {"answers": 2},
}


class Recording(Engine):
    """An engine that remembers what it was asked."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.asked = []

    async def ask(self, request):
        self.asked.append(request)
        return await super().ask(request)


@pytest.fixture
def run(tmp_path):
    """Runs a method on the bundled seeds (the first 25 for those that ask about each); gives its result and engine."""

    def run(
        method, folder="out", *, given=None, options=None, journal="journal.sqlite", seed=42, review=None, **settings
    ):
        given = given or seeds.read()
        if method in ("evol_instruct", "answer"):
            given = seeds.Seeds(given.seeds[:25], given.rejected, given.files)
        chosen = results.METHODS[method].options(**(SMALL[method] if options is None else options))
        engine = Recording(demo=True, journal=tmp_path / journal, **settings)
        return results.generate(
            engine, method, given, chosen, seed=seed, folder=tmp_path / folder, review_file=review
        ), engine

    return run


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def asked_of(engine: Recording, purpose: str) -> list[str]:
    return [request.messages[-1]["content"] for request in engine.asked if request.purpose == purpose]


@pytest.mark.parametrize("method", SMALL)
def test_the_same_bytes_whatever_the_order_of_answers(method, run, tmp_path, start_server):
    quick, engine = run(method, "quick", journal="quick.sqlite", max_concurrency=3)
    url = start_server(latency=0.01, latency_sigma=1.2)
    slow, other = run(method, "slow", journal="slow.sqlite", max_concurrency=50, base_url=url)
    for name in FILES:
        assert (tmp_path / "quick" / name).read_bytes() == (tmp_path / "slow" / name).read_bytes(), name
    assert quick.account == slow.account and quick.scores == slow.scores
    assert len(engine.asked) == len(other.asked) >= 3
    different, _ = run(method, "other", journal="other.sqlite", seed=7)
    assert different.path.read_bytes() != quick.path.read_bytes()


@pytest.mark.parametrize("method", SMALL)
def test_a_second_run_and_a_replay_ask_nothing(method, run, tmp_path):
    first, _ = run(method)
    again, engine = run(method, "again")
    assert engine.account["run"]["requests"] == 0 and engine.account["run"]["from_journal"] >= 3
    replayed, _ = run(method, "replayed", replay=True)
    assert first.path.read_bytes() == again.path.read_bytes() == replayed.path.read_bytes()
    assert first.account == again.account == replayed.account
    with pytest.raises(Stopped, match=r"replay: .* holds no answer") as stopped:
        run(method, "elsewhere", replay=True, seed=7)
    assert stopped.value.exit_code == 3


def test_self_instruct_shows_six_human_and_two_machine_tasks(run, tmp_path):
    result, engine = run("self_instruct", options={"target": 60, "window": 2})
    human = {" ".join(entry.instruction.split()).rstrip(":") for entry in seeds.read().seeds}
    machine = {entry["instruction"] for entry in lines(tmp_path / "out" / "pool.jsonl")}
    shown = [re.findall(r"^(\d+)\. (.+)$", text, re.MULTILINE) for text in asked_of(engine, "bootstrap")]
    assert [len(set(texts)) for texts in shown] == [8] * len(shown)
    assert all([int(number) for number, _ in texts] == list(range(1, 9)) for texts in shown)
    written = [[text not in human for _, text in texts] for texts in shown]
    assert [sum(flags) for flags in written] == [0, 0] + [2] * (len(shown) - 2)
    assert {text for texts in shown for _, text in texts} <= human | machine
    places = {flags.index(True) for flags in written[2:]}
    assert len(places) > 1  # shuffled: not always in the same place
    assert all(
        text.endswith("Continue the list with the numbers 9 to 16 and stop there.")
        for text in asked_of(engine, "bootstrap")
    )
    system = engine.asked[0].messages[0]["content"]
    assert system.startswith("task: bootstrap\n")
    assert result.account["yield"]["accepted"] >= 60


def test_self_instruct_keeps_what_is_new_and_gives_each_task_instances(run, tmp_path):
    result, _ = run("self_instruct")
    pool, rows = lines(tmp_path / "out" / "pool.jsonl"), lines(result.path)
    index = NoveltyIndex(0.7)
    index.extend({entry.instruction for entry in seeds.read().seeds})
    for task in pool:
        score, _ = index.nearest(task["instruction"])
        assert score <= 0.7
        index.add(task["instruction"])
    for line in lines(tmp_path / "out" / "dropped.jsonl"):
        assert line["reason"] != "similar" or line["nearest"] > 0.7
    assert len(pool) >= 30 and all(task["instances"] for task in pool)
    assert len(rows) == sum(len(task["instances"]) for task in pool)
    kinds = {name: counts["asked"] for name, counts in result.account["purposes"].items()}
    assert kinds["classify"] == kinds["instances/input_first"] + kinds.get("instances/output_first", 0)
    closed = [task for task in pool if task["is_classification"]]
    assert len(closed) <= kinds.get("instances/output_first", 0)
    assert {row["meta"]["generator"] for row in rows} == {"scripted-demo"}


def test_a_higher_target_goes_on_where_a_lower_one_ended(run, tmp_path):
    small, engine = run("self_instruct", "small", options={"target": 15, "window": 4})
    paid = engine.account["run"]["requests"]
    large, engine = run("self_instruct", "large", options={"target": 40, "window": 4})
    assert engine.account["run"]["from_journal"] == paid
    assert lines(large.path)[: len(lines(small.path))] == lines(small.path)
    fresh, _ = run("self_instruct", "fresh", options={"target": 40, "window": 4}, journal="fresh.sqlite")
    assert fresh.path.read_bytes() == large.path.read_bytes()


def test_the_simple_preset_shows_three_and_asks_for_one(run):
    result, engine = run("self_instruct", options={"target": 12, "preset": "simple", "window": 4})
    shown = [len(re.findall(r"^\d+\. ", text, re.MULTILINE)) for text in asked_of(engine, "bootstrap")]
    assert set(shown) == {3}
    assert result.account["yield"]["accepted"] == 12
    assert set(result.account["purposes"]) == {"bootstrap", "instances/simple"}
    assert not asked_of(engine, "classify")


def test_classification_only(run):
    _, engine = run("self_instruct", options={"target": 8, "classification_only": True, "window": 2})
    human = {" ".join(one.instruction.split()) for one in seeds.read().seeds if one.is_classification}
    first = re.findall(r"^\d+\. (.+)$", asked_of(engine, "bootstrap")[0], re.MULTILINE)
    assert set(first) <= human
    no_labels = seeds.Seeds([seeds.Seed("x", "Name a fruit.")], [], [])
    with pytest.raises(ConfigError, match="no seed says is_classification"):
        run("self_instruct", given=no_labels, options={"classification_only": True})


def test_alpaca_shows_seeds_alone_and_survives_slips(run, tmp_path):
    result, engine = run("alpaca")
    human = {" ".join(entry.instruction.split()).rstrip(":") for entry in seeds.read().seeds}
    for text in asked_of(engine, "alpaca"):
        told = re.findall(r"^\d+\. Instruction: (.+)$", text, re.MULTILINE)
        assert len(told) == 3 and set(told) <= human
    rows = lines(result.path)
    assert len(rows) >= 40
    assert not any(row["context"].lower().startswith("<no") for row in rows)
    assert "torn" not in result.account["yield"]["dropped"]  # the scripted server slips in 4% of its numbers


def test_evolved_rows_name_their_parents_and_failed_ones_stay(run, tmp_path):
    result, _ = run("evol_instruct", options={"rounds": 3})
    given = {entry.id: entry for entry in seeds.read().seeds[:25]}
    rows = lines(result.path)
    own = results.review.ids_of([{**row, "context": None} for row in rows])
    known = set(given) | set(own)
    assert {row["parent"] for row in rows} <= known and len(rows) > 25
    attempts = lines(tmp_path / "out" / "pool.jsonl") + lines(tmp_path / "out" / "dropped.jsonl")
    assert len(attempts) == 75
    chains = {}
    for attempt in sorted(attempts, key=lambda one: one["round"]):
        chains.setdefault(attempt["root"], []).append(attempt)
    for root, chain in chains.items():
        parent = root
        for attempt in chain:
            assert attempt["parent"] == parent
            parent = attempt.get("id", parent)  # one that failed leaves the prompt as it was
    report = result.account["yield"]
    assert [entry["candidates"] for entry in report["rounds"]] == [25, 25, 25]
    assert sum(entry["candidates"] for entry in report["operators"].values()) == 75
    assert report["novelty"]["threshold"] is None and sum(report["novelty"]["counts"]) == report["accepted"]
    evolve = {name for name in result.account["purposes"] if name.startswith("evolve/")}
    assert evolve == {f"evolve/{name}" for name in report["operators"]}


def test_evolution_in_a_fixed_order_and_with_weights(run, tmp_path):
    order = ["constraints", "topic_extension"]
    result, _ = run("evol_instruct", options={"rounds": 3, "choice": "order", "operators": order})
    seen = {(line["round"], line["operator"]) for line in lines(tmp_path / "out" / "pool.jsonl")}
    assert seen == {(1, "constraints"), (2, "topic_extension"), (3, "constraints")}
    weights = {"complicate_input": 1, "mutation": 0}
    options = {"rounds": 1, "choice": "weighted", "weights": weights, "data_formats": ["sql"], "judge": False}
    result, engine = run("evol_instruct", "weighted", options=options)
    assert set(result.account["yield"]["operators"]) == {"complicate_input"}
    assert all(
        "an SQL schema" in one.messages[0]["content"] for one in engine.asked if one.purpose.startswith("evolve")
    )
    assert "equal" not in result.account["purposes"]


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("evol_instruct", {"operators": ["deepning"]}, "Did you mean 'deepening'"),
        ("evol_instruct", {"choice": "weighted"}, "weights go together"),
        ("evol_instruct", {"choice": "weighted", "weights": {"mutation": 0}}, "not all 0"),
        ("evol_instruct", {"rounds": 0}, "rounds=0"),
        ("evol_instruct", {"operators": []}, "operators is empty"),
        ("self_instruct", {"preset": "short"}, "preset='short'"),
        ("self_instruct", {"parameters": {"bootstrp": {}}}, "Did you mean 'bootstrap'"),
        ("self_instruct", {"tokenizer": "words"}, "tokenizer='words'"),
        ("self_instruct", {"last_number": 8}, "must go on behind"),
        ("self_instruct", {"threshold": 2.0}, "threshold=2.0"),
        ("self_instruct", {"embed": "no_such_module:embed"}, "can't be imported"),
        ("alpaca", {"demonstrations": 20}, "must go on behind"),
        ("alpaca", {"target": 0}, "target=0"),
        ("answer", {"answers": 0}, "answers=0"),
        ("answer", {"parameters": {"answer": 3}}, "is no mapping"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_asked(method, options, message, run):
    with pytest.raises(ConfigError, match=message):
        run(method, options=options)


def test_novelty_by_embeddings(run, tmp_path, monkeypatch):
    """Tasks that are one to a function of our own are one to the run, whatever words they have."""
    (tmp_path / "first_letters.py").write_text(
        "import numpy as np\n"
        "def embed(texts):\n"
        "    initials = [{ord(word[0].lower()) % 64 for word in text.split()} for text in texts]\n"
        "    return np.array([[float(letter in one) for letter in range(64)] for one in initials])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {"target": 12, "window": 4, "embed": "first_letters:embed", "threshold": 0.8}
    result, _ = run("self_instruct", options=options)
    assert result.account["yield"]["novelty"]["measure"] == "cosine similarity"
    assert result.account["yield"]["dropped"]["similar"] > 0
    from first_letters import embed

    kept = [line["instruction"] for line in lines(tmp_path / "out" / "pool.jsonl")]
    vectors = embed([entry.instruction for entry in seeds.read().seeds] + kept)
    vectors /= (vectors**2).sum(1, keepdims=True) ** 0.5
    for place in range(len(vectors) - len(kept), len(vectors)):
        assert (vectors[:place] @ vectors[place]).max() <= 0.8 + 1e-6


def test_a_budget_stops_the_run_and_a_higher_one_goes_on(run, tmp_path):
    with pytest.raises(Stopped, match="max_requests=20 is reached") as stopped:
        run("evol_instruct", max_requests=20)
    assert stopped.value.exit_code == 5 and not (tmp_path / "out" / "generated.jsonl").exists()
    whole, engine = run("evol_instruct", max_requests=1000)
    assert engine.account["run"]["from_journal"] >= 20
    fresh, _ = run("evol_instruct", "fresh", journal="fresh.sqlite")
    assert whole.path.read_bytes() == fresh.path.read_bytes() and whole.account == fresh.account


def test_answers_to_conversations_keep_what_came_before(run, tmp_path):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who wrote it?\n\nThe letter."},
        {"role": "assistant", "content": "Ada."},
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": "Long ago."},
    ]
    path = tmp_path / "talk.jsonl"
    rows = [{"messages": turns, "context": "The letter."}, {"instruction": "Name a fruit.", "input": "red"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result, engine = run("answer", given=seeds.read(path), options={"answers": 3, "system_prompt": "You are terse."})
    said = [list(request.messages) for request in engine.asked]
    assert said[0] == turns[:-1]  # the conversation as it stood, without its answer
    assert said[3] == [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "Name a fruit.\n\nred"},
    ]
    rows = lines(result.path)
    assert len(rows) == 6 and len({row["messages"][-1]["content"] for row in rows[:3]}) == 3
    assert rows[0]["messages"][:-1] == turns[:-1] and rows[0]["context"] == "The letter."
    assert rows[3]["messages"][0] == {"role": "user", "content": "Name a fruit.\n\nred"}


def test_one_more_question_asks_one_more(run, tmp_path):
    path = tmp_path / "asked.jsonl"
    questions = [{"instruction": f"Name a town with {count} letters."} for count in range(3, 10)]

    def answers(wanted):
        path.write_text("".join(json.dumps(row) + "\n" for row in wanted))
        _, engine = run("answer", given=seeds.read(path), options={})
        return engine.account["run"]["requests"]

    assert answers(questions) == 7
    assert answers([{"instruction": "Name a river."}, *reversed(questions)]) == 1
