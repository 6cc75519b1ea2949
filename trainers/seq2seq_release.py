"""From a finished encoder-decoder to something others can load: its facts, and the merged model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from . import adapters, merging, release, run_facts, seq2seq_models
from .evaluation import task_metrics
from .models import torch_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .seq2seq import Seq2SeqInstructTrainer

logger = logging.getLogger(__name__)
SETTINGS = ("max_source_length", "max_target_length", "special_tokens", "unknown_answers")


def save(trainer: Seq2SeqInstructTrainer, directory: str | Path) -> None:
    """Saves a trained model or adapter, with how its answers are written; called on every process."""
    trainer.write_as(trainer.writes)
    release.save(trainer, directory)


def facts(args, trainer: Seq2SeqInstructTrainer, *, scores: dict, **known) -> dict:
    """What is to be known about a run: [`run_facts.facts`] with the last evaluation's metrics.

    Args:
        args (`Seq2SeqArguments`): The recipe's arguments.
        trainer (`Seq2SeqInstructTrainer`): After training.
        scores (`dict`): From the trainer's `evaluate`.
        **known: As for [`run_facts.facts`].
    """
    train, test = trainer.train_dataset, trainer.eval_dataset
    counts = {"rows": len(train), "held_out": len(test) if test is not None else 0}
    found = run_facts.facts(args, trainer, counts=counts, **known)
    found["settings"] |= {name: getattr(args, name) for name in SETTINGS}
    found["settings"] |= {"group_by_length": True} if trainer.lengths is not None else {}
    told = {key.removeprefix("eval_"): value for key, value in scores.items()}
    told = {key: value for key, value in told.items() if key.split("/")[0] in task_metrics.FIGURES}
    return found | {"kind": "seq2seq", "scores": told, "max_new_tokens": args.max_target_length or 256}


def merge_adapter(
    adapter_dir: str | Path,
    output_dir: str | Path,
    base: str | None = None,
    dtype: str = "auto",
    tolerance: float | None = None,
    revision: str | None = None,
) -> float:
    """Writes base + adapter as one model, after measuring that it says the same, also when it is loaded again.

    The base is loaded in the type it is stored in, also where training quantised it. It is read again at the end since
    T5's configuration and weights must agree on a head of its own; see [`seq2seq_models.load_model`].

    Args:
        adapter_dir (`str` or `Path`): A saved adapter with its tokenizer.
        output_dir (`str` or `Path`): Where safetensors, tokenizer and generation config go.
        base, dtype, tolerance, revision: As for [`merging.merge_adapter`].

    Returns:
        `float`: The largest difference of two logits, as a share of the largest.

    Raises:
        SourceError: If there is no adapter or no base.
        BuildError: If the difference is larger than the tolerance; what was written must not be used.
    """
    from peft import PeftModel
    from transformers import AutoTokenizer, GenerationConfig

    adapter_dir, output_dir = Path(adapter_dir), Path(output_dir)
    _, base, revision = merging.read_adapter(adapter_dir, base, revision)
    try:
        model = seq2seq_models.from_pretrained(base, revision=revision, dtype=torch_dtype(dtype), use_safetensors=True)
    except OSError as error:
        raise merging.unreadable(base, adapter_dir, error) from error
    tokenizer = AutoTokenizer.from_pretrained(adapter_dir)
    with adapters.old_names_allowed():
        model = PeftModel.from_pretrained(model, str(adapter_dir))
    before = _logits(model, tokenizer)
    merged = model.merge_and_unload(safe_merge=True)
    merged.generation_config = GenerationConfig.from_pretrained(adapter_dir)
    merged.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    kind = str(merged.dtype).removeprefix("torch.")
    after = _logits(seq2seq_models.from_pretrained(str(output_dir), dtype=torch_dtype("auto")), tokenizer)
    difference = merging.largest_difference(before, after)
    merging.check_difference(difference, kind, tolerance, base, f"the logits of {output_dir}", "don't use it")
    logger.info("merged into %s; largest difference %.2g of the largest logit (%s)", output_dir, difference, kind)
    return difference


def _logits(model: PreTrainedModel, tokenizer) -> list:
    import torch

    model.eval()
    found = []
    for text in merging.PROBES:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            found.append(model(input_ids=ids, labels=ids).logits.float())
    return found
