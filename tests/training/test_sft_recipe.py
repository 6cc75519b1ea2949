"""recipes/sft.py end to end on a tiny Llama: every way to train takes steps, saves, merges and says what it did."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from instruct_builders.errors import ConfigError, PublishError, SourceError, TemplateError

ROOT = Path(__file__).resolve().parents[2]
WORDS = "red green blue black white grey pink gold cyan lime teal plum".split()
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # PEFT 0.21 asks for the old name
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    lines = [
        {"instruction": f"Say {word}.", "input": "loudly" if place % 2 else "", "output": f"{word}!"}
        for place, word in enumerate(WORDS)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return path


def run(model, data, output, *flags: str) -> Path:
    import sft

    base = f"--model_name_or_path {model} --dataset_name {data} --output_dir {output} --use_cpu --disable_tqdm"
    fixed = "--per_device_train_batch_size 4 --learning_rate 1e-2 --logging_steps 1"
    fixed += "" if "--max_steps" in flags else " --max_steps 3"
    own = [*base.split(), *fixed.split(), "--activation_checkpointing", "false"]
    own += [] if "--save_steps" in flags else ["--save_strategy", "no"]
    sft.main([*own, *([] if "--bf16" in flags else ["--bf16", "false"]), *flags])
    return Path(output)


def logits(model, tokenizer):
    import torch

    ids = tokenizer("Say red.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits.float()


WAYS = {
    "full": "--chat_template vicuna",
    "lora": "--chat_template alpaca --use_peft --merge",
    "dora": "--chat_template vicuna_short --use_peft --use_dora --merge",
    "rslora": "--chat_template alpaca_short --use_peft --use_rslora --merge",
    "new_tokens": "--chat_template chatml --use_peft --merge",
    "int8": "--chat_template alpaca --use_peft --load_in_8bit --merge",
    "nf4_new_tokens": "--chat_template chatml --use_peft --load_in_4bit --merge",  # the head is trained, in bfloat16
    "nf4": "--chat_template alpaca --use_peft --load_in_4bit --dtype bfloat16 --bf16 true --merge",
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_trains_saves_and_merges(way, tiny_llama, rows, tmp_path, capsys):
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = tiny_llama()
    out = run(base, rows, tmp_path / "run", "--test_size", "2", *WAYS[way].split())
    said = capsys.readouterr().out
    assert "rows: 12 in, 12 used (whole 12); 10 to train on, 2 held out" in said
    assert re.search(r"end of turn '.+': learned in 10 of 10 answers", said)
    assert re.search(r"mean loss: train \d\.\d+, held out \d\.\d+", said)
    final = out / "final"
    assert not list(out.rglob("*.bin")) and not list(final.glob("*.pt"))
    tokenizer = AutoTokenizer.from_pretrained(final)
    assert tokenizer.eos_token == ("<|im_end|>" if way.endswith("new_tokens") else "</s>")
    assert tokenizer.pad_token == "<pad>"
    stop = json.loads((final / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.eos_token_id in (stop if isinstance(stop, list) else [stop])
    if way == "full":
        trained = AutoModelForCausalLM.from_pretrained(final)
    else:
        trained = AutoPeftModelForCausalLM.from_pretrained(final, dtype=torch.float32)
        whole = AutoModelForCausalLM.from_pretrained(out / "merged")
        assert whole.config.eos_token_id == tokenizer.eos_token_id
        assert (logits(trained, tokenizer) - logits(whole, tokenizer)).abs().max() < 1e-5
    before = logits(AutoModelForCausalLM.from_pretrained(base), tokenizer)
    after = logits(trained, tokenizer)[..., : before.shape[-1]]
    assert (after - before).abs().max() > 1e-3  # it did learn something
    for card in out.rglob("README.md"):
        text = card.read_text(encoding="utf-8")
        assert str(tmp_path) not in text and str(base) not in text and str(rows) not in text
        assert "hf_" not in text and yaml.safe_load(text.split("---")[1])["tags"][0] == "sft"
        assert WAYS[way].split()[1] in text and "`tiny-llama`" in text and "rows.jsonl" in text
        assert "in all 12 rows: 0 tokens straddle a boundary" in text and "| split_seed | 0 |" in text
        compile(text.split("```python\n")[1].split("```")[0], "card", "exec")


def test_accelerate_launches_it_with_a_yaml(tiny_llama, rows, tmp_path):
    accelerate = Path(sys.executable).with_name("accelerate")
    command = [accelerate, "launch", "--config_file", "recipes/accelerate/cpu.yaml", "recipes/sft.py"]
    command += ["--config", "recipes/alpaca/sft_lora.yaml", "--model_name_or_path", tiny_llama()]
    command += ["--dataset_name", rows, "--dataset_license", "cc-by-nc-4.0", "--dtype", "float32"]
    command += ["--use_cpu", "--bf16", "false", "--test_size", "2", "--max_steps", "1", "--output_dir", tmp_path / "o"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [str(word) for word in command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "o" / "merged" / "model.safetensors").is_file()
    front = yaml.safe_load((tmp_path / "o" / "final" / "README.md").read_text().split("---")[1])
    assert front["license"] == "cc-by-nc-4.0"
    assert "model_revision: '27d67f" in result.stderr  # the YAML's revision is not this model's


REFUSED = [
    ("--learning_rat 1e-4", ConfigError, "Did you mean 'learning_rate'"),
    ("--chat_template alpacca", TemplateError, "Did you mean 'alpaca'"),
    ("--chat_template model", TemplateError, "has no chat template"),
    ("--hub_token secret", ConfigError, "HF_TOKEN"),
    ("--save_only_model", ConfigError, "fresh one"),
    ("--chat_template_path x.jinja", ConfigError, "use chat_template"),
    ("--load_in_4bit", ConfigError, "use_peft: true"),
    ("--use_peft --load_in_4bit --load_in_8bit --chat_template alpaca", ConfigError, "Choose one"),
    ("--merge", ConfigError, "no adapter to merge"),
    ("--push_to_hub", ConfigError, "needs hub_model_id"),
    ("--push_to_hub --hub_model_id me/x --use_peft", ConfigError, "local folder"),
    ("--test_size 2 --dataset_test_split test --chat_template alpaca", ConfigError, "Choose one"),
    ("--test_size 12 --chat_template alpaca", ConfigError, "both need one"),
    ("--sample_prompts 2 --chat_template alpaca", ConfigError, "sample_prompts needs rows to evaluate on"),
    ("--use_peft --lora_r 0", ConfigError, "lora_r: 0 given; a rank is 1 or more"),
    ("--use_peft --lora_dropout 1.0", ConfigError, "from 0 to below 1"),
    ("--use_peft --lora_target_modules foo --chat_template alpaca", ConfigError, "'foo' is no layer.* all-linear, or"),
    ("--use_peft --lora_target_modules q_proj mlp --chat_template alpaca", ConfigError, "'mlp' takes in .*q_proj"),
    ("--use_peft --lora_target_modules [ --chat_template alpaca", ConfigError, "no name and no pattern"),
    ("--report_to wandb", ConfigError, "report_to: 'wandb' can't be used: .*install"),
    ("--report_to wandbb", ConfigError, "Did you mean 'wandb'"),
    ("--push_to_hub --hub_model_id me/x", PublishError, "HF_TOKEN"),
    ("--push_to_hub --hub_model_id me/x/y", PublishError, "namespace/name"),
    ("--max_length 10 --chat_template alpaca", ConfigError, "12 of 12 rows are longer than max_length 10"),
    ("--overlength cut --chat_template alpaca", ConfigError, "error, drop, truncate_turns"),
    ("--dtype int4 --chat_template alpaca", ConfigError, "auto, bfloat16"),
    ("--dataset_train_split validation --chat_template alpaca", SourceError, "validation"),
]


@pytest.mark.parametrize(("flags", "error", "says"), REFUSED, ids=[flags for flags, _, _ in REFUSED])
def test_what_can_not_be_right_is_refused_before_training(flags, error, says, tiny_llama, rows, tmp_path):
    with pytest.raises(error, match=says):
        run(tiny_llama(), rows, tmp_path, *flags.split())
    assert not (tmp_path / "final").exists()


def test_a_yaml_may_say_true_to_resume(tiny_llama, rows, tmp_path):
    """As transformers documents the key, whose type it gives as text."""
    config = tmp_path / "run.yaml"
    config.write_text("resume_from_checkpoint: true\nsave_total_limit: 2\n")
    flags = ("--chat_template", "alpaca", "--save_steps", "2", "--config", str(config))
    for step in (3, 5):  # nothing to resume from, then the step that was saved last
        out = run(tiny_llama(), rows, tmp_path / "run", *flags, "--max_steps", str(step), "--allow_changed")
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-5"]


@pytest.mark.parametrize("under", ["a-file", "a-file/run"])
def test_an_output_dir_that_can_not_be_made_is_refused_before_the_model_is_read(under, rows, tmp_path):
    (tmp_path / "a-file").write_text("x")
    with pytest.raises(ConfigError, match=r"output_dir: .*a-file is a file"):
        run("no/such-model", rows, tmp_path / under)


def readme_run(model, data, output) -> None:
    """The README's command: a recipe's YAML with a model and a dataset of one's own."""
    import sft

    small = "--use_cpu --bf16 false --dtype float32 --max_steps 1 --disable_tqdm --save_strategy no --merge false"
    flags = f"--model_name_or_path {model} --dataset_name {data} --output_dir {output} {small}"
    sft.main(["--config", str(ROOT / "recipes" / "alpaca" / "sft_lora.yaml"), *flags.split()])


def test_the_recipe_takes_a_built_directory_with_and_without_a_test_split(tiny_llama, rows, tmp_path, capsys):
    import build

    for size in ("2", "0"):
        flags = f"--builder alpaca --data_files {rows} --output_dir {tmp_path / size} --test_size {size}"
        build.main(flags.split())
        readme_run(tiny_llama(), tmp_path / size, tmp_path / f"run{size}")
        said = capsys.readouterr().out
        if size == "2":
            assert f"evaluated on the split 'test' of {tmp_path / size}" in said and "held out 0.0" not in said
            assert "10 to train on, 2 held out" in said and re.search(r"mean loss: train [\d.]+, held out", said)
        else:
            assert "eval_strategy: epoch becomes no" in said and "12 to train on, 0 held out" in said
        assert (tmp_path / f"run{size}" / "final" / "adapter_model.safetensors").is_file()


def test_the_best_checkpoint_needs_rows_to_be_best_on(rows, tmp_path):
    flags = "--load_best_model_at_end --eval_strategy steps --eval_steps 100 --save_steps 100"
    with pytest.raises(ConfigError, match="load_best_model_at_end needs rows"):
        run("no/such-model", rows, tmp_path, *flags.split())


def test_a_missing_model_is_named(rows, tmp_path):
    with pytest.raises(SourceError, match="no-such-folder"):
        run(tmp_path / "no-such-folder", rows, tmp_path, "--chat_template", "alpaca")


def test_the_pushed_directories_are_the_final_ones(tiny_llama, rows, tmp_path, monkeypatch):
    from instruct_builders import publish

    pushed = []

    def record(directory, repo_id, **options):
        pushed.append((directory, repo_id, options))
        return publish.PublishResult(url=f"https://huggingface.co/{repo_id}", commit=None, tag=None, files=[])

    monkeypatch.setattr(publish, "publish", record)
    monkeypatch.setenv("HF_TOKEN", "never-sent")
    flags = "--chat_template alpaca --use_peft --merge --push_to_hub --hub_merged_model_id me/merged"
    out = run(tiny_llama(), rows, tmp_path, *flags.split())
    assert pushed == [(out / "merged", "me/merged", {"private": True, "repo_type": "model"})]
    assert "me/merged" in (out / "merged" / "README.md").read_text()


def test_adapter_and_merged_model_go_to_the_hub_and_come_back(hub, tiny_llama, rows, tmp_path, capsys):
    from huggingface_hub import HfApi
    from peft import AutoPeftModelForCausalLM, PeftConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer

    api = HfApi()
    api.create_repo("me/base", private=True)
    api.upload_folder(repo_id="me/base", folder_path=tiny_llama(extra=("<|im_start|>", "<|im_end|>")))
    sha = api.model_info("me/base").sha
    push = "--push_to_hub --hub_model_id me/adapter --hub_merged_model_id me/merged --dataset_license cc-by-nc-sa-4.0"
    run("me/base", rows, tmp_path, *f"--chat_template chatml --use_peft --merge {push}".split())
    said = capsys.readouterr().out
    assert "published" in said and "me/adapter" in said and "me/merged" in said
    for repo_id in ("me/adapter", "me/merged"):
        files = {file for file in api.list_repo_files(repo_id) if file != ".gitattributes"}
        assert {"README.md", "tokenizer.json", "chat_template.jinja", "generation_config.json"} <= files
        assert not [file for file in files if file.endswith((".bin", ".pt"))]
        assert api.model_info(repo_id).private
        card = Path(api.hf_hub_download(repo_id, "README.md")).read_text(encoding="utf-8")
        front = yaml.safe_load(card.split("---")[1])
        assert (front["base_model"], front["license"]) == ("me/base", "cc-by-nc-sa-4.0")
        assert sha in card and f'name = "{repo_id}"' in card
    assert PeftConfig.from_pretrained("me/adapter").revision == sha
    tokenizer = AutoTokenizer.from_pretrained("me/merged")
    adapter, merged = AutoPeftModelForCausalLM.from_pretrained("me/adapter"), "me/merged"
    difference = logits(adapter, tokenizer) - logits(AutoModelForCausalLM.from_pretrained(merged), tokenizer)
    assert difference.abs().max() < 1e-5
