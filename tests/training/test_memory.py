"""The estimate against the resident memory of real training steps, and what its terms must add up to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainers import memory

pytestmark = [
    pytest.mark.xdist_group("memory"),  # one worker: what the module sets up is dear
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # PEFT asks for the old name
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated"),  # TRL sets the old name by default
]
# In a process of its own: resident memory also holds what earlier tests have left behind.
MEASURE = """
import gc, json, sys, threading, time, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, "recipes")
import sft
from datasets import Dataset
from tokenizers import Tokenizer, models as tokenizer_models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trainers import memory, models
from trainers.sft import InstructTrainer
from trl import SFTConfig

def resident():
    return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) * 1024

def peak(work):
    highest, done = [0], threading.Event()
    def watch():
        while not done.is_set():
            highest[0] = max(highest[0], resident())
            time.sleep(0.002)
    thread = threading.Thread(target=watch)
    thread.start()
    work()
    done.set()
    thread.join()
    return highest[0]

def measure(case):
    length, args = case["length"], sft.SftArguments(model_name_or_path="x", dataset_name="x", **case["args"])
    config = LlamaConfig(**case["config"], bos_token_id=1, eos_token_id=2, pad_token_id=0)
    fixed = {"bf16": False, "activation_checkpointing": False, "per_device_train_batch_size": 2, "max_steps": 2}
    training = SFTConfig(output_dir=sys.argv[2], use_cpu=True, save_strategy="no", disable_tqdm=True,
                         logging_strategy="no", **fixed | case["training"])
    rows = Dataset.from_list([{"input_ids": [5] * length, "labels": [5] * length}] * 8)
    estimate = memory.ways(config, args, training, length)
    gc.collect()
    before = resident()
    attention = args.attn_implementation or "sdpa"
    model = LlamaForCausalLM._from_config(config, dtype=models.torch_dtype(args.dtype), attn_implementation=attention)
    trainer = InstructTrainer(model=model, args=training, train_dataset=rows, processing_class=tokenizer,
                         peft_config=models.lora_config(args))
    return peak(trainer.train) - before, estimate["ways"][estimate["chosen"]]

words = tokenizer_models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>")
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="<pad>", eos_token="</s>")
found = {}
for name, case in json.loads(sys.argv[1]).items():
    found[name] = measure(case)
    gc.collect()
print(json.dumps(found))
"""
# TRL's buffer for logits is 32,768 wide: with fewer tokens much of it is never touched, and so never resident.
SMALL = {"vocab_size": 32768, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4}
CASES = {
    "full": {"config": SMALL | {"num_hidden_layers": 2}, "length": 256, "args": {}, "training": {}},
    "lora_eager": {
        "config": SMALL | {"num_hidden_layers": 6},
        "length": 384,
        "args": {"use_peft": True, "attn_implementation": "eager"},
        "training": {},
    },
    "checkpointing": {
        "config": SMALL | {"num_hidden_layers": 6},
        "length": 192,
        "args": {},
        "training": {"activation_checkpointing": True, "gradient_accumulation_steps": 2},
    },
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict:
    root, folder = Path(__file__).resolve().parents[2], tmp_path_factory.mktemp("run")
    # Freed blocks go back to the system at once, so that resident memory is what tensors hold.
    own = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURE, json.dumps(CASES), str(folder)]
    result = subprocess.run(command, cwd=root, env=os.environ | own, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CASES)
def test_within_a_quarter_of_what_real_steps_take(name, measured):
    real, estimate = measured[name]
    print(f"{name}: measured {real / 2**20:.0f} MiB, estimated {estimate['total'] / 2**20:.0f} MiB")
    assert abs(estimate["total"] / real - 1) < 0.25


def asked(flags: str = ""):
    import check

    base = "--model_name_or_path x --dataset_name x --output_dir x --use_cpu --bf16 false"
    base += "" if "--activation_checkpointing" in flags else " --activation_checkpointing false"
    return check.read_arguments([*base.split(), *flags.split()])


def estimate(flags: str = "", **config) -> dict:
    from transformers import LlamaConfig

    return memory.ways(LlamaConfig(**TINY | config), *asked(flags), 32)


TINY = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
PLAIN_WEIGHTS = 2 * 512 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64  # embeddings, head, layers, last norm


def test_weights_and_states_are_counted_to_the_byte():
    full = estimate()["ways"]["full"]
    buffers = full["weights"] - 4 * PLAIN_WEIGHTS
    assert buffers == 0 and full["trainable"] == PLAIN_WEIGHTS and full["optimizer"] == 8 * PLAIN_WEIGHTS
    tied = estimate(tie_word_embeddings=True)["ways"]["full"]
    assert full["weights"] - tied["weights"] == 4 * 512 * 64
    lora = estimate("--use_peft --lora_r 4")
    ranks = 2 * 4 * (4 * (64 + 64) + 3 * (64 + 128))
    assert lora["chosen"] == "LoRA" and lora["ways"]["LoRA"]["trainable"] == ranks
    assert lora["ways"]["LoRA"]["optimizer"] == 8 * ranks
    linear = PLAIN_WEIGHTS - 2 * 512 * 64 - 5 * 64
    packed = lora["ways"]["LoRA"]["weights"] - lora["ways"]["QLoRA"]["weights"]
    assert abs(packed - (4 - memory.NF4) * linear - 2 * ranks) < 2


def test_every_way_s_terms_are_its_total():
    for way in estimate("--gradient_accumulation_steps 2")["ways"].values():
        terms = ("weights", "optimizer", "gradients", "activations", "loss", "backward")
        assert sum(way[term] for term in terms) == way["total"] and all(way[term] >= 0 for term in terms)


def test_a_cpu_scores_labelled_tokens_alone():
    from transformers import LlamaConfig

    few, every = (memory.ways(LlamaConfig(**TINY), *asked(), 64, share=share)["ways"]["full"] for share in (0.1, 1.0))
    assert few["loss"] < 0.2 * every["loss"] and few["weights"] == every["weights"]


@pytest.mark.parametrize("tied", [False, True])
def test_new_tokens_of_an_adapter_are_trained_too(tied):
    """Their rows, and the whole head where it is not the embeddings themselves."""
    from transformers import LlamaConfig

    config = LlamaConfig(**TINY, tie_word_embeddings=tied)
    plain, more = (
        memory.ways(config, *asked("--use_peft"), 32, vocabulary=514, added=ids)["ways"]["LoRA"]
        for ids in ((), (512, 513))
    )
    assert more["trainable"] - plain["trainable"] == (2 * 64 if tied else 2 * 64 + 514 * 64)


def test_a_packed_step_is_one_row_where_no_kernel_takes_more():
    packed = "--packing --max_length 48 --per_device_train_batch_size 8"
    assert estimate(packed)["length"] == 48
    assert estimate(f"{packed} --attn_implementation flash_attention_2")["length"] == 8 * 48


def test_within_a_quarter_of_what_a_real_step_takes_on_a_gpu(tmp_path, tiny_tokenizer):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    import check
    import datasets
    from transformers import LlamaConfig, LlamaForCausalLM

    from trainers import models
    from trainers.sft import InstructTrainer

    flags = "--model_name_or_path x --dataset_name x --bf16 --activation_checkpointing false --save_strategy no"
    flags += f" --output_dir {tmp_path} --per_device_train_batch_size 4 --max_steps 2 --disable_tqdm"
    rows = datasets.Dataset.from_list([{"input_ids": [5] * 512, "labels": [5] * 512}] * 8)
    for more in ("", " --use_peft"):
        args, training = check.read_arguments((flags + more).split())
        config = LlamaConfig(**SMALL | {"num_hidden_layers": 4, "hidden_size": 512})
        found = memory.ways(config, args, training, 512)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model = LlamaForCausalLM._from_config(config, dtype=torch.float32, attn_implementation="sdpa")
        adapter = models.lora_config(args)
        InstructTrainer(model, training, rows, processing_class=tiny_tokenizer(), peft_config=adapter).train()
        real = torch.cuda.max_memory_allocated() - before
        assert abs(found["ways"][found["chosen"]]["total"] / real - 1) < 0.25
        del model


MORE_OR_LESS = [
    ("--attn_implementation eager", 1), ("--activation_checkpointing true", -1), ("--dtype bfloat16", -1),
    ("--per_device_train_batch_size 16", 1), ("--optim sgd", -1), ("--optim adafactor", -1),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "sign"), MORE_OR_LESS)
def test_what_takes_more_or_less(flags, sign):
    from transformers import LlamaConfig

    def total(flags: str) -> int:
        args, training = asked(flags)
        config = LlamaConfig(**TINY | {"num_hidden_layers": 6})
        return memory.step(config, args, training, training.per_device_train_batch_size, 256)["total"]

    assert (total(flags) - total("")) * sign > 0


def test_an_architecture_that_needs_contents_is_said_not_guessed():
    from transformers import MixtralConfig

    config = MixtralConfig(**TINY, num_key_value_heads=2, num_local_experts=4)
    found = memory.ways(config, *asked(), 32)
    assert "ways" not in found and found["failed"].startswith("MixtralConfig can't be run without contents: ")
