"""What users of every fine-tuning stack trip over, one by one: what happens here. This file: labels and stops.

Rows, keys and splits are in test_pitfalls_rows.py, adapters and several GPUs in test_pitfalls_adapters.py. Those in no
file of these have their test elsewhere: see `ELSEWHERE`, which the last test here holds to what is there.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from instruct_builders.errors import TemplateError

sys.path.insert(0, str(Path(__file__).parent))
from pitfall_runs import WORDS, chat, checked, train, write

sys.path.pop(0)
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
]


@pytest.fixture
def rows(tmp_path) -> Path:
    return write(tmp_path / "rows.jsonl", [chat(f"Say {word}.", f"{word}!") for word in WORDS])


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


BARE = PLAIN.replace("': ' + m.content", "':' + m.content").replace(
    "'assistant: '", "'assistant:'"
)  # ends with a token


@pytest.mark.parametrize("whose", ["a file", "the model's own"])
def test_a_template_without_markers_is_trained_with_and_never_gives_labels_of_nothing(
    whose, tiny_llama, rows, tmp_path, monkeypatch
):
    """Labels are derived from what is printed: answers and their ends, which is what the model writes then."""
    import sft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = shutil.copytree(tiny_llama(), tmp_path / "tiny-llama")
    path = (tmp_path if whose == "a file" else base) / "chat_template.jinja"
    path.write_text(BARE)
    seen, trainer = [], sft.InstructTrainer
    monkeypatch.setattr(sft, "InstructTrainer", lambda **given: seen.append(given) or trainer(**given))
    words = ("red", "black and white", "pink")
    data = write(rows, [chat(f"Say {word}.", f"{word}!", "And?", "No.") for word in words])
    flags = "--max_steps 80 --per_device_train_batch_size 3 --learning_rate 5e-3 --chat_template"
    final = train(base, data, tmp_path / "run", f"{flags} {path if whose == 'a file' else 'model'}") / "final"
    tokenizer, model = AutoTokenizer.from_pretrained(final), AutoModelForCausalLM.from_pretrained(final)
    learned = [[label for label in row["labels"] if label != -100] for row in seen[0]["train_dataset"]]
    assert list(map(tokenizer.decode, learned)) == [f"{word}!</s>No.</s>" for word in words]
    assert json.loads((final / "generation_config.json").read_text())["eos_token_id"] == tokenizer.eos_token_id == 2
    assert tokenizer.chat_template == BARE
    prompt = tokenizer.apply_chat_template(
        chat("Say black and white.")["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    written = model.generate(**prompt, max_new_tokens=30, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(written) == "black and white!</s>"


@pytest.mark.parametrize("recipe", ["sft", "check"])
def test_a_template_that_nothing_ends_an_answer_of_is_refused(recipe, tiny_llama, rows, tmp_path, capsys):
    """With the rule and a conversation that shows it, before there is any training."""
    path = tmp_path / "endless.jinja"
    path.write_text(BARE.replace(" + eos_token", ""))
    says = r"endless\.jinja' can't be trained with: .*rule 4 .*Shortest conversation"
    if recipe == "sft":
        with pytest.raises(TemplateError, match=says):
            train(tiny_llama(), rows, tmp_path / "run", f"--chat_template {path}")
    else:
        with pytest.raises(FileNotFoundError):  # no report: it stops with a line
            checked(tiny_llama(), rows, tmp_path, f"--chat_template {path}")
        assert re.search(f"error: .*{says}", capsys.readouterr().out)
    assert not (tmp_path / "run").exists()


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


@pytest.mark.parametrize("pitfall", ELSEWHERE)
def test_what_is_said_to_be_elsewhere_is_there(pitfall):
    file, name = ELSEWHERE[pitfall].split("::")
    assert f"def {name}(" in (Path(__file__).parent / file).read_text(encoding="utf-8")
