"""recipes/build.py from raw rows to a directory that `datasets.load_dataset` reads, and what it leaves on the way."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import build
import datasets
import pytest
import yaml

from instruct_builders.errors import BuildError, ConfigError, PublishError

ROOT = Path(__file__).resolve().parents[2]


def rows(count: int) -> list[dict]:
    return [{"instruction": f"Question {n}?", "input": "", "output": f"Answer {n}."} for n in range(count)]


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows(50), indent=1), encoding="utf-8")
    return path


def run(source: Path, out: Path, *flags: str, builder: str = "alpaca") -> Path:
    folders = ["--output_dir", str(out), "--cache_dir", str(out.parent / "cache")]
    build.main(["--builder", builder, "--data_files", str(source), *folders, *flags])
    return out


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def front_matter(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])


def test_the_directory_is_a_dataset(source, tmp_path, capsys):
    out = run(source, tmp_path / "out", "--license", "apache-2.0", "--test_size", "0.1", "--language", "en")
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "hf"))
    assert {name: len(split) for name, split in loaded.items()} == {"train": 45, "test": 5}
    assert loaded["train"][0]["messages"][0] == {"role": "user", "content": "Question 0?"}
    assert not set(loaded["train"]["id"]) & set(loaded["test"]["id"])
    assert "parent" not in loaded["train"].column_names  # null throughout
    kept = {"default", "README.md", "build.json", "rejected.jsonl", "report.html"}
    assert {path.name for path in out.iterdir()} == kept
    card = front_matter(out)
    assert card["license"] == "apache-2.0" and card["language"] == ["en"] and card["size_categories"] == ["n<1K"]
    assert [file["split"] for file in card["configs"][0]["data_files"]] == ["train", "test"]
    account = json.loads((out / "build.json").read_text())
    assert account["splits"] == {"train": 45, "test": 5}
    assert account["sources"][0]["rows_in"] == 50
    assert "rows in 50 = rows out 50 (train 45, test 5) + rejected 0" in capsys.readouterr().out


def test_the_same_input_gives_the_same_bytes(source, tmp_path):
    first = run(source, tmp_path / "a" / "out", "--test_size", "5")
    second = run(source, tmp_path / "b" / "out", "--test_size", "5")
    assert digests(first) == digests(second)
    third = run(source, tmp_path / "c" / "out", "--test_size", "5", "--seed", "7")
    assert (
        digests(third)["default/test-00000-of-00001.parquet"] != digests(first)["default/test-00000-of-00001.parquet"]
    )


def test_bad_rows_and_transforms_add_up(tmp_path, capsys):
    lines = [json.dumps(row) for row in rows(20)]
    lines += ['{"instruction": "x", "output": 5}', lines[3], lines[4]]
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(lines), encoding="utf-8")
    out = run(source, tmp_path / "out", "--max_bad_fraction", "0.1", "--transforms", "exact_duplicates")
    account = json.loads((out / "build.json").read_text())
    assert account["rejected"] == {"dup_content": 2, "non_string": 1}
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [(line["reason"], line["stage"]) for line in rejected] == [
        ("non_string", "read"),
        ("dup_content", "exact_duplicates"),
        ("dup_content", "exact_duplicates"),
    ]
    assert "| `dup_content` |" in (out / "README.md").read_text()
    printed = capsys.readouterr().out
    assert "rows in 23 = rows out 20 (train 20) + rejected 3" in printed
    assert "line 21" in printed and "non_string" in printed


def test_long_conversations_stay_on_one_side_of_the_split(tmp_path):
    turns = [{"from": who, "value": f"{who} turn {n} " + "word " * 40} for n in range(6) for who in ("human", "gpt")]
    source = tmp_path / "rows.jsonl"
    conversations = [[{**turn, "value": f"{n} {turn['value']}"} for turn in turns] for n in range(20)]
    source.write_text("\n".join(json.dumps({"conversations": row}) for row in conversations), encoding="utf-8")
    flags = ["--test_size", "0.25", "--transforms", "[{split_long: {max_chars: 1000}}]"]
    out = run(source, tmp_path / "out", *flags, builder="vicuna")
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "hf"))
    parents = {name: set(split["parent"]) for name, split in loaded.items()}
    assert len(parents["test"]) == 5 and not parents["train"] & parents["test"]
    rounds = sum(len(turns) // 2 for split in loaded.values() for turns in split["messages"])
    assert rounds == 20 * 6


def test_an_earlier_build_is_only_replaced_when_asked(source, tmp_path):
    out = run(source, tmp_path / "out")
    with pytest.raises(BuildError, match="overwrite"):
        run(source, out)
    before = digests(out)
    source.write_text(json.dumps(rows(3)))
    run(source, out, "--overwrite")
    assert digests(out) != before
    assert json.loads((out / "build.json").read_text())["splits"] == {"train": 3}
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter1.txt").write_text("years of work")
    with pytest.raises(BuildError, match="not built by this package"):
        run(source, foreign, "--overwrite")
    assert (foreign / "chapter1.txt").read_text() == "years of work"


def test_the_account_repeats_what_decided_the_rows(source, tmp_path):
    flags = ["--transforms", "[{exact_duplicates: {by: prompt}}]", "--control_tokens", "allow", "--max_chars", "900"]
    account = json.loads((run(source, tmp_path / "out", *flags) / "build.json").read_text())
    assert account["options"]["control_tokens"] == "allow" and account["options"]["max_chars"] == 900
    assert account["steps"][0]["parameters"] == {"by": "prompt"}


@pytest.mark.parametrize(
    ("flags", "error", "words"),
    [
        (["--config_name", "../evil"], ConfigError, "config_name='../evil'"),
        (["--max_shard_size", "foo"], ConfigError, "max_shard_size='foo'"),
        (["--seed", "-1"], ConfigError, "seed=-1"),
        (["--num_proc", "0"], ConfigError, "num_proc=0"),
        (["--data_files", "{my split: x.json}"], ConfigError, "'my split' can't name a split"),
        (["--data_files", "{train: {a: b}}"], ConfigError, "is dict"),
        (["--data_files="], ConfigError, "'' is str"),
        (["--columns", "{outptu: x}"], ConfigError, "Did you mean 'output'"),
        (["--push_to_hub", "--repo_id", "noname"], PublishError, "no namespace"),
        (["--push_to_hub", "--repo_id", "me/x"], PublishError, "no token"),
    ],
)
def test_what_cannot_be_right_is_said_before_anything_is_written(source, tmp_path, flags, error, words):
    given = [] if any("data_files" in flag for flag in flags) else ["--data_files", str(source)]
    folders = ["--output_dir", str(tmp_path / "out"), "--cache_dir", str(tmp_path / "cache")]
    with pytest.raises(error, match=words):
        build.main(["--builder", "alpaca", *given, *folders, *flags])
    assert not list(tmp_path.glob("out*")) and not list(tmp_path.rglob("*.arrow"))


def test_the_same_file_spelled_twice_is_named(source, tmp_path):
    again = source.parent / ".." / source.parent.name / source.name
    with pytest.raises(ConfigError, match="twice"):
        build.main(
            ["--builder", "alpaca", "--data_files", str(source), str(again), "--output_dir", str(tmp_path / "o")]
        )


def test_files_of_the_user_survive_an_overwrite(source, tmp_path):
    out = run(source, tmp_path / "out")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(BuildError, match=r"notes\.txt"):
        run(source, out, "--overwrite")
    assert (out / "notes.txt").read_text() == "mine"


def test_text_is_rendered_with_a_template(source, tmp_path):
    plain = tmp_path / "plain.jinja"
    plain.write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}")
    out = run(source, tmp_path / "out", "--format", "text", "--template", str(plain))
    loaded = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "hf"))
    assert loaded[0]["text"] == "[user] Question 0?\n[assistant] Answer 0.\n"


def test_a_folder_that_cannot_be_written_is_said_at_once(source):
    with pytest.raises(BuildError, match=r"can't be written to.*Give another folder"):
        run(source, Path("/proc/instruct_builders/out"))


def test_text_of_the_data_cannot_take_over_the_card(tmp_path):
    evil = [{"instruction": "````\n</pre><script>alert(1)</script>\n---\nlicense: mit", "output": "```` # x |"}]
    source = tmp_path / "[x](javascript:1)|.json"
    source.write_text(json.dumps(evil))
    out = run(source, tmp_path / "out")
    text = (out / "README.md").read_text()
    assert "license" not in front_matter(out)
    fence = next(line for line in text.splitlines() if line.endswith("json") and set(line[:-4]) == {"`"})
    assert len(fence[:-4]) == 5  # one longer than the longest run of backticks inside
    assert "[x](" not in text.split("## A row")[0].replace("\\[x\\](", "")


@pytest.mark.parametrize(
    ("flags", "error", "words"),
    [
        (["--builder", "alpacca"], ConfigError, ["alpacca", "Did you mean 'alpaca'?"]),
        (["--transforms", "exact_duplicate"], ConfigError, ["Did you mean 'exact_duplicates'?"]),
        (["--push_to_hub"], ConfigError, ["push_to_hub needs repo_id"]),
        (["--test_size", "1.0"], ConfigError, ["test_size=1.0", "both need one"]),
        (["--overwrit"], ConfigError, ["Did you mean 'overwrite'?"]),
        (["--format", "alpacca"], ConfigError, ["Did you mean 'alpaca'?"]),
    ],
)
def test_wrong_keys_are_named_and_nothing_is_written(source, tmp_path, flags, error, words):
    base = {"--builder": "alpaca", "--data_files": str(source), "--output_dir": str(tmp_path / "out")}
    given = {**base, **dict(zip(flags[::2], flags[1::2] or [""], strict=False))}
    argv = [word for pair in given.items() for word in pair if word]
    with pytest.raises(error) as caught:
        build.main([*argv, "--cache_dir", str(tmp_path / "cache")])
    assert all(word in str(caught.value) for word in words)
    assert not (tmp_path / "out").exists()


def test_kill_nine_while_writing_leaves_all_or_nothing(source, tmp_path):
    source.write_text(json.dumps(rows(40_000)))
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "recipes" / "build.py"), "--builder", "alpaca", "--data_files", str(source)]
    command += ["--output_dir", str(out), "--cache_dir", str(tmp_path / "cache"), "--max_shard_size", "500KB"]
    for delay in (0.0, 0.05, 0.15):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while process.poll() is None and not list(tmp_path.glob("out.incomplete/*/*.parquet")):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(delay)
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not out.exists() or (out / "build.json").is_file()
    if not out.exists():
        subprocess.run(command, check=True, capture_output=True)
    loaded = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "hf"))
    assert len(loaded) == len(set(loaded["id"])) == 40_000
    assert not (tmp_path / "out.incomplete").exists() or out.exists()


def test_the_recipe_as_a_command(source, tmp_path):
    command = [sys.executable, str(ROOT / "recipes" / "build.py"), "--config", str(ROOT / "recipes/alpaca/data.yaml")]
    flags = ["--data_files", str(source), "--output_dir", str(tmp_path / "out"), "--cache_dir", str(tmp_path / "c")]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "rows out 50 (train 49, test 1)" in done.stdout
    failed = subprocess.run([*command, *flags, "--tets_size", "3"], capture_output=True, text=True, cwd=tmp_path)
    assert failed.returncode == 4
    assert failed.stderr.splitlines()[-1].startswith(
        "ConfigError: --tets_size: unknown key. Did you mean 'test_size'?"
    )


def test_quality_duplicates_and_evaluation_sets_are_keys(tmp_path, capsys):
    questions = [
        "Explain in a few words how fog forms above a river at night.",
        "List three tools that a bookbinder needs.",
        "Which planet has the longest day?",
    ]
    answer = "An answer of a good dozen words, which is not too short to be compared, number {}."
    found = [{"instruction": text, "input": "", "output": answer.format(text[0])} for text in questions]
    almost = dict(
        found[0], instruction=found[0]["instruction"] + " Please!", output=answer.format("one")[:-5] + "two."
    )
    other = dict(almost, output="Damp air cools over the water until drops hang in it, too small to fall down.")
    refusal = dict(found[0], instruction="Name a colour of the sea.", output="I'm sorry, but I can't help with that.")
    tested = dict(found[0], instruction="Which seven bridges does the old riddle of Königsberg ask us to cross once?")
    source, exam = tmp_path / "rows.json", tmp_path / "exam.jsonl"
    source.write_text(json.dumps([*found, almost, other, refusal, tested]), encoding="utf-8")
    exam.write_text(json.dumps({"question": tested["instruction"].upper()}), encoding="utf-8")
    out = run(source, tmp_path / "out", "--quality", "default", "--dedup", "near", "--decontaminate", str(exam))
    assert json.loads((out / "build.json").read_text())["rejected"] == {
        "contaminated": 1,
        "near_duplicate": 1,
        "refusal": 1,
    }
    assert "exam.jsonl" in (out / "rejected.jsonl").read_text()
    for flags, message in {
        ("--quality", "clasic"): "classic",
        ("--dedup", "nearly"): "near",
        ("--dedup", "{neer: {}}"): "Did you mean 'near'",
        ("--dedup", "{}"): "names no kind",
        ("--dedup", "{near: 0.8}"): "no mapping of parameters",
        ("--dedup", "{near: {treshold: 0.8}}"): "Did you mean 'threshold'",
        ("--dedup", "{near: {threshold: 8}}"): "above 0 up to 1",
        ("--dedup", "{near: {by: outputs}}"): "Did you mean 'output'",
        ("--dedup", "semantic"): "dedup_embed",
        ("--dedup", "near", "--dedup_embed", "json:dumps"): "go together",
        ("--dedup", "{semantic: {embed: 'json:dumps'}}", "--dedup_embed", "json:dumps"): "give one of them",
        ("--decontaminate", "{mine: {fiel: x.json}}"): "Did you mean 'file'",
        ("--decontaminate", "mt_bnch"): "mt_bench",
    }.items():
        with pytest.raises(ConfigError, match=message):
            run(source, tmp_path / "none", *flags)


def test_how_duplicates_are_looked_for_can_be_said(tmp_path):
    given = ["--builder", "alpaca", "--decontaminate", "none", "--output_dir", "out"]

    def steps(*flags: str) -> list:
        return build.steps(build.read_arguments([*flags, *given]))

    exact, near = {"exact_duplicates": {}}, {"near_duplicates": {"by": "both"}}
    assert steps() == steps("--dedup", "none") == []
    assert steps("--dedup", "exact") == steps("--dedup", "{exact: {}}") == steps("--dedup", "{exact: }") == [exact]
    assert steps("--dedup", "near") == [exact, near]
    own = {"by": "instruction", "threshold": 0.8}
    assert steps("--dedup", "{near: {by: instruction, threshold: 0.8}}") == [exact, {"near_duplicates": own}]
    two = steps("--dedup", "{exact: {normalize: false}, near: {shingle: 2}}")
    assert two == [{"exact_duplicates": {"normalize": False}}, {"near_duplicates": {"by": "both", "shingle": 2}}]
    meaning = {"semantic_duplicates": {"by": "both", "embed": "json:dumps"}}
    assert steps("--dedup", "semantic", "--dedup_embed", "json:dumps") == [exact, near, meaning]
    assert steps("--dedup", "{semantic: {embed: 'json:dumps'}}") == [exact, near, meaning]
    config = tmp_path / "data.yaml"
    config.write_text("builder: alpaca\noutput_dir: out\ndecontaminate: none\ndedup: {near: {threshold: 0.8}}\n")
    assert build.steps(build.read_arguments(["--config", str(config)]))[1]["near_duplicates"]["threshold"] == 0.8
    for flag in ("[a.json, {mine: {file: b.json, columns: [riddle]}}]", "{mine: c.json}", "d.json"):
        (step,) = build.steps(build.read_arguments([*given[:2], *given[4:], "--decontaminate", flag]))
        assert step["decontaminate"]["against"] == yaml.safe_load(flag)


def test_much_lost_to_duplicates_is_a_warning(tmp_path, capsys):
    frame = "Write a sentence of your own about the topic {} that a child of ten could have written at school."
    words = [f"topic{number}" for number in range(40)]
    rendered = [
        {"instruction": frame.format(word), "input": "", "output": f"About {word}: it is fun."} for word in words
    ]
    source = tmp_path / "rendered.json"
    source.write_text(json.dumps(rendered), encoding="utf-8")
    run(source, tmp_path / "out", "--dedup", "near", "--decontaminate", "none")
    printed = capsys.readouterr().out
    assert "rows out 40" in printed and "warning" not in printed
    run(source, tmp_path / "less", "--dedup", "{near: {by: instruction}}", "--decontaminate", "none")
    account = json.loads((tmp_path / "less" / "build.json").read_text())
    lost = account["steps"][1]["lost"]
    assert (lost[0]["rows"], lost[0]["rejected"]) == (40, account["rejected"]["near_duplicate"]) and len(lost) == 1
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert f"near_duplicates rejected {lost[0]['rejected']} of 40 rows of rendered.json" in warning
    assert "dedup: {near: {by: both" in warning
