"""The trainer for encoder-decoders on a tiny T5: the loss of a step, evaluation, the head, exact resuming."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from instruct_builders.errors import ConfigError, SourceError
from trainers import checkpoints, expected_warnings, seq2seq_models, seq2seq_release
from trainers.evaluation.task_metrics import References
from trainers.seq2seq import GroupedByLength, Seq2SeqInstructTrainer
from trainers.seq2seq_models import Seq2SeqArguments

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
sys.path.append(str(RECIPES / "quickstart"))
WORDS = "red green blue black white grey pink gold cyan lime teal plum".split()
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # PEFT 0.21 asks for the old name
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    import tiny_t5

    folder = tmp_path_factory.mktemp("model") / "tiny-t5"
    tiny_t5.make(folder, [*WORDS, "Say it twice"] * 3, vocab_size=120, d_model=32)
    return folder


def rows(number: int = 12, seed: int = 0) -> Dataset:
    """Random tokens of random lengths, each ended by an EOS."""
    draw, made = random.Random(seed), []
    for _ in range(number):
        ids = [[draw.randrange(3, 80) for _ in range(draw.randint(2, 14))] + [1] for _ in range(2)]
        made.append({"input_ids": ids[0], "labels": ids[1], "length": len(ids[0]) + len(ids[1])})
    return Dataset.from_list(made)


def make(tiny: Path, output: Path, data=None, evaluated=None, held=None, lora: bool = False, dropout=None, **options):
    args = Seq2SeqArguments(model_name_or_path=str(tiny), use_peft=lora, lora_r=4)
    tokenizer = seq2seq_models.load_tokenizer(args)
    model, _ = seq2seq_models.load_model(args, tokenizer, use_cpu=True)
    fixed = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no"}
    return Seq2SeqInstructTrainer(
        model,
        Seq2SeqTrainingArguments(output_dir=str(output), **fixed | options),
        rows() if data is None else data,
        evaluated,
        processing_class=tokenizer,
        held=held,
        max_target_length=16,
        peft_config=seq2seq_models.lora_config(args),
    )


def gradient_and_loss(trainer) -> tuple[float, float]:
    trainer.model.config.dropout_rate = 0.0
    for part in trainer.model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        elif hasattr(part, "dropout") and isinstance(part.dropout, float):
            part.dropout = 0.0
    trainer.train()
    (log,) = [log for log in trainer.state.log_history if "grad_norm" in log]
    return log["grad_norm"], log["loss"]


def test_accumulated_batches_are_one_large_batch(tiny, tmp_path):
    found = [
        gradient_and_loss(
            make(tiny, tmp_path, max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=12 // size)
        )
        for size in (12, 4, 1)
    ]
    assert all(one == pytest.approx(found[0], rel=1e-5) for one in found[1:])


def test_the_plain_trainer_gets_it_wrong(tiny, tmp_path):
    """Should this fail after an upgrade, the loss of its own in seq2seq.py may be needed no more."""
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    found = []
    for size in (12, 1):
        model = AutoModelForSeq2SeqLM.from_pretrained(tiny)
        options = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1, "max_steps": 1}
        args = Seq2SeqTrainingArguments(
            output_dir=str(tmp_path),
            save_strategy="no",
            per_device_train_batch_size=size,
            gradient_accumulation_steps=12 // size,
            **options,
        )
        collator = DataCollatorForSeq2Seq(tokenizer, model=model)
        found.append(gradient_and_loss(Seq2SeqTrainer(model, args, collator, rows(), processing_class=tokenizer)))
    assert found[1][1] / found[0][1] > 10  # 12 accumulated batches of which none is divided by 12


def test_eval_loss_does_not_depend_on_the_batch(tiny, tmp_path):
    found = [
        make(tiny, tmp_path, evaluated=rows(7, 1), per_device_eval_batch_size=size).evaluate()["eval_loss"]
        for size in (1, 2, 7)
    ]
    assert all(one == pytest.approx(found[0], rel=1e-5) for one in found[1:])


@pytest.mark.parametrize("lora", [False, True])
def test_written_answers_are_scored_and_the_models_settings_stay(tiny, tmp_path, lora):
    held = References([["x"]] * 5, ["accuracy"] * 3 + ["rouge"] * 2, ["a", "a", "b", "c", ""])
    trainer = make(tiny, tmp_path, None, rows(5, 1), held, lora, predict_with_generate=True)
    before = trainer.base.generation_config.to_json_string(use_diff=False)
    found = trainer.evaluate()
    assert {"eval_accuracy", "eval_accuracy/a", "eval_accuracy/b", "eval_rougeL/c", "eval_score"} <= found.keys()
    assert trainer.base.generation_config.to_json_string(use_diff=False) == before
    seq2seq_release.save(trainer, tmp_path / "final")
    saved = json.loads((tmp_path / "final" / "generation_config.json").read_text())
    assert saved["max_new_tokens"] == 16 and saved["decoder_start_token_id"] == 0 and "max_length" not in saved


def logits(model) -> torch.Tensor:
    ids = torch.tensor([[5, 6, 7, 1]])
    with torch.no_grad():
        return model.eval()(input_ids=ids, labels=ids).logits


def test_a_head_of_its_own_is_loaded_without_a_warning(tiny, caplog, monkeypatch):
    """The plain class warns each time; should it not do so any more, expected_warnings.py has one too many."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    seq2seq_models.from_pretrained(str(tiny))
    assert not caplog.messages
    AutoModelForSeq2SeqLM.from_pretrained(tiny)
    assert set(caplog.messages) == {expected_warnings.TIED}


def test_the_head_stays_its_own_weight(tiny, tmp_path):
    args = Seq2SeqArguments(model_name_or_path=str(tiny))
    tokenizer = seq2seq_models.load_tokenizer(args)
    model, _ = seq2seq_models.load_model(args, tokenizer)
    stored = json.loads((tiny / "config.json").read_text())
    assert stored["tie_word_embeddings"] is False and model.config.scale_decoder_outputs is False  # as google's say
    assert not torch.equal(model.lm_head.weight, model.shared.weight)
    before = logits(model)
    model.tie_weights()  # what the trainer does when it loads the best checkpoint
    assert torch.equal(logits(model), before)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "again")), before)
    plain = AutoModelForSeq2SeqLM.from_pretrained(tiny)
    plain.tie_weights()  # what would be the case without `from_pretrained` of ours
    assert not torch.allclose(logits(plain), before)


def test_a_tied_scaled_head_stays_tied_and_scaled(tiny, tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=128, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, decoder_start_token_id=0)
    first = T5ForConditionalGeneration(config)
    first.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path)
    args = Seq2SeqArguments(model_name_or_path=str(tmp_path))
    model, _ = seq2seq_models.load_model(args, seq2seq_models.load_tokenizer(args))
    assert model.config.tie_word_embeddings and model.config.scale_decoder_outputs
    assert model.lm_head.weight is model.shared.weight and torch.equal(logits(model), logits(first))


def test_groups_have_an_order_for_every_epoch():
    lengths = np.random.Generator(np.random.PCG64(0)).integers(1, 100, 400).tolist()
    one, other = GroupedByLength(lengths, 4, seed=3), GroupedByLength(lengths, 4, seed=3)
    first, second = list(one), list(other)
    assert first == second == list(one) and sorted(first) == list(range(400))
    other.set_epoch(1)
    assert list(other) != first
    batches = np.asarray([lengths[place] for place in first]).reshape(-1, 4)
    assert np.ptp(batches, axis=1).mean() < np.ptp(np.asarray(lengths).reshape(-1, 4), axis=1).mean() / 4


def flan_t5(*flags: str):
    import flan_t5 as recipe

    return recipe.main([word for flag in flags for word in flag.split()])


@pytest.mark.slow
def test_killed_and_resumed_is_bit_identical_with_lora_and_groups(tiny, tmp_path):
    """Killed at any moment after the second checkpoint, in the second epoch or later."""
    data = tmp_path / "rows.jsonl"
    draw = random.Random(0)
    said = [" ".join(draw.choices(WORDS, k=draw.randint(1, 9))) for _ in range(48)]
    data.write_text("".join(json.dumps({"prompt": text, "completion": text[::-1]}) + "\n" for text in said))
    fixed = (
        f"--model_name_or_path {tiny} --dataset_name {data} --use_cpu --disable_tqdm --use_peft --lora_dropout 0.1 "
    )
    fixed += "--max_steps 100 --save_steps 10 --per_device_train_batch_size 4 --learning_rate 1e-2 "
    fixed += (
        "--logging_steps 10 --train_sampling_strategy group_by_length --save_total_limit 3 --unknown_answers keep "
    )
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    flan_t5(fixed, f"--output_dir {straight}")
    command = [sys.executable, str(RECIPES / "flan_t5.py"), *fixed.split(), "--output_dir", str(killed)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    while not (killed / "checkpoint-20" / checkpoints.MANIFEST).is_file():
        assert process.poll() is None, process.stderr.read()[-2000:].decode()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    process.stderr.close()
    assert not (killed / "final").exists()
    flan_t5(fixed, f"--output_dir {killed} --resume_from_checkpoint true")
    weights = [(folder / "final" / "adapter_model.safetensors").read_bytes() for folder in (straight, killed)]
    assert weights[0] == weights[1]
    states = [json.loads((one / "checkpoint-100" / "trainer_state.json").read_text()) for one in (straight, killed)]
    losses = [[log["loss"] for log in state["log_history"] if "loss" in log] for state in states]
    assert losses[0] == losses[1] and len(set(losses[0])) == 10


def test_a_decoder_only_model_is_sent_to_the_other_recipe(tiny_llama):
    args = Seq2SeqArguments(model_name_or_path=str(tiny_llama()))
    with pytest.raises(ConfigError, match=r"is a llama, no encoder-decoder.*recipes/sft\.py"):
        seq2seq_models.load_config(args, Seq2SeqTrainingArguments(use_cpu=True))
    with pytest.raises(SourceError, match="no model in 'nowhere'"):
        seq2seq_models.load_config(Seq2SeqArguments(model_name_or_path="nowhere"), Seq2SeqTrainingArguments())


def test_float16_is_refused_for_t5(tiny):
    args = Seq2SeqArguments(model_name_or_path=str(tiny), dtype="float16")
    with pytest.raises(ConfigError, match="fp16: T5 was trained in bfloat16"):
        seq2seq_models.load_config(args, Seq2SeqTrainingArguments(use_cpu=True))


def test_targets_are_checked_before_weights_are_loaded(tiny):
    args = Seq2SeqArguments(model_name_or_path=str(tiny), use_peft=True, lora_target_modules=["q", "q_proj"])
    config = seq2seq_models.load_config(args, Seq2SeqTrainingArguments(use_cpu=True))
    with pytest.raises(ConfigError, match=r"'q_proj' is no layer of the model\. Allowed: all-linear, or .* k, o, q"):
        seq2seq_models.check_targets(args, config)
