"""What users of every fine-tuning stack trip over, one by one: what happens here.

Those that are not below have their test elsewhere: see `ELSEWHERE`, which the last test here holds to what is there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from instruct_builders.errors import ConfigError, RowError, TemplateError

ROOT = Path(__file__).resolve().parents[2]
WORDS = "red green blue black white grey pink gold cyan lime teal plum".split()
ELSEWHERE = {
    "gradient accumulation changes the loss": "test_instruct_trainer.py::test_accumulation_makes_no_difference",
    "packed documents see each other": "test_instruct_trainer.py::test_packed_documents_do_not_see_each_other",
    "packing that mixes documents": "test_instruct_trainer.py::test_packing_that_mixes_documents_is_refused",
    "a packed run does not resume to the bit": "test_checkpoints.py::test_killed_and_resumed_is_bit_identical",
    "processes save or stop at different steps": "test_parallel.py::test_both_processes_wait_for_one_manifest",
    "markers leave the end of turn out": "test_supervision_rules.py::test_wrong_markers_are_told_and_put_right",
    "gradients on a 4-bit base": "test_models.py::test_lora_gradients_on_a_4bit_base_are_right_after_an_evaluation",
    "typed special tokens": "test_lengths.py::test_a_typed_end_of_turn_can_not_end_a_turn",
    "a merge that lost something": "test_models.py::test_a_merge_beyond_the_tolerance_writes_nothing",
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # PEFT 0.21 asks for the old name
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`"),  # PEFT says that it does what we want
]


def chat(*texts: str) -> dict:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]}


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def rows(tmp_path) -> Path:
    return write(tmp_path / "rows.jsonl", [chat(f"Say {word}.", f"{word}!") for word in WORDS])


def flags_of(model, data, output, flags: str) -> list[str]:
    base = f"--model_name_or_path {model} --dataset_name {data} --output_dir {output} --use_cpu --disable_tqdm"
    fixed = "--bf16 false --activation_checkpointing false --save_strategy no --logging_steps 100"
    return f"{base} {fixed} {flags}".split()


def train(model, data, output, flags: str) -> Path:
    import sft

    sft.main(flags_of(model, data, output, flags))
    return Path(output)


def checked(model, data, folder: Path, flags: str) -> tuple[int, dict]:
    """Exit code and report of recipes/check.py."""
    import check

    told = folder / "report.json"
    code = check.main(flags_of(model, data, folder / "run", f"{flags} --json {told}"))
    return code, json.loads(told.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def without_spare(tiny_llama, tmp_path_factory):
    """A base model whose only token to pad with is the one that ends a turn."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model") / "tiny-llama"
    shutil.copytree(tiny_llama(), folder)
    core = AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str().replace('"<pad>"', '"<first>"')
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(core), **names).save_pretrained(folder)
    return folder


# pad == eos; the base's EOS is not the template's end of turn.

STOPS = {"pad is eos": ("alpaca", "</s>"), "eos is not the end of turn": ("chatml", "<|im_end|>")}


@pytest.mark.parametrize("case", STOPS)
def test_the_trained_model_stops(case, tiny_llama, without_spare, rows, tmp_path):
    """Padded batches, then generation with nothing but what was saved: the answer, the end of turn, no more."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    template, end = STOPS[case]
    base = without_spare if case == "pad is eos" else tiny_llama(extra=("<|im_start|>", "<|im_end|>"))
    data = write(rows, [chat(f"Say {word}.", f"{word}!") for word in ("red", "black and white", "pink")])
    flags = f"--chat_template {template} --max_steps 80 --per_device_train_batch_size 3 --learning_rate 5e-3"
    final = train(base, data, tmp_path / "run", flags) / "final"
    tokenizer, model = AutoTokenizer.from_pretrained(final), AutoModelForCausalLM.from_pretrained(final)
    assert tokenizer.eos_token == end and (tokenizer.pad_token == end) == (case == "pad is eos")
    for word in ("red", "black and white"):
        prompt = tokenizer.apply_chat_template(
            chat(f"Say {word}.")["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        written = model.generate(**prompt, max_new_tokens=30, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        assert tokenizer.decode(written).strip() == f"{word}!{end}"


def test_an_end_of_turn_is_in_the_loss_and_the_padding_is_not(without_spare, tmp_path):
    """The batch itself, where both are the same token: one of them per row counts."""
    import datasets
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig

    from trainers import models, supervision
    from trainers.sft import InstructTrainer

    args = models.ModelArguments(model_name_or_path=str(without_spare), chat_template="alpaca")
    tokenizer, template, _ = models.load_tokenizer(args)
    data = datasets.Dataset.from_list([chat("Say red.", "red!"), chat("Say black.", "black and white and grey!")])
    config = SFTConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        per_device_train_batch_size=2,
    )
    trainer = InstructTrainer(
        AutoModelForCausalLM.from_pretrained(without_spare),
        config,
        supervision.prepare(data, tokenizer, template),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    eos = tokenizer.eos_token_id
    assert tokenizer.pad_token_id == eos
    assert sorted((batch["input_ids"] == eos).sum(1).tolist())[1] > 1  # the shorter row is padded
    assert (batch["labels"] == eos).sum(1).tolist() == [1, 1]


# Two BOS tokens.


def test_a_bos_that_is_in_the_data_already_is_found(tiny_llama, rows, tmp_path):
    """Ours print BOS once; text that was printed by another tool before brings its own."""
    more = [chat(f"Say {word}.", f"{word}!") for word in WORDS] + [chat("<s>Say mint.", "mint!")]
    data = write(rows, more)
    flags = "--chat_template vicuna_short --examples 0"
    code, told = checked(tiny_llama(), data, tmp_path, flags)
    assert code == 0 and told["bos"]["rows"] == {"1": 12}
    assert told["rows"]["control_token"] == 1 and told["left_out"]["control_token"][0]["row"] == 12
    code, told = checked(tiny_llama(), data, tmp_path, f"{flags} --special_tokens allow")
    assert code == 1 and told["bos"]["rows"] == {"1": 12, "2": 1}
    assert ("error", "BOS") in {(entry["severity"], entry["topic"]) for entry in told["problems"]}
    code, told = checked(tiny_llama(), data, tmp_path, f"{flags} --special_tokens escape")
    assert code == 0 and told["bos"]["rows"] == {"1": 13}


# A template without generation markers; prompts that are no token prefix.

PLAIN = (
    "{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def test_a_template_without_markers_never_gives_labels_of_nothing(tiny_llama, tiny_tokenizer, rows, tmp_path, capsys):
    """Labels are derived from what is printed; the recipes ask for markers before they load a model."""
    from trainers.supervision import supervise

    tokenizer = tiny_tokenizer()
    made = supervise(tokenizer, chat("Say red.", "*red!*", "And?", "[blue]")["messages"], PLAIN)
    learned = tokenizer.decode([label for label in made["labels"] if label != -100])
    assert learned.replace(" ", "") == "*red!*</s>[blue]</s>"
    with pytest.raises(TemplateError, match="rule 4"):  # nothing would ever end an answer
        supervise(tokenizer, chat("Say red.", "red!")["messages"], PLAIN.replace(" + eos_token", ""))
    path = tmp_path / "plain.jinja"
    path.write_text(PLAIN)
    with pytest.raises(TemplateError, match=r"no \{% generation %\} markers"):
        train(tiny_llama(), rows, tmp_path / "run", f"--chat_template {path}")
    with pytest.raises(FileNotFoundError):  # no report: it stops with a line
        checked(tiny_llama(), rows, tmp_path, f"--chat_template {path}")
    assert re.search(r"error: TemplateError: .*no \{% generation %\} markers", capsys.readouterr().out)


def test_a_prompt_that_is_no_token_prefix(tiny_tokenizer):
    """The text is tokenised once; the token that holds the prompt's blank too is counted and not learned."""
    from trainers.supervision import explain

    tokenizer, messages = tiny_tokenizer(), chat("Say it.", "the word loudly")["messages"]
    prompt = tokenizer.apply_chat_template(
        messages[:1], chat_template=PLAIN, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    found = explain(tokenizer, messages, PLAIN)
    assert found.input_ids[: len(prompt)] != prompt  # what a common prefix would be taken of
    assert found.text == "<s>user: Say it.</s>assistant: the word loudly</s>"
    assert found.input_ids == tokenizer(found.text, add_special_tokens=False)["input_ids"]
    assert found.straddling == 1
    assert tokenizer.decode([label for label in found.labels if label != -100]) == " word loudly</s>"


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


# Training on prompts.


def test_prompts_are_never_trained_on_unless_asked_for(tiny_llama, rows, tmp_path):
    """Of `messages`, where TRL's own default is a loss on every token."""
    flags = "--chat_template vicuna_short --examples 12 --test_size 0"
    code, told = checked(tiny_llama(), rows, tmp_path, flags)
    assert code == 0 and len(told["examples"]) == 12
    for example in told["examples"]:
        learned = "".join(token["text"] for token in example["tokens"] if token["trained"])
        assert learned.strip() == f"{WORDS[example['row']]}!</s>"
    assert not [entry for entry in told["problems"] if entry["topic"] == "loss"]
    code, told = checked(tiny_llama(), rows, tmp_path, f"{flags} --train_on_prompts")
    assert told["tokens"]["share"] == 1.0
    assert ("warning", "loss") in {(entry["severity"], entry["topic"]) for entry in told["problems"]}
    assert "Questions are trained on as well as answers" in told["short"]


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
        **{"cpu": "NO", "single_gpu": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}
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


@pytest.mark.parametrize("pitfall", ELSEWHERE)
def test_what_is_said_to_be_elsewhere_is_there(pitfall):
    file, name = ELSEWHERE[pitfall].split("::")
    assert f"def {name}(" in (Path(__file__).parent / file).read_text(encoding="utf-8")
