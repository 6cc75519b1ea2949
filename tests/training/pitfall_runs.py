"""Runs of recipes/sft.py and recipes/check.py on a dozen words, for the tests of pitfalls."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = "red green blue black white grey pink gold cyan lime teal plum".split()


def chat(*texts: str) -> dict:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]}


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def flags_of(model, data, output, flags: str) -> list[str]:
    base = f"--model_name_or_path {model} --dataset_name {data} --output_dir {output} --use_cpu --disable_tqdm"
    saves = "" if "--save_steps" in flags else "--save_strategy no"
    fixed = f"--bf16 false --activation_checkpointing false --logging_steps 100 {saves}"
    return f"{base} {fixed} {flags}".split()


def train(model, data, output, flags: str) -> Path:
    import sft

    sft.main(flags_of(model, data, output, flags))
    return Path(output)


def checked(model, data, folder: Path, flags: str) -> tuple[int, dict]:
    """Exit code and report of recipes/check.py."""
    import check

    told = folder / "report.json"
    code = check.main(flags_of(model, data, folder / "run", f"{flags} --json {told}"))
    return code, json.loads(told.read_text(encoding="utf-8"))
