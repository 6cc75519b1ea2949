"""A model's answers over several turns, with a tiny Llama made on the spot; and the file that a result is."""

from __future__ import annotations

import asyncio
import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("openai", reason="the extra 'generate' is not installed")

from instruct_builders.errors import BuildError, ConfigError, SourceError
from instruct_builders.generate.engine import Engine
from instruct_builders.generate.statuses import Reply
from trainers.evaluation import answers, results

QUESTIONS = [
    answers.question(1, ["Name a colour.", "Another?"], "writing", 0.7),
    answers.question(2, ["Blue?", "Be brief."], "math", 0.0),
    answers.question(3, ["Say the word loudly and clearly, please.", "Red?"], "stem", system="Be brief."),
]


def answer(transport, journal, questions=QUESTIONS, **options):
    async def main():
        async with Engine(model="tiny", journal=journal, transport=transport, max_retries=1) as engine:
            return await answers.answer(engine, questions, **{"max_tokens": 10, **options}), engine.account

    return asyncio.run(main())


def says(text: str | None, finish: str = "stop") -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return Reply(200, {}, json.dumps({"choices": [choice]}).encode())


class Recorder:
    """Answers with the number of the request; keeps what was asked."""

    def __init__(self, reply=None):
        self.asked, self.reply = [], reply

    async def __call__(self, body: bytes, name: str) -> Reply:
        self.asked.append(json.loads(body))
        return self.reply(self.asked[-1]) if self.reply else says(f"answer to {self.asked[-1]['messages'][-1]}")


def test_a_later_turn_sees_the_answers_before_it(tmp_path):
    model = Recorder()
    rows, _ = answer(model, tmp_path / "a.sqlite")
    assert [row["id"] for row in rows] == [1, 2, 3] and all(row["problems"] == [None, None] for row in rows)
    turns = next(one["messages"] for one in model.asked if one["messages"][-1]["content"] == "Red?")
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[2]["content"] == rows[2]["turns"][0]
    heats = {one["messages"][0]["content"]: one["temperature"] for one in model.asked}
    assert heats == {"Name a colour.": 0.7, "Blue?": 0.0, "Be brief.": 0.0}
    seeds = [one.get("seed") for one in model.asked if one["temperature"] > 0]
    assert len(set(seeds)) == 2 and None not in seeds
    assert all("seed" not in one for one in model.asked if one["temperature"] == 0)


def test_an_unusable_answer_is_told_and_the_turn_after_it_is_not_asked(tmp_path):
    model = Recorder(lambda request: says("") if request["messages"][0]["content"] == "Blue?" else says("yes"))
    rows, account = answer(model, tmp_path / "a.sqlite")
    assert rows[1]["turns"] == [None, None]
    assert rows[1]["problems"] == ["empty_text", answers.NO_FIRST]
    assert rows[0]["turns"] == ["yes", "yes"] and account["questions"]["failed"] == 1
    cut, _ = answer(Recorder(lambda request: says("half of", "length")), tmp_path / "cut.sqlite")
    assert cut[0]["turns"][0] == "half of" and cut[0]["truncated"] == [True, True] and cut[0]["problems"][0] is None


def test_samples_are_different_and_parameters_can_be_left_out(tmp_path):
    model = Recorder()
    rows, _ = answer(model, tmp_path / "a.sqlite", QUESTIONS[:1], samples=3, parameters={"seed": None, "top_p": 0.9})
    assert [row["sample"] for row in rows] == [0, 1, 2]
    assert len(model.asked) == 6 and all("seed" not in one and one["top_p"] == 0.9 for one in model.asked)


@pytest.mark.parametrize("turns", [[], ["one", ""], ["one", None], ["one", "  "]])
def test_a_question_without_text_is_refused(turns):
    with pytest.raises(ConfigError, match="question 7"):
        answers.question(7, turns)


def test_an_id_given_twice_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="the id '1' is there twice"):
        answer(Recorder(), tmp_path / "a.sqlite", [QUESTIONS[0], QUESTIONS[0]])


@pytest.fixture(scope="module")
def local(tiny_llama):
    return answers.local_model(str(tiny_llama()), chat_template="chatml", dtype="float32", max_batch=4)


def test_a_local_model_answers_the_same_in_one_go_and_in_two(local, tmp_path):
    facts = local[1]
    assert facts["local"] and facts["name"] == "tiny-llama" and len(facts["fingerprint"]) == 16
    whole, _ = answer(transport_of(local), tmp_path / "whole.sqlite")
    answer(transport_of(local), tmp_path / "cut.sqlite", QUESTIONS[1:])
    resumed, account = answer(transport_of(local), tmp_path / "cut.sqlite")
    assert resumed == whole and account["run"]["requests"] == 2
    assert any(row["turns"][0] for row in whole)


def transport_of(local):
    """A fresh one on the same model: closing an engine ends its thread."""
    from trainers.local_generation import LocalModel

    return LocalModel(local[0].model, local[0].tokenizer, max_batch=4)


@pytest.fixture(scope="module")
def adapter(tiny_llama, tmp_path_factory):
    """An adapter of random weights on a base of its own, in folders that a test may break."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trainers import adapters

    folder = tmp_path_factory.mktemp("adapter")
    base = shutil.copytree(tiny_llama(), folder / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], init_lora_weights=False)
    with adapters.old_names_allowed():
        get_peft_model(model, config).save_pretrained(folder / "final")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    tokenizer.save_pretrained(folder / "final")
    return folder


def test_an_adapter_brings_its_base_and_its_template(adapter, tmp_path):
    transport, facts = answers.local_model(str(adapter / "final"))
    assert facts["name"] == "base" and facts["adapter"].endswith("final")
    assert transport.tokenizer.chat_template.endswith("assistant:")
    rows, _ = answer(transport, tmp_path / "a.sqlite", QUESTIONS[1:2])
    bare, _ = answers.local_model(str(adapter / "base"), chat_template=str(template(tmp_path, transport)))
    other, _ = answer(bare, tmp_path / "b.sqlite", QUESTIONS[1:2])
    assert rows[0]["turns"] != other[0]["turns"]
    same, _ = answer(
        answers.local_model(None, adapter=str(adapter / "final"))[0], tmp_path / "c.sqlite", QUESTIONS[1:2]
    )
    assert same == rows


def template(tmp_path, transport):
    path = tmp_path / "own.jinja"
    path.write_text(transport.tokenizer.chat_template)
    return path


def test_an_adapter_whose_base_has_moved_is_refused_with_what_to_do(adapter, tiny_llama, tmp_path):
    final = str(adapter / "final")
    with pytest.raises(ConfigError, match=r"was trained on .*base', and model is '.*tiny-llama'"):
        answers.local_model(str(tiny_llama()), adapter=final)
    with pytest.raises(ConfigError, match="An adapter says nonsense on another base"):
        answers.local_model("org/other-model", adapter=final)
    moved = shutil.copytree(adapter / "final", tmp_path / "final")
    config = json.loads((moved / "adapter_config.json").read_text())
    (moved / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/gone/base"}))
    with pytest.raises(SourceError, match="If that has moved, give its new place as model"):
        answers.local_model(str(moved))
    _, facts = answers.local_model(str(adapter / "base"), adapter=str(moved))  # a folder of the same name
    assert facts["name"] == "base"
    (moved / "adapter_config.json").write_text(json.dumps({**config, "revision": "a" * 40}))
    with pytest.raises(ConfigError, match=r"was trained on revision aaa"):
        answers.local_model(None, adapter=str(moved), revision="b" * 40)
    with pytest.raises(SourceError, match=r"no adapter_config\.json"):
        answers.local_model(None, adapter=str(adapter / "base"))


def test_a_base_that_was_trained_on_since_is_another_base(adapter, tmp_path):
    from safetensors.torch import load_file, save_file

    from trainers import base_model, run_facts

    base = shutil.copytree(adapter / "base", tmp_path / "base")
    final = shutil.copytree(adapter / "final", tmp_path / "final")
    (final / run_facts.FILE).write_text(json.dumps({"base": base_model.describe(str(base), None)}))
    _, before = answers.local_model(str(base), adapter=str(final))
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SourceError, match="have changed since the adapter was trained"):
        answers.local_model(str(base), adapter=str(final))
    (final / run_facts.FILE).unlink()
    _, after = answers.local_model(str(base), adapter=str(final))
    assert before["fingerprint"] != after["fingerprint"]  # so the journal does not take it for the old one


def test_what_is_no_model_is_said(tiny_llama, tmp_path):
    with pytest.raises(ConfigError, match="has no chat template"):
        answers.local_model(str(tiny_llama()))
    with pytest.raises(SourceError, match="model: there is no folder"):
        answers.local_model(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="no model"):
        answers.local_model(None)


def made(**changes) -> dict:
    parts = {
        "model": {"name": "org/model", "revision": "abc"},
        "data": {"name": "set", "rows": 3, "digest": "sha256:1"},
        "settings": {"judge": "j"},
        "seed": 1,
        "counts": {"turns": 6, "missing": 0},
        "metrics": {"score": results.metric([1.0, 2.0, 4.0])},
        "groups": {"math": {"score": results.metric([1.0])}},
        "samples": [{"prompt": "p", "answer": "a"}],
        "notes": ["read this"],
        "date": "2026-11-22",
    }
    return results.result("mt_bench", "MT-Bench", **{**parts, **changes})


def test_a_result_is_read_as_it_was_written(tmp_path):
    result = made()
    path = results.write(result, tmp_path / "out" / "result.json")
    assert results.read(path) == results.read(path.parent) == result
    assert result["versions"]["instruct-builders"] and result["model"]["adapter"] is None
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]
    results.write(made(counts={"turns": 7}), path)
    assert results.read(path)["counts"] == {"turns": 7}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "not valid JSON"),
        ("[]", "a result is an object"),
        ('{"kind": "mt_bench"}', "name is missing"),
        (json.dumps({**made(), "kind": "vibes"}), "kind is 'vibes'"),
        (json.dumps({**made(), "metrics": {"score": 3}}), r"metrics.score is 3"),
        (json.dumps({**made(), "metrics": {"score": {"value": float("nan"), "low": 1, "high": 2, "n": 3}}}), "finite"),
        (json.dumps({**made(), "counts": {"turns": -1}}), "counts.turns is -1"),
        (json.dumps({**made(), "seed": True}), "seed is bool"),
    ],
)
def test_what_is_no_result_is_refused_with_its_place(text, message, tmp_path):
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        results.read(path)
    assert "result.json" in str(caught.value)


def test_a_missing_file_and_a_full_disk_are_told(tmp_path):
    with pytest.raises(ConfigError, match="no result can be read there"):
        results.read(tmp_path)
    with pytest.raises(BuildError, match="could not be written"):
        results.write(made(), "/dev/full/result.json")


def test_tables_have_a_column_per_model_and_a_line_per_metric_and_group():
    other = made(model={"name": "org/other", "adapter": "org/lora"}, metrics={"score": results.metric([5.0])})
    table = results.table([made(), other])
    lines = table.split("\n")
    assert lines[0].split() == ["org/model", "org/other", "+", "org/lora"]
    assert lines[2].startswith("score") and "2.33 [1.00, " in lines[2] and lines[2].endswith("5.00")
    assert lines[3].startswith("math: score") and lines[3].split()[-2:] == ["1.00", "1.00"]


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1, max_size=40))
def test_no_name_breaks_the_markdown_table(name):
    rows = results.markdown([made(model={"name": f"x{name}"})]).split("\n")
    columns = [row.replace("\\\\", "").replace("\\|", "").count("|") for row in rows]
    assert set(columns) == {3}
