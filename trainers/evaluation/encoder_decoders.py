"""An encoder-decoder, whole or with an adapter, as the model that is asked."""

from __future__ import annotations

from typing import NamedTuple

from instruct_builders.errors import SourceError

from .. import places, seq2seq_models, seq2seq_predict
from . import loading
from .tasks import Tasks


class Place(NamedTuple):
    """Where a model is: Hub ids or folders, and revisions on the Hub. `config` is the adapter's, of PEFT."""

    name: str
    revision: str | None
    adapter: str | None = None
    adapter_revision: str | None = None
    config: object = None


def find(name: str | None, adapter: str | None, revision: str | None, adapter_revision: str | None) -> Place:
    """The model to load and the adapter to put on it; `name` alone may be either.

    Raises:
        SourceError: If there is no such model or adapter.
        ConfigError: If the adapter belongs to another base.
    """
    places.check(
        adapter or name, "adapter" if adapter else "model", revision=adapter_revision if adapter else revision
    )
    if adapter is None and loading.is_adapter(name, revision):
        name, adapter, revision, adapter_revision = None, name, None, revision
    if adapter is None:
        return Place(name, revision)
    config, commit = loading.adapter_config(adapter, adapter_revision)
    return Place(*loading.base_of(config, adapter, name, revision), adapter, commit, config)


def is_one(place: Place) -> bool:
    """Whether the base is an encoder-decoder; no, where it can't be read: loading it says why."""
    from transformers import AutoConfig

    try:
        return bool(AutoConfig.from_pretrained(place.name, revision=place.revision or "main").is_encoder_decoder)
    except (OSError, ValueError):
        return False


def ask(tasks: Tasks, place: Place, settings: dict) -> tuple[list[dict], dict]:
    """Greedy answers in the form of [`answers.answer`], and the model's facts.

    Args:
        tasks (`Tasks`): From [`tasks.load`] with `chat=False`.
        place (`Place`): From [`find`].
        settings (`dict`): `dtype`, `max_source_length` (longer prompts are not answered), `max_new_tokens` and
            `batch_size`, prompts at once.

    Raises:
        SourceError: If there is no such model.
        ConfigError: If the adapter does not fit it, or it has changed since it was trained.
    """
    args = seq2seq_models.Seq2SeqArguments(
        model_name_or_path=place.name,
        model_revision=place.revision,
        dtype=settings["dtype"],
        max_source_length=settings["max_source_length"],
        max_target_length=settings["max_new_tokens"],
        overlength="drop",
    )
    device = loading.best_device()
    try:
        tokenizer = seq2seq_models.load_tokenizer(args)
        model, commit = seq2seq_models.load_model(args, tokenizer, device == "cpu")
    except SourceError as error:
        raise SourceError(f"{error} {loading.if_moved(place.config, place.adapter)}".strip()) from error
    if place.adapter is not None:
        loading.check_unmoved(place.adapter, place.name)
        model = loading.with_adapter(model, place.adapter, place.adapter_revision, place.name)
    entries = seq2seq_predict.encode(tasks.prompts, tokenizer, args)
    written = seq2seq_predict.answers(entries, model.to(device), tokenizer, settings["batch_size"], settings)
    said = {line["index"]: line for lines in written for line in lines}
    answered = [
        {
            "id": question["id"],
            "turns": [said[number]["answer"]],
            "problems": ["too_long" if said[number]["answer"] is None else None],
            "truncated": [said[number]["cut"]],
        }
        for number, question in enumerate(tasks.questions)
    ]
    facts = {"name": loading.public_name(place.name), "revision": commit, "local": True}
    if place.adapter is not None:
        facts |= {"adapter": loading.public_name(place.adapter), "adapter_revision": place.adapter_revision}
    return answered, facts
