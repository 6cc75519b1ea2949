"""A folder that is about to be published, loaded as its users will load it, and asked something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from instruct_builders.errors import BuildError, SourceError, TemplateError

from . import adapters, base_model, templates

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROMPTS = (
    "Give three tips for staying healthy.",
    "Explain in two sentences why the sky is blue.",
    "Write a short, polite email that asks to move a meeting from Monday to Tuesday.",
)


def settle_stops(directory: Path, kind: str) -> str | None:
    """Makes the generation config stop on what ends a turn; what it stopped on before stays.

    Args:
        directory (`Path`): With tokenizer and, where there is one, generation_config.json.
        kind (`str`): "causal" or "seq2seq".

    Returns:
        `str` or `None`: A line on what was changed, where something was.

    Raises:
        BuildError: If the tokenizer lacks the chat template, or a token that ends an answer.
    """
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(directory)
    if kind == "causal" and not tokenizer.chat_template:
        raise BuildError(f"{directory.name}: the tokenizer has no chat template. Train again, or put it back.")
    if tokenizer.eos_token_id is None:
        raise BuildError(f"{directory.name}: the tokenizer has no EOS token, so no answer would ever end.")
    needed = [tokenizer.eos_token_id]
    if kind == "causal" and isinstance(tokenizer.chat_template, str):
        try:
            needed = templates.stops(tokenizer.chat_template, tokenizer)
        except TemplateError:  # a model's own template, trained with in TRL's version: its EOS was checked then
            needed = [tokenizer.eos_token_id]
    known = (directory / "generation_config.json").is_file()
    config = GenerationConfig.from_pretrained(directory) if known else GenerationConfig()
    before = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    missing = [token for token in needed if token not in before]
    if not missing:
        return None
    found = [*missing, *(token for token in before if token is not None)]
    config.eos_token_id = found if len(found) > 1 else found[0]
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    config.save_pretrained(directory)
    return f"generation now stops on {', '.join(map(repr, tokenizer.convert_ids_to_tokens(missing)))} too"


def answers(directory: Path, kind: str, adapter: bool, max_new_tokens: int = 64) -> list[dict]:
    """What the model in a folder answers to `PROMPTS`, greedily.

    Returns:
        `list[dict]`: `prompt`, `answer` (with its special tokens) and `expected`, which is `None`.

    Raises:
        SourceError: If it can't be loaded.
    """
    import torch
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = _load(directory, kind, adapter)
    stops = GenerationConfig.from_pretrained(directory).eos_token_id
    found = []
    for prompt in PROMPTS:
        if kind == "seq2seq":
            inputs = tokenizer(prompt, return_tensors="pt")
        else:
            inputs = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            )
        with torch.no_grad():
            out = model.generate(
                **inputs.to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=stops,
                pad_token_id=tokenizer.pad_token_id,
                # a model's own sampling settings would be complained about, and are not used
                **dict.fromkeys(("temperature", "top_p", "top_k"), None),
            )
        # A decoder of its own starts with a token that says nothing; the other repeats the prompt.
        written = out[0, 1:] if kind == "seq2seq" else out[0, inputs["input_ids"].shape[1] :]
        found.append({"prompt": prompt, "answer": tokenizer.decode(written), "expected": None})
    return found


def _load(directory: Path, kind: str, adapter: bool) -> PreTrainedModel:
    import torch
    from peft import AutoPeftModelForCausalLM, AutoPeftModelForSeq2SeqLM
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    of_kind = {
        "causal": (AutoModelForCausalLM, AutoPeftModelForCausalLM),
        "seq2seq": (AutoModelForSeq2SeqLM, AutoPeftModelForSeq2SeqLM),
    }
    try:
        with adapters.old_names_allowed():
            model = of_kind[kind][adapter].from_pretrained(str(directory), dtype="auto")
    except (OSError, ValueError) as error:
        if adapter and "gated repo" in str(error):
            config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
            raise SourceError(base_model.gated(config["base_model_name_or_path"])) from error
        what = "the adapter" if adapter else "the model"
        raise SourceError(f"{what} that was made for the release can't be loaded: {error}") from error
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
