"""`mixture:` in recipes/build.py: several builders in one dataset, planned, drawn exactly, nothing leaked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import build
import datasets
import pytest
import yaml

from instruct_builders.errors import BuildError, ConfigError


def pairs(start: int, count: int, name: str = "Question") -> list[dict]:
    numbers = range(start, start + count)
    return [{"instruction": f"{name} {n}?", "input": "", "output": f"Answer {n}."} for n in numbers]


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    chats = [
        {"conversations": [{"from": "human", "value": f"Hello {n}!"}, {"from": "gpt", "value": f"Hi, number {n}."}]}
        for n in range(40)
    ]
    content = {"big": pairs(0, 300), "small": pairs(1000, 30), "chat": chats}
    for name, rows in content.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    return {name: tmp_path / f"{name}.json" for name in content}


def sources(files, **more) -> dict:
    licenses = {"big": "apache-2.0", "small": "cc-by-nc-4.0", "chat": "mit"}
    return {
        name: {
            "builder": "vicuna" if name == "chat" else "alpaca",
            "data_files": str(path),
            "license": licenses[name],
            **more.get(name, {}),
        }
        for name, path in files.items()
    }


def run(tmp_path, mixture: dict, *flags: str, out: str = "out") -> Path:
    config = tmp_path / f"{out}.yaml"
    config.write_text(yaml.safe_dump({"mixture": mixture}), encoding="utf-8")
    folders = ["--output_dir", str(tmp_path / out), "--cache_dir", str(tmp_path / "cache")]
    build.main(["--config", str(config), *folders, *flags])
    return tmp_path / out


def account(folder: Path) -> dict:
    return json.loads((folder / "build.json").read_text(encoding="utf-8"))


def drawn(folder: Path) -> dict[str, int]:
    return {entry["name"]: entry["draws"] for entry in account(folder)["mixture"]["table"]}


def test_rates_are_the_published_rule_and_the_rows_are_there(files, tmp_path, capsys):
    mixture = {"cap": 100, "temperature": 3, "total_size": 60, "sources": sources(files)}
    out = run(tmp_path, mixture)
    weights = {"big": 100 ** (1 / 3), "small": 30 ** (1 / 3), "chat": 40 ** (1 / 3)}
    shares = {name: 60 * weight / sum(weights.values()) for name, weight in weights.items()}
    assert drawn(out) == {name: round(share) for name, share in shares.items()}
    train = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "hf"))
    first_words = [row[0]["content"].split()[0] for row in train["messages"]]
    assert first_words.count("Hello") == drawn(out)["chat"] and len(train) == 60
    assert len(set(train["id"])) == 60  # none twice: no source was exhausted
    printed = capsys.readouterr().out
    assert "not drawn 310" in printed and printed.index("share") < printed.index("wrote")


def test_the_card_has_licenses_counts_and_a_picture(files, tmp_path):
    out = run(tmp_path, {"total_size": 60, "sources": sources(files)})
    card = (out / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "cc-by-nc-4.0"  # the strictest of three
    for name, license_id in {"big": "apache-2.0", "small": "cc-by-nc-4.0", "chat": "mit"}.items():
        assert f"| {name} | {license_id} |" in card
    assert "(picture-1.png)" in card
    assert (out / "picture-1.png").read_bytes().startswith(b"\x89PNG")
    assert "a mixture of 3 sources" in card and "310 rows were not drawn" in card


def test_explicit_weights_repeat_by_epochs_and_the_account_adds_up(files, tmp_path):
    more = {"big": {"weight": 1}, "small": {"weight": 2, "max_epochs": 3}, "chat": {"weight": 1, "max_epochs": 2}}
    given = sources(files, **more)
    out = run(tmp_path, {"total_size": 120, "sources": given})
    assert drawn(out) == {"big": 30, "small": 60, "chat": 30}
    assert account(out)["mixture"]["repeated"] == 30 and account(out)["mixture"]["not_drawn"] == 280
    train = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "hf"))
    small = [ident for ident, row in zip(train["id"], train["messages"], strict=True) if "Question 10" in str(row)]
    assert len(small) >= 60 and all(small.count(ident) == 2 for ident in small if small.count(ident) > 1)


def test_what_is_published_does_not_say_where_the_files_lay(files, tmp_path):
    """Neither the account nor the card nor the data name a folder of this machine."""
    gone = {"builder": "alpaca", "data_files": str(tmp_path / "private" / "gone.json")}
    out = run(tmp_path, {"total_size": 60, "sources": {**sources(files), "gone": gone}})
    assert "gone.json" in next(e["left_out"] for e in account(out)["mixture"]["table"] if e["name"] == "gone")
    published = [path for path in out.rglob("*") if path.is_file() and path.name != "rejected.jsonl"]
    assert len(published) > 3
    for path in published:
        assert str(tmp_path).encode() not in path.read_bytes(), path.name


def test_the_same_config_gives_the_same_bytes_and_another_seed_does_not(files, tmp_path):
    def digest(folder: Path) -> str:
        return hashlib.sha256(b"".join(sorted(path.read_bytes() for path in folder.rglob("*.parquet")))).hexdigest()

    mixture = {"temperature": 2, "total_size": 80, "sources": sources(files)}
    first, second = (digest(run(tmp_path, mixture, "--test_size", "0.1", out=name)) for name in ("a", "b"))
    other = digest(run(tmp_path, mixture, "--test_size", "0.1", "--seed", "7", out="c"))
    assert first == second != other


def test_no_test_row_is_trained_on_even_where_sources_overlap(files, tmp_path):
    twin = tmp_path / "twin.json"
    twin.write_text(json.dumps(pairs(0, 300)), encoding="utf-8")
    given = {**sources(files), "twin": {"builder": "alpaca", "data_files": str(twin)}}
    out = run(tmp_path, {"sources": given}, "--test_size", "0.2")
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "hf"))
    assert len(loaded["test"]) > 50 and not set(loaded["train"]["id"]) & set(loaded["test"]["id"])


def test_a_source_with_its_own_test_split_keeps_it_and_leaks_are_rejected(files, tmp_path):
    own = tmp_path / "own.json"
    own.write_text(json.dumps(pairs(0, 20)), encoding="utf-8")
    given = sources(files)
    given["own"] = {"builder": "alpaca", "data_files": {"train": str(files["small"]), "test": str(own)}}
    del given["small"]
    out = run(tmp_path, {"sources": given})
    assert account(out)["rejected"] == {"dup_content": 20}  # twenty of `big` are test rows of `own`
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in rejected} == {"leak"}
    assert account(out)["splits"]["test"] == 20


def test_transforms_per_source_and_of_all_together(files, tmp_path, capsys):
    twin = tmp_path / "twin.json"
    twin.write_text(json.dumps([*pairs(0, 10), {"instruction": "Say it?", "input": "", "output": "b"}]))
    given = sources(files)
    given["twin"] = {"builder": "alpaca", "data_files": str(twin), "transforms": [{"too_short": {"min_chars": 16}}]}
    out = run(tmp_path, {"sources": given}, "--transforms", "exact_duplicates")
    assert account(out)["rejected"] == {"dup_content": 10, "too_short": 1}
    assert "twin: too_short" in capsys.readouterr().out


def test_a_missing_source_is_left_out_and_said_or_fatal(files, tmp_path, capsys):
    given = sources(files, big={"weight": 1}, small={"weight": 1}, chat={"weight": 2})
    given["gone"] = {"builder": "alpaca", "data_files": str(tmp_path / "gone.json"), "weight": 4}
    out = run(tmp_path, {"total_size": 40, "sources": given})
    assert drawn(out) == {"big": 10, "small": 10, "chat": 20, "gone": 0}
    assert "gone.json" in capsys.readouterr().out and "gone.json" in (out / "README.md").read_text()
    with pytest.raises(BuildError, match="gone"):
        run(tmp_path, {"total_size": 40, "sources": given}, "--strict", out="strict")
    assert not (tmp_path / "strict").exists()


def test_plan_only_prints_the_table_and_writes_nothing(files, tmp_path, capsys):
    out = run(tmp_path, {"total_size": 60, "sources": sources(files)}, "--plan_only")
    assert not out.exists()
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("big", "small", "chat", "share", "draws", "epochs"))


def test_weights_by_tokens(files, tmp_path):
    long_rows = tmp_path / "long.json"
    rows = [{"instruction": f"Tell {n}", "input": "", "output": "word " * 80} for n in range(200)]
    long_rows.write_text(json.dumps(rows), encoding="utf-8")
    given = {
        "short": {"builder": "alpaca", "data_files": str(files["big"]), "weight": 1},
        "long": {"builder": "alpaca", "data_files": str(long_rows), "weight": 1},
    }
    out = run(tmp_path, {"weights_by": "tokens", "total_size": 200, "sources": given})
    assert drawn(out)["short"] > 5 * drawn(out)["long"] > 0  # half of the tokens each, not half of the rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0}, "temperature"),
        ({"cap": 0}, "cap"),
        ({"preset": "flan2023"}, "flan2022"),
        ({"total_size": -1}, "total_size"),
        ({"sources": {}}, "sources"),
        ({"surces": {}}, "sources"),
        ({"sources": {"x": {"builder": "alpacca"}}}, "alpaca"),
        ({"sources": {"x": {"builder": "alpaca", "wieght": 1}}}, "weight"),
    ],
)
def test_mistakes_are_errors_that_say_what_is_allowed(files, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, {"total_size": 60, "sources": sources(files), **change})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("weights", [(-1, 1, 1), (0, 0, 0)])
def test_impossible_weights(files, tmp_path, weights):
    given = sources(files, **{name: {"weight": weight} for name, weight in zip(files, weights, strict=True)})
    with pytest.raises(ConfigError, match="weight"):
        run(tmp_path, {"sources": given})


def test_a_builders_keys_beside_a_mixture_are_refused(files, tmp_path):
    with pytest.raises(ConfigError, match="per source"):
        run(tmp_path, {"sources": sources(files)}, "--license", "mit")
    with pytest.raises(ConfigError, match="either builder"):
        run(tmp_path, {"sources": sources(files)}, "--builder", "alpaca")


def test_flan_tasks_are_sources_and_no_prompt_shows_a_test_row(files, tmp_path):
    words = [f"word{n}" for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": word, "label": "good"}) for word in words))
    templates = [{"input": f"{n}: {{text}}", "target": "{answer}"} for n in range(8)]
    templates += [{"input": f"{n}: {{answer}}?", "target": "{text}", "inverted": True} for n in range(2)]
    task = {
        "category": "sentiment",
        "kind": "NLU",
        "metric": "accuracy",
        "license": "mit",
        "source": {"path": "rows.jsonl"},
        "columns": {"text": "text"},
        "answer": {"column": "label"},
        "templates": templates,
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    gone = {**task, "source": {"path": "gone.jsonl"}}
    (tmp_path / "gone_task.yaml").write_text(yaml.safe_dump(gone), encoding="utf-8")
    flan = {
        "builder": "flan",
        "options": {"tasks": [str(tmp_path / "mine.yaml"), str(tmp_path / "gone_task.yaml")], "shots": 4},
        "by": "task",
        "preset": "flan2021",
    }
    out = run(tmp_path, {"sources": {"big": sources(files)["big"], "flan": flan}}, "--test_size", "0.25")
    table = {entry["name"]: entry for entry in account(out)["mixture"]["table"]}
    drawn_rows = table["flan/mine"]["draws"]  # a quarter of the rows is held out by a hash, so about 15 of 60
    assert 35 <= drawn_rows <= 55 and table["flan/mine"]["license"] == "mit"
    assert "gone.jsonl" in table["flan/gone_task"]["left_out"]
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "hf"))
    told = {name: [row for row in split if row["task"] == "mine"] for name, split in loaded.items()}
    # The last word of a test row's prompt, or its answer, is the row's own; the exemplars come before it.
    own = {turn["content"].split()[-1] for row in told["test"] for turn in row["messages"]} & set(words)
    assert len(told["test"]) == len(own) == 60 - drawn_rows
    shown = " ".join(turn["content"] for row in told["train"] for turn in row["messages"]).split()
    assert len(shown) > 200 and not own & set(shown)


def test_a_training_row_that_is_a_test_row_is_rejected_in_a_single_build_too(tmp_path, files):
    own = tmp_path / "own.json"
    own.write_text(json.dumps(pairs(5, 20)), encoding="utf-8")
    given = ["--data_files", f"{{train: {files['big']}, test: {own}}}", "--cache_dir", str(tmp_path / "cache")]
    build.main(["--builder", "alpaca", *given, "--output_dir", str(tmp_path / "out")])
    assert account(tmp_path / "out")["rejected"] == {"dup_content": 20}
    assert account(tmp_path / "out")["splits"] == {"train": 280, "test": 20}


@pytest.mark.parametrize("change", [{"seed": 5}, {"test_size": 0}])
def test_a_few_shot_source_can_not_hold_out_other_rows_than_the_rest(tmp_path, change):
    flan = {"builder": "flan", "data_files": "bundled", "options": change}
    with pytest.raises(ConfigError, match="one for the whole mixture"):
        run(tmp_path, {"sources": {"flan": flan}})
    with pytest.raises(ConfigError, match="a mapping"):
        run(tmp_path, {"sources": {"flan": {**flan, "options": 3}}})


@pytest.mark.parametrize("change", [{"cap": 0}, {"temperature": 0}, {"total_size": "100"}, {"weights_by": "words"}])
def test_numbers_that_can_not_be_fail_before_anything_is_read(tmp_path, change):
    gone = {"builder": "alpaca", "data_files": str(tmp_path / "gone.json")}  # reading would find this out
    with pytest.raises(ConfigError, match=next(iter(change))):
        run(tmp_path, {"sources": {"gone": gone}, **change})


def test_tasks_that_lie_mixed_up_are_told_apart(tmp_path):
    rows = [
        {
            "inputs": f"Question {n}?",
            "targets": f"answer {n}",
            "task_name": f"task{n % 50}",
            "task_source": "Flan2021",
            "template_type": "zs_opt",
        }
        for n in range(1000)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    flan = {"builder": "flan", "data_files": str(tmp_path / "rows.jsonl"), "options": {"collection": "flan"}}
    out = run(tmp_path, {"total_size": 500, "sources": {"flan": {**flan, "by": "task"}}})
    assert set(drawn(out).values()) == {10} and len(drawn(out)) == 50
    train = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "hf"))
    assert {name: train["task"].count(name) for name in set(train["task"])} == {f"task{n}": 10 for n in range(50)}
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "| flan (50 sources) |" in card and "task49" not in card.split("---")[2]
