"""Questions to a model, over several turns: through the engine, so that every answer is kept and none is asked twice.

transport, facts = answers.local_model("org/model", adapter="outputs/run/final")
engine = Engine(model="org/model", journal="answers.sqlite", transport=transport)
rows = engine.run(lambda engine: answers.answer(engine, questions))
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from instruct_builders.errors import ConfigError
from instruct_builders.generate.asking import Request
from instruct_builders.generate.growing import in_order

if TYPE_CHECKING:
    from instruct_builders.generate.engine import Engine
    from trainers.local_generation import LocalModel

LONG = 7 * 24 * 3600.0  # seconds: a model in this process has no deadline
# Defects of a reply that are the model's own doing: it had its say.
NO_TEXT = ("empty_text", "null_content", "refusal", "content_filter", "length")
NO_FIRST = "no_earlier_answer"  # a turn that could not be asked, since there is no answer to the one before


def question(
    id: str | int,
    turns: Sequence[str],
    category: str | None = None,
    temperature: float | None = None,
    reference: Sequence[str | None] | None = None,
    system: str | None = None,
) -> dict:
    """One question as [`answer`] takes it.

    Args:
        id (`str` or `int`): Different in each question of a set.
        turns (`Sequence[str]`): What the user says, turn by turn.
        category (`str`, *optional*): For groups in a result.
        temperature (`float`, *optional*): Of this question's answers; that of [`answer`] by default.
        reference (`Sequence[str]`, *optional*): A good answer per turn; never shown to the model.
        system (`str`, *optional*): The system turn.

    Raises:
        ConfigError: If there is no turn, or one without text.
    """
    turns = list(turns)
    if not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise ConfigError(f"question {id!r}: its turns are {turns!r}; a list of texts is needed, none of them empty.")
    return {
        "id": id,
        "turns": turns,
        "category": category,
        "temperature": temperature,
        "reference": None if reference is None else list(reference),
        "system": system,
    }


async def answer(
    engine: Engine,
    questions: Sequence[dict],
    *,
    max_tokens: int = 1024,
    temperature: float = 0.0,
    samples: int = 1,
    seed: int = 42,
    purpose: str = "answer",
    parameters: Mapping | None = None,
) -> list[dict]:
    """Asks a model all turns of all questions; each turn sees the answers to those before it.

    Args:
        engine ([`Engine`]): Over HTTP, or on a [`LocalModel`].
        questions (`Sequence[dict]`): From [`question`].
        max_tokens (`int`, *optional*, defaults to 1024): Of an answer. A longer one is cut there and kept as it is.
        temperature (`float`, *optional*, defaults to 0.0): Where a question has none of its own; 0 is greedy.
        samples (`int`, *optional*, defaults to 1): Answers per question.
        seed (`int`, *optional*, defaults to 42): Each question and turn gets a seed of its own from it, above 0 only.
        purpose (`str`, *optional*, defaults to `"answer"`): Under which the engine counts.
        parameters (`Mapping`, *optional*): Sent besides; a null takes a parameter out, for servers that refuse it.

    Returns:
        `list[dict]`: Per question and sample, in order: `id`, `sample`, `category`, `turns` (`list`: text, or `None`
            where there is no usable answer), `problems` (`list`: `None`, a key of `generate.answers.DEFECTS`, or
            `"no_earlier_answer"`) and `truncated` (`list[bool]`).
    """
    names = [one["id"] for one in questions]
    if twice := sorted({str(name) for name in names if names.count(name) > 1}):
        raise ConfigError(f"questions: the id {twice[0]!r} is there twice; each question needs its own.")
    settings = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, "more": parameters or {}}

    async def one(wanted: tuple[dict, int]) -> dict:
        return await _conversation(engine, *wanted, purpose=purpose, **settings)

    wanted = [(entry, sample) for entry in questions for sample in range(samples)]
    engine.goal, rows = len(wanted), []
    async for row in in_order(one, wanted):
        engine.tally(next(filter(None, row["problems"]), None))
        rows.append(row)
    return rows


async def _conversation(
    engine: Engine, asked: dict, sample: int, *, max_tokens: int, temperature: float, seed: int, purpose: str, more
) -> dict:
    heat = temperature if asked.get("temperature") is None else asked["temperature"]
    messages = [{"role": "system", "content": asked["system"]}] if asked.get("system") else []
    texts, problems, truncated = [], [], []
    for number, turn in enumerate(asked["turns"]):
        if problems and problems[-1]:
            texts, problems, truncated = [*texts, None], [*problems, NO_FIRST], [*truncated, False]
            continue
        messages = [*messages, {"role": "user", "content": turn}]
        given = {"temperature": heat, "max_tokens": max_tokens}
        if heat > 0:
            digest = hashlib.sha256(f"{seed}\n{asked['id']}\n{number}\n{sample}".encode()).digest()
            given["seed"] = int.from_bytes(digest[:4], "big") >> 1
        given = {name: value for name, value in {**given, **more}.items() if value is not None}
        request = Request(tuple(messages), given, sample=sample, purpose=purpose, keep_truncated=True)
        said = await engine.ask(request)
        texts.append(said.text)
        problems.append(said.reason)
        truncated.append(said.text is not None and said.finish_reason in ("length", "max_tokens"))
        messages = [*messages, {"role": "assistant", "content": said.text}]
    return {
        "id": asked["id"],
        "sample": sample,
        "category": asked.get("category"),
        "turns": texts,
        "problems": problems,
        "truncated": truncated,
    }


def local_model(
    name: str | None,
    *,
    adapter: str | None = None,
    revision: str | None = None,
    adapter_revision: str | None = None,
    chat_template: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    max_batch: int = 16,
) -> tuple[LocalModel, dict]:
    """A model in this process as the engine's transport, on a GPU where there is one.

    Args:
        name (`str`, *optional*):
            Hub id or folder of a model or of an adapter. With `adapter` it is the base, and may be left out: the
            adapter names its own.
        adapter (`str`, *optional*): Hub id or folder of an adapter.
        revision (`str`, *optional*), adapter_revision (`str`, *optional*): Branch, tag or commit on the Hub.
        chat_template (`str`, *optional*): As in [`templates.load`]; by default that of the adapter or the model.
        dtype (`str`, *optional*, defaults to `"auto"`): Of the weights; `"auto"` is as they are stored.
        device (`str`, *optional*): Such as `"cpu"`.
        max_batch (`int`, *optional*, defaults to 16): Most questions generated at once.

    Returns:
        `tuple`: The [`LocalModel`], and the `model` of a result: `name`, `revision`, `adapter`, `adapter_revision`,
            `local`.

    Raises:
        SourceError: If the model or the adapter can't be loaded.
        ConfigError: If the adapter belongs to another base, or there is no chat template.
    """
    from trainers.local_generation import LocalModel

    from . import loading

    base, tokenizer, facts = loading.load(name, adapter, revision, adapter_revision, chat_template, dtype)
    if device is None:
        device = loading.best_device()
    return LocalModel(base.to(device), tokenizer, max_batch=max_batch), facts
