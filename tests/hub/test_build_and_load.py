"""From raw rows to the Hub and back: built, published, and loaded from an empty cache by the real clients."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import datasets
import pytest
from huggingface_hub import HfApi

from instruct_builders import Alpaca, load_dataset
from instruct_builders.errors import ConfigError, PublishError, SourceError

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
ROWS = [{"instruction": f"Question {n}?", "input": "", "output": f"Answer {n}."} for n in range(40)]


@pytest.fixture
def build(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    spec = importlib.util.spec_from_file_location("build_recipe", RECIPES / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_recipe"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def raw(tmp_path) -> Path:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS))
    return path


def test_build_push_and_load_from_an_empty_cache(hub, build, raw, tmp_path):
    argv = ["--builder", "alpaca", "--data_files", str(raw), "--output_dir", str(tmp_path / "out")]
    argv += ["--cache_dir", str(tmp_path / "cache"), "--license", "cc-by-nc-4.0", "--test_size", "4"]
    build.main([*argv, "--push_to_hub", "--repo_id", "me/alpaca", "--tag", "v1"])
    info = HfApi().dataset_info("me/alpaca", revision="v1")
    assert info.private
    assert info.card_data.license == "cc-by-nc-4.0"
    names = {sibling.rfilename for sibling in info.siblings}
    assert {"README.md", "build.json", "default/train-00000-of-00001.parquet"} <= names
    assert "rejected.jsonl" not in names  # rows that nobody has checked stay here
    card = Path(HfApi().hf_hub_download("me/alpaca", "README.md", repo_type="dataset")).read_text()
    assert "Commercial use is not allowed" in card and 'load_dataset("me/alpaca")' in card
    loaded = datasets.load_dataset("me/alpaca", revision="v1", cache_dir=str(tmp_path / "hf"))
    assert {name: len(split) for name, split in loaded.items()} == {"train": 36, "test": 4}
    local = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "hf2"))
    assert loaded["train"].to_list() == local["train"].to_list()
    stream = datasets.load_dataset("me/alpaca", split="train", streaming=True)
    assert list(stream) == local["train"].to_list()


def test_a_push_that_fails_leaves_the_directory_and_says_why(hub, build, raw, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 30)
    argv = ["--builder", "alpaca", "--data_files", str(raw), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(PublishError) as caught:
        build.main([*argv, "--cache_dir", str(tmp_path / "cache"), "--push_to_hub", "--repo_id", "me/alpaca"])
    assert "x" * 10 not in str(caught.value)
    assert (tmp_path / "out" / "build.json").is_file()


def test_a_hub_dataset_is_a_source(hub, tmp_path):
    datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS[:30]), "test": datasets.Dataset.from_list(ROWS[30:])}
    ).push_to_hub("me/raw")
    card = "---\nlicense: cc-by-nc-4.0\n---\nraw\n"
    readme = HfApi().hf_hub_download("me/raw", "README.md", repo_type="dataset")
    card = Path(readme).read_text().replace("---\n", "---\nlicense: cc-by-nc-4.0\n", 1)
    commit = HfApi().upload_file(
        path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id="me/raw", repo_type="dataset"
    )
    loaded = load_dataset("alpaca", data_files="me/raw", cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == {"train": 30, "test": 10}
    row = loaded["train"][0]
    assert row["source"] == f"me/raw@{commit.oid}"
    assert row["license"] == "cc-by-nc-4.0"
    stream = load_dataset("alpaca", data_files="me/raw", streaming=True, split="train")
    assert list(stream) == loaded["train"].to_list()
    # The same commit is the same source: nothing is built again; another commit is another one.
    again = Alpaca("me/raw", cache_dir=str(tmp_path / "cache"))
    pinned = Alpaca(f"me/raw@{commit.oid}", cache_dir=str(tmp_path / "cache"))
    assert again.cache_dir == pinned.cache_dir
    datasets.Dataset.from_list(ROWS[:5]).push_to_hub("me/raw", split="train")
    assert Alpaca("me/raw", cache_dir=str(tmp_path / "cache")).cache_dir != again.cache_dir


def test_of_several_licenses_the_strictest_counts(hub, tmp_path):
    datasets.Dataset.from_list(ROWS).push_to_hub("me/mixed")
    readme = Path(HfApi().hf_hub_download("me/mixed", "README.md", repo_type="dataset")).read_text()
    card = readme.replace("---\n", "---\nlicense:\n- cc-by-nc-4.0\n- mit\n", 1).encode()
    HfApi().upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="me/mixed", repo_type="dataset")
    (row, *_) = load_dataset("alpaca", data_files="me/mixed", split="train", cache_dir=str(tmp_path))
    assert row["license"] == "cc-by-nc-4.0"


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("me/nothing", {}, SourceError, ["me/nothing", "no Hub dataset that can be seen"]),
        ("me/raw", {"revision": "v9"}, SourceError, ["me/raw", "no revision 'v9'"]),
        ("me/raw@main", {"revision": "v9"}, ConfigError, ["pinned to main", "v9"]),
        ("other/secret", {}, SourceError, ["other/secret", "HF_TOKEN"]),
        ("hf://datasets/me/raw/nothing.json", {}, SourceError, ["has no file nothing.json"]),
        ("hf://datasets/me/raw/*.json", {}, ConfigError, ["globs are for local files"]),
    ],
)
def test_what_the_hub_does_not_have_is_said(hub, tmp_path, monkeypatch, name, options, error, words):
    datasets.Dataset.from_list(ROWS).push_to_hub("me/raw")
    me = hub.add_user("me")
    monkeypatch.setenv("HF_TOKEN", hub.add_user("other"))
    datasets.Dataset.from_list(ROWS).push_to_hub("other/secret", private=True)
    monkeypatch.setenv("HF_TOKEN", me)
    with pytest.raises(error) as caught:
        Alpaca(name, cache_dir=str(tmp_path), **options)
    assert all(word in str(caught.value) for word in words)
