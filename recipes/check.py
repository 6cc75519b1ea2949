"""What a training run would do, before it does it: no weights, no GPU, seconds.

    python recipes/check.py --config recipes/alpaca/sft_lora.yaml --page check.html

Takes the YAML and the flags of recipes/sft.py. Exit code 0: it can start. 1: something would go wrong; the lines that
begin with "error" say what and how to mend it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import arguments
import terminal

with terminal.extras_named():
    from sft_arguments import SftArguments
    from trl import SFTConfig

    from instruct_builders import report
    from instruct_builders.errors import ConfigError, InstructError
    from trainers import config, conversations, page, preflight


@dataclass(kw_only=True)
class CheckArguments(SftArguments):
    """The keys of recipes/sft.py, and what is to be told of such a run.

    Args:
        page (`str`, *optional*): Where the HTML page goes.
        json (`str`, *optional*): Where the whole report goes.
        examples (`int`, *optional*, defaults to 8): Rows shown token by token.
        world_size (`int`, *optional*, defaults to 1): Processes that will train.
        device_memory_gb (`float`, *optional*): Of one GPU, 2**30 bytes; by default of the one that is here.
    """

    page: str | None = None
    json: str | None = None
    examples: int = 8
    world_size: int = 1
    device_memory_gb: float | None = None


def read_arguments(argv: list[str] | None = None) -> tuple[CheckArguments, SFTConfig]:
    argv = list(sys.argv[1:] if argv is None else argv)
    elsewhere = not accelerator() and "use_cpu" not in arguments.given(argv)
    if elsewhere:
        argv.append("--use_cpu")  # without it, TRL refuses bf16 on a machine without GPU
    args, training = arguments.parse((CheckArguments, SFTConfig), argv)
    if elsewhere and training.bf16:  # no error: the check is often made elsewhere than the run
        print("no GPU here: on this machine the run needs --use_cpu")
    training.use_cpu = training.use_cpu and not elsewhere  # the run itself will have a GPU: memory is estimated for it
    return args, training


def accelerator() -> int | None:
    """Bytes of the GPU that is here."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error}. Give another path for the report.") from error
    print(f"wrote {path}")


def dataset_page(args: CheckArguments) -> Path | None:
    """The report of a built directory; `None` of other data, and of a build that has none."""
    path = Path(args.dataset_name) / report.NAME
    return path if path.is_file() else None


def link(found: Path, page: str) -> str:
    """The way from one page to another; quoted, so that no file's name is taken for an address."""
    return quote(Path(os.path.relpath(found.absolute(), Path(page).absolute().parent)).as_posix())


def main(argv: list[str] | None = None) -> int:
    try:
        args, training = read_arguments(argv)
        for path in filter(None, (args.page, args.json)):
            if not Path(path).absolute().parent.is_dir():  # before the work, not behind it
                raise ConfigError(f"{path} can't be written: its folder is not there. Make it, or give another path.")
        config.check(args, training)
        for line in conversations.settle_evaluation(args, training):
            print(line)
        device = int(args.device_memory_gb * 2**30) if args.device_memory_gb else accelerator()
        found = preflight.report(
            args, training, examples=args.examples, world_size=args.world_size, device_memory=device
        )
        print(found["short"])
        data_page = dataset_page(args)
        if data_page:
            print(f"what is in the data, and what was left out of it: {data_page}")
        if args.page:
            write(args.page, page.render(found, data_page and link(data_page, args.page)))
        if args.json:
            write(args.json, json.dumps(found, ensure_ascii=False, indent=1))
    except InstructError as error:  # what recipes/sft.py would stop with, or a report that can't be written
        print(f"error: {error}")
        return 1
    errors = sum(entry["severity"] == "error" for entry in found["problems"])
    print(f"errors: {errors}; mend them before you train" if errors else "this run can start")
    return int(errors > 0)


if __name__ == "__main__":
    arguments.run(main)
