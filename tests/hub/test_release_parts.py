"""What a release is put together from: shards, and the notes of a run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from release_runs import make_base, train, write_rows

from instruct_builders.errors import BuildError, ConfigError, SourceError
from trainers import base_model, consolidate, model_card, run_facts
from trainers.release import ReleaseArguments, release

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # PEFT 0.21


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("model") / "tiny-llama")


# ---- shards ----
def shard(model, checkpoint: Path) -> Path:
    """A checkpoint as accelerate's save_fsdp_model writes it with SHARDED_STATE_DICT, of one process."""
    import torch.distributed.checkpoint as dcp

    folder = checkpoint / consolidate.FSDP
    folder.mkdir(parents=True)
    dcp.save({"model": model.state_dict()}, storage_writer=dcp.FileSystemWriter(str(folder)), no_dist=True)
    return checkpoint


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_a_sharded_checkpoint_becomes_a_model_that_loads_and_is_released(hub, base, tmp_path):
    from transformers import AutoModelForCausalLM

    final = train(base, write_rows(tmp_path / "rows.jsonl"), tmp_path / "run", steps=1)
    trained = AutoModelForCausalLM.from_pretrained(final)
    with torch.no_grad():
        trained.lm_head.weight += 0.5  # of an earlier step, so other weights than those of `final`
    checkpoint = shard(trained, tmp_path / "run" / "checkpoint-1")
    assert (consolidate.kind(checkpoint), consolidate.kind(final)) == ("fsdp", None)
    whole = consolidate.consolidate(checkpoint, tmp_path / "whole", like=final)
    again = AutoModelForCausalLM.from_pretrained(whole)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    with pytest.raises(BuildError, match="is there already"):
        consolidate.consolidate(checkpoint, tmp_path / "whole", like=final)
    with pytest.raises(SourceError, match=r"no config.json: say with `like`"):
        consolidate.consolidate(checkpoint, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "run", "whole"]  # nothing half-made

    said: list[str] = []
    release(ReleaseArguments(model_dir=str(checkpoint), repo_id="me/model"), said.append)
    assert said[0] == "put the shards of checkpoint-1 together"
    published = AutoModelForCausalLM.from_pretrained("me/model")
    assert torch.equal(published.lm_head.weight, trained.lm_head.weight)
    card = hub.store.read("model", "me/model", "README.md").decode()
    assert "The weights are those of `checkpoint-1`, not of the end of the run." in card


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_a_sharded_adapter_becomes_an_adapter(base, tmp_path):
    from peft import AutoPeftModelForCausalLM, PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = write_rows(tmp_path / "rows.jsonl")
    # ChatML's markers are new to the base: rows of the embeddings and the whole head are in the adapter too.
    final = train(base, rows, tmp_path / "run", "--use_peft", "--lora_r", "4", steps=1, template="chatml")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(AutoTokenizer.from_pretrained(final)), mean_resizing=False)
    model = PeftModel.from_pretrained(model, str(final))
    checkpoint = shard(model, tmp_path / "run" / "checkpoint-1")  # base and all, as FSDP 1 has it
    whole = consolidate.consolidate(checkpoint, tmp_path / "whole", like=final)
    expected, found = (load_file(folder / "adapter_model.safetensors") for folder in (final, whole))
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    assert all(any(part in name for name in found) for part in ("lora_A", "lm_head.weight", "trainable_tokens"))
    AutoPeftModelForCausalLM.from_pretrained(str(whole))


def test_what_is_not_in_shards_and_what_only_deepspeed_reads(base, tmp_path, monkeypatch):
    with pytest.raises(SourceError, match=r"holds no weights in shards.*is whole already"):
        consolidate.consolidate(base, tmp_path / "out")
    zero = tmp_path / "checkpoint-2"
    zero.mkdir()
    (zero / "latest").write_text("global_step2")
    (zero / "zero_to_fp32.py").write_text("raise SystemExit('code of a checkpoint is never run')")
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(ConfigError, match="pip install deepspeed"):
        consolidate.consolidate(zero, tmp_path / "out")


def test_the_digest_of_weights_is_one_of_values_not_of_files(base, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert base_model.digest(base) == base_model.digest(tmp_path / "shards") != base_model.digest(tmp_path)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1e-3
    model.save_pretrained(tmp_path / "changed")
    assert base_model.digest(base) != base_model.digest(tmp_path / "changed")


# ---- the notes of a run ----
def test_every_source_of_a_mixture_is_noted_with_its_share_and_license(tmp_path):
    import build

    rows = write_rows(tmp_path / "rows.jsonl")
    config = tmp_path / "mix.yaml"
    config.write_text(
        f"mixture:\n  total_size: 8\n  sources:\n"
        f"    free: {{builder: alpaca, data_files: {rows}, license: mit, weight: 3}}\n"
        f"    barred: {{builder: alpaca, data_files: {rows}, license: cc-by-nc-4.0, weight: 1}}\n"
    )
    build.main(["--config", str(config), "--output_dir", str(tmp_path / "mix")])
    found = run_facts.sources(str(tmp_path / "mix"), None, local=True)
    assert [(one["name"], one["rows"], one["share"], one["license"]) for one in found] == [
        ("barred", 2, 0.25, "cc-by-nc-4.0"),
        ("free", 6, 0.75, "mit"),
    ]
    assert all(one["revision"].startswith("rows.jsonl sha256:") for one in found)
    assert run_facts.sources(str(rows), None, local=True) == []


def test_the_strictest_license_of_base_and_data_is_the_model_s():
    def facts(base, data, *sources):
        named = [{"name": "x", "license": one} for one in sources]
        return {"base": {"license": base}, "data": {"license": data, "sources": named}}

    assert model_card.settle_license(facts("apache-2.0", None), None) == ("apache-2.0", "")
    assert model_card.settle_license(facts("apache-2.0", "mit"), "cc-by-4.0") == ("cc-by-4.0", "")
    assert model_card.settle_license(facts(None, "mit"), None)[1].startswith("No license is stated")
    found, note = model_card.settle_license(facts("apache-2.0", "mit", "mit", "cc-by-nc-sa-4.0"), None)
    assert found == "cc-by-nc-sa-4.0" and "Not for commercial use" in note and "Data" in note
    found, note = model_card.settle_license(facts("cc-by-nc-4.0", "mit"), None)
    assert found == "cc-by-nc-4.0" and "The base model is" in note
    with pytest.raises(ConfigError, match="forbids commercial use"):
        model_card.settle_license(facts("cc-by-nc-4.0", "mit"), "mit")


@pytest.mark.parametrize(("name", "settings"), [("scripted-demo", {}), ("org/model", {"judge": {"scripted": True}})])
def test_what_a_script_said_is_no_evaluation(name, settings, tmp_path):
    from trainers import scores
    from trainers.evaluation import results

    one = results.result(
        "mt_bench",
        "MT-Bench",
        model={"name": name, "local": False},
        data={"name": "questions", "rows": 2},
        settings=settings,
        seed=1,
        counts={"questions": 2},
        metrics={"score": results.metric([3, 4])},
        date="2026-11-22",
    )
    path = results.write(one, tmp_path / "result.json")
    with pytest.raises(ConfigError, match="a script answered or judged"):
        scores.read([str(path)])
