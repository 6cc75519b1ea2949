"""Pitfalls of rows, keys and splits: what happens here. The others are in test_pitfalls.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from instruct_builders.errors import ConfigError, RowError

sys.path.insert(0, str(Path(__file__).parent))
from pitfall_runs import WORDS, chat, checked, flags_of, train, write

sys.path.pop(0)
ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # PEFT 0.21 asks for the old name
]


@pytest.fixture
def rows(tmp_path) -> Path:
    return write(tmp_path / "rows.jsonl", [chat(f"Say {word}.", f"{word}!") for word in WORDS])


# Rows: one without an answer, and those that are too long.


def test_a_row_without_an_assistant_turn_is_named(tiny_llama, rows, tmp_path):
    import datasets

    folder = tmp_path / "built"  # as recipes/build.py leaves it, of a row that it would not leave there
    folder.mkdir()
    broken = [chat("Say red.", "red!")] * 4 + [chat("Anyone?")] + [chat("Say blue.", "blue!")]
    datasets.Dataset.from_list(broken).to_parquet(folder / "train.parquet")
    (folder / "build.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RowError, match="row 4, field 'messages'") as caught:
        train(tiny_llama(), folder, tmp_path / "run", "--chat_template vicuna_short")
    assert caught.value.reason == "no_turns"
    code, told = checked(tiny_llama(), folder, tmp_path, "--chat_template vicuna_short")
    assert code == 1 and told["rows"]["no_turns"] == 1 and told["left_out"]["no_turns"][0]["row"] == 4
    assert "row 4" in told["problems"][0]["what"] and "recipes/build.py" in told["problems"][0]["fix"]


def test_a_stream_is_refused(tiny_llama, tmp_path):
    """A resumed run would read all of it again up to where it stopped, and in another order if it is shuffled."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig

    from trainers.sft import InstructTrainer

    data = datasets.Dataset.from_list([{"input_ids": [1, 5, 2], "labels": [-100, 5, 2]}] * 4).to_iterable_dataset()
    config = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, activation_checkpointing=False, max_steps=1)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama())
    with pytest.raises(ConfigError, match="the train rows are a stream"):
        InstructTrainer(AutoModelForCausalLM.from_pretrained(tiny_llama()), config, data, processing_class=tokenizer)


LONG = "x " * 60
LIMITED = {  # what becomes of the three rows, and of their four answers: with an end, cut without
    "drop": ({"rows_in": 3, "rows_out": 1, "too_long": 2, "whole": 1}, (1, 0)),
    "truncate_turns": ({"rows_in": 3, "rows_out": 2, "too_long": 1, "turns_cut": 1, "whole": 1}, (2, 0)),
    "truncate_tokens": ({"rows_in": 3, "rows_out": 2, "tokens_cut": 1, "too_long": 1, "whole": 1}, (3, 1)),
}


@pytest.mark.parametrize("packing", ["", " --packing --per_device_train_batch_size 1"], ids=["", "packed"])
def test_no_answer_is_cut_without_a_word(packing, tiny_llama, rows, tmp_path):
    """A row that fits, one with a long second answer, one whose question alone is too long: an error by default."""
    data = write(rows, [chat("Hi.", "red!"), chat("Hi.", "red!", "And?", LONG), chat(LONG, "red!")])
    flags = f"--chat_template vicuna_short --max_length 80{packing}"
    with pytest.raises(ConfigError, match="2 of 3 rows are longer than max_length 80"):
        train(tiny_llama(), data, tmp_path / "run", flags)
    code, told = checked(tiny_llama(), data, tmp_path, flags)
    assert code == 1 and told["problems"][0]["topic"] == "length"
    for policy, (counts, (answers, cut)) in LIMITED.items():
        code, told = checked(tiny_llama(), data, tmp_path, f"{flags} --overlength {policy}")
        assert code == 0 and counts.items() <= told["rows"].items()
        assert (told["stop"]["answers"], told["stop"]["without"], told["stop"]["cut"]) == (answers, 0, cut)
        warned = any("cut, some in mid-answer" in entry["what"] for entry in told["problems"])
        assert warned == (policy == "truncate_tokens")


# Misspelt keys.

TYPOS = {
    "assistant_only_los": "Did you mean 'assistant_only_loss'",
    "max_seq_length": "unknown key",
    "warmup_ratio": "unknown key",
    "Learning_rate": "Did you mean 'learning_rate'",
}


@pytest.mark.parametrize("typo", TYPOS)
@pytest.mark.parametrize("recipe", ["sft", "check"])
def test_a_misspelt_key_of_a_yaml_stops_the_run(recipe, typo, tiny_llama, rows, tmp_path, capsys):
    import check
    import sft

    config = {"model_name_or_path": str(tiny_llama()), "dataset_name": str(rows), "chat_template": "alpaca", typo: 1}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    argv = ["--config", str(path), "--output_dir", str(tmp_path / "run"), "--use_cpu", "--bf16", "false"]
    if recipe == "check":
        assert check.main(argv) == 1
        said = capsys.readouterr().out
    else:
        with pytest.raises(ConfigError) as caught:
            sft.main(argv)
        said = str(caught.value)
    assert f"run.yaml: {typo}: unknown key" in said and TYPOS[typo] in said
    assert not (tmp_path / "run").exists()


# A test split that each process draws for itself.

SPLIT = """
import json, random, sys, types
from transformers import AutoTokenizer
from trainers import conversations, templates
random.seed(7)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
place = {"dataset_name": sys.argv[2], "dataset_config": None, "dataset_revision": None}
more = {"dataset_train_split": "train", "dataset_test_split": None, "dataset_format": "auto", "dataset_license": None}
policy = {"overlength": "error", "special_tokens": "reject", "train_on_prompts": False}
found = []
for seed in (0, 1):
    args = types.SimpleNamespace(**place, **more, **policy, test_size=4, split_seed=seed)
    train, test, *_ = conversations.prepare(args, tokenizer, templates.load("alpaca", tokenizer), 512)
    found.append([train["row"][:], test["row"][:]])
print(json.dumps(found))
"""


def test_every_rank_and_every_restart_hold_out_the_same_rows(tiny_llama, rows, tmp_path):
    """Here with the recipe's own arguments, and in a process with its own rank, hash seed, random state and cache."""
    import sft

    from trainers import conversations, models

    found = []
    for seed in (0, 1):
        flags = f"--chat_template alpaca --test_size 4 --split_seed {seed} --seed {seed + 5}"
        args, _ = sft.read_arguments(flags_of(tiny_llama(), rows, tmp_path / "run", flags))
        tokenizer, template, _ = models.load_tokenizer(args)
        train, test, *_ = conversations.prepare(args, tokenizer, template, 512)
        found.append([train["row"][:], test["row"][:]])
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    own = {"RANK": "1", "PYTHONHASHSEED": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": paths}
    command = [sys.executable, "-c", SPLIT, str(tiny_llama()), str(rows)]
    both = {**os.environ, **own, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=both, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == found
    first, second = found
    assert len(first[1]) == 4 and sorted(first[0] + first[1]) == list(range(12))
    assert first != second  # the seed does decide
