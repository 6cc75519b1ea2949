"""recipes/measure.py from a command line to result files, a table and a page, before and after."""

from __future__ import annotations

import http.server
import json
import runpy
import sys
import threading
from pathlib import Path

import measure
import pytest

from instruct_builders.errors import ConfigError, SourceError
from trainers.evaluation import before_after, results

pytestmark = pytest.mark.xdist_group("measure")  # one worker: what the module sets up is dear

SMALL_MODELS = Path(__file__).resolve().parents[1] / "training" / "conftest.py"
TALK = "Say the colour {} loudly."


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`before` and `after` (its head turned round), and `rows.jsonl` with a test split's worth of rows."""
    from safetensors.torch import load_file, save_file

    home = tmp_path_factory.mktemp("measure")
    make = runpy.run_path(str(SMALL_MODELS))["save_tiny_llama"]
    for name in ("before", "after"):
        make(home / name)
    weights = load_file(home / "after" / "model.safetensors")
    weights["lm_head.weight"] = -weights["lm_head.weight"]
    save_file(weights, home / "after" / "model.safetensors", metadata={"format": "pt"})
    rows = [
        {"instruction": TALK.format(colour), "input": "", "output": f"{colour}, please."}
        for colour in ("blue", "red", "green", "grey", "pink")
    ]
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return home


def run(folder: Path, model: str, measures=("instruction_following", "held_out", "tasks"), **keys) -> None:
    given = {"model": folder / model, "data": folder / "rows.jsonl", "output_dir": folder / f"of_{model}"}
    given |= {"data_split": "train", "chat_template": "alpaca_short", "max_new_tokens": 8, "dtype": "float32"}
    argv = [word for key, value in (given | {"limit": 4} | keys).items() for word in (f"--{key}", str(value))]
    measure.main([*argv, "--measures", *measures])


def test_before_and_after(folder, capsys):
    for model in ("before", "after"):
        run(folder, model)
        told = capsys.readouterr().out
        assert "perplexity" in told and "prompt strict" in told and "exact match" in told
    before = before_after.read(folder / "of_before")
    assert {name: len(one.rows) for name, one in before.items()} == {
        "held_out": 4,
        "instruction_following": 4,
        "tasks": 4,
    }
    for one in before.values():
        assert one.result["date"] and one.result["versions"]["torch"] and one.result["model"]["name"] == "before"
        assert str(folder) not in json.dumps(one.result)
    measure.main(["--compare", str(folder / "of_before"), str(folder / "of_after"), "--samples", "2"])
    told = capsys.readouterr().out
    losses = [
        json.loads((folder / f"of_{name}/held_out/result.json").read_text())["metrics"]["loss"]["value"]
        for name in ("before", "after")
    ]
    assert all(number in told for number in (f"{losses[0]:.3f}", f"{losses[1]:.3f}", f"{losses[1] - losses[0]:+.3f}"))
    assert told.count("before:") == told.count("after: ") == 4  # two of each measure with answers
    page = (folder / "of_after" / "before_after.md").read_text(encoding="utf-8")
    assert page.startswith("# Before and after\n\nBefore: `before`; after: `after`.")
    assert page.count("\n## ") == 4 and "grey, please." in page


def test_other_rows_or_another_metric_are_not_compared(folder):
    """The same file, as many rows, and both have a score: of other rows, or by another metric."""
    places = [folder / name for name in ("of_first", "of_rest", "of_metric")]
    ways = [("train[:2]", "exact_match"), ("train[2:4]", "exact_match"), ("train[:2]", "token_f1")]
    for place, (split, metric) in zip(places, ways, strict=True):
        run(folder, "before", ["tasks"], output_dir=place, data_split=split, metric=metric, max_new_tokens=2)
    for place, word in zip(places[1:], ("split", "metric"), strict=True):
        with pytest.raises(ConfigError, match=f"differ in {word}"):
            measure.main(["--compare", str(places[0]), str(place)])


def test_a_second_run_answers_from_its_journal_and_gives_the_same(folder, capsys):
    run(folder, "before", ["instruction_following"])
    place = folder / "of_before" / "instruction_following"
    first = [(place / name).read_bytes() for name in ("result.json", "rows.jsonl")]
    journals = {path: path.stat().st_size for path in (folder / "of_before" / "journals").glob("*.sqlite")}
    run(folder, "before", ["instruction_following"])
    assert [(place / name).read_bytes() for name in ("result.json", "rows.jsonl")] == first
    assert {path: path.stat().st_size for path in (folder / "of_before" / "journals").glob("*.sqlite")} == journals
    run(folder, "after", ["instruction_following"], output_dir=folder / "of_before")
    capsys.readouterr()
    assert (place / "rows.jsonl").read_bytes() != first[1]  # the first model's journal does not answer for another


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--measures", "held_outt"], "Did you mean 'held_out'?"),
        (["--measures", "held_out", "--model", "m", "--output_dir", "o"], "held_out needs data"),
        (["--measures", "harness", "--model", "m", "--output_dir", "o"], "harness needs benchmarks"),
        (["--model", "m"], "output_dir: not given"),
        (["--output_dir", "o"], "no model"),
        (
            ["--model", "m", "--output_dir", "o", "--base_url", "http://127.0.0.1:9/v1", "--measures", "held_out"],
            "own",
        ),
        (["--model", "m", "--output_dir", "o", "--limit", "0"], "limit: 0 given"),
        (["--compare", "one"], "two are wanted"),
        (["--compare", "one", "two"], "holds no results"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        measure.main(flags)
    assert words in str(error.value)


def test_what_cannot_be_labelled_is_told_before_anything_is_generated(folder):
    with pytest.raises(ConfigError, match="held_out: the tokenizer lacks"):
        run(folder, "before", ["instruction_following", "held_out"], chat_template="chatml", output_dir=folder / "no")
    assert not (folder / "no" / "instruction_following").exists() and not list((folder / "no").glob("journals/*"))


@pytest.mark.parametrize("key", ["model", "adapter"])
def test_a_folder_that_is_not_there_is_no_hub_id(key, tmp_path):
    flags = [f"--{key}", str(tmp_path / "nothing"), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SourceError, match=f"^{key}: there is no folder or file"):
        measure.main(flags)


def test_a_split_that_is_not_there_is_named(folder):
    with pytest.raises(SourceError, match="no split 'test'; it has train"):
        run(folder, "before", ["instruction_following", "held_out"], data_split="test", output_dir=folder / "none")
    assert not (folder / "none" / "instruction_following").exists()  # told before anything was asked


def result(rows: int = 2, digest: str = "sha256:1") -> dict:
    return results.result(
        "held_out_loss",
        "Held-out loss",
        model={"name": "m"},
        data={"name": "d", "rows": rows, "digest": digest},
        settings={},
        seed=1,
        counts={},
        metrics={"loss": results.plain_metric(1.0, rows)},
    )


def side(figures: list[dict], **facts) -> dict:
    rows = [{"id": str(place), "figures": figure} for place, figure in enumerate(figures)]
    return {"held_out": before_after.Measure(result(len(rows), **facts), rows)}


def test_a_server_is_asked_through_the_engine(folder, capsys):
    class Server(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert asked["model"] == "served" and asked["temperature"] == 0 and asked["max_tokens"] == 8
            said = {"role": "assistant", "content": "Salt comes from rock that a river carries."}
            reply = json.dumps({"choices": [{"message": said, "finish_reason": "stop"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/v1"
            place = folder / "of_server"
            keys = ["--model", "served", "--base_url", url, "--max_new_tokens", "8", "--limit", "4"]
            measure.main([*keys, "--output_dir", str(place), "--measures", "instruction_following"])
        finally:
            server.shutdown()
            thread.join()
    found = results.read(place / "instruction_following")
    assert found["model"] | {"name": "served", "local": False} == found["model"]
    assert found["groups"]["keywords:existence"]["instruction_strict"]["value"] == 0.25  # the first of four
    assert url not in json.dumps(found)  # where a server stands is nobody's business


def test_an_encoder_decoder_is_measured_on_tasks(folder, capsys):
    sys.path.insert(0, str(Path(measure.__file__).parent / "quickstart"))
    import tiny_t5

    texts = [text for line in (folder / "rows.jsonl").read_text().splitlines() for text in json.loads(line).values()]
    tiny_t5.make(folder / "t5", texts, d_model=32)
    given = {"model": folder / "t5", "data": folder / "rows.jsonl", "output_dir": folder / "of_t5"}
    argv = [word for key, value in given.items() for word in (f"--{key}", str(value))]
    argv += ["--data_split", "train", "--max_new_tokens", "4", "--dtype", "float32"]
    measure.main([*argv, "--measures", "tasks", "--max_source_length", "12"])
    found = results.read(folder / "of_t5" / "tasks")
    counts = found["counts"]
    assert counts["asked"] == 5 == counts["answered"] + counts.get("no_answer_too_long", 0)
    assert found["metrics"]["exact_match"]["n"] == 5  # one that is not answered counts as wrong
    with pytest.raises(ConfigError, match=r"held_out: .* is an encoder-decoder"):
        measure.main([*argv, "--measures", "held_out"])
    whole = (folder / "of_t5" / "tasks" / "rows.jsonl").read_text(encoding="utf-8")

    # Its adapter, as --adapter and as --model; with random weights it says something else than the base alone.
    from peft import LoraConfig, get_peft_model

    from trainers import adapters, seq2seq_models

    config = LoraConfig(task_type="SEQ_2_SEQ_LM", r=8, init_lora_weights=False, target_modules=["q", "v", "wi_0"])
    with adapters.old_names_allowed():
        adapted = get_peft_model(seq2seq_models.from_pretrained(str(folder / "t5")), config)
    adapted.save_pretrained(folder / "t5_adapter")
    argv[:2], said = [], []
    for key in ("--adapter", "--model"):
        measure.main([key, str(folder / "t5_adapter"), *argv, "--measures", "tasks", "--max_source_length", "12"])
        found = results.read(folder / "of_t5" / "tasks")
        assert found["model"]["name"] == "t5" and found["model"]["adapter"] == "t5_adapter"
        assert found["counts"] == counts and str(folder) not in json.dumps(found)
        said.append((folder / "of_t5" / "tasks" / "rows.jsonl").read_text(encoding="utf-8"))
    assert said[0] == said[1] != whole
    with pytest.raises(ConfigError, match=r"held_out: .*t5_adapter is an encoder-decoder"):
        measure.main(["--adapter", str(folder / "t5_adapter"), *argv, "--measures", "held_out"])


def test_an_answer_does_not_command_the_terminal():
    row = {"id": "0", "prompt": "p", "answer": "a\x1b[31m\rb\u202ec", "figures": {"hits": [1, 1]}}
    both = {"tasks": before_after.Measure(result(1), [row])}
    shown = before_after.samples(both, both, 1)
    assert "a\ufffd[31m b\ufffdc" in shown and "\x1b" not in shown


def test_what_cannot_be_compared_is_refused():
    losses = [{"loss": [2.0, 1]}, {"loss": [4.0, 2]}]
    with pytest.raises(ConfigError, match="different questions"):
        before_after.changes(side(losses), side(losses, digest="sha256:2"))
    with pytest.raises(ConfigError, match="other tokens"):
        before_after.changes(side(losses), side([{"loss": [2.0, 2]}, {"loss": [4.0, 2]}]))
    other = side(losses)
    other["held_out"].rows[0]["id"] = "9"
    with pytest.raises(ConfigError, match="different rows"):
        before_after.changes(side(losses), other)
    with pytest.raises(ConfigError, match="no measure in common"):
        before_after.changes(side(losses), {"tasks": other["held_out"]})


def rows_of(measured: dict) -> list[dict]:
    return [row["figures"] for row in measured["held_out"].rows]


def test_verdicts():
    one = side(
        [{"loss": [2.0, 1], "hits": [0, 1]}, {"loss": [4.0, 2], "hits": [1, 1]}, {"loss": [3.0, 1], "hits": [0, 0]}]
    )
    better = side(
        [{"loss": [1.0, 1], "hits": [0, 1]}, {"loss": [1.8, 2], "hits": [0, 1]}, {"loss": [1, 1], "hits": [1, 1]}]
    )
    found = {change.figure: change for change in before_after.changes(one, better)}
    assert found["loss"].verdict == found["perplexity"].verdict == "too few rows"
    assert found["hits"].verdict == "may be chance"
    one, better = side(20 * rows_of(one)), side(20 * rows_of(better))
    found = {change.figure: change for change in before_after.changes(one, better)}
    assert found["loss"].verdict == found["perplexity"].verdict == "better"
    assert found["hits"].difference["n"] == 40  # the rows that do not count for one count for neither
    assert found["hits"].verdict == "worse"
    assert {change.verdict for change in before_after.changes(one, one)} == {"the same"}
    back = {change.figure: change.verdict for change in before_after.changes(better, one)}
    assert back["loss"] == back["perplexity"] == "worse"


def test_what_only_one_has_is_said(tmp_path, capsys):
    """And where there are no answers to show, there are no blank lines for them."""
    measured, places = side([{"loss": [2.0, 1]}])["held_out"], [tmp_path / "one", tmp_path / "two"]
    for place, names in zip(places, (["tasks", "held_out"], ["held_out", "harness"]), strict=True):
        for name in names:
            before_after.write(place / name, measured.result, measured.rows)
    measure.main(["--compare", *map(str, places)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3:] == [
        "not compared: tasks (only in before), harness (only in after)",
        "",
        f"wrote {places[1] / 'before_after.md'}",
    ]
    page = (places[1] / "before_after.md").read_text(encoding="utf-8")
    assert page.endswith("\n\nNot compared: tasks (only in before), harness (only in after).\n")
