"""The loopback Hub is only worth something if the real clients can't tell: push and pull through each of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROWS = {"id": [str(i) for i in range(20)], "text": [f"row {i} é 中" for i in range(20)]}


def test_dataset_push_load_stream_and_configs(hub):
    from datasets import Dataset, DatasetDict, get_dataset_config_names, load_dataset

    rows = Dataset.from_dict(ROWS)
    rows.push_to_hub("me/data", private=True)
    rows.select(range(5)).push_to_hub("me/data", config_name="small", split="test")
    assert hub.store.repo("dataset", "me/data")["private"]
    assert load_dataset("me/data", split="train").to_dict() == ROWS
    assert load_dataset("me/data", "small")["test"].num_rows == 5
    assert list(load_dataset("me/data", split="train", streaming=True)) == list(rows)
    assert get_dataset_config_names("me/data") == ["default", "small"]
    assert hub.count("commit", 200) == 2
    assert {r.user for r in hub.requests if r.route == "lfs_get"} == {None}  # no token leaves for another host

    DatasetDict(train=rows, test=rows).push_to_hub("org/data", num_shards={"train": 3, "test": 1})
    assert {name: split.num_rows for name, split in load_dataset("org/data").items()} == {"train": 20, "test": 20}
    assert len([p for p in hub.store.files("dataset", "org/data") if p.endswith(".parquet")]) == 4


def test_unchanged_push_makes_no_commit_and_a_tag_keeps_the_old_rows(hub):
    from datasets import Dataset, load_dataset
    from huggingface_hub import HfApi

    Dataset.from_dict(ROWS).push_to_hub("me/data")
    HfApi().create_tag("me/data", tag="v1", repo_type="dataset")
    Dataset.from_dict(ROWS).push_to_hub("me/data")
    assert hub.count("commit") == 1 and hub.count("lfs_put") == 1
    Dataset.from_dict({"id": ["a"], "text": ["b"]}).push_to_hub("me/data")
    assert load_dataset("me/data", split="train").num_rows == 1
    assert load_dataset("me/data", split="train", revision="v1").num_rows == 20


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21's own call
def test_model_and_tokenizer_push_and_pull(hub, tmp_path):
    import torch
    from huggingface_hub import HfApi
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    words = {"<unk>": 0, "a": 1, "b": 2, "</s>": 3}
    words_tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    words_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words_tokenizer, unk_token="<unk>", eos_token="</s>")
    config = LlamaConfig(
        vocab_size=4, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).eval()
    model.push_to_hub("me/llama", private=True)
    tokenizer.push_to_hub("me/llama")

    again, ids = AutoModelForCausalLM.from_pretrained("me/llama").eval(), torch.tensor([[1, 2, 3]])
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert AutoTokenizer.from_pretrained("me/llama")("a b").input_ids == [1, 2]

    from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model

    lora = get_peft_model(again, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    lora.push_to_hub("me/lora")
    assert "model.safetensors" not in hub.store.files("model", "me/lora")
    pulled = AutoPeftModelForCausalLM.from_pretrained("me/lora").eval()
    assert torch.equal(pulled(ids).logits, lora(ids).logits)

    HfApi().upload_folder(repo_id="me/lora", folder_path=_card(tmp_path, "datasets: [me/chat]"))
    assert [m.id for m in HfApi().list_models(filter="dataset:me/chat")] == ["me/lora"]


def _card(folder, yaml):
    (folder / "README.md").write_text(f"---\n{yaml}\n---\n# Card\n")
    return folder


def test_branches_tags_pull_requests_and_history(hub, tmp_path):
    from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download

    api = HfApi()
    api.create_repo("me/data", repo_type="dataset")
    first = api.upload_folder(repo_id="me/data", repo_type="dataset", folder_path=_card(tmp_path, "license: mit"))
    add = CommitOperationAdd("notes.txt", b"hello")
    kwargs = {"repo_id": "me/data", "repo_type": "dataset"}
    request = api.create_commit(**kwargs, operations=[add], commit_message="notes", create_pr=True)
    assert request.pr_revision == "refs/pr/1"
    api.create_branch("me/data", branch="next", repo_type="dataset", revision=first.oid)
    api.create_commit(**kwargs, operations=[CommitOperationAdd("n", b"n")], commit_message="n", revision="next")
    api.create_tag("me/data", tag="v1.0", repo_type="dataset", revision="next")
    refs = api.list_repo_refs("me/data", repo_type="dataset", include_pull_requests=True)
    assert [b.name for b in refs.branches] == ["main", "next"] and [t.name for t in refs.tags] == ["v1.0"]
    assert api.list_repo_commits("me/data", repo_type="dataset", revision="v1.0")[0].title == "n"
    assert api.list_repo_files("me/data", repo_type="dataset") == [".gitattributes", "README.md"]
    notes = hf_hub_download("me/data", "notes.txt", repo_type="dataset", revision="refs/pr/1")
    assert Path(notes).read_text() == "hello"
    api.delete_branch("me/data", branch="next", repo_type="dataset")
    api.delete_repo("me/data", repo_type="dataset")
    assert not api.repo_exists("me/data", repo_type="dataset")


def test_snapshot_of_more_files_than_one_page(hub, tmp_path):
    from huggingface_hub import HfApi, snapshot_download

    source = tmp_path / "source"
    (source / "many").mkdir(parents=True)
    for i in range(120):
        (source / "many" / f"{i:03d}.txt").write_text(str(i))
    HfApi().create_repo("me/many")
    HfApi().upload_folder(repo_id="me/many", folder_path=source)
    copy = snapshot_download("me/many", local_dir=tmp_path / "copy")
    assert [(tmp_path / "copy" / "many" / f"{i:03d}.txt").read_text() for i in (0, 119)] == ["0", "119"], copy


def test_who_may_see_and_write_what(hub, monkeypatch):
    from datasets import Dataset, load_dataset
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    Dataset.from_dict(ROWS).push_to_hub("me/secret", private=True)
    Dataset.from_dict(ROWS).push_to_hub("me/gated")
    HfApi().update_repo_settings("me/gated", gated="auto", repo_type="dataset")
    monkeypatch.setenv("HF_TOKEN", hub.add_user("someone"))
    with pytest.raises(RepositoryNotFoundError, match="404"):
        HfApi().repo_info("me/secret", repo_type="dataset")
    with pytest.raises(DatasetNotFoundError, match="doesn't exist on the Hub or cannot be accessed"):
        load_dataset("me/secret")
    with pytest.raises(DatasetNotFoundError, match="gated dataset"):
        load_dataset("me/gated")
    with pytest.raises(GatedRepoError, match="403"):
        HfApi().hf_hub_download("me/gated", "README.md", repo_type="dataset")
    with pytest.raises(HfHubHTTPError, match="403"):
        HfApi().create_repo("me/mine")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "0" * 34)
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi().whoami()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RepositoryNotFoundError, match="401"):
        HfApi().repo_info("me/secret", repo_type="dataset")


def test_faults_are_seen_by_the_client_and_end(hub):
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    api.create_repo("me/model")
    hub.fail_next("commit", status=412, times=2)
    for _ in range(2):
        with pytest.raises(HfHubHTTPError, match="412"):
            api.create_commit("me/model", [CommitOperationAdd("a.txt", b"a")], commit_message="a")
    hub.cut_next("lfs_put")
    api.create_commit("me/model", [CommitOperationAdd("a.safetensors", b"x" * 10**6)], commit_message="a")
    put = [(r.status, r.size) for r in hub.requests if r.route == "lfs_put"]
    assert put == [(0, 500_000), (200, 1_000_000)]
    assert hub.store.read("model", "me/model", "a.safetensors") == b"x" * 10**6
    head = hub.store.resolve("model", "me/model", "main")
    with pytest.raises(HfHubHTTPError, match="412"):
        parent = "0" * 40
        api.create_commit("me/model", [CommitOperationAdd("b", b"b")], commit_message="b", parent_commit=parent)
    assert hub.store.resolve("model", "me/model", "main") == head


def test_a_subprocess_talks_to_this_hub_too(hub):
    from datasets import Dataset

    Dataset.from_dict(ROWS).push_to_hub("me/data", private=True)
    code = "from datasets import load_dataset; print(load_dataset('me/data', split='train').num_rows)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "20"
