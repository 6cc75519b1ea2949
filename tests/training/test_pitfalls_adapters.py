"""Pitfalls of adapters, and of several GPUs: what happens here. The others are in test_pitfalls.py."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from pitfall_runs import WORDS, chat, train, write

sys.path.pop(0)
ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # PEFT 0.21 asks for the old name
]


@pytest.fixture
def rows(tmp_path) -> Path:
    return write(tmp_path / "rows.jsonl", [chat(f"Say {word}.", f"{word}!") for word in WORDS])


# Adapters.


def test_new_tokens_of_an_adapter_are_trained_saved_and_come_back(tiny_llama, rows, tmp_path):
    """The rows of the two new tokens and the head are what the adapter holds beside LoRA; no other row moves."""
    import torch
    from peft import AutoPeftModelForCausalLM
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    flags = "--chat_template chatml --use_peft --max_steps 4 --per_device_train_batch_size 4 --merge --learning_rate"
    out, still = (train(tiny_llama(), rows, tmp_path / rate, f"{flags} {rate}") for rate in ("1e-2", "1e-20"))
    rows_of, heads = [], []
    for run in (out, still):
        saved = load_file(run / "final" / "adapter_model.safetensors")
        rows_of += [weight for name, weight in saved.items() if "trainable_tokens" in name]
        heads += [weight for name, weight in saved.items() if name.endswith("model.lm_head.weight")]
    assert len(rows_of) == 2 and ((rows_of[0] - rows_of[1]).abs().amax(1) > 1e-3).tolist() == [True, True]
    assert len(heads) == 2 and (heads[0] - heads[1]).abs().max() > 1e-3
    tokenizer = AutoTokenizer.from_pretrained(out / "final")
    new = sorted(tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]))
    old = AutoModelForCausalLM.from_pretrained(tiny_llama()).get_input_embeddings().weight
    assert new == [len(old), len(old) + 1]
    adapter = AutoPeftModelForCausalLM.from_pretrained(out / "final").merge_and_unload()
    for model in (adapter, AutoModelForCausalLM.from_pretrained(out / "merged")):
        embedded = model.get_input_embeddings().weight
        assert torch.equal(embedded[new], rows_of[0]) and torch.equal(embedded[: len(old)], old)
        assert torch.equal(model.get_output_embeddings().weight, heads[0])


@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
def test_an_adapter_with_new_tokens_holds_the_head_once_and_no_table_of_embeddings(tied, tiny_llama, rows, tmp_path):
    """PEFT by itself saves the head three times and the frozen embeddings; plain PEFT loads what is saved here."""
    import torch
    from peft import AutoPeftModelForCausalLM, PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    base = shutil.copytree(tiny_llama(), tmp_path / "tiny-llama")
    if tied:
        model = AutoModelForCausalLM.from_pretrained(base)
        model.config.tie_word_embeddings = True
        model.tie_weights()
        model.save_pretrained(base)
    flags = "--chat_template chatml --use_peft --lora_r 2 --max_steps 4 --learning_rate 1e-2 --merge"
    steps = "--save_steps 2 --save_total_limit 5"
    out = train(base, rows, tmp_path / "run", f"{flags} {steps}")
    saved = load_file(out / "final" / "adapter_model.safetensors")
    table = len(AutoModelForCausalLM.from_pretrained(base).get_input_embeddings().weight) + 2
    heads = [name for name, weight in saved.items() if len(weight) == table]
    assert heads == ([] if tied else ["base_model.model.lm_head.weight"])
    assert [weight.shape[0] for name, weight in saved.items() if "embed_tokens" in name] == [2]
    size = sum(weight.numel() * weight.element_size() for weight in saved.values())
    assert (out / "final" / "adapter_model.safetensors").stat().st_size < 1.1 * size + 8192
    again = AutoPeftModelForCausalLM.from_pretrained(out / "final").eval()
    grown = AutoModelForCausalLM.from_pretrained(base)
    grown.resize_token_embeddings(table, mean_resizing=False)
    plain = PeftModel.from_pretrained(grown, out / "final").eval()
    merged = AutoModelForCausalLM.from_pretrained(out / "merged").eval()
    ids = torch.arange(table)[None]
    with torch.no_grad():
        logits = [model(input_ids=ids).logits for model in (again, plain, merged)]
    assert torch.equal(logits[0], logits[1]) and (logits[0] - logits[2]).abs().max() < 1e-5
    shutil.rmtree(out / "checkpoint-4")  # as if it had been killed after step 2
    whole = (out / "final" / "adapter_model.safetensors").read_bytes()
    train(base, rows, out, f"{flags} {steps} --resume_from_checkpoint true")
    assert (out / "final" / "adapter_model.safetensors").read_bytes() == whole


def test_a_qlora_adapter_is_merged_into_the_weights_that_were_not_quantised(tiny_llama, rows, tmp_path):
    """Merged weight = the base's own + the adapter's update, to rounding; four bits are off by far more."""
    from peft import PeftConfig
    from safetensors.torch import load_file

    pytest.importorskip("bitsandbytes", reason="the extra `quant`")
    flags = "--chat_template alpaca --use_peft --load_in_4bit --merge --max_steps 2 --learning_rate 1e-2"
    out = train(tiny_llama(), rows, tmp_path / "run", f"{flags} --per_device_train_batch_size 4")
    base, adapter = load_file(tiny_llama() / "model.safetensors"), load_file(out / "final/adapter_model.safetensors")
    merged, config = load_file(out / "merged/model.safetensors"), PeftConfig.from_pretrained(str(out / "final"))
    parts = [name.removesuffix(".lora_A.weight") for name in adapter if name.endswith(".lora_A.weight")]
    assert len(parts) == 14  # seven linear layers in each of two blocks
    for part in parts:
        left, right = (adapter[f"{part}.lora_{side}.weight"].float() for side in "BA")
        update = left @ right * config.lora_alpha / config.r
        name = part.removeprefix("base_model.model.") + ".weight"
        assert merged[name].dtype == base[name].dtype and update.abs().max() > 1e-4
        assert (merged[name] - base[name] - update).abs().max() < 1e-6


# Several GPUs. Training under FSDP and a quantised model per process need some; what a CPU can tell is here.


def test_the_files_for_accelerate_are_read_by_it_and_its_version_gathers_shards():
    """FSDP2 saves a whole model only with accelerate 1.15 or later; saving itself is not tried here (needs GPUs)."""
    import tomllib

    import accelerate
    from accelerate.commands.config.config_args import load_config_from_file
    from packaging.requirements import Requirement
    from packaging.version import Version

    found = {path.stem: load_config_from_file(str(path)) for path in (ROOT / "recipes" / "accelerate").glob("*.yaml")}
    assert {name: config.distributed_type.value for name, config in found.items()} == {
        **{"cpu": "NO", "single_gpu": "NO", "ddp": "MULTI_GPU", "multi_node": "MULTI_GPU"},
        **{"fsdp2": "FSDP", "zero3": "DEEPSPEED"},
    }
    sharded = found["fsdp2"].fsdp_config
    assert (sharded["fsdp_version"], sharded["fsdp_state_dict_type"]) == (2, "FULL_STATE_DICT")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (asked,) = (Requirement(one) for one in extras["train"] if Requirement(one).name == "accelerate")
    assert "1.15.0" in asked.specifier and "1.14.9" not in asked.specifier
    assert Version(accelerate.__version__) >= Version("1.15")


def test_a_quantised_model_is_left_to_the_device_of_its_process(tiny_llama, monkeypatch):
    """A device map would put it on one GPU, or on all, in every process; that it trains there is not tried here."""
    from transformers import AutoModelForCausalLM

    from trainers import models

    class Loaded(Exception):
        pass

    def load(name, **options):
        raise Loaded(options.get("device_map", "none"))

    pytest.importorskip("bitsandbytes", reason="the extra `quant`")
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    for width in ("load_in_4bit", "load_in_8bit"):
        args = models.ModelArguments(model_name_or_path=str(tiny_llama()), chat_template="alpaca", **{width: True})
        tokenizer, _, _ = models.load_tokenizer(args)
        for use_cpu, due in ((False, "none"), (True, {"": "cpu"})):
            with pytest.raises(Loaded) as caught:
                models.load_model(args, tokenizer, use_cpu)
            assert caught.value.args == (due,)
