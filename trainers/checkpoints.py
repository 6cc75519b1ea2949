"""Checkpoints that are whole or not used at all, and runs that are resumed as they were begun."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate.utils import broadcast_object_list

from instruct_builders.errors import ConfigError, SourceError

if TYPE_CHECKING:
    import datasets
    from transformers import Trainer

logger = logging.getLogger(__name__)
MANIFEST, RUN = "COMPLETE.json", "run.json"
STOPPED = 3  # exit code of a run that SIGTERM ended after a checkpoint: start it again to go on
BROKEN = "broken"  # a folder of its own: the trainer's rotation counts every `checkpoint-*` and would delete good ones
SETTINGS = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "world_size", "seed", "data_seed"),
    *("num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay"),
    *("optim", "max_grad_norm", "neftune_noise_alpha", "loss_type", "packing", "bf16", "fp16"),
    "train_sampling_strategy",
)
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers")


def write_manifest(checkpoint: str | Path, step: int) -> None:
    """Declares a checkpoint whole: its files are on the disk, and their sizes and SHA-256 are in `COMPLETE.json`.

    The manifest is the last file of a checkpoint, under its name only when its bytes are on the disk too.

    Args:
        checkpoint (`str` or `Path`): A directory that is written in full. All its files must be seen from here.
        step (`int`): The optimizer step it was written after.
    """
    checkpoint = Path(checkpoint)
    names = _names(checkpoint)
    with ThreadPoolExecutor() as pool:  # reading and hashing let go of the interpreter's lock
        files = dict(zip(names, pool.map(lambda name: _digest(checkpoint / name, sync=True), names), strict=True))
    _sync(checkpoint)
    _write(checkpoint / MANIFEST, {"step": step, "files": files})


def problem(checkpoint: str | Path, sizes_only: bool = False) -> str | None:
    """The first thing that is wrong with a checkpoint, in words; `None` for one that can be resumed from."""
    checkpoint = Path(checkpoint)
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"no {MANIFEST}: the run died while it was written, or another tool wrote it"
    except ValueError:
        return f"{MANIFEST} can't be read"
    files = manifest["files"]
    if not any("optim" in name for name in files) or "trainer_state.json" not in files:
        return "it has no optimizer or no trainer state, so training can't go on from it as it was"
    for name, (size, _) in files.items():  # sizes first: they cost nothing
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if (actual := (checkpoint / name).stat().st_size) != size:
            return f"{name} has {actual:,} bytes, not {size:,}"
    if sizes_only:
        return None
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda name: _digest(checkpoint / name)[1], files)
        return next((f"{n} has other bytes" for n, sha in zip(files, found, strict=True) if sha != files[n][1]), None)


def latest_verified(output_dir: str | Path) -> Path | None:
    """The newest checkpoint that verifies. Those that don't go to `broken/checkpoint-N.broken`, and are logged.

    Of older ones only names and sizes are looked at: a run that dies while it deletes one leaves a half behind, which
    the trainer's rotation would take for the newest (it goes by time) and delete whole ones instead.

    Args:
        output_dir (`str` or `Path`): Where a run keeps its checkpoints.

    Returns:
        `Path`, *optional*: `None` where no checkpoint can be used.
    """
    newest, aside = None, 0
    for checkpoint in reversed(found(output_dir)):
        wrong = problem(checkpoint, sizes_only=newest is not None)
        if wrong is None:
            newest = newest or checkpoint
            continue
        place = checkpoint.parent / BROKEN / f"{checkpoint.name}.broken"
        place.parent.mkdir(exist_ok=True)
        tries = sum(name.startswith(place.name) for name in os.listdir(place.parent))
        place = place.with_name(f"{place.name}.{tries + 1}" if tries else place.name)
        checkpoint.rename(place)
        aside += 1
        logger.warning("%s can't be used (%s); moved to %s", checkpoint, wrong, place)
    if aside:
        outcome = f"{newest} verifies" if newest else "none verifies, so training starts from the beginning"
        logger.warning("%d checkpoints set aside in %s; %s", aside, output_dir, outcome)
    return newest


def found(output_dir: str | Path) -> list[Path]:
    """The directories `checkpoint-N` of a run, oldest first."""
    named = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in Path(output_dir).glob("checkpoint-*")]
    return [path for _, path in sorted((int(match[1]), path) for match, path in named if match)]


def _asked(resume: str | bool | None) -> str | bool | None:
    return {"true": True, "false": False}.get(str(resume).lower(), resume)  # TRL's argument is text


def refuse_earlier(output_dir: str | Path, resume: str | bool | None) -> None:
    """Raises a `ConfigError` where a run that is not resumed would write among the checkpoints of another."""
    if not _asked(resume) and (there := found(output_dir)):
        raise ConfigError(
            f"output_dir: {output_dir} holds {there[-1].name} of an earlier run. Set resume_from_checkpoint: true to "
            "go on from it, or choose another output_dir."
        )


def begin(trainer: Trainer, resume: str | bool | None, allow_changed: bool = False) -> str | None:
    """Where training starts from; writes `run.json`. Called on every process, decided on the first.

    Args:
        trainer (`Trainer`): Ready to train.
        resume (`str` or `bool`, *optional*):
            A checkpoint's directory, `True` or `"true"` for the newest that verifies (none: from the beginning).
        allow_changed (`bool`, *optional*, defaults to `False`): Log what differs from the run's start, and go on.

    Returns:
        `str`, *optional*: The checkpoint, or `None` for the beginning.

    Raises:
        ConfigError: If something differs (each difference is named), if the output directory holds another run's
            checkpoints, or with `save_total_limit=1`.
        SourceError: If the named checkpoint does not verify.
    """
    resume = _asked(resume)
    answer = [None, None]
    if trainer.is_world_process_zero():
        try:
            answer[0] = _begin(trainer, resume, allow_changed)
        except (ConfigError, SourceError) as error:  # the other processes wait for an answer, whatever it is
            answer[1] = error
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def _begin(trainer: Trainer, resume: str | bool | None, allow_changed: bool) -> str | None:
    args, here = trainer.args, Path(trainer.args.output_dir)
    if args.save_strategy != "no" and args.save_total_limit == 1:
        raise ConfigError(
            "save_total_limit: 1 deletes the last good checkpoint before the next is safe. Use 2 or more."
        )
    refuse_earlier(here, resume)
    now = facts(trainer)
    checkpoint = None
    if isinstance(resume, bool) and resume:
        checkpoint = latest_verified(here)
    elif resume:
        checkpoint = Path(resume)
        if wrong := problem(checkpoint):
            raise SourceError(f"resume_from_checkpoint: {checkpoint}: {wrong}. Name another one, or set it to true.")
    if checkpoint is not None:
        record = checkpoint / RUN
        then = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        changed = inexact(trainer) + differences(then, now)
        if changed and not allow_changed:
            raise ConfigError(
                f"{checkpoint} was made by a run that differs from this one; the result would be neither's:\n  "
                + "\n  ".join(changed)
                + "\nSet these back, choose another output_dir, or set allow_changed: true."
            )
        for change in changed:
            logger.warning("resumed although changed: %s", change)
        logger.info("training goes on from %s", checkpoint)
    here.mkdir(parents=True, exist_ok=True)
    _write(here / RUN, now)
    return None if checkpoint is None else str(checkpoint)


def inexact(trainer: Trainer) -> list[str]:
    """Settings with which a resumed run is not the run that was interrupted (each measured, transformers 5.23)."""
    args = trainer.args
    reasons = {
        "group_by_length": "the sampler's order differs from the second epoch on",
        "ignore_data_skip": "rows that were trained on come again",
        "save_only_model": "the next resume would have no optimizer",
    }
    on = {name: getattr(args, name, False) for name in reasons}
    # A trainer with `lengths` of its own groups by them with a seeded sampler (`trainers.seq2seq`).
    on["group_by_length"] = args.train_sampling_strategy == "group_by_length" and not hasattr(trainer, "lengths")
    return [f"{name}: {reason}" for name, reason in reasons.items() if on[name]]


def differences(then: dict, now: dict) -> list[str]:
    """What two `run.json` don't share: `"seed: was 1, now 2"`."""
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    return [f"{key}: was {then.get(key, 'not recorded')}, now {now.get(key, 'not recorded')}" for key in keys]


def facts(trainer: Trainer) -> dict:
    """Everything that a resumed run must share with its beginning, as it stands in `run.json`."""
    tokenizer, settings = trainer.processing_class, {}
    for name in SETTINGS:
        value = getattr(trainer.args, name, None)
        settings[name] = getattr(value, "value", value)  # an enum by its text
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    text = json.dumps({key: written[key] for key in written if key not in ("truncation", "padding")})  # set by calls
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[f"version of {package}"] = importlib.metadata.version(package)
    return {
        "dataset": content(trainer.train_dataset),
        "rows": len(trainer.train_dataset),
        "chat_template": hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest(),
        "tokenizer": hashlib.sha256(text.encode()).hexdigest(),
        "frozen_weights": _frozen(trainer.model),
        **settings,
        **versions,
    }


def content(rows: datasets.Dataset) -> str:
    """SHA-256 of the rows' tokens and labels in their order; where they are stored does not matter."""
    digest, rows = hashlib.sha256(), rows.with_format("arrow")
    for table in rows.iter(batch_size=10_000):
        for name in sorted({"input_ids", "labels", "seq_lengths"} & set(table.column_names)):
            column = pa.concat_arrays(table[name].chunks)
            for part in (pc.list_value_length(column), column.flatten()):
                digest.update(part.cast(pa.int64()).to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()


def _frozen(model: torch.nn.Module) -> str:
    """A digest of 64 values of each weight that is not trained: an adapter must come back to the same base."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            some = weight.detach().reshape(-1)[:64].cpu()
            digest.update(f"{name} {tuple(weight.shape)}".encode() + some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _names(checkpoint: Path) -> list[str]:
    names = (path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.startswith(MANIFEST))


def _digest(path: Path, sync: bool = False) -> tuple[int, str]:
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, value: dict) -> None:
    draft = path.with_name(f"{path.name}.draft")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Makes names durable; a rename is otherwise only in memory."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
