"""Rows -> token ids and labels: the same as TRL's own where TRL is right, an error or a count where it is silent."""

from __future__ import annotations

import hashlib
import json

import datasets
import pytest

from instruct_builders.errors import ConfigError, RowError, SourceError
from trainers import conversations, labelling, outcomes, reading, supervision, templates

ALPACA = [
    {"instruction": "Name a colour.", "input": "of the sky", "output": "Blue."},
    {"instruction": "Another?", "input": "", "output": "Red is a colour, and so are blue and green."},
    {"instruction": "Be brief.", "input": "", "output": "Yes."},
]


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return tiny_tokenizer()


def labelled(tokenizer, name, rows=ALPACA, **options):
    template = templates.load(name, tokenizer)
    talk = conversations.conversations(datasets.Dataset.from_list(rows), "auto", template, tokenizer)
    return label(talk, tokenizer, template, **options)


def label(rows, tokenizer, template, **options):
    policy = labelling.Policy(**options)
    return outcomes.settle(labelling.label_all(rows, tokenizer, template, policy), policy)


def supervised_text(tokenizer, row) -> str:
    return tokenizer.decode([token for token in row["labels"] if token != supervision.IGNORED])


@pytest.mark.parametrize("name", ["alpaca", "vicuna"])
def test_the_input_is_printed_where_the_template_wants_it(tokenizer, name):
    rows, cut = labelled(tokenizer, name)
    printed = tokenizer.decode(rows[0]["input_ids"])
    if name == "alpaca":
        assert "### Instruction:\nName a colour.\n\n### Input:\nof the sky\n\n### Response:" in printed
        assert "### Input" not in tokenizer.decode(rows[1]["input_ids"])
    else:
        assert "USER: Name a colour.\n\nof the sky ASSISTANT: Blue.</s>" in printed
    assert [supervised_text(tokenizer, row).strip() for row in rows] == [row["output"] + "</s>" for row in ALPACA]
    assert cut == {"rows_in": 3, "rows_out": 3, "whole": 3}
    assert conversations.count(rows)["trained_tokens"] == sum(row["trained"] for row in rows)


@pytest.mark.parametrize("name", ["alpaca", "vicuna"])
def test_labels_are_those_that_trl_makes_of_the_same_rows(tokenizer, tiny_llama, tmp_path, name):
    from trl import SFTConfig, SFTTrainer

    template = templates.load(name, tokenizer)
    talk = conversations.conversations(datasets.Dataset.from_list(ALPACA), "auto", template, tokenizer)
    ours, _ = label(talk, tokenizer, template)
    config = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, activation_checkpointing=False, assistant_only_loss=True
    )
    theirs = tokenizer.__class__.from_pretrained(tiny_llama())
    theirs.chat_template = template
    trainer = SFTTrainer(str(tiny_llama()), config, train_dataset=talk, processing_class=theirs)
    for row, other in zip(ours, trainer.train_dataset, strict=True):
        assert row["input_ids"] == other["input_ids"]
        assert row["labels"] == other["labels"]


def test_rows_that_are_too_long_are_an_error_cut_or_dropped_with_a_count(tokenizer):
    with pytest.raises(ConfigError, match=r"1 of 3 rows are longer than max_length 30 \(the longest, row 1, has"):
        labelled(tokenizer, "vicuna_short", limit=30)
    rows, cut = labelled(tokenizer, "vicuna_short", limit=30, overlength="truncate_tokens")
    assert cut == {"rows_in": 3, "rows_out": 3, "tokens_cut": 1, "whole": 2} and max(map(len, rows["input_ids"])) == 30
    rows, cut = labelled(tokenizer, "vicuna_short", limit=30, overlength="drop")
    assert cut == {"rows_in": 3, "rows_out": 2, "too_long": 1, "whole": 2} and len(rows) == 2
    # 14 tokens hold the prompt of row 1 and three tokens of its answer, but no token of row 0's answer
    rows, cut = labelled(tokenizer, "vicuna_short", limit=14, overlength="truncate_tokens")
    assert len(rows) + cut["too_long"] == 3 and cut["too_long"] > 0
    assert conversations.count(rows)["trained_tokens"] == sum(row["trained"] for row in rows) > 0
    with pytest.raises(ConfigError, match="no row is left"):
        labelled(tokenizer, "vicuna_short", limit=2, overlength="truncate_tokens")


def test_a_row_without_an_answer_is_named(tokenizer):
    rows = [{"messages": [{"role": "user", "content": "Hi"}]}]
    template = templates.load("vicuna", tokenizer)
    with pytest.raises(RowError, match="row 0, field 'messages': no token to train on"):
        label(datasets.Dataset.from_list(rows), tokenizer, template)


def test_a_row_that_the_template_refuses_is_named(tokenizer):
    rows = [{"messages": [{"role": "assistant", "content": "Hi"}]}]
    template = templates.load("vicuna", tokenizer)
    with pytest.raises(RowError, match=r"row 0, field 'messages': .*alternation"):
        label(datasets.Dataset.from_list(rows), tokenizer, template)


def test_train_false_is_heeded_with_any_template(tokenizer):
    turns = [{"role": "user", "content": "Hi", "train": None}, {"role": "assistant", "content": "Ho", "train": False}]
    rows = datasets.Dataset.from_list([{"messages": turns * 2}])
    deaf = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content + eos_token }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    for template in (deaf, templates.load("vicuna", tokenizer)):
        with pytest.raises(RowError, match="no token to train on"):
            label(rows, tokenizer, template)


def test_train_on_prompts_supervises_every_token(tokenizer):
    rows, _ = labelled(tokenizer, "alpaca", train_on_prompts=True)
    assert all(row["labels"] == row["input_ids"] for row in rows)


def test_the_split_is_the_same_in_every_run_and_loses_nothing():
    rows = datasets.Dataset.from_dict({"n": list(range(100))})
    train, test = conversations.hold_out(rows, 0.1, seed=3)
    again = conversations.hold_out(rows, 10, seed=3)
    assert (train["n"][:], test["n"][:]) == (again[0]["n"][:], again[1]["n"][:])
    assert sorted([*train["n"], *test["n"]]) == list(range(100)) and len(test) == 10
    assert conversations.hold_out(rows, 0.1, seed=4)[1]["n"][:] != test["n"][:]
    assert conversations.hold_out(rows, None, seed=3) == (rows, None)


def test_what_is_known_of_the_data_comes_from_the_data(tmp_path):
    folder = tmp_path / "built"
    (folder / "default").mkdir(parents=True)
    rows = datasets.Dataset.from_list(ALPACA)
    rows.to_parquet(folder / "default" / "train-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nlicense: cc-by-nc-4.0\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: default/train-*.parquet\n---\n"
    )
    loaded = reading.load_rows(str(folder))
    fact = reading.describe(loaded, str(folder), "train")
    assert fact["name"] == "built" and fact["license"] == "cc-by-nc-4.0" and fact["rows"] == 3
    assert fact["revision"].startswith("sha256:") and str(tmp_path) not in str(fact)
    assert reading.describe(loaded, str(folder), "train", "mit")["license"] == "mit"
    file = next((folder / "default").iterdir())
    assert hashlib.sha256(file.read_bytes()).hexdigest().startswith(reading._digest(file).removeprefix("sha256:"))
    with pytest.raises(SourceError, match=r"a \.txt file"):
        (tmp_path / "x.txt").write_text("x")
        reading.load_rows(str(tmp_path / "x.txt"))
    with pytest.raises(SourceError, match="no rows"):
        conversations.conversations(rows.select([]), "auto", "", None)


def write(path, *rows) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


TURNS = [{"from": "human", "value": 'Say "42".'}, {"from": "gpt", "value": "42"}]
RAW = {
    "alpaca": ({"instruction": "Say.", "input": "", "output": "42"}, {"instruction": "Say", "output": 42}),
    "sharegpt": ({"conversations": TURNS}, {"conversations": [TURNS[0], {"from": "gpt", "value": 42}]}),
    "prompt_completion": ({"prompt": "Say.", "completion": "42"}, {"prompt": "Say", "completion": 42}),
    "text": ({"text": "42"}, {"text": 42}),
}


@pytest.mark.parametrize("kind", RAW)
@pytest.mark.parametrize("where", ["rows.jsonl", "folder/train.jsonl"])
def test_a_number_among_raw_texts_is_an_error_and_no_text_is_quoted(kind, where, tmp_path):
    good, bad = RAW[kind]
    name = write(tmp_path / where, good, bad)
    name = name if where == "rows.jsonl" else str(tmp_path / "folder")
    said = r"line 2, row 1: non_string" if kind in ("alpaca", "sharegpt") else "holds other things than text"
    with pytest.raises(SourceError, match=rf"(?s){said}.*recipes/build\.py"):
        reading.load_rows(name)
    write(tmp_path / where, good, good)
    row = reading.load_rows(name)[1]
    assert {key: row[key] for key in good} == good


def test_a_folder_of_raw_files_has_the_splits_of_its_names_and_a_digest(tmp_path):
    first, second = {"instruction": "a", "input": "", "output": "b"}, {"instruction": "c", "input": "", "output": "d"}
    write(tmp_path / "raw" / "train.jsonl", first, first)
    write(tmp_path / "raw" / "test.jsonl", second)
    folder = str(tmp_path / "raw")
    assert sorted(reading.splits(folder)) == ["test", "train"]
    assert reading.load_rows(folder)["instruction"][:] == ["a", "a"]
    assert reading.load_rows(folder, split="test")["instruction"][:] == ["c"]
    rows = reading.load_rows(folder)
    before = reading.describe(rows, folder, "train")["revision"]
    write(tmp_path / "raw" / "test.jsonl", first)
    after = reading.describe(rows, folder, "train")["revision"]
    assert before != after and before.startswith("sha256:")
    (tmp_path / "empty").mkdir()
    assert reading.describe(rows, str(tmp_path / "empty"), "train")["revision"] is None


def test_parts_of_a_conversation_are_held_out_together():
    rows = datasets.Dataset.from_dict(
        {"id": [f"{n}" for n in range(60)], "parent": [f"p{n // 3}" if n < 30 else None for n in range(60)]}
    )
    families = conversations.families(rows)
    labelled = rows.add_column("row", list(range(60)))
    for seed in range(5):
        train, test = conversations.hold_out(labelled, 0.3, seed, families)
        assert len(train) + len(test) == 60 and len(test) >= 12
        assert not set(families.take(train["row"][:]).to_pylist()) & set(families.take(test["row"][:]).to_pylist())
    assert conversations.families(rows.remove_columns("parent")) is None


def test_a_hub_dataset_with_a_test_split_is_evaluated_on_it(hub, tmp_path):
    from types import SimpleNamespace

    from huggingface_hub import HfApi

    for split in ("train", "test"):
        datasets.Dataset.from_list(ALPACA).to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    api = HfApi()
    api.create_repo("me/data", repo_type="dataset")
    api.upload_folder(repo_id="me/data", repo_type="dataset", folder_path=tmp_path)
    place = {"dataset_name": "me/data", "dataset_config": None, "dataset_revision": None}
    args = SimpleNamespace(**place, dataset_train_split="train[:2]", dataset_test_split=None, test_size=None)
    assert conversations.settle_evaluation(args, None) == [
        "evaluated on the split 'test' of me/data; none of it is trained on"
    ]
    assert args.dataset_test_split == "test" and len(reading.load_rows("me/data", split="train[:2]")) == 2
    with pytest.raises(SourceError, match="nobody/nothing"):
        reading.splits("nobody/nothing")
