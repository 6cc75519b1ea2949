"""Tokenizer, quantisation, LoRA and merge: what each function promises."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from pathlib import Path

import pytest

from instruct_builders.errors import BuildError, ConfigError, SourceError, TemplateError
from trainers import models, release
from trainers.expected_warnings import GROWN

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # PEFT 0.21


RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def arguments(model, **options) -> models.ModelArguments:
    return models.ModelArguments(model_name_or_path=str(model), **options)


def test_padding_never_takes_the_token_that_ends_a_turn_while_another_is_there(tiny_tokenizer):
    assert models.padding_token(tiny_tokenizer())[0] == "<pad>"
    reserved = tiny_tokenizer(pad=None, extra=("<|reserved_special_token_0|>",))
    assert models.padding_token(reserved)[0] == "<pad>"  # in the vocabulary, though not declared
    same = tiny_tokenizer(pad="</s>")
    assert models.padding_token(same)[0] == "<pad>"


def test_padding_with_eos_says_why():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"</s>": 0, "a": 1}, "a")), eos_token="</s>")
    token, reason = models.padding_token(bare)
    assert token == "</s>" and "EOS stays trained" in reason
    unknown = Tokenizer(WordLevel({"</s>": 0, "<unk>": 1}, "<unk>"))
    bare = PreTrainedTokenizerFast(tokenizer_object=unknown, eos_token="</s>", unk_token="<unk>")
    assert models.padding_token(bare)[0] == "<unk>"


def test_tokenizer_stops_on_the_template_s_token_and_keeps_its_own_template_for_model(tiny_llama, tmp_path):
    from trl import chat_template_utils as trl_templates

    base = shutil.copytree(tiny_llama(extra=("<|im_start|>", "<|im_end|>")), tmp_path / "tiny-llama")
    tokenizer, template, added = models.load_tokenizer(arguments(base, chat_template="chatml"))
    assert (tokenizer.eos_token, tokenizer.chat_template, added) == ("<|im_end|>", template, [])
    model, revision = models.load_model(arguments(base), tokenizer)
    assert revision is None
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id, 2]  # what stopped it before still does
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id == 0
    tokenizer.chat_template = trl_templates.qwen2_5_chat_template
    tokenizer.save_pretrained(base)
    tokenizer, template, _ = models.load_tokenizer(arguments(base))
    assert tokenizer.chat_template == trl_templates.qwen2_5_chat_template == template


def test_generation_stops_on_each_token_that_may_end_a_turn(tiny_llama, tmp_path):
    """Also merged, where the base's own generation config comes first."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    args = arguments(tiny_llama(extra=("<|call|>",)), use_peft=True, chat_template="alpaca")
    tokenizer, _, _ = models.load_tokenizer(args)
    call = tokenizer.convert_tokens_to_ids("<|call|>")
    model, _ = models.load_model(args, tokenizer, stops=[tokenizer.eos_token_id, call])
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id, call]
    get_peft_model(model, models.lora_config(args)).save_pretrained(tmp_path / "adapter")
    for one in (model.generation_config, tokenizer):
        one.save_pretrained(tmp_path / "adapter")
    release.merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.generation_config.eos_token_id == [tokenizer.eos_token_id, call]


def test_embeddings_grow_without_a_warning(tiny_llama, caplog, monkeypatch):
    """The plain way warns twice; should it not do so any more, expected_warnings.py has some too many."""
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    args = arguments(tiny_llama(), chat_template="chatml")
    tokenizer, _, added = models.load_tokenizer(args)
    for grow, due in (
        (lambda: models.load_model(args, tokenizer), []),
        (lambda: AutoModelForCausalLM.from_pretrained(tiny_llama()).resize_token_embeddings(len(tokenizer)), GROWN),
    ):
        logging.Logger.warning_once.cache_clear()  # each message is told once in a process
        caplog.clear()
        grow()
        assert len(added) == 2 and {one.getMessage() for one in caplog.records if one.levelno > 20} == set(due)


def test_pickled_weights_are_refused(tiny_llama, tmp_path):
    import torch

    shutil.copytree(tiny_llama(), tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    tokenizer, _, _ = models.load_tokenizer(arguments(tmp_path / "pickled", chat_template="alpaca"))
    with pytest.raises(SourceError, match="no safetensors model"):
        models.load_model(arguments(tmp_path / "pickled"), tokenizer)


def test_a_tokenizer_without_eos_is_refused(tiny_llama, tmp_path):
    tokenizer, _, _ = models.load_tokenizer(arguments(tiny_llama(), chat_template="alpaca"))
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(TemplateError, match="eos_token"):
        models.load_tokenizer(arguments(tmp_path, chat_template="alpaca"))


def test_bitsandbytes_missing_names_its_pip_line(monkeypatch):
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install"):
        models.quantization_config(arguments("x", load_in_4bit=True))


def test_four_bits_compute_in_the_type_that_was_asked_for():
    import torch

    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed (the extra `quant`)")
    config = models.quantization_config(arguments("x", load_in_4bit=True, dtype="bfloat16"))
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    assert config.bnb_4bit_quant_type == "nf4" and config.bnb_4bit_use_double_quant
    assert models.quantization_config(arguments("x")) is None
    assert models.lora_config(arguments("x")) is None


def test_lora_gradients_on_a_4bit_base_are_right_after_an_evaluation(tiny_llama):
    """On CPUs with avx512_bf16 an unguarded model gets them wrong by half after its first evaluation."""
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    args = arguments(tiny_llama(), use_peft=True, load_in_4bit=True, dtype="float32", lora_dropout=0.0)
    tokenizer, _, _ = models.load_tokenizer(arguments(tiny_llama(), chat_template="alpaca"))
    quantised, _ = models.load_model(args, tokenizer, use_cpu=True)
    reference = AutoModelForCausalLM.from_pretrained(tiny_llama(), dtype=torch.float32)
    with torch.no_grad():
        for name, module in quantised.named_modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
                reference.get_submodule(name).weight.copy_(weight)
    gradients = []
    ids = tokenizer("Say the word loudly and clearly, please.", return_tensors="pt")["input_ids"]
    for model in (quantised, reference):
        set_seed(0)
        model = get_peft_model(model, models.lora_config(args))
        for name, weight in model.named_parameters():
            if "lora_B" in name:  # zero at first: then no gradient reaches lora_A
                torch.nn.init.normal_(weight, std=0.02, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            model.eval()(input_ids=ids)
        model.train()(input_ids=ids, labels=ids).loss.backward()
        gradients.append(torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None]))
    error = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert error < 1e-3


@pytest.fixture(scope="module")
def adapter(tiny_llama, tmp_path_factory):
    """A saved adapter with random weights, and the logits it gave in memory."""
    import torch
    from peft import get_peft_model

    args = arguments(tiny_llama(), use_peft=True, chat_template="alpaca")
    tokenizer, _, _ = models.load_tokenizer(args)
    model, _ = models.load_model(args, tokenizer)
    model = get_peft_model(model, models.lora_config(args)).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with torch.no_grad():
        return folder, model(input_ids=tokenizer("Say it.", return_tensors="pt")["input_ids"]).logits


def test_a_saved_adapter_and_the_merged_model_give_the_same_logits(adapter, tmp_path):
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, expected = adapter
    ids = AutoTokenizer.from_pretrained(folder)("Say it.", return_tensors="pt")["input_ids"]
    reloaded = AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    difference = release.merge_adapter(folder, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        assert torch.equal(reloaded(input_ids=ids).logits, expected)
        assert (merged(input_ids=ids).logits - expected).abs().max() < 1e-5
    assert 0 < difference < 1e-5
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template.startswith("{#- Stanford Alpaca")


def test_a_merge_beyond_the_tolerance_writes_nothing(adapter, tmp_path):
    with pytest.raises(BuildError, match="nothing was written"):
        release.merge_adapter(adapter[0], tmp_path / "merged", tolerance=0.0)
    assert not (tmp_path / "merged").exists()
    with pytest.raises(SourceError, match=r"no adapter_config\.json"):
        release.merge_adapter(tmp_path, tmp_path / "merged")


def test_a_merge_into_another_base_type_is_measured_against_its_own_rounding(adapter, tmp_path):
    assert 1e-4 < release.merge_adapter(adapter[0], tmp_path / "merged", dtype="bfloat16") < 0.05


def test_the_tiny_llama_names_data_that_is_not_there_and_heeds_its_seed(tmp_path, capsys):
    import runpy

    tiny = runpy.run_path(str(RECIPES / "quickstart" / "tiny_llama.py"))["main"]
    with pytest.raises(SourceError, match="no-such"):
        tiny(["--dataset_name", str(tmp_path / "no-such"), "--output_dir", str(tmp_path / "x")])
    (tmp_path / "odd.jsonl").write_text('{"question": "?"}\n')
    with pytest.raises(SourceError, match="question"):
        tiny(["--dataset_name", str(tmp_path / "odd.jsonl"), "--output_dir", str(tmp_path / "x")])
    (tmp_path / "rows.jsonl").write_text('{"instruction": "Say red.", "input": "", "output": "Red!"}\n')
    weights = []
    for place, seed in enumerate(("1", "1", "2")):
        folder = tmp_path / str(place)
        size = "--hidden_size 16 --num_hidden_layers 1 --vocab_size 300"
        flags = f"--dataset_name {tmp_path / 'rows.jsonl'} --output_dir {folder} --seed {seed} {size}"
        tiny(flags.split())
        weights.append((folder / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]
