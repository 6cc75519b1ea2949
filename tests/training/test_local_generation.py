"""A model in this process as the engine's transport, with a tiny Llama made on the spot."""

from __future__ import annotations

import asyncio

import pytest
import torch
from transformers import AutoModelForCausalLM

pytest.importorskip("openai", reason="the extra 'generate' is not installed")

from instruct_builders.errors import ConfigError, GenerationError
from instruct_builders.generate.engine import Engine, Request
from trainers.local_generation import LocalModel

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


@pytest.fixture
def local(tiny_llama, tiny_tokenizer):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return LocalModel(AutoModelForCausalLM.from_pretrained(tiny_llama()), tokenizer, max_batch=4)


def ask(local, journal, requests):
    async def main():
        async with Engine(model="tiny", journal=journal, transport=local) as engine:
            answers = await asyncio.gather(*map(engine.ask, requests), return_exceptions=True)
        return answers, engine.account

    return asyncio.run(main())


def question(text: str, **parameters) -> Request:
    parameters = {"max_tokens": 8, "temperature": 0, **parameters}
    return Request(({"role": "user", "content": text},), parameters, keep_truncated=True)


def test_answers_are_what_the_model_says_alone_and_are_journaled(local, tmp_path):
    requests = [question(text) for text in ("Name a colour.", "Say the word loudly and clearly, please.", "Blue?")]
    answers, account = ask(local, tmp_path / "run.sqlite", requests)
    for request, answer in zip(requests, answers, strict=True):
        prompt = f"user: {request.messages[0]['content']}\nassistant:"
        ids = local.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            alone = local.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
        said = local.tokenizer.decode(alone[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer.text == said  # padding in a batch changes nothing
        assert answer.usage["prompt_tokens"] == ids.shape[1] and answer.finish_reason == "length"
    assert account["run"]["requests"] == 3
    local.pool = None  # nothing is generated again
    again, account = ask(lambda body, name: None, tmp_path / "run.sqlite", requests)
    assert [answer.text for answer in again] == [answer.text for answer in answers] and account["run"]["requests"] == 0


def test_seeds_and_stops_are_heeded(local, tmp_path):
    sampled = [question("Name a colour.", temperature=1.0, seed=seed) for seed in (1, 2)]
    (one, two), _ = ask(local, tmp_path / "run.sqlite", sampled)
    assert one.text != two.text
    stop = one.text[2]
    (stopped,), _ = ask(
        LocalModel(local.model, local.tokenizer),
        tmp_path / "stop.sqlite",
        [question("Name a colour.", temperature=1.0, seed=1, stop=[stop])],
    )
    assert stopped.finish_reason == "stop" and stopped.text == one.text[: one.text.index(stop)]


def test_what_a_local_model_cannot_do_is_said(local, tiny_tokenizer, tmp_path):
    (error,), _ = ask(local, tmp_path / "run.sqlite", [question("Hello", logit_bias={"5": 1})])
    assert isinstance(error, GenerationError) and "logit_bias" in str(error)
    with pytest.raises(ConfigError, match="chat template"):
        LocalModel(local.model, tiny_tokenizer())


def test_each_question_is_drawn_by_its_own_settings_whatever_is_in_its_batch(local, tmp_path):
    """Temperature, top_p and seed may differ in a batch; a run that was cut in two gives the same answers."""
    settings = [{"temperature": 0}, {"temperature": 0.7, "seed": 1}, {"temperature": 1.5, "seed": 1, "top_p": 0.5}]
    requests = [question(f"Name {n} colours.", **settings[n % 3]) for n in range(6)]
    sizes, generate = [], local.generate
    local.generate = lambda batch: (sizes.append(len(batch)), generate(batch))[1]
    together, _ = ask(local, tmp_path / "together.sqlite", requests)
    assert sizes == [4, 2]  # as large as allowed, though no two ask in the same way
    alone = [
        ask(LocalModel(local.model, local.tokenizer), tmp_path / f"{n}.sqlite", [one])[0][0]
        for n, one in enumerate(requests)
    ]
    assert [one.text for one in alone] == [one.text for one in together]
    again, _ = ask(LocalModel(local.model, local.tokenizer), tmp_path / "again.sqlite", list(reversed(requests)))
    assert [one.text for one in reversed(again)] == [one.text for one in together]


def test_draws_follow_the_models_distribution():
    from trainers.local_generation import OwnSampling

    logits = torch.tensor([3.0, 2.0, 1.0, -1.0])
    rows = [{"temperature": 2.0, "seed": n} for n in range(4000)]
    drawn = OwnSampling(rows, torch.device("cpu"))(None, logits.repeat(4000, 1)).argmax(-1)
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(shares, (logits / 2).softmax(-1), atol=0.03)
    rows = [{"temperature": 1.0, "seed": n, "top_p": 0.7} for n in range(500)]  # the first two reach 0.7
    drawn = OwnSampling(rows, torch.device("cpu"))(None, logits.repeat(500, 1)).argmax(-1)
    assert set(drawn.tolist()) == {0, 1}
    rows = [{"temperature": 0, "seed": n} for n in range(20)]
    assert set(OwnSampling(rows, torch.device("cpu"))(None, logits.repeat(20, 1)).argmax(-1).tolist()) == {0}


def test_an_answer_ends_where_the_context_does(local, tmp_path):
    """1,024 positions: a prompt near them leaves room for little, one beyond them for nothing; others are as ever."""
    near, beyond = "Q" * 1000, "Q" * 1100  # a token each: two Qs are never joined
    assert len(local.tokenizer(near, add_special_tokens=False)["input_ids"]) == 1000
    (short, long, none), _ = ask(local, tmp_path / "run.sqlite", [question("Blue?"), question(near), question(beyond)])
    alone, _ = ask(LocalModel(local.model, local.tokenizer), tmp_path / "alone.sqlite", [question("Blue?")])
    assert short.text == alone[0].text and long.finish_reason == "length"
    assert none.text is None and none.reason == "length"
    (long,), _ = ask(
        LocalModel(local.model, local.tokenizer), tmp_path / "long.sqlite", [question(near, max_tokens=500)]
    )
    assert long.usage["prompt_tokens"] + long.usage["completion_tokens"] <= 1024
