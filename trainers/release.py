"""From a finished run to something others can load: the merged model and the card."""

from __future__ import annotations

import importlib.metadata
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import yaml

from instruct_builders import licenses
from instruct_builders.cards import fenced
from instruct_builders.errors import BuildError, SourceError

from . import adapters, templates

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

logger = logging.getLogger(__name__)

# Largest allowed |merged - adapter| over the largest |logit|. Rounding alone gives about 1e-6 in float32 and 1e-2 in
# bfloat16, where the merged weight keeps 8 bits of what base and adapter held apart.
TOLERANCE = {"float32": 1e-4, "float16": 0.01, "bfloat16": 0.05}
CARD = Path(__file__).parent / "model_card.md.jinja"
PROBES = (
    "Name the capital of France.",
    "### Instruction:\nCount to five.\n\n### Response:",
    "USER: Hello! ASSISTANT:",
)
SETTINGS = (
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "world_size"),
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "optim", "max_length", "packing", "bf16"),
    *("dtype", "seed", "split_seed", "test_size", "neftune_noise_alpha", "train_on_prompts", "overlength"),
    *("use_peft", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "use_dora", "use_rslora"),
    *("load_in_4bit", "load_in_8bit"),
)
PACKAGES = ("instruct-builders", "trl", "transformers", "peft", "torch", "datasets", "accelerate", "bitsandbytes")


def merge_adapter(
    adapter_dir: str | Path,
    output_dir: str | Path,
    base: str | None = None,
    dtype: str = "auto",
    tolerance: float | None = None,
) -> float:
    """Writes base + adapter as one model, after measuring that it says the same.

    The base is loaded in full precision, also where training quantised it: merging into 4-bit weights loses more
    (relative error 0.075 against 0.048 on a tiny model).

    Args:
        adapter_dir (`str` or `Path`): A saved adapter with its tokenizer.
        output_dir (`str` or `Path`): Where safetensors, tokenizer, chat template and generation config go.
        base (`str`, *optional*): The base model; by default the one named in `adapter_config.json`.
        dtype (`str`, *optional*, defaults to `"auto"`): Type of the merged weights; `"auto"` is what the base has.
        tolerance (`float`, *optional*):
            Largest allowed difference of two logits, as a share of the largest logit; by default from `TOLERANCE`.

    Returns:
        `float`: The difference that was measured.

    Raises:
        SourceError: If there is no adapter or no base.
        BuildError: If the difference is larger than the tolerance; nothing is written.
    """
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    from .models import agree_on_special_tokens, torch_dtype

    adapter_dir = Path(adapter_dir)
    if not (adapter_dir / "adapter_config.json").is_file():
        raise SourceError(f"{adapter_dir} has no adapter_config.json. Give the directory that recipes/sft.py wrote.")
    config = PeftConfig.from_pretrained(str(adapter_dir))
    base = base or config.base_model_name_or_path
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base, revision=config.revision or "main", dtype=torch_dtype(dtype), use_safetensors=True
        )
    except OSError as error:
        raise SourceError(f"can't read the base model {base!r} of {adapter_dir}: {error}") from error
    tokenizer = AutoTokenizer.from_pretrained(adapter_dir)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        # The adapter holds the rows of the added tokens; their initial values don't matter.
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with adapters.old_names_allowed():
        model = PeftModel.from_pretrained(model, str(adapter_dir)).eval()
    ids = [tokenizer(text, return_tensors="pt")["input_ids"] for text in PROBES]
    with torch.no_grad():
        before = [model(input_ids=row).logits.float() for row in ids]
        model = model.merge_and_unload(safe_merge=True)
        after = [model(input_ids=row).logits.float() for row in ids]
    difference = largest_difference(before, after)
    kind = str(model.dtype).removeprefix("torch.")
    tolerance = TOLERANCE[kind] if tolerance is None else tolerance
    if not difference <= tolerance:  # also true for NaN
        raise BuildError(
            f"the merged model's logits differ from base + adapter by {difference:.2g} of the largest logit, more "
            f"than {tolerance:.2g} in {kind}; nothing was written. Merge in float32, or check the base {base!r}."
        )
    output_dir = Path(output_dir)
    known = (adapter_dir / "generation_config.json").is_file()  # where recipes/sft.py says what ends a turn
    stops = GenerationConfig.from_pretrained(adapter_dir).eos_token_id if known else None
    agree_on_special_tokens(model, tokenizer, [stops] if isinstance(stops, int) else stops or ())
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    logger.info("merged into %s; largest difference %.2g of the largest logit (%s)", output_dir, difference, kind)
    return difference


def largest_difference(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    """The largest |difference| of two lists of logits, as a share of the largest |logit|."""
    largest = max(float(logits.abs().max()) for logits in before)
    return max(float((x - y).abs().max()) for x, y in zip(before, after, strict=True)) / (largest or 1.0)


def save(trainer: Trainer, directory: str | Path) -> None:
    """Saves a trained model or adapter so that it can be released: tokenizer and generation config, but no pickles.

    Called on every process: under FSDP and ZeRO-3 each holds a part of the weights.

    Args:
        trainer (`transformers.Trainer`): After `train()`.
        directory (`str` or `Path`): Made if needed.
    """
    trainer.save_model(str(directory))
    if trainer.is_world_process_zero():
        # PEFT saves none for an adapter, and the base's own may stop on another token than the template's.
        trainer.model.generation_config.save_pretrained(directory)
        (Path(directory) / "training_args.bin").unlink(missing_ok=True)  # a pickle that tells paths and settings


def facts(args, training, base_revision: str | None, data: dict, preflight: str, loss: dict) -> dict:
    """What the card tells about a run.

    Args:
        args (`SftArguments`): The recipe's arguments.
        training (`SFTConfig`): The trainer's arguments.
        base_revision (`str`, *optional*): Commit of the base.
        data (`dict`): From [`trainers.reading.describe`].
        preflight (`str`): From [`trainers.preflight.short`].
        loss (`dict`): Mean loss by what it was measured on.
    """
    settings = {}
    for name in SETTINGS:
        value = next((getattr(source, name) for source in (args, training) if hasattr(source, name)), None)
        value = getattr(value, "value", value)  # an enum by its text
        is_off = (
            value is None
            or value is False
            or (name == ("num_train_epochs" if training.max_steps > 0 else "max_steps"))
        )
        if not is_off and (args.use_peft or not name.startswith("lora")):
            settings[name] = value
    return {
        "base": args.model_name_or_path,
        "base_revision": base_revision,
        "chat_template": args.chat_template
        if args.chat_template in templates.NAMES
        else Path(args.chat_template).name,
        "data": [data],
        "preflight": fenced(preflight, "text", limit=10_000),
        "loss": loss,
        "settings": settings,
    }


def write_model_card(directory: str | Path, facts: dict, adapter: bool, repo_id: str | None = None) -> Path:
    """Writes `README.md`: what the model was made of, how, and how to run it. No path of this machine gets into it.

    Args:
        directory (`str` or `Path`): The model's directory.
        facts (`dict`): From [`facts`].
        adapter (`bool`): Whether the directory holds an adapter, not whole weights.
        repo_id (`str`, *optional*): Where it will be on the Hub, if anywhere.

    Returns:
        `Path`: The card.
    """
    front = {"library_name": "peft" if adapter else "transformers", "pipeline_tag": "text-generation"}
    tags = ["sft", "trl", "instruct-builders"]
    takes_context = facts["chat_template"].startswith("alpaca")
    return render_card(CARD, directory, facts, adapter, repo_id, front, tags, takes_context=takes_context)


def render_card(
    template: Path, directory: str | Path, facts: dict, adapter: bool, repo_id: str | None, front: dict, tags, **more
) -> Path:
    """Fills in a card's template, with the front matter that all cards share: base, datasets, license and tags."""
    on_hub = not Path(facts["base"]).exists()
    base = facts["base"] if on_hub else local_name(facts["base"])
    stated = {one for source in facts["data"] for one in as_list(source["license"])}
    if on_hub:
        front["base_model"] = base
    if ids := [source["name"] for source in facts["data"] if not source["local"]]:
        front["datasets"] = ids
    if barred := [one for one in stated if licenses.is_non_commercial(one)]:
        front["license"] = licenses.strictest(barred)  # weights made from such data are not for commercial use either
    front["tags"] = [*tags, *(["lora"] if adapter else [])]
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    text = environment.from_string(template.read_text(encoding="utf-8")).render(
        facts,
        name=repo_id or "path/to/this/folder",
        title=repo_id or f"{base}, fine-tuned on {', '.join(source['name'] for source in facts['data'])}",
        base=base,
        on_hub=on_hub,
        adapter=adapter,
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
        versions=versions(),
        as_list=as_list,
        **more,
    )
    card = Path(directory) / "README.md"
    card.write_text(text, encoding="utf-8")
    return card


def versions() -> dict[str, str]:
    """The installed versions of the packages that decide what comes out."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed took no part
    return found


def local_name(path: str | Path) -> str:
    """What a directory may be called in public: its own name, and its parent's where [`save`] or a merge made it."""
    path = Path(path).resolve()
    return f"{path.parent.name}/{path.name}" if path.name in ("final", "merged") else path.name


def as_list(value: str | list | None) -> list[str]:
    """`None`, one text or a list of texts -> a list."""
    return [] if not value else [value] if isinstance(value, str) else list(value)
