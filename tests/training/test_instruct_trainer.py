"""InstructTrainer against TRL's own: the same loss, rows used as they are, packing that stays apart, honest logs."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import datasets
import pytest

from instruct_builders.errors import ConfigError

sys.path.insert(0, str(Path(__file__).parent))
import small_runs

sys.path.pop(0)
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # PEFT 0.21


def peer(model, output, data, lora: bool = False, **options):
    """TRL's own trainer on the same rows."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        output_dir=str(output), **small_runs.QUIET | {"logging_steps": 1, "save_strategy": "no"} | options
    )
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    adapter = small_runs.adapter() if lora else None
    return SFTTrainer(model, config, train_dataset=data, processing_class=tokenizer, peft_config=adapter)


def history(trainer, *names: str) -> list[list[float]]:
    return [[log[name] for name in names] for log in trainer.state.log_history if "loss" in log]


def close(ours, theirs, tolerance: float = 1e-6) -> bool:
    pairs = [pair for left, right in zip(ours, theirs, strict=True) for pair in zip(left, right, strict=True)]
    return all(abs(left - right) <= tolerance * max(1, abs(right)) for left, right in pairs)


STEPS = {"max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-3}
LOGGED = ("loss", "grad_norm", "mean_token_accuracy", "entropy", "num_tokens")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"packing": True, "max_length": 64, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
        {"loss_type": "dft"},
        {"lora": True},
    ],
    ids=["padded", "accumulated", "packed", "dft", "lora"],
)
def test_the_loss_is_trl_s(tiny_llama, tmp_path, options):
    data = small_runs.rows()
    ours = small_runs.make_trainer(tiny_llama(), tmp_path / "a", data=data, **STEPS | options)
    ours.train()  # before the other is made: making one sets the seed that dropout draws from
    theirs = peer(tiny_llama(), tmp_path / "b", data, **STEPS | options)
    theirs.train()
    assert close(history(ours, *LOGGED), history(theirs, *LOGGED))
    assert len(history(ours)) == 3


@pytest.mark.parametrize("family", ["gemma2", "granite", "cohere"])
def test_models_that_scale_or_cap_their_logits(family, tiny_tokenizer, tmp_path):
    """What comes after the head is the model's own: soft caps, multipliers, divisors."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    from trainers.sft import InstructTrainer

    own = {
        "granite": {"logits_scaling": 3.0},
        "cohere": {"logit_scale": 0.25},
        "gemma2": {"final_logit_softcapping": 2.0},
    }
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    small = {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 400, "pad_token_id": 0, "eos_token_id": 2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **size, **small, **own[family]))
    model = model.to(torch.float32)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    batch, losses = None, []
    for kind in (SFTTrainer, InstructTrainer):
        config = SFTConfig(output_dir=str(tmp_path), per_device_train_batch_size=4, **small_runs.QUIET)
        trainer = kind(model, config, train_dataset=small_runs.rows(), processing_class=tiny_tokenizer())
        batch = batch or next(iter(trainer.get_train_dataloader()))
        model.zero_grad()
        loss = trainer.compute_loss(model, dict(batch))
        loss.backward()
        norm = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]).norm()
        losses.append([loss.item(), norm.item()])
    assert close(losses[1:], losses[:1], 2e-6)
    assert losses[0][0] > 1


def test_accumulation_makes_no_difference(tiny_llama, tmp_path):
    runs = []
    for batch, steps in ((8, 1), (2, 4)):
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps}
        runs.append(small_runs.make_trainer(tiny_llama(), tmp_path / str(batch), **STEPS | options))
        runs[-1].train()
    assert close(*(history(run, "loss", "grad_norm") for run in runs), 2e-6)


def test_a_batch_without_supervised_tokens_has_a_gradient_of_zero(tiny_llama, tmp_path):
    import torch

    trainer = small_runs.make_trainer(tiny_llama(), tmp_path)
    batch = {"input_ids": torch.ones(2, 5, dtype=torch.long), "labels": torch.full((2, 5), -100)}
    loss = trainer.compute_loss(trainer.model, batch | {"attention_mask": torch.ones(2, 5, dtype=torch.long)})
    loss.backward()
    assert loss.item() == 0
    assert all(weight.grad is None or not weight.grad.any() for weight in trainer.model.parameters())


def test_too_many_logits_are_scored_trl_s_way(tiny_llama, tmp_path, monkeypatch):
    from trainers import head

    plain = small_runs.make_trainer(tiny_llama(), tmp_path / "a", **STEPS)
    plain.train()
    monkeypatch.setattr(head, "PLAIN_LOGITS", 100)
    chunked = small_runs.make_trainer(tiny_llama(), tmp_path / "b", **STEPS)
    chunked.train()
    assert close(history(plain, *LOGGED), history(chunked, *LOGGED))


def test_generation_is_unchanged(tiny_llama, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.arange(3, 9)[None]
    trainer = small_runs.make_trainer(tiny_llama(), tmp_path)
    fresh = AutoModelForCausalLM.from_pretrained(tiny_llama())
    out = [m.eval().generate(ids, max_new_tokens=8, do_sample=False) for m in (trainer.model, fresh)]
    assert torch.equal(*out)


def test_the_loss_over_held_out_rows_is_a_mean_over_tokens(tiny_llama, tmp_path):
    found = []
    for batch in (1, 3, 32):
        trainer = small_runs.make_trainer(tiny_llama(), tmp_path, per_device_eval_batch_size=batch)
        found.append(trainer.evaluate(small_runs.rows())["eval_loss"])
    assert max(found) - min(found) < 1e-5


# Rows: used as they are, or refused.


def row(tokens: int, supervised: int) -> dict:
    return {"input_ids": [5] * tokens, "labels": [-100] * (tokens - supervised) + [5] * supervised}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            [row(9, 3), row(30, 3), row(40, 3)],
            r"2 of 3 train rows are longer than max_length 16 \(the first is row 1\)",
        ),
        ([row(9, 3), row(9, 0)], r"1 of 2 train rows have no token to train on \(the first is row 1\)"),
        (
            [row(9, 3), {"input_ids": [5, 6], "labels": [5, -100]}],
            "no token to train on",
        ),  # the first is never predicted
        ([row(9, 3), {"input_ids": [5, 6], "labels": [5]}], "train row 1: input_ids and labels differ in length"),
        ([{"text": "no ids"}], "label them first"),
    ],
)
@pytest.mark.parametrize("packing", [False, True])
def test_rows_that_trl_would_cut_or_drop_are_refused(tiny_llama, tmp_path, data, words, packing):
    with pytest.raises(ConfigError, match=words):
        small_runs.make_trainer(
            tiny_llama(), tmp_path, data=datasets.Dataset.from_list(data), max_length=16, packing=packing
        )


def test_rows_are_used_as_they_are(tiny_llama, tmp_path):
    data = small_runs.rows().add_column("messages", [[{"role": "user", "content": "x"}]] * 32)
    trainer = small_runs.make_trainer(tiny_llama(), tmp_path, data=data, max_length=40, assistant_only_loss=True)
    assert trainer.train_dataset is data


# Packing.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"packing": True, "packing_strategy": "wrapped"}, "'wrapped' lets documents see each other"),
        ({"eval_packing": True}, "eval_packing needs packing"),
    ],
)
def test_packing_that_mixes_documents_is_refused(tiny_llama, tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        small_runs.make_trainer(tiny_llama(), tmp_path, **options)


@pytest.mark.parametrize("attention", ["sdpa", "torch_varlen"])
def test_packed_documents_do_not_see_each_other(tiny_llama, tmp_path, attention):
    import torch

    from trainers import varlen

    varlen.register()
    data = small_runs.rows(6, longest=20)
    trainer = small_runs.make_trainer(tiny_llama(), tmp_path, data=data, packing=True, max_length=200)
    trainer.model.set_attn_implementation(attention)
    assert len(trainer.train_dataset) == 1
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        packed = trainer.model.eval()(**{key: value for key, value in batch.items() if key != "labels"}).logits[0]
        for start, end in itertools.pairwise(batch["cu_seq_lens_q"]):
            alone = trainer.model(batch["input_ids"][:, start:end]).logits[0]
            assert (packed[start:end] - alone).abs().max() < 1e-5
    everything = sorted(map(tuple, data["input_ids"]))
    ids, ends = batch["input_ids"][0], batch["cu_seq_lens_q"]
    assert sorted(tuple(ids[a:b].tolist()) for a, b in itertools.pairwise(ends)) == everything


def test_the_device_batch_is_right_for_the_kernel_and_the_loss_is_the_same(tiny_llama, tmp_path, caplog):
    packed = {"packing": True, "max_length": 64} | STEPS
    ours = small_runs.make_trainer(tiny_llama(), tmp_path / "a", **packed)
    assert (ours.args.per_device_train_batch_size, ours.args.gradient_accumulation_steps) == (1, 4)
    assert "device batch is 1 instead of 4 and gradient_accumulation_steps 4" in caplog.text
    theirs = peer(tiny_llama(), tmp_path / "b", small_runs.rows(), **packed)
    ours.train()
    theirs.train()
    assert close(history(ours, "loss", "grad_norm"), history(theirs, "loss", "grad_norm"), 2e-6)


VARYING = ["flash_attention_2", "kernels-community/flash-attn3", "flex_attention", "torch_varlen"]


@pytest.mark.parametrize("attention", VARYING)
def test_kernels_for_varying_lengths_keep_their_batch(attention):
    from types import SimpleNamespace

    from trainers.sft import settle_packing

    args = SimpleNamespace(
        packing=True,
        eval_packing=None,
        packing_strategy="bfd",
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        gradient_accumulation_steps=2,
    )
    settle_packing(args, SimpleNamespace(_attn_implementation=attention))
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (8, 2)


def test_shards_that_accelerate_leaves_out_are_refused(monkeypatch):
    from types import SimpleNamespace

    from trainers.sft import check_sharded

    trainer = SimpleNamespace(accelerator=SimpleNamespace(num_processes=2), is_fsdp_enabled=False)
    check_sharded(trainer)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match=r"shards nothing on this device.*ddp\.yaml"):
        check_sharded(trainer)


# Logs.


def test_speed_and_memory_are_logged(tiny_llama, tmp_path):
    import time

    options = STEPS | {"num_train_epochs": 1, "max_steps": -1, "logging_steps": 4}
    trainer = small_runs.make_trainer(tiny_llama(), tmp_path, **options)
    began = time.perf_counter()
    trainer.train()
    took = time.perf_counter() - began
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 2
    data = small_runs.rows()
    tokens = sum(map(len, data["input_ids"]))
    supervised = sum(label != -100 for labels in data["labels"] for label in labels)
    for log in logs:
        assert log["supervised_tokens_per_second"] < log["tokens_per_second"]
        assert 0.1 < log["peak_memory_gib"] < 64
        assert "mfu" not in log  # nobody states a CPU's peak
    # The two halves' tokens over their own speed can't take longer than the run did.
    fastest, slowest = (pick(log["tokens_per_second"] for log in logs) for pick in (max, min))
    assert tokens / fastest < took
    shares = [log["supervised_tokens_per_second"] / log["tokens_per_second"] for log in logs]
    assert min(shares) <= supervised / tokens <= max(shares) and slowest > 0


def test_the_share_of_the_peak_is_logged_where_the_peak_is_known(tiny_llama, tmp_path, monkeypatch):
    from trainers import throughput

    monkeypatch.setattr(throughput, "PEAKS", {"cpu": 1e-3})  # a device of 1 GFLOP/s
    options = STEPS | {"num_train_epochs": 1, "max_steps": -1, "logging_steps": 8}
    trainer = small_runs.make_trainer(tiny_llama(), tmp_path, **options)
    trainer.train()
    (log,) = (log for log in trainer.state.log_history if "loss" in log)
    data = small_runs.rows()
    lengths = [len(ids) for ids in data["input_ids"]]
    labelled = sum(label != -100 for labels in data["labels"] for label in labels[1:])
    a_token, a_score, a_square = throughput.operations(trainer.model)
    seconds = sum(lengths) / log["tokens_per_second"]
    done = a_token * sum(lengths) + a_score * labelled + a_square * sum(length**2 for length in lengths)
    assert log["mfu"] == pytest.approx(done / seconds / 1e9, rel=1e-3)
