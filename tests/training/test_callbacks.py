"""Sample answers after each evaluation: fixed prompts, a table, a file, the tracker, and training as it was."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from trainers import callbacks

sys.path.insert(0, str(Path(__file__).parent))
import small_runs

sys.path.pop(0)
OPTIONS = {"max_steps": 4, "per_device_train_batch_size": 4, "eval_strategy": "steps", "eval_steps": 2}


def trained(model, output, samples: bool, **options):
    import torch

    held_out = small_runs.rows(4, seed=1)
    trainer = small_runs.make_trainer(model, output, learning_rate=1e-2, eval_data=held_out, **OPTIONS | options)
    if samples:
        prompts = callbacks.first_prompts(trainer.eval_dataset, trainer.processing_class, 2)
        trainer.add_callback(callbacks.SampleGenerations(trainer.processing_class, prompts, max_new_tokens=5))
    trainer.train()
    return torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()]), trainer


def test_answers_are_kept_and_training_is_not_disturbed(tiny_llama, tmp_path, caplog):
    import torch

    with caplog.at_level("INFO", "trainers.callbacks"):
        sampled, trainer = trained(tiny_llama(), tmp_path / "a", True, report_to=["tensorboard"])
        trainer.evaluate()  # as recipes/sft.py does at the end: the same weights are not asked twice
    plain, _ = trained(tiny_llama(), tmp_path / "b", False)
    assert torch.equal(sampled, plain)
    lines = [json.loads(line) for line in (tmp_path / "a" / "samples.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 2, 4, 4]
    rows = trainer.eval_dataset
    start = len(rows[0]["input_ids"]) // 3
    assert lines[0]["prompt"] == lines[2]["prompt"] == trainer.processing_class.decode(rows[0]["input_ids"][:start])
    assert lines[0]["expected"] == trainer.processing_class.decode(rows[0]["input_ids"][start:])
    assert "| step | prompt | answer | expected |" in caplog.text
    texts = events(tmp_path / "a" / "runs")
    assert texts["samples/text_summary"][-1] == (4, callbacks.table(lines[2:]))


def events(folder: Path) -> dict[str, list[tuple[int, str]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for path in {file.parent for file in folder.rglob("events.*")}:
        reader = EventAccumulator(str(path)).Reload()
        for tag in reader.Tags()["tensors"]:
            found[tag] = [(e.step, e.tensor_proto.string_val[0].decode()) for e in reader.Tensors(tag)]
    return found


def test_a_resumed_run_writes_no_answer_twice(tiny_tokenizer, tmp_path):
    from types import SimpleNamespace

    path = tmp_path / "samples.jsonl"
    path.write_text('{"step": 2}\n{"step": 4}\n{"step": 6}\n{"st', encoding="utf-8")
    sampler = callbacks.SampleGenerations(tiny_tokenizer(), [])
    state = SimpleNamespace(is_world_process_zero=True, global_step=4)
    sampler.on_train_begin(SimpleNamespace(output_dir=str(tmp_path)), state, None)
    assert path.read_text() == '{"step": 2}\n{"step": 4}\n'


def test_prompts_of_rows_and_of_conversations(tiny_tokenizer):
    import datasets

    tokenizer = tiny_tokenizer()
    rows = [
        {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, 7, -100, 9]},
        {"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]},  # everything is supervised: half of it is the prompt
    ]
    made = callbacks.first_prompts(datasets.Dataset.from_list(rows), tokenizer, 9)
    assert [prompt["input_ids"] for prompt in made] == [[5, 6], [5, 6]]
    assert [prompt["expected"] for prompt in made] == [tokenizer.decode([7]), tokenizer.decode([7, 8])]
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )
    (prompt,) = callbacks.chat_prompts([[{"role": "user", "content": "Red?"}]], tokenizer, template)
    assert tokenizer.decode(prompt["input_ids"]) == "user: Red?\nA:"


def test_a_cell_stays_in_its_cell():
    row = {"step": 1, "prompt": "a|b\nc", "answer": "x" * 10, "expected": None}
    assert callbacks.table([row], 6).splitlines()[-1] == "| 1 | a\\|b\\nc | xxxxxx... |  |"


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_tables_go_to_the_trackers(name, monkeypatch):
    """The clients are not installed here: a stand-in takes the calls that their documentation gives."""
    from types import SimpleNamespace

    logged = []
    stand_in = SimpleNamespace(log=logged.append, Table=lambda **table: table)
    monkeypatch.setitem(sys.modules, name, stand_in)
    callbacks.TRACKERS[name](None, [{"step": 1, "prompt": "p", "answer": "a", "expected": "e"}])
    table = logged[0]["samples"]
    values = table["data"] if name == "wandb" else table["dataframe"].values.tolist()
    assert values == [[1, "p", "a", "e"]]
