"""Base + adapter as one model that is proved to say the same."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from instruct_builders.errors import BuildError, SourceError

from . import adapters, base_model

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

logger = logging.getLogger(__name__)

# Largest allowed |merged - adapter| over the largest |logit|. Rounding alone gives about 1e-6 in float32 and 1e-2 in
# bfloat16, where the merged weight keeps 8 bits of what base and adapter held apart.
TOLERANCE = {"float32": 1e-4, "float16": 0.01, "bfloat16": 0.05}
PROBES = (
    "Name the capital of France.",
    "### Instruction:\nCount to five.\n\n### Response:",
    "USER: Hello! ASSISTANT:",
)


def read_adapter(adapter_dir: Path, base: str | None, revision: str | None) -> tuple[PeftConfig, str, str]:
    """An adapter's configuration, and the name and revision of the base to load it on.

    Raises:
        SourceError: If there is no adapter.
    """
    from peft import PeftConfig

    if not (adapter_dir / "adapter_config.json").is_file():
        raise SourceError(
            f"{adapter_dir} has no adapter_config.json. Give the directory that recipes/sft.py or recipes/flan_t5.py "
            "wrote with use_peft: true."
        )
    config = PeftConfig.from_pretrained(str(adapter_dir))
    same = base in (None, config.base_model_name_or_path)
    return config, base or config.base_model_name_or_path, revision or (config.revision if same else None) or "main"


def unreadable(base: str, adapter_dir: Path, error: OSError) -> SourceError:
    """What a base that can't be loaded is told as."""
    if "gated repo" in str(error):
        return SourceError(base_model.gated(base))
    return SourceError(f"can't read the base model {base!r} of {adapter_dir}: {error}")


def merge_adapter(
    adapter_dir: str | Path,
    output_dir: str | Path,
    base: str | None = None,
    dtype: str = "auto",
    tolerance: float | None = None,
    revision: str | None = None,
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
        revision (`str`, *optional*): Of the base on the Hub; by default the adapter's own.

    Returns:
        `float`: The difference that was measured.

    Raises:
        SourceError: If there is no adapter or no base.
        BuildError: If the difference is larger than the tolerance; nothing is written.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    from .models import agree_on_special_tokens, torch_dtype

    adapter_dir, output_dir = Path(adapter_dir), Path(output_dir)
    _, base, revision = read_adapter(adapter_dir, base, revision)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base, revision=revision, dtype=torch_dtype(dtype), use_safetensors=True
        )
    except OSError as error:
        raise unreadable(base, adapter_dir, error) from error
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
    check_difference(difference, kind, tolerance, base, "the merged model's logits", "nothing was written")
    known = (adapter_dir / "generation_config.json").is_file()  # where recipes/sft.py says what ends a turn
    stops = GenerationConfig.from_pretrained(adapter_dir).eos_token_id if known else None
    agree_on_special_tokens(model, tokenizer, [stops] if isinstance(stops, int) else stops or ())
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    logger.info("merged into %s; largest difference %.2g of the largest logit (%s)", output_dir, difference, kind)
    return difference


def check_difference(
    difference: float, kind: str, tolerance: float | None, base: str, what: str, outcome: str
) -> None:
    """Refuses a merge that changes what the model says by more than `tolerance`, or than rounding does."""
    tolerance = TOLERANCE[kind] if tolerance is None else tolerance
    if not difference <= tolerance:  # also true for NaN
        raise BuildError(
            f"{what} differ from base + adapter by {difference:.2g} of the largest logit, more than {tolerance:.2g} "
            f"in {kind}; {outcome}. Merge in float32, or check the base {base!r}."
        )


def largest_difference(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    """The largest |difference| of two lists of logits, as a share of the largest |logit|."""
    largest = max(float(logits.abs().max()) for logits in before)
    return max(float((x - y).abs().max()) for x, y in zip(before, after, strict=True)) / (largest or 1.0)
