"""A checkpoint in shards, as FSDP and ZeRO write them, as one model that anybody can load."""

from __future__ import annotations

import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from instruct_builders.errors import BuildError, ConfigError, SourceError

FSDP, ZERO = "pytorch_model_fsdp_0", "zero_to_fp32.py"
WHOLE = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
# What belongs to a model beside its weights; a sharded checkpoint lacks some of it.
BESIDE = ("*.json", "*.jinja", "*.model", "*.txt")
NOT_BESIDE = ("trainer_state.json", "run.json", "COMPLETE.json", "model.safetensors.index.json")


def kind(directory: str | Path) -> str | None:
    """`"fsdp"`, `"zero"`, or `None` for a folder whose weights are whole already, or none at all."""
    folder = Path(directory)
    if any((folder / name).is_file() for name in WHOLE):
        return None
    if (folder / FSDP / ".metadata").is_file():
        return "fsdp"
    return "zero" if (folder / "latest").is_file() and (folder / ZERO).is_file() else None


def consolidate(checkpoint_dir: str | Path, output_dir: str | Path, like: str | Path | None = None) -> Path:
    """Writes the weights of a sharded checkpoint as safetensors, with what else a model needs.

    Args:
        checkpoint_dir (`str` or `Path`): `checkpoint-N` of a run under FSDP with `SHARDED_STATE_DICT`, or ZeRO 2 or 3.
        output_dir (`str` or `Path`): Where it goes; must not be there yet.
        like (`str` or `Path`, *optional*):
            Where the configuration, tokenizer, generation config and, of an adapter, adapter_config.json are taken
            from, where the checkpoint lacks them: the run's `final`, or the base.

    Returns:
        `Path`: `output_dir`.

    Raises:
        SourceError: If there is nothing in shards, or no configuration to go with it.
        ConfigError: If DeepSpeed is needed and not installed.
        BuildError: If `output_dir` is there already.
    """
    checkpoint, output = Path(checkpoint_dir), Path(output_dir)
    sharded = kind(checkpoint)
    if sharded is None:
        raise SourceError(
            f"{checkpoint} holds no weights in shards: neither {FSDP}/ (FSDP) nor latest and {ZERO} (DeepSpeed). "
            "Give a checkpoint-N folder of such a run; what has model.safetensors is whole already."
        )
    if output.exists():
        raise BuildError(f"{output} is there already: remove it, or give another folder.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as work:
        made = Path(work, "model")
        made.mkdir()
        state = _fsdp(checkpoint / FSDP, Path(work, "whole")) if sharded == "fsdp" else _zero(checkpoint)
        for folder in [*([Path(like)] if like else []), checkpoint]:
            for path in sorted({path for pattern in BESIDE for path in folder.glob(pattern) if path.is_file()}):
                if path.name not in NOT_BESIDE:
                    shutil.copyfile(path, made / path.name)
        _write(state, made)
        made.rename(output)
    return output


def _fsdp(shards: Path, whole: Path) -> dict:
    """Names and tensors of a sharded state dict, through accelerate's own merge."""
    from accelerate.utils import merge_fsdp_weights
    from safetensors.torch import load_file

    merge_fsdp_weights(str(shards), str(whole))
    return load_file(whole / "model.safetensors")


def _zero(checkpoint: Path) -> dict:
    """The same of a ZeRO checkpoint, in float32, as its master weights are."""
    if find_spec("deepspeed") is None:
        raise ConfigError(
            f"{checkpoint.name} is in shards of DeepSpeed's ZeRO, which only DeepSpeed can read. "
            "Run: pip install deepspeed"
        )
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    return get_fp32_state_dict_from_zero_checkpoint(str(checkpoint))


def _write(state: dict, output: Path) -> None:
    """Safetensors under the names that transformers, or PEFT, loads."""
    from safetensors.torch import save_file

    # PEFT's own names for what it saves: without the adapter's name, and a module that was trained whole as itself.
    lora = {
        name.replace(".modules_to_save.default", "").replace(".default", ""): tensor
        for name, tensor in state.items()
        if any(mark in name for mark in ("lora_", ".modules_to_save.", "trainable_tokens"))
    }
    needed = "adapter_config.json" if lora else "config.json"
    if not (output / needed).is_file():
        raise SourceError(
            f"the checkpoint has no {needed}: say with `like` where the run's `final` or the base model is."
        )
    if lora:
        save_file(_apart(lora), output / "adapter_model.safetensors", metadata={"format": "pt"})
        return
    # A tied head shares the embeddings' memory; transformers ties it again when it loads.
    save_file(_apart(state), output / "model.safetensors", metadata={"format": "pt"})


def _apart(state: dict) -> dict:
    """One name for each memory: safetensors refuses two."""
    seen, kept = set(), {}
    for name, tensor in state.items():
        place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape))
        if place not in seen:
            kept[name] = tensor.contiguous()
            seen.add(place)
    return kept
