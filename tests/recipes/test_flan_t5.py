"""recipes/flan_t5.py end to end on a tiny T5: it learns, merges, answers, reports, and refuses what can't be right."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import flan_t5
import pytest
import yaml

from instruct_builders.errors import ConfigError, SourceError
from instruct_builders.sources import BUNDLED
from trainers import seq2seq_predict

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
sys.path.append(str(RECIPES / "quickstart"))
PAIRS = [json.loads(line) for line in (BUNDLED / "quickstart_pairs.jsonl").read_text(encoding="utf-8").splitlines()]
FIXED = "--use_cpu --disable_tqdm --save_strategy no --per_device_train_batch_size 8 --lr_scheduler_type cosine"
pytestmark = [
    pytest.mark.xdist_group("flan_t5"),  # one worker: what the module sets up is dear
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # PEFT 0.21 asks for the old name
]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def run(*flags) -> int:
    return flan_t5.main([word for flag in flags for word in (flag.split() if isinstance(flag, str) else [str(flag)])])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    import tiny_t5

    folder = tmp_path_factory.mktemp("model") / "tiny-t5"
    tiny_t5.make(folder, [text for row in PAIRS[:100] for text in row.values()], d_model=128, dropout_rate=0.0)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "rows.jsonl", PAIRS[:24])


@pytest.mark.slow
def test_from_a_built_dataset_to_answers_that_are_exactly_right(tiny, tmp_path, capsys):
    """All weights on 60 rows, then an adapter on 40 others, merged and asked; the cards' snippets are run."""
    import build

    for name, some in (("first", PAIRS[:60]), ("second", PAIRS[60:100])):
        raw = write(tmp_path / f"{name}.jsonl", some)
        build.main(["--builder", "alpaca", "--data_files", str(raw), "--output_dir", str(tmp_path / name)])
    common = f"{FIXED} --dataset_test_split train --predict_with_generate --logging_strategy no --max_target_length 40"
    base, lora = tmp_path / "base", tmp_path / "lora"
    run(common, f"--model_name_or_path {tiny} --dataset_name {tmp_path / 'first'} --output_dir {base}",
        "--num_train_epochs 35 --learning_rate 3e-3")  # fmt: skip
    said = capsys.readouterr().out
    assert "exact_match: 100.0" in said and "error: 60 of 60 test rows (100.0%) are trained on, such as rows" in said
    run(common, f"--model_name_or_path {base / 'final'} --dataset_name {tmp_path / 'second'} --output_dir {lora}",
        "--num_train_epochs 40 --learning_rate 5e-3 --use_peft --lora_dropout 0 --merge")  # fmt: skip
    said = capsys.readouterr().out
    assert "exact_match: 100.0" in said and "largest difference of merged logits:" in said

    asked = [" ".join([row["instruction"], row["input"]]) for row in PAIRS[60:100]]
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": text} for text in asked])
    run(f"--model_name_or_path {lora / 'merged'} --predict {prompts} --predictions {tmp_path / 'answers.jsonl'}")
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [answer["index"] for answer in answers] == list(range(40))
    assert sum(a["answer"] == row["output"] for a, row in zip(answers, PAIRS[60:100], strict=True)) == 40
    assert not any(answer["cut"] or answer["input_cut"] for answer in answers)

    for folder, kind in ((lora / "final", "AutoPeftModelForSeq2SeqLM"), (lora / "merged", "AutoModelForSeq2SeqLM")):
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert str(tmp_path) not in card and kind in card and "| exact_match | 100.0 |" in card
        assert yaml.safe_load(card.split("---")[1])["tags"][:2] == ["sft", "text2text-generation"]
        snippet = card.split("```python\n")[1].split("```")[0].replace("path/to/this/folder", str(folder))
        question = PAIRS[60]["instruction"] + " " + PAIRS[60]["input"]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(
                compile(snippet.replace("Give three tips for staying healthy.", question.strip()), "card", "exec"), {}
            )
        assert printed.getvalue().strip() == PAIRS[60]["output"]


WAYS = {
    "full": "",
    "lora": "--use_peft --merge",
    "dora": "--use_peft --use_dora --merge",
    "targets": "--use_peft --lora_target_modules q v --merge",
    "checkpointing": "--use_peft --activation_checkpointing --merge",
    "int8": "--use_peft --load_in_8bit --merge",
    "int8_bf16": "--use_peft --load_in_8bit --dtype bfloat16 --bf16 --merge",
    "bf16": "--dtype bfloat16",
    "beams": "--predict_with_generate --generation_num_beams 2",
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_trains_saves_and_merges(way, tiny, rows, tmp_path, capsys):
    import torch
    from safetensors.torch import load_file

    out = tmp_path / "run"
    run(f"{FIXED} --model_name_or_path {tiny} --dataset_name {rows} --output_dir {out} --max_steps 3 --test_size 4",
        "--learning_rate 1e-2", WAYS[way])  # fmt: skip
    said = capsys.readouterr().out
    assert "rows: 24 in, 24 used (whole 24); 20 to train on, 4 held out" in said
    assert "end of answer '</s>': learned in 20 of 20 answers" in said
    assert not [*out.rglob("*.bin"), *(out / "final").glob("*.pt")]
    if "peft" in WAYS[way]:
        weights = load_file(out / "final" / "adapter_model.safetensors")
        moved = [weight for name, weight in weights.items() if "lora_B" in name]  # zero before the first step
        assert moved and all(weight.abs().sum() > 0 for weight in moved)
        assert {name.split(".")[-3] for name in weights if "lora_B" in name} == (
            {"q", "v"} if way == "targets" else {"q", "k", "v", "o", "wi_0", "wi_1", "wo"}
        )
        assert (out / "merged" / "model.safetensors").is_file()
    else:
        before, after = load_file(tiny / "model.safetensors"), load_file(out / "final" / "model.safetensors")
        assert before.keys() == after.keys()
        changed = [not torch.equal(before[name].float(), after[name].float()) for name in before]
        assert all(changed)


def test_check_reports_and_ends_with_1_where_something_would_go_wrong(tiny, rows, tmp_path, capsys):
    good = f"--model_name_or_path {tiny} --dataset_name {rows} --output_dir {tmp_path / 'o'} --check --test_size 4"
    assert run(good.replace(str(rows), str(rows.with_name("rowss.jsonl")))) == 1
    assert "error: dataset_name: there is no folder or file" in capsys.readouterr().out
    assert run(good.replace(f"--output_dir {tmp_path / 'o'}", "")) == 1
    assert "error: output_dir: not given" in capsys.readouterr().out
    assert run(good) == 0
    said = capsys.readouterr().out
    assert "encoder tokens: p50 " in said and "decoder tokens: p50 " in said and "padding " in said
    assert "memory, full (this run): " in said and "memory, LoRA: " in said
    assert "unknown tokens: 0 in 0 inputs, 0 in 0 answers" in said
    assert "with line breaks. The model can't tell lines apart." in said
    assert said.endswith("this run can start\n")
    assert not (tmp_path / "o").exists()
    assert run(good, "--max_target_length 8") == 1
    assert "answers longer than max_target_length 8" in capsys.readouterr().out
    assert run(good, "--max_target_length 8 --overlength drop") == 0
    assert "too_long" in capsys.readouterr().out
    assert run(good, "--device_memory_gb 0.001") == 1
    assert "error: A step takes about" in capsys.readouterr().out


def test_check_names_what_the_vocabulary_lacks(tiny, tmp_path, capsys):
    data = write(tmp_path / "rows.jsonl", [*PAIRS[:8], {"instruction": "Say {}.", "input": "", "output": "{x}\\"}])
    assert run(f"--model_name_or_path {tiny} --dataset_name {data} --output_dir {tmp_path / 'o'} --check") == 1
    said = capsys.readouterr().out
    assert "error: 1 answers have text that the vocabulary can't express" in said and "'{' 2x" in said
    assert "warning: 1 inputs have text that the vocabulary can't express" in said


def test_memory_is_what_a_step_takes(tiny, rows, tmp_path):
    """Weights, gradients and optimizer are known to the byte."""
    from trainers import seq2seq_preflight

    given = f"--model_name_or_path {tiny} --dataset_name {rows} --output_dir {tmp_path / 'o'} --check"
    found = seq2seq_preflight.begin(*flan_t5.read_arguments(given.split())).found["memory"]
    from transformers import AutoModelForSeq2SeqLM

    numbers = AutoModelForSeq2SeqLM.from_pretrained(tiny).num_parameters()
    full = found["ways"]["full"]
    assert (full["weights"], full["optimizer"], full["trainable"]) == (4 * numbers, 8 * numbers, numbers)
    assert found["ways"]["LoRA"]["optimizer"] < full["optimizer"] / 4


BAD = {
    "--max_length 40": (ConfigError, "max_length: unknown key.*Did you mean"),
    "--fp16": (ConfigError, "fp16: T5 was trained in bfloat16"),
    "--label_smoothing_factor 0.1": (ConfigError, "label_smoothing_factor: not taken by this recipe"),
    "--metric rogue": (ConfigError, "Did you mean 'rouge'"),
    "--overlength split": (ConfigError, "not for encoder-decoders"),
    "--merge": (ConfigError, "merge: true without use_peft"),
    "--load_in_8bit": (ConfigError, "set use_peft: true"),
    "--max_target_length 5": (ConfigError, "rows: too_long; the first, row 0: target .* 5 allowed"),
    "--use_peft --lora_target_modules q_proj": (ConfigError, "'q_proj' is no layer"),
    "--metric_for_best_model exact_match --test_size 2": (ConfigError, "only eval_loss is there without"),
}


@pytest.mark.parametrize("flags", BAD)
def test_what_can_not_be_right_is_refused(flags, tiny, rows, tmp_path):
    error, message = BAD[flags]
    with pytest.raises(error, match=message):
        run(f"{FIXED} --model_name_or_path {tiny} --dataset_name {rows} --output_dir {tmp_path / 'o'}", flags)
    assert not (tmp_path / "o").exists()


def test_an_adapter_is_told_from_a_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is an adapter and no model"):
        flan_t5.main(["--model_name_or_path", str(tmp_path), "--predict", "Hello?", "--use_cpu"])


def test_data_without_answers_is_refused(tiny, tmp_path):
    for content, message in (({"text": "a"}, "plain text"), ({"x": "a"}, "no format that is known")):
        data = write(tmp_path / "rows.jsonl", [content])
        with pytest.raises(SourceError, match=message):
            run(f"{FIXED} --model_name_or_path {tiny} --dataset_name {data} --output_dir {tmp_path / 'o'}")
    with pytest.raises(ConfigError, match=r"dataset_name: nothing given.*--predict"):
        run(f"{FIXED} --model_name_or_path {tiny} --output_dir {tmp_path / 'o'}")


def test_one_prompt_is_answered_on_the_spot(tiny, capsys):
    assert (
        flan_t5.main(["--model_name_or_path", str(tiny), "--predict", "Name a bird {.", "--max_target_length", "6"])
        == 0
    )
    line = json.loads(capsys.readouterr().out)
    assert line["prompt"] == "Name a bird {." and line["model"] == str(tiny) and isinstance(line["answer"], str)
    assert line["cut"] is True and line["unknown_tokens"] == 1 and line["input_cut"] is False
    assert line["settings"] == {"max_new_tokens": 6, "num_beams": 1, "dtype": "float32", "quantized": None}


def test_one_prompt_is_one_prompt():
    line = {"input_cut": False, "cut": True, "unknown_tokens": 1, "answer": "a"}
    said = seq2seq_predict.summary([line], 6)
    assert said.startswith("1 prompt: ") and "1 answer cut at" in said and "1 prompt with text" in said
    assert seq2seq_predict.summary([line] * 2, 6).startswith("2 prompts: ")


def test_prompts_that_are_too_long_are_counted_and_marked(tiny, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Name a bird.\n\nWhich bird is the largest in the world?\n", encoding="utf-8")
    given = f"--model_name_or_path {tiny} --predict {prompts} --max_source_length 6 --max_target_length 4"
    with pytest.raises(ConfigError, match=r"1 of 2 prompts are longer than max_source_length 6 .*number 2"):
        run(given)
    run(given, "--overlength drop")
    kept, left = map(json.loads, capsys.readouterr().out.splitlines())
    assert kept["answer"] is not None and left["answer"] is None and left["input_tokens"] > 6
    run(given, "--overlength truncate_tokens")
    out = capsys.readouterr()
    lines = list(map(json.loads, out.out.splitlines()))
    assert [line["input_cut"] for line in lines] == [False, True] and lines[1]["answer"] is not None
    assert "2 prompts: 0 too long and not answered, 1 cut before they were read" in out.err


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("p.jsonl", '{"prompt": "a"}\n{"x": 1}\n', r"p.jsonl:2 has no prompt"),
        ("p.jsonl", '{"prompt": "a"\n', r"p.jsonl:1 is not JSON"),
        ("p.txt", "\n\n", "has no prompts"),
        ("p.txt", None, "can't read"),
    ],
)
def test_files_without_prompts_are_refused(name, content, message, tiny, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=message):
        run(f"--model_name_or_path {tiny} --predict {tmp_path / name}")


@pytest.mark.slow
def test_killed_while_it_answers_it_goes_on_where_it_was(tiny, tmp_path, capsys):
    asked = [{"prompt": f"{row['instruction']} {row['input']}"} for row in PAIRS[:80]]
    prompts = write(tmp_path / "prompts.jsonl", asked)
    given = f"--model_name_or_path {tiny} --predict {prompts} --max_target_length 24 --per_device_eval_batch_size 2"
    target, part = tmp_path / "answers.jsonl", tmp_path / "answers.jsonl.part"
    command = [sys.executable, str(RECIPES / "flan_t5.py"), *given.split(), "--predictions", str(target)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not part.is_file() or part.read_bytes().count(b"\n") < 9:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    done = part.read_bytes().count(b"\n") - 1
    assert 8 <= done < len(asked) and not target.exists()
    with part.open("ab") as file:
        file.write(b'{"index": 3, "prom')  # a line that the kill tore
    with pytest.raises(ConfigError, match="answers to other prompts, of another model or with other settings"):
        run(given, f"--predictions {target} --generation_num_beams 2")
    capsys.readouterr()
    run(given, f"--predictions {target}")
    assert capsys.readouterr().err.startswith(f"{done + 2:,} of {len(asked):,} prompts answered")
    assert not part.exists()
    other = tmp_path / "straight.jsonl"
    run(given, f"--predictions {other}")
    lines, straight = ([json.loads(line) for line in path.read_text().splitlines()] for path in (target, other))
    assert [line["index"] for line in lines] == list(range(len(asked)))
    assert [line["answer"] for line in lines] == [line["answer"] for line in straight]
    with pytest.raises(ConfigError, match="is there already"):
        run(given, f"--predictions {target}")


def test_adapter_and_merged_model_go_to_the_hub_and_come_back(hub, tiny, rows, tmp_path, capsys):
    from huggingface_hub import HfApi
    from peft import PeftConfig
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    api = HfApi()
    api.create_repo("me/base", private=True)
    api.upload_folder(repo_id="me/base", folder_path=tiny)
    sha = api.model_info("me/base").sha
    run(f"{FIXED} --model_name_or_path me/base --dataset_name {rows} --output_dir {tmp_path / 'o'} --max_steps 2",
        "--use_peft --merge --push_to_hub --hub_model_id me/adapter --hub_merged_model_id me/merged",
        "--dataset_license cc-by-nc-4.0")  # fmt: skip
    assert capsys.readouterr().out.count("published") == 2
    for repo_id in ("me/adapter", "me/merged"):
        assert not [file for file in api.list_repo_files(repo_id) if file.endswith((".bin", ".pt"))]
        assert api.model_info(repo_id).private
        card = Path(api.hf_hub_download(repo_id, "README.md")).read_text(encoding="utf-8")
        front = yaml.safe_load(card.split("---")[1])
        assert (front["base_model"], front["license"]) == ("me/base", "cc-by-nc-4.0")
        assert f'name = "{repo_id}"' in card and str(tmp_path) not in card and sha in card
    assert PeftConfig.from_pretrained("me/adapter").revision == sha
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained("me/merged"), AutoTokenizer.from_pretrained("me/merged")
    written = model.generate(**tokenizer("Name a bird.", return_tensors="pt"))
    assert 1 < written.shape[1] <= 257  # the length that was trained with, from its generation config


def test_flans_own_tasks_are_scored_each_by_its_metric(tmp_path, capsys):
    import build
    import tiny_t5

    data, model = tmp_path / "flan", tmp_path / "tiny"
    build.main(["--builder", "flan", "--data_files", "bundled", "--output_dir", str(data), "--test_size", "0.2"])
    tiny_t5.main(["--dataset_name", str(data), "--output_dir", str(model), "--d_model", "32", "--num_layers", "1"])
    run(f"{FIXED} --model_name_or_path {model} --dataset_name {data} --output_dir {tmp_path / 'o'} --max_steps 1",
        "--predict_with_generate --max_target_length 32 --overlength drop --unknown_answers drop")  # fmt: skip
    said = capsys.readouterr().out
    assert f"evaluated on the split 'test' of {data}" in said
    assert "\naccuracy/boolq: " in said and "\nrougeL/xsum: " in said and "\nscore: " in said
    assert "rouge2/xsum" in (tmp_path / "o" / "final" / "README.md").read_text(encoding="utf-8")
