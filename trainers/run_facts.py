"""What a run was, as `training.json` beside the model: what the card tells and what a release checks."""

from __future__ import annotations

import json
import logging
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from instruct_builders import assigned_secrets
from instruct_builders.errors import SourceError

from . import base_model, local_paths, templates
from .evaluation import results

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.getLogger(__name__)
FILE = "training.json"
FORMAT = 1  # of that file; a later version of this module may need to know
SETTINGS = (
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "world_size"),
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "optim", "max_length", "packing", "bf16"),
    *("dtype", "seed", "split_seed", "test_size", "neftune_noise_alpha", "train_on_prompts", "overlength"),
    *("use_peft", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "use_dora", "use_rslora"),
    *("load_in_4bit", "load_in_8bit"),
)
PACKAGES = ("instruct-builders", "trl", "transformers", "peft", "torch", "datasets", "accelerate", "bitsandbytes")
SPEEDS = ("tokens_per_second", "supervised_tokens_per_second", "mfu")
LISTED = 60  # sources of a mixture in the card; more are counted


def facts(
    args,
    trainer: Trainer,
    *,
    base_revision: str | None,
    data: dict,
    preflight: str,
    loss: dict,
    counts: dict | None = None,
    argv: Sequence[str] | None = None,
) -> dict:
    """What is to be known about a run. Nothing in it is a path of this machine.

    Args:
        args (`ModelArguments`): The recipe's arguments.
        trainer (`transformers.Trainer`): After training.
        base_revision (`str`, *optional*): Commit of the base.
        data (`dict`): From [`trainers.reading.describe`].
        preflight (`str`): What the check before training found, as text.
        loss (`dict`): Mean loss by what it was measured on.
        counts (`dict`, *optional*): Of the rows that were trained on: `rows`, `tokens`, `trained_tokens`, `held_out`.
        argv (`Sequence[str]`, *optional*, defaults to `sys.argv[1:]`): The command line, for the recipe's YAML.
    """
    training = trainer.args
    known = args.chat_template in templates.NAMES or not local_paths.is_local(args.chat_template)
    return {
        "format": FORMAT,
        "kind": "causal",
        "adapter": bool(args.use_peft),
        "base": base_model.describe(args.model_name_or_path, base_revision),
        "chat_template": args.chat_template if known else Path(args.chat_template).name,
        "data": {**data, "sources": sources(args.dataset_name, data["revision"], data["local"])},
        "counts": counts or {},
        "preflight": local_paths.within(preflight, (args.dataset_name, args.model_name_or_path)),
        "loss": loss,
        "settings": settings(args, training),
        "recipe": recipe(sys.argv[1:] if argv is None else argv),
        "versions": versions(),
        "hardware": hardware(training),
        "hours": hours(trainer),
        "speed": speed(trainer),
        "samples": last_samples(Path(training.output_dir, "samples.jsonl")),
    }


def settings(args, training) -> dict:
    """The settings that decide what comes out, without those that are off."""
    found = {}
    for name in SETTINGS:
        value = next((getattr(source, name) for source in (args, training) if hasattr(source, name)), None)
        value = getattr(value, "value", value)  # an enum by its text
        is_off = (
            value is None
            or value is False
            or (name == ("num_train_epochs" if training.max_steps > 0 else "max_steps"))
        )
        if not is_off and (args.use_peft or not name.startswith("lora")):
            found[name] = value
    return found


def recipe(argv: Sequence[str]) -> dict | None:
    """The YAML that a recipe was run with, and the flags beside it; `None` where it had flags alone.

    Local paths become their last part, and a value that looks like a credential is left out, with a warning.
    """
    words = [word for given in argv for word in (given.split("=", 1) if given.startswith("--config=") else [given])]
    if "--config" not in words or words.index("--config") + 1 == len(words):
        return None
    place = words.index("--config")
    path = Path(words[place + 1])
    text = path.read_text(encoding="utf-8")
    for found in assigned_secrets.of_recipe(text, path.name):
        logger.warning("%s: it is left out of the card; the environment is a better place for it", found)
    flags = local_paths.shortened(assigned_secrets.hidden_flags(words[:place] + words[place + 2 :]))
    return {"file": path.name, "yaml": local_paths.without(assigned_secrets.hidden(text)), "flags": flags}


def sources(name: str, revision: str | None, local: bool) -> list[dict]:
    """What a dataset was built from, from the build.json of recipes/build.py; empty where it has none.

    Returns:
        `list[dict]`: Of each source `name`, `revision`, `rows`, `share` (of the rows drawn, 0 to 1) and `license`.
    """
    import fsspec

    place = str(Path(name, "build.json")) if local else f"hf://datasets/{name}@{revision or 'main'}/build.json"
    if local and not Path(place).is_file():
        return []
    try:
        with fsspec.open(place, encoding="utf-8", mode="r") as file:
            build = json.load(file)
    except FileNotFoundError:
        return []
    files = [{**entry, "of": entry.get("mixture", "")} for entry in build["sources"]]
    if "mixture" not in build:
        total = sum(entry["rows_out"] for entry in files) or 1
        return [
            {**_named(entry["source"]), "rows": entry["rows_out"], "share": entry["rows_out"] / total}
            | {"license": entry["license"]}
            for entry in files
        ]
    drawn = [entry for entry in build["mixture"]["table"] if entry.get("drawn", entry["draws"])]
    total, found = sum(entry.get("drawn", entry["draws"]) for entry in drawn) or 1, []
    for entry in drawn:
        own = [_named(file["source"]) for file in files if file["of"] == entry["name"]]
        revisions = list(dict.fromkeys(f"{one['name']} {one['revision'] or ''}".strip() for one in own))
        rows = entry.get("drawn", entry["draws"])
        more = f" and {len(revisions) - 3} more" if len(revisions) > 3 else ""
        found.append(
            {"name": entry["name"], "revision": (", ".join(revisions[:3]) + more) or None}
            | {"rows": rows, "share": rows / total, "license": entry["license"]}
        )
    return found


def _named(source: str) -> dict:
    """`"org/data@<sha>"` or `"file.jsonl sha256:..."` -> name and revision."""
    name, mark, revision = source.rpartition("@" if "@" in source else " ")
    name = name if mark else source
    return {
        "name": local_paths.local_name(name) if local_paths.is_local(name) else name,
        "revision": revision if mark else None,
    }


def versions() -> dict[str, str]:
    """The installed versions of the packages that decide what comes out."""
    return {"python": platform.python_version(), **results.versions(PACKAGES)}


def hardware(training) -> dict:
    """`device` (its maker's name), `devices` (processes, one for each) and `memory_gib` of one GPU."""
    import torch

    if training.device.type != "cuda":
        info = Path("/proc/cpuinfo")
        lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
        return {"device": f"CPU, {model or platform.machine()}", "devices": training.world_size, "memory_gib": None}
    properties = torch.cuda.get_device_properties(training.device)
    memory = round(properties.total_memory / 2**30, 1)
    return {"device": properties.name, "devices": training.world_size, "memory_gib": memory}


def hours(trainer: Trainer) -> float | None:
    """Hours of `train()`, with its evaluations; of a resumed run those since it was resumed."""
    seconds = [entry["train_runtime"] for entry in trainer.state.log_history if "train_runtime" in entry]
    return round(seconds[-1] / 3600, 4) if seconds else None


def speed(trainer: Trainer) -> dict[str, float]:
    """The median of what was logged for each of `SPEEDS`, the peak of memory, and examples per second overall."""
    history, found = trainer.state.log_history, {}
    for name in SPEEDS:
        if seen := [entry[name] for entry in history if name in entry]:
            found[name] = round(statistics.median(seen), 4)
    if seen := [entry["peak_memory_gib"] for entry in history if "peak_memory_gib" in entry]:
        found["peak_memory_gib"] = max(seen)
    if seen := [entry["train_samples_per_second"] for entry in history if "train_samples_per_second" in entry]:
        found["examples_per_second"] = seen[-1]
    return found


def last_samples(path: Path, number: int = 4) -> list[dict]:
    """The answers of the last evaluation in `samples.jsonl`; empty where none were written."""
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        {key: row[key] for key in ("prompt", "answer", "expected")} for row in rows if row["step"] == rows[-1]["step"]
    ][:number]


def write(directory: str | Path, facts: dict) -> Path:
    """Writes `training.json`."""
    path = Path(directory) / FILE
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read(directory: str | Path) -> dict:
    """What [`write`] wrote.

    Raises:
        SourceError: If it is not there, or of another version.
    """
    path = Path(directory) / FILE
    if not path.is_file():
        raise SourceError(
            f"model_dir: {directory} has no {FILE}, so nothing is known of how it was trained. Give the folder "
            "`final` or `merged` that recipes/sft.py or recipes/flan_t5.py wrote; for a checkpoint in shards, the "
            "`final` of its run must be there."
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(f"{path} is not valid JSON: {error}. Train again, or put the file back.") from error
    if found.get("format") != FORMAT:
        raise SourceError(f"{path} has format {found.get('format')!r}; {FORMAT} is known to this version.")
    return found
