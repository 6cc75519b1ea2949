"""From data on the Hub to a model on the Hub and back; and what a release holds, says, and leaves behind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from release_runs import ROWS, from_hub, make_base, push_base, releasing, run_apart, run_here, train, write_rows

from instruct_builders.errors import BuildError, ConfigError

pytestmark = [
    pytest.mark.xdist_group("release"),  # one worker: what the module sets up is dear
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # PEFT 0.21
]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("model") / "tiny-llama")


@pytest.fixture(scope="module")
def final(base, tmp_path_factory) -> Path:
    """An adapter on a base in a local folder."""
    folder = tmp_path_factory.mktemp("run")
    return train(base, write_rows(folder / "rows.jsonl"), folder / "run", "--use_peft", "--lora_r", "4")


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory) -> Path:
    """All weights trained."""
    folder = tmp_path_factory.mktemp("full")
    return train(base, write_rows(folder / "rows.jsonl"), folder / "run", steps=1)


def card_of(hub, repo_id="me/model") -> str:
    return hub.store.read("model", repo_id, "README.md").decode()


def evaluated(rows, model=None, adapter=None) -> dict:
    from trainers import reading
    from trainers.evaluation import held_out, loading

    model, tokenizer, facts = loading.load(model, adapter, None, None, "alpaca_short", "float32")
    data = reading.describe(rows, "me/data", "test")
    return held_out.evaluate(model, tokenizer, rows, facts=facts, data=data, template=tokenizer.chat_template)[0]


def test_load_train_evaluate_release_and_load_again(hub, base, tmp_path):
    """The whole way, with everything from and to the Hub; the last step in a process with an empty cache."""
    import datasets

    from trainers.evaluation import results

    parts = {"train": datasets.Dataset.from_list(ROWS[:9]), "test": datasets.Dataset.from_list(ROWS[9:])}
    datasets.DatasetDict(parts).push_to_hub("me/data", private=True)
    sha = push_base(base)
    recipe = tmp_path / "sft.yaml"
    recipe.write_text(f"# my run\nuse_peft: true\nlora_r: 4\noutput_dir: {tmp_path / 'secret-place' / 'run'}\n")
    output = tmp_path / "run"
    flags = ("--config", str(recipe), "--dataset_license", "cc-by-nc-4.0")
    train("me/base", "me/data", output, *flags, steps=6)
    rows = datasets.load_dataset("me/data", split="test")
    for name, asked in (("before", {"model": "me/base"}), ("after", {"adapter": str(output / "final")})):
        results.write(evaluated(rows, **asked), tmp_path / f"{name}.json")
    evaluations = [str(tmp_path / "before.json"), str(tmp_path / "after.json")]
    said = releasing(output / "final", evaluations=evaluations)
    assert any(line.startswith(f"published {hub.url}/me/model/tree/v1.0") and "private" in line for line in said)

    assert hub.store.repo("model", "me/model")["private"] and list(hub.store.tags("model", "me/model")) == ["v1.0"]
    files = set(hub.store.files("model", "me/model")) - {".gitattributes"}
    needed = {"README.md", "training.json", "adapter_model.safetensors", "adapter_config.json", "tokenizer.json"}
    needed |= {"tokenizer_config.json", "chat_template.jinja", "generation_config.json"}
    assert files == needed | {"evaluation/01_held_out_loss.json", "evaluation/02_held_out_loss.json"}
    for name in files:
        if not name.endswith(".safetensors"):
            content = hub.store.read("model", "me/model", name).decode()
            assert str(tmp_path) not in content and os.environ["HF_TOKEN"] not in content, name
    config = json.loads(hub.store.read("model", "me/model", "adapter_config.json"))
    assert (config["base_model_name_or_path"], config["revision"]) == ("me/base", sha)

    card = card_of(hub)
    front = yaml.safe_load(card.split("---")[1])
    assert (front["base_model"], front["datasets"], front["license"]) == ("me/base", ["me/data"], "cc-by-nc-4.0")
    data_sha = hub.store.resolve("dataset", "me/data", "main")
    for part in (sha, f"| me/data | {data_sha} | train | 9 | all | cc-by-nc-4.0 |", "**Not for commercial use.**"):
        assert part in card
    for part in ("# my run", "output_dir: run", "9 rows were trained on", "3 were held out", "tokens per second"):
        assert part in card
    assert "Held-out loss and perplexity" in card and "| me/base | me/model |" in card
    before, after = (json.loads(Path(path).read_text())["metrics"]["loss"] for path in evaluations)
    interval = f"{after['value']:.2f} [{after['low']:.2f}, {after['high']:.2f}]"
    assert after["value"] < before["value"] and interval in card.replace("\\", "")  # brackets are escaped

    printed = run_apart(card, tmp_path / "empty")
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(output / "final")
    model = AutoPeftModelForCausalLM.from_pretrained(str(output / "final"))
    messages = [{"role": "user", "content": "Give three tips for staying healthy."}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**inputs, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :]
    assert printed == tokenizer.decode(answer, skip_special_tokens=True) + "\n"

    commits = hub.count("commit")
    assert any(line.startswith("already published") for line in releasing(output / "final", evaluations=evaluations))
    assert hub.count("commit") == commits


def test_an_adapter_of_a_local_base_goes_out_with_the_same_base_on_the_hub(hub, base, final):
    with pytest.raises(ConfigError, match=r"local folder 'tiny-llama', which nobody else has. Give `base:"):
        releasing(final)
    sha = push_base(base)
    releasing(final, base="me/base")
    config = json.loads(hub.store.read("model", "me/model", "adapter_config.json"))
    assert (config["base_model_name_or_path"], config["revision"]) == ("me/base", sha)
    assert str(base) not in card_of(hub) and f"at revision `{sha}`" in card_of(hub)


def test_another_base_on_the_hub_is_not_taken_for_the_one_trained_from(hub, final, tmp_path):
    push_base(make_base(tmp_path / "other", seed=1), "me/other")
    with pytest.raises(ConfigError, match=r"weights of me/other at .* are not those of 'tiny-llama'"):
        releasing(final, base="me/other")
    with pytest.raises(ConfigError, match="is no model on the Hub"):
        releasing(final, base=str(tmp_path / "other"))
    assert hub.store.repo("model", "me/model") is None


def test_adapter_and_merged_model_go_to_two_repositories_and_say_the_same(hub, base, final, tmp_path, monkeypatch):
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    push_base(base)
    said = releasing(final, base="me/base", what="both", merged_repo_id="me/merged", license="cc-by-4.0")
    assert any("merged: largest difference" in line for line in said)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        one = AutoPeftModelForCausalLM.from_pretrained("me/model").eval()(input_ids=ids).logits
        other = AutoModelForCausalLM.from_pretrained("me/merged").eval()(input_ids=ids).logits
    assert (one - other).abs().max() < 1e-4 * one.abs().max()
    files = set(hub.store.files("model", "me/merged"))
    assert "model.safetensors" in files and not [name for name in files if "adapter" in name]
    card = card_of(hub, "me/merged")
    assert "merged into the base in full precision" in card and yaml.safe_load(card.split("---")[1])["license"]
    assert run_here(card, tmp_path / "empty", monkeypatch)


def test_a_merge_of_a_local_base_needs_no_hub_base_but_the_base_as_it_was(hub, base, final, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    releasing(final, what="merged")
    assert "Fine-tuned from a local model, `tiny-llama`" in card_of(hub)
    moved = shutil.copytree(base, tmp_path / "tiny-llama")
    adapter = shutil.copytree(final, tmp_path / "run" / "final")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(moved)}))
    weights = load_file(moved / "model.safetensors")
    save_file({name: tensor + 1e-3 for name, tensor in weights.items()}, moved / "model.safetensors", {"format": "pt"})
    from instruct_builders.errors import SourceError

    with pytest.raises(SourceError, match=r"weights of 'tiny-llama' have changed since .* train again"):
        releasing(adapter, "me/moved", what="merged")
    shutil.rmtree(moved)
    with pytest.raises(SourceError, match="no longer where it was"):
        releasing(adapter, "me/moved", what="merged")


def test_a_merge_beyond_the_tolerance_is_not_published(hub, base, final):
    with pytest.raises(BuildError, match=r"differ from base \+ adapter .* nothing was written"):
        releasing(final, what="merged", tolerance=1e-12)
    assert hub.store.repo("model", "me/model") is None


def test_whole_weights_pickles_and_paths(hub, whole, tmp_path, monkeypatch):
    """What a trainer or a person leaves in the folder: pickles stay, paths are cleaned where we write them."""
    import shutil

    model = shutil.copytree(whole, tmp_path / "run" / "final")
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "pytorch_model.bin"):
        (model / name).write_bytes(b"pickle")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"_name_or_path": str(tmp_path / "base")}))
    generation = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps(generation | {"eos_token_id": 0}))  # would never stop
    said = releasing(model)
    assert "generation now stops on '</s>' too" in said
    files = hub.store.files("model", "me/model")
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth"))]
    assert "_name_or_path" not in json.loads(hub.store.read("model", "me/model", "config.json"))
    assert json.loads(hub.store.read("model", "me/model", "generation_config.json"))["eos_token_id"] == [2, 0]
    assert run_here(card_of(hub), tmp_path / "empty", monkeypatch)


@pytest.mark.parametrize("place", ["notes.txt", "extra.json"])
def test_a_path_of_this_machine_anywhere_else_is_refused(hub, whole, tmp_path, place):
    import shutil

    from instruct_builders.errors import PublishError

    model = shutil.copytree(whole, tmp_path / "run" / "final")
    text = f"see {tmp_path}/run/log" if place == "notes.txt" else json.dumps({"made": {"in": "/data/alice/runs/7"}})
    (model / place).write_text(text)
    with pytest.raises(PublishError, match=rf"paths of this machine.*\n  {place}"):
        releasing(model)
    assert hub.store.repo("model", "me/model") is None


def test_a_result_on_a_benchmark_of_the_hub_is_where_its_leaderboard_looks(hub, whole, tmp_path):
    from huggingface_hub import EvalResultEntry, HfApi, parse_eval_result_entries

    from trainers import scores
    from trainers.evaluation import results

    def result(name, **data):
        return results.result(
            "lm_eval", "GPQA diamond", model={"name": name, "local": True}, seed=1, counts={"questions": 4},
            data={"name": "org/gpqa", "rows": 4, **data}, settings={"task": "diamond"},
            metrics={"accuracy": results.metric([0, 1, 1, 1])}, notes=["Four | questions."], date="2026-11-22",
        )  # fmt: skip

    sha, paths = "a" * 40, []
    for number, one in enumerate([result("tiny-llama", revision=sha), result("run/final", revision=sha)]):
        paths.append(str(results.write(one, tmp_path / f"{number}.json")))
    releasing(whole, evaluations=paths)
    api = HfApi()
    api.upload_file(path_or_fileobj=b"[]", path_in_repo=".eval_results/theirs.yaml", repo_id="me/model")
    found = {name for name in hub.store.files("model", "me/model") if name.startswith(".eval_results/")}
    ours = ".eval_results/instruct-builders-02-lm-eval.yaml"
    assert found == {ours, ".eval_results/theirs.yaml"}  # of the base no score is claimed
    (entry,) = parse_eval_result_entries(yaml.safe_load(hub.store.read("model", "me/model", ours)))
    assert entry == EvalResultEntry(
        "org/gpqa", "diamond", 0.75, dataset_revision=sha, date="2026-11-22", notes=entry.notes
    )
    assert "95% interval 0.25 to 1" in entry.notes
    assert "### GPQA diamond" in card_of(hub) and "Four \\| questions." in card_of(hub)
    part = result("run/final", revision=sha)
    part["settings"]["limit"] = 4  # a score on the first questions is none of the benchmark
    assert not scores.write(tmp_path / "part", [part], {"run/final"})
    releasing(whole, tag="v2")  # without scores: ours go, those that others added stay
    assert set(hub.store.files("model", "me/model")) & found == {".eval_results/theirs.yaml"}
    other = result("run/final", revision=sha, digest="sha256:1")
    paths.append(str(results.write(other, tmp_path / "other.json")))
    with pytest.raises(ConfigError, match="different questions"):
        releasing(whole, tag="v3", evaluations=paths)


def test_gguf_by_llama_cpp_s_own_converter(hub, whole, final, tmp_path, monkeypatch):
    """A stand-in that checks how it is called: the real one is no package."""
    for name in ("PATH", "LLAMA_CPP_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    with pytest.raises(
        ConfigError, match=r"needs convert_hf_to_gguf.py of llama.cpp.*LLAMA_CPP_DIR.*pip install gguf"
    ):
        releasing(whole, gguf="q8_0")
    with pytest.raises(ConfigError, match=r"'q4_k_m' given; .* llama-quantize"):
        releasing(whole, gguf="q4_k_m")
    tool = tmp_path / "llama.cpp" / "convert_hf_to_gguf.py"
    tool.parent.mkdir()
    tool.write_text(
        "import sys, pathlib\n"
        "model, *rest = sys.argv[1:]\n"
        "options = dict(zip(rest[::2], rest[1::2], strict=True))\n"
        "assert options.keys() == {'--outfile', '--outtype'}, options\n"
        "assert (pathlib.Path(model) / 'model.safetensors').is_file()\n"
        "if (pathlib.Path(model) / 'training.json').is_file(): sys.exit('written too early')\n"
        "if options['--outtype'] == 'f32': sys.exit('Model FooForCausalLM is not supported')\n"
        "pathlib.Path(options['--outfile']).write_bytes(b'GGUF' + options['--outtype'].encode())\n"
    )
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tool.parent))
    with pytest.raises(ConfigError, match="an adapter alone can't be converted"):
        releasing(from_hub(final, tmp_path / "final"), gguf="f16")
    with pytest.raises(BuildError, match=r"failed \(exit code 1\): Model FooForCausalLM is not supported"):
        releasing(whole, gguf="f32")
    assert "converted to model-Q8_0.gguf" in releasing(whole, gguf="q8_0")
    assert hub.store.read("model", "me/model", "model-Q8_0.gguf") == b"GGUFq8_0"
    assert "`model-Q8_0.gguf` is the same model for llama.cpp" in card_of(hub)
