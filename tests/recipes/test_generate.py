"""recipes/generate.py against the scripted server: the directory it leaves, its exit codes, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import build
import datasets
import pytest
import yaml

pytest.importorskip("openai", reason="the extra 'generate' is not installed")
pytest.importorskip("aiohttp", reason="the extra 'generate' is not installed")

import generate

from instruct_builders import load_dataset, plots
from instruct_builders.errors import BuildError, ConfigError, GenerationError, PublishError, SourceError
from instruct_builders.publish import publish

ROOT = Path(__file__).resolve().parents[2]
YAMLS = sorted((ROOT / "recipes").rglob("generate*.yaml"))


def flags(out: Path, *more: str, method: str = "self_instruct") -> list[str]:
    folders = ["--output_dir", str(out), "--cache_dir", str(out.parent / "cache")]
    return ["--method", method, *folders, "--progress", "false", *more]


def run(out: Path, *more: str, method: str = "self_instruct") -> int:
    return generate.main(flags(out, "--demo", *more, method=method))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_directory_is_a_dataset_that_says_who_wrote_it(tmp_path, capsys):
    out = tmp_path / "out"
    more = ("--target", "25", "--test_size", "0.2", "--prices", "{input: 1.0, output: 2.0}", "--title", "Trial")
    assert run(out, *more) == 0
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "hf"))
    assert set(loaded) == {"train", "test"} and len(loaded["train"]) > 15
    rows = [row for split in loaded.values() for row in split]
    assert {row["meta"]["generator"] for row in rows} == {"scripted-demo"}
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "no language model wrote this" in card and "temperature=0.7" in card
    told = json.loads((out / "build.json").read_text(encoding="utf-8"))["generation"]
    purposes = told["purposes"]
    assert told["questions"]["asked"] == sum(counts["asked"] for counts in purposes.values())
    assert told["yield"]["accepted"] >= 25 and told["settings"]["human_demonstrations"] == 6
    tokens = told["usage"]
    expected = (tokens["prompt_tokens"] + 2 * tokens["completion_tokens"]) / 1e6
    assert told["cost"] == pytest.approx(expected)
    report = told["yield"]
    assert report["candidates"] == report["accepted"] + sum(report["dropped"].values())
    assert plots.available() == (out / "picture-1.png").is_file()
    said = capsys.readouterr().out
    assert "seeds: 175 rows = 175 used + 0 rejected" in said and f"cost: {expected:.4f}" in said
    assert {path.name for path in (tmp_path / "out.work").iterdir()} >= {"journal.sqlite", "pool.jsonl", "runs.jsonl"}


def test_the_histogram_is_the_same_picture_for_the_same_scores():
    if not plots.available():
        pytest.skip("matplotlib (the extra 'report') is not installed")
    picture = plots.novelty_histogram([0.0, 0.3, 0.7, 0.9], 0.7)
    assert picture.startswith(b"\x89PNG") and picture == plots.novelty_histogram([0.0, 0.3, 0.7, 0.9], 0.7)
    assert picture != plots.novelty_histogram([0.0, 0.3, 0.7, 0.9], 0.8)


def test_without_the_extra_the_pip_line_is_said(monkeypatch):
    from instruct_builders.generate.openai_transport import OpenAITransport

    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ConfigError, match=r"needs aiohttp, .*instruct-builders\[generate\]"):
        OpenAITransport(None, "key", 1, None)


def test_a_local_model_that_is_not_there_is_told_at_once(tmp_path):
    given = ("--local_model", str(tmp_path / "nothing"))
    with pytest.raises(SourceError, match="local_model: there is no folder"):
        generate.main(flags(tmp_path / "out", *given))


def test_every_bar_of_the_lengths_says_how_many_words():
    if not plots.available():
        pytest.skip("matplotlib (the extra 'report') is not installed")
    import numpy as np
    from matplotlib.figure import Figure

    drawn, words = [], range(130)
    figures = {"counts": np.bincount(np.ceil(np.log2(np.arange(130) + 1)).astype(int)).tolist()}
    savefig = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Figure, "savefig", lambda figure, *args, **how: (drawn.append(figure), savefig(figure, *args, **how))
        )
        plots.lengths_picture({"prompt": {**figures, "quartiles": [0, 32, 64.5, 97, 129]}})
    (axis,) = drawn[0].axes
    assert axis.get_xlabel() == "words in the prompt (median 64)"
    told = [label.get_text().split("–") for label in axis.get_xticklabels()]
    spans = [(int(label[0]), int(label[-1])) for label in told]
    heights = [bar.get_height() for bar in axis.patches]
    assert heights == [sum(first <= number <= last for number in words) for first, last in spans]


def test_scores_that_are_the_best_everywhere_are_no_picture():
    full = {"score": "total", "mean": 1.0, "counts": [0, 0, 9]}
    some = {"score": "code", "mean": 0.9, "counts": [0, 1, 8]}
    assert plots.telling([full, some, {"score": "x", "mean": None, "counts": []}]) == [some]


def test_killed_again_and_again_it_writes_the_same_bytes(tmp_path, start_server):
    """kill -9 at random moments; the directory and the work files are those of a run that nobody killed."""
    url = start_server(latency=0.05, latency_sigma=0.5)
    options = ["--target", "40", "--window", "8", "--demo", "--base_url", url, "--max_concurrency", "4"]
    command = [sys.executable, str(ROOT / "recipes" / "generate.py")]
    killed, whole, log = tmp_path / "killed" / "out", tmp_path / "whole" / "out", tmp_path / "server.log"

    def answered() -> int:
        return log.read_bytes().count(b"\n")

    draw, kills = random.Random(5), 0
    for _ in range(4):
        enough = answered() + draw.randrange(5, 20)
        process = subprocess.Popen(
            [*command, *flags(killed, *options)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        while process.poll() is None and answered() < enough:
            time.sleep(0.005)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills == 4 and not killed.exists()
    assert generate.main(flags(killed, *options)) == 0
    asked = answered()
    assert generate.main(flags(whole, *options)) == 0
    assert asked <= (answered() - asked) + 4 * kills  # again was asked at most what was under way at a kill
    assert digests(killed) == digests(whole)
    for name in ("generated.jsonl", "pool.jsonl", "dropped.jsonl"):
        work = [folder.parent / "out.work" / name for folder in (killed, whole)]
        assert work[0].read_bytes() == work[1].read_bytes()


def paid(log: Path) -> set[int]:
    """How often the questions in a server's log were answered."""
    return set(Counter(json.loads(line)["row"] for line in log.read_text().splitlines()).values())


@pytest.mark.parametrize("name", ["pool.jsonl", "generated.jsonl.incomplete", "runs.jsonl"])
def test_a_full_disk_under_the_work_files_loses_nothing(name, tmp_path, start_server, capsys):
    """A file that grows meets a device without room; with room again, nothing is asked twice."""
    url, work, log = start_server(), tmp_path / "out.work", tmp_path / "server.log"
    options = ("--base_url", url, "--target", "10", "--window", "4")
    work.mkdir()
    (work / name).symlink_to("/dev/full")
    with pytest.raises((GenerationError, BuildError), match="No space left on device"):
        run(tmp_path / "out", *options)
    assert not (tmp_path / "out").exists() and log.stat().st_size
    if name.startswith("generated"):  # the pool was written as it grew
        assert len((work / "pool.jsonl").read_text().splitlines()) >= 10
    (work / name).unlink(missing_ok=True)
    assert run(tmp_path / "out", *options) == 0
    assert paid(log) == {1} and run(tmp_path / "whole" / "out", *options) == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "whole" / "out")


def test_a_full_disk_under_the_output_leaves_nothing_half_written(tmp_path, start_server):
    url, small, log = start_server(), tmp_path / "small", tmp_path / "server.log"
    small.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(small)]
    if os.geteuid() or subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    options = ("--base_url", url, "--target", "40", "--work_dir", str(tmp_path / "work"))
    folders = ["--method", "self_instruct", "--cache_dir", str(tmp_path / "cache"), "--progress", "false", "--demo"]
    try:
        with pytest.raises(BuildError, match="No space left on device"):
            generate.main([*folders, "--output_dir", str(small / "out"), *options])
        assert not (small / "out").exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)
    asked = log.stat().st_size
    assert generate.main([*folders, "--output_dir", str(tmp_path / "out"), *options]) == 0
    assert log.stat().st_size == asked  # all of it was in the journal


def test_exit_codes(tmp_path, start_server, capsys):
    url = start_server(latency=0.3)
    script = [sys.executable, str(ROOT / "recipes" / "generate.py")]
    assert run(tmp_path / "a", "--max_requests", "3", "--target", "10") == 5
    assert "max_requests=3 is reached" in capsys.readouterr().err and not (tmp_path / "a").exists()
    assert run(tmp_path / "a", "--replay", "--target", "10") == 3
    assert "holds no answer" in capsys.readouterr().err
    wrong = subprocess.run(
        [*script, *flags(tmp_path / "b")], capture_output=True, text=True, check=False, env=without_key()
    )
    assert wrong.returncode == 4
    last = wrong.stderr.strip().splitlines()[-1]
    assert last == "ConfigError: no LLM configured: set base_url or use --demo (demo: true in a step)"
    slow = flags(tmp_path / "c", "--demo", "--base_url", url, "--target", "500", "--max_concurrency", "2")
    process = subprocess.Popen([*script, *slow], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while process.poll() is None and (tmp_path / "server.log").read_bytes().count(b"\n") < 3:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "run the same command to go on" in said and "Traceback" not in said
    process = subprocess.Popen([*script, *slow], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()  # the seeds are read, and the engine is not there yet
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said, said
    assert run(tmp_path / "a", "--target", "10") == 0


def without_key() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("OPENAI_")}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rounds", "3"], "rounds goes with method: evol_instruct, not with self_instruct"),
        (["--treshold", "0.5"], "Did you mean 'threshold'"),
        (["--api_key", "x"], "OPENAI_API_KEY"),
        (["--format", "alpacca"], "Did you mean 'alpaca'"),
        (["--transforms", "[exact_duplicate]"], "Did you mean 'exact_duplicates'"),
        (["--push_to_hub"], "push_to_hub needs repo_id"),
        (["--push_to_hub", "--repo_id", "me/data"], "no language model writes these rows"),
        (["--model", "gpt"], "the demo server has only 'scripted-demo'"),
        (["--target", "0"], "target=0"),
        (["--embed", "nowhere:embed"], "can't be imported"),
        (["--local_model", "org/model"], "local_model needs no server"),
        (["--max_cost", "1"], "max_cost needs prices"),
    ],
)
def test_what_can_not_be_right_is_said_before_anything_is_asked(more, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "out", *more)
    assert not (tmp_path / "out.work" / "generated.jsonl").exists()


def test_an_unknown_method_and_the_demo_model_by_accident(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'evol_instruct'"):
        run(tmp_path / "out", method="evol_instruc")
    with pytest.raises(ConfigError, match="it needs --demo"):
        generate.main(flags(tmp_path / "out", "--model", "scripted-demo", "--base_url", "http://127.0.0.1:9/v1"))


def test_demo_data_is_published_only_by_name(tmp_path):
    out = tmp_path / "out"
    assert run(out, "--target", "10") == 0
    with pytest.raises(PublishError, match="which no language model wrote"):
        publish(out, "me/data", dry_run=True)
    assert publish(out, "me/data", dry_run=True, allow_demo_data=True).files
    # Built anew by another recipe, build.json knows nothing of it, but the rows do.
    again = tmp_path / "again"
    folders = ["--output_dir", str(again), "--cache_dir", str(tmp_path / "cache")]
    source = str(tmp_path / "out.work" / "generated.jsonl")
    assert build.main(["--builder", "self_instruct", "--data_files", source, *folders]) == 0
    assert "scripted-demo" not in (again / "build.json").read_text()
    with pytest.raises(PublishError, match=r"default/train-00000-of-00001\.parquet holds rows of scripted-demo"):
        publish(again, "me/data", dry_run=True)
    pool = tmp_path / "pool"
    folders = ["--output_dir", str(pool), "--cache_dir", str(tmp_path / "cache")]
    source = str(tmp_path / "out.work" / "pool.jsonl")
    assert build.main(["--builder", "self_instruct", "--data_files", source, *folders, "--format", "alpaca"]) == 0
    with pytest.raises(PublishError, match="holds rows of scripted-demo"):
        publish(pool, "me/data", dry_run=True)


def test_other_data_is_published_as_before(tmp_path):
    folders = ["--output_dir", str(tmp_path / "seeds"), "--cache_dir", str(tmp_path / "cache")]
    assert build.main(["--builder", "self_instruct", "--data_files", "bundled", *folders]) == 0
    assert publish(tmp_path / "seeds", "me/data", dry_run=True).files


def test_what_is_generated_is_read_like_any_other_source(tmp_path):
    assert run(tmp_path / "out", "--target", "12") == 0
    work, cache = tmp_path / "out.work", str(tmp_path / "cache")
    built = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "hf"))
    rows = load_dataset("self_instruct", data_files=str(work / "generated.jsonl"), split="train", cache_dir=cache)
    assert rows["id"][:] == built["id"][:] and len(set(rows["id"])) == len(rows)
    pool = load_dataset("self_instruct", data_files=str(work / "pool.jsonl"), split="train", cache_dir=cache)
    assert pool["messages"][:] == rows["messages"][:] and pool["context"][:] == rows["context"][:]
    (work / "pool.jsonl").write_text(
        '{"instruction": "Name a river.", "instances": []}\n' * 2 + (work / "pool.jsonl").read_text()
    )
    options = {"data_files": str(work / "pool.jsonl"), "cache_dir": cache, "max_bad_fraction": 0.5}
    assert load_dataset("self_instruct", split="train", **options)["messages"][:] == rows["messages"][:]


def test_the_strictest_license_of_the_seeds_is_that_of_the_data(tmp_path):
    path = tmp_path / "seeds.jsonl"
    rows = [{"instruction": f"Name {n} rivers.", "license": name} for n, name in enumerate(["mit", "cc-by-nc-4.0"])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(tmp_path / "out", "--data_files", str(path), method="answer") == 0
    assert "license: cc-by-nc-4.0" in (tmp_path / "out" / "README.md").read_text()
    assert run(tmp_path / "own", "--data_files", str(path), "--license", "apache-2.0", method="answer") == 0
    assert "license: apache-2.0" in (tmp_path / "own" / "README.md").read_text()


def test_a_model_in_this_process_instead_of_a_server(tmp_path, monkeypatch, capsys):
    """A random Llama that ends a turn at every third token: what it says is nonsense, and kept all the same."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "quickstart"))
    import tiny_llama

    model, questions = tmp_path / "model", [f"Name {n} rivers of the north." for n in range(6)]
    tiny_llama.make(model, questions, vocab_size=400, hidden_size=32)
    tokenizer, llama = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    tokenizer.chat_template = "{% for turn in messages %}{{ turn.content }}{% endfor %}"
    tokenizer.save_pretrained(model)
    llama.generation_config.eos_token_id = list(range(2, 300, 3))
    llama.save_pretrained(model)
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps({"instruction": text}) + "\n" for text in questions))
    torch.manual_seed(0)
    more = ["--data_files", str(path), "--local_model", str(model), "--model", "tiny", "--max_failed", "0.9"]
    given = ["--parameters", "{answer: {max_tokens: 40}}"]
    assert generate.main(flags(tmp_path / "out", *more, *given, method="answer")) == 0
    told = json.loads((tmp_path / "out" / "build.json").read_text())["generation"]
    assert told["model"] == "tiny" and told["parameters"] == {"answer": {"temperature": 0.7, "max_tokens": 40}}
    assert (
        told["yield"]["accepted"] > 0 and "written by the model tiny" in (tmp_path / "out" / "README.md").read_text()
    )
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ConfigError, match="can't be loaded"):
        generate.main(flags(tmp_path / "b", "--local_model", str(tmp_path / "nothing"), method="answer"))


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_each_yaml_runs(path, tmp_path):
    """As it ships, but for its size: a few seeds, and few rows wanted."""
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    args, options = generate.read_arguments(["--config", str(path), "--output_dir", str(tmp_path / "out")])
    assert given.keys() <= vars(args).keys() | vars(options).keys()
    small = ["--target", "6"] if "target" in given else []
    if "target" not in given:
        rows = [{"instruction": f"Explain why river number {n} floods in spring."} for n in range(5)]
        (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        small = ["--data_files", str(tmp_path / "seeds.jsonl")]
    folders = ["--output_dir", str(tmp_path / "out"), "--cache_dir", str(tmp_path / "cache")]
    assert generate.main(["--config", str(path), *folders, "--demo", "--progress", "false", *small]) == 0


def test_the_yamls_are_all_here():
    assert len(YAMLS) == 8


def test_help_names_the_keys_of_every_method(capsys):
    with pytest.raises(SystemExit):
        generate.read_arguments(["--help"])
    said = capsys.readouterr().out
    for key in ("--journal", "--threshold", "--list_length", "--rounds", "--answers"):
        assert key in said
