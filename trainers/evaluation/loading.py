"""A model to be asked: base, adapter and tokenizer, with what a result says of where they come from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from instruct_builders.errors import ConfigError, SourceError, TemplateError

from .. import adapters, base_model, local_paths, models, places, run_facts, templates

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load(
    name: str | None,
    adapter: str | None,
    revision: str | None,
    adapter_revision: str | None,
    chat_template: str | None,
    dtype: str,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict]:
    """Base, adapter and tokenizer; arguments and errors as in [`answers.local_model`].

    Returns:
        `tuple`: The model (on the CPU), the tokenizer with the template to ask with, and the model's facts, among them
            a `fingerprint` of all that decides its answers: a folder keeps its name when it is trained anew.
    """
    from transformers import AutoTokenizer

    if name is None and adapter is None:
        raise ConfigError("no model: give the Hub id or folder of a model or of an adapter.")
    if adapter is None:
        places.check(name, "model", revision=revision)
    else:
        places.check(adapter, "adapter", revision=adapter_revision)
    if adapter is None and is_adapter(name, revision):
        name, adapter, revision, adapter_revision = None, name, None, revision
    facts = {"name": name, "revision": None, "adapter": None, "adapter_revision": None, "local": True}
    config, owner, owner_revision = None, name, revision
    if adapter is not None:
        config, commit = adapter_config(adapter, adapter_revision)
        name, revision = base_of(config, adapter, name, revision)
        try:
            places.check(name, "model", revision=revision)
        except SourceError as error:
            raise SourceError(f"{error} {if_moved(config, adapter)}") from error
        facts |= {"adapter": public_name(adapter), "adapter_revision": commit}
        if _has_tokenizer(adapter, adapter_revision):
            owner, owner_revision = adapter, adapter_revision
        else:
            owner, owner_revision = name, revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(owner, revision=owner_revision or "main")
    except (OSError, ValueError) as error:
        raise SourceError(f"no tokenizer in {owner!r} at revision {owner_revision or 'main'}: {error}") from error
    if chat_template is not None and chat_template != templates.MODEL:
        tokenizer.chat_template = templates.load(chat_template, tokenizer)
    if not tokenizer.chat_template:
        raise ConfigError(
            f"the tokenizer of {owner!r} has no chat template: give chat_template as the model was trained "
            f"with, one of {', '.join(templates.NAMES)} or the path of a .jinja file."
        )
    arguments = models.ModelArguments(model_name_or_path=name, model_revision=revision, dtype=dtype)
    try:
        model, commit = models.load_model(arguments, tokenizer, stops=_stops(tokenizer, adapter, adapter_revision))
    except SourceError as error:
        raise SourceError(f"{error} {if_moved(config, adapter)}".strip()) from error
    facts |= {"name": public_name(name), "revision": commit}
    if config is not None:
        check_unmoved(adapter, name)
        model = with_adapter(model, adapter, adapter_revision, name)
    facts["fingerprint"] = _fingerprint(model, tokenizer, facts, [name, adapter])
    return model.eval(), tokenizer, facts


def best_device() -> str:
    """`"cuda"` where there is a GPU, else `"cpu"`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _fingerprint(model, tokenizer, facts: dict, places: list[str | None]) -> str:
    """16 hex digits of the weights (a folder's bytes, or the commit), the template, the type and the stop tokens."""
    weights = [base_model.digest(place) if place and Path(place).exists() else place for place in places]
    ends = model.generation_config.eos_token_id
    told = [weights, facts["revision"], facts["adapter_revision"], tokenizer.chat_template, str(model.dtype), ends]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode("ascii")).hexdigest()[:16]


def check_unmoved(adapter: str, base: str) -> None:
    """Whether a base in a folder still has the weights that the adapter was trained on, where the run noted them."""
    note = Path(adapter) / run_facts.FILE
    if Path(base).is_dir() and note.is_file():
        recorded = json.loads(note.read_text(encoding="utf-8")).get("base") or {}
        if recorded.get("local"):
            base_model.check_unmoved(base, recorded)


def public_name(name: str) -> str:
    """A Hub id, or the last part of a folder's path: a result is published, the rest of the path is nobody's."""
    return local_paths.local_name(name) if Path(name).exists() else name


def is_adapter(name: str, revision: str | None) -> bool:
    """Whether a folder or repository holds an adapter."""
    if Path(name).exists():
        return (Path(name) / "adapter_config.json").is_file()
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        return find_adapter_config_file(name, revision=revision or "main") is not None
    except (OSError, ValueError):  # no such repository: loading it as a model says so, with its reasons
        return False


def adapter_config(adapter: str, revision: str | None) -> tuple[LoraConfig, str | None]:
    from peft import PeftConfig
    from transformers.utils.hub import resolve_revision

    commit = None
    if not Path(adapter).exists():
        commit = getattr(resolve_revision(adapter, revision), "resolved", None)
    elif not (Path(adapter) / "adapter_config.json").is_file():
        raise SourceError(f"adapter: {adapter} has no adapter_config.json. Give the folder that recipes/sft.py wrote.")
    try:
        config = PeftConfig.from_pretrained(adapter, revision=commit or revision)
    except (OSError, ValueError) as error:
        raise SourceError(f"adapter: {adapter!r} can't be read: {error}") from error
    return config, commit or revision


def base_of(config: LoraConfig, adapter: str, name: str | None, revision: str | None) -> tuple[str, str | None]:
    """The base to load for an adapter, and its revision.

    Raises:
        ConfigError: If another base, or another revision of it, was asked for than the adapter was trained on.
    """
    own, pinned = config.base_model_name_or_path, config.revision
    if name is None and not own:
        raise ConfigError(f"adapter: {adapter!r} does not name its base. Give it as model.")
    if name is not None and own and name != own and Path(name).name != Path(own).name:
        raise ConfigError(
            f"adapter: {adapter!r} was trained on {own!r}, and model is {name!r}. An adapter says nonsense on another "
            "base: leave model out, or give that base (a copy in a folder of the same name is fine)."
        )
    if revision and pinned and revision != pinned:
        raise ConfigError(
            f"adapter: {adapter!r} was trained on revision {pinned} of {own!r}, and revision is {revision}. Leave "
            "revision out: the adapter's own is taken."
        )
    return name or own, revision or pinned


def if_moved(config: LoraConfig | None, adapter: str | None) -> str:
    """What to do where the base of an adapter is no longer where the adapter says."""
    if config is None:
        return ""
    at = f" at revision {config.revision}" if config.revision else ""
    return (
        f"The adapter {adapter!r} was trained on {config.base_model_name_or_path!r}{at}. If that has moved, give its "
        "new place as model; if the revision is gone, the adapter can't be used as it was trained."
    )


def _has_tokenizer(adapter: str, revision: str | None) -> bool:
    from transformers.utils import cached_file

    found = cached_file(
        adapter,
        "tokenizer_config.json",
        revision=revision or "main",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found is not None


def _stops(tokenizer: PreTrainedTokenizerBase, adapter: str | None, revision: str | None) -> list[int]:
    """Tokens that end a turn: what training wrote beside the adapter, and what the template ends an answer with."""
    from transformers import GenerationConfig

    found = []
    if adapter is not None:
        try:
            ends = GenerationConfig.from_pretrained(adapter, revision=revision or "main").eos_token_id
        except OSError:  # made by another tool, which wrote none
            ends = None
        found += [ends] if isinstance(ends, int) else ends or []
    template = tokenizer.chat_template
    if isinstance(template, str):
        try:
            found += templates.stops(template, tokenizer)
        except TemplateError:
            return found  # not fit for training; the model's own generation config has to know
    return found


def with_adapter(model: PreTrainedModel, adapter: str, revision: str | None, base: str) -> PreTrainedModel:
    from peft import PeftModel

    try:
        with adapters.old_names_allowed():
            return PeftModel.from_pretrained(model, adapter, revision=revision)
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        said = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"adapter: {adapter!r} does not fit {base!r}, so its base has changed since it was trained: {said}"
        ) from error
