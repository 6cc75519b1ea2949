"""The builders as a user sees them: right rows, an honest cache, a quarantine, and builds that survive kill -9."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import datasets
import pytest

from instruct_builders import Alpaca, Vicuna, load_dataset
from instruct_builders.errors import BuildError, ConfigError, SourceError, TooManyRejected


def alpaca_rows(count: int, start: int = 0) -> list[dict]:
    return [
        {"instruction": f"Question {n}?", "input": f"Given {n}" if n % 3 else "", "output": f"Answer {n}."}
        for n in range(start, start + count)
    ]


def write_jsonl(path: Path, rows: list) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def build(tmp_path):
    def run(cls=Alpaca, data_files=None, num_proc=None, **options):
        builder = cls(data_files=data_files, cache_dir=str(tmp_path / "cache"), **options)
        builder.download_and_prepare(num_proc=num_proc)
        return builder

    return run


def test_alpaca_becomes_messages(tmp_path, build):
    path = write_jsonl(tmp_path / "a.jsonl", alpaca_rows(2))
    builder = build(data_files=str(path), license="cc-by-nc-4.0")
    first, second = builder.as_dataset(split="train")
    assert first["messages"] == [
        {"role": "user", "content": "Question 0?"},
        {"role": "assistant", "content": "Answer 0."},
    ]
    assert second["messages"][0]["content"] == "Question 1?\n\nGiven 1"
    assert second["context"] == "Given 1"
    assert second["license"] == "cc-by-nc-4.0"
    assert second["source"].startswith("a.jsonl sha256:")
    assert len(second["id"]) == 32 and first["id"] != second["id"]
    assert builder.info.features == builder.as_dataset(split="train").features


def test_each_format_comes_out(tmp_path):
    path = str(write_jsonl(tmp_path / "a.jsonl", alpaca_rows(3)))
    for name, columns in {
        "alpaca": {"instruction", "input", "output"},
        "sharegpt": {"conversations"},
        "prompt_completion": {"prompt", "completion"},
        "record": {"messages", "context", "tools"},
    }.items():
        dataset = load_dataset("alpaca", data_files=path, format=name, split="train", cache_dir=str(tmp_path / "c"))
        assert columns <= set(dataset.column_names)
        assert len(dataset) == 3


def test_bad_rows_are_quarantined_with_their_place(tmp_path, build):
    rows = alpaca_rows(3)
    bad = [
        '{"instruction": "x", "output": null}',
        '{"instruction": "x"',
        json.dumps({"instruction": "x", "output": ""}),
    ]
    path = write_jsonl(tmp_path / "a.jsonl", [rows[0], bad[0], rows[1], bad[1], bad[2], rows[2]])
    builder = build(data_files=str(path), max_bad_fraction=0.5)
    assert len(builder.as_dataset(split="train")) == 3
    found = [(line["line"], line["row"], line["reason"]) for line in builder.rejected]
    assert found == [(2, 1, "null_field"), (4, 3, "bad_json"), (5, 4, "empty_output")]
    text = path.read_bytes()
    assert all(text[line["offset"] :].startswith(b'{"instruction": "x"') for line in builder.rejected)
    (account,) = builder.account["files"]
    assert (account["rows_in"], account["rows_out"]) == (6, 3)
    assert account["rejected"] == {"bad_json": 1, "empty_output": 1, "null_field": 1}


def test_too_many_bad_rows_stop_the_build(tmp_path, build):
    path = write_jsonl(tmp_path / "a.jsonl", [*alpaca_rows(10), "{"])
    with pytest.raises(TooManyRejected, match=r"1 of 11 rows.*max_bad_fraction=0.01") as caught:
        build(data_files=str(path))
    listed = str(caught.value).split("All of them are in ")[1].split("; the first")[0]
    assert json.loads(Path(listed).read_text())["line"] == 11
    assert not list((tmp_path / "cache").rglob("*.incomplete"))
    assert "(bad_json 1)" in str(caught.value)
    cure = re.search(r"max_bad_fraction=([\d.]+\d) \(--", str(caught.value))[1]
    assert build(data_files=str(path), max_bad_fraction=float(cure)).account["files"][0]["rows_out"] == 10


def test_strict_stops_at_the_first(tmp_path, build):
    path = write_jsonl(tmp_path / "a.jsonl", [*alpaca_rows(10), "{"])
    with pytest.raises(TooManyRejected, match=r"strict=True.*line 11.*bad_json"):
        build(data_files=str(path), strict=True, max_bad_fraction=0.5)


def test_no_row_left_is_an_error(tmp_path, build):
    path = write_jsonl(tmp_path / "a.jsonl", [{"instruction": "x", "input": "", "output": ""}])
    with pytest.raises(TooManyRejected, match="nothing is left"):
        build(data_files=str(path), max_bad_fraction=1.0)


def test_workers_and_streams_give_the_same_rows(tmp_path, build):
    rows = alpaca_rows(500)
    rows[100] = rows[400] = {"instruction": "x", "output": 7}
    path = str(write_jsonl(tmp_path / "a.jsonl", rows))
    one, two = build(data_files=path, strict=False), build(data_files=path, num_proc=2, max_bad_fraction=0.02)
    assert one.cache_dir != two.cache_dir
    expected = one.as_dataset(split="train").to_list()
    assert two.as_dataset(split="train").to_list() == expected
    assert len(list(Path(two.cache_dir).glob("*.arrow"))) == 2
    assert [line["row"] for line in two.rejected] == [line["row"] for line in one.rejected] == [100, 400]
    stream = load_dataset("alpaca", data_files=path, streaming=True, split="train")
    assert isinstance(stream, datasets.IterableDataset)
    assert list(stream) == expected


def test_splits_globs_folders_and_archives(tmp_path, build):
    import gzip

    folder = tmp_path / "data"
    folder.mkdir()
    write_jsonl(folder / "one.jsonl", alpaca_rows(2))
    (folder / "two.json").write_text(json.dumps(alpaca_rows(3, 10), indent=2))
    (folder / "three.jsonl.gz").write_bytes(gzip.compress(json.dumps(alpaca_rows(1, 20)[0]).encode()))
    datasets.Dataset.from_list(alpaca_rows(4, 30)).to_parquet(folder / "four.parquet")
    datasets.Dataset.from_list(alpaca_rows(5, 40)).to_csv(folder / "five.csv", index=False)
    assert len(build(data_files=str(folder)).as_dataset(split="train")) == 15
    assert len(build(data_files=str(folder / "*.json*")).as_dataset(split="train")) == 6
    both = build(data_files={"train": str(folder / "one.jsonl"), "test": [str(folder / "two.json")]}).as_dataset()
    assert {name: len(split) for name, split in both.items()} == {"train": 2, "test": 3}


def test_nothing_changed_nothing_built_and_an_edit_rebuilds(tmp_path, build):
    path = write_jsonl(tmp_path / "a.jsonl", alpaca_rows(3))
    first = build(data_files=str(path))
    stamps = {file: file.stat().st_mtime_ns for file in Path(first.cache_dir).iterdir()}
    again = build(data_files=str(path))
    assert again.cache_dir == first.cache_dir
    assert {file: file.stat().st_mtime_ns for file in Path(again.cache_dir).iterdir()} == stamps
    mtime = path.stat().st_mtime_ns
    path.write_text(path.read_text().replace("Answer 1.", "Anzwer 1."))
    os.utime(path, ns=(mtime, mtime))  # same name, size and time: only the bytes tell
    edited = build(data_files=str(path))
    assert edited.cache_dir != first.cache_dir
    assert "Anzwer" in edited.as_dataset(split="train")[1]["messages"][1]["content"]


def test_two_configurations_and_two_builders_never_share_a_cache(tmp_path, build):
    path = str(write_jsonl(tmp_path / "a.jsonl", alpaca_rows(3)))
    dirs = {
        build(data_files=path).cache_dir,
        build(data_files=path, format="alpaca").cache_dir,
        build(data_files=path, license="mit").cache_dir,
        build(data_files={"test": path}).cache_dir,
        build(Shouting, data_files=path).cache_dir,
    }
    assert len(dirs) == 5


class Shouting(Alpaca):
    """Another class under the same name in the same cache."""


def test_an_edited_builder_rebuilds(tmp_path):
    """A subclass in a module of the user's own: a changed line of code is a changed cache key."""
    path = write_jsonl(tmp_path / "a.jsonl", alpaca_rows(2))
    module = tmp_path / "mine.py"
    code = """
        import sys
        from instruct_builders import Alpaca
        from instruct_builders.records import content_ids
        class Mine(Alpaca):
            def _generate_tables(self, shards):
                for key, table in super()._generate_tables(shards):
                    yield key, table.set_column(0, "id", table["id"].cast("string").combine_chunks().fill_null("x"))
                    self.rows = {rows}
        builder = Mine(data_files=sys.argv[1], cache_dir=sys.argv[2])
        builder.download_and_prepare()
        print(builder.cache_dir)
    """
    seen = []
    for rows in (1, 1, 2):
        module.write_text(textwrap.dedent(code).replace("{rows}", str(rows)))
        command = [sys.executable, str(module), str(path), str(tmp_path / "cache")]
        seen.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize("num_proc", [1, 2])
def test_kill_nine_at_any_moment_leaves_exactly_the_right_rows(tmp_path, num_proc):
    """A killed build of `datasets` leaks its shards into the next one; here the next one has the right rows."""
    path = write_jsonl(tmp_path / "a.jsonl", alpaca_rows(60_000))
    script = (
        "import sys; from instruct_builders import load_dataset; "
        f"d = load_dataset('alpaca', data_files={str(path)!r}, cache_dir={str(tmp_path / 'cache')!r}, "
        f"split='train', num_proc={num_proc}, max_row_bytes=1 << 16); print(len(d), len(set(d['id'])))"
    )
    kills = 0
    for attempt in range(4):
        process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while process.poll() is None and not list((tmp_path / "cache").rglob("*.incomplete/*")):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(0.05 * attempt)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # the whole group: parent and workers
            kills += 1
        process.wait()
    assert kills >= 2
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["60000", "60000"]
    (built,) = (info.parent for info in (tmp_path / "cache").rglob("dataset_info.json"))
    assert not list(built.parent.glob("*.incomplete"))


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        path = write_jsonl(tmp_path / "a.jsonl", alpaca_rows(20_000))
        builder = Alpaca(data_files=str(path), cache_dir=str(small / "cache"))
        with pytest.raises(BuildError, match="No space left on device"):
            builder.download_and_prepare()
        assert not list(small.rglob("*.incomplete"))
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"data_files": None}, ConfigError, ["data_files is required", "bundled"]),
        ({"data_files": "nowhere.json"}, SourceError, ["nowhere.json", "no file"]),
        ({"data_files": []}, ConfigError, ["empty"]),
        ({"data_files": [7]}, ConfigError, ["7 is int"]),
        ({"strickt": True}, ConfigError, ["strickt", "Did you mean 'strict'?"]),
        ({"format": "mesages"}, ConfigError, ["mesages", "Did you mean 'messages'?"]),
        ({"max_bad_fraction": 3}, ConfigError, ["max_bad_fraction=3", "between 0 and 1"]),
        ({"control_tokens": "keep"}, ConfigError, ["'reject' and 'allow'"]),
    ],
)
def test_wrong_options_are_named(tmp_path, options, error, words):
    path = write_jsonl(tmp_path / "a.jsonl", alpaca_rows(1))
    with pytest.raises(error) as caught:
        Alpaca(**{"data_files": str(path), "cache_dir": str(tmp_path), **options})
    assert all(word in str(caught.value) for word in words)


def test_rows_of_another_builder_are_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"conversations": [{"from": "human", "value": "x"}]}])
    with pytest.raises(SourceError, match=r"conversations.*sharegpt.*alpaca reads alpaca.*builder vicuna"):
        Alpaca(data_files=str(path))
    path = write_jsonl(tmp_path / "b.jsonl", [{"question": "x", "answer": "y"}])
    with pytest.raises(SourceError, match=r"question, answer.*columns="):
        Alpaca(data_files=str(path))


def test_columns_and_extra_keys(tmp_path, build):
    rows = [{"question": "x?", "answer": "y", "topic": "z", "level": 3}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    builder = build(data_files=str(path), columns={"instruction": "question", "output": "answer"})
    (row,) = builder.as_dataset(split="train")
    assert row["messages"][1]["content"] == "y"
    assert row["meta"] == {"topic": "z", "level": 3}


def test_meta_and_extra_keys_are_one_object(tmp_path, build):
    pair = {"instruction": "x?", "output": "y"}
    clash = ({"task": 1}, {"task": 2})
    metas = [({}, {"task": None}), ({"a": "é"}, {}), ({"a": 1}, {"b": 2}), clash, (None, {"b": 1})]
    path = write_jsonl(tmp_path / "a.jsonl", [{**pair, "meta": meta, **extra} for meta, extra in metas])
    read = [row["meta"] for row in build(data_files=str(path)).as_dataset(split="train")]
    assert read == [{"task": None}, {"a": "é"}, {"a": 1, "b": 2}, {"task": 1, "columns": {"task": 2}}, {"b": 1}]


def test_rows_under_a_key(tmp_path, build):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"version": 1, "data": alpaca_rows(3)}))
    with pytest.raises(SourceError, match="field='data'"):
        Alpaca(data_files=str(path))
    assert len(build(data_files=str(path), field="data").as_dataset(split="train")) == 3


def test_a_mapped_tools_column_is_kept(tmp_path, build):
    tools = json.dumps([{"name": "f", "description": "d", "parameters": {}}])
    turns = [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]
    path = write_jsonl(tmp_path / "a.jsonl", [{"conversations": turns, "functions": tools}])
    (row,) = build(Vicuna, data_files=str(path), columns={"tools": "functions"}).as_dataset(split="train")
    assert row["tools"][0]["function"]["name"] == "f"
    hidden = tmp_path / "b.jsonl"
    hidden.write_text(path.read_text().replace('"functions"', '"\\u0074ools"'))
    with pytest.raises(SourceError, match="tools has values"):
        build(Vicuna, data_files=str(hidden))


def test_names_are_checked(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'vicuna'"):
        load_dataset("vicunna", data_files="x.json")
    with pytest.raises(ConfigError, match="sharegpt data is read by 'vicuna'"):
        load_dataset("sharegpt", data_files="x.json")


def test_prompts_and_completions_are_read_as_the_refusal_says(tmp_path, build):
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "Say hi.", "completion": "hi"}])
    with pytest.raises(SourceError) as refused:
        build(Vicuna, data_files=str(path))
    columns = {"instruction": "prompt", "output": "completion"}
    assert f"Take alpaca with columns={columns}." in str(refused.value)
    row = build(Alpaca, data_files=str(path), columns=columns).as_dataset("train")[0]
    assert [turn["content"] for turn in row["messages"]] == ["Say hi.", "hi"]


def test_bundled_samples_load(tmp_path):
    alpaca = load_dataset("alpaca", data_files="bundled", split="train", cache_dir=str(tmp_path))
    vicuna = load_dataset("vicuna", data_files="bundled", split="train", cache_dir=str(tmp_path))
    assert len(alpaca) == 260
    assert len(vicuna) >= 30
    assert any(turn.get("tool_calls") for row in vicuna["messages"] for turn in row)


def test_two_processes_build_once(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", alpaca_rows(5_000))
    script = (
        f"from instruct_builders import Vicuna, Alpaca; b = Alpaca(data_files={str(path)!r}, "
        f"cache_dir={str(tmp_path / 'cache')!r}); b.download_and_prepare(); print(len(b.as_dataset(split='train')))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in processes] == ["5000", "5000"]


@pytest.mark.shared_data
def test_real_files_are_read_whole(shared_data, build):
    alpaca = build(data_files=str(shared_data / "alpaca" / "alpaca_en_demo.json"))
    (account,) = alpaca.account["files"]
    assert account["rows_in"] == 999
    vicuna = build(Vicuna, data_files=str(shared_data / "sharegpt" / "glaive_toolcall_en_demo.json"))
    (account,) = vicuna.account["files"]
    assert account["rows_in"] == 300
