"""From a finished encoder-decoder to something others can load: the merged model and the card."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from instruct_builders.errors import BuildError, SourceError

from . import release, seq2seq_models
from .evaluation import task_metrics
from .models import torch_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .seq2seq import Seq2SeqInstructTrainer

logger = logging.getLogger(__name__)
CARD = Path(__file__).parent / "seq2seq_card.md.jinja"
SETTINGS = ("max_source_length", "max_target_length", "special_tokens", "unknown_answers")


def save(trainer: Seq2SeqInstructTrainer, directory: str | Path) -> None:
    """Saves a trained model or adapter, with how its answers are written; called on every process."""
    trainer.write_as(trainer.writes)
    release.save(trainer, directory)


def facts(args, trainer, base_revision: str | None, data: dict, preflight: str, loss: dict, scores: dict) -> dict:
    """What the card tells about a run: [`release.facts`] with the last evaluation's metrics.

    Args:
        scores (`dict`): From the trainer's `evaluate`.
    """
    found = release.facts(args, trainer.args, base_revision, data, preflight, loss)
    found["settings"] |= {name: getattr(args, name) for name in SETTINGS}
    found["settings"] |= {"group_by_length": True} if trainer.lengths is not None else {}
    told = {key.removeprefix("eval_"): value for key, value in scores.items()}
    told = {key: value for key, value in told.items() if key.split("/")[0] in task_metrics.FIGURES}
    return found | {"scores": told, "max_new_tokens": args.max_target_length or 256}


def merge_adapter(adapter_dir: str | Path, output_dir: str | Path, tolerance: float | None = None) -> float:
    """Writes base + adapter as one model, after measuring that it says the same, also when it is loaded again.

    The base is loaded in the type it is stored in, also where training quantised it. It is read again at the end since
    T5's configuration and weights must agree on a head of its own; see [`seq2seq_models.load_model`].

    Args:
        adapter_dir (`str` or `Path`): A saved adapter with its tokenizer.
        output_dir (`str` or `Path`): Where safetensors, tokenizer and generation config go.
        tolerance (`float`, *optional*): As for [`release.merge_adapter`].

    Returns:
        `float`: The largest difference of two logits, as a share of the largest.

    Raises:
        SourceError: If there is no adapter or no base.
        BuildError: If the difference is larger than the tolerance; what was written must not be used.
    """
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

    adapter_dir, output_dir = Path(adapter_dir), Path(output_dir)
    if not (adapter_dir / "adapter_config.json").is_file():
        raise SourceError(f"{adapter_dir} has no adapter_config.json. Give the folder that recipes/flan_t5.py wrote.")
    config = PeftConfig.from_pretrained(str(adapter_dir))
    base = config.base_model_name_or_path
    try:
        model = AutoModelForSeq2SeqLM.from_pretrained(
            base, revision=config.revision or "main", dtype=torch_dtype("auto"), use_safetensors=True
        )
    except OSError as error:
        raise SourceError(f"can't read the base model {base!r} of {adapter_dir}: {error}") from error
    seq2seq_models.keep_head(model)
    tokenizer = AutoTokenizer.from_pretrained(adapter_dir)
    model = PeftModel.from_pretrained(model, str(adapter_dir))
    before = _logits(model, tokenizer)
    merged = model.merge_and_unload(safe_merge=True)
    merged.generation_config = GenerationConfig.from_pretrained(adapter_dir)
    merged.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    kind = str(merged.dtype).removeprefix("torch.")
    after = _logits(AutoModelForSeq2SeqLM.from_pretrained(output_dir, dtype=torch_dtype("auto")), tokenizer)
    difference = release.largest_difference(before, after)
    tolerance = release.TOLERANCE[kind] if tolerance is None else tolerance
    if not difference <= tolerance:  # also true for NaN
        raise BuildError(
            f"the logits of {output_dir} differ from base + adapter by {difference:.2g} of the largest logit, more "
            f"than {tolerance:.2g} in {kind}; don't use it. Merge in float32, or check the base {base!r}."
        )
    logger.info("merged into %s; largest difference %.2g of the largest logit (%s)", output_dir, difference, kind)
    return difference


def _logits(model: PreTrainedModel, tokenizer) -> list:
    import torch

    model.eval()
    found = []
    for text in release.PROBES:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            found.append(model(input_ids=ids, labels=ids).logits.float())
    return found


def write_model_card(directory: str | Path, facts: dict, adapter: bool, repo_id: str | None = None) -> Path:
    """Writes `README.md`: what the model was made of, how, and how to run it. No path of this machine gets into it.

    Args:
        directory (`str` or `Path`): The model's directory.
        facts (`dict`): From [`release.facts`], with `scores`: the metrics of the last evaluation.
        adapter (`bool`): Whether the directory holds an adapter, not whole weights.
        repo_id (`str`, *optional*): Where it will be on the Hub, if anywhere.
    """
    front = {"library_name": "peft" if adapter else "transformers"}
    tags = ["sft", "text2text-generation", "instruct-builders"]
    return release.render_card(CARD, directory, facts, adapter, repo_id, front, tags)
