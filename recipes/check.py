"""What a training run would do, before it does it: no weights, no GPU, seconds.

    python recipes/check.py --config recipes/alpaca/sft_lora.yaml --page check.html

Takes the YAML and the flags of recipes/sft.py. Exit code 0: it can start. 1: something would go wrong; the lines that
begin with "error" say what and how to mend it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import arguments
from sft import SftArguments
from trl import SFTConfig

from instruct_builders.errors import InstructError
from trainers import config, conversations, page, preflight


@dataclass(kw_only=True)
class CheckArguments(SftArguments):
    page: str | None = None  # where the HTML page goes
    json: str | None = None  # where the whole report goes
    examples: int = 8  # rows shown token by token
    world_size: int = 1  # processes that will train
    device_memory_gb: float | None = None  # of one GPU, 2**30 bytes; by default of the one that is here


def read_arguments(argv: list[str] | None = None) -> tuple[CheckArguments, SFTConfig]:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not accelerator() and not any(word.partition("=")[0] in ("--use_cpu", "--use-cpu") for word in argv):
        argv.append("--use_cpu")  # without it, TRL refuses bf16 on a machine without GPU
    return arguments.parse((CheckArguments, SFTConfig), argv)


def accelerator() -> int | None:
    """Bytes of the GPU that is here."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def main(argv: list[str] | None = None) -> int:
    try:
        args, training = read_arguments(argv)
        config.check(args, training)
        for line in conversations.settle_evaluation(args, training):
            print(line)
        device = int(args.device_memory_gb * 2**30) if args.device_memory_gb else accelerator()
        found = preflight.report(
            args, training, examples=args.examples, world_size=args.world_size, device_memory=device
        )
    except InstructError as error:  # what recipes/sft.py would stop with
        print(f"error: {type(error).__name__}: {error}")
        return 1
    print(found["short"])
    if args.page:
        Path(args.page).write_text(page.render(found), encoding="utf-8")
        print(f"wrote {args.page}")
    if args.json:
        Path(args.json).write_text(json.dumps(found, ensure_ascii=False, indent=1), encoding="utf-8")
        print(f"wrote {args.json}")
    errors = sum(entry["severity"] == "error" for entry in found["problems"])
    print(f"{errors} errors: mend them before you train" if errors else "this run can start")
    return int(errors > 0)


if __name__ == "__main__":
    arguments.run(main)
