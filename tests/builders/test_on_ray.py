"""engine: ray: the same rows, splits, account and rejected lines as the local engine, also when workers are killed."""

from __future__ import annotations

import base64
import importlib.machinery
import importlib.util
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from instruct_builders import directory, on_ray, pipeline
from instruct_builders.errors import BuildError, ConfigError, TooManyRejected
from instruct_builders.loading import BUILDERS
from instruct_builders.on_ray import cluster

if importlib.util.find_spec("ray") is None:  # not importorskip: importing Ray settles which addresses it uses
    pytest.skip('needs pip install "instruct-builders[ray]"', allow_module_level=True)
# Ray's context sets options that Ray itself calls deprecated, and its sockets outlive its shutdown by a moment.
pytestmark = [
    pytest.mark.xdist_group("ray"),  # one worker: what the module sets up is dear
    pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
WORDS = [f"w{number}" for number in range(400)]
FRAME = " ".join(WORDS[:20]) + " {}"  # a template: too frequent for contamination, but only in all blocks together


@pytest.fixture(scope="module")
def ray_session():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with cluster.session(2):
            yield


def pairs(count: int, seed: int) -> list[dict]:
    """Alpaca rows of which a tenth are copies and a third have a few words of another's instruction changed."""
    draw, rows = random.Random(seed), []
    for _ in range(count):
        kind, row = draw.random(), dict(draw.choice(rows)) if rows else {}
        if not rows or kind >= 0.4:
            context = " ".join(draw.choices(WORDS, k=5)) if draw.random() < 0.3 else ""
            row = {"instruction": " ".join(draw.choices(WORDS, k=draw.randint(8, 30))), "input": context}
            row["output"] = " ".join(draw.choices(WORDS, k=draw.randint(1, 40)))
        elif kind >= 0.1:
            tokens = row["instruction"].split()
            for _ in range(draw.randint(1, 2)):
                tokens[draw.randrange(len(tokens))] = draw.choice(WORDS)
            answer = draw.choice([row["output"], " ".join(draw.choices(WORDS, k=5))])
            row = {**row, "instruction": " ".join(tokens), "output": answer}
        rows.append(row)
    for place in range(0, 64, 8):
        some = [" ".join(draw.choices(WORDS, k=12)) for _ in range(2)]
        rows.insert(place, {"instruction": FRAME.format(some[0]), "input": "", "output": some[1]})
    return rows


def conversations(count: int, seed: int) -> list[dict]:
    draw, rows = random.Random(seed), []
    for number in range(count):
        turns = []
        for _ in range(draw.randint(1, 6)):
            turns.append({"from": "human", "value": " ".join(draw.choices(WORDS, k=draw.randint(3, 40)))})
            turns.append({"from": "gpt", "value": " ".join(draw.choices(WORDS, k=draw.randint(1, 60)))})
        rows.append({"id": f"c{number % (count - 20)}", "conversations": turns})
    return rows


def write_lines(path: Path, rows: list[dict]) -> str:
    """JSON Lines, every hundredth of them broken."""
    lines = [json.dumps(row) + "\n" for row in rows]
    path.write_text("".join("{broken\n" * (number % 100 == 7) + line for number, line in enumerate(lines)))
    return str(path)


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    first, second = pairs(400, 1), pairs(250, 2)
    (tmp_path / "talks.json").write_text(json.dumps(conversations(150, 3), indent=1))
    questions = [{"question": row["instruction"]} for row in first[20:40]]
    questions += [{"question": FRAME.format("and what of it")}, {"question": "yes"}]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    return {
        "first": write_lines(tmp_path / "first.jsonl", first),
        "second": write_lines(tmp_path / "second.jsonl", second),
        "held_out": write_lines(tmp_path / "held.jsonl", first[50:90]),
        "talks": str(tmp_path / "talks.json"),
        "questions": str(tmp_path / "questions.jsonl"),
    }


def builder(name: str, sources, cache: Path, **options):
    return BUILDERS[name](sources, format="record", cache_dir=str(cache), **{"max_bad_fraction": 0.1} | options)


def rows_of(folder: Path) -> dict[str, list[dict]]:
    paths = sorted((folder / "default").glob("*.parquet"))
    splits = sorted({path.name.split("-")[0] for path in paths})
    return {
        name: [row for path in paths if path.name.startswith(f"{name}-") for row in pq.read_table(path).to_pylist()]
        for name in splits
    }


def account_of(folder: Path) -> dict:
    account = json.loads((folder / "build.json").read_text())
    account.pop("engine", None)
    return account


def assert_same(local: Path, on_many: Path) -> None:
    assert rows_of(on_many) == rows_of(local)
    assert (on_many / "rejected.jsonl").read_bytes() == (local / "rejected.jsonl").read_bytes()
    assert account_of(on_many) == account_of(local)


def build_locally(made, target: Path, **settings) -> Path:
    built = pipeline.build(made, **settings)
    return directory.write(target, built.splits, built.build, built.rejected)


def case(name: str, files: dict[str, str]) -> tuple[str, object, dict]:
    against = {"decontaminate": {"against": [files["questions"]]}}
    both = {"near_duplicates": {"by": "both", "threshold": 0.5}}
    flagged = {"decontaminate": {"against": [files["questions"]], "action": "flag"}}
    longer = {"near_duplicates": {"threshold": 0.3, "prefer": "longer"}}
    short = ["alternation", {"split_long": {"max_chars": 900}}, {"duplicate_ids": {"column": "meta.id"}}]
    several = [files["first"], files["second"]]
    quality = {"quality": {"preset": "default"}}
    return {
        "typical": ("alpaca", files["first"], {
            "steps": [quality, "exact_duplicates", "near_duplicates", against], "test_size": 0.1}),
        "two files": ("alpaca", several, {"steps": ["too_short", "exact_duplicates", both, flagged]}),
        "leaks": ("alpaca", {"train": several, "test": files["held_out"]}, {"steps": [], "format": "alpaca"}),
        "conversations": ("vicuna", files["talks"], {
            "steps": short, "format": "sharegpt", "test_size": 20, "seed": 3}),
        "tasks": ("self_instruct", "bundled", {"steps": [longer], "test_size": 0.2, "format": "prompt_completion"}),
        "flan": ("flan", "bundled", {"steps": ["exact_duplicates"]}),
    }[name]  # fmt: skip


@pytest.mark.parametrize("name", ["typical", "two files", "leaks", "conversations", "tasks", "flan"])
def test_the_same_as_the_local_engine(name, files, tmp_path, ray_session):
    kind, sources, settings = case(name, files)
    options = {"tasks": ["rte"], "seed": 1} if kind == "flan" else {}
    local = build_locally(builder(kind, sources, tmp_path / "one", **options), tmp_path / "local", **settings)
    made = builder(kind, sources, tmp_path / "two", **options)
    written = on_ray.build(made, tmp_path / "ray", max_shard_size="40KB", **settings)
    assert_same(local, tmp_path / "ray")
    assert account_of(tmp_path / "ray") != json.loads((tmp_path / "ray" / "build.json").read_text())  # says its engine
    assert {split: len(rows) for split, rows in written.splits.items()} == written.build["splits"]
    assert len(list(written.rejected)) == len(written.rejected) == sum(written.build["rejected"].values())
    if name == "two files":
        near, flagged = written.build["steps"][2:]
        assert near["rejected"]["near_duplicate"] > 5 and near["short_answers"] > 20
        assert flagged["ignored"]["runs"] == 8 and flagged["evaluation_sets"]["questions.jsonl"]["too_short"] == 1
        assert len(list((tmp_path / "ray" / "default").iterdir())) > 1  # several shards, in order
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("ray.")) == []


def test_a_worker_killed_in_a_map_changes_nothing(files, tmp_path, ray_session):
    """The function that counts tokens kills its own process the first time."""
    marker = tmp_path / "killed"

    def count(texts):
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [len(text.split()) for text in texts]

    def steps(count):
        return [{"split_long": {"max_tokens": 60, "count": count}}]

    local = build_locally(
        builder("vicuna", files["talks"], tmp_path / "one"),
        tmp_path / "local",
        steps=steps(lambda texts: [len(text.split()) for text in texts]),
    )
    on_ray.build(builder("vicuna", files["talks"], tmp_path / "two"), tmp_path / "ray", steps=steps(count))
    assert marker.exists()
    assert rows_of(tmp_path / "ray") == rows_of(local)
    assert (tmp_path / "ray" / "rejected.jsonl").read_bytes() == (local / "rejected.jsonl").read_bytes()


def workers() -> dict[int, str]:
    """Processes of this Ray that are running a task of ours, and what they call themselves."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        except OSError:  # gone meanwhile
            continue
        if name.startswith("ray::") and ("MapBatches" in name or "shuffle" in name.lower()):
            found[int(folder.name)] = name
    return found


def test_workers_killed_while_rows_are_compared_change_nothing(files, tmp_path, ray_session):
    settings = {"steps": ["exact_duplicates", "near_duplicates"]}
    local = build_locally(builder("alpaca", files["first"], tmp_path / "one"), tmp_path / "local", **settings)
    killed, done = [], threading.Event()

    def kill():
        while not done.is_set() and len(killed) < 3:
            for process, name in workers().items():
                if name not in killed:  # each kind of task once: maps, both halves of a shuffle
                    killed.append(name)
                    os.kill(process, signal.SIGKILL)
                    break
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        on_ray.build(builder("alpaca", files["first"], tmp_path / "two"), tmp_path / "ray", **settings)
    finally:
        done.set()
        thread.join()
    assert killed
    assert_same(local, tmp_path / "ray")


def test_a_failing_step_stops_the_build_and_says_what_failed(files, tmp_path, ray_session):
    def count(texts):
        raise ZeroDivisionError("in the middle of a row")

    steps = [{"split_long": {"max_tokens": 60, "count": count}}]
    with pytest.raises(ZeroDivisionError, match="in the middle of a row"):
        pipeline.build(builder("vicuna", files["talks"], tmp_path / "local"), steps=steps)
    with pytest.raises(BuildError, match="ZeroDivisionError: in the middle of a row"):
        on_ray.build(builder("vicuna", files["talks"], tmp_path / "ray"), tmp_path / "out", steps=steps)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("out")]  # nor a work folder


def test_a_folder_called_ray_is_not_ray(tmp_path, monkeypatch):
    """recipes/ray is one, and `python recipes/build.py` looks for modules in recipes/ first."""
    (tmp_path / "ray").mkdir()
    finder = importlib.machinery.PathFinder
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: finder.find_spec(name, [str(tmp_path)]))
    with pytest.raises(ConfigError, match=r"instruct-builders\[ray\]"):
        cluster.check_installed()


@pytest.mark.parametrize("forged", [b'["SystemExit", "0"]', b'{"BuildError": 1}', b"7", pickle.dumps(ConfigError)])
def test_a_row_cannot_forge_what_a_task_says(forged):
    """An error's text may quote a row: what stands in it is never run, and hides nothing."""
    quoted = f"ValueError: in the row [carried:{base64.b64encode(forged).decode()}]"
    with pytest.raises(BuildError, match=r"a task failed .*ValueError: in the row"), cluster.own_errors():
        raise RuntimeError(quoted)


@pytest.mark.parametrize(
    ("options", "settings", "error"),
    [
        ({"strict": True}, {}, TooManyRejected),
        ({"max_bad_fraction": 0.001}, {}, TooManyRejected),
        ({}, {"steps": ["exact_duplicates"], "strict": True}, BuildError),
        ({}, {"steps": [{"blocked_words": {"words": WORDS}}, "near_duplicates"]}, BuildError),  # nothing is left
    ],
    ids=["strict rows", "too many bad", "strict steps", "nothing left"],
)
def test_what_stops_a_build_says_the_same(options, settings, error, files, tmp_path, ray_session):
    told = []
    for engine in ("local", "ray"):
        made = builder("alpaca", files["first"], tmp_path / "cache", **options)
        with pytest.raises(error) as raised:
            pipeline.build(made, **settings) if engine == "local" else on_ray.build(made, tmp_path / "o", **settings)
        told.append(str(raised.value))
    assert told[0] == told[1]


def test_an_earlier_build_is_replaced_only_on_request(files, tmp_path, ray_session):
    on_ray.build(builder("alpaca", files["second"], tmp_path / "c"), tmp_path / "out")
    before = (tmp_path / "out" / "build.json").read_bytes()
    with pytest.raises(BuildError, match="overwrite"):
        on_ray.build(builder("alpaca", files["first"], tmp_path / "c"), tmp_path / "out")
    assert (tmp_path / "out" / "build.json").read_bytes() == before


def test_what_ray_does_not_do_is_said_before_anything_is_read():
    with pytest.raises(ConfigError, match=r"mixture.*engine: local"):
        on_ray.check([], mixture={"sources": []})
    with pytest.raises(ConfigError, match=r"near_duplicats.*Did you mean 'near_duplicates'"):
        on_ray.check(["near_duplicats"])
    with pytest.raises(ConfigError, match="threshold=3"):
        on_ray.check([{"near_duplicates": {"threshold": 3}}])
    with pytest.raises(ConfigError, match=r"engine: ray has no semantic_duplicates.*engine: local"):
        on_ray.check([{"semantic_duplicates": {"embed": "json:dumps"}}])


def test_a_missing_extra_names_its_pip_line(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    with pytest.raises(ConfigError, match=r'pip install "instruct-builders\[ray\]"'):
        on_ray.check([])


SCRIPT = """
import os, sys
from instruct_builders import Alpaca, on_ray
from instruct_builders.errors import ConfigError
source, target, cache = sys.argv[1:]
def build():
    return on_ray.build(Alpaca(source, format="record", cache_dir=cache, max_bad_fraction=0.1), target, num_proc=1)
os.environ["RAY_ADDRESS"] = "127.0.0.1:9"  # nothing listens there
try:
    build()
except ConfigError as error:
    print(error)
assert "ray" not in sys.modules
del os.environ["RAY_ADDRESS"]
def failing(*args):
    import ray
    seen.extend(node["NodeManagerAddress"] for node in ray.nodes())
    raise ConfigError("on purpose")
seen, on_ray.splitting.without_leaks = [], failing
try:
    build()
except ConfigError as error:
    print(error)
assert seen == ["127.0.0.1"] and not sys.modules["ray"].is_initialized()
print(sorted(name for name in os.listdir(os.path.dirname(target)) if name.startswith("out")))
"""


def rays() -> set[int]:
    return {
        int(path.parent.name) for path in Path("/proc").glob("[0-9]*/comm") if _comm(path) in ("raylet", "gcs_server")
    }


def _comm(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # gone meanwhile
        return ""


def test_an_own_ray_is_on_loopback_and_ends_with_the_build(files, tmp_path):
    before = rays()
    arguments = [files["second"], str(tmp_path / "out"), str(tmp_path / "cache")]
    command = [sys.executable, "-c", SCRIPT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 3, done.stdout
    unreachable, failed, left = lines
    assert "RAY_ADDRESS=127.0.0.1:9" in unreachable and "ray start --head" in unreachable
    assert failed == "on purpose"
    assert left == "[]" or left == "['.out.lock']"
    assert rays() <= before
