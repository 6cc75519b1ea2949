"""recipes/mt_bench.py as a user meets it: what it prints and leaves behind, its exit codes, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import datasets
import pytest

pytest.importorskip("openai", reason="the extra 'generate' is not installed")
pytest.importorskip("aiohttp", reason="the extra 'generate' is not installed")
pytest.importorskip("transformers", reason="the extra 'train' is not installed")

import mt_bench
from mt_bench_arguments import MtBenchArguments

from instruct_builders import plots
from instruct_builders.errors import ConfigError, GenerationError, SourceError
from instruct_builders.generate.demo_server import DemoServer, Options
from trainers import run_facts
from trainers.evaluation import benchmark, question_sets, results

ROOT = Path(__file__).resolve().parents[2]
YAMLS = ROOT / "recipes" / "mt_bench"
TRIAL = ROOT / "trainers" / "evaluation" / "trial_questions.jsonl"


def run(out: Path, *more: str, questions: str = "trial") -> int:
    return mt_bench.main(["--questions", questions, "--output_dir", str(out), "--progress", "false", *more])


def without_date(result: dict) -> dict:
    return {name: value for name, value in result.items() if name != "date"}


class Server:
    """A demo server in a thread, under a name that is no demo's, whose replies may be changed."""

    def __init__(self, reply=None, **options):
        self.seen, self.keys = [], []
        self.loop, server = asyncio.new_event_loop(), DemoServer(Options(port=0, **options))
        plan, handle = server.plan, self

        def planned(body: bytes):
            request = json.loads(body)
            handle.seen.append(request)
            found, entry = plan(json.dumps({**request, "model": "scripted-demo"}).encode())
            said = reply(request) if reply else None
            if said is not None:
                found.body = server.completion(request, said)
            return found, entry

        server.plan = planned
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.url = asyncio.run_coroutine_threadsafe(server.start(), self.loop).result(30)
        self.server = server

    def close(self):
        asyncio.run_coroutine_threadsafe(self.server.close(), self.loop).result(30)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def serve():
    running = []

    def start(reply=None, **options) -> Server:
        running.append(Server(reply, **options))
        return running[-1]

    yield start
    for server in running:
        server.close()


def test_the_trial_needs_nothing_and_says_that_nobody_judged(tmp_path, capsys):
    config = ["--config", str(YAMLS / "mtbench_trial.yaml"), "--demo"]
    assert mt_bench.main([*config, "--output_dir", str(tmp_path / "a"), "--progress", "false"]) == 0
    said = capsys.readouterr().out
    assert "note: no language model judged: scripted-demo is a script" in said and "canary hit rate" in said
    assert "turns: 16 = 16 answered" in said and "references of math, reasoning and coding: 3 given" in said
    result = results.read(tmp_path / "a")
    assert result["settings"]["judge"]["scripted"] is True and result["model"]["name"] == "scripted-demo"
    assert set(result["groups"]) == set(question_sets.TEMPERATURES) and result["date"]
    counts = result["counts"]
    assert counts["turns"] == 16 == counts["scored"] + counts["missing"] and counts["canaries"] == 8
    answered = (tmp_path / "a" / "answers.jsonl").read_bytes()
    assert mt_bench.main([*config, "--output_dir", str(tmp_path / "a"), "--progress", "false", "--replay"]) == 0
    assert "answers: 0 requests" in capsys.readouterr().out
    assert without_date(results.read(tmp_path / "a")) == without_date(result)
    assert (tmp_path / "a" / "answers.jsonl").read_bytes() == answered


def test_two_runs_are_set_side_by_side(tmp_path, capsys):
    assert run(tmp_path / "a", "--demo", "--max_missing", "1") == 0
    assert run(tmp_path / "b", "--demo", "--max_missing", "1", "--seed", "7") == 0
    assert (
        run(tmp_path / "b", "--demo", "--max_missing", "1", "--judging", "pairwise", "--baseline", str(tmp_path / "a"))
        == 0
    )
    capsys.readouterr()
    out = tmp_path / "compared"
    assert mt_bench.main(["--compare", str(tmp_path / "a"), str(tmp_path / "b"), "--output_dir", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.count("note: no language model judged") == 1  # once for both
    assert "scripted-demo (2) less scripted-demo (1):" in said and "on the same" in said
    page = (out / "README.md").read_text(encoding="utf-8")
    assert page.count("```text") >= 3 * 8 and "| score |" in page
    assert plots.available() == (out / "radar.png").is_file()
    pairs = results.read(tmp_path / "b" / "pairwise.json")
    assert pairs["kind"] == "mt_bench_pairwise" and pairs["settings"]["baseline"]["name"] == "scripted-demo"
    with pytest.raises(ConfigError, match="was answered with max_tokens 1024, and this run has 2000"):
        more = ("--judging", "pairwise", "--baseline", str(tmp_path / "a"), "--max_tokens", "2000")
        run(tmp_path / "b", "--demo", *more)
    counts = pairs["counts"]
    assert counts["turns"] == 16 == counts["won"] + counts["tie"] + counts["lost"] + counts["missing"]
    with pytest.raises(ConfigError, match="mt_bench_pairwise: no comparison"):
        mt_bench.main(["--compare", str(tmp_path / "a"), str(tmp_path / "b" / "pairwise.json")])


def test_models_with_different_questions_are_not_compared(tmp_path):
    rows = [json.loads(line) for line in TRIAL.read_text().splitlines()]
    rows[0]["turns"][0] += " In verse."
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(tmp_path / "a", "--demo", "--judging", "none") == 0
    more = ("--demo", "--require_references", "false", "--max_missing", "1")
    assert run(tmp_path / "b", *more, questions=str(path)) == 0
    assert run(tmp_path / "c", "--demo", "--max_missing", "1") == 0
    with pytest.raises(ConfigError, match="answered different questions"):
        mt_bench.main(["--compare", str(tmp_path / "b"), str(tmp_path / "c")])
    with pytest.raises(ConfigError, match="answers another question set"):
        run(tmp_path / "b", *more, "--judging", "pairwise", "--baseline", str(tmp_path / "a"), questions=str(path))


def test_a_local_model_is_judged_by_a_server(tmp_path, serve, monkeypatch):
    """A tiny Llama in this process; the judge is asked under its own name, over HTTP, with 30% faults on the way."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "quickstart"))
    import tiny_llama

    tiny_llama.make(tmp_path / "model", ["Name a river."] * 3, vocab_size=400, hidden_size=32)
    judge = serve(fault="500,bad_json,empty_body,null_content,length", fault_share=0.3)
    local = ("--model", str(tmp_path / "model"), "--chat_template", "chatml", "--max_tokens", "12")
    asked = ("--judge_base_url", judge.url, "--judge_model", "judge-7b", "--max_missing", "1", "--max_wait", "60")
    assert run(tmp_path / "a", *local, *asked) == 0
    result = results.read(tmp_path / "a")
    assert result["model"] | {"fingerprint": ""} == {
        **dict.fromkeys(("revision", "adapter", "adapter_revision")),
        **{"name": "model", "local": True, "fingerprint": ""},
    }
    counts = result["counts"]
    missing = sum(count for name, count in counts.items() if name.startswith("missing: "))
    assert counts["scored"] + counts["no_text_scored_1"] + counts["missing"] == 16 and missing == counts["missing"]
    assert {request["model"] for request in judge.seen} == {"judge-7b"}
    assert str(tmp_path) not in (tmp_path / "a" / "result.json").read_text()
    before = len(judge.seen)
    assert run(tmp_path / "a", *local, *asked) == 0
    assert len(judge.seen) <= before + counts["missing"]


def test_keys_go_to_the_server_that_they_are_for(tmp_path, serve, monkeypatch):
    judge, candidate = serve(key="judge-key-123"), serve()
    monkeypatch.setenv("OPENAI_API_KEY", "judge-key-123")
    own = candidate.server.options
    own.key = "none"  # what the client says without a key; with the judge's it would be refused
    both = ("--model", "m", "--base_url", candidate.url, "--judge_model", "j", "--judge_base_url", judge.url)
    assert run(tmp_path / "a", *both, "--max_missing", "1") == 0
    own.key = "candidate-key-456"
    monkeypatch.setenv("CANDIDATE_API_KEY", "candidate-key-456")
    assert run(tmp_path / "b", *both, "--max_missing", "1") == 0


def test_another_server_with_the_same_name_of_a_model_is_asked_anew(tmp_path, serve):
    servers = serve(), serve()
    for server in (*servers, servers[0]):  # and a server that was asked before is not asked again
        assert run(tmp_path / "a", "--model", "m", "--base_url", server.url, "--judging", "none") == 0
    assert [len(server.seen) for server in servers] == [16, 16]


def test_another_judge_of_the_same_name_is_asked_itself(tmp_path, serve, capsys):
    """Its scores are its own, and a comparison of both says that they have two addresses."""
    candidate = serve()

    for name, score in (("a", 2), ("a", 9), ("b", 2)):
        judge = serve(lambda request, score=score: json.dumps({"reason": "so", "score": score}))
        both = ("--model", "m", "--base_url", candidate.url, "--judge_model", "j", "--judge_base_url", judge.url)
        run(tmp_path / name, *both, "--max_missing", "1")
        assert results.read(tmp_path / name)["metrics"]["score"]["value"] == score and len(judge.seen) >= 16
    capsys.readouterr()
    mt_bench.main(["--compare", str(tmp_path / "a"), str(tmp_path / "b"), "--output_dir", str(tmp_path / "c")])
    assert "note: the judges have one name and other addresses" in capsys.readouterr().out


def test_a_folder_s_family_is_that_of_its_base(tmp_path):
    final = tmp_path / "alpaca-lora" / "final"
    final.mkdir(parents=True)
    facts = {"format": run_facts.FORMAT, "base": {"name": "mistralai/Mistral-7B-v0.1"}}
    (final / run_facts.FILE).write_text(json.dumps(facts))
    args = MtBenchArguments(output_dir="x", model=str(final))
    told = {"name": "alpaca-lora/final"}
    assert "family mistral" in benchmark.family_warning(args, "mistral-large", told, None)
    assert benchmark.family_warning(args, "gpt-4", told, None) is None


def test_exit_codes(tmp_path, serve, capsys):
    assert run(tmp_path / "a", "--demo", "--max_requests", "3") == 5
    assert "max_requests=3 is reached" in capsys.readouterr().err
    assert run(tmp_path / "a", "--demo", "--judge_max_requests", "12") == 5
    assert (tmp_path / "a" / "answers.jsonl").is_file()  # what is there stays
    assert run(tmp_path / "a", "--demo", "--replay") == 3
    prose = serve(lambda request: "Lovely." if "The mark" in request["messages"][-1]["content"] else None)
    judged = ("--model", "m", "--base_url", prose.url, "--judge_model", "j", "--judge_base_url", prose.url)
    with pytest.raises(GenerationError, match="gave no verdict on any of 8 test answers"):
        run(tmp_path / "b", *judged)
    hidden = serve(lambda request: "No." if "bakery" in request["messages"][-1]["content"] else None)
    judged = ("--demo", "--model", "m", "--base_url", hidden.url)
    assert run(tmp_path / "c", *judged, "--max_missing", "0") in (0, 3)
    script = [sys.executable, str(ROOT / "recipes" / "mt_bench.py"), "--questions", "trial"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OPENAI_")}
    done = subprocess.run([*script, "--output_dir", str(tmp_path / "d")], capture_output=True, text=True, env=clean)
    assert done.returncode == 4 and done.stderr.strip().startswith("ConfigError: no model: give model")


def test_ctrl_c_keeps_every_reply(tmp_path, serve):
    slow = serve(latency=0.4)
    script = [sys.executable, str(ROOT / "recipes" / "mt_bench.py"), "--questions", "trial", "--max_concurrency", "2"]
    more = [
        "--model",
        "m",
        "--base_url",
        slow.url,
        "--demo",
        "--output_dir",
        str(tmp_path / "a"),
        "--progress",
        "false",
    ]
    process = subprocess.Popen([*script, *more], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while process.poll() is None and len(slow.seen) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in said and "Traceback" not in said
    asked = len(slow.seen)
    assert mt_bench.main([*script[2:4], *more, "--max_missing", "1"]) == 0
    assert len(slow.seen) <= 16 + 2 and asked < 16


def test_a_question_set_on_the_hub(hub):
    rows = [
        {
            "prompt_id": n,
            "category": "math",
            "prompt": [f"What is {n} + {n}?", "And half?"],
            "reference": [f"{2 * n}", f"{n}"],
        }
        for n in (1, 2)
    ]
    datasets.Dataset.from_list(rows).push_to_hub("me/questions")
    asked = question_sets.load("me/questions", references="me/questions")
    assert asked.data["name"].startswith("me/questions@") and len(asked.data["revision"]) == 40
    assert [one["reference"] for one in asked.questions] == [["2", "1"], ["4", "2"]]
    with pytest.raises(ConfigError, match="holds no reference"):
        question_sets.load("trial", references=str(TRIAL))  # questions are no references


def test_a_family_is_warned_about(tmp_path, serve, capsys):
    server = serve()
    more = ("--model", "org/qwen-sft", "--base_url", server.url, "--judge_base_url", server.url, "--max_missing", "1")
    assert run(tmp_path / "a", *more, "--judge_model", "Qwen2.5-72B") == 0
    assert "both of the family qwen" in capsys.readouterr().err
    assert any("family qwen" in note for note in results.read(tmp_path / "a")["notes"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--demo", "--judging", "pairs"], "Did you mean 'pairwise'"),
        (["--demo", "--judging", "pairwise"], "go together"),
        (["--demo", "--baseline", "x"], "go together"),
        (["--model", "m"], "no judge"),
        (["--model", "m", "--judge_model", "j"], "give judge_base_url, or set OPENAI_API_KEY"),
        (["--demo", "--references", "gone.jsonl"], "references: 'gone.jsonl' is no file"),
        (["--demo", "--judge_model", "j"], "the judge is a script then"),
        (["--demo", "--model", "m", "--base_url", "http://127.0.0.1:1/v1", "--adapter", "a"], "leave out base_url"),
        (["--demo", "--base_url", "http://127.0.0.1:1/v1"], "base_url without model"),
        (["--demo", "--categories", "maths"], "Did you mean 'math'"),
        (["--demo", "--temperatures", "{math: 3}"], "from 0 to 2"),
        (["--demo", "--limit", "0"], "limit=0"),
        (["--demo", "--judge_parameters", "7"], "judge_parameters"),
        (["--demo", "--judge_modell", "x"], "Did you mean 'judge_model'"),
        (["--demo", "--max_missing", "2"], "max_missing=2"),
        (["--compare", "x"], "two or more runs"),
        (["--compare", "x", "y"], "no result can be read there"),
    ],
)
def test_what_can_not_be_right_is_said_before_anything_is_asked(more, message, tmp_path):
    with pytest.raises((ConfigError, SourceError), match=message):
        run(tmp_path / "out", *more)
    assert not (tmp_path / "out.work" / "answers.sqlite").exists()


BAD = {
    "one turn": ('{"question_id": 1, "category": "math", "turns": ["a"]}', "has 2 turns, this one has 1 turns"),
    "no turns": ('{"question_id": 1, "category": "math"}', "this one has turns: None"),
    "empty turn": ('{"question_id": 1, "category": "math", "turns": ["a", " "]}', "turn 2 is ' '"),
    "null turn": ('{"question_id": 1, "category": "math", "turns": ["a", null]}', "turn 2 is None"),
    "no category": ('{"question_id": 1, "turns": ["a", "b"]}', "has no category"),
    "no id": ('{"category": "stem", "turns": ["a", "b"]}', "question_id is None"),
    "twice": ('{"question_id": 1, "category": "stem", "turns": ["a", "b"]}\n' * 2, "is there already, at .*line 1"),
    "torn": ('{"question_id": 1, "category": "stem", "turns": ["a", "b"]}\n{"question_id', "rows can't be read"),
    "no reference": ('{"question_id": 1, "category": "math", "turns": ["a", "b"]}', "have none, such as 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_question_set_is_used_whole_or_not_at_all(name, tmp_path):
    text, message = BAD[name]
    path = tmp_path / "q.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(ConfigError, match=message) as caught:
        run(tmp_path / "out", "--demo", questions=str(path))
    assert "q.jsonl" in str(caught.value) or name == "no reference"


def test_references_can_be_replaced_and_the_report_says_so(tmp_path):
    own = tmp_path / "own.jsonl"
    own.write_text(
        '{"question_id": "trial-4", "turns": ["135", "180 km"]}\n{"question_id": "trial-1", "turns": ["x", "y"]}\n'
    )
    told = question_sets.load("trial", corrected_references=str(own))
    assert told.references["used"] == {"given": 2, "replaced": 1, "none": 0}
    assert told.references["replaced"] == ["trial-4"] and told.references["not_used"] == ["trial-1"]
    assert next(one for one in told.questions if one["id"] == "trial-4")["reference"] == ["135", "180 km"]
    without = question_sets.load("trial", corrected_references=str(own), categories=["math"])
    assert without.references["used"] == {"given": 0, "replaced": 1, "none": 0} and without.data["rows"] == 1


@pytest.mark.shared_data
def test_the_published_questions_are_known(shared_data):
    folder = shared_data / "mt_bench"
    asked = question_sets.load(str(folder / "question.jsonl"), references=str(folder / "reference_answer_gpt-4.jsonl"))
    assert asked.data["rows"] == 80 and asked.data["published"] and asked.data["license"] == "apache-2.0"
    assert asked.references["used"] == {"published": 30, "replaced": 0, "none": 0}
    heats = {one["category"]: one["temperature"] for one in asked.questions}
    assert heats == question_sets.TEMPERATURES and len(heats) == 8
    assert sum(one["reference"] is not None for one in asked.questions) == 30
    shorter = question_sets.load(
        str(folder / "question.jsonl"), references=str(folder / "reference_answer_gpt-4.jsonl"), limit=2
    )
    assert shorter.data["rows"] == 16 and not shorter.data["published"]


def test_the_radar_is_the_same_picture_for_the_same_scores():
    if not plots.available():
        pytest.skip("matplotlib (the extra 'report') is not installed")
    scores = {"base": [1, 2.5, None, 10], "base + $lora": [4, 4, 4, 4]}
    picture = plots.radar_picture(["a", "b", "c", "d"], scores)
    assert picture.startswith(b"\x89PNG") and picture == plots.radar_picture(["a", "b", "c", "d"], scores)
    assert picture != plots.radar_picture(["a", "b", "c", "d"], {**scores, "base": [1, 2.5, 1, 10]})
